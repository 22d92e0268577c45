//! Where log lines go: to stderr, as many as were asked for.

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use crate::arguments::{Detail, Output};
use crate::report;

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
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(report::colors(output.color))
        .with_target(false)
        .init();
}
