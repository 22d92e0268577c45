#![expect(clippy::disallowed_methods, reason = "changes trees")]

use std::sync::{Arc, Mutex};
use std::thread;

use understudy_protocol::transport::in_process;

use super::*;
use crate::testing::{Stage, spare};

fn config(stage: &Stage, interval: &str) -> Config {
    let source = stage.source.path.display();
    let text = format!(
        "interval = \"{interval}\"\n[pace]\npressure = \"off\"\n[[dataset]]\npath = \"/nowhere/at/all\"\n\
         [[dataset]]\npath = \"{source}\"\nname = \"test\"\nexclude = [\"/left/out/\"]\n"
    );
    let file = stage.beside("agent.toml");
    std::fs::write(&file, &text).expect("write");
    Config::load(&file).expect("valid")
}

/// A connection to the stage's spare; its session ends with it.
fn connect(spare: &Arc<Mutex<spare::Spare>>) -> Result<Channel, ProtocolError> {
    let (ours, theirs) = in_process();
    let spare = Arc::clone(spare);
    thread::spawn(move || spare::serve(&spare, theirs));
    Ok(ours)
}

/// What is done after a cycle.
type Step<'a> = Box<dyn FnOnce(&SyncReport) + 'a>;

/// Does something after each cycle that went well, and hears everything.
#[derive(Default)]
struct Script<'a> {
    steps: Vec<Step<'a>>,
    failures: Vec<String>,
    reloads: usize,
    last: Option<AgentStatus>,
}

impl Listener for Script<'_> {
    fn ended(&mut self, outcome: &Outcome) {
        match &outcome.result {
            Ok(report) if !self.steps.is_empty() => self.steps.remove(0)(report),
            Ok(_) => {}
            Err(error) => self.failures.push(error.to_string()),
        }
    }

    fn waits(&mut self, status: &AgentStatus) {
        self.last = Some(status.clone());
    }

    fn reloads(&mut self, reload: Reload<'_>) {
        self.reloads += usize::from(matches!(reload, Reload::Done));
    }
}

#[test]
fn one_dataset_that_fails_keeps_no_other_from_its_cycle() {
    let stage = Stage::new();
    stage.write("file", "content");
    let (config, context) = (config(&stage, "1h"), stage.context());
    let mut heard = 0;
    let mut run = |only: &[DatasetName]| {
        let connect = || connect(&stage.spare);
        once(&config, only, Trust::Times, &context, connect, |_| {
            heard += 1;
        })
    };
    let outcomes = run(&[]).expect("run");
    assert_eq!(outcomes.len(), 2);
    assert!(matches!(
        outcomes[0].result,
        Err(AgentError::SourceMissing { .. })
    ));
    let report = outcomes[1].result.as_ref().expect("synced");
    assert!(report.committed);
    let only = |name| [DatasetName::new(name).expect("name")];
    assert_eq!(run(&only("test")).expect("run").len(), 1);
    let refused = run(&only("other")).expect_err("unknown").to_string();
    assert!(refused.contains("other"));
    assert_eq!(heard, 3);
}

#[test]
fn a_daemon_finds_what_changes_and_ends_when_it_is_told_to() {
    let stage = Stage::new();
    stage.write("file", "content");
    let (config, context) = (config(&stage, "1s"), stage.context());
    let path = stage.source.path.clone();
    let cancel = context.cancel.clone();
    let mut script = Script::default();
    script.steps.push(Box::new(|report| {
        assert!(report.committed);
        std::fs::write(path.join("second"), "more").expect("write");
    }));
    script.steps.push(Box::new(|report| {
        assert_eq!(report.added, 1);
        cancel.cancel();
    }));
    let only = [DatasetName::new("test").expect("name")];
    let ended = forever(
        config,
        &only,
        Trust::Times,
        &context,
        || connect(&stage.spare),
        &mut script,
    );
    assert!(matches!(ended, Err(AgentError::Interrupted)));
    assert!(script.steps.is_empty());
    let status = AgentStatus::read(&context.state)
        .expect("read")
        .expect("written");
    assert_eq!(status.datasets[0].name, "test");
    assert!(status.datasets[0].success_seconds.is_some());
}

