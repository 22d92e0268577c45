//! Databases that are taken in each cycle, with an engine that says what it was asked.
#![expect(clippy::disallowed_methods, reason = "writes dumps")]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use understudy_databases::{Dump, Limits, Probe};
use understudy_protocol::transport::in_process;
use understudy_protocol::{ContentHash, DatasetName, ProtocolError};

use crate::databases::{
    Capture, CaptureError, CaptureFailure, DatabaseSettings, DatabaseState, LetGo, OnFailure,
};
use crate::scan::Trust;
use crate::sync::{Carrying, Making, Patience, Reliance, SyncReport, Telling, cycle_in_two_tries};
use crate::testing::{Stage, settle, spare};
use crate::{AgentError, Context};

/// A database that is one text.
#[derive(Debug, Default)]
struct Engine(Mutex<State>);

#[derive(Debug)]
struct State {
    text: String,
    token: String,
    is_settled: bool,
    fails: Option<String>,
    is_not_now: bool,
    dumps: u32,
}

impl Default for State {
    fn default() -> Self {
        Self {
            text: "first".to_owned(),
            token: "1".to_owned(),
            is_settled: true,
            fails: None,
            is_not_now: false,
            dumps: 0,
        }
    }
}

impl Capture for Engine {
    fn probe(&self, _: &DatasetName, _: &str) -> Result<Probe, CaptureError> {
        let state = self.0.lock().expect("state");
        Ok(Probe {
            token: state.token.clone(),
            is_settled: state.is_settled,
        })
    }

    fn dump(&self, _: &DatasetName, _: &str, into: &Path) -> Result<Dump, CaptureError> {
        let mut state = self.0.lock().expect("state");
        state.dumps += 1;
        fs::write(into.join("always"), "the same").expect("write");
        fs::write(into.join("text"), &state.text).expect("write");
        match &state.fails {
            Some(text) if state.is_not_now => Err(CaptureError {
                text: text.clone(),
                kind: CaptureFailure::NotNow,
            }),
            Some(text) => Err(CaptureError::failed(text)),
            None => Ok(Dump::default()),
        }
    }

    fn keep_still(&self, _: &DatasetName) -> Result<(), CaptureError> {
        Err(CaptureError::failed("it is not asked for"))
    }

    fn let_go(&self, _: &DatasetName) -> Result<LetGo, CaptureError> {
        Err(CaptureError::failed("it is not asked for"))
    }

    fn take_snapshot(&self, _: &DatasetName) -> Result<PathBuf, CaptureError> {
        Err(CaptureError::failed("it is not asked for"))
    }

    fn drop_snapshot(&self, _: &DatasetName) -> Result<LetGo, CaptureError> {
        Err(CaptureError::failed("it is not asked for"))
    }
}

struct Play {
    stage: Stage,
    engine: Arc<Engine>,
}

impl Play {
    fn new(on_failure: OnFailure) -> Self {
        let mut stage = Stage::new();
        stage.write("file", "content");
        settle();
        stage.source.databases = vec![DatabaseSettings {
            name: "shop".to_owned(),
            engine: crate::databases::Engine::Postgres(
                serde_json::from_str("{\"database\": \"shop\"}").expect("settings"),
            ),
            limits: Limits::default(),
            force_dump: Duration::from_secs(3600),
        }];
        stage.source.on_database_failure = on_failure;
        Self {
            stage,
            engine: Arc::default(),
        }
    }

    fn set(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.engine.0.lock().expect("state"));
    }

    fn dumps(&self) -> u32 {
        self.engine.0.lock().expect("state").dumps
    }

    fn cycle_over(&self, is_away: bool) -> Result<SyncReport, AgentError> {
        let engine: Arc<dyn Capture> = Arc::<Engine>::clone(&self.engine);
        let context = Context {
            databases: Some(engine),
            ..self.stage.context()
        };
        let reliance = Reliance {
            journal: None,
            sweep: None,
            trust: Trust::Times,
            patience: Patience::None,
            telling: Telling::Nobody,
            carrying: Carrying::On,
            making: Making::Always,
            captured: None,
            turn: crate::scan::Turn::Whichever,
            freeze: None,
            still: None,
        };
        let mut sessions = Vec::new();
        let result = {
            let mut connect = || match is_away {
                true => Err(ProtocolError::Cut),
                false => {
                    let (ours, theirs) = in_process();
                    let spare = Arc::clone(&self.stage.spare);
                    sessions.push(std::thread::spawn(move || spare::serve(&spare, theirs)));
                    Ok(ours)
                }
            };
            cycle_in_two_tries(&mut connect, &self.stage.source, &context, reliance)
        };
        for session in sessions {
            session.join().expect("the spare saw a broken rule");
        }
        result
    }

    fn cycle(&self) -> SyncReport {
        self.cycle_over(false).expect("cycle")
    }

    /// The text that the spare has.
    fn has(&self, text: &str) -> bool {
        let tree = self.stage.spare().databases();
        let (entry, _) = &tree[&b"shop/text".to_vec()];
        entry.content().expect("file").1 == ContentHash::of(text.as_bytes())
    }

    fn age(&self, file: &str, seconds: i64) {
        let path = self.stage.beside("state/databases/test/shop").join(file);
        let text = fs::read_to_string(&path).expect("note");
        let mut note: serde_json::Value = serde_json::from_str(&text).expect("json");
        let taken = note["taken_seconds"].as_i64().expect("number");
        note["taken_seconds"] = (taken - seconds).into();
        fs::write(path, note.to_string()).expect("write");
    }
}

