//! Which places of the snapshot in the making have a file that may be a mixture of several states.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use understudy_protocol::Place;

use super::Scan;
use super::read::Certainty;
use crate::error::AgentError;

/// Shared by all workers. A place that nobody tells about stays what it was: what could not be read again is no
/// better than before.
#[derive(Debug)]
pub(super) struct FuzzyPlaces {
    base: BTreeSet<Place>,
    now: Mutex<BTreeSet<Place>>,
    /// Mostly nothing is fuzzy, and then nobody has to wait for anybody.
    is_any: AtomicBool,
}

impl FuzzyPlaces {
    /// As the base has them.
    pub(super) fn new(base: BTreeSet<Place>) -> Self {
        Self {
            is_any: AtomicBool::new(!base.is_empty()),
            now: Mutex::new(base.clone()),
            base,
        }
    }

    /// What the spare will have at a place is certain, or is not.
    pub(super) fn note(&self, place: &Place, certainty: Certainty) {
        match certainty {
            Certainty::Fuzzy => {
                self.is_any.store(true, Ordering::Release);
                self.now().insert(place.clone());
            }
            Certainty::Whole if self.is_any.load(Ordering::Acquire) => {
                self.now().remove(place);
            }
            Certainty::Whole => {}
        }
    }

    /// What is known of the file that the base has at a place.
    pub(super) fn of_base(&self, place: &Place) -> Certainty {
        if self.base.contains(place) {
            Certainty::Fuzzy
        } else {
            Certainty::Whole
        }
    }

    fn now(&self) -> MutexGuard<'_, BTreeSet<Place>> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Scan<'_> {
    /// The fuzzy places of the pending state.
    pub(super) fn fuzzy_places(&self) -> Result<BTreeSet<Place>, AgentError> {
        let mut places = self.fuzzy.now().clone();
        let mut gone = Vec::new();
        for place in &places {
            let known = self.index.pending_at(place)?;
            if known.is_none_or(|known| known.entry.content().is_none()) {
                gone.push(place.clone());
            }
        }
        gone.iter().for_each(|place| {
            places.remove(place);
        });
        Ok(places)
    }
}
