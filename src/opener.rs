//! The process that loads restored dumps: started by `restore --load` and `drill` before they confine themselves, for they may start nothing. It
//! reads the configurations itself, which say where databases are; the command only says which dump, below one directory, and what for.

use std::collections::BTreeMap;
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::mpsc::sync_channel;

use serde::{Deserialize, Serialize};
use understudy_agent::config::Config;
use understudy_agent::databases::{DatabaseSettings, Engine};
use understudy_databases::{Database, DatabaseError, run};
use understudy_protocol::{DatasetName, Name};

use crate::alert::voice::again;
use crate::alert::wire;
use crate::arguments::{Opener as Arguments, Output};
use crate::exit::CommandError;
use crate::receiver_config::{self, ReceiverConfig};

use std::os::unix::process::CommandExt;
use std::process::Stdio;

/// What begins the names of databases that drills make and remove.
const PRACTICE: &str = "understudy_drill_";
/// Digits of a hash that tell one practice from another.
const DIGITS: usize = 12;

/// What is asked for.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    dataset: DatasetName,
    database: String,
    act: Act,
}

/// What is to be done with a database.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum Act {
    /// Says whether a load would replace anything.
    Look,
    /// Loads the dump in this directory as the configuration names the database, and counts its rows.
    Load(Vec<String>),
    /// Loads it under a name of its own, counts its rows, and removes it.
    Practise(Vec<String>),
}

/// What came of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Answer {
    /// Nothing stands where it would be loaded.
    Free,
    /// Something does: what, for people.
    Taken(String),
    /// It was loaded.
    Counted {
        /// What it is called by the engine.
        target: String,
        /// Rows of each table.
        rows: BTreeMap<String, u64>,
    },
    /// This host does not know where it would be loaded, or does not load it for practice: why.
    Unknown(String),
    /// It could not be done: why, and what to do.
    Failed(String),
}

/// Does what is asked for until standard input ends.
pub(crate) fn serve(arguments: &Arguments) -> Result<(), CommandError> {
    let (sender, requests) = sync_channel::<Request>(1);
    std::thread::spawn(move || {
        let mut input = BufReader::new(io::stdin());
        while let Ok(Some(request)) = wire::read(&mut input) {
            if sender.send(request).is_err() {
                return;
            }
        }
        // Whoever has asked has gone.
        run::stop_all();
    });
    for request in requests {
        let answer = answer(arguments, &request);
        if wire::write(&mut io::stdout(), &answer).is_err() {
            return Ok(());
        }
    }
    Ok(())
}

fn answer(arguments: &Arguments, request: &Request) -> Answer {
    let settings = match configured(&arguments.config, request) {
        Ok(Some(settings)) => settings,
        Ok(None) => return Answer::Unknown("no configuration of this host names it".to_owned()),
        Err(why) => return Answer::Failed(why),
    };
    let database = settings.open(&request.dataset);
    let done = match &request.act {
        Act::Look => look(&settings, &*database),
        Act::Load(place) => below(&arguments.below, place)
            .and_then(|from| load(&*database, &from, settings.target())),
        Act::Practise(_) if matches!(settings.engine, Engine::Command(_)) => Ok(Answer::Unknown(
            "it is taken by a program of yours, which may load over what serves".to_owned(),
        )),
        Act::Practise(place) => below(&arguments.below, place)
            .and_then(|from| practise(&*database, &from, &scratch_name(request))),
    };
    done.unwrap_or_else(|error| Answer::Failed(error.to_string()))
}

/// By the agent's configuration, or else by the receiver's.
fn configured(agent: &Path, request: &Request) -> Result<Option<DatabaseSettings>, String> {
    let is_meant = |one: &DatabaseSettings| one.name == request.database;
    if agent.exists() {
        let config = Config::load(agent).map_err(|error| error.to_string())?;
        let sources = config.sources().into_iter().flatten();
        let own = sources.filter(|one| one.source.dataset == request.dataset);
        if let Some(found) = own.flat_map(|one| one.source.databases).find(is_meant) {
            return Ok(Some(found));
        }
    }
    let Some(receiver) = receiver_config::chosen(None, None) else {
        return Ok(None);
    };
    let config = ReceiverConfig::load(&receiver).map_err(|error| error.message)?;
    let own = config.standbys.into_iter();
    let mut own = own.filter(|one| one.dataset == request.dataset);
    Ok(own
        .find(|one| is_meant(&one.settings))
        .map(|one| one.settings))
}

