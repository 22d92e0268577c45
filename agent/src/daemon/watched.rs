//! The watcher of a daemon, and the journals that it fills.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use understudy_protocol::{DatasetName, RelPath};
use understudy_tree::Excludes;
use understudy_tree::watch::{Event, Method, Options, Prefer, Reach, Root, Touched, Watcher};

use crate::config::Watch;
use crate::error::AgentError;
use crate::journal::{Doubt, Journal, Journals};
use crate::{Context, Source};

/// Marks of all datasets together beyond which the journal with the most is shrunk: about 20 MB, and room for four that
/// are full.
const MARKS: usize = 200_000;
/// After so many events the marks are counted: seldom enough to cost nothing, and no more than so many are too many.
const COUNT_EVENTS: u32 = 1_000;

/// One dataset that is watched.
#[derive(Debug)]
struct Ear {
    journal: Arc<Journal>,
    excludes: Excludes,
    /// The directory of the last event, and whether it is left out: goes with the patterns that say so.
    last: Mutex<Option<(RelPath, bool)>>,
}

impl Ear {
    fn new(journal: &Arc<Journal>, excludes: &Excludes) -> Self {
        Self {
            journal: Arc::clone(journal),
            excludes: excludes.clone(),
            last: Mutex::default(),
        }
    }

    /// Whether a directory is excluded: what happens there is nobody's business.
    fn leaves_out(&self, path: RelPath) -> bool {
        if self.excludes.is_empty() {
            return false;
        }
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((last_path, is_left_out)) = &*last
            && *last_path == path
        {
            return *is_left_out;
        }
        let is_left_out = self.excludes.covers(&path);
        *last = Some((path, is_left_out));
        is_left_out
    }
}

/// By the watcher's numbers.
type Ears = Arc<RwLock<HashMap<u32, Ear>>>;

/// Watches the sources of a daemon.
#[derive(Debug)]
pub(super) struct Watched {
    journals: Journals,
    watcher: Arc<Watcher>,
    ears: Ears,
    known: HashMap<DatasetName, Known>,
    next_key: u32,
}

#[derive(Debug)]
struct Known {
    root: Root,
    journal: Arc<Journal>,
}

impl Watched {
    /// Starts watching; nothing is watched yet.
    pub(super) fn start(context: &Context, watch: Watch) -> Result<Self, AgentError> {
        let journals = Journals::open(&context.state)?;
        let ears = Ears::default();
        let options = Options {
            ignored: vec![context.state.clone()],
            prefer: match watch {
                Watch::Auto => Prefer::Best,
                Watch::Inotify => Prefer::Inotify,
                Watch::Never => Prefer::Periodic,
            },
        };
        let mut listener = Listener::new(&ears);
        let watcher = Watcher::start(options, move |event| listener.hear(event))?;
        Ok(Self {
            journals,
            watcher: Arc::new(watcher),
            ears,
            known: HashMap::new(),
            next_key: 0,
        })
    }

