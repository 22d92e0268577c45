//! Ctrl-C and SIGTERM: the command is asked to end, and left behind if it does not.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use understudy_agent::Cancel;

/// How long a command may take to end once it was asked to. Leaving it behind is safe: everything that it
/// writes survives a crash.
const PATIENCE: Duration = Duration::from_secs(2);

/// How a command ended.
#[derive(Debug)]
pub(crate) enum Ended<T> {
    /// By itself.
    Itself(T),
    /// It was asked to end, and did not in time.
    Interrupted,
    /// By a defect.
    Panicked,
}

enum Event<T> {
    Returned(T),
    Panicked,
    Signal,
}

/// Runs `command` on a thread of its own, and cancels it when a signal comes.
pub(crate) fn guard<T: Send + 'static>(
    runtime: &Runtime,
    cancel: &Cancel,
    command: impl FnOnce() -> T + Send + 'static,
) -> Ended<T> {
    let (sender, events) = sync_channel(4);
    watch_signals(runtime, sender.clone());
    std::thread::spawn(move || {
        let event =
            catch_unwind(AssertUnwindSafe(command)).map_or(Event::Panicked, Event::Returned);
        // Nobody waits any longer after an interruption.
        let _ = sender.send(event);
    });
    match events.recv() {
        Ok(Event::Returned(result)) => Ended::Itself(result),
        Ok(Event::Signal) => {
            cancel.cancel();
            await_end(&events)
        }
        Ok(Event::Panicked) | Err(_) => Ended::Panicked,
    }
}

/// Runs `command`, which no signal ends but one that cannot be kept off: it ends with the one that has started it. What it starts knows nothing of
/// that.
pub(crate) fn deaf<T>(runtime: &Runtime, command: impl FnOnce() -> T) -> Ended<T> {
    let _guard = runtime.enter();
    let signals = signals();
    if let Err(error) = &signals {
        tracing::warn!("cannot keep off signals: {error}");
    }
    match catch_unwind(AssertUnwindSafe(command)) {
        Ok(result) => Ended::Itself(result),
        Err(_) => Ended::Panicked,
    }
}

fn await_end<T>(events: &Receiver<Event<T>>) -> Ended<T> {
    match events.recv_timeout(PATIENCE) {
        Ok(Event::Returned(result)) => Ended::Itself(result),
        Ok(Event::Panicked) => Ended::Panicked,
        // Whoever asks twice is in a hurry.
        Ok(Event::Signal) | Err(_) => Ended::Interrupted,
    }
}

fn watch_signals<T: Send + 'static>(runtime: &Runtime, sender: SyncSender<Event<T>>) {
    let _guard = runtime.enter();
    let (mut interrupt, mut terminate) = match signals() {
        Ok(signals) => signals,
        // Without handlers a signal still ends the process, only less politely.
        Err(error) => return tracing::warn!("cannot watch for signals: {error}"),
    };
    runtime.spawn(async move {
        loop {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            if sender.try_send(Event::Signal).is_err() {
                return;
            }
        }
    });
}

/// Ctrl-C and SIGTERM, from now on. Needs a runtime around it.
pub(crate) fn signals() -> std::io::Result<(Signal, Signal)> {
    Ok((
        signal(SignalKind::interrupt())?,
        signal(SignalKind::terminate())?,
    ))
}
