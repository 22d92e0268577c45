//! The chain of signed statements: what this agent says of each snapshot that it sends, so that a restore can tell whether what
//! comes back is that. `docs/decisions/0016-a-signed-chain-of-snapshots.md` has the reasons.

mod memory;
mod proof;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use understudy_protocol::message::{Owners, Stated};
use understudy_protocol::statement::{fuzzy_digest, owners_digest};
use understudy_protocol::{
    Bytes, ContentHash, DatasetName, Message, Place, Position, ProtocolError, SecretKey,
    SignedStatement, Snapshot, StateDigest, Statement, limits, version,
};

use crate::Context;
use crate::clock;
use crate::conversation::Conversation;
use crate::error::AgentError;
use crate::owners::Names;

pub(crate) use memory::Memory;
pub use memory::{Known, known_datasets, newest_known};
pub(crate) use proof::Gate;
pub use proof::{Evidence, Freshness, Leniency, Proven, Trusted};

/// The chain of one dataset on one spare, during a cycle.
pub(crate) struct Chain {
    key: Arc<SecretKey>,
    state: PathBuf,
    memory: Memory,
    /// The statement that this agent or one with the same key has made of the base, as the spare has it.
    before: Option<SignedStatement>,
    /// What the spare has been told of owners up to the base, if that is known.
    owners: Option<Owners>,
    /// What of that is called otherwise here, which the spare has to be told before it can be signed.
    corrections: Owners,
    base: Option<Position>,
    /// Of which this host is the main.
    epoch: u64,
}

/// A statement on its way.
pub(crate) struct Pending {
    signed: SignedStatement,
    owners: Option<Owners>,
}

impl Chain {
    /// Takes up the chain where the spare stands; `None` if nothing is signed in this cycle.
    pub(crate) fn open(
        context: &Context,
        (dataset, epoch): (&DatasetName, u64),
        spoken: u32,
        (base, stated): (Option<Position>, Option<&Bytes>),
    ) -> Result<Option<Self>, AgentError> {
        let Some(key) = context.signer.clone() else {
            return Ok(None);
        };
        if spoken < version::STATEMENTS {
            return Ok(None);
        }
        let memory = match Memory::load(&context.state, &context.spare, dataset) {
            // As after a loss of the state directory: what the spare tells is the beginning, and the next commit writes it anew.
            Err(error @ AgentError::MemoryDamaged { .. }) => {
                tracing::warn!(dataset = %dataset, "what the spare has acknowledged is not known any more: {error}");
                None
            }
            memory => memory?,
        };
        let memory = memory.unwrap_or_else(|| Memory {
            spare: context.spare.clone(),
            dataset: dataset.clone(),
            newest: None,
            owners: Vec::new(),
        });
        let before = stated.and_then(|stated| SignedStatement::from_bytes(stated).ok());
        let before = before.filter(|signed| {
            let statement = signed.statement();
            let is_of_base = base.is_some_and(|base| {
                (statement.epoch, statement.number) == (base.epoch, base.number)
                    && statement.fingerprint == base.fingerprint
            });
            signed.key() == key.public() && statement.dataset == *dataset && is_of_base
        });
        let mut chain = Self {
            key,
            state: context.state.clone(),
            memory,
            before,
            owners: base.is_none().then(Owners::default),
            corrections: Owners::default(),
            base,
            epoch,
        };
        let told = chain.memory.owners.clone();
        told.iter().for_each(|owners| chain.hear_owners(owners));
        chain.warn_of_rollback();
        Ok(Some(chain))
    }

    /// Takes what the spare says that it was told of owners, if the statement of the base says the same.
    pub(crate) fn hear_owners(&mut self, owners: &Owners) {
        if self.owners.is_none() && self.is_stated(owners) {
            self.owners = Some(owners.clone());
        }
    }

    /// As [`Self::hear_owners`]. What nobody has signed counts as far as it is what owners are called here; the rest is corrected with the next
    /// commit.
    pub(crate) fn learn_owners(&mut self, owners: &Owners, names: &Names) {
        self.hear_owners(owners);
        if self.lacks_owners() && !names.is_empty() {
            self.corrections = names.corrections(owners);
            self.owners = Some(owners.clone());
        }
    }

    /// Whether it is not known what the spare was told of owners.
    pub(crate) fn lacks_owners(&self) -> bool {
        self.owners.is_none()
    }

    /// What the spare has to be told of owners beside what is new.
    pub(crate) fn corrections(&self) -> &Owners {
        &self.corrections
    }

    fn is_stated(&self, owners: &Owners) -> bool {
        let before = self.before.as_ref();
        let stated = before.and_then(|before| before.statement().owners);
        stated == Some(owners_digest(&first_of(owners)))
    }

    fn warn_of_rollback(&self) {
        let Some(known) = &self.memory.newest else {
            return;
        };
        let shown = self
            .before
            .as_ref()
            .map(|before| before.statement().counter);
        if shown.is_none_or(|shown| shown < known.counter) {
            tracing::warn!(
                dataset = %self.memory.dataset,
                "the spare acknowledged snapshot {} and shows an older state now, or none that this main has signed: it was set back to an \
                 earlier time, replaced, or does not tell the truth",
                known.number
            );
        }
    }

    /// Whether this agent, or one with the same key, has signed the base, and the names of owners with it as far as they are known. If not, the
    /// same tree becomes a snapshot that is signed: a main that was paired anew, or had no key, need not wait for a change.
    pub(crate) fn has_signed_base(&self) -> bool {
        let owners = self.owners.as_ref();
        self.before.is_some() && owners.is_none_or(|owners| self.is_stated(owners))
    }

