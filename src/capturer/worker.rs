//! A process that captures one database once, or keeps one application still. It ends what it has started when nobody wants its answer any more.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;

use tokio::runtime::Handle;
use tokio::sync::oneshot;
use understudy_agent::databases::{CaptureError, place};
use understudy_protocol::Name;

use super::note::What;
use super::task::{self, Ground};
use super::{Answer, Phase, Reply, Request, settings};
use crate::alert::wire;
use crate::exit::CommandError;

/// Reads one request, and answers it.
pub(super) fn run(config: &Path, state: &Path, runtime: &Handle) -> Result<(), CommandError> {
    let (sender, told) = oneshot::channel();
    let over = move || {
        let _ = sender.send(());
    };
    let request = crate::worker::request::<Request>(over).map_err(|error| {
        CommandError::failed(format!("what is asked for is not done here: {error}"))
    })?;
    let Some(request) = request else {
        return Ok(());
    };
    let number = request.number;
    let tell = |answer| {
        // Where it cannot be written nobody wants it any more.
        let _ = wire::write(&mut io::stdout(), &Reply { number, answer });
    };
    let ground = Ground {
        config,
        state,
        runtime,
    };
    let undo = |what| Answer::LetGo(task::undo(ground, (what, &request.dataset)));
    match request.phase {
        Phase::KeepStill => task::keep(ground, (What::Stillness, &request), told, tell),
        Phase::TakeSnapshot => task::keep(ground, (What::Snapshot, &request), told, tell),
        Phase::LetGo => tell(undo(What::Stillness)),
        Phase::DropSnapshot => tell(undo(What::Snapshot)),
        Phase::Probe | Phase::Dump(_) => {
            tell(answer(config, state, &request).unwrap_or_else(Answer::Failure));
        }
    }
    Ok(())
}

fn answer(config: &Path, state: &Path, request: &Request) -> Result<Answer, CaptureError> {
    let settings = settings(config, request)?;
    let database = settings.open(&request.dataset);
    let Phase::Dump(name) = &request.phase else {
        return Ok(Answer::Probe(database.probe()?));
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
