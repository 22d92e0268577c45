//! The journal: what may have changed in a source since its last cycle, and for which stretch nobody can tell.
//!
//! Events arrive on the watcher's thread and become marks, numbered in order. A cycle takes the marks, looks at
//! what they name and acknowledges them by number once the spare has the result: what was told about meanwhile
//! has a higher number and stays. A *gap* says that marks are not enough; only a finished look at everything
//! closes it. The journal knows neither the tree nor the index nor the network.

mod marks;
mod store;

use std::collections::HashSet;
use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use understudy_protocol::{DatasetName, Name};
use understudy_tree::Identity;

use crate::db;
use crate::error::AgentError;

use marks::{Added, Marks};
use store::{Former, Store};

pub(crate) use marks::{Doubt, Marked};

/// Makes all that happened so far arrive in the journal.
pub(crate) type Drain = dyn Fn() + Send + Sync;

/// All journals of an agent, kept in one database.
#[derive(Debug)]
pub(crate) struct Journals {
    store: Mutex<Store>,
}

impl Journals {
    /// Opens or makes the database in the state directory. One that is damaged is made anew: a journal is only
    /// trusted after a look at everything.
    pub(crate) fn open(state: &Path) -> Result<Self, AgentError> {
        db::ensure_state_directory(state)?;
        Ok(Self {
            store: Mutex::new(Store::open(&state.join("journal.db"))?),
        })
    }

    /// The journal of a dataset: with the marks that were written down, and a gap, for nobody watched until now.
    pub(crate) fn journal(
        &self,
        dataset: &DatasetName,
        drain: Arc<Drain>,
    ) -> Result<Journal, AgentError> {
        let loaded = self.store().load(dataset);
        let (marks, last) = match loaded {
            Ok(loaded) => loaded,
            Err(error) => {
                self.store().renew(&error)?;
                (Marks::default(), 0)
            }
        };
        let inner = Inner {
            marks,
            last,
            gap: None,
            nowhere: HashSet::new(),
            saved: last,
            is_rewritten: false,
        };
        let journal = Journal {
            dataset: dataset.clone(),
            inner: Mutex::new(inner),
            drain,
        };
        journal.gap("the agent was not running");
        Ok(journal)
    }

    /// Writes down what came since the last call. The journal is free meanwhile, for the watcher must not wait for a
    /// disk: what it notes then is written by the next call.
    pub(crate) fn save(&self, journal: &Journal) -> Result<(), AgentError> {
        let mut store = self.store();
        let (marks, former, up_to) = {
            let mut inner = journal.inner();
            if inner.saved == inner.last && !inner.is_rewritten {
                return Ok(());
            }
            let (former, after) = if std::mem::take(&mut inner.is_rewritten) {
                (Former::Dropped, 0)
            } else {
                (Former::Kept, inner.saved)
            };
            (inner.marks.copy_since(after), former, inner.last)
        };
        let result = store.save(&journal.dataset, &marks, former);
        let mut inner = journal.inner();
        match result {
            Ok(()) => inner.saved = up_to,
            Err(_) => inner.is_rewritten |= former == Former::Dropped,
        }
        result
    }

    /// Forgets datasets that are not among these.
    pub(crate) fn keep(&self, datasets: &[DatasetName]) -> Result<(), AgentError> {
        let kept = self.store().keep(datasets);
        match kept {
            Err(error) => self.store().renew(&error),
            Ok(()) => Ok(()),
        }
    }

    fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The journal of one dataset.
pub(crate) struct Journal {
    dataset: DatasetName,
    inner: Mutex<Inner>,
    drain: Arc<Drain>,
}

impl fmt::Debug for Journal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Journal")
            .field("dataset", &self.dataset)
            .finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct Inner {
    marks: Marks,
    /// The number of the last event.
    last: u64,
    gap: Option<Gap>,
    /// Directories that the last cycle could not find.
    nowhere: HashSet<Identity>,
    /// The number up to which marks are written down.
    saved: u64,
    /// Whether marks went that are written down.
    is_rewritten: bool,
}

#[derive(Debug)]
struct Gap {
    number: u64,
    reason: String,
}

/// What a journal says at one moment.
#[derive(Debug, Clone)]
pub(crate) struct Taken {
    /// The number of the last event; acknowledging it covers what is in here and nothing later.
    pub(crate) up_to: u64,
    /// Why marks are not enough, if they are not.
    pub(crate) gap: Option<String>,
    /// What is in doubt.
    pub(crate) marked: Vec<Marked>,
    /// Files that are in doubt by whatever names they have.
    pub(crate) files: Vec<Identity>,
}

/// What a finished cycle looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Covered {
    /// What was marked.
    Marks,
    /// Everything: that closes a gap.
    Everything,
}

