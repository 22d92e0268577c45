//! What sessions tell of their cycles, kept until the watch looks. Knows no limits and decides nothing.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use understudy_protocol::{DatasetName, Failure, FailureCode, ProtocolError, escape};

use crate::error::ReceiverError;

/// Characters of a reason that are kept: it goes into messages for people.
const REASON_CHARACTERS: usize = 1000;

/// What has become of a dataset's cycles.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct News {
    /// Begin of the newest good cycle's capture, if there was a good one.
    pub(crate) as_of_seconds: Option<i64>,
    /// Cycles that failed after it.
    pub(crate) failures: u32,
    /// Why the last of them failed.
    pub(crate) failure: Option<String>,
    /// Why a guard refused one of them.
    pub(crate) refused: Option<String>,
}

impl News {
    /// These, and later ones after them.
    pub(crate) fn and_then(&mut self, later: Self) {
        if later.as_of_seconds.is_some() {
            *self = later;
            return;
        }
        self.failures = self.failures.saturating_add(later.failures);
        self.failure = later.failure.or(self.failure.take());
        self.refused = later.refused.or(self.refused.take());
    }
}

/// The cycles of this process's sessions.
#[derive(Debug, Default)]
pub(crate) struct Cycles {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    news: BTreeMap<DatasetName, News>,
    running: BTreeSet<DatasetName>,
}

impl Cycles {
    fn state(&self) -> MutexGuard<'_, State> {
        // Every change is one insertion or removal, so the maps are whole after any panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, dataset: &DatasetName, news: News) {
        let mut state = self.state();
        state
            .news
            .entry(dataset.clone())
            .or_default()
            .and_then(news);
    }

    /// A cycle failed that no session has seen.
    pub(crate) fn failed(&self, dataset: &DatasetName, reason: &str) {
        self.add(dataset, failure(reason));
    }

    /// An upload begins; how it ends is counted when the result is dropped.
    pub(crate) fn begin(&self, dataset: &DatasetName) -> Observed<'_> {
        Observed {
            cycles: self,
            dataset: dataset.clone(),
            has_lock: Cell::new(false),
            is_good: Cell::new(false),
            end: RefCell::new(failure(
                "its session broke off by a defect of the receiver; the receiver's log has more",
            )),
        }
    }

    /// Everything since the last call.
    pub(crate) fn take(&self) -> BTreeMap<DatasetName, News> {
        std::mem::take(&mut self.state().news)
    }

    /// The datasets whose upload was let in and has not ended.
    pub(crate) fn running(&self) -> BTreeSet<DatasetName> {
        self.state().running.clone()
    }
}

/// One upload, from its `Begin` to its end.
#[derive(Debug)]
pub(crate) struct Observed<'a> {
    cycles: &'a Cycles,
    dataset: DatasetName,
    has_lock: Cell<bool>,
    is_good: Cell<bool>,
    end: RefCell<News>,
}

impl Observed<'_> {
    /// It has the dataset for itself.
    pub(crate) fn runs(&self) {
        self.has_lock.set(true);
        self.cycles.state().running.insert(self.dataset.clone());
    }

    /// A snapshot was committed or confirmed: whatever comes after, the cycle has not failed.
    pub(crate) fn is_good(&self, as_of_seconds: i64) {
        self.is_good.set(true);
        let news = News {
            as_of_seconds: Some(as_of_seconds),
            ..News::default()
        };
        self.cycles.add(&self.dataset, news);
    }

    /// How the session ended.
    pub(crate) fn end(self, result: &Result<(), ReceiverError>) {
        let refusal = |reason: &str| News {
            refused: Some(shown(reason)),
            ..failure(reason)
        };
        *self.end.borrow_mut() = match result {
            Ok(()) | Err(ReceiverError::Protocol(ProtocolError::Cut)) => failure(
                "the agent ended the upload without a snapshot or a confirmation; the agent's log says why",
            ),
            // The other one will tell.
            Err(ReceiverError::Busy(_)) => News::default(),
            Err(ReceiverError::Refused(reason))
            | Err(ReceiverError::Protocol(ProtocolError::Failed(Failure {
                code: FailureCode::Refused,
                text: reason,
            }))) => refusal(reason),
            Err(error) => failure(&error.to_string()),
        };
    }
}

impl Drop for Observed<'_> {
    fn drop(&mut self) {
        if self.has_lock.get() {
            self.cycles.state().running.remove(&self.dataset);
        }
        let end = self.end.take();
        if !self.is_good.get() && end != News::default() {
            self.cycles.add(&self.dataset, end);
        }
    }
}

fn failure(reason: &str) -> News {
    News {
        failures: 1,
        failure: Some(shown(reason)),
        ..News::default()
    }
}

/// A reason as it may stand in logs, variables and messages: the other side chose it.
fn shown(reason: &str) -> String {
    escape(reason.as_bytes())
        .chars()
        .take(REASON_CHARACTERS)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(result: &Result<(), ReceiverError>) -> News {
        let (cycles, name) = (Cycles::default(), DatasetName::fit(b"site"));
        cycles.begin(&name).end(result);
        cycles.take().remove(&name).unwrap_or_default()
    }

    #[test]
    fn every_end_but_a_good_or_a_busy_one_is_a_failure() {
        let name = DatasetName::fit(b"site");
        assert_eq!(ended(&Ok(())).failures, 1);
        assert_eq!(ended(&Err(ReceiverError::Busy(name.clone()))).failures, 0);
        let news = ended(&Err(ReceiverError::NoSpace("staging\0".to_owned())));
        assert_eq!((news.failures, news.refused), (1, None));
        assert!(!news.failure.expect("reason").contains('\0'));
        let told = Failure::new(FailureCode::Refused, "the source is empty");
        for error in [
            ReceiverError::Refused("it is empty".to_owned()),
            ProtocolError::Failed(told).into(),
        ] {
            let news = ended(&Err(error));
            assert!(news.refused.expect("refused").contains("is empty"));
        }
        let cycles = Cycles::default();
        let observed = cycles.begin(&name);
        observed.runs();
        drop(cycles.begin(&name));
        assert!(cycles.running().contains(&name), "of another session");
        observed.is_good(7);
        observed.end(&Err(ReceiverError::Worker));
        assert!(cycles.running().is_empty());
        assert_eq!(cycles.take()[&name].as_of_seconds, Some(7));
        // A session that panics drops it.
        drop(cycles.begin(&name));
        assert_eq!(cycles.take()[&name].failures, 1);
    }

    #[test]
    fn a_good_cycle_makes_earlier_failures_forgotten() {
        let (cycles, name) = (Cycles::default(), DatasetName::fit(b"site"));
        cycles.failed(&name, "first");
        let observed = cycles.begin(&name);
        observed.is_good(8);
        observed.end(&Ok(()));
        cycles.failed(&name, "second");
        cycles.failed(&name, "third");
        let news = cycles.take().remove(&name).expect("news");
        assert_eq!((news.as_of_seconds, news.failures), (Some(8), 2));
        assert_eq!(news.failure.as_deref(), Some("third"));
    }
}
