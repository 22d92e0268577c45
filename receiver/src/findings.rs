//! What verifications found wrong of a dataset and what became of it: the file `findings`, beside the count in `verified`
//! that retention goes by. The count is written first where it grows and last where it shrinks, so that a crash leaves
//! it too high.

use std::collections::{BTreeSet, HashSet};

use serde::{Deserialize, Serialize};
use understudy_protocol::{ContentHash, RelPath};
use understudy_tree::{Directory, TreeError};

use crate::catalog::Catalog;
use crate::dataset::{Dataset, now_seconds};
use crate::error::ReceiverError;
use crate::retention::verified::{self, Verdict};
use crate::{names, sealed};

/// The layout this build writes.
const FORMAT: u32 = 1;
/// More are only counted: whoever has so many needs another disk, not a longer list.
const LISTED: usize = 10_000;
/// Far more than so many take.
const LIMIT_BYTES: u64 = 128 << 20;

/// Which part of a dataset something belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) enum Part {
    /// The catalog, or what it says of itself.
    Catalog,
    /// The live tree.
    Live,
    /// The other twin.
    Twin,
    /// A file of history.
    Object,
    /// A content that some snapshot needs and nothing leads to.
    History,
}

/// Something that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Damage {
    pub(crate) part: Part,
    /// Below the root `files` as on the main; an object has its own name.
    pub(crate) path: RelPath,
    /// The content that is not there as it should be, where it is one.
    pub(crate) content: Option<(u64, ContentHash)>,
    /// For people.
    pub(crate) what: String,
}

impl Damage {
    fn is_same(&self, other: &Self) -> bool {
        let hash = |damage: &Self| damage.content.map(|(_, hash)| hash);
        (self.part, &self.path, hash(self)) == (other.part, &other.path, hash(other))
    }
}

/// What is done about a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum State {
    /// Nothing yet.
    Open,
    /// The main is asked for the content.
    Wanted,
    /// The main does not have it any more.
    Lost,
    /// Somebody on the spare knows that it is lost.
    Accepted,
    /// The main does not have it at so many of the places that should have it, and is asked for it at the next one.
    Sought(u32),
}

/// A finding that is known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Known {
    pub(crate) damage: Damage,
    pub(crate) state: State,
    /// When it was first seen, by the receiver's clock.
    pub(crate) found_seconds: i64,
    /// The last pass that had begun when it was seen last.
    seen_pass: u64,
}

/// All of a dataset.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Findings {
    format: u32,
    pub(crate) list: Vec<Known>,
    /// Passes that have begun: by their number and not by a clock, which may be set back.
    pass: u64,
    /// Those that the list had no room for since the last pass began.
    unlisted: u64,
}

impl Default for Findings {
    fn default() -> Self {
        Self {
            format: FORMAT,
            list: Vec::new(),
            pass: 0,
            unlisted: 0,
        }
    }
}

/// What is to become of what is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wish {
    /// It is recorded.
    Record,
    /// The main is asked for contents that the spare cannot mend by itself, unless it said that it does not have them.
    Ask,
    /// The main is asked for them in any case.
    AskAgain,
}

impl State {
    /// At how many places the main was asked for it already; `None` if it is not asked.
    pub(crate) fn sought(self) -> Option<u32> {
        match self {
            Self::Wanted => Some(0),
            Self::Sought(places) => Some(places),
            Self::Open | Self::Lost | Self::Accepted => None,
        }
    }
}

impl Findings {
    /// How many keep retention from removing anything, so far as the last pass has come.
    pub(crate) fn open(&self) -> u64 {
        self.listed_open() + self.unlisted
    }

    /// How many of the list keep retention from removing anything.
    fn listed_open(&self) -> u64 {
        let open = self.list.iter().filter(|one| one.state != State::Accepted);
        open.count() as u64
    }

