//! The watcher's thread: waits for events, commands and mounts, and keeps every root armed.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStringExt;
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::fanotify::{Group, Progress};
use super::inotify;
use super::mounts::{self, Mount};
use super::resolve::Trouble;
use super::sleep::Sleep;
use super::standing::Standing;
use super::watched::{State, Watched};
use super::{Command, Ended, Event, Options, Prefer, Root, Shared, reset};
use crate::error::{Context, TreeError};

/// The rest after a batch: meanwhile the kernel merges, and the thread does not run for every event.
const REST: Duration = Duration::from_millis(50);
/// After more than this no rest is taken, lest the queue (16,384 events as the system comes) overflow.
const CALM_EVENTS: u64 = 1024;
/// Batches read in one go; more would let a flood keep commands waiting.
const BATCHES: usize = 16;

/// The thread's state.
pub(super) struct Service<S> {
    sink: S,
    shared: Arc<Shared>,
    prefer: Prefer,
    ignored: Arc<[Vec<u8>]>,
    /// The group, or why there is none.
    group: Result<Group, String>,
    /// Becomes ready when a mount changes.
    mountinfo: File,
    mounts: Vec<Mount>,
    watched: Vec<Watched>,
    sleep: Sleep,
}

/// What the thread woke up for.
#[derive(Default)]
struct Ready {
    commands: bool,
    mounts: bool,
    events: bool,
    rings: bool,
}

/// Whether the thread waits for events or lets them gather.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pace {
    Waiting,
    Resting,
}

