//! Agent and receiver together against full copies: whatever is done to a source and its spare, in whatever order, and
//! wherever it is cut off, each snapshot that is kept comes back as it was.
//!
//! Runs both crates in this process, or in one that is killed; `tests/e2e` has the command itself. What a tree holds is read by
//! `support::facts` of those tests.
//!
//! - `SEEDS=FROM..TO` says which random histories, or which flipped bits, are played.
//! - `UNDERSTUDY_TEST_FULL=1` lets disks fill up in small steps.
//! - `UNDERSTUDY_TEST_DIR` says where (default: the directory for temporary files).

#![allow(
    clippy::disallowed_methods,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests prepare files by any means, and a failed preparation is a failed test"
)]

#[path = "../e2e/support/facts.rs"]
mod facts;
#[allow(dead_code, reason = "shared, and not all of it is used here")]
#[path = "../e2e/support/random.rs"]
mod random;

mod acts;
mod altered;
mod disk;
mod edits;
mod flips;
mod full;
mod model;
mod place;
mod play;
mod unrecovered;
