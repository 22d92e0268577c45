//! What the tests of this crate share: a spare that keeps everything in memory and checks every rule, a stage with
//! a source tree, and moments at which a test can change the tree behind the scan's back.
#![expect(clippy::disallowed_methods, reason = "prepares trees")]

pub(crate) mod observer;
pub(crate) mod spare;
pub(crate) mod user;

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use understudy_protocol::message::Change;
use understudy_protocol::transport::{Channel, in_process};
use understudy_protocol::{DatasetName, DirectoryId, Entry, Node, SecretKey, StateDigest};
use understudy_tree::{Excludes, Mounts};

use crate::index::Index;
use crate::journal::Journal;
use crate::scan::Trust;
use crate::sync::{Carrying, Making, Patience, Reliance, Telling, cycle};
use crate::{AgentError, Cancel, Context, Pace, Progress, Source, SyncReport, sync};
use spare::Spare;

type Hook = Box<dyn FnOnce() + Send>;

static HOOKS: Mutex<Option<HashMap<(PathBuf, String), Hook>>> = Mutex::new(None);

static ALONE: Mutex<()> = Mutex::new(());

/// Change times older than two ticks prove something.
pub(crate) fn settle() {
    let until = std::time::Instant::now() + std::time::Duration::from_millis(30);
    // A thread that was waited for before may wake this one once more.
    while let Some(left) = until.checked_duration_since(std::time::Instant::now()) {
        std::thread::park_timeout(left);
    }
}

/// A scan of `source` has reached `moment`.
pub(crate) fn passed(source: &Path, moment: &str) {
    let hook = HOOKS
        .lock()
        .expect("hooks")
        .as_mut()
        .and_then(|hooks| hooks.remove(&(source.into(), moment.into())));
    if let Some(hook) = hook {
        // Hooks of several workers at once would disturb one another.
        let _alone = ALONE.lock().expect("hooks");
        hook();
    }
}

/// The digest that was kept by differences is that of the pending rows.
pub(crate) fn assert_digest(index: &Index, digest: &StateDigest) {
    let mut rows = StateDigest::empty();
    let mut pending = vec![DirectoryId::TOP];
    let mut listed = Vec::new();
    while let Some(id) = pending.pop() {
        for (place, known) in index.pending_children(id).expect("rows") {
            rows.add(&place, &known.entry);
            pending.extend(known.entry.directory_id());
            listed.push((place, known.entry.node));
        }
    }
    assert!(
        rows == *digest,
        "the digest is not that of the rows: {listed:#?}"
    );
    assert_eq!(rows.weight(), digest.weight());
}

/// A source, a state directory and a spare.
pub(crate) struct Stage {
    scratch: tempfile::TempDir,
    pub(crate) source: Source,
    pub(crate) spare: Arc<Mutex<Spare>>,
    /// The key that signs what is sent.
    pub(crate) signer: Option<Arc<SecretKey>>,
    /// Who takes databases among the files.
    pub(crate) images: Option<Arc<dyn crate::images::Images>>,
}

impl Stage {
    pub(crate) fn new() -> Self {
        let scratch = tempfile::tempdir().expect("tempdir");
        let path = scratch.path().join("source");
        std::fs::create_dir(&path).expect("source");
        let dataset = DatasetName::new("test").expect("name");
        let source = Source {
            path,
            dataset,
            excludes: Excludes::none(),
            mounts: Mounts::Stay,
            emptied: crate::Emptied::Refuse,
            sweep: Source::SWEEP,
            unsettled: crate::Unsettled::default(),
            databases: Vec::new(),
            stillness: None,
            snapshot: None,
            on_database_failure: Default::default(),
            sqlite: Default::default(),
        };
        Self {
            scratch,
            source,
            spare: Arc::default(),
            signer: None,
            images: None,
        }
    }

    pub(crate) fn path(&self, relative: &str) -> PathBuf {
        self.source.path.join(relative)
    }

