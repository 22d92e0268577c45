//! What the uploads of each main that run in this process have staged: together they stay within its quota.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use understudy_protocol::{DatasetName, MainName};

use super::Used;

/// All that run.
#[derive(Debug, Default, Clone)]
pub(crate) struct Shares(Arc<Mutex<Running>>);

#[derive(Debug, Default)]
struct Running {
    /// There is one upload of a dataset at once.
    staged: HashMap<(MainName, DatasetName), Used>,
    /// How many have ended: what they had staged is in catalogs since, or gone.
    ended: u64,
}

/// That of one upload, until it is dropped.
#[derive(Debug)]
pub(crate) struct Share {
    shares: Shares,
    key: (MainName, DatasetName),
}

/// What came of asking for more.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Granted {
    Yes,
    /// Another upload has ended: catalogs have to be looked at again.
    Outdated,
    /// Why it is too much.
    No(String),
}

impl Shares {
    fn running(&self) -> MutexGuard<'_, Running> {
        // Every change is one insertion or removal.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An upload begins.
    pub(crate) fn begin(&self, main: &MainName, dataset: &DatasetName) -> Share {
        let key = (main.clone(), dataset.clone());
        self.running().staged.insert(key.clone(), Used::default());
        let shares = self.clone();
        Share { shares, key }
    }

    /// How many have ended so far.
    pub(crate) fn ended(&self) -> u64 {
        self.running().ended
    }

    /// Whether a dataset is being uploaded to here.
    pub(crate) fn has(&self, main: &MainName, dataset: &DatasetName) -> bool {
        let key = (main.clone(), dataset.clone());
        self.running().staged.contains_key(&key)
    }
}

impl Share {
    /// Takes so much in all, unless `excess` says why that is too much beside what the main's other uploads have taken. `ended` was
    /// asked for before catalogs were looked at.
    pub(crate) fn take(
        &self,
        more: Used,
        ended: u64,
        excess: impl FnOnce(Used) -> Option<String>,
    ) -> Granted {
        let mut running = self.shares.running();
        if running.ended != ended {
            return Granted::Outdated;
        }
        let others = running.staged.iter();
        let others = others.filter(|(key, _)| key.0 == self.key.0 && **key != self.key);
        let others = others.fold(Used::default(), |sum, (_, used)| sum.and(*used));
        match excess(others) {
            Some(why) => Granted::No(why),
            None => {
                running.staged.insert(self.key.clone(), more);
                Granted::Yes
            }
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut running = self.shares.running();
        running.staged.remove(&self.key);
        running.ended += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uploads_of_one_main_share_what_it_may_have() {
        let shares = Shares::default();
        let main = |name: &str| MainName::new(name).expect("name");
        let dataset = |name: &str| DatasetName::new(name).expect("name");
        let used = |files| Used { bytes: 0, files };
        let most_ten = |more: u64| {
            move |others: Used| (others.files + more > 10).then(|| others.files.to_string())
        };
        let first = shares.begin(&main("alpha"), &dataset("one"));
        let second = shares.begin(&main("alpha"), &dataset("two"));
        let foreign = shares.begin(&main("beta"), &dataset("three"));
        assert_eq!(first.take(used(6), 0, most_ten(6)), Granted::Yes);
        let refused = Granted::No("6".to_owned());
        assert_eq!(second.take(used(6), 0, most_ten(6)), refused);
        assert_eq!(second.take(used(4), 0, most_ten(4)), Granted::Yes);
        assert_eq!(foreign.take(used(10), 0, most_ten(10)), Granted::Yes);
        drop(first);
        assert_eq!(second.take(used(9), 0, most_ten(9)), Granted::Outdated);
        assert_eq!(second.take(used(9), 1, most_ten(9)), Granted::Yes);
        assert!(!shares.has(&main("alpha"), &dataset("one")));
    }
}
