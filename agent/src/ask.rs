//! Questions to the spare that need no tree and no index.

use understudy_protocol::message::{Datasets, Finding, List, Trouble, Verified, Verify};
use understudy_protocol::transport::Channel;
use understudy_protocol::{DatasetName, Message, version};

use crate::Cancel;
use crate::conversation::{Conversation, told, unexpected};
use crate::error::AgentError;

/// The datasets of the spare with their snapshots; only `dataset` if one is named.
pub fn list(channel: Channel, dataset: Option<DatasetName>) -> Result<Datasets, AgentError> {
    let conversation = Conversation::open(channel, &Cancel::default())?;
    let ask = || {
        conversation.tell(&Message::List(List { dataset }))?;
        match conversation.hear()? {
            Message::Datasets(datasets) => Ok(datasets),
            other => Err(unexpected(&other, "Datasets")),
        }
    };
    ask().map_err(|error| conversation.explain(error))
}

/// Has the spare read everything again and compare; calls `on_finding` for each difference as it is found.
/// Returns one result per dataset.
pub fn verify(
    channel: Channel,
    dataset: Option<DatasetName>,
    mut on_finding: impl FnMut(&Finding),
) -> Result<Vec<Verified>, AgentError> {
    let conversation = Conversation::open(channel, &Cancel::default())?;
    let ask = || {
        conversation.tell(&Message::Verify(Verify { dataset }))?;
        let mut verified = Vec::new();
        loop {
            match conversation.hear()? {
                Message::Finding(finding) => on_finding(&finding),
                Message::Verified(one) => verified.push(one),
                Message::VerifyEnd(_) => return Ok(verified),
                other => return Err(unexpected(&other, "Finding")),
            }
        }
    };
    ask().map_err(|error| conversation.explain(error))
}

/// Tells the spare that a cycle failed before it began there, so that the spare can tell people. That this fails
/// too is only logged: the lag that follows is noticed as well.
pub(crate) fn tell_trouble(
    channel: Channel,
    dataset: &DatasetName,
    error: &AgentError,
    cancel: &Cancel,
) {
    let tell = || {
        let conversation = Conversation::open(channel, cancel)?;
        if conversation.version < version::TROUBLE {
            return Ok(());
        }
        conversation.tell(&Message::Trouble(Trouble {
            dataset: dataset.clone(),
            reason: told(error),
        }))?;
        match conversation.hear()? {
            Message::Noted(_) => Ok(()),
            other => Err(unexpected(&other, "Noted")),
        }
    };
    if let Err(failed) = tell() {
        tracing::debug!("{dataset}: cannot tell the spare of a cycle that failed: {failed}");
    }
}
