//! Runs the real command on real trees: as one-shot with an embedded spare, as agent and
//! receiver over loopback, killed, cut off, out of space, and with input nobody should give it.
//!
//! Knows only what a user knows: the command line, its JSON, its exit codes and the store's
//! layout on disk. What a snapshot holds is judged by rsync and by an own comparison through
//! descriptors (`support::facts`).
//!
//! - `UNDERSTUDY_TEST_FULL=1` runs the long versions (300 random kills, 200 commits, 10 GB).
//! - `UNDERSTUDY_TEST_DIR` says where trees and stores are made (default: below `target`).
//! - `CI=true` turns a skipped test into a failed one.

#![allow(
    clippy::disallowed_methods,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests prepare files by any means, and a failed preparation is a failed test"
)]

mod sqlite;
mod support;

mod alerts;
mod bad_input;
mod browse;
mod capturer;
mod confined;
mod crashes;
mod daemon;
mod databases;
mod delta;
mod documents;
mod drift;
mod drill;
mod dumped;
mod every_kind;
mod failback;
mod frozen;
mod fuzzy;
mod guard;
mod handover;
mod history;
mod hostile_names;
mod journal;
mod least;
mod mistakes;
mod mounts;
mod ordinary_user;
mod other_names;
mod promote;
mod proved;
mod readers;
mod real_trees;
mod rehearsal;
mod renames;
mod restarts;
mod restoring;
mod resume;
mod retention;
mod roles;
mod scrub;
mod silent;
mod soak;
mod ssh;
mod standby;
mod still;
mod swapper;
mod switching;
mod trust;
mod two_hosts;
mod units;
mod verify;
mod walkthrough;