#[test]
fn a_second_daemon_on_one_state_directory_is_refused_and_a_single_cycle_is_not() {
    let stage = Stage::new();
    stage.write("file", "content");
    let (config, context) = (config(&stage, "1h"), stage.context());
    let cancel = context.cancel.clone();
    let only = [DatasetName::new("test").expect("name")];
    let connect = || connect(&stage.spare);
    let mut script = Script::default();
    script.steps.push(Box::new(|_| {
        let other = stage.context();
        let silent = &mut Script::default();
        // Were it not refused, it would end at once.
        other.cancel.cancel();
        let refused = forever(config.clone(), &only, Trust::Times, &other, connect, silent);
        let refused = refused.expect_err("one is running");
        assert!(matches!(refused, AgentError::AgentRunning { .. }));
        let shown = other.state.display().to_string();
        assert!(refused.to_string().contains(&shown), "{refused}");
        let outcomes = run_once(&config, &stage.context(), connect);
        assert!(outcomes[1].result.is_ok(), "{outcomes:?}");
        cancel.cancel();
    }));
    let ended = forever(
        config.clone(),
        &only,
        Trust::Times,
        &context,
        connect,
        &mut script,
    );
    assert!(matches!(ended, Err(AgentError::Interrupted)));
    assert!(script.steps.is_empty());
}

fn run_once(
    config: &Config,
    context: &Context,
    connect: impl FnMut() -> Result<Channel, ProtocolError>,
) -> Vec<Outcome> {
    once(config, &[], Trust::Times, context, connect, |_| {}).expect("run")
}

#[test]
fn a_cycle_that_takes_long_is_shown_as_running() {
    let stage = Stage::new();
    stage.write("file", "content");
    let (config, context) = (config(&stage, "1h"), stage.context());
    let cancel = context.cancel.clone();
    let mut script = Script::default();
    script.steps.push(Box::new(|_| cancel.cancel()));
    let began = Moment::now();
    let is_running = || {
        let told = AgentStatus::read(&context.state).expect("read");
        told.is_some_and(|told| told.datasets[0].running_since_seconds.is_some())
    };
    let connect = || {
        while !is_running() {
            assert!(began.elapsed() < Duration::from_secs(60), "it is not told");
            thread::yield_now();
        }
        connect(&stage.spare)
    };
    let only = [DatasetName::new("test").expect("name")];
    let ended = forever(config, &only, Trust::Times, &context, connect, &mut script);
    assert!(matches!(ended, Err(AgentError::Interrupted)));
    assert!(script.steps.is_empty());
}

#[test]
fn a_configuration_is_read_again_and_a_wrong_one_changes_nothing() {
    let stage = Stage::new();
    stage.write("file", "content");
    let (config, context) = (config(&stage, "1s"), stage.context());
    let file = config.file.clone();
    let text = std::fs::read_to_string(&file).expect("read");
    let (cancel, good) = (context.cancel.clone(), text.replace("left/out", "other"));
    let mut script = Script::default();
    script.steps.push(Box::new(|_| {
        std::fs::write(&file, "nonsense").expect("write");
        cancel.reload();
    }));
    script.steps.push(Box::new(|_| {
        std::fs::write(&file, &good).expect("write");
        cancel.reload();
    }));
    script.steps.push(Box::new(|report| {
        let because = format!("{:?}", report.looked_at);
        assert!(because.contains("read again"), "{because}");
        cancel.cancel();
    }));
    let only = [DatasetName::new("test").expect("name")];
    let ended = forever(
        config,
        &only,
        Trust::Times,
        &context,
        || connect(&stage.spare),
        &mut script,
    );
    assert!(matches!(ended, Err(AgentError::Interrupted)));
    assert_eq!(script.reloads, 1);
}

#[test]
fn a_spare_that_is_away_is_tried_again_soon_and_one_cycle_catches_up() {
    let stage = Stage::new();
    stage.write("file", "content");
    let (config, context) = (config(&stage, "1s"), stage.context());
    let cancel = context.cancel.clone();
    let mut script = Script::default();
    script.steps.push(Box::new(|report| {
        assert!(report.committed);
        cancel.cancel();
    }));
    let only = [DatasetName::new("test").expect("name")];
    let mut tries = 0;
    let ended = forever(
        config,
        &only,
        Trust::Times,
        &context,
        || {
            tries += 1;
            if tries < 3 {
                return Err(ProtocolError::Address("nobody is there".to_owned()));
            }
            connect(&stage.spare)
        },
        &mut script,
    );
    assert!(matches!(ended, Err(AgentError::Interrupted)));
    assert_eq!((tries, script.failures.len()), (3, 2));
    let status = script.last.expect("status");
    assert_eq!(status.datasets[0].failures, 0, "it is over");
}

#[test]
fn a_configuration_without_the_dataset_is_refused_before_anything_starts() {
    let stage = Stage::new();
    let config = config(&stage, "1h");
    let only = [DatasetName::new("other").expect("name")];
    let refused = forever(
        config,
        &only,
        Trust::Times,
        &stage.context(),
        || Err(ProtocolError::Cut),
        &mut Script::default(),
    );
    assert!(matches!(refused, Err(AgentError::Configuration(_))));
    assert!(!Path::new(&stage.beside("state")).exists());
}
