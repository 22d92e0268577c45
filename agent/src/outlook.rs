//! How far a restore is and how long the rest takes, from its counters.

use std::time::Instant;

use crate::estimate::{Costs, Estimate};
use crate::progress::{Phase, Progress};

/// The rate that is told is that of about so many seconds.
const RATE_SECONDS: f64 = 5.0;

/// Looks at the counters from time to time.
#[derive(Debug, Default)]
pub struct Outlook {
    estimate: Estimate,
    /// When it last looked, while contents came.
    last: Option<Instant>,
    /// Seconds in which contents came.
    worked: f64,
    /// Bytes that had come by then.
    bytes: u64,
    /// Of late: seconds, and bytes.
    recent: (f64, f64),
}

impl Outlook {
    /// Takes note of what was done since the last look. What was here already is no work.
    pub fn look(&mut self, progress: &Progress) {
        if progress.phase() != Phase::Restoring {
            self.last = None;
            return;
        }
        let now = Instant::now();
        let files = progress.files_done().saturating_sub(progress.files_found());
        let bytes = progress.bytes_done().saturating_sub(progress.bytes_found());
        if let Some(last) = self.last.replace(now) {
            let took = now.duration_since(last).as_secs_f64();
            self.worked += took;
            self.estimate.observe(self.worked, files, bytes);
            let fading = (-took / RATE_SECONDS).exp();
            let came = bytes.saturating_sub(self.bytes) as f64;
            self.recent = (self.recent.0 * fading + took, self.recent.1 * fading + came);
        }
        self.bytes = bytes;
    }

    /// Bytes in a second, of late.
    pub fn bytes_per_second(&self) -> Option<u64> {
        let (seconds, bytes) = self.recent;
        (seconds > 0.0).then(|| (bytes / seconds) as u64)
    }

    /// How long the rest takes, as far as anybody can say.
    pub fn seconds(&self, progress: &Progress) -> Option<f64> {
        let files = progress.files_total().saturating_sub(progress.files_done());
        let bytes = progress.bytes_total().saturating_sub(progress.bytes_done());
        let known = progress.known_costs();
        let coming = self.estimate.remaining(files, bytes, known)?;
        // What is known is what the whole took, the end included.
        let finishing = match known {
            Some(_) => 0.0,
            None => progress.finishing().as_secs_f64(),
        };
        Some(coming + finishing)
    }

    /// What files and bytes cost when all of it took so many seconds.
    pub(crate) fn costs(&self, seconds: f64) -> Option<Costs> {
        self.estimate.whole(seconds)
    }
}
