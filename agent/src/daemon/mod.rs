//! Cycles again and again: one dataset after another, each in its own rhythm.

use std::collections::HashMap;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use understudy_protocol::transport::Channel;
use understudy_protocol::{DatasetName, ProtocolError};

use crate::config::{Config, Scheduled};
use crate::error::AgentError;
use crate::sync::{SyncReport, sync};
use crate::{Cancel, Context};

/// How soon a wait notices that somebody asked for the end.
const PATIENCE: Duration = Duration::from_millis(100);
/// How often the list of datasets is made anew while none is due: directories may have come.
const RELIST: Duration = Duration::from_secs(60);

/// How many cycles each dataset gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// One.
    Once,
    /// One per interval, until cancelled.
    Forever,
}

/// What came of one cycle of one dataset.
#[derive(Debug)]
pub struct Outcome {
    /// The dataset; `None` if an entry of the configuration leads to none.
    pub dataset: Option<DatasetName>,
    /// Its source, where known.
    pub path: Option<PathBuf>,
    /// The report, or why there is none.
    pub result: Result<SyncReport, AgentError>,
}

/// Runs cycles for all datasets of `config`, or for those named in `only`; `on_outcome` hears of each as it ends.
///
/// `connect` opens a new connection for each cycle. An error of one dataset keeps no other from its cycle and is
/// not an error of this function; it is tried again at its next interval. Returns the outcomes of the last cycle of
/// each dataset. Fails with [`AgentError::Interrupted`] when cancelled.
pub fn run(
    config: &Config,
    only: &[DatasetName],
    mode: Mode,
    context: &Context,
    mut connect: impl FnMut() -> Result<Channel, ProtocolError>,
    mut on_outcome: impl FnMut(&Outcome),
) -> Result<Vec<Outcome>, AgentError> {
    let mut due: HashMap<DatasetName, Instant> = HashMap::new();
    loop {
        let mut outcomes = Vec::new();
        let mut next = Instant::now() + RELIST;
        for scheduled in wanted(config, only)? {
            context.cancel.check()?;
            let outcome = match scheduled {
                Err(error) => Outcome {
                    dataset: None,
                    path: None,
                    result: Err(error),
                },
                Ok(Scheduled { source, interval }) => {
                    let at = due
                        .entry(source.dataset.clone())
                        .or_insert_with(Instant::now);
                    if Instant::now() < *at {
                        next = next.min(*at);
                        continue;
                    }
                    *at = Instant::now() + interval;
                    next = next.min(*at);
                    let result = connect()
                        .map_err(AgentError::from)
                        .and_then(|channel| sync(channel, &source, context));
                    Outcome {
                        dataset: Some(source.dataset),
                        path: Some(source.path),
                        result,
                    }
                }
            };
            if matches!(outcome.result, Err(AgentError::Interrupted)) {
                return Err(AgentError::Interrupted);
            }
            on_outcome(&outcome);
            outcomes.push(outcome);
        }
        if mode == Mode::Once {
            return Ok(outcomes);
        }
        wait_until(next, &context.cancel)?;
    }
}

fn wanted(
    config: &Config,
    only: &[DatasetName],
) -> Result<Vec<Result<Scheduled, AgentError>>, AgentError> {
    let mut sources = config.sources();
    if only.is_empty() {
        return Ok(sources);
    }
    let has = |name: &DatasetName| {
        sources
            .iter()
            .flatten()
            .any(|one| one.source.dataset == *name)
    };
    if let Some(unknown) = only.iter().find(|name| !has(name)) {
        let file = config.file.display();
        return Err(AgentError::Configuration(format!(
            "{file}: there is no dataset `{unknown}`"
        )));
    }
    sources.retain(|one| {
        one.as_ref()
            .is_ok_and(|one| only.contains(&one.source.dataset))
    });
    Ok(sources)
}

fn wait_until(moment: Instant, cancel: &Cancel) -> Result<(), AgentError> {
    loop {
        cancel.check()?;
        let left = moment.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        thread::park_timeout(left.min(PATIENCE));
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use understudy_protocol::transport::in_process;

    use super::*;
    use crate::testing::{Stage, spare};

    fn config(stage: &Stage) -> Config {
        let source = stage.source.path.display();
        let text = format!(
            "interval = \"1h\"\n[[dataset]]\npath = \"/nowhere/at/all\"\n[[dataset]]\npath = \"{source}\"\nname = \"test\"\n"
        );
        Config::parse(&text, Path::new("agent.toml")).expect("valid")
    }

    /// A connection to the stage's spare; its session ends with it.
    fn connect(stage: &Stage) -> Result<Channel, ProtocolError> {
        let (ours, theirs) = in_process();
        let spare = Arc::clone(&stage.spare);
        thread::spawn(move || spare::serve(&spare, theirs));
        Ok(ours)
    }

    #[test]
    fn one_dataset_that_fails_keeps_no_other_from_its_cycle() {
        let stage = Stage::new();
        stage.write("file", "content");
        let (config, context) = (config(&stage), stage.context());
        let mut heard = 0;
        let outcomes = run(
            &config,
            &[],
            Mode::Once,
            &context,
            || connect(&stage),
            |_| heard += 1,
        );
        let outcomes = outcomes.expect("run");
        assert_eq!((outcomes.len(), heard), (2, 2));
        assert!(matches!(
            outcomes[0].result,
            Err(AgentError::SourceMissing { .. })
        ));
        assert!(
            outcomes[1]
                .result
                .as_ref()
                .is_ok_and(|report| report.committed)
        );

        let only = [DatasetName::new("test").expect("name")];
        let outcomes = run(
            &config,
            &only,
            Mode::Once,
            &context,
            || connect(&stage),
            |_| {},
        );
        assert_eq!(outcomes.expect("run").len(), 1);
        let unknown = [DatasetName::new("other").expect("name")];
        let refused = run(
            &config,
            &unknown,
            Mode::Once,
            &context,
            || connect(&stage),
            |_| {},
        );
        assert!(refused.expect_err("unknown").to_string().contains("other"));
    }

    #[test]
    fn a_daemon_that_is_cancelled_ends() {
        let stage = Stage::new();
        stage.write("file", "content");
        let (config, context) = (config(&stage), stage.context());
        let mut cycles = 0;
        let ended = run(
            &config,
            &[],
            Mode::Forever,
            &context,
            || connect(&stage),
            |outcome| {
                cycles += usize::from(outcome.result.is_ok());
                if cycles > 0 {
                    context.cancel.cancel();
                }
            },
        );
        assert!(matches!(ended, Err(AgentError::Interrupted)));
        assert_eq!(cycles, 1);
    }
}
