//! SQLite databases that another process works with: what is taken of them is one state, and nothing is done to them.

#![expect(clippy::unwrap_used, reason = "a test")]
#![expect(clippy::disallowed_methods, reason = "scratch directories of the test")]

#[path = "support/programs.rs"]
#[expect(dead_code, reason = "other tests need more of it")]
mod programs;

#[path = "sqlite/resting.rs"]
mod resting;
#[path = "support/sqlite.rs"]
mod support;
#[path = "sqlite/working.rs"]
mod working;
