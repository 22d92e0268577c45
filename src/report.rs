//! Telling results: text for people, one line of JSON for programs.

use std::borrow::Cow;
use std::io::{self, IsTerminal, Write};

use serde::Serialize;
use serde_json::Value;
use understudy_protocol::{harmless, is_harmful};

use crate::arguments::{Color, Detail, Format, Output};
use crate::exit::{Code, CommandError};

/// Version of the JSON that is printed.
pub(crate) const SCHEMA: u32 = 1;

/// How many lines of one kind are listed for people before the rest is only counted.
const LISTED: usize = 20;

/// What a command that did its work has to say.
#[derive(Debug)]
pub(crate) struct Report {
    /// What the process ends with.
    pub(crate) code: Code,
    /// For programs.
    pub(crate) data: Value,
    /// For people, on stdout.
    pub(crate) lines: Vec<String>,
    /// For people, on stderr: what did not go as it should.
    pub(crate) notes: Vec<String>,
    /// What is wrong all the same, where `code` says that something is.
    pub(crate) error: Option<CommandError>,
}

impl Report {
    /// All is well.
    pub(crate) fn done(data: Value, lines: Vec<String>) -> Self {
        Self {
            code: Code::Done,
            data,
            lines,
            notes: Vec::new(),
            error: None,
        }
    }

    /// A daemon has ended as it should; it has told everything already.
    pub(crate) fn ended() -> Self {
        Self::done(Value::Null, Vec::new())
    }

    /// Adds lines of one kind below a heading: the first ones, and the number of the others.
    pub(crate) fn note_all(&mut self, heading: &str, lines: impl ExactSizeIterator<Item = String>) {
        let total = lines.len();
        if total == 0 {
            return;
        }
        self.notes.push(heading.to_owned());
        self.notes
            .extend(lines.take(LISTED).map(|line| format!("  {line}")));
        if total > LISTED {
            self.notes
                .push(format!("  and {} more (--json lists all)", total - LISTED));
        }
    }
}

/// Prints a result. A reader of stdout that has gone is no error.
pub(crate) fn tell(result: Result<Report, CommandError>, output: Output) -> io::Result<()> {
    let told = match (result, output.format) {
        (Ok(report), Format::Json) if report.data.is_null() => Ok(()),
        (Ok(report), Format::Json) => print_json(Some(&report.data), report.error.as_ref()),
        (Ok(report), Format::Text) => tell_text(&report, output),
        (Err(error), Format::Json) => print_json(None, Some(&error)),
        (Err(error), Format::Text) => {
            complain(&error, output);
            Ok(())
        }
    };
    match told {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        told => told,
    }
}

/// What `--json` prints.
#[derive(Serialize)]
struct Envelope<'a> {
    schema: u32,
    ok: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<&'a Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<ErrorValue<'a>>,
}

/// An error for programs.
#[derive(Debug, Serialize)]
pub(crate) struct ErrorValue<'a> {
    code: u8,
    message: &'a str,
    hint: &'a str,
}

/// Prints one line of JSON: what was found, what is wrong, or both.
pub(crate) fn print_json(data: Option<&Value>, error: Option<&CommandError>) -> io::Result<()> {
    let error = error.map(error_value);
    let envelope = Envelope {
        schema: SCHEMA,
        ok: error.is_none(),
        data,
        error,
    };
    write_line(&json(&serde_json::to_string(&envelope)?))
}

/// Prints one line of JSON about work that is not done yet.
pub(crate) fn print_progress(progress: &Value) -> io::Result<()> {
    let line = serde_json::json!({ "schema": SCHEMA, "progress": progress });
    write_line(&json(&line.to_string()))
}

/// JSON in which nothing steers a terminal that it is shown on: such characters are within strings, and written as numbers there.
pub(crate) fn json(text: &str) -> Cow<'_, str> {
    if !text.contains(is_harmful) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if is_harmful(c) {
            let mut units = [0; 2];
            for unit in c.encode_utf16(&mut units) {
                safe.push_str(&format!("\\u{unit:04x}"));
            }
        } else {
            safe.push(c);
        }
    }
    Cow::Owned(safe)
}

fn tell_text(report: &Report, output: Output) -> io::Result<()> {
    let printed = report.lines.iter().try_for_each(|line| print_line(line));
    for note in &report.notes {
        note_line(note);
    }
    if let Some(error) = &report.error {
        complain(error, output);
    }
    printed
}

/// An error for programs.
pub(crate) fn error_value(error: &CommandError) -> ErrorValue<'_> {
    ErrorValue {
        code: error.code as u8,
        message: &error.message,
        hint: &error.hint,
    }
}

/// Prints a line for people on stdout at once. It stays one line, and steers no terminal.
pub(crate) fn print_line(line: &str) -> io::Result<()> {
    write_line(&harmless(line))
}

fn write_line(line: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{line}")?;
    stdout.flush()
}

/// Prints a line on stderr. It stays one line, and steers no terminal.
pub(crate) fn note_line(line: &str) {
    write_note(&harmless(line));
}

fn write_note(line: &str) {
    // There is nowhere left to tell that stderr is closed.
    let _ = writeln!(io::stderr().lock(), "{line}");
}

/// Prints an error with its hint.
pub(crate) fn complain(error: &CommandError, output: Output) {
    let (red, blue, plain) = if colors(output.color) {
        ("\x1b[1;31m", "\x1b[1;34m", "\x1b[0m")
    } else {
        ("", "", "")
    };
    let (message, hint) = (harmless(&error.message), harmless(&error.hint));
    write_note(&format!("{red}error:{plain} {message}"));
    write_note(&format!("{blue}hint:{plain} {hint}"));
}

/// Whether stderr takes colours.
pub(crate) fn colors(color: Color) -> bool {
    match color {
        Color::Always => true,
        Color::Never => false,
        Color::Auto => {
            io::stderr().is_terminal()
                && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
        }
    }
}

/// Whether summaries for people are wanted.
pub(crate) fn summarises(output: Output) -> bool {
    output.format == Format::Text && output.detail > Detail::Quiet
}
