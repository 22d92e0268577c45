//! Where log lines go: to stderr, as many as were asked for.

use std::io::{self, Write};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;
use understudy_protocol::harmless;

use crate::arguments::{Detail, Output};
use crate::report;

/// Whether the lines themselves have colours; what they tell of is stripped of them where it is written into the line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Colours {
    None,
    Few,
}

/// stderr, on which a line stays one line and steers no terminal, whatever is told in it.
struct Harmless {
    colours: Colours,
}

impl Write for Harmless {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        io::stderr()
            .lock()
            .write_all(&made_harmless(line, self.colours))?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

/// A whole line with its end.
fn made_harmless(line: &[u8], colours: Colours) -> Vec<u8> {
    let text = String::from_utf8_lossy(line);
    let (text, end) = match text.strip_suffix('\n') {
        Some(text) => (text, "\n"),
        None => (&*text, ""),
    };
    let mut safe = match colours {
        Colours::None => harmless(text).into_owned(),
        Colours::Few => {
            let parts: Vec<_> = text.split('\u{1b}').map(harmless).collect();
            parts.join("\u{1b}")
        }
    };
    safe.push_str(end);
    safe.into_bytes()
}

/// Starts logging. `UNDERSTUDY_LOG` (the syntax of `EnvFilter`) comes before -v and -q.
pub(crate) fn start(output: Output) {
    let level = match output.detail {
        Detail::Quiet => LevelFilter::ERROR,
        Detail::Normal => LevelFilter::WARN,
        Detail::Verbose => LevelFilter::INFO,
        Detail::Debug => LevelFilter::DEBUG,
    };
    let filter = EnvFilter::builder().with_default_directive(level.into());
    let filter = match std::env::var("UNDERSTUDY_LOG") {
        Ok(text) => filter.parse_lossy(text),
        Err(_) => filter.parse_lossy(""),
    };
    let colours = if report::colors(output.color) {
        Colours::Few
    } else {
        Colours::None
    };
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(move || Harmless { colours })
        .with_ansi(colours == Colours::Few)
        .with_target(false)
        .init();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_in_a_line_neither_breaks_it_nor_steers_the_terminal() {
        let line = "WARN a\nERROR b\r\u{9b}2J\u{202e}c\u{1b}[2J\n".as_bytes();
        let written = |colours| String::from_utf8(made_harmless(line, colours)).expect("text");
        assert_eq!(
            written(Colours::None),
            "WARN a\\u{a}ERROR b\\u{d}\\u{9b}2J\\u{202e}c\\u{1b}[2J\n"
        );
        // Colours are the line's own: what is told in it has lost its escape characters before.
        assert_eq!(
            written(Colours::Few),
            "WARN a\\u{a}ERROR b\\u{d}\\u{9b}2J\\u{202e}c\u{1b}[2J\n"
        );
    }
}
