//! How much a thread's reading and writing may get in the way of others'.

use std::io;

use crate::error::{Context, TreeError};
use crate::raw::set_io_priority_of_thread;

/// How a thread stands in the queue for the disk. Schedulers without priorities (`none`, `kyber`) treat all threads alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum IoPriority {
    /// It is served only while nobody else wants the disk.
    #[default]
    Idle,
    /// It is served like others, and last among them.
    BestEffort,
}

// From linux/ioprio.h, which libc does not carry.
const CLASS_SHIFT: libc::c_int = 13;
const CLASS_BEST_EFFORT: libc::c_int = 2;
const CLASS_IDLE: libc::c_int = 3;
const LOWEST_LEVEL: libc::c_int = 7;

impl IoPriority {
    fn as_raw(self) -> libc::c_int {
        match self {
            Self::Idle => CLASS_IDLE << CLASS_SHIFT,
            Self::BestEffort => CLASS_BEST_EFFORT << CLASS_SHIFT | LOWEST_LEVEL,
        }
    }
}

/// Sets the class of the calling thread. Threads and processes that it starts afterwards inherit it; the others of
/// this process keep theirs. Needs no privilege.
pub fn set_io_priority(class: IoPriority) -> Result<(), TreeError> {
    set_io_priority_of_thread(class.as_raw())
        .map_err(io::Error::from)
        .context("set the I/O class of", b"the calling thread")
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// What `ionice` says of itself when a thread of the given class starts it.
    fn inherited(class: IoPriority) -> Option<String> {
        std::thread::spawn(move || {
            set_io_priority(class).expect("set");
            let output = Command::new("ionice").output().ok()?;
            Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
        })
        .join()
        .expect("thread")
    }

    #[test]
    fn a_class_is_that_of_the_thread_and_of_what_it_starts() {
        let Some(idle) = inherited(IoPriority::Idle) else {
            assert!(
                std::env::var_os("CI").is_none_or(|value| value != "true"),
                "ionice is missing"
            );
            eprintln!("skipped: ionice is missing");
            return;
        };
        assert_eq!(idle, "idle");
        let best_effort = inherited(IoPriority::BestEffort).expect("ionice");
        assert_eq!(best_effort, "best-effort: prio 7");
        let others = Command::new("ionice").output().expect("ionice");
        assert!(
            !String::from_utf8_lossy(&others.stdout).starts_with("idle"),
            "the test's own thread keeps its class"
        );
    }
}
