//! How much of the host the agent takes: priority, bandwidth, and pauses while others need the machine.
//!
//! Knows neither what is read nor what is sent; workers ask it before they go on.

mod bandwidth;
mod bucket;
mod pressure;
mod rest;
mod throttle;

use std::time::Duration;

use rustix::process::{getpriority_process, setpriority_process};
use understudy_tree::priority::{IoPriority, set_io_priority};

pub use bandwidth::{Bandwidth, Hours};
pub use pressure::Percent;
use rest::Rest;
use throttle::Throttle;

use crate::Cancel;
use crate::error::AgentError;

/// What the agent may take of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Niceness, from 0 (like others) to 19.
    pub nice: u8,
    /// Its place in the queue for the disk.
    pub io: IoPriority,
    /// Bytes per second to the spare.
    pub bandwidth: Bandwidth,
    /// Above which stall of the host's tasks it pauses; `None`: it never does.
    pub pressure: Option<Percent>,
    /// How long it pauses in all in one cycle, so that a host that is always busy still gets its spare.
    pub pause_at_most: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            nice: 10,
            io: IoPriority::Idle,
            bandwidth: Bandwidth::default(),
            pressure: Percent::new(50),
            pause_at_most: Duration::from_secs(5 * 60),
        }
    }
}

/// What all workers of all cycles ask before they go on.
#[derive(Debug)]
pub struct Pace {
    priority: Option<Priority>,
    throttle: Throttle,
    rest: Option<Rest>,
}

impl Default for Pace {
    fn default() -> Self {
        Self::unlimited()
    }
}

#[derive(Debug)]
struct Priority {
    nice: u8,
    io: IoPriority,
}

impl Pace {
    /// One that keeps to the settings.
    pub fn new(settings: Settings) -> Self {
        let rest = |limit| Rest::new(limit, settings.pause_at_most, Box::new(pressure::read));
        Self {
            priority: Some(Priority {
                nice: settings.nice,
                io: settings.io,
            }),
            rest: settings.pressure.map(rest),
            throttle: Throttle::new(settings.bandwidth),
        }
    }

    /// One that takes what it can get, for commands that somebody waits for.
    pub fn unlimited() -> Self {
        Self {
            priority: None,
            throttle: Throttle::new(Bandwidth::default()),
            rest: None,
        }
    }

    /// Starts counting anew: each cycle may pause for its own time.
    pub fn begin_cycle(&self) {
        self.throttle.reset();
        if let Some(rest) = &self.rest {
            rest.reset();
        }
    }

    /// Returns once a frame of `bytes` may be sent; fails with [`AgentError::Interrupted`] soon after a cancellation.
    ///
    /// Threads are served in the order in which they come.
    pub fn spend(&self, bytes: u64, cancel: &Cancel) -> Result<(), AgentError> {
        self.throttle.spend(bytes, cancel)
    }

    /// Pauses while the host is under pressure, together with all other threads that call this; otherwise costs next
    /// to nothing. To be called for each directory or file, and while no lock is held.
    pub fn breathe(&self, cancel: &Cancel) -> Result<(), AgentError> {
        match &self.rest {
            Some(rest) => rest.breathe(cancel),
            None => Ok(()),
        }
    }

    /// Gives the calling thread, and the threads that it starts afterwards, the priority of the settings. A thread that
    /// is nicer already stays so. What the system refuses is logged: a backup in a hurry is better than none.
    pub fn lower_priority(&self) {
        let Some(priority) = &self.priority else {
            return;
        };
        let nice = i32::from(priority.nice);
        // On Linux this is a property of the thread, and no process means the calling one.
        let lowered = getpriority_process(None).and_then(|present| {
            if present >= nice {
                return Ok(());
            }
            setpriority_process(None, nice)
        });
        if let Err(error) = lowered {
            tracing::warn!("cannot set the niceness to {nice}: {error}; carrying on without");
        }
        if let Err(error) = set_io_priority(priority.io) {
            tracing::warn!("{error}; carrying on without");
        }
    }

    /// Time of this cycle in which all workers rested because the host was under pressure.
    pub fn paused(&self) -> Duration {
        self.rest.as_ref().map_or(Duration::ZERO, Rest::paused)
    }

    /// Time of this cycle in which frames were ready and the bandwidth limit held them back.
    pub fn throttled(&self) -> Duration {
        self.throttle.waited()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::thread;
    use std::time::Instant;

    use super::*;

    /// Waits for other threads to make this true.
    pub(crate) fn until(condition: impl Fn() -> bool) {
        let start = Instant::now();
        while !condition() {
            assert!(start.elapsed() < Duration::from_secs(60), "it never came");
            thread::yield_now();
        }
    }

    /// The 19th field of the calling thread's `stat`; see proc_pid_stat(5).
    fn niceness() -> i32 {
        let stat = std::fs::read_to_string("/proc/thread-self/stat").expect("stat");
        let after_name = stat.rsplit_once(')').expect("name").1;
        let field = after_name.split_ascii_whitespace().nth(16);
        field.expect("niceness").parse().expect("number")
    }

    #[test]
    fn a_lowered_priority_is_inherited_and_never_raised() {
        let here = niceness();
        let pace = |nice| {
            Pace::new(Settings {
                nice,
                ..Settings::default()
            })
        };
        let inherited = thread::spawn(move || {
            pace(19).lower_priority();
            assert_eq!(niceness(), 19);
            pace(5).lower_priority();
            Pace::unlimited().lower_priority();
            thread::spawn(niceness).join().expect("thread")
        });
        assert_eq!(inherited.join().expect("thread"), 19);
        assert_eq!(niceness(), here, "other threads keep theirs");
    }

    #[test]
    fn a_pace_without_limits_lets_everything_through() {
        let (pace, cancel) = (Pace::unlimited(), Cancel::default());
        for _ in 0..1000 {
            pace.spend(u64::MAX, &cancel).expect("spend");
            pace.breathe(&cancel).expect("breathe");
        }
        assert_eq!((pace.paused(), pace.throttled()), Default::default());
    }

    /// `cargo test --release -p understudy-agent -- --ignored --nocapture what_breathing_costs`
    #[test]
    #[ignore = "measures real time"]
    fn what_breathing_costs() {
        let limit = Percent::new(100);
        let pace = Pace::new(Settings {
            pressure: limit,
            ..Settings::default()
        });
        let cancel = Cancel::default();
        let (start, times) = (Instant::now(), 10_000_000_u32);
        for _ in 0..times {
            pace.breathe(&cancel).expect("breathe");
        }
        let each = start.elapsed() / times;
        eprintln!("{each:?} for each call");
        assert!(each < Duration::from_micros(1), "{each:?}");
    }
}
