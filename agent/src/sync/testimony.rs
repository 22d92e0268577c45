//! What the agent says of a snapshot beside its tree: which files may be torn, and what owners are called.

use understudy_protocol::message::{Fuzzy, Owners};
use understudy_protocol::{Message, Place, limits, version};

use super::Cycle;
use crate::chain::{Chain, merged};
use crate::error::AgentError;
use crate::owners::Names;
use crate::scan::Outcome;

impl Cycle<'_> {
    /// Whether the spare has to be told that files are fuzzy, or are no longer, though nothing else changed.
    pub(super) fn is_fuzzy_news(&self, outcome: &Outcome) -> Result<bool, AgentError> {
        Ok(self.conversation.version >= version::FUZZY
            && self.index.fuzzy()? != outcome.fuzzy_places)
    }

    /// Names the fuzzy files of the snapshot to be.
    pub(super) fn tell_fuzzy(&self, outcome: &Outcome) -> Result<(), AgentError> {
        if self.conversation.version < version::FUZZY {
            return Ok(());
        }
        let all: Vec<Place> = outcome.fuzzy_places.iter().cloned().collect();
        for places in all.chunks(limits::BATCH_RECORDS) {
            let places = places.to_vec();
            self.conversation.tell(&Message::Fuzzy(Fuzzy { places }))?;
        }
        Ok(())
    }

    /// Tells what the owners of what was sent are called here, and what the chain says; returns that.
    pub(super) fn tell_owners(
        &self,
        outcome: &Outcome,
        chain: Option<&Chain>,
    ) -> Result<Owners, AgentError> {
        if self.conversation.version < version::OWNERS {
            return Ok(Owners::default());
        }
        let called = Names::of_this_host().called(&outcome.owners);
        let parts = chain.map(|chain| chain.corrections().clone());
        let parts: Vec<Owners> = parts.into_iter().chain([called]).collect();
        for owners in parts.iter().filter(|part| **part != Owners::default()) {
            self.conversation.tell(&Message::Owners(owners.clone()))?;
        }
        let all = parts.iter();
        Ok(all.fold(Owners::default(), |all, part| merged(&all, part)))
    }
}