    /// How many bytes the entries of the base take, if this agent has signed that.
    pub(crate) fn weight(&self) -> Option<u64> {
        self.before.as_ref().map(|before| before.statement().weight)
    }

    /// Signs the state that the spare is about to be told to commit, and tells it so.
    pub(crate) fn sign(
        &mut self,
        conversation: &Conversation,
        digest: &StateDigest,
        fuzzy: &BTreeSet<Place>,
        told: &Owners,
    ) -> Result<Pending, AgentError> {
        let number = next_number(self.base)?;
        let owners = self.owners.as_ref().map(|former| merged(former, told));
        if let Some(owners) = &owners
            && self.memory.may_have_told(owners)
        {
            // If the connection is cut while it commits, the next cycle must know what it was told.
            self.memory.store(&self.state)?;
        }
        let (counter, previous) = self.last();
        let statement = Statement {
            dataset: self.memory.dataset.clone(),
            counter: counter.saturating_add(1),
            previous,
            epoch: self.epoch,
            number,
            fingerprint: digest.fingerprint(),
            weight: digest.weight(),
            fuzzy: fuzzy_digest(fuzzy),
            owners: owners
                .as_ref()
                .map(|owners| owners_digest(&first_of(owners))),
            signed_seconds: clock::now().seconds,
        };
        let signed = statement
            .sign(&self.key)
            .map_err(|error| ProtocolError::malformed("Stated", error))?;
        conversation.tell(&Message::Stated(Stated {
            statement: Bytes(signed.bytes().to_vec()),
        }))?;
        Ok(Pending { signed, owners })
    }

    /// The counter and the hash of the statement before the next one.
    fn last(&self) -> (u64, ContentHash) {
        let known = self
            .memory
            .newest
            .as_ref()
            .map(|known| (known.counter, known.hash));
        let shown = self
            .before
            .as_ref()
            .map(|before| (before.statement().counter, before.hash()));
        let last = known
            .into_iter()
            .chain(shown)
            .max_by_key(|(counter, _)| *counter);
        last.unwrap_or((0, ContentHash([0; 32])))
    }

    /// Remembers that the spare has committed what was signed.
    pub(crate) fn acknowledge(
        &mut self,
        pending: Pending,
        snapshot: &Snapshot,
    ) -> Result<(), AgentError> {
        let statement = pending.signed.statement();
        let position = snapshot.position;
        if (position.epoch, position.number) != (statement.epoch, statement.number) {
            return Err(AgentError::OutOfStep {
                reason: "it acknowledged a snapshot of another number than the next".to_owned(),
            });
        }
        self.memory.newest = Some(Known {
            counter: statement.counter,
            hash: pending.signed.hash(),
            epoch: position.epoch,
            number: position.number,
            fingerprint: position.fingerprint,
            signed_seconds: statement.signed_seconds,
            committed_seconds: snapshot.committed_seconds,
        });
        self.memory.owners = pending.owners.into_iter().collect();
        self.memory.store(&self.state)
    }

    /// Remembers that the base is what the spare has, if this agent has signed that: it may have been acknowledged when nobody
    /// heard it.
    pub(crate) fn confirm(&mut self, snapshot: &Snapshot) -> Result<(), AgentError> {
        let Some(before) = &self.before else {
            return Ok(());
        };
        let statement = before.statement();
        let owners: Vec<Owners> = self.owners.clone().into_iter().collect();
        let known = self.memory.newest.as_ref();
        let is_known = known.is_some_and(|known| known.counter >= statement.counter);
        if is_known && self.memory.owners == owners {
            return Ok(());
        }
        self.memory.owners = owners;
        if is_known {
            return self.memory.store(&self.state);
        }
        self.memory.newest = Some(Known {
            counter: statement.counter,
            hash: before.hash(),
            epoch: statement.epoch,
            number: statement.number,
            fingerprint: statement.fingerprint,
            signed_seconds: statement.signed_seconds,
            committed_seconds: snapshot.committed_seconds,
        });
        self.memory.store(&self.state)
    }
}

/// The number of the snapshot that comes after the base.
fn next_number(base: Option<Position>) -> Result<u64, AgentError> {
    let number = base.map_or(0, |base| base.number);
    let next = number.checked_add(1);
    Ok(next.ok_or_else(|| ProtocolError::malformed("Ready", "no snapshot can follow it"))?)
}

/// What owners are called once a receiver that was told `former` is told `more`.
pub(crate) fn merged(former: &Owners, more: &Owners) -> Owners {
    let merge = |former: &[(u32, Bytes)], more: &[(u32, Bytes)]| {
        let all = former.iter().chain(more).cloned();
        all.collect::<BTreeMap<u32, Bytes>>().into_iter().collect()
    };
    Owners {
        users: merge(&former.users, &more.users),
        groups: merge(&former.groups, &more.groups),
    }
}

/// What of it a receiver tells. Those of the next snapshot follow from these and from what it is told until then, for what was left out has
/// larger numbers.
fn first_of(owners: &Owners) -> Owners {
    let first = |owners: &[(u32, Bytes)]| owners.iter().take(limits::RECORDS).cloned().collect();
    Owners {
        users: first(&owners.users),
        groups: first(&owners.groups),
    }
}

#[cfg(test)]
mod tests;
