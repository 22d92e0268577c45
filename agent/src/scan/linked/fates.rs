//! Which places give up the file that the base has there: a promise between groups that are judged at the same time.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use understudy_protocol::Place;
use understudy_tree::Identity;

/// What becomes of a base entry at a place that waits for its judgement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// Not judged yet.
    Waiting,
    /// Not judged yet, but another place counts on its file being given up.
    Promised,
    /// Something was put there.
    Put,
    /// The base entry stays.
    Stays,
}

/// The places that wait and have a base entry, with the inode that stands there now.
#[derive(Debug)]
pub(super) struct Fates(Mutex<HashMap<Place, (Identity, Fate)>>);

impl Fates {
    /// All of `places` wait.
    pub(super) fn new(places: impl Iterator<Item = (Place, Identity)>) -> Self {
        Self(Mutex::new(
            places
                .map(|(place, identity)| (place, (identity, Fate::Waiting)))
                .collect(),
        ))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Place, (Identity, Fate)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a place has or had to wait.
    pub(super) fn contains(&self, place: &Place) -> bool {
        self.lock().contains_key(place)
    }

    /// Asks for the file that the base has at `place`, for the inode `wanted` that it was; `None` if the place does
    /// not wait. Once promised, something else is put there.
    pub(super) fn ask_for(&self, place: &Place, wanted: Identity) -> Option<bool> {
        let mut fates = self.lock();
        let (standing, fate) = fates.get_mut(place)?;
        if *standing == wanted {
            return Some(false);
        }
        if *fate == Fate::Waiting {
            *fate = Fate::Promised;
        }
        Some(*fate != Fate::Stays)
    }

    /// Something is put at the place.
    pub(super) fn put(&self, place: &Place) {
        if let Some((_, fate)) = self.lock().get_mut(place) {
            *fate = Fate::Put;
        }
    }

    /// Whether something was put at the place.
    pub(super) fn is_put(&self, place: &Place) -> bool {
        self.lock()
            .get(place)
            .is_some_and(|(_, fate)| *fate == Fate::Put)
    }

    /// The base entry would stay; returns whether its file was promised, so that something must be put.
    pub(super) fn stay(&self, place: &Place) -> bool {
        let mut fates = self.lock();
        let Some((_, fate)) = fates.get_mut(place) else {
            return false;
        };
        let is_promised = *fate == Fate::Promised;
        *fate = if is_promised { Fate::Put } else { Fate::Stays };
        is_promised
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use understudy_protocol::{DirectoryId, Name};

    #[test]
    fn promises_are_kept_and_refusals_stand() {
        let place = |name: &str| Place::new(DirectoryId(1), Name::new(name).expect("name"));
        let inode = |inode| Identity { inode, born: None };
        let fates = Fates::new([(place("a"), inode(1)), (place("b"), inode(2))].into_iter());
        assert_eq!(
            fates.ask_for(&place("a"), inode(1)),
            Some(false),
            "its own file stays"
        );
        assert_eq!(fates.ask_for(&place("a"), inode(2)), Some(true));
        assert!(
            fates.stay(&place("a")),
            "something must be put where the file was promised"
        );
        assert!(!fates.stay(&place("b")));
        assert_eq!(fates.ask_for(&place("b"), inode(1)), Some(false));
        assert_eq!(fates.ask_for(&place("c"), inode(1)), None);
    }
}