    /// What was wrong in the twins and a pass has not seen so, unless it found the same of the other one.
    pub(crate) fn unseen_of_twins(&self, pass: u64) -> Vec<Damage> {
        let is_of_twins = |one: &&Known| matches!(one.damage.part, Part::Live | Part::Twin);
        let of_twins = || self.list.iter().filter(is_of_twins);
        let seen: HashSet<_> = of_twins()
            .filter(|one| one.seen_pass >= pass)
            .map(|one| (&one.damage.path, one.damage.content))
            .collect();
        of_twins()
            .filter(|one| one.seen_pass < pass)
            .filter(|one| !seen.contains(&(&one.damage.path, one.damage.content)))
            .map(|one| one.damage.clone())
            .collect()
    }

    /// Whether a pass has found this content to be wrong in history.
    pub(crate) fn is_found_in_history(&self, hash: ContentHash, pass: u64) -> bool {
        let is_of_history = |part| matches!(part, Part::Object | Part::History);
        let mut objects = self
            .list
            .iter()
            .filter(|one| is_of_history(one.damage.part) && one.seen_pass >= pass);
        objects.any(|one| one.damage.content.is_some_and(|(_, found)| found == hash))
    }

    /// Those that are known to be lost.
    pub(crate) fn accepted(&self) -> impl Iterator<Item = &Known> {
        self.list.iter().filter(|one| one.state == State::Accepted)
    }

    /// Whether somebody knows of this one.
    pub(crate) fn is_accepted(&self, damage: &Damage) -> bool {
        self.accepted().any(|one| one.damage.is_same(damage))
    }

    /// Contents that are not what they should be.
    pub(crate) fn contents(&self) -> HashSet<ContentHash> {
        self.contents_of(|_| true)
    }

    /// Contents that are not what they should be in some parts.
    pub(crate) fn contents_of(&self, is_meant: impl Fn(Part) -> bool) -> HashSet<ContentHash> {
        let meant = self.list.iter().filter(|one| is_meant(one.damage.part));
        let contents = meant.filter_map(|one| one.damage.content);
        contents.map(|(_, hash)| hash).collect()
    }

    /// Those of `snapshots` that cannot be restored whole.
    pub(crate) fn damaged_snapshots(
        &self,
        catalog: &Catalog,
        snapshots: &[u64],
    ) -> Result<BTreeSet<u64>, ReceiverError> {
        let mut damaged = BTreeSet::new();
        for hash in self.contents() {
            catalog.rows_of(hash, |row| {
                let first = snapshots.partition_point(|number| *number < row.since);
                let of_row = snapshots[first..].iter();
                let of_row = of_row.take_while(|at| row.until.is_none_or(|until| **at < until));
                damaged.extend(of_row);
                Ok(())
            })?;
        }
        Ok(damaged)
    }

    fn add(&mut self, damage: Damage, wish: Wish, pass: u64) {
        // The file with the number may be lost.
        self.pass = self.pass.max(pass);
        let is_mendable = damage.content.is_some();
        if let Some(known) = self.list.iter_mut().find(|one| one.damage.is_same(&damage)) {
            known.seen_pass = self.pass;
            known.damage.what = damage.what;
            let is_asked = match wish {
                Wish::Record => false,
                Wish::Ask => known.state == State::Open,
                Wish::AskAgain => known.state != State::Accepted,
            };
            if is_asked && is_mendable {
                known.state = State::Wanted;
            }
            return;
        }
        if self.list.len() >= LISTED {
            self.unlisted += 1;
            return;
        }
        self.list.push(Known {
            damage,
            state: match wish {
                Wish::Ask | Wish::AskAgain if is_mendable => State::Wanted,
                _ => State::Open,
            },
            found_seconds: now_seconds(),
            seen_pass: self.pass,
        });
    }
}

/// The findings there are. A file that cannot be understood has none; `verified` still has their number.
pub(crate) fn read(control: &Directory) -> Result<Findings, ReceiverError> {
    match sealed::read::<Findings>(control, &names::FINDINGS, LIMIT_BYTES) {
        Ok(found) => Ok(found
            .filter(|found| found.format == FORMAT)
            .unwrap_or_default()),
        Err(ReceiverError::Damaged(what)) => {
            tracing::warn!("{what}: what was found is not known any more, only how much it was");
            Ok(Findings::default())
        }
        Err(error) => Err(error),
    }
}

