//! What the other end of a session may ask for, decided in one place for all messages.
//!
//! Whoever answers a message about a dataset takes it as [`Permitted`], and only this module makes one of a name that a peer
//! gave. So an answer cannot forget to ask whether it may be given; and [`subject`] knows every message by name, so a new one
//! does not compile before somebody has said what it is about.

use std::ops::Deref;

use understudy_protocol::{DatasetName, MainName, Message, limits, version};

use crate::dataset::Dataset;
use crate::error::ReceiverError;
use crate::owner::{self, Owner};
use crate::peer::Peer;
use crate::store::Store;

/// An open dataset that the peer may use.
#[derive(Debug)]
pub(crate) struct Permitted(Dataset);

impl Deref for Permitted {
    type Target = Dataset;

    fn deref(&self) -> &Dataset {
        &self.0
    }
}

/// The name of a dataset that the peer may use. It need not be there.
#[derive(Debug, Clone)]
pub(crate) struct Permission {
    name: DatasetName,
    /// The main that it belongs to, or will; `None` for whoever may use all of them.
    main: Option<MainName>,
}

/// What a message is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Subject<'m> {
    /// A dataset that must be there.
    Existing(&'m DatasetName),
    /// A dataset, which is made if it is not there.
    Made(&'m DatasetName),
    /// All datasets.
    All,
}

/// What a request is about, found to be the peer's.
#[derive(Debug)]
pub(crate) enum Scope {
    One(Permitted),
    Made(Permission),
    All(Vec<Permission>),
}

/// What a message that begins something is about, with the version of the protocol that has it; `None` of one that is part of what another one
/// began, or that no agent sends.
pub(crate) fn subject(message: &Message) -> Option<(u32, Subject<'_>)> {
    use Subject::{All, Existing, Made};
    Some(match message {
        Message::Begin(begin) => (version::OLDEST, Made(&begin.dataset)),
        Message::Claim(claim) => (version::EPOCHS, Made(&claim.dataset)),
        Message::Trouble(trouble) => (version::TROUBLE, Made(&trouble.dataset)),
        Message::ReadManifest(request) => (version::OLDEST, Existing(&request.dataset)),
        Message::List(request) => (version::OLDEST, all_or(request.dataset.as_ref())),
        Message::Verify(request) => (version::OLDEST, all_or(request.dataset.as_ref())),
        Message::Repair(request) => (version::REPAIR, all_or(request.dataset.as_ref())),
        Message::Inspect(request) => (version::HEALTH, all_or(request.dataset.as_ref())),
        Message::ListFuzzy(request) => (version::FUZZY, Existing(&request.dataset)),
        Message::ListRetention(request) => (version::RETENTION, Existing(&request.dataset)),
        Message::Locate(request) => (version::BROWSE, Existing(&request.dataset)),
        Message::ListTree(request) => (version::BROWSE, Existing(&request.dataset)),
        Message::Find(request) => (version::BROWSE, Existing(&request.dataset)),
        Message::Compare(request) => (version::BROWSE, Existing(&request.dataset)),
        Message::Summarise(request) => (version::BROWSE, Existing(&request.dataset)),
        Message::ListSnapshots(request) => (version::LISTING, Existing(&request.dataset)),
        Message::Oversee(_) => (version::OVERSEE, All),
        Message::ListRoles(request) => (version::EPOCHS, all_or(request.dataset.as_ref())),
        Message::HandOver(request) => (version::EPOCHS, Existing(&request.dataset)),
        // Within an upload or a restore: about the dataset that this began with.
        Message::Changes(_)
        | Message::Commit(_)
        | Message::Confirm(_)
        | Message::Want(_)
        | Message::WantRest(_)
        | Message::Restoring(_)
        | Message::Returned(_)
        | Message::SourceRoot(_)
        | Message::Fuzzy(_)
        | Message::Owners(_)
        | Message::Stated(_)
        | Message::StreamBlock(_)
        | Message::StreamEnd(_)
        | Message::StreamAbort(_)
        | Message::StreamBase(_)
        | Message::StreamCopy(_)
        | Message::StreamPieces(_)
        | Message::StreamResume(_)
        // Of both sides, outside of everything.
        | Message::Hello(_)
        | Message::Failure(_)
        // Of a receiver.
        | Message::Ready(_)
        | Message::Committed(_)
        | Message::Confirmed(_)
        | Message::Manifest(_)
        | Message::ManifestEnd(_)
        | Message::Given(_)
        | Message::GivenStream(_)
        | Message::Datasets(_)
        | Message::Finding(_)
        | Message::Verified(_)
        | Message::VerifyEnd(_)
        | Message::Noted(_)
        | Message::FuzzyFiles(_)
        | Message::FuzzyEnd(_)
        | Message::Leftover(_)
        | Message::LeftoverEnd(_)
        | Message::Waited(_)
        | Message::Retention(_)
        | Message::RetentionEnd(_)
        | Message::Located(_)
        | Message::Listed(_)
        | Message::Found(_)
        | Message::Differences(_)
        | Message::Summaries(_)
        | Message::Snapshots(_)
        | Message::Told(_)
        | Message::Repaired(_)
        | Message::Wanted(_)
        | Message::Health(_)
        | Message::Overseen(_)
        | Message::DatasetRole(_) => return None,
    })
}

fn all_or(name: Option<&DatasetName>) -> Subject<'_> {
    name.map_or(Subject::All, Subject::Existing)
}

/// A peer in front of a store.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Access<'a> {
    store: &'a Store,
    peer: &'a Peer,
}

impl<'a> Access<'a> {
    pub(crate) fn new(store: &'a Store, peer: &'a Peer) -> Self {
        Self { store, peer }
    }