#[test]
fn a_database_that_says_it_did_not_change_is_not_dumped() {
    let play = Play::new(OnFailure::Fail);
    play.cycle();
    assert!(play.has("first"));
    let report = play.cycle();
    assert!(!report.committed);
    assert_eq!((play.dumps(), report.files_read), (1, 0));
    play.set(|state| {
        state.text = "second".to_owned();
        state.token = "2".to_owned();
        state.is_settled = false;
    });
    let report = play.cycle();
    assert_eq!((report.committed, report.files_read), (true, 1));
    assert!(play.has("second"));
    // One that was not settled may have missed something.
    play.set(|state| state.is_settled = true);
    assert!(!play.cycle().committed);
    assert_eq!(play.dumps(), 3);
    play.cycle();
    assert_eq!(play.dumps(), 3);
}

#[test]
fn a_dump_is_taken_now_and_then_and_what_was_missed_is_counted() {
    let play = Play::new(OnFailure::Fail);
    play.cycle();
    play.set(|state| state.text = "what nobody told".to_owned());
    play.cycle();
    assert!(play.has("first"));
    play.age("shipped", 3601);
    play.cycle();
    assert!(play.has("what nobody told"));
    let note = fs::read_to_string(play.stage.beside("state/databases/test/shop/shipped"));
    assert!(note.expect("note").contains("\"misses\":1"));
    play.age("shipped", 3601);
    assert!(!play.cycle().committed);
    assert_eq!(play.dumps(), 3);
    // A clock that went back proves nothing.
    play.age("shipped", -7200);
    play.cycle();
    assert_eq!(play.dumps(), 4);
}

#[test]
fn what_was_taken_while_the_spare_was_away_is_not_taken_again() {
    let play = Play::new(OnFailure::Fail);
    play.cycle();
    play.set(|state| {
        state.text = "second".to_owned();
        state.token = "2".to_owned();
    });
    for _ in 0..3 {
        play.cycle_over(true).expect_err("away");
    }
    play.cycle();
    assert_eq!(play.dumps(), 2);
    assert!(play.has("second"));
    assert!(!play.cycle().committed);
}

#[test]
fn a_database_that_cannot_be_taken_ends_the_cycle_or_is_left() {
    let play = Play::new(OnFailure::Fail);
    play.cycle();
    let broken = |state: &mut State| {
        state.token = "2".to_owned();
        state.text = "half".to_owned();
        state.fails = Some("start the server".to_owned());
    };
    play.set(broken);
    play.stage.write("file", "changed");
    let error = play.cycle_over(false).expect_err("no snapshot");
    assert!(error.to_string().contains("start the server"), "{error}");
    assert!(play.has("first"));
    // What was sent before the dump failed is all that is sent.
    let snapshots = play.stage.spare().uploads.len();
    play.stage.write("file", "changed again");
    play.cycle_over(false).expect_err("no snapshot");
    assert_eq!(play.stage.spare().uploads.len(), snapshots);
    play.set(|state| state.fails = None);
    assert!(play.cycle().committed);
    play.stage.compare();
    assert!(play.has("half"));

    let play = Play::new(OnFailure::ShipFiles { after: 2 });
    play.cycle();
    play.set(broken);
    play.stage.write("file", "changed");
    play.cycle_over(false).expect_err("no snapshot yet");
    play.stage.write("file", "changed again");
    assert!(play.cycle().committed);
    assert!(play.has("first"));
    play.stage.compare();
    play.set(|state| state.fails = None);
    play.cycle();
    assert!(play.has("half"));
    assert_eq!(state(&play).failures, 0);
    play.set(|state| state.fails = Some("again".to_owned()));
    play.set(|state| state.token = "3".to_owned());
    play.cycle_over(false).expect_err("counted anew");
    assert_eq!(state(&play).failures, 1);
    // Nothing is wrong with one that does not want to be dumped now.
    play.set(|state| state.is_not_now = true);
    for _ in 0..3 {
        play.cycle_over(false).expect_err("not now");
    }
    let state = state(&play);
    assert_eq!(state.failures, 4);
    assert!(state.dumped_seconds.is_some());
}

/// What is told of its database.
fn state(play: &Play) -> DatabaseState {
    let source = &play.stage.source;
    let state = play.stage.beside("state");
    let states = DatabaseState::of_all(&state, &source.dataset, &source.databases);
    states.into_iter().next().expect("one database")
}

#[test]
fn somebody_else_who_takes_them_is_left_alone() {
    let play = Play::new(OnFailure::Fail);
    play.cycle();
    let state = play.stage.beside("state");
    let held = super::keeper::Keeper::open(&state, &play.stage.source.dataset).expect("open");
    let error = play.cycle_over(false).expect_err("busy");
    assert!(matches!(error, AgentError::IndexLocked { .. }), "{error}");
    drop(held);
    play.cycle();
}
