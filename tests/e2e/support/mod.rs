//! What every test needs: running the command, spares of both kinds, trees, judges.

pub(crate) mod agent;
pub(crate) mod busy;
pub(crate) mod command;
pub(crate) mod disks;
pub(crate) mod edits;
pub(crate) mod facts;
pub(crate) mod hosts;
pub(crate) mod judge;
pub(crate) mod kinds;
pub(crate) mod listener;
pub(crate) mod needs;
pub(crate) mod pairing;
pub(crate) mod pipes;
pub(crate) mod proxy;
pub(crate) mod random;
pub(crate) mod spare;
pub(crate) mod sshd;
pub(crate) mod stage;
pub(crate) mod trees;

pub(crate) use command::{Outcome, Run};
pub(crate) use random::Random;
pub(crate) use spare::{Daemon, Kind};
pub(crate) use stage::Stage;

/// Whether the long versions of the tests were asked for.
pub(crate) fn full() -> bool {
    std::env::var_os("UNDERSTUDY_TEST_FULL").is_some_and(|value| value == "1")
}
