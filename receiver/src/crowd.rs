//! How much one main has going on at once in this process, so that none keeps the others out.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use understudy_protocol::{MainName, limits};

use crate::error::ReceiverError;
use crate::peer::Peer;

/// What may be too many at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Matter {
    Session,
    Upload,
    /// Verifications read everything.
    Verification,
}

impl Matter {
    fn most(self) -> usize {
        match self {
            Self::Session => limits::SESSIONS_OF_MAIN,
            Self::Upload => limits::UPLOADS_OF_MAIN,
            Self::Verification => limits::VERIFICATIONS_OF_MAIN,
        }
    }

    fn plural(self) -> &'static str {
        match self {
            Self::Session => "sessions",
            Self::Upload => "uploads",
            Self::Verification => "verifications",
        }
    }
}

/// What is going on.
#[derive(Debug, Default)]
pub(crate) struct Crowd(Mutex<HashMap<(MainName, Matter), usize>>);

/// One of them, until it is dropped.
#[derive(Debug)]
pub(crate) struct Admitted<'a> {
    crowd: &'a Crowd,
    /// `None` of whoever is not counted.
    of: Option<(MainName, Matter)>,
}

impl Crowd {
    fn counts(&self) -> MutexGuard<'_, HashMap<(MainName, Matter), usize>> {
        // A map of numbers is whole after any panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets a peer begin one more, unless it has as many as it may.
    pub(crate) fn admit(&self, peer: &Peer, matter: Matter) -> Result<Admitted<'_>, ReceiverError> {
        let mut of = None;
        if let Peer::Main(main) = peer {
            let key = (main.clone(), matter);
            let mut counts = self.counts();
            let count = counts.entry(key.clone()).or_insert(0);
            if *count >= matter.most() {
                let (most, plural) = (matter.most(), matter.plural());
                return Err(ReceiverError::Crowded(format!(
                    "the main `{main}` has {most} {plural} under way on the spare, which is the most at once: wait for one to end"
                )));
            }
            *count += 1;
            of = Some(key);
        }
        Ok(Admitted { crowd: self, of })
    }
}

impl Drop for Admitted<'_> {
    fn drop(&mut self) {
        let Some(key) = self.of.take() else { return };
        let mut counts = self.crowd.counts();
        if let Some(count) = counts.get_mut(&key) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&key);
            }
        }
    }
}

/// Questions of a session that are answered at once.
const AT_ONCE: usize = 100;
/// The shortest and the longest pause after each that comes later.
const PAUSES: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(5));

/// What a session has asked so far. Whoever asks without end gets half of the time of one thread, and then nothing.
#[derive(Debug, Default)]
pub(crate) struct Questions {
    asked: usize,
    /// When the one that is being answered came.
    began: Option<Instant>,
    /// How long the answer before took.
    took: Duration,
}

impl Questions {
    /// Another question came.
    pub(crate) fn next(&mut self, peer: &Peer) -> Result<(), ReceiverError> {
        if *peer == Peer::Operator {
            return Ok(());
        }
        if self.asked >= limits::QUESTIONS {
            return Err(ReceiverError::Misbehaved(format!(
                "it asks for more than {} things in one session",
                limits::QUESTIONS
            )));
        }
        if self.asked >= AT_ONCE {
            std::thread::park_timeout(self.took.clamp(PAUSES.0, PAUSES.1));
        }
        self.asked += 1;
        self.began = Some(Instant::now());
        Ok(())
    }

    /// The last one is answered.
    pub(crate) fn answered(&mut self) {
        if let Some(began) = self.began.take() {
            self.took = began.elapsed();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_main_keeps_no_other_out() {
        let crowd = Crowd::default();
        let main = |name: &str| Peer::Main(MainName::new(name).expect("name"));
        let mut held = Vec::new();
        for _ in 0..limits::UPLOADS_OF_MAIN {
            held.push(crowd.admit(&main("alpha"), Matter::Upload).expect("room"));
        }
        assert!(matches!(
            crowd.admit(&main("alpha"), Matter::Upload),
            Err(ReceiverError::Crowded(_))
        ));
        crowd.admit(&main("alpha"), Matter::Session).expect("other");
        crowd.admit(&main("beta"), Matter::Upload).expect("other");
        crowd.admit(&Peer::Operator, Matter::Upload).expect("other");
        held.pop();
        crowd.admit(&main("alpha"), Matter::Upload).expect("room");
        drop(held);
        assert!(crowd.counts().is_empty());
    }

    #[test]
    fn questions_end() {
        let main = Peer::Main(MainName::new("alpha").expect("name"));
        let mut questions = Questions {
            asked: limits::QUESTIONS - 1,
            ..Questions::default()
        };
        questions.next(&main).expect("the last one");
        assert!(matches!(
            questions.next(&main),
            Err(ReceiverError::Misbehaved(_))
        ));
        questions.next(&Peer::Operator).expect("not counted");
    }
}
