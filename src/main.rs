//! The command `understudy`: the only place where agent and receiver meet, and where an error becomes a hint
//! and an exit code.
//!
//! Knows how to read arguments, how to reach a spare and how to tell results. What is done with data is
//! decided by the libraries alone.

mod address;
mod alert;
mod arguments;
mod capturer;
mod commands;
mod confinement;
mod confirm;
mod drills;
mod exit;
mod fencer;
mod hooks;
mod imager;
mod interrupt;
mod listing;
mod logging;
mod moment;
mod opener;
mod paths;
mod progress;
mod receiver_config;
mod remaining;
mod report;
mod service;
mod spare;
mod ssh;
mod standby;
mod words;
mod worker;

use std::process::ExitCode;

use crate::arguments::Arguments;
use crate::confinement::Prepared;
use crate::exit::{Code, CommandError};
use crate::interrupt::Ended;
use crate::report::Report;

fn main() -> ExitCode {
    let _crash_points = understudy_tree::crash::arm();
    let arguments = match arguments::parse() {
        Ok(arguments) => arguments,
        Err(code) => return code.into(),
    };
    let output = arguments.output;
    logging::start(output);
    // Before there are threads: they have only the rights of the one that starts them.
    let result = confinement::prepare(&arguments).and_then(|prepared| run(arguments, prepared));
    let code = match &result {
        Ok(report) => report.code,
        Err(error) => error.code,
    };
    match report::tell(result, output) {
        Ok(()) => code.into(),
        Err(error) => {
            tracing::error!("cannot write the report: {error}");
            if code == Code::Done {
                Code::Failed.into()
            } else {
                code.into()
            }
        }
    }
}

/// Runs the command, to its end or to the first signal.
fn run(arguments: Arguments, prepared: Prepared) -> Result<Report, CommandError> {
    let is_daemon = arguments.command.is_daemon();
    let outlives_signals = arguments.command.outlives_signals();
    let ended = tokio::runtime::Runtime::new().map(|runtime| {
        let (handle, cancel) = (
            runtime.handle().clone(),
            understudy_agent::Cancel::default(),
        );
        let session = commands::Session {
            runtime: handle,
            cancel: cancel.clone(),
            places: arguments.places,
            output: arguments.output,
        };
        let command = move || commands::run(arguments.command, prepared, &session);
        let ended = match outlives_signals {
            true => interrupt::deaf(&runtime, command),
            false => interrupt::guard(&runtime, &cancel, command),
        };
        // What still runs was told to end, and everything it writes survives a crash.
        runtime.shutdown_background();
        ended
    });
    match ended {
        Ok(Ended::Itself(result)) => result,
        Ok(Ended::Interrupted) if is_daemon => Ok(Report::ended()),
        Ok(Ended::Interrupted) => Err(CommandError::interrupted()),
        Ok(Ended::Panicked) => Err(CommandError::panicked()),
        Err(error) => Err(CommandError::failed(format!("cannot start: {error}"))),
    }
}
