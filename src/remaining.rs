//! How far a restore is and how long the rest takes, from the agent's counters: for the terminal and for programs.

use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use understudy_agent::{Estimate, Phase, Progress};

use crate::arguments::{Format, Output};
use crate::report;

/// How often programs are told.
const INTERVAL: Duration = Duration::from_secs(1);
/// The rate that is told is that of about so many seconds.
const RATE_SECONDS: f64 = 5.0;

/// Looks at the counters from time to time.
#[derive(Debug, Default)]
pub(crate) struct Watch {
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

impl Watch {
    /// Takes note of what was done since the last look. What was here already is no work.
    pub(crate) fn look(&mut self, progress: &Progress) {
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
    pub(crate) fn bytes_per_second(&self) -> Option<u64> {
        let (seconds, bytes) = self.recent;
        (seconds > 0.0).then(|| (bytes / seconds) as u64)
    }

    /// How long the rest takes, as far as anybody can say.
    pub(crate) fn seconds(&self, progress: &Progress) -> Option<f64> {
        let files = progress.files_total().saturating_sub(progress.files_done());
        let bytes = progress.bytes_total().saturating_sub(progress.bytes_done());
        let finishing = progress.finishing().as_secs_f64();
        let coming = self.estimate.remaining(files, bytes);
        coming.map(|seconds| seconds + finishing)
    }
}

/// Lines of JSON on stdout, until dropped.
#[derive(Debug)]
pub(crate) struct Lines {
    telling: Option<(SyncSender<()>, JoinHandle<()>)>,
}

impl Lines {
    /// Tells programs about `progress` every second, if they are asked for.
    pub(crate) fn show(progress: &Arc<Progress>, output: Output) -> Self {
        if output.format != Format::Json {
            return Self { telling: None };
        }
        let progress = Arc::clone(progress);
        let (stop, stopped) = sync_channel(1);
        let thread = std::thread::spawn(move || {
            let mut watch = Watch::default();
            let (mut told, pause) = (Instant::now(), INTERVAL / 10);
            while stopped.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
                watch.look(&progress);
                if told.elapsed() < INTERVAL {
                    continue;
                }
                told = Instant::now();
                // Who does not read any more does not need to be told.
                if report::print_progress(&line(&progress, &watch)).is_err() {
                    return;
                }
            }
        });
        Self {
            telling: Some((stop, thread)),
        }
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        if let Some((stop, thread)) = self.telling.take() {
            drop(stop);
            // A thread that failed has told so itself.
            let _ = thread.join();
        }
    }
}

fn line(progress: &Progress, watch: &Watch) -> Value {
    let phase = match progress.phase() {
        Phase::Connecting => "connecting",
        Phase::Checking => "checking",
        Phase::Restoring => "restoring",
        Phase::Finishing => "finishing",
        Phase::Scanning | Phase::Sending | Phase::Committing | Phase::Verifying => "working",
    };
    json!({
        "phase": phase,
        "files_done": progress.files_done(),
        "files_found": progress.files_found(),
        "files_total": progress.files_total(),
        "bytes_done": progress.bytes_done(),
        "bytes_found": progress.bytes_found(),
        "bytes_total": progress.bytes_total(),
        "bytes_per_second": watch.bytes_per_second(),
        "remaining_seconds": watch.seconds(progress).map(|seconds| (seconds * 10.0).round() / 10.0),
    })
}
