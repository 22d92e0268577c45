//! What verifications and scrubs know of a dataset: told to whoever asks, and accepted by people on the spare.
//!
//! Only somebody on the spare can accept a loss: it lets retention go on, and so no message does it.

use understudy_protocol::message::{FindingState, Health, KnownFinding, ScrubState};
use understudy_protocol::transport::Outgoing;
use understudy_protocol::{DatasetName, Message, RelPath, limits};

use crate::access::existing;
use crate::dataset::Dataset;
use crate::error::ReceiverError;
use crate::findings::{self, Findings, Known, Part, State};
use crate::retention::verified;
use crate::scrub;
use crate::store::Store;

/// So many fit into a message however long their texts are.
const BATCH: usize = 100;

/// A loss that somebody has accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loss {
    /// Where it is.
    pub path: RelPath,
    /// What is wrong there, for people.
    pub what: String,
    /// When it was first found, by the receiver's clock, seconds since 1970.
    pub found_seconds: i64,
}

/// What came of accepting.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Accepted {
    /// Those that are accepted now.
    pub now: Vec<Loss>,
    /// Those that were before.
    pub before: usize,
    /// How many nobody can accept: the catalog is what retention goes by.
    pub refused: usize,
}

/// Accepts the findings of a dataset as lost: they keep retention from nothing any more, and the snapshots that have them never
/// count as healthy. What is found later is a finding as ever. Durable when it returns.
pub fn accept(store: &Store, name: &DatasetName) -> Result<Accepted, ReceiverError> {
    let dataset: Dataset = existing(store, name)?;
    let mut accepted = Accepted::default();
    findings::decide(&dataset, |known| {
        match (known.state, known.damage.part) {
            (State::Accepted, _) => accepted.before += 1,
            (_, Part::Catalog) => accepted.refused += 1,
            _ => {
                accepted.now.push(Loss {
                    path: known.damage.path.clone(),
                    what: known.damage.what.clone(),
                    found_seconds: known.found_seconds,
                });
                return Some(State::Accepted);
            }
        }
        Some(known.state)
    })?;
    Ok(accepted)
}

/// What keeps retention from going on, for people; `None` if nothing is wrong.
pub(crate) fn trouble(dataset: &Dataset) -> Result<Option<String>, ReceiverError> {
    let found = findings::read(&dataset.control)?;
    let mut open = found.list.iter().filter(|one| one.state != State::Accepted);
    let Some(first) = open.next() else {
        // The list may be lost, or of a former version.
        let counted = verified::read(&dataset.control)?.map_or(0, |last| last.findings);
        let text = || format!("the last verification had findings ({counted})");
        return Ok((counted > 0).then(text));
    };
    let (path, what) = (&first.damage.path, &first.damage.what);
    let others = match found.open() - 1 {
        0 => String::new(),
        more => format!(", and {more} more"),
    };
    Ok(Some(format!(
        "something is not as the main sent it: `{path}`: {what}{others}"
    )))
}

/// Tells what is known, if anything is.
pub(crate) fn tell(dataset: &Dataset, outgoing: &Outgoing) -> Result<(), ReceiverError> {
    let found = findings::read(&dataset.control)?;
    let scrub: Option<ScrubState> = scrub::told(dataset)?;
    let mut damaged = Vec::new();
    if let Some(catalog) = dataset.read_catalog()? {
        let snapshots = catalog.snapshots()?;
        let numbers: Vec<u64> = snapshots
            .iter()
            .map(|one| one.snapshot.position.number)
            .collect();
        damaged.extend(found.damaged_snapshots(&catalog, &numbers)?);
    }
    // The list may be lost, or have had no room.
    let counted = verified::read(&dataset.control)?.map_or(0, |last| last.findings);
    let open = found.open().max(counted);
    if found.list.is_empty() && scrub.is_none() && open == 0 {
        return Ok(());
    }
    let accepted = found.accepted().count() as u64;
    let findings = listed(&found);
    let mut findings = findings.chunks(BATCH);
    let mut damaged = damaged.chunks(limits::RECORDS);
    loop {
        let (findings, damaged) = (findings.next(), damaged.next());
        outgoing.send_message(&Message::Health(Health {
            findings: findings.unwrap_or_default().to_vec(),
            damaged: damaged.unwrap_or_default().to_vec(),
            scrub,
            open,
            accepted,
        }))?;
        if findings.is_none() && damaged.is_none() {
            return Ok(());
        }
    }
}

/// All that the list has, for restores leave out what is lost; what somebody knows of comes after what nobody does.
fn listed(found: &Findings) -> Vec<KnownFinding> {
    let mut list: Vec<&Known> = found.list.iter().collect();
    list.sort_by_key(|known| known.state == State::Accepted);
    list.into_iter().map(told).collect()
}

fn told(known: &Known) -> KnownFinding {
    let mut what = known.damage.what.clone();
    let mut end = what.len().min(limits::TEXT_BYTES);
    while !what.is_char_boundary(end) {
        end -= 1;
    }
    what.truncate(end);
    KnownFinding {
        path: known.damage.path.clone(),
        what,
        content: known.damage.content.map(|(_, hash)| hash),
        state: match known.state {
            State::Open => FindingState::Open,
            State::Wanted | State::Sought(_) => FindingState::Wanted,
            State::Lost => FindingState::Lost,
            State::Accepted => FindingState::Accepted,
        },
        found_seconds: known.found_seconds,
    }
}
