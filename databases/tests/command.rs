//! Databases that a program takes: the contract, with programs of a line or two, and the example for Redis with a real server.

#![expect(clippy::unwrap_used, reason = "a test")]
#![expect(clippy::disallowed_methods, reason = "scratch directories of the test")]

#[path = "support/programs.rs"]
mod programs;

#[path = "command/contract.rs"]
mod contract;
#[path = "command/redis.rs"]
mod redis;
#[path = "support/redis.rs"]
mod server;

use std::time::Duration;

use understudy_databases::Limits;
use understudy_databases::command::{CommandDatabase, CommandSettings};

fn limits() -> Limits {
    Limits {
        probe: Duration::from_secs(20),
        dump: Duration::from_secs(30),
        lock: Duration::from_secs(20),
        load: Duration::from_secs(30),
    }
}

fn command(words: &[&str], limits: Limits) -> CommandDatabase {
    let json = serde_json::json!({ "command": words });
    let settings: CommandSettings = serde_json::from_value(json).unwrap();
    CommandDatabase::new(settings, "site", "sessions", limits)
}
