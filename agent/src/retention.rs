//! Asking the spare what its retention has noted.

use std::collections::{BTreeSet, HashMap};

use understudy_protocol::message::{
    KnownFinding, LastVerified, ListRetention, Retained, ScrubState,
};
use understudy_protocol::transport::Channel;
use understudy_protocol::{DatasetName, Message, version};

use crate::Cancel;
use crate::conversation::{Conversation, unexpected};
use crate::error::AgentError;
use crate::gathering::Gathered;

/// What retention has noted of a dataset.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RetentionOf {
    /// Snapshots with a pin or a flag, by their numbers.
    pub snapshots: HashMap<u64, Retained>,
    /// The last verification, if there was one.
    pub verified: Option<LastVerified>,
    /// What is wrong, that which nobody has accepted first.
    pub findings: Vec<KnownFinding>,
    /// Snapshots that cannot be restored whole.
    pub damaged: BTreeSet<u64>,
    /// How far the scrub is, if there ever was one.
    pub scrub: Option<ScrubState>,
    /// How many findings there are that nobody has accepted; there may be more than `findings` has.
    pub open: u64,
    /// How many losses somebody has accepted; there may be more than `findings` has.
    pub accepted: u64,
}

/// What retention has noted of each of these datasets; `None` if the spare is too old to know.
pub fn retention(
    channel: Channel,
    datasets: &[DatasetName],
) -> Result<Option<HashMap<DatasetName, RetentionOf>>, AgentError> {
    let conversation = Conversation::open(channel, &Cancel::default())?;
    let ask = || {
        if conversation.version < version::RETENTION {
            return Ok(None);
        }
        let mut all = HashMap::new();
        for dataset in datasets {
            all.insert(dataset.clone(), of(&conversation, dataset)?);
        }
        Ok(Some(all))
    };
    ask().map_err(|error| conversation.explain(error))
}

/// What retention has noted of one dataset, within a conversation.
pub(crate) fn of(
    conversation: &Conversation,
    dataset: &DatasetName,
) -> Result<RetentionOf, AgentError> {
    conversation.tell(&Message::ListRetention(ListRetention {
        dataset: dataset.clone(),
    }))?;
    let mut found = RetentionOf::default();
    let mut gathered = Gathered::default();
    loop {
        match conversation.hear()? {
            Message::Retention(more) => {
                let reasons = more.snapshots.iter().map(|one| {
                    let pin = one.pin.as_ref();
                    pin.map_or(0, |pin| pin.reason.len())
                });
                gathered.add("Retention", reasons)?;
                let more = more.snapshots.into_iter().map(|one| (one.number, one));
                found.snapshots.extend(more);
            }
            Message::Health(more) if conversation.version >= version::HEALTH => {
                let findings = more.findings.iter();
                let texts = findings.map(|one| one.path.as_bytes().len() + one.what.len());
                let damaged = more.damaged.iter().map(|_| 0);
                gathered.add("Health", texts.chain(damaged))?;
                found.findings.extend(more.findings);
                found.damaged.extend(more.damaged);
                found.scrub = more.scrub;
                (found.open, found.accepted) = (more.open, more.accepted);
            }
            Message::RetentionEnd(end) => {
                found.verified = end.verified;
                return Ok(found);
            }
            other => return Err(unexpected(&other, "Retention")),
        }
    }
}
