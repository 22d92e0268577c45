//! A watcher that misses nothing: it compares what `stat` says with what it said before.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use understudy_protocol::{DatasetName, Name, RelPath, Timestamp};
use understudy_tree::{Directory, Identity, Mounts, walk};

use crate::journal::{Doubt, Journal, Journals};

/// What tells one state of an inode from another.
type State = (Identity, Timestamp, u64);

/// A directory as it was seen.
#[derive(Clone, PartialEq)]
struct Seen {
    state: State,
    names: HashMap<Name, State>,
}

/// Watches a tree for a journal.
pub(crate) struct Observer {
    root: PathBuf,
    before: Mutex<HashMap<Identity, Seen>>,
    journal: OnceLock<Journal>,
    doubts_below: AtomicBool,
    _journals: Journals,
}

impl Observer {
    /// From now on all below a directory that moved is in doubt, as the true watcher has it.
    pub(crate) fn doubt_below(&self) {
        self.doubts_below.store(true, Ordering::Relaxed);
    }

    /// Watches `root` from now on.
    pub(crate) fn new(root: &Path, state: &Path) -> Arc<Self> {
        std::fs::create_dir_all(state).expect("state");
        let journals = Journals::open(state).expect("journals");
        let observer = Arc::new(Self {
            root: root.to_owned(),
            before: Mutex::new(look(root)),
            journal: OnceLock::new(),
            doubts_below: AtomicBool::new(false),
            _journals: journals,
        });
        let weak = Arc::downgrade(&observer);
        let drain = move || {
            if let Some(observer) = weak.upgrade() {
                observer.observe();
            }
        };
        let dataset = DatasetName::new("test").expect("name");
        let journal = observer
            ._journals
            .journal(&dataset, Arc::new(drain))
            .expect("journal");
        assert!(observer.journal.set(journal).is_ok());
        observer
    }

    pub(crate) fn journal(&self) -> &Journal {
        self.journal.get().expect("set in new")
    }

    /// Tells the journal what changed since the last time.
    fn observe(&self) {
        let mut before = self.before.lock().expect("before");
        let now = look(&self.root);
        for (identity, seen) in &now {
            let former = before.get(identity);
            let was = |name: &Name| former.and_then(|former| former.names.get(name));
            let mut names: Vec<&Name> = seen
                .names
                .iter()
                .filter(|(name, state)| was(name) != Some(*state))
                .map(|(name, _)| name)
                .collect();
            let gone = former.iter().flat_map(|former| former.names.keys());
            names.extend(gone.filter(|name| !seen.names.contains_key(*name)));
            if former.is_none_or(|former| former.state != seen.state) {
                self.journal().note(*identity, None);
            }
            for name in names {
                let standing = seen.names.get(name).map(|state| state.0);
                let moved = standing.filter(|inode| {
                    was(name).is_none_or(|state| state.0 != *inode) && before.contains_key(inode)
                });
                let doubt = match moved {
                    Some(_) if self.doubts_below.load(Ordering::Relaxed) => Doubt::Below,
                    _ => Doubt::Entry,
                };
                self.journal().note(*identity, Some((name.clone(), doubt)));
            }
        }
        // What cannot be looked at now is compared when it can.
        before.extend(now);
    }
}

fn look(root: &Path) -> HashMap<Identity, Seen> {
    let directory = Directory::open(root, Mounts::Stay).expect("open");
    let state =
        |stat: &understudy_tree::Stat| -> State { (stat.identity, stat.changed, stat.size) };
    let stat = directory.stat_self().expect("stat");
    let mut by_path: HashMap<RelPath, Seen> = HashMap::new();
    let seen = |stat: &understudy_tree::Stat| Seen {
        state: state(stat),
        names: HashMap::new(),
    };
    by_path.insert(RelPath::root(), seen(&stat));
    let walked = walk::walk(
        &directory,
        |_, visited| -> Result<bool, understudy_tree::TreeError> {
            if let Some(parent) = by_path.get_mut(&visited.parent) {
                parent
                    .names
                    .insert(visited.name.clone(), state(&visited.stat));
            }
            if visited.stat.kind != understudy_tree::Kind::Directory {
                return Ok(false);
            }
            let path = visited.parent.join(&visited.name);
            let listed = directory.open_beneath(&path).and_then(|open| open.names());
            let is_readable = listed.is_ok();
            if is_readable {
                by_path.insert(path, seen(&visited.stat));
            }
            Ok(is_readable)
        },
    );
    walked.expect("walk");
    by_path
        .into_values()
        .map(|seen| (seen.state.0, seen))
        .collect()
}