    /// From now on these sources are watched, and no others.
    pub(super) fn watch<'a>(
        &mut self,
        sources: impl Iterator<Item = &'a Source>,
    ) -> Result<(), AgentError> {
        let sources: Vec<&Source> = sources.collect();
        let is_wanted = |name: &DatasetName| sources.iter().any(|one| one.dataset == *name);
        let before = self.known.len();
        self.known.retain(|name, _| is_wanted(name));
        let mut is_changed = self.known.len() != before;
        for source in &sources {
            is_changed |= self.listen_to(source)?;
        }
        if !is_changed {
            return Ok(());
        }
        let keys: Vec<u32> = self.known.values().map(|known| known.root.key).collect();
        self.ears
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|key, _| keys.contains(key));
        let names: Vec<DatasetName> = self.known.keys().cloned().collect();
        self.journals.keep(&names)?;
        let roots = self
            .known
            .values()
            .map(|known| known.root.clone())
            .collect();
        self.watcher.watch(roots);
        for (name, known) in &self.known {
            tell_method(name, &self.watcher.method(known.root.key));
        }
        Ok(())
    }

    /// Returns whether it was not known as it is now.
    fn listen_to(&mut self, source: &Source) -> Result<bool, AgentError> {
        let known = self.known.get(&source.dataset);
        let is_same = known.is_some_and(|known| {
            known.root.path == source.path && known.root.mounts == source.mounts
        });
        let (key, journal) = match known {
            Some(known) if is_same => (known.root.key, Arc::clone(&known.journal)),
            _ => {
                self.next_key += 1;
                let watcher = Arc::clone(&self.watcher);
                let drain = Arc::new(move || watcher.drain());
                let journal = self.journals.journal(&source.dataset, drain)?;
                (self.next_key, Arc::new(journal))
            }
        };
        // The patterns may be others than before: what they let through now is found by a look at everything.
        let ear = Ear::new(&journal, &source.excludes);
        self.ears
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(key, ear);
        if !is_same {
            let root = Root {
                key,
                path: source.path.clone(),
                mounts: source.mounts,
            };
            self.known
                .insert(source.dataset.clone(), Known { root, journal });
        }
        Ok(!is_same)
    }

    /// The journal of a dataset, if it is watched.
    pub(super) fn journal(&self, dataset: &DatasetName) -> Option<&Arc<Journal>> {
        self.known.get(dataset).map(|known| &known.journal)
    }

    /// How a dataset is watched.
    pub(super) fn method(&self, dataset: &DatasetName) -> Method {
        match self.known.get(dataset) {
            Some(known) => self.watcher.method(known.root.key),
            None => Method::Unwatched {
                why: "it is not watched yet".to_owned(),
            },
        }
    }

    /// Everything may be another in all sources: their patterns changed.
    pub(super) fn doubt_all(&self, reason: &str) {
        for known in self.known.values() {
            known.journal.gap(reason);
        }
    }

    /// Writes down what the journals heard.
    pub(super) fn save(&self) {
        for known in self.known.values() {
            if let Err(error) = self.journals.save(&known.journal) {
                // What is not written down is covered by the gap that the next start begins with.
                tracing::warn!("{error}");
            }
        }
    }
}

fn tell_method(dataset: &DatasetName, method: &Method) {
    match method {
        Method::Fanotify => tracing::info!("{dataset}: watched by fanotify"),
        Method::Inotify { why_not_fanotify } => {
            tracing::info!("{dataset}: watched by inotify, for {why_not_fanotify}");
        }
        Method::Unwatched { why } => {
            tracing::warn!("{dataset}: not watched, so every cycle compares everything: {why}");
        }
    }
}

/// Turns events into marks, on the watcher's thread.
struct Listener {
    ears: Ears,
    /// Events since the marks were counted.
    events: u32,
}

impl Listener {
    fn new(ears: &Ears) -> Self {
        Self {
            ears: Arc::clone(ears),
            events: 0,
        }
    }

    fn hear(&mut self, event: Event) {
        let ears = self.ears.read().unwrap_or_else(PoisonError::into_inner);
        self.events += 1;
        if self.events >= COUNT_EVENTS {
            self.events = 0;
            keep_within_budget(&ears);
        }
        match event {
            Event::Gap { root, reason } => {
                if let Some(ear) = ears.get(&root) {
                    ear.journal.gap(&reason);
                }
            }
            Event::Inode { root, inode } => {
                if let Some(ear) = ears.get(&root) {
                    ear.journal.note_file(inode);
                }
            }
            Event::Touched {
                root,
                directory,
                path,
                what,
            } => {
                let Some(ear) = ears.get(&root) else { return };
                if ear.leaves_out(path) {
                    return;
                }
                let name = match what {
                    Touched::Itself => None,
                    Touched::Name(name, reach) => Some((name, doubt(reach))),
                };
                ear.journal.note(directory, name);
            }
        }
    }
}