/// A directory below the one that this process may read dumps from.
fn below(place: &Path, names: &[String]) -> Result<PathBuf, DatabaseError> {
    let mut path = place.to_owned();
    for name in names {
        let name = Name::new(name.as_str());
        let name = name.map_err(|error| DatabaseError::Unsupported(error.to_string()))?;
        path.push(name.as_os_str());
    }
    Ok(path)
}

fn look(settings: &DatabaseSettings, database: &dyn Database) -> Result<Answer, DatabaseError> {
    let target = settings.target();
    if let Engine::Command(settings) = &settings.engine {
        let program = settings.command.first().map_or("", String::as_str);
        return Ok(Answer::Taken(format!(
            "whether `{program}` loads `{target}` over anything is not known"
        )));
    }
    if database.identity(target)?.is_none() {
        return Ok(Answer::Free);
    }
    let tables = database.count(target)?;
    let rows: u64 = tables.values().sum();
    Ok(match tables.is_empty() {
        true => Answer::Free,
        false => Answer::Taken(format!(
            "the database `{target}` has {} and {} already",
            crate::words::counted(tables.len() as u64, "table"),
            crate::words::counted(rows, "row")
        )),
    })
}

fn load(database: &dyn Database, from: &Path, target: &str) -> Result<Answer, DatabaseError> {
    database.settle(target)?;
    database.load(from, target)?;
    Ok(Answer::Counted {
        target: target.to_owned(),
        rows: database.count(target)?,
    })
}

/// What a practice that was killed has left has the same name, and goes with the next one.
fn practise(database: &dyn Database, from: &Path, name: &str) -> Result<Answer, DatabaseError> {
    let done = load(database, from, name);
    database.drop_database(name)?;
    done
}

fn scratch_name(request: &Request) -> String {
    let hash = blake3_of(&format!("{}/{}", request.dataset, request.database));
    format!("{PRACTICE}{hash}")
}

fn blake3_of(text: &str) -> String {
    let hash = understudy_protocol::ContentHash::of(text.as_bytes()).to_string();
    hash.chars().take(DIGITS).collect()
}

/// The other process.
#[derive(Debug)]
pub(crate) struct Opener {
    child: Child,
    from: BufReader<std::process::ChildStdout>,
}

impl Opener {
    /// Starts it with what this process may do now. It reads dumps below one directory.
    pub(crate) fn start(config: &Path, below: &Path, output: Output) -> io::Result<Self> {
        let inherited = run::INHERITED
            .iter()
            .filter_map(|key| Some((key, std::env::var_os(key)?)));
        let mut child = again("opener", config, output)
            .arg("--below")
            .arg(below)
            .env_clear()
            .envs(inherited)
            // What interrupts a terminal's command ends the one who has started this, and with it this.
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let from = child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
        Ok(Self {
            child,
            from: BufReader::new(from),
        })
    }

    /// Whether a load of the database would replace anything.
    pub(crate) fn look(&mut self, dataset: &DatasetName, database: &str) -> Answer {
        self.ask(dataset, database, Act::Look)
    }

    /// Loads a dump, by the names of the directories that lead there, for use.
    pub(crate) fn load(
        &mut self,
        dataset: &DatasetName,
        database: &str,
        place: Vec<String>,
    ) -> Answer {
        self.ask(dataset, database, Act::Load(place))
    }

    /// The same for practice.
    pub(crate) fn practise(
        &mut self,
        dataset: &DatasetName,
        database: &str,
        place: Vec<String>,
    ) -> Answer {
        self.ask(dataset, database, Act::Practise(place))
    }

    fn ask(&mut self, dataset: &DatasetName, database: &str, act: Act) -> Answer {
        let request = Request {
            dataset: dataset.clone(),
            database: database.to_owned(),
            act,
        };
        let gone = |error: Option<io::Error>| {
            let why = error.map_or_else(|| "it has ended".to_owned(), |error| error.to_string());
            Answer::Failed(format!(
                "the process that loads databases does not answer: {why}"
            ))
        };
        let Some(to) = self.child.stdin.as_mut() else {
            return gone(None);
        };
        if let Err(error) = wire::write(to, &request) {
            return gone(Some(error));
        }
        match wire::read(&mut self.from) {
            Ok(Some(answer)) => answer,
            Ok(None) => gone(None),
            Err(error) => gone(Some(error)),
        }
    }
}

impl Drop for Opener {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}