    pub(crate) fn beside(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    pub(crate) fn write(&self, relative: &str, content: impl AsRef<[u8]>) {
        let path = self.path(relative);
        std::fs::create_dir_all(path.parent().expect("parent")).expect("parents");
        std::fs::write(path, content).expect("write");
    }

    pub(crate) fn rename(&self, from: &str, to: &str) {
        std::fs::rename(self.path(from), self.path(to)).expect("rename");
    }

    /// Runs `hook` when the next scan reaches `moment`.
    pub(crate) fn at(&self, moment: &str, hook: impl FnOnce() + Send + 'static) {
        let key = (self.source.path.clone(), moment.to_owned());
        HOOKS
            .lock()
            .expect("hooks")
            .get_or_insert_default()
            .insert(key, Box::new(hook));
    }

    /// Forgets hooks whose moment never came.
    pub(crate) fn forget_hooks(&self) {
        let mut hooks = HOOKS.lock().expect("hooks");
        hooks
            .get_or_insert_default()
            .retain(|(source, _), _| *source != self.source.path);
    }

    pub(crate) fn context(&self) -> Context {
        let progress = Arc::new(Progress::default());
        Context {
            state: self.beside("state"),
            spare: "fake".to_owned(),
            progress,
            cancel: Cancel::default(),
            store: None,
            signer: self.signer.clone(),
            databases: None,
            images: self.images.clone(),
            pace: Arc::new(Pace::unlimited()),
        }
    }

    pub(crate) fn with_channel<T>(&self, talk: impl FnOnce(Channel) -> T) -> T {
        let (ours, theirs) = in_process();
        let spare = Arc::clone(&self.spare);
        let session = std::thread::spawn(move || spare::serve(&spare, theirs));
        let result = talk(ours);
        session.join().expect("the spare saw a broken rule");
        result
    }

    /// A connection that the spare cuts after it has sent so many messages.
    pub(crate) fn channel_cut_after(&self, messages: usize) -> Channel {
        let (ours, theirs) = in_process();
        let spare = Arc::clone(&self.spare);
        std::thread::spawn(move || spare::serve_until(&spare, theirs, messages));
        ours
    }

    pub(crate) fn try_sync(&self) -> Result<SyncReport, AgentError> {
        self.with_channel(|channel| sync(channel, &self.source, &self.context()))
    }

    /// One cycle that relies on `journal`.
    pub(crate) fn try_cycle(&self, journal: &Journal) -> Result<SyncReport, AgentError> {
        let reliance = Reliance {
            journal: Some(journal),
            sweep: None,
            trust: Trust::Times,
            patience: Patience::None,
            telling: Telling::Nobody,
            carrying: Carrying::On,
            making: Making::Always,
            captured: None,
            turn: crate::scan::Turn::Whichever,
            freeze: None,
            still: None,
        };
        self.with_channel(|channel| cycle(channel, &self.source, &self.context(), reliance))
    }

    pub(crate) fn sync(&self) -> SyncReport {
        self.try_sync().expect("sync")
    }

    /// Syncs and checks that the spare has what the source has.
    pub(crate) fn sync_and_compare(&self) -> SyncReport {
        let report = self.sync();
        self.compare();
        report
    }

    pub(crate) fn spare(&self) -> MutexGuard<'_, Spare> {
        self.spare.lock().expect("spare")
    }

    /// The changes of the last upload, in the form `put a/b keep c` with paths of before or after.
    pub(crate) fn changes(&self) -> Vec<Change> {
        self.spare().uploads.last().cloned().unwrap_or_default()
    }

    /// The changes of the last upload but those of directories that stay where they are: their times change with
    /// everything in them.
    pub(crate) fn changes_beyond_times(&self) -> Vec<Change> {
        let spare = self.spare();
        let stays = |change: &Change| match change {
            Change::Put { place, entry, .. } => {
                entry.directory_id().is_some()
                    && spare
                        .before
                        .get(place)
                        .is_some_and(|(was, _)| was.node == entry.node)
            }
            Change::Touch { .. } | Change::Remove { .. } => false,
        };
        let last = spare.uploads.last().cloned().unwrap_or_default();
        last.into_iter().filter(|change| !stays(change)).collect()
    }

    /// Checks that the spare has what the source has.
    pub(crate) fn compare(&self) {
        let (spare, disk) = (self.spare().tree(), tree_of(&self.source.path));
        let names = |tree: &Tree| {
            tree.keys()
                .map(|path| path.escape_ascii().to_string())
                .collect::<Vec<_>>()
        };
        assert_eq!(names(&spare), names(&disk));
        for (path, (entry, file)) in &spare {
            let (expected, inode) = &disk[path];
            assert_eq!(entry, expected, "{}", path.escape_ascii());
            for (other, (other_entry, other_file)) in &spare {
                let same_here = disk[other].1 == *inode;
                if entry.group != 0 && other_entry.group != 0 {
                    assert_eq!(
                        file == other_file,
                        same_here,
                        "{} {}",
                        path.escape_ascii(),
                        other.escape_ascii()
                    );
                }
            }
        }
    }
}

/// Entries by path, with what tells files apart; numbers of directories are left out.
pub(crate) type Tree = BTreeMap<Vec<u8>, (Entry, u64)>;

/// What is on disk.
pub(crate) fn tree_of(root: &Path) -> Tree {
    use understudy_protocol::Name;
    use understudy_tree::{Directory, Kind, Stat, content, node, walk};
    let directory = Directory::open(root, Mounts::Stay).expect("open");
    let mut tree = Tree::new();
    walk::walk(
        &directory,
        |parent, visited| -> Result<bool, understudy_tree::TreeError> {
            let (name, stat): (&Name, &Stat) = (&visited.name, &visited.stat);
            if stat.kind == Kind::Socket {
                return Ok(false);
            }
            let attributes = node::read_attributes(parent, name, stat)?;
            let node = match node::read_node(parent, name, stat, DirectoryId::TOP)? {
                Some(node) => node,
                None => {
                    let hash = content::hash_file(&parent.open_file(name)?, stat.size)?;
                    Node::File {
                        size: stat.size,
                        hash,
                    }
                }
            };
            let group = if stat.links > 1 && stat.kind != Kind::Directory {
                stat.identity.inode
            } else {
                0
            };
            let path = visited.parent.join(name).as_bytes().to_vec();
            tree.insert(
                path,
                (
                    Entry {
                        attributes,
                        node,
                        group,
                    },
                    stat.identity.inode,
                ),
            );
            Ok(true)
        },
    )
    .expect("walk");
    tree
}
