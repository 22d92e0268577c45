//! Watching trees for changes: which name in which directory may be another now.
//!
//! What is told is a hint, never a proof: the kernel merges, tells late, and of some writes (direct and
//! asynchronous ones, those through a memory map that stays open) it does not tell at all. But what the watcher knows it missed it says, as a [`Event::Gap`], which only a
//! look at everything closes. Knows nothing of who listens.
//!
//! With the privileges for it one fanotify mark covers a whole file system; without them there is inotify, with
//! one watch for each directory; and where other hosts may write, there is nothing.

mod fanotify;
mod inotify;
mod mounts;
mod paths;
mod records;
mod resolve;
mod service;
mod sleep;
mod standing;
#[cfg(test)]
mod tests;
mod watched;

use std::collections::{HashMap, VecDeque};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use rustix::event::{EventfdFlags, eventfd};
use understudy_protocol::{Name, RelPath};

use crate::directory::Mounts;
use crate::error::{Context, TreeError};
use crate::stat::Identity;

/// A tree to watch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Root {
    /// The caller's number for it; no two roots share one.
    pub key: u32,
    /// Its path; links in it are followed.
    pub path: PathBuf,
    /// Whether what is mounted below belongs to it.
    pub mounts: Mounts,
}

/// Something may have changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// This may be another now.
    Touched {
        /// The key of the tree.
        root: u32,
        /// The directory: this counts.
        directory: Identity,
        /// Its path below the root as it was when the event was read: a hint only.
        path: RelPath,
        /// What of it.
        what: Touched,
    },
    /// A file got or lost a name, or one of its several names was told: other names of it may be in this tree, and
    /// stand for the same change. The file may be anywhere on the tree's file system. Told by fanotify alone.
    Inode {
        /// The key of the tree.
        root: u32,
        /// The file.
        inode: Identity,
    },
    /// From here back to the last finished look at everything, nothing is vouched for in this tree.
    Gap {
        /// The key of the tree.
        root: u32,
        /// What happened, in an operator's words.
        reason: String,
    },
}

/// What may have changed in a directory.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Touched {
    /// The directory's own attributes.
    Itself,
    /// What stands, or stood, at this name in it. If a name appeared or vanished, the directory's own
    /// times changed too, and are not told apart from it.
    Name(Name, Reach),
}

/// How far a touch reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reach {
    /// The name alone; its times tell whether it changed.
    Entry,
    /// A file that a writer has closed: its content may be another even if its times are not, for writes through a
    /// memory map to a page that is dirty already change none.
    Content,
    /// Everything below the name too: a directory was moved here, perhaps from where nobody watched it.
    Below,
}

/// How a tree is watched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Method {
    /// By one mark on its file system.
    Fanotify,
    /// By one watch for each directory.
    Inotify {
        /// What an operator could change.
        why_not_fanotify: String,
    },
    /// Not at all.
    Unwatched {
        /// What stands against it.
        why: String,
    },
}

/// Which methods may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Prefer {
    /// The best there is.
    #[default]
    Best,
    /// No fanotify.
    Inotify,
    /// Nothing: the caller compares now and then.
    Periodic,
}

/// What [`Watcher::start`] takes.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Directories in which nothing is told, such as the caller's own state.
    pub ignored: Vec<PathBuf>,
    /// Which methods may be used.
    pub prefer: Prefer,
}

/// Watches trees on a thread of its own, which ends with it.
///
/// What this process itself changes is not told under fanotify; inotify cannot tell it apart.
#[derive(Debug)]
pub struct Watcher {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Watcher {
    /// Starts the thread. `sink` gets every event on it, in order; it must be quick, and must not call the watcher.
    pub fn start(
        options: Options,
        sink: impl FnMut(Event) + Send + 'static,
    ) -> Result<Self, TreeError> {
        Self::start_as(options, Some(std::process::id()), sink)
    }

    /// Like [`Self::start`], with the process whose changes are not told.
    fn start_as(
        options: Options,
        own_process: Option<u32>,
        sink: impl FnMut(Event) + Send + 'static,
    ) -> Result<Self, TreeError> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .context("make an event counter for", b"the watcher")?;
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .context("make an event counter for", b"the watcher")?;
        let shared = Arc::new(Shared {
            wake,
            bell,
            state: Mutex::new(State::default()),
        });
        let service = service::Service::new(Arc::clone(&shared), options, own_process, sink)?;
        let thread = thread::Builder::new()
            .name("watcher".to_owned())
            .spawn(move || service.run())
            .context("start the thread of", b"the watcher")?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// From now on these trees are watched, and no others. One that is new or was armed anew gets a gap *after* it is
    /// armed, so that whatever is looked at after the gap is covered. One that cannot be watched is
    /// [`Method::Unwatched`], gets a gap too, and is tried again in every [`Self::drain`] before which its path
    /// came to lead elsewhere, and in every call of this.
    pub fn watch(&self, roots: Vec<Root>) {
        self.request(|done| Command::Watch(roots, done));
    }

    /// Returns once everything that had happened before the call was given to the sink. Checks first that each
    /// root is the directory that was armed, and arms it anew, with a gap, if not.
    pub fn drain(&self) {
        self.request(Command::Drain);
    }

    /// How the tree with this key is watched.
    pub fn method(&self, root: u32) -> Method {
        let state = self.shared.lock();
        let unwatched = |why: &str| Method::Unwatched {
            why: why.to_owned(),
        };
        if state.ended {
            return unwatched("the watcher has ended");
        }
        let known = state.methods.get(&root).cloned();
        known.unwrap_or_else(|| unwatched("nobody asked for it"))
    }

    fn request(&self, command: impl FnOnce(SyncSender<()>) -> Command) {
        let (done, wait) = sync_channel(1);
        if self.shared.send(command(done)) {
            // An error means that the thread has ended: `method` says so.
            let _ = wait.recv();
        }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.shared.send(Command::Stop);
        if let Some(thread) = self.thread.take() {
            // A panic of the sink was reported by the panic hook.
            let _ = thread.join();
        }
    }
}

/// What callers and the thread share.
#[derive(Debug)]
struct Shared {
    /// Wakes the thread for a command.
    wake: OwnedFd,
    /// Wakes it for what inotify told, unless it rests.
    bell: OwnedFd,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    commands: VecDeque<Command>,
    methods: HashMap<u32, Method>,
    ended: bool,
}

#[derive(Debug)]
enum Command {
    Watch(Vec<Root>, SyncSender<()>),
    Drain(SyncSender<()>),
    Stop,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is held.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether there is a thread to take it.
    fn send(&self, command: Command) -> bool {
        let mut state = self.lock();
        if state.ended {
            return false;
        }
        state.commands.push_back(command);
        drop(state);
        count(&self.wake);
        true
    }

    fn ring(&self) {
        count(&self.bell);
    }
}

/// Says that the thread has ended, however it ended, and lets go of whoever waits.
struct Ended(Arc<Shared>);

impl Drop for Ended {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.ended = true;
        state.commands.clear();
    }
}

fn count(counter: &OwnedFd) {
    // It fails only if the counter is full, and then the thread is awake.
    let _: Result<usize, _> = rustix::io::write(counter, &1_u64.to_ne_bytes());
}

fn reset(counter: &OwnedFd) {
    let mut value = [0; 8];
    // It fails only if nobody counted.
    let _: Result<usize, _> = rustix::io::read(counter, &mut value);
}