impl Journal {
    /// A directory itself may have changed, or what stands at a name in it.
    pub(crate) fn note(&self, directory: Identity, name: Option<(Name, Doubt)>) {
        let mut inner = self.inner();
        inner.last += 1;
        let number = inner.last;
        let added = inner.marks.add(directory, name, number);
        inner.take_note(added);
    }

    /// A file may have changed, and be known by other names than the one that was told.
    pub(crate) fn note_file(&self, file: Identity) {
        let mut inner = self.inner();
        inner.last += 1;
        let number = inner.last;
        let added = inner.marks.add_file(file, number);
        inner.take_note(added);
    }

    /// From here back to the last look at everything nothing is certain.
    pub(crate) fn gap(&self, reason: &str) {
        let mut inner = self.inner();
        inner.last += 1;
        inner.open_gap(reason);
    }

    /// Waits until all that happened before is in the journal, and takes what has a number after `number`.
    pub(crate) fn take_since(&self, number: u64) -> Taken {
        (self.drain)();
        let inner = self.inner();
        Taken {
            up_to: inner.last,
            gap: inner.gap.as_ref().map(|gap| gap.reason.clone()),
            marked: inner.marks.since(number),
            files: inner.marks.files_since(number),
        }
    }

    /// Forgets what a cycle that took `up_to` has brought to the spare.
    pub(crate) fn acknowledge(&self, up_to: u64, covered: Covered) {
        let mut inner = self.inner();
        if covered == Covered::Everything {
            inner.gap.take_if(|gap| gap.number <= up_to);
        }
        inner.marks.drop_until(up_to);
        inner.is_rewritten = true;
    }

    /// What a cycle could not settle stays in doubt. A directory that two cycles in a row found nowhere is a gap.
    pub(crate) fn keep_in_doubt(&self, marked: &[Marked], nowhere: &[Marked]) {
        let mut inner = self.inner();
        let before = std::mem::take(&mut inner.nowhere);
        for one in nowhere {
            inner.nowhere.insert(one.identity);
            if before.contains(&one.identity) {
                inner.last += 1;
                inner.open_gap("something that changed could not be found again");
            }
        }
        for one in marked.iter().chain(nowhere) {
            inner.last += 1;
            let number = inner.last;
            let mut added = vec![if one.is_listed {
                inner.marks.add_all_names(one.identity, number)
            } else {
                inner.marks.add(one.identity, None, number)
            }];
            for (name, doubt) in &one.names {
                let name = Some((name.clone(), *doubt));
                added.push(inner.marks.add(one.identity, name, number));
            }
            if added.contains(&Added::TooMany) {
                inner.open_gap("more is in doubt than the journal holds");
            }
            inner.is_rewritten = true;
        }
    }

    /// Whether the journal was told about a name in a directory, or about the directory itself.
    pub(crate) fn was_told(&self, directory: Identity, name: Option<&Name>) -> bool {
        self.inner().marks.has(directory, name)
    }

    /// Whether the journal was told about all below a name in a directory.
    pub(crate) fn was_told_below(&self, directory: Identity, name: &Name) -> bool {
        self.inner().marks.doubt(directory, name) == Some(Doubt::Below)
    }

    /// Whether the journal was told about a file by whatever name.
    pub(crate) fn was_file_told(&self, file: Identity) -> bool {
        self.inner().marks.has_file(file)
    }

    /// How many marks there are.
    pub(crate) fn count(&self) -> usize {
        self.inner().marks.count()
    }

    /// Makes marks wider until at most half of them are left, or opens a gap.
    pub(crate) fn shrink(&self) {
        let mut inner = self.inner();
        let most = inner.marks.count() / 2;
        inner.is_rewritten = true;
        if inner.marks.shrink_to(most) == Added::TooMany {
            inner.last += 1;
            inner.open_gap("more changed than the journals hold together");
        }
    }

