//! Two hosts that swap their roles, over and over, in one process: promotions, failbacks, handovers, demotions and old mains that come
//! back, with connections that are cut, processes that die at any crash point, cycles in flight and clocks that jump, against a naive
//! model that knows every write.
//!
//! Runs both crates; what the commands do beyond them (asking, hooks, reports) is `tests/e2e`. A death is a panic at a crash point: the
//! threads of the process unwind. A destructor that runs then and would not in a process that is killed gives locks and descriptors back,
//! which the kernel would do as well, and rolls a transaction back or closes a database, which then needs no recovery. Where a library
//! turns the panic of a helper thread into an error, its handling of that error runs, too: `tests/e2e` and `tests/histories` kill
//! processes at all of these points for good.
//!
//! Nobody writes into the live tree of a spare here: that is `tests/e2e/drift.rs` and the receiver's `tests/drift.rs`.
//!
//! - `SEEDS=FROM..TO` says which runs are played, `UNDERSTUDY_TEST_FULL=1` plays 10,000.
//! - `UNDERSTUDY_TEST_DIR` says where (default: `/dev/shm`, or the directory for temporary files).

#![allow(
    clippy::disallowed_methods,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests prepare files by any means, and a failed preparation is a failed test"
)]

#[allow(dead_code, reason = "shared, and not all of it is used here")]
#[path = "../e2e/support/random.rs"]
mod random;

mod death;
mod host;
mod model;
mod play;
mod wire;
