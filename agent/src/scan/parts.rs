//! Looking at directories in parts: what is judged by itself then, and what must not be judged twice.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use understudy_protocol::{DirectoryId, Place};

use super::Scan;
use super::doubts::Apart;

/// Shared by all workers; empty where everything is looked at, each place once.
#[derive(Debug, Default)]
pub(super) struct Parts {
    /// Names that are judged by themselves, not with their directory.
    apart: OnceLock<HashMap<DirectoryId, Apart>>,
    /// Directories that were looked at with all that is below.
    wholes: Mutex<HashSet<DirectoryId>>,
    /// Places where something was put.
    put: Mutex<HashSet<Place>>,
}

impl Scan<'_> {
    /// From here on only some names of directories are looked at.
    pub(super) fn look_in_parts(&self, apart: HashMap<DirectoryId, Apart>) {
        self.parts.apart.get_or_init(|| apart);
    }

    /// The names of a directory that are judged by themselves.
    pub(super) fn apart(&self, id: DirectoryId) -> Option<&Apart> {
        self.parts.apart.get().and_then(|apart| apart.get(&id))
    }

    /// Whether nobody has looked at all of a directory yet.
    pub(super) fn is_first_whole(&self, id: DirectoryId) -> bool {
        !self.is_in_parts()
            || self
                .parts
                .wholes
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .insert(id)
    }

    /// Notes that something is put at a place.
    pub(super) fn note_put(&self, place: &Place) {
        if self.may_meet_again(place) {
            self.put().insert(place.clone());
        }
    }

    /// Whether something was put at a place.
    pub(super) fn is_put(&self, place: &Place) -> bool {
        self.may_meet_again(place) && self.put().contains(place)
    }

    /// What is in new directories is looked at once.
    fn may_meet_again(&self, place: &Place) -> bool {
        self.is_in_parts() && place.parent.0 < self.first_new
    }

    /// Whether only some names are looked at.
    pub(super) fn is_in_parts(&self) -> bool {
        self.parts.apart.get().is_some()
    }

    fn put(&self) -> MutexGuard<'_, HashSet<Place>> {
        self.parts
            .put
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