fn keep_within_budget(ears: &HashMap<u32, Ear>) {
    loop {
        let count = |ear: &Ear| ear.journal.count();
        if ears.values().map(count).sum::<usize>() <= MARKS {
            return;
        }
        // Each time its marks are halved, so that this ends.
        if let Some(largest) = ears.values().max_by_key(|ear| count(ear)) {
            largest.journal.shrink();
        }
    }
}

fn doubt(reach: Reach) -> Doubt {
    match reach {
        Reach::Entry => Doubt::Entry,
        Reach::Content => Doubt::Content,
        Reach::Below => Doubt::Below,
    }
}

#[cfg(test)]
mod tests {
    use understudy_protocol::Name;
    use understudy_tree::Identity;

    use super::*;
    use crate::journal::Covered;

    fn event(root: u32, inode: u64, path: &[u8], what: Touched) -> Event {
        Event::Touched {
            root,
            directory: Identity { inode, born: None },
            path: RelPath::new(path).expect("path"),
            what,
        }
    }

    fn touched(root: u32, inode: u64, path: &[u8], name: &str) -> Event {
        let name = Name::new(name).expect("name");
        event(root, inode, path, Touched::Name(name, Reach::Entry))
    }

    fn journal(journals: &Journals, name: &str) -> Arc<Journal> {
        let dataset = DatasetName::new(name).expect("name");
        let journal = journals.journal(&dataset, Arc::new(|| {}));
        Arc::new(journal.expect("journal"))
    }

    #[test]
    fn all_journals_together_have_a_budget_and_the_largest_pays_for_it() {
        let scratch = tempfile::tempdir().expect("tempdir");
        let journals = Journals::open(scratch.path()).expect("journals");
        let ears = Ears::default();
        let journals: Vec<_> = (0..8)
            .map(|key| journal(&journals, &format!("j{key}")))
            .collect();
        for (key, journal) in (0..).zip(&journals) {
            let up_to = journal.take_since(0).up_to;
            journal.acknowledge(up_to, Covered::Everything);
            let ear = Ear::new(journal, &Excludes::none());
            ears.write().expect("ears").insert(key, ear);
        }
        let mut listener = Listener::new(&ears);
        for number in 0..100 {
            listener.hear(touched(0, 1, b"", &number.to_string()));
        }
        for inode in 0..48_000 {
            listener.hear(event(1, inode, b"", Touched::Itself));
        }
        for key in 2..8 {
            for number in 0..45_000 {
                listener.hear(touched(key, number % 10, b"", &number.to_string()));
            }
        }
        let total: usize = journals.iter().map(|journal| journal.count()).sum();
        assert!(total <= MARKS + 2 * COUNT_EVENTS as usize, "{total}");
        assert_eq!(journals[0].count(), 101, "a small one pays nothing");
        assert_eq!(journals[1].count(), 0, "single directories cannot be wider");
        let has_gap = |journal: &Arc<Journal>| journal.open_gap().is_some();
        assert!(has_gap(&journals[1]));
        for journal in &journals[2..] {
            assert!(!has_gap(journal));
            assert_eq!(
                journal.take_since(0).marked.len(),
                10,
                "wider, never forgotten"
            );
        }
    }

    #[test]
    fn new_patterns_count_from_the_next_event_on() {
        let scratch = tempfile::tempdir().expect("tempdir");
        let journals = Journals::open(scratch.path()).expect("journals");
        let journal = journal(&journals, "test");
        let ears = Ears::default();
        let mut listener = Listener::new(&ears);
        let excluding = |patterns: &[&str]| {
            let excludes = Excludes::new(patterns).expect("patterns");
            ears.write()
                .expect("ears")
                .insert(1, Ear::new(&journal, &excludes));
        };
        excluding(&["/cache/"]);
        listener.hear(touched(1, 7, b"cache", "a"));
        assert_eq!(journal.count(), 0);
        excluding(&["/other/"]);
        listener.hear(touched(1, 7, b"cache", "a"));
        assert_eq!(journal.count(), 2, "a directory with a name");
    }
}
