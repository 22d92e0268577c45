//! How far a restore is and how long the rest takes, from the agent's counters: for the terminal and for programs.

use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use understudy_agent::{Outlook, Phase, Progress};

use crate::arguments::{Format, Output};
use crate::report;

/// How often programs are told.
const INTERVAL: Duration = Duration::from_secs(1);

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
            let mut outlook = Outlook::default();
            let (mut told, pause) = (Instant::now(), INTERVAL / 10);
            while stopped.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
                outlook.look(&progress);
                if told.elapsed() < INTERVAL {
                    continue;
                }
                told = Instant::now();
                // Who does not read any more does not need to be told.
                if report::print_progress(&line(&progress, &outlook)).is_err() {
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

fn line(progress: &Progress, outlook: &Outlook) -> Value {
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
        "bytes_per_second": outlook.bytes_per_second(),
        "remaining_seconds": outlook.seconds(progress).map(|seconds| (seconds * 10.0).round() / 10.0),
    })
}
