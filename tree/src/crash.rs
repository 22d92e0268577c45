//! Named moments at which tests kill the process.

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

/// Ends the process without any clean-up.
pub fn die() -> ! {
    let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    // The signal is on its way.
    loop {
        std::thread::park();
    }
}
