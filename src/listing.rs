//! Telling results that may be many: each as it comes, so that nothing is kept, whatever a spare says.
//!
//! For programs it is one JSON object all the same; whether all went well stands at its end.

use std::io::{self, BufWriter, Stdout, Write};

use serde_json::{Map, Value};
use understudy_agent::AgentError;
use understudy_protocol::harmless;

use crate::arguments::{Format, Output};
use crate::exit::CommandError;
use crate::report::{self, Report};

/// A list of results on stdout.
#[derive(Debug)]
pub(crate) struct Listing {
    stdout: BufWriter<Stdout>,
    format: Format,
    /// What the list is called in JSON.
    name: &'static str,
    items: u64,
    has_reader: bool,
}

impl Listing {
    /// Nothing is written yet.
    pub(crate) fn new(output: Output, name: &'static str) -> Self {
        Self {
            stdout: BufWriter::new(io::stdout()),
            format: output.format,
            name,
            items: 0,
            has_reader: true,
        }
    }

    /// Tells one result: a line for people, a value for programs.
    pub(crate) fn tell(
        &mut self,
        line: impl FnOnce() -> String,
        value: impl FnOnce() -> Value,
    ) -> Result<(), AgentError> {
        let written = match self.format {
            Format::Text => writeln!(self.stdout, "{}", harmless(&line())),
            Format::Json => self
                .separate()
                .and_then(|()| write!(self.stdout, "{}", report::json(&value().to_string()))),
        };
        self.items += 1;
        written.map_err(|error| self.failed(error))
    }

    /// Ends the list: `data` goes beside it, `lines` are for people.
    pub(crate) fn end(
        mut self,
        told: Result<(Map<String, Value>, Vec<String>), CommandError>,
    ) -> Result<Report, CommandError> {
        match told {
            Ok((data, lines)) => {
                let written = self.close(data, &lines);
                self.finish(written)
            }
            // Whoever read it has had enough.
            Err(_) if !self.has_reader => Ok(Report::ended()),
            Err(error) if self.items == 0 => Err(error),
            Err(error) => {
                let written = self.close_failed(&error);
                let mut report = self.finish(written)?;
                report.code = error.code;
                report.error = Some(error);
                Ok(report)
            }
        }
    }

    fn close(&mut self, data: Map<String, Value>, lines: &[String]) -> io::Result<()> {
        if self.format == Format::Text {
            lines
                .iter()
                .try_for_each(|line| writeln!(self.stdout, "{}", harmless(line)))?;
            return self.stdout.flush();
        }
        if self.items == 0 {
            self.begin()?;
        }
        write!(self.stdout, "]")?;
        for (key, value) in data {
            let value = value.to_string();
            let value = report::json(&value);
            write!(self.stdout, ",{}:{value}", Value::from(key))?;
        }
        writeln!(self.stdout, "}},\"ok\":true}}")?;
        self.stdout.flush()
    }

    fn close_failed(&mut self, error: &CommandError) -> io::Result<()> {
        if self.format == Format::Json {
            let error = serde_json::to_string(&report::error_value(error))?;
            let error = report::json(&error);
            writeln!(self.stdout, "]}},\"ok\":false,\"error\":{error}}}")?;
        }
        self.stdout.flush()
    }

    fn begin(&mut self) -> io::Result<()> {
        let (schema, name) = (report::SCHEMA, self.name);
        write!(self.stdout, "{{\"schema\":{schema},\"data\":{{\"{name}\":[")
    }

    fn separate(&mut self) -> io::Result<()> {
        if self.items == 0 {
            self.begin()
        } else {
            write!(self.stdout, ",")
        }
    }

    fn failed(&mut self, error: io::Error) -> AgentError {
        self.has_reader &= error.kind() != io::ErrorKind::BrokenPipe;
        AgentError::Output(error)
    }

    fn finish(&mut self, written: io::Result<()>) -> Result<Report, CommandError> {
        match written {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                Err(AgentError::Output(error).into())
            }
            _ => Ok(Report::ended()),
        }
    }
}
