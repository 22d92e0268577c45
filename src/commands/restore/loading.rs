//! `restore --load`: the dumps that came with the files become databases, where this host's agent has them.

use std::path::Path;

use serde_json::{Value, json};
use understudy_agent::config::Config;
use understudy_protocol::{DatasetName, Name};
use understudy_tree::{Directory, Mounts, TreeError, remove};

use super::super::Session;
use super::shown;
use crate::arguments::Restore;
use crate::confirm::{self, Question};
use crate::exit::{Code, CommandError};
use crate::opener::{Answer, Opener};
use crate::report::{self, Report};
use crate::words;

/// So many tables are told of by name.
const TABLES: usize = 20;

/// What is to be loaded.
pub(super) struct Loading<'a> {
    opener: Opener,
    dataset: &'a DatasetName,
    arguments: &'a Restore,
}

impl<'a> Loading<'a> {
    /// Refuses to load over anything, unless that is wanted, before anything is restored.
    pub(super) fn begin(
        mut opener: Opener,
        (dataset, arguments): (&'a DatasetName, &'a Restore),
        session: &Session,
    ) -> Result<Self, CommandError> {
        let taken = taken(&mut opener, dataset, arguments)?;
        if !taken.is_empty() && !arguments.replace_databases {
            let taken = taken.join("; ");
            let text =
                format!("{taken}. To replace that, type the name of the dataset ({dataset})");
            let subject = format!("that databases are replaced ({taken})");
            let question = Question {
                text: &text,
                wanted: dataset.as_str(),
                subject: &subject,
                hint: "keep what is needed of them, then add --replace-databases",
            };
            confirm::ask(&question, &session.cancel)?;
        }
        Ok(Self {
            opener,
            dataset,
            arguments,
        })
    }

    /// Loads every dump that has come, and adds to the report what came of it.
    pub(super) fn finish(
        mut self,
        report: &mut Report,
        session: &Session,
    ) -> Result<(), CommandError> {
        let place = self.arguments.dumps();
        let failed = |error: &TreeError| {
            CommandError::failed(format!(
                "the files are restored, and the dumps in `{}` cannot be read: {error}",
                shown(&place)
            ))
        };
        let directory = match Directory::open(&place, Mounts::Cross) {
            Err(error) if error.is_gone() => return Ok(()),
            directory => directory.map_err(|error| failed(&error))?,
        };
        let (mut values, mut wrong) = (Vec::new(), Vec::new());
        for name in directory.names().map_err(|error| failed(&error))? {
            let name = name.to_string();
            let answer = self.opener.load(self.dataset, &name, vec![name.clone()]);
            values.push(value(&name, &answer));
            match told(&name, &answer) {
                Ok(line) if report::summarises(session.output) => report.lines.push(line),
                Ok(_) => {}
                Err(why) => wrong.push(why),
            }
        }
        report.data["loaded"] = Value::Array(values);
        if wrong.is_empty() {
            if self.arguments.databases.is_none() {
                discard(&place, &directory).map_err(|error| failed(&error))?;
            }
            return Ok(());
        }
        report.code = Code::Failed;
        report.error = Some(CommandError::new(
            Code::Failed,
            format!(
                "the files are restored, and not every database is loaded: {}",
                wrong.join("; ")
            ),
            format!(
                "put that right and run the same command with --replace; the dumps are in `{}`",
                shown(&place)
            ),
        ));
        Ok(())
    }
}

/// What stands where the dataset's databases would be loaded.
fn taken(
    opener: &mut Opener,
    dataset: &DatasetName,
    arguments: &Restore,
) -> Result<Vec<String>, CommandError> {
    let config = Config::load(&arguments.config)?;
    let sources = config.sources().into_iter().flatten();
    let own = sources.filter(|one| one.source.dataset == *dataset);
    let databases: Vec<_> = own.flat_map(|one| one.source.databases).collect();
    if databases.is_empty() {
        return Err(CommandError::usage(
            format!(
                "`{}` names no database of dataset `{dataset}`, so it is not known where to load any",
                shown(&arguments.config)
            ),
            "add [[dataset.database]] below the dataset, or use --databases DIR and load the dumps by hand",
        ));
    }
    let mut taken = Vec::new();
    for database in databases {
        match opener.look(dataset, &database.name) {
            Answer::Taken(what) => taken.push(what),
            Answer::Failed(why) | Answer::Unknown(why) => {
                return Err(CommandError::new(
                    Code::Failed,
                    format!(
                        "nothing is restored, for the database `{}` could not be loaded: {why}",
                        database.name
                    ),
                    "put that right, or restore without --load",
                ));
            }
            Answer::Free | Answer::Counted { .. } => {}
        }
    }
    Ok(taken)
}

fn told(name: &str, answer: &Answer) -> Result<String, String> {
    match answer {
        Answer::Counted { target, rows } => {
            let mut line = format!(
                "the database `{name}` is loaded as `{target}`: {} in {}",
                words::counted(rows.values().sum(), "row"),
                words::counted(rows.len() as u64, "table")
            );
            let each = rows.iter().take(TABLES);
            let each: Vec<String> = each
                .map(|(table, rows)| format!("{table} {}", words::count(*rows)))
                .collect();
            if !each.is_empty() {
                let more = if rows.len() > TABLES { ", ..." } else { "" };
                line += &format!(" ({}{more})", each.join(", "));
            }
            Ok(line)
        }
        Answer::Failed(why) | Answer::Unknown(why) | Answer::Taken(why) => {
            Err(format!("`{name}`: {why}"))
        }
        Answer::Free => Err(format!("`{name}`: nothing was done")),
    }
}

fn value(name: &str, answer: &Answer) -> Value {
    match answer {
        Answer::Counted { target, rows } => {
            json!({ "name": name, "database": target, "rows": rows })
        }
        Answer::Failed(why) | Answer::Unknown(why) | Answer::Taken(why) => {
            json!({ "name": name, "error": why })
        }
        Answer::Free => json!({ "name": name }),
    }
}

/// What was only needed for the load.
fn discard(place: &Path, directory: &Directory) -> Result<(), TreeError> {
    remove::empty(directory)?;
    let (Some(parent), Some(name)) = (place.parent(), place.file_name()) else {
        return Ok(());
    };
    let parent = match parent.as_os_str().is_empty() {
        true => Path::new("."),
        false => parent,
    };
    let name = Name::new(name.as_encoded_bytes()).map_err(|error| {
        let error = std::io::Error::other(error);
        TreeError::new("name", place.as_os_str().as_encoded_bytes(), error)
    })?;
    Directory::open(parent, Mounts::Cross)?.remove_directory(&name)
}
