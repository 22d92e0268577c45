//! The only file that knows `notify`: one inotify instance for each tree, one watch for each directory.
//!
//! The watches are set here, one directory at a time, and not by `notify` for a whole subtree: that would give up
//! half-way without a word when a directory vanishes meanwhile, and enter other file systems. `notify`'s thread only
//! puts what it hears into a bounded queue, for it must be free to set watches; too much is a gap.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use notify::event::{AccessKind, AccessMode, CreateKind, EventKind, ModifyKind, RenameMode};
use notify::{Config, ErrorKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::io::Errno;
use understudy_protocol::{RelPath, escape};

use super::mounts;
use super::paths::{Batch, directories_in, is_elsewhere, split};
use super::standing::Standing;
use super::{Event, Reach, Root, Shared, Touched};
use crate::directory::{Directory, Mounts};
use crate::error::TreeError;

/// What `notify` may have told before it is taken.
const QUEUE_ENTRIES: usize = 65_536;
/// How long a drain waits for its own sentinel.
const DRAIN_PATIENCE: Duration = Duration::from_secs(30);

/// A tree that inotify watches.
pub(super) struct Tree {
    key: u32,
    real: Vec<u8>,
    mounts: Mounts,
    ignored: Arc<[Vec<u8>]>,
    /// Directories that could not be read: watched when somebody changes their attributes.
    unreadable: HashSet<RelPath>,
    sentinel: Sentinel,
    queue: Arc<Queue>,
    watcher: RecommendedWatcher,
}

/// A file in memory that only this process has. Writing to it gives an event behind all that were there before.
struct Sentinel {
    file: File,
    path: PathBuf,
    written: u64,
    /// Keeps `path` alive.
    _memory: OwnedFd,
}

/// What `notify`'s thread heard.
struct Queue {
    heard: Mutex<Heard>,
    sentinel: Condvar,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Heard {
    changes: Vec<Change>,
    sentinels: u64,
    /// Why not everything is in `changes`.
    missed: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Change {
    /// Something about what stands at this path.
    Touched(PathBuf),
    /// A writer closed it.
    Closed(PathBuf),
    /// Its attributes.
    Attributes(PathBuf),
    /// It may be a directory that nobody watches yet.
    Appeared(PathBuf),
}

impl Tree {
    /// Watches all directories of a tree; the reason in an operator's words where that cannot be.
    pub(super) fn start(
        root: &Root,
        standing: &Standing,
        ignored: Arc<[Vec<u8>]>,
        shared: Arc<Shared>,
    ) -> Result<Self, String> {
        let sentinel = Sentinel::new().map_err(|error| error.to_string())?;
        let queue = Arc::new(Queue {
            heard: Mutex::new(Heard::default()),
            sentinel: Condvar::new(),
            shared,
        });
        let hearing = Arc::clone(&queue);
        let sentinel_path = sentinel.path.clone();
        let config = Config::default().with_follow_symlinks(false);
        let watcher = RecommendedWatcher::new(
            move |event| hearing.hear(event, &sentinel_path),
            config,
        )
        .map_err(|error| {
            format!("inotify refuses: {error}; if it is too many open files, raise fs.inotify.max_user_instances")
        })?;
        let mut tree = Self {
            key: root.key,
            real: standing.real.clone(),
            mounts: root.mounts,
            ignored,
            unreadable: HashSet::new(),
            sentinel,
            queue,
            watcher,
        };
        let sentinel_path = tree.sentinel.path.clone();
        tree.watch(&sentinel_path)
            .map_err(|refusal| match refusal {
                Refusal::Failed(why) => why,
                Refusal::Gone | Refusal::Unreadable => {
                    "files in memory cannot be watched here".to_owned()
                }
            })?;
        let directory = tree.open().map_err(|error| error.to_string())?;
        tree.watch_subtree(&directory, RelPath::root())?;
        Ok(tree)
    }

    /// Tells what was heard. An error means that something was missed, or will be: the tree must be armed anew.
    pub(super) fn collect(&mut self, tell: &mut impl FnMut(Event)) -> Result<(), String> {
        let (changes, missed) = {
            let mut heard = self.queue.lock();
            (std::mem::take(&mut heard.changes), heard.missed.take())
        };
        if let Some(missed) = missed {
            return Err(missed);
        }
        if changes.is_empty() {
            return Ok(());
        }
        let root = match self.open() {
            Ok(root) => root,
            // The next drain finds out what became of it.
            Err(error) if error.is_gone() => return Ok(()),
            Err(error) => return Err(error.to_string()),
        };
        let mut batch = Batch::new(self.key, root);
        let mut done = HashSet::new();
        for change in changes {
            // A path that appeared twice has to be looked at twice, for its watches are gone in between.
            let again = matches!(change, Change::Appeared(_));
            if again || done.insert(change.clone()) {
                self.take(&change, &mut batch, tell)?;
            }
        }
        Ok(())
    }

    /// Tells everything that had happened before the call.
    pub(super) fn drain(&mut self, tell: &mut impl FnMut(Event)) -> Result<(), String> {
        self.sentinel
            .file
            .write_all(b".")
            .map_err(|error| format!("the sentinel of inotify cannot be written: {error}"))?;
        self.sentinel.written += 1;
        let written = self.sentinel.written;
        let waiting = self.queue.lock();
        let (heard, _) = self
            .queue
            .sentinel
            .wait_timeout_while(waiting, DRAIN_PATIENCE, |heard| {
                heard.sentinels < written && heard.missed.is_none()
            })
            .unwrap_or_else(PoisonError::into_inner);
        let late = heard.sentinels < written && heard.missed.is_none();
        drop(heard);
        self.collect(tell)?;
        if late {
            return Err(format!(
                "inotify said nothing for {} seconds",
                DRAIN_PATIENCE.as_secs()
            ));
        }
        Ok(())
    }

    fn open(&self) -> Result<Directory, TreeError> {
        Directory::open(Path::new(OsStr::from_bytes(&self.real)), self.mounts)
    }

    fn take(
        &mut self,
        change: &Change,
        batch: &mut Batch,
        tell: &mut impl FnMut(Event),
    ) -> Result<(), String> {
        let (Change::Touched(path)
        | Change::Closed(path)
        | Change::Attributes(path)
        | Change::Appeared(path)) = change;
        let bytes = path.as_os_str().as_bytes();
        let relative = mounts::below(bytes, &self.real).and_then(|rest| RelPath::new(rest).ok());
        let Some(relative) = relative else {
            return Ok(());
        };
        let appeared = match change {
            Change::Touched(_) | Change::Closed(_) => false,
            Change::Attributes(_) => {
                // Its name belongs to the directory above all the same.
                if !self.is_ignored(bytes) {
                    batch.tell_itself(&relative, tell)?;
                }
                self.unreadable.remove(&relative)
            }
            Change::Appeared(_) => true,
        };
        let Some((parent, name)) = split(&relative) else {
            return Ok(());
        };
        let mut reach = if matches!(change, Change::Closed(_)) {
            Reach::Content
        } else {
            Reach::Entry
        };
        if appeared && batch.is_directory(&parent, &name)? {
            // Before it is told: whoever then looks sees what happened so far, and hears of the rest.
            self.watch_subtree(batch.root(), relative)?;
            batch.forget();
            reach = Reach::Below;
        }
        batch.tell(parent, Touched::Name(name, reach), tell)
    }

    fn is_ignored(&self, path: &[u8]) -> bool {
        self.ignored
            .iter()
            .any(|ignored| mounts::is_at_or_below(path, ignored))
    }

    /// Watches a directory and all below, each before it is listed: what appears later is heard of.
    fn watch_subtree(&mut self, root: &Directory, top: RelPath) -> Result<(), String> {
        let mut pending = vec![top];
        while let Some(path) = pending.pop() {
            let absolute = self.absolute(&path);
            if self.is_ignored(absolute.as_os_str().as_bytes()) {
                continue;
            }
            let below = match self.watch(&absolute) {
                Ok(()) => directories_in(root, &path),
                Err(Refusal::Unreadable) => {
                    self.unreadable.insert(path);
                    continue;
                }
                Err(Refusal::Gone) => continue,
                Err(Refusal::Failed(why)) => return Err(why),
            };
            match below {
                Ok(names) => pending.extend(names.iter().map(|name| path.join(name))),
                Err(error) if is_elsewhere(&error) => {}
                Err(error) if error.errno() == Some(Errno::ACCESS) => {
                    self.unreadable.insert(path);
                }
                Err(error) => return Err(error.to_string()),
            }
        }
        Ok(())
    }

    fn absolute(&self, path: &RelPath) -> PathBuf {
        let real = Path::new(OsStr::from_bytes(&self.real));
        if path.as_bytes().is_empty() {
            return real.to_owned();
        }
        real.join(OsStr::from_bytes(path.as_bytes()))
    }

    fn watch(&mut self, path: &Path) -> Result<(), Refusal> {
        let Err(error) = self.watcher.watch(path, RecursiveMode::NonRecursive) else {
            return Ok(());
        };
        let shown = escape(path.as_os_str().as_bytes());
        Err(match error.kind {
            ErrorKind::MaxFilesWatch => Refusal::Failed(format!(
                "inotify has no watch left for `{shown}`: raise fs.inotify.max_user_watches"
            )),
            ErrorKind::PathNotFound => Refusal::Gone,
            ErrorKind::Io(error) => match error.kind() {
                std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory => Refusal::Gone,
                std::io::ErrorKind::PermissionDenied => Refusal::Unreadable,
                _ => Refusal::Failed(format!("inotify cannot watch `{shown}`: {error}")),
            },
            kind => Refusal::Failed(format!("inotify cannot watch `{shown}`: {kind:?}")),
        })
    }
}

/// Why a directory got no watch.
enum Refusal {
    /// It is gone; the one it was in tells so.
    Gone,
    /// Nobody here may read it.
    Unreadable,
    /// This is the end of watching.
    Failed(String),
}

impl Sentinel {
    fn new() -> Result<Self, TreeError> {
        let failed = |error: std::io::Error| TreeError::new("make", b"a file in memory", error);
        let memory = memfd_create("understudy-watch", MemfdFlags::CLOEXEC)
            .map_err(|error| failed(error.into()))?;
        let path = PathBuf::from(format!("/proc/self/fd/{}", memory.as_raw_fd()));
        // Opened by path, for the kernel tells nothing of files that never had one.
        let file = File::options().append(true).open(&path).map_err(failed)?;
        Ok(Self {
            file,
            path,
            written: 0,
            _memory: memory,
        })
    }
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, Heard> {
        // Nothing panics while it is held.
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs on `notify`'s thread; never waits.
    fn hear(&self, event: notify::Result<notify::Event>, sentinel: &Path) {
        let mut heard = self.lock();
        let silent = heard.changes.is_empty() && heard.missed.is_none();
        match event {
            // Comes without paths.
            Ok(event) if event.need_rescan() => {
                heard.missed = Some(
                    "more happened at once than the kernel's queue holds (fs.inotify.max_queued_events)"
                        .to_owned(),
                );
            }
            Ok(event) => {
                for path in &event.paths {
                    if path != sentinel {
                        heard.changes.extend(change_at(&event.kind, path));
                    } else if matches!(event.kind, EventKind::Modify(ModifyKind::Data(_))) {
                        heard.sentinels += 1;
                    }
                }
            }
            Err(error) => heard.missed = Some(format!("inotify failed: {error}")),
        }
        if heard.changes.len() > QUEUE_ENTRIES {
            heard.changes.clear();
            heard.missed = Some("more happened at once than could be taken".to_owned());
        }
        let ring = silent && !(heard.changes.is_empty() && heard.missed.is_none());
        drop(heard);
        self.sentinel.notify_all();
        if ring {
            self.shared.ring();
        }
    }
}

/// What an event of `notify` means for a path; `None` if nothing changed.
fn change_at(kind: &EventKind, path: &Path) -> Option<Change> {
    let path = path.to_owned();
    match kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => Some(Change::Closed(path)),
        EventKind::Access(_) => None,
        EventKind::Create(CreateKind::Folder)
        | EventKind::Modify(ModifyKind::Name(RenameMode::To)) => Some(Change::Appeared(path)),
        // Told one by one before.
        EventKind::Modify(ModifyKind::Name(RenameMode::Both)) => None,
        EventKind::Modify(ModifyKind::Metadata(_)) => Some(Change::Attributes(path)),
        _ => Some(Change::Touched(path)),
    }
}