    /// Why marks are not enough, if they are not.
    pub(crate) fn open_gap(&self) -> Option<String> {
        self.inner().gap.as_ref().map(|gap| gap.reason.clone())
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn take_note(&mut self, added: Added) {
        match added {
            Added::Kept => {}
            Added::Widened => self.is_rewritten = true,
            Added::TooMany => self.open_gap("more changed than the journal holds"),
        }
    }

    /// The first reason stands: later ones are mostly its consequences.
    fn open_gap(&mut self, reason: &str) {
        let number = self.last;
        match &mut self.gap {
            Some(gap) => gap.number = number,
            None => {
                tracing::info!("the journal has a gap: {reason}");
                self.gap = Some(Gap {
                    number,
                    reason: reason.to_owned(),
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    fn journals(state: &Path) -> Journals {
        Journals::open(state).expect("journals")
    }

    fn journal(journals: &Journals) -> Journal {
        let dataset = DatasetName::new("test").expect("name");
        journals
            .journal(&dataset, Arc::new(|| {}))
            .expect("journal")
    }

    fn note(journal: &Journal, text: &str, doubt: Doubt) {
        let identity = Identity {
            inode: 7,
            born: Some(understudy_protocol::Timestamp {
                seconds: -3,
                nanoseconds: 5,
            }),
        };
        let name = Name::new(text).expect("name");
        journal.note(identity, Some((name, doubt)));
    }

    #[test]
    fn a_gap_is_closed_by_a_look_at_everything_that_began_after_it() {
        let scratch = tempfile::tempdir().expect("tempdir");
        let journals = journals(scratch.path());
        let journal = journal(&journals);
        let first = journal.take_since(0);
        assert!(first.gap.is_some(), "nobody watched before");
        journal.acknowledge(first.up_to, Covered::Marks);
        assert!(journal.open_gap().is_some());
        journal.gap("events were lost");
        journal.acknowledge(first.up_to, Covered::Everything);
        assert!(journal.open_gap().is_some(), "it came after the look began");
        let second = journal.take_since(0);
        journal.acknowledge(second.up_to, Covered::Everything);
        assert!(journal.open_gap().is_none());
    }

    #[test]
    fn marks_survive_the_agent_and_doubts_of_content_with_them() {
        let scratch = tempfile::tempdir().expect("tempdir");
        {
            let journals = journals(scratch.path());
            let journal = journal(&journals);
            note(&journal, "kept", Doubt::Content);
            note(&journal, "acknowledged", Doubt::Entry);
            journals.save(&journal).expect("save");
            let taken = journal.take_since(0);
            note(&journal, "kept", Doubt::Entry);
            journal.acknowledge(taken.up_to, Covered::Marks);
            note(&journal, "lost", Doubt::Entry);
            note(&journal, "below", Doubt::Below);
            journals.save(&journal).expect("save");
            note(&journal, "never written down", Doubt::Entry);
        }
        let journals = journals(scratch.path());
        let again = journal(&journals);
        let taken = again.take_since(0);
        assert!(
            taken.gap.is_some(),
            "what was not written down is covered by a gap"
        );
        let [marked] = &taken.marked[..] else {
            unreachable!("one directory")
        };
        let names: Vec<_> = marked
            .names
            .iter()
            .map(|(name, doubt)| (name.to_string(), *doubt))
            .collect();
        let expected = [
            ("below", Doubt::Below),
            ("kept", Doubt::Content),
            ("lost", Doubt::Entry),
        ];
        assert_eq!(
            names,
            expected.map(|(name, doubt)| (name.to_owned(), doubt))
        );
        note(&again, "new", Doubt::Entry);
        assert_eq!(again.take_since(taken.up_to).marked[0].names.len(), 1);
    }

    thread_local! {
        /// What SQLite waits for in the next test, and the journal that is being saved.
        static BLOCKER: RefCell<Option<(rusqlite::Connection, Arc<Journal>)>> = RefCell::default();
    }

    /// Whether SQLite shall try again: it has to write now, and cannot.
    fn note_while_saving(_tries: i32) -> bool {
        let Some((_blocker, journal)) = BLOCKER.take() else {
            return false;
        };
        assert!(journal.inner.try_lock().is_ok(), "the watcher would wait");
        let taken = journal.take_since(0);
        note(&journal, "meanwhile", Doubt::Content);
        journal.acknowledge(taken.up_to, Covered::Marks);
        true
    }

    #[test]
    fn a_journal_hears_and_forgets_while_it_is_saved() {
        let scratch = tempfile::tempdir().expect("tempdir");
        {
            let journals = journals(scratch.path());
            let journal = Arc::new(journal(&journals));
            note(&journal, "before", Doubt::Entry);
            let blocker = db::connect(&scratch.path().join("journal.db")).expect("connect");
            blocker.execute_batch("BEGIN IMMEDIATE").expect("lock");
            let handled = journals
                .store()
                .connection
                .busy_handler(Some(note_while_saving));
            handled.expect("handler");
            BLOCKER.set(Some((blocker, Arc::clone(&journal))));
            journals.save(&journal).expect("save");
            assert!(BLOCKER.take().is_none(), "it had to wait");
            journals.save(&journal).expect("save the rest");
        }
        let again = journal(&journals(scratch.path())).take_since(0);
        let [marked] = &again.marked[..] else {
            unreachable!("one directory")
        };
        let names: Vec<_> = marked.names.keys().map(Name::to_string).collect();
        assert_eq!(names, ["meanwhile"]);
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "damages a file")]
    fn a_damaged_journal_is_made_anew() {
        let scratch = tempfile::tempdir().expect("tempdir");
        {
            let journals = journals(scratch.path());
            note(&journal(&journals), "a", Doubt::Entry);
        }
        std::fs::write(scratch.path().join("journal.db"), "no database at all").expect("damage");
        let journals = journals(scratch.path());
        let journal = journal(&journals);
        note(&journal, "a", Doubt::Entry);
        journals.save(&journal).expect("save");
        assert_eq!(journal.take_since(0).marked.len(), 1);
    }
}
