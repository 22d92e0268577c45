//! Making the index equal to what the spare has, and remembering what the spare may have later.

use understudy_protocol::message::{Owners, SourceRoot};
use understudy_protocol::{Message, Position, StateDigest, version};

use super::Cycle;
use crate::chain::Chain;
use crate::error::AgentError;
use crate::index::{Adoption, Meta};
use crate::manifest::{self, Part};
use crate::owners::Names;
use crate::scan::Outcome;

/// So much may a manifest take that nobody here has signed: hundreds of millions of entries.
const UNSIGNED_BYTES: u64 = 64 << 30;

impl Cycle<'_> {
    /// Makes the index equal to the spare's newest snapshot; returns its description, and why it proves little if
    /// it does.
    pub(super) fn reconcile(
        &self,
        position: Option<Position>,
        chain: Option<&mut Chain>,
    ) -> Result<(Meta, Option<&'static str>), AgentError> {
        let mut meta = self.index.meta()?;
        let mut anew = None;
        if meta.position != position || position.is_none() {
            let shipped = match position {
                Some(position) => self.index.adopt_shipped(&meta, position)?,
                None => None,
            };
            if let Some(shipped) = shipped {
                tracing::info!(dataset = %self.source.dataset, "the spare has released what a guard held");
                meta = shipped;
            } else {
                anew = Some("the index was not that of the spare's snapshot");
                meta = match position {
                    Some(position) => self.adopt(&meta, position, chain)?,
                    None => self.start_over(&meta)?,
                };
            }
        }
        if meta
            .root
            .is_some_and(|root| root != self.root_stat.identity)
        {
            tracing::info!(source = %self.source.path.display(), "the root has another inode than before: comparing all contents");
            self.index.forget_inodes()?;
            anew = Some("the root is another directory than before");
        }
        meta.root = Some(self.root_stat.identity);
        Ok((meta, anew))
    }

    /// The spare has no snapshot: everything is new to it.
    fn start_over(&self, former: &Meta) -> Result<Meta, AgentError> {
        if !self.index.is_empty()? {
            tracing::warn!(dataset = %self.source.dataset, "the spare has no snapshot any more: sending everything");
            self.index.clear()?;
        }
        Ok(Meta {
            position: None,
            digest: StateDigest::empty(),
            ..former.clone()
        })
    }

    fn adopt(
        &self,
        former: &Meta,
        position: Position,
        mut chain: Option<&mut Chain>,
    ) -> Result<Meta, AgentError> {
        tracing::info!(dataset = %self.source.dataset, "the index is not that of the spare's snapshot: adopting its manifest");
        let signed = chain.as_ref().and_then(|chain| chain.weight());
        let most = signed.unwrap_or(UNSIGNED_BYTES);
        let mut adoption = Adoption::begin(self.index, former)?;
        let mut called = Owners::default();
        let dataset = &self.source.dataset;
        let snapshot = manifest::read(self.conversation, dataset, None, |part| match part {
            Part::Stated(_) => Ok(()),
            Part::Entries(entries) => {
                for (place, entry) in entries {
                    adoption.add(place, entry)?;
                }
                if adoption.weight() > most {
                    let reason = "it has more entries than the main has ever sent";
                    return Err(manifest::malformed(reason));
                }
                Ok(())
            }
            Part::Fuzzy(places) => adoption.add_fuzzy(places),
            Part::Owners(owners) => {
                called = owners;
                Ok(())
            }
        })?;
        if snapshot.position != position {
            let reason = "it is of another snapshot than the newest";
            return Err(manifest::malformed(reason));
        }
        if let Some(chain) = &mut chain {
            chain.learn_owners(&called, &Names::of_this_host());
        }
        adoption.finish(&snapshot, former)
    }

    /// Has the spare tell what owners are called, where that is not known: its manifest says so, and nothing else of that is needed. It costs
    /// that once, for the next snapshot signs it.
    pub(super) fn learn_owners(&self, meta: &Meta, chain: &mut Chain) -> Result<(), AgentError> {
        let names = Names::of_this_host();
        if !chain.lacks_owners() || names.is_empty() {
            return Ok(());
        }
        tracing::info!(dataset = %self.source.dataset, "it is not known what the spare was told of owners: asking for its manifest");
        let mut called = Owners::default();
        let mut digest = StateDigest::empty();
        manifest::read(
            self.conversation,
            &self.source.dataset,
            None,
            |part| match part {
                Part::Entries(entries) => {
                    entries
                        .iter()
                        .for_each(|(place, entry)| digest.add(place, entry));
                    if digest.weight() > meta.digest.weight() {
                        return Err(manifest::malformed("it is of another snapshot"));
                    }
                    Ok(())
                }
                Part::Owners(owners) => {
                    called = owners;
                    Ok(())
                }
                Part::Stated(_) | Part::Fuzzy(_) => Ok(()),
            },
        )?;
        chain.learn_owners(&called, &names);
        Ok(())
    }

    /// Tells which directory the source is.
    pub(super) fn tell_root(&self) -> Result<(), AgentError> {
        if self.conversation.version < version::SOURCE_ROOT {
            return Ok(());
        }
        let identity = self.root_stat.identity;
        self.conversation.tell(&Message::SourceRoot(SourceRoot {
            file_system: self.root.lasting_file_system(),
            inode: identity.inode,
            born: identity.born,
        }))
    }

    /// The spare may hold what was sent, until somebody releases it.
    pub(super) fn remember_shipped(
        &self,
        base: Position,
        meta: &Meta,
        digest: &StateDigest,
        outcome: &Outcome,
    ) {
        let shipped = Meta {
            digest: digest.clone(),
            next_directory: outcome.next_directory,
            ..meta.clone()
        };
        let fuzzy = &outcome.fuzzy_places;
        if let Err(error) = self.index.remember_shipped(base, &shipped, fuzzy) {
            // Everything is compared once then.
            tracing::warn!(dataset = %self.source.dataset, "cannot remember what the spare holds: {error}");
            self.index.forget_shipped();
        }
    }
}
