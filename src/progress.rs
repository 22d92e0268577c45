//! Progress on a terminal: one line on stderr, kept up to date from the agent's counters.

use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use understudy_agent::{Outlook, Phase, Progress};

use crate::arguments::Output;
use crate::report;
use crate::words;

const INTERVAL: Duration = Duration::from_millis(100);

/// The line; dropping it takes it away.
#[derive(Debug)]
pub(crate) struct Line {
    drawing: Option<(SyncSender<()>, JoinHandle<()>)>,
}

impl Line {
    /// Shows `progress` until dropped, if a person is looking.
    pub(crate) fn show(progress: &Arc<Progress>, output: Output) -> Self {
        use std::io::IsTerminal;
        if !report::summarises(output) || !std::io::stderr().is_terminal() {
            return Self { drawing: None };
        }
        let progress = Arc::clone(progress);
        let (stop, stopped) = sync_channel(1);
        let thread = std::thread::spawn(move || {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            let (mut drawn, mut outlook) = (None, Outlook::default());
            while stopped.recv_timeout(INTERVAL) == Err(RecvTimeoutError::Timeout) {
                outlook.look(&progress);
                draw(&bar, &progress, &outlook, &mut drawn);
            }
            bar.finish_and_clear();
        });
        Self {
            drawing: Some((stop, thread)),
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if let Some((stop, thread)) = self.drawing.take() {
            drop(stop);
            // A thread that failed at drawing has told so itself.
            let _ = thread.join();
        }
    }
}

/// How much of the line makes sense.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    /// What is done, and since when.
    Words,
    /// With a rate: nobody knows yet how much there is.
    Rate,
    /// With rate and estimate.
    Bar,
    /// With the rate and the estimate of a [`Outlook`].
    Remaining,
}

fn draw(
    bar: &ProgressBar,
    progress: &Progress,
    outlook: &Outlook,
    drawn: &mut Option<(Phase, Shape)>,
) {
    let phase = progress.phase();
    if phase == Phase::Connecting {
        // ssh may be asking for a password on this line.
        return;
    }
    let (done, total) = (progress.bytes_done(), progress.bytes_total());
    let shape = match phase {
        Phase::Sending if total > 0 => Shape::Bar,
        Phase::Restoring if total > 0 => Shape::Remaining,
        Phase::Scanning if done > 0 => Shape::Rate,
        _ => Shape::Words,
    };
    if *drawn != Some((phase, shape)) {
        bar.set_style(style(shape));
        *drawn = Some((phase, shape));
    }
    if matches!(shape, Shape::Bar | Shape::Remaining) {
        bar.set_length(total);
    }
    if shape == Shape::Remaining {
        bar.set_prefix(remaining(progress, outlook));
    }
    bar.set_position(done);
    bar.set_message(message(phase, progress));
    bar.tick();
}

fn style(shape: Shape) -> ProgressStyle {
    let template = match shape {
        Shape::Words => "{spinner} {msg}  {elapsed}",
        Shape::Rate => "{spinner} {msg}, {decimal_bytes_per_sec}  {elapsed}",
        Shape::Bar => {
            "{spinner} {msg}  {wide_bar} {decimal_bytes}/{decimal_total_bytes}  {decimal_bytes_per_sec}  {eta} left"
        }
        Shape::Remaining => {
            "{spinner} {msg}  {wide_bar} {decimal_bytes}/{decimal_total_bytes}  {prefix}"
        }
    };
    // The templates are constants; should one not be understood, the default shows the message as well.
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_spinner())
}

fn remaining(progress: &Progress, outlook: &Outlook) -> String {
    let rate = outlook
        .bytes_per_second()
        .map_or_else(String::new, |rate| format!("{}/s", words::size(rate)));
    match outlook.seconds(progress) {
        Some(seconds) => format!("{rate}  {} left", words::span(seconds.round() as i64)),
        None => rate,
    }
}

fn message(phase: Phase, progress: &Progress) -> String {
    let files = || {
        format!(
            "{} of {} files",
            words::count(progress.files_done()),
            words::count(progress.files_total())
        )
    };
    match phase {
        Phase::Connecting => "connecting".to_owned(),
        Phase::Scanning => {
            let seen = words::counted(progress.entries_seen(), "entry");
            if progress.files_total() == 0 {
                return format!("comparing: {seen}");
            }
            format!(
                "comparing: {seen}; sending: {}, {}",
                files(),
                words::size(progress.bytes_done())
            )
        }
        Phase::Sending => format!("sending: {}", files()),
        Phase::Committing => "waiting until the spare has it on disk".to_owned(),
        Phase::Restoring => format!("restoring: {}", files()),
        Phase::Checking => format!("looking at what is here: {}", files()),
        Phase::Finishing => "putting it on disk".to_owned(),
        Phase::Verifying => "the spare is reading everything".to_owned(),
    }
}
