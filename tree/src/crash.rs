//! What tests do to a process: kill it at named moments, or set its clock.

use std::sync::OnceLock;

/// Kills this process as `kill -9` would, if the test asked for it in `FAILPOINTS`. Without the `failpoints`
/// feature of the `fail` crate, which only test builds enable, this is nothing.
#[macro_export]
macro_rules! crash_point {
    ($name:expr) => {
        $crate::crash::fail::fail_point!($name, |_| $crate::crash::die())
    };
}

pub use fail;

/// Arms the points that `FAILPOINTS` names, as long as the scenario lives; `None` in any build but those for tests.
/// Called once, before any thread starts.
pub fn arm() -> Option<fail::FailScenario<'static>> {
    fail::has_failpoints().then(fail::FailScenario::setup)
}

/// Says by how many seconds the clock of the calling thread is wrong.
static SKEW: OnceLock<fn() -> i64> = OnceLock::new();

/// Has the clock of each thread be wrong by what `of` says. Without the `failpoints` feature this does nothing.
pub fn skew(of: fn() -> i64) {
    let _ = SKEW.set(of);
}

/// By how many seconds what the clock says is to be changed: none, in any build but those for tests.
pub fn skew_seconds() -> i64 {
    match SKEW.get() {
        Some(of) if fail::has_failpoints() => of(),
        _ => 0,
    }
}

/// Ends the process without any clean-up.
pub fn die() -> ! {
    let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    // The signal is on its way.
    loop {
        std::thread::park();
    }
}
