//! A process that captures one database once. It ends what it has started when nobody wants its answer any more.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;

use understudy_agent::databases::{CaptureError, place};
use understudy_protocol::Name;

use super::{Answer, Phase, Reply, Request, settings};
use crate::alert::wire;
use crate::exit::CommandError;

/// Reads one request, and answers it.
pub(super) fn run(config: &Path, state: &Path) -> Result<(), CommandError> {
    let request = crate::worker::request::<Request>(|| ()).map_err(|error| {
        CommandError::failed(format!("what is asked for is not done here: {error}"))
    })?;
    let Some(request) = request else {
        return Ok(());
    };
    let number = request.number;
    let answer = answer(config, state, &request).unwrap_or_else(Answer::Failure);
    // Where it cannot be written nobody wants it any more.
    let _ = wire::write(&mut io::stdout(), &Reply { number, answer });
    Ok(())
}

fn answer(config: &Path, state: &Path, request: &Request) -> Result<Answer, CaptureError> {
    let settings = settings(config, request)?;
    let database = settings.open(&request.dataset);
    let name = match &request.phase {
        Phase::Probe => return Ok(Answer::Probe(database.probe()?)),
        Phase::Dump(name) => name,
    };
    let cannot = |error: &dyn std::fmt::Display| {
        CaptureError::failed(format!("there is no place for its dump: {error}"))
    };
    let name = Name::new(name.as_str()).map_err(|error| cannot(&error))?;
    let directory =
        place(state, &request.dataset, &settings.name, &name).map_err(|error| cannot(&error))?;
    // By its descriptor: no link that takes its place later leads anywhere else.
    let into = format!(
        "/proc/{}/fd/{}",
        std::process::id(),
        directory.as_fd().as_raw_fd()
    );
    database
        .dump(Path::new(&into))
        .map(Answer::Dump)
        .map_err(|error| {
            let mut error = CaptureError::from(error);
            let known = state.join("databases").join(request.dataset.as_str());
            let known = known.join(&settings.name);
            error.text = error.text.replace(&into, &known.to_string_lossy());
            error
        })
}
