//! The processes that load databases on the spare, so that an application can go on with them. A receiver may start nothing, so it starts the
//! *keeper* before it confines itself, with the rights that it has then. That looks at the store, and has a worker do each load, a process of
//! its own: one that hangs, dies or grows takes nothing else with it. Receiver and keeper say nothing to each other; what is known of each
//! database is in the store.

mod bring;
mod keeper;
mod worker;

use std::io;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use std::os::unix::process::CommandExt;

use serde::{Deserialize, Serialize};
use understudy_databases::run;
use understudy_protocol::DatasetName;
use understudy_receiver::standby::Standby as Place;
use understudy_receiver::{ReceiverError, Store};

use crate::alert::voice::again;
use crate::arguments::{Output, Standby as Arguments};
use crate::exit::CommandError;
use crate::receiver_config::{ReceiverConfig, Standby};
use crate::words;

pub(crate) use bring::{Bring, Brought, Trouble};
pub(crate) use worker::missing;

/// How long somebody waits for the right to write down that a load has failed: whoever has it is just ending.
const PATIENCE: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(50);

/// What is to be loaded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    dataset: DatasetName,
    database: String,
}

/// What came of it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum Answer {
    /// It is as the newest snapshot has it already.
    Current,
    /// It is so now.
    Loaded { snapshot: u64, seconds: f64 },
    /// Another one of the dataset is being loaded, or what was begun before has not ended yet.
    Busy,
    /// This is not the moment, and nothing is wrong.
    Idle(String),
    /// It is not, which is written down.
    Failed(String),
}

/// Loads what is configured until standard input ends, or one database once.
pub(crate) fn run(arguments: &Arguments, output: Output) -> Result<(), CommandError> {
    match arguments.one {
        true => worker::run(&arguments.config, &arguments.store),
        false => keeper::run(&arguments.config, &arguments.store, output),
    }
}

/// The keeper, as the receiver has started it.
#[derive(Debug)]
pub(crate) struct Started {
    child: Child,
    standbys: Vec<Standby>,
}

/// Starts it with what this process may do now, if the configuration at `file` names any database.
pub(crate) fn start(
    file: &Path,
    (store, standbys): (&Path, &[Standby]),
    output: Output,
) -> io::Result<Option<Started>> {
    if standbys.is_empty() {
        return Ok(None);
    }
    // What interrupts a terminal's command ends the one who has started this, and with it this.
    let child = command(file, store, output).process_group(0).spawn()?;
    Ok(Some(Started {
        child,
        standbys: standbys.to_vec(),
    }))
}

impl Started {
    /// Lets it work as long as this process lives, and has people told if it does not.
    pub(crate) fn watch(mut self, store: Arc<Store>) {
        std::thread::spawn(move || {
            let input = self.child.stdin.take();
            let ended = self.child.wait();
            drop(input);
            // Where this process ends as well, nobody has to be told.
            std::thread::park_timeout(PATIENCE);
            let how = ended.map_or_else(|error| error.to_string(), |status| status.to_string());
            let text = format!(
                "the process that loads databases has ended ({how}): restart the receiver, and look at what it logged"
            );
            tracing::error!("{text}");
            for one in &self.standbys {
                if let Err(error) = note_failure(&store, one, &text) {
                    tracing::error!("{}: {error}", one.dataset);
                }
            }
        });
    }
}

/// Forgets what is known of databases that are not configured any more.
pub(crate) fn forget_others(store: &Store, standbys: &[Standby]) {
    for name in store.dataset_names().unwrap_or_default() {
        let of = standbys.iter().filter(|one| one.dataset == name);
        let names = of.map(|one| one.settings.name.as_str()).collect();
        let forgotten = Place::existing(store, &name)
            .and_then(|place| place.map_or(Ok(()), |place| place.forget_others(&names)));
        if let Err(error) = forgotten {
            tracing::warn!("{name}: what is known of its databases stays as it is: {error}");
        }
    }
}

/// This program once more, with nothing of the environment but what programs of an engine need.
fn command(file: &Path, store: &Path, output: Output) -> Command {
    let mut command = again("standby", file, output);
    let inherited = run::INHERITED
        .iter()
        .filter_map(|key| Some((key, std::env::var_os(key)?)));
    command
        .arg("--store")
        .arg(store)
        .env_clear()
        .envs(inherited)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    command
}

/// What the configuration says of a database now.
fn configured(file: &Path, request: &Request) -> Result<Standby, String> {
    let config = ReceiverConfig::load(file).map_err(|error| error.message)?;
    let is_meant =
        |one: &Standby| one.dataset == request.dataset && one.settings.name == request.database;
    let found = config.standbys.into_iter().find(is_meant);
    found.ok_or_else(|| {
        "the configuration does not have it any more: restart the receiver".to_owned()
    })
}

/// Writes down that a load has failed, once nobody is loading any more.
fn note_failure(store: &Store, one: &Standby, text: &str) -> Result<(), ReceiverError> {
    let place = Place::open(store, &one.dataset)?;
    let since = Instant::now();
    let lock = loop {
        match place.lock()? {
            Some(lock) => break lock,
            None if since.elapsed() > PATIENCE => return Ok(()),
            None => std::thread::park_timeout(PAUSE),
        }
    };
    let database = &one.settings.name;
    let mut known = place.known(database)?;
    known.fail(text, true, words::now_seconds());
    place.note(database, &known, &lock)
}
