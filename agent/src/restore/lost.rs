//! Contents that the spare has lost, and what is restored without them.

use std::collections::HashSet;

use understudy_protocol::message::{FindingState, KnownFinding};
use understudy_protocol::{ContentHash, DatasetName, RelPath, version};

use super::plan::{Leaf, Plan};
use crate::conversation::Conversation;
use crate::error::AgentError;
use crate::retention;

/// What becomes of files whose content the spare knows to be lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Lost {
    /// They are asked for as any others: the restore fails at the first one that cannot be given.
    #[default]
    Ask,
    /// They are left out, and told.
    Skip,
}

/// Contents that are lost.
pub(super) type Contents = HashSet<ContentHash>;

/// Contents of a dataset that the main does not have any more, or that somebody has accepted as lost.
pub(super) fn contents(
    conversation: &Conversation,
    dataset: &DatasetName,
) -> Result<Contents, AgentError> {
    if conversation.version < version::HEALTH {
        return Err(AgentError::SpareTooOld {
            what: "telling what is lost",
            spoken: conversation.version,
            needed: version::HEALTH,
        });
    }
    let is_lost =
        |one: &KnownFinding| matches!(one.state, FindingState::Lost | FindingState::Accepted);
    let findings = retention::of(conversation, dataset)?.findings;
    let lost = findings.into_iter().filter(is_lost);
    Ok(lost.filter_map(|one| one.content).collect())
}

/// Takes every file with one of these contents out of the plan; returns their paths.
pub(super) fn leave_out(plan: &mut Plan, lost: &Contents) -> Vec<RelPath> {
    let is_lost = |leaf: &Leaf| {
        let content = leaf.entry.content();
        content.is_some_and(|(_, hash)| lost.contains(&hash))
    };
    let left_out: Vec<RelPath> = plan
        .leaves
        .iter()
        .filter(|leaf| is_lost(leaf))
        .map(|leaf| plan.path(leaf))
        .collect();
    plan.leaves.retain(|leaf| !is_lost(leaf));
    let gone: HashSet<&RelPath> = left_out.iter().collect();
    plan.fuzzy.retain(|path| !gone.contains(path));
    left_out
}
