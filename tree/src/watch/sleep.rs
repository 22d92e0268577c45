//! Whether the machine slept: meanwhile its disks may be changed from outside.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// A clock that was read later differs by less than this, unless the machine slept.
const SLEPT: Duration = Duration::from_millis(100);

/// How long the machine had slept since it started, when somebody last looked.
pub(super) struct Sleep(Duration);

impl Sleep {
    /// Counts from now on.
    pub(super) fn new() -> Self {
        Self(slept())
    }

    /// Whether the machine slept since the last call.
    pub(super) fn has_slept(&mut self) -> bool {
        let before = std::mem::replace(&mut self.0, slept());
        self.0.saturating_sub(before) > SLEPT
    }
}

fn slept() -> Duration {
    let read = |clock| Duration::try_from(clock_gettime(clock)).unwrap_or_default();
    // This order, for the later clock of the two is then ahead by what it took, not behind.
    let awake = read(ClockId::Monotonic);
    read(ClockId::Boottime).saturating_sub(awake)
}
