//! Where the directories of the index were seen in this scan, and which of them must stay for what was put in them.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use understudy_protocol::DirectoryId;
use understudy_tree::Identity;

/// Where the number of an indexed directory was seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stand {
    /// Where the index has it.
    Home,
    /// Somewhere else: it moved.
    Away,
    /// Not yet, and something else stands in its place.
    Replaced,
}

/// Shared by all workers.
#[derive(Debug, Default)]
pub(super) struct Stands(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    seen: HashMap<DirectoryId, Stand>,
    pinned: HashSet<DirectoryId>,
    /// Inodes of directories that got a new number.
    numbered: HashSet<Identity>,
}

impl Stands {
    /// Claims a directory's number for a place; `false` if it was already seen at another, or has to stay. Home is
    /// one place, which may be looked at twice.
    pub(super) fn claim(&self, id: DirectoryId, stand: Stand) -> bool {
        let mut inner = self.inner();
        if stand == Stand::Away && inner.pinned.contains(&id) {
            return false;
        }
        match inner.seen.entry(id) {
            Entry::Occupied(mut known) if *known.get() == Stand::Replaced => {
                known.insert(stand);
                true
            }
            Entry::Occupied(known) => stand == Stand::Home && *known.get() == Stand::Home,
            Entry::Vacant(free) => {
                free.insert(stand);
                true
            }
        }
    }

    /// Something else is to stand where the index has a directory; `false` if that has to wait, because the
    /// directory was seen there or something was put in it.
    pub(super) fn replace(&self, id: DirectoryId) -> bool {
        let mut inner = self.inner();
        match inner.seen.get(&id) {
            Some(Stand::Away) => true,
            Some(Stand::Home) => false,
            Some(Stand::Replaced) | None => {
                let may_go = !inner.pinned.contains(&id);
                if may_go {
                    inner.seen.insert(id, Stand::Replaced);
                }
                may_go
            }
        }
    }

    /// Notes that a directory gets a new number; `false` if it got one before.
    pub(super) fn is_first_number(&self, identity: Identity) -> bool {
        self.inner().numbered.insert(identity)
    }

    /// Keeps directories on the spare, because something is put in the first of them; `false` if one is being
    /// replaced.
    pub(super) fn pin(&self, chain: &[DirectoryId]) -> bool {
        let mut inner = self.inner();
        let is_going = |id| inner.seen.get(id) == Some(&Stand::Replaced);
        if chain.iter().any(is_going) {
            return false;
        }
        inner.pinned.extend(chain);
        true
    }

    /// Whether a directory that seems gone has to stay all the same.
    pub(super) fn is_pinned(&self, id: DirectoryId) -> bool {
        self.inner().pinned.contains(&id)
    }

    /// Where it was seen.
    pub(super) fn of(&self, id: DirectoryId) -> Option<Stand> {
        self.inner().seen.get(&id).copied()
    }

    /// Directories in whose place something else was seen and that were not seen anywhere.
    pub(super) fn replaced(&self) -> Vec<DirectoryId> {
        let inner = self.inner();
        let replaced = inner
            .seen
            .iter()
            .filter(|(_, stand)| **stand == Stand::Replaced);
        replaced.map(|(id, _)| *id).collect()
    }

    /// It was not seen after all.
    pub(super) fn forget(&self, id: DirectoryId) {
        self.inner().seen.remove(&id);
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