    pub(crate) fn store(self) -> &'a Store {
        self.store
    }

    /// What a request is about, if the peer may ask for it in this version of the protocol; `None` of what is no request.
    pub(crate) fn scope(
        self,
        message: &Message,
        spoken: u32,
    ) -> Result<Option<Scope>, ReceiverError> {
        let subject = match subject(message) {
            Some((since, subject)) if spoken >= since => subject,
            _ => return Ok(None),
        };
        Ok(Some(match subject {
            Subject::Existing(name) => Scope::One(self.existing(name)?),
            Subject::Made(name) => Scope::Made(self.claim(name)?),
            Subject::All => Scope::All(self.own()?),
        }))
    }

    /// The datasets that it may use, in the order of their names.
    pub(crate) fn own(self) -> Result<Vec<Permission>, ReceiverError> {
        let mut own = Vec::new();
        for name in self.store.dataset_names()? {
            own.extend(self.permission(&name)?);
        }
        Ok(own)
    }

    /// Whether there is nothing in the store that it may not use.
    pub(crate) fn sees_all(self) -> Result<bool, ReceiverError> {
        for name in self.store.dataset_names()? {
            if self.permission(&name)?.is_none() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The owner of what has this name. What cannot be looked at is nobody's: it must not stand in the way of others, nor be told of.
    fn owner(self, name: &DatasetName) -> Owner {
        Owner::of(self.store.directory(), name).unwrap_or_else(|error| {
            tracing::warn!(dataset = %name, "no main may use it, for it cannot be found out whose it is: {error}");
            Owner::Nobody
        })
    }

    /// Permission for a dataset that is there.
    fn permission(self, name: &DatasetName) -> Result<Option<Permission>, ReceiverError> {
        let main = match self.peer {
            Peer::Operator => None,
            Peer::Main(main) => match self.owner(name) {
                Owner::Main(owner) if owner == *main => Some(owner),
                _ => return Ok(None),
            },
        };
        let name = name.clone();
        Ok(Some(Permission { name, main }))
    }

    /// A dataset that must be there. One of somebody else is not there.
    fn existing(self, name: &DatasetName) -> Result<Permitted, ReceiverError> {
        let opened = match self.permission(name)? {
            Some(permission) => permission.open(self.store)?,
            None => None,
        };
        match opened {
            Some(dataset) => Ok(dataset),
            None => Err(not_found(name, &self.own().unwrap_or_default())),
        }
    }

    /// A dataset that is there or may be made.
    fn claim(self, name: &DatasetName) -> Result<Permission, ReceiverError> {
        let main = match self.peer {
            Peer::Operator => None,
            Peer::Main(main) => match self.owner(name) {
                Owner::Main(owner) if owner == *main => Some(owner),
                Owner::Absent => {
                    self.check_number(main)?;
                    Some(main.clone())
                }
                Owner::Main(_) | Owner::Nobody => return Err(taken(name, main)),
            },
        };
        let name = name.clone();
        Ok(Permission { name, main })
    }

    /// Each dataset costs the spare descriptors, files and time whenever it looks at all.
    fn check_number(self, main: &MainName) -> Result<(), ReceiverError> {
        if self.own()?.len() < limits::DATASETS {
            return Ok(());
        }
        Err(ReceiverError::Quota(format!(
            "the main `{main}` has {} datasets on this spare, which is the most that one may have",
            limits::DATASETS
        )))
    }
}

impl Permission {
    pub(crate) fn name(&self) -> &DatasetName {
        &self.name
    }

    /// Opens the dataset; `None` if it is not there.
    pub(crate) fn open(&self, store: &Store) -> Result<Option<Permitted>, ReceiverError> {
        Ok(store.dataset(&self.name)?.map(Permitted))
    }

    /// Opens the dataset, made if it is not there.
    pub(crate) fn ensure(&self, store: &Store) -> Result<Permitted, ReceiverError> {
        if let Some(main) = &self.main {
            if Owner::of(store.directory(), &self.name)? == Owner::Absent {
                owner::make(store.directory(), &self.name, main)?;
            }
            // Somebody else may have made it at the same moment.
            if Owner::of(store.directory(), &self.name)? != Owner::Main(main.clone()) {
                return Err(taken(&self.name, main));
            }
        }
        store.ensure_dataset(&self.name).map(Permitted)
    }
}

impl Permitted {
    /// Within an upload: nothing but its own dataset can be asked for.
    pub(crate) fn must_be(&self, name: &DatasetName) -> Result<(), ReceiverError> {
        if self.0.name == *name {
            return Ok(());
        }
        let own = &self.0.name;
        Err(ReceiverError::Misbehaved(format!(
            "an upload of dataset `{own}` asks for dataset `{name}`"
        )))
    }
}

/// Nobody is told whose it is, nor whether it is anybody's.
fn taken(name: &DatasetName, main: &MainName) -> ReceiverError {
    ReceiverError::Forbidden(format!(
        "the name `{name}` is taken on this spare, and not by a dataset of the main `{main}`: give the dataset another name (if it is \
         one of this main's, somebody on the spare can say so: `understudy pair --grant {main} {name}`)"
    ))
}

fn not_found(name: &DatasetName, own: &[Permission]) -> ReceiverError {
    let known: Vec<&str> = own.iter().take(20).map(|one| one.name.as_str()).collect();
    let known = if known.is_empty() {
        "none".to_owned()
    } else {
        known.join(", ")
    };
    ReceiverError::NotFound(format!(
        "the spare has no dataset `{name}` (it has: {known})"
    ))
}

/// A dataset that must be there, for people on the spare: no name that a peer gave comes here.
pub(crate) fn existing(store: &Store, name: &DatasetName) -> Result<Dataset, ReceiverError> {
    let operator = Access::new(store, &Peer::Operator);
    operator.existing(name).map(|permitted| permitted.0)
}
