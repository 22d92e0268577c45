//! `[[standby]]`: databases that are loaded on this host, where a spare's application finds them.

use std::path::Path;

use serde::Deserialize;
use toml::{Spanned, Value};
use understudy_agent::config::{RawDatabase, database};
use understudy_agent::databases::{DatabaseSettings, Engine};
use understudy_protocol::DatasetName;

use super::File;
use crate::exit::CommandError;

/// Keys that say how a database is captured, which is for the main to say.
const OF_CAPTURE: [&str; 3] = ["force_dump", "max_dump", "max_lock"];

/// A database of a dataset, on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Standby {
    /// Whose.
    pub(crate) dataset: DatasetName,
    /// Its name in snapshots, and where it is loaded to.
    pub(crate) settings: DatabaseSettings,
    /// When.
    pub(crate) load: Load,
}

/// When a database is loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Load {
    /// With each snapshot in which it is another one.
    #[default]
    Each,
    /// The same, once an hour.
    Hourly,
    /// When this host is promoted.
    Promote,
}

/// Checks them.
pub(super) fn standbys(
    file: &File<'_>,
    raw: Vec<Spanned<RawDatabase>>,
) -> Result<Vec<Standby>, CommandError> {
    let mut all: Vec<Standby> = Vec::new();
    for raw in raw {
        let span = raw.span();
        let one = standby(file, raw)?;
        let is_same = |other: &Standby| {
            other.dataset == one.dataset && other.settings.name == one.settings.name
        };
        if all.iter().any(is_same) {
            let why = format!(
                "there are two [[standby]] of the database `{}` of dataset `{}`",
                one.settings.name, one.dataset
            );
            return Err(file.refuse(Some(span), &why));
        }
        let is_program = matches!(one.settings.engine, Engine::Command(_));
        if !is_program
            && all
                .iter()
                .any(|other| other.settings.engine == one.settings.engine)
        {
            let why = format!(
                "another [[standby]] is loaded as `{}` in the same place: each would replace the other",
                one.settings.target()
            );
            return Err(file.refuse(Some(span), &why));
        }
        all.push(one);
    }
    Ok(all)
}

fn standby(file: &File<'_>, raw: Spanned<RawDatabase>) -> Result<Standby, CommandError> {
    let span = raw.span();
    let mut keys = raw.into_inner();
    let Some(dataset) = keys.remove("dataset") else {
        let why = "a [[standby]] has a `dataset`: write `dataset = \"photos\"`";
        return Err(file.refuse(Some(span), &why));
    };
    let place = dataset.span();
    let name = match dataset.into_inner() {
        Value::String(name) => DatasetName::new(name).map_err(|error| error.to_string()),
        _ => Err("`dataset` is a text".to_owned()),
    };
    let name = name.map_err(|why| file.refuse(Some(place), &why))?;
    let load = match keys.remove("load") {
        None => Load::default(),
        Some(load) => {
            let place = load.span();
            let read = load.into_inner().try_into::<Load>();
            let why = "`load` is \"each\", \"hourly\" or \"promote\"";
            read.map_err(|_| file.refuse(Some(place), &why))?
        }
    };
    for key in OF_CAPTURE {
        if let Some((key, _)) = keys.get_key_value(key) {
            let why = format!(
                "`{}` says how a database is captured: it belongs into the configuration of the agent on the main",
                key.get_ref()
            );
            return Err(file.refuse(Some(key.span()), &why));
        }
    }
    let keys = Spanned::new(span, keys);
    let settings = database((Path::new(file.name), file.text), &keys).map_err(|error| {
        CommandError::usage(
            error.to_string(),
            "`understudy receiver --help` shows a configuration",
        )
    })?;
    Ok(Standby {
        dataset: name,
        settings,
        load,
    })
}

#[cfg(test)]
mod tests {
    use super::super::ReceiverConfig;
    use super::*;

    #[test]
    fn standbys_are_read_as_they_are_written() {
        let of = |more: &str| {
            let text = format!(
                "[[standby]]\ndataset = \"photos\"\nengine = \"postgres\"\ndatabase = \"gallery\"\n{more}"
            );
            ReceiverConfig::parse(&text, "f")
        };
        let config = of("name = \"shop\"\nload = \"hourly\"\nmax_load = \"1h\"\n").expect("valid");
        let one = &config.standbys[0];
        assert_eq!(one.settings.name, "shop");
        assert_eq!(one.settings.target(), "gallery");
        assert_eq!(one.load, Load::Hourly);
        assert_eq!(one.settings.limits.load.as_secs(), 3600);
        assert_eq!(of("").expect("valid").standbys[0].load, Load::Each);
        let again =
            "[[standby]]\ndataset = \"other\"\nengine = \"postgres\"\ndatabase = \"gallery\"\n";
        for (more, words) in [
            ("load = \"often\"\n", ["f:5:8:", "hourly"]),
            ("force_dump = \"1h\"\n", ["f:5:1:", "agent"]),
            ("databse = \"x\"\n", ["f:5:1:", "databse"]),
            (again, ["f:5:1:", "replace"]),
            (
                "[[standby]]\nengine = \"postgres\"\n",
                ["f:5:1:", "`dataset`"],
            ),
        ] {
            let message = of(more).expect_err(more).message;
            assert!(words.iter().all(|word| message.contains(word)), "{message}");
        }
    }
}