impl<S: FnMut(Event) + Send + 'static> Service<S> {
    pub(super) fn new(
        shared: Arc<Shared>,
        options: Options,
        own_process: Option<u32>,
        sink: S,
    ) -> Result<Self, TreeError> {
        let Options { ignored, prefer } = options;
        let ignored: Arc<[Vec<u8>]> = ignored
            .into_iter()
            .map(|path| path.canonicalize().unwrap_or(path))
            .map(|path| path.into_os_string().into_vec())
            .collect();
        let group = match prefer {
            Prefer::Best => Group::new(own_process, Arc::clone(&ignored)),
            Prefer::Inotify | Prefer::Periodic => {
                Err("the configuration asks for less than fanotify".to_owned())
            }
        };
        let mountinfo =
            File::open(mounts::MOUNTINFO).context("open", mounts::MOUNTINFO.as_bytes())?;
        Ok(Self {
            sink,
            shared,
            prefer,
            ignored,
            group,
            mountinfo,
            mounts: mounts::read()?,
            watched: Vec::new(),
            sleep: Sleep::new(),
        })
    }

    /// Runs until it is told to stop.
    pub(super) fn run(mut self) {
        let ended = Ended(Arc::clone(&self.shared));
        let mut pace = Pace::Waiting;
        loop {
            let ready = self.wait(pace);
            pace = Pace::Waiting;
            self.notice_sleep();
            if ready.mounts {
                self.look_again();
            }
            if ready.commands && !self.obey() {
                break;
            }
            if ready.rings {
                reset(&self.shared.bell);
                self.collect(inotify::Tree::collect);
                pace = Pace::Resting;
            }
            if ready.events && self.read_some() <= CALM_EVENTS {
                pace = Pace::Resting;
            }
        }
        drop(ended);
    }

    fn wait(&self, pace: Pace) -> Ready {
        let mut descriptors = vec![
            PollFd::new(&self.shared.wake, PollFlags::IN),
            PollFd::new(&self.mountinfo, PollFlags::PRI),
        ];
        let rest = (pace == Pace::Resting).then(|| Timespec::try_from(REST).unwrap_or_default());
        if pace == Pace::Waiting {
            descriptors.push(PollFd::new(&self.shared.bell, PollFlags::IN));
            if let Ok(group) = &self.group {
                descriptors.push(PollFd::from_borrowed_fd(group.as_fd(), PollFlags::IN));
            }
        }
        if poll(&mut descriptors, rest.as_ref()).is_err() {
            // Interrupted, or out of memory for a moment.
            return Ready::default();
        }
        let mut ready = descriptors
            .iter()
            .map(|descriptor| !descriptor.revents().is_empty());
        let mut next = || ready.next().unwrap_or(false);
        Ready {
            commands: next(),
            mounts: next(),
            rings: next(),
            events: next(),
        }
    }

    /// Whether to go on.
    fn obey(&mut self) -> bool {
        reset(&self.shared.wake);
        loop {
            let command = self.shared.lock().commands.pop_front();
            let done = match command {
                None => return true,
                Some(Command::Stop) => return false,
                Some(Command::Watch(roots, done)) => {
                    self.watch(roots);
                    done
                }
                Some(Command::Drain(done)) => {
                    self.drain();
                    done
                }
            };
            // Whoever asked may have gone.
            let _ = done.send(());
        }
    }

    fn watch(&mut self, roots: Vec<Root>) {
        self.look_again();
        let mut before = std::mem::take(&mut self.watched);
        let mut gaps = Vec::new();
        for root in roots {
            let known = before
                .iter()
                .position(|watched| watched.root == root)
                .map(|position| before.swap_remove(position).state)
                .filter(|state| !matches!(state, State::Unwatched { .. }));
            let now = Standing::look(&root.path, root.mounts, &self.mounts);
            let state = match (known, now) {
                (Some(state), Ok(now)) if state.standing() == Some(&now) => state,
                (_, now) => {
                    let state = self.arm(&root, now);
                    gaps.push((root.key, state.gap_reason("it was not watched before")));
                    state
                }
            };
            self.watched.push(Watched { root, state });
        }
        self.settle(gaps);
    }

    fn drain(&mut self) {
        self.look_again();
        self.collect(inotify::Tree::drain);
        let mut rest = match &self.group {
            Ok(group) => group.waiting_events(),
            Err(_) => return,
        };
        while rest > 0 {
            match self.read_batch() {
                Progress::Empty => return,
                Progress::Events(count) => rest = rest.saturating_sub(count),
            }
        }
    }

    /// Lets each inotify tree tell; one that missed something is given up, and armed again by the next drain.
    fn collect(&mut self, how: impl Fn(&mut inotify::Tree, &mut S) -> Result<(), String>) {
        let mut gaps = Vec::new();
        for watched in &mut self.watched {
            if let State::Inotify { tree, .. } = &mut watched.state
                && let Err(why) = how(tree, &mut self.sink)
            {
                gaps.push((watched.root.key, why.clone()));
                watched.state = State::Unwatched {
                    standing: None,
                    why,
                };
            }
        }
        if !gaps.is_empty() {
            self.settle(gaps);
        }
    }

    /// Reads until the queue is empty, or for long enough; how many events.
    fn read_some(&mut self) -> u64 {
        let mut total = 0;
        for _ in 0..BATCHES {
            match self.read_batch() {
                Progress::Empty => break,
                Progress::Events(count) => total += count,
            }
        }
        total
    }

    fn read_batch(&mut self) -> Progress {
        let Ok(group) = &mut self.group else {
            return Progress::Empty;
        };
        match group.read(&mut self.sink) {
            Ok((progress, trouble)) => {
                self.take_trouble(trouble);
                progress
            }
            Err(error) => {
                let error = std::io::Error::from(error);
                self.gap_everywhere(&format!("the kernel's events cannot be read: {error}"));
                Progress::Empty
            }
        }
    }

    fn take_trouble(&mut self, trouble: Trouble) {
        if let Some(reason) = trouble.gap_everywhere {
            self.gap_everywhere(&reason);
        }
        for (root, reason) in trouble.gaps {
            (self.sink)(Event::Gap { root, reason });
        }
        if trouble.lost.is_empty() {
            return;
        }
        let mut gaps = Vec::new();
        for (key, why) in trouble.lost {
            for watched in &mut self.watched {
                if watched.root.key == key && matches!(watched.state, State::Fanotify(_)) {
                    gaps.push((key, why.clone()));
                    watched.state = State::Unwatched {
                        standing: None,
                        why: why.clone(),
                    };
                }
            }
        }
        self.settle(gaps);
    }

    /// Arms what does not stand where it stood.
    fn look_again(&mut self) {
        self.read_mounts();
        // All of them before any is armed: trees of one file system share a mark.
        let is_armed = |watched: &Watched| watched.state.is_armed(&self.group);
        let armed: Vec<bool> = self.watched.iter().map(is_armed).collect();
        let mut gaps = Vec::new();
        for (position, is_armed) in armed.into_iter().enumerate() {
            let watched = &self.watched[position];
            let now = Standing::look(&watched.root.path, watched.root.mounts, &self.mounts);
            let difference = match (watched.state.standing(), &now) {
                (Some(before), Ok(now)) if before == now && is_armed => continue,
                (Some(before), Ok(now)) if before == now => {
                    "its file system was unmounted and mounted again"
                }
                (None, Err(_)) => continue,
                (Some(before), Ok(now)) => before.difference(now),
                (Some(_), Err(_)) => "it is not there any more",
                (None, Ok(_)) => "it is watched again",
            };
            let root = watched.root.clone();
            let state = self.arm(&root, now);
            let watched = &mut self.watched[position];
            gaps.push((watched.root.key, state.gap_reason(difference)));
            watched.state = state;
        }
        // What is known of directories stays, unless a root changed.
        if !gaps.is_empty() {
            self.settle(gaps);
        }
    }

    fn read_mounts(&mut self) {
        match mounts::read() {
            Ok(mounts) => self.mounts = mounts,
            Err(error) => self.gap_everywhere(&error.to_string()),
        }
    }

    fn arm(&mut self, root: &Root, now: Result<Standing, TreeError>) -> State {
        let standing = match now {
            Ok(standing) => standing,
            Err(error) => {
                return State::Unwatched {
                    standing: None,
                    why: error.to_string(),
                };
            }
        };
        let refused = |why, standing| State::Unwatched {
            standing: Some(standing),
            why,
        };
        if self.prefer == Prefer::Periodic {
            let why = "the configuration asks for periodic comparison".to_owned();
            return refused(why, standing);
        }
        if let Some(why) = standing.shared_with_others() {
            return refused(why, standing);
        }
        let armed = match &mut self.group {
            Ok(group) => group.arm(&standing),
            Err(why) => Err(why.clone()),
        };
        let Err(why_not_fanotify) = armed else {
            return State::Fanotify(standing);
        };
        let ignored = Arc::clone(&self.ignored);
        match inotify::Tree::start(root, &standing, ignored, Arc::clone(&self.shared)) {
            Ok(tree) => State::Inotify {
                standing,
                tree,
                why_not_fanotify,
            },
            Err(why) => refused(format!("{why} (and {why_not_fanotify})"), standing),
        }
    }

    /// Makes the states known, and tells these gaps, after everything is armed.
    fn settle(&mut self, gaps: Vec<(u32, String)>) {
        if let Ok(group) = &mut self.group {
            let armed = self.watched.iter().filter_map(|watched| {
                let State::Fanotify(standing) = &watched.state else {
                    return None;
                };
                Some((watched.root.key, standing))
            });
            group.set_roots(armed);
        }
        self.shared.lock().methods = self
            .watched
            .iter()
            .map(|watched| (watched.root.key, watched.state.method()))
            .collect();
        for (root, reason) in gaps {
            (self.sink)(Event::Gap { root, reason });
        }
    }

    fn gap_everywhere(&mut self, reason: &str) {
        for watched in &self.watched {
            (self.sink)(Event::Gap {
                root: watched.root.key,
                reason: reason.to_owned(),
            });
        }
    }

    /// While the machine sleeps, disks may be changed from outside.
    fn notice_sleep(&mut self) {
        if self.sleep.has_slept() {
            self.gap_everywhere("the machine was suspended");
        }
    }
}
