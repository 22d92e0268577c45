//! The agent's daemon: signals, the service manager and the log around its cycles.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::Value;
use tokio::runtime::Handle;
use tokio::signal::unix::{SignalKind, signal};
use understudy_agent::daemon::{AgentStatus, Listener, Outcome, Reload};
use understudy_agent::{AgentError, Cancel};

use super::{explained, value};
use crate::arguments::{Format, Output};
use crate::commands::sync;
use crate::fencer::Fences;
use crate::report::{self, Report};
use crate::{service, words};

/// How often the service manager hears that cycles go on: well below the unit's `WatchdogSec`.
const PULSE: Duration = Duration::from_secs(20);

/// Tells what a daemon does: cycles on stdout, the rest in the log and to the service manager.
pub(super) struct Voice<'a> {
    fences: Fences<'a>,
    pub(super) spare: String,
    pub(super) output: Output,
    is_ready: bool,
}

impl<'a> Voice<'a> {
    pub(super) fn new(fences: Fences<'a>, spare: String, output: Output) -> Self {
        Self {
            fences,
            spare,
            output,
            is_ready: false,
        }
    }

    fn become_ready(&mut self) {
        if !std::mem::replace(&mut self.is_ready, true) {
            service::ready();
        }
    }
}

impl Listener for Voice<'_> {
    fn ended(&mut self, outcome: &Outcome) {
        self.become_ready();
        tell(outcome, &self.spare, self.output);
        self.fences.ended(outcome);
    }

    fn waits(&mut self, status: &AgentStatus) {
        self.become_ready();
        service::status(&summary(status));
    }

    fn reloads(&mut self, reload: Reload<'_>) {
        match reload {
            Reload::Begins => service::reloading(),
            Reload::Done => {
                tracing::info!("the configuration was read again");
                service::ready();
            }
            Reload::Refused(error) => {
                tracing::error!(
                    "the new configuration is refused, the old one still counts: {error}"
                );
                service::ready();
            }
        }
    }
}

/// What `systemctl status` shows.
fn summary(status: &AgentStatus) -> String {
    let total = words::counted(status.datasets.len() as u64, "dataset");
    let failing: Vec<&str> = status
        .datasets
        .iter()
        .filter(|dataset| dataset.error.is_some())
        .map(|dataset| dataset.name.as_str())
        .collect();
    let next = status.datasets.iter().map(|one| one.next_seconds).min();
    let next = next.map_or(0, |next| next.saturating_sub(status.written_seconds).max(0));
    if failing.is_empty() {
        format!("{total}, all well; next cycle in {next} s")
    } else {
        format!("FAILING: {}; next cycle in {next} s", failing.join(", "))
    }
}

/// Lets SIGHUP mean that the configuration is to be read again.
pub(super) fn reload_on_hangup(runtime: &Handle, cancel: &Cancel) {
    let cancel = cancel.clone();
    let _guard = runtime.enter();
    match signal(SignalKind::hangup()) {
        Ok(mut hangups) => {
            runtime.spawn(async move {
                while hangups.recv().await.is_some() {
                    cancel.reload();
                }
            });
        }
        Err(error) => tracing::warn!("cannot watch for SIGHUP: {error}"),
    }
}

/// Tells the service manager that the daemon is alive as long as its work looks at what is wished of it; stops with
/// the returned value.
pub(super) struct Pulse(Arc<AtomicBool>);

impl Pulse {
    pub(super) fn start(runtime: &Handle, cancel: &Cancel) -> Self {
        let (ended, cancel) = (Arc::new(AtomicBool::new(false)), cancel.clone());
        let is_over = Arc::clone(&ended);
        runtime.spawn(async move {
            let mut before = cancel.looks();
            service::alive();
            while !is_over.load(Ordering::Relaxed) {
                tokio::time::sleep(PULSE).await;
                let looks = cancel.looks();
                if looks != before {
                    service::alive();
                }
                before = looks;
            }
        });
        Self(ended)
    }
}

impl Drop for Pulse {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Tells what came of one cycle, as soon as it has ended.
fn tell(outcome: &Outcome, spare: &str, output: Output) {
    let told = match (&outcome.result, output.format) {
        (_, Format::Json) => report::print_json(Some(&value(outcome, spare)), None),
        (Ok(synced), Format::Text) => {
            let lines = if report::summarises(output) {
                vec![sync::summary(synced)]
            } else {
                Vec::new()
            };
            let mut report = Report::done(Value::Null, lines);
            sync::note_problems(&mut report, synced);
            report::tell(Ok(report), output)
        }
        (Err(AgentError::Interrupted), Format::Text) => Ok(()),
        (Err(error), Format::Text) => {
            report::complain(&explained(outcome, error, spare), output);
            Ok(())
        }
    };
    if let Err(error) = told {
        tracing::warn!("cannot tell what came of a cycle: {error}");
    }
}