/// A pass over everything begins; returns its number. What is counted stays so until it ends.
pub(crate) fn begin_pass(dataset: &Dataset) -> Result<u64, ReceiverError> {
    let mut number = 0;
    change(dataset, None, |findings| {
        findings.unlisted = 0;
        findings.pass += 1;
        number = findings.pass;
    })?;
    Ok(number)
}

/// Adds what a pass found; durable when it returns.
pub(crate) fn add(
    dataset: &Dataset,
    damages: &[Damage],
    wish: Wish,
    pass: u64,
) -> Result<(), ReceiverError> {
    if damages.is_empty() {
        return Ok(());
    }
    change(dataset, None, |findings| {
        for damage in damages {
            findings.add(damage.clone(), wish, pass);
        }
    })
}

/// A pass has read everything but `unread`: of the rest, what was not seen since it began is not wrong any more.
pub(crate) fn end_pass(
    dataset: &Dataset,
    pass: u64,
    unread: &[Damage],
) -> Result<(), ReceiverError> {
    change(dataset, Some(pass), |findings| {
        let is_unread = |one: &Known| unread.iter().any(|damage| one.damage.is_same(damage));
        findings
            .list
            .retain(|one| one.seen_pass >= pass || is_unread(one));
    })
}

/// These are not wrong any more.
pub(crate) fn close(dataset: &Dataset, damages: &[Damage]) -> Result<(), ReceiverError> {
    if damages.is_empty() {
        return Ok(());
    }
    decide(dataset, |known| {
        let is_closed = damages.iter().any(|damage| known.damage.is_same(damage));
        (!is_closed).then_some(known.state)
    })
}

/// Changes the states of findings, or takes them away where `decide` gives none.
pub(crate) fn decide(
    dataset: &Dataset,
    mut decide: impl FnMut(&Known) -> Option<State>,
) -> Result<(), ReceiverError> {
    change(dataset, None, |findings| {
        findings.list.retain_mut(|one| match decide(one) {
            Some(state) => {
                one.state = state;
                true
            }
            None => false,
        });
    })
}

/// Changes both files, alone; `ended` is a pass that has read everything.
fn change(
    dataset: &Dataset,
    ended: Option<u64>,
    work: impl FnOnce(&mut Findings),
) -> Result<(), ReceiverError> {
    let _alone = alone(dataset)?;
    let control = &dataset.control;
    let before = read(control)?;
    let mut after = before.clone();
    work(&mut after);
    let last = verified::read(control)?;
    // What is counted and not listed, of a former pass, a former version or a file that was lost, goes with the next whole pass:
    // the last one that began, for only that one has counted all that is not listed.
    let is_counted_anew = ended == Some(after.pass);
    let former = match last {
        Some(last) if !is_counted_anew => last.findings.saturating_sub(before.listed_open()),
        _ => 0,
    };
    let verdict = Verdict {
        seconds: ended
            .map(|_| now_seconds())
            .or(last.map(|last| last.seconds))
            .unwrap_or_else(now_seconds),
        findings: after.listed_open() + after.unlisted.max(former),
    };
    let is_first = ended.is_none() && last.is_none() && verdict.findings == 0;
    let is_less = last.is_some_and(|last| verdict.findings <= last.findings);
    let note = || match last == Some(verdict) || is_first {
        true => Ok(()),
        false => verified::note(control, verdict),
    };
    if !is_less {
        note()?;
    }
    if after != before {
        sealed::write(control, &names::FINDINGS, &after)?;
    }
    if is_less {
        note()?;
    }
    Ok(())
}

/// Findings are changed by whoever looks, and by people, at any moment.
fn alone(dataset: &Dataset) -> Result<Directory, ReceiverError> {
    let control = dataset.directory.open_directory(&names::CONTROL)?;
    let exclusive = rustix::fs::FlockOperation::LockExclusive;
    rustix::io::retry_on_intr(|| rustix::fs::flock(&control, exclusive))
        .map_err(|error| TreeError::new("lock", names::CONTROL.as_bytes(), error))?;
    Ok(control)
}

#[cfg(test)]
#[path = "findings/tests.rs"]
mod tests;
