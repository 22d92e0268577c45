//! `understudy cat`: the content of a file of a snapshot.

use std::io::{self, BufWriter, ErrorKind, Write};

use understudy_agent::AgentError;

use super::{Session, past};
use crate::arguments::{Cat, Format};
use crate::exit::CommandError;
use crate::report::Report;

/// Writes the content to stdout.
pub(crate) fn run(arguments: &Cat, session: &Session) -> Result<Report, CommandError> {
    if session.output.format == Format::Json {
        return Err(CommandError::usage(
            "a file's content cannot be told as JSON",
            "leave out --json; the exit code tells whether the content is whole",
        ));
    }
    let which = past::which(&arguments.selection)?;
    let path = past::path(&arguments.path)?;
    let mut stdout = BufWriter::new(io::stdout());
    let mut has_reader = true;
    let told = session.look(&arguments.dataset, |past| {
        let number = past.snapshot(which)?.position.number;
        let read = past.read(number, &path, &mut stdout);
        let read = read.and_then(|()| stdout.flush().map_err(AgentError::Output));
        if let Err(AgentError::Output(error)) = &read {
            has_reader = error.kind() != ErrorKind::BrokenPipe;
        }
        read
    });
    match told {
        Err(_) if !has_reader => Ok(Report::ended()),
        told => told.map(|()| Report::ended()),
    }
}
