//! What drills have shown: the file `drills.json` in the state directory.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use understudy_agent::Costs;
use understudy_protocol::{DatasetName, Name};
use understudy_tree::durable::{self, Durability};
use understudy_tree::{Directory, Mounts, TreeError};

use crate::words;

const FILE: &str = "drills.json";
/// The layout this build writes.
const FORMAT: u32 = 1;
/// A drill of less, in seconds at usual costs (25 files, or half a megabyte), took what connecting takes and says nothing of more.
const LEAST_SECONDS: f64 = 0.005;
/// The same for what is taken for a measure of other datasets.
const LEAST_SECONDS_OF_OTHERS: f64 = 0.1;
/// Far more than thousands of datasets take.
const LIMIT_BYTES: u64 = 16 << 20;

/// A drill.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Drill {
    /// When it ended, seconds since 1970.
    pub(crate) ended_seconds: i64,
    /// How long the restore took.
    pub(crate) seconds: f64,
    /// Regular files.
    pub(crate) files: u64,
    /// Their bytes.
    pub(crate) bytes: u64,
    /// Seconds that each file took, and each byte, if that could be told apart.
    #[serde(default)]
    pub(crate) costs: Option<(f64, f64)>,
}

/// The last drill of each dataset, by the name of the spare.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Drills {
    format: u32,
    spares: BTreeMap<String, BTreeMap<DatasetName, Drill>>,
}

/// How fast a restore is likely to be.
#[derive(Debug, Clone)]
pub(crate) struct Expectation {
    costs: Costs,
    is_known: bool,
    because: String,
}

impl Default for Expectation {
    fn default() -> Self {
        Self {
            costs: Costs::usual(),
            is_known: false,
            because: "if 5,000 files and 100 MB come in a second".to_owned(),
        }
    }
}

impl Expectation {
    /// How long so much takes, in seconds.
    pub(crate) fn seconds(&self, files: u64, bytes: u64) -> f64 {
        self.costs.seconds(files, bytes)
    }

    /// What files and bytes cost in a drill, if there was one.
    pub(crate) fn known(&self) -> Option<Costs> {
        self.is_known.then_some(self.costs)
    }

    /// The same for people.
    pub(crate) fn guess(&self, files: u64, bytes: u64) -> String {
        let seconds = self.seconds(files, bytes).ceil() as i64;
        format!("about {}, {}", words::span(seconds), self.because)
    }

    fn of(drill: &Drill) -> Self {
        let usual = Costs::usual();
        let (file, byte) = drill.costs.unwrap_or((usual.file, usual.byte));
        let costs = Costs { file, byte };
        let factor = drill.seconds / costs.seconds(drill.files, drill.bytes).max(f64::EPSILON);
        Self {
            costs: Costs {
                file: file * factor,
                byte: byte * factor,
            },
            is_known: true,
            because: format!("as in the drill of {}", words::time(drill.ended_seconds)),
        }
    }
}

/// What is to be expected of a spare: as the last drill of the dataset showed, or of any.
pub(crate) fn expectation(state: &Path, spare: &str, dataset: Option<&DatasetName>) -> Expectation {
    let drills = read(state);
    let Some(known) = drills.spares.get(spare) else {
        return Expectation::default();
    };
    let usual = |drill: &Drill| Costs::usual().seconds(drill.files, drill.bytes);
    let own = dataset.and_then(|name| known.get(name));
    let own = own.filter(|drill| usual(drill) >= LEAST_SECONDS);
    let telling = known
        .values()
        .filter(|drill| usual(drill) >= LEAST_SECONDS_OF_OTHERS);
    own.or_else(|| telling.max_by_key(|drill| drill.ended_seconds))
        .map_or_else(Expectation::default, Expectation::of)
}

/// Remembers a drill. Durable when it returns.
pub(crate) fn remember(
    state: &Directory,
    path: &Path,
    spare: &str,
    dataset: &DatasetName,
    drill: Drill,
) -> Result<(), TreeError> {
    let mut drills = read(path);
    drills.format = FORMAT;
    let known = drills.spares.entry(spare.to_owned()).or_default();
    known.insert(dataset.clone(), drill);
    let failed = |error: std::io::Error| TreeError::new("write", FILE.as_bytes(), error);
    let content = serde_json::to_vec_pretty(&drills).map_err(|error| failed(error.into()))?;
    durable::replace(state, &name()?, &content, Durability::Now)
}

/// What cannot be read is nothing: an estimate is all that is lost.
fn read(state: &Path) -> Drills {
    let content = Directory::open(state, Mounts::Cross)
        .and_then(|state| durable::read(&state, &name()?, LIMIT_BYTES));
    match content {
        Ok(Some(content)) => serde_json::from_slice(&content).unwrap_or_default(),
        _ => Drills::default(),
    }
}

fn name() -> Result<Name, TreeError> {
    Name::new(FILE)
        .map_err(|error| TreeError::new("name", FILE.as_bytes(), std::io::Error::other(error)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_drill_took_is_what_a_restore_is_expected_to_take() {
        let state = tempfile::tempdir().expect("state");
        let name = DatasetName::fit(b"site");
        let usual = Expectation::default().seconds(1000, 1 << 30);
        assert_eq!(
            expectation(state.path(), "spare", Some(&name)).seconds(1000, 1 << 30),
            usual
        );
        let directory = Directory::open(state.path(), Mounts::Cross).expect("open");
        let drill = Drill {
            ended_seconds: 1_800_000_000,
            seconds: 90.0,
            files: 1000,
            bytes: 1 << 30,
            costs: None,
        };
        remember(&directory, state.path(), "spare", &name, drill).expect("written");
        let known = expectation(state.path(), "spare", Some(&name));
        assert!((known.seconds(1000, 1 << 30) - 90.0).abs() < 1e-6);
        assert!(known.guess(1000, 1 << 30).contains("drill"));
        // What is known of either cost alone is kept apart.
        let apart = Drill {
            costs: Some((0.01, 0.0)),
            ..drill
        };
        assert!(Expectation::of(&apart).seconds(0, 1 << 30) < 1e-6);
        assert!((Expectation::of(&apart).seconds(500, 0) - 45.0).abs() < 1e-6);
        // Another dataset of this spare is likely to be as fast; of another spare nothing is known.
        let other = DatasetName::fit(b"other");
        assert!(
            (expectation(state.path(), "spare", Some(&other)).seconds(2000, 2 << 30) - 180.0).abs()
                < 1e-6
        );
        assert_eq!(
            expectation(state.path(), "elsewhere", Some(&name)).seconds(1000, 1 << 30),
            usual
        );
    }
    #[test]
    fn a_drill_of_next_to_nothing_makes_no_estimate() {
        let state = tempfile::tempdir().expect("state");
        let directory = Directory::open(state.path(), Mounts::Cross).expect("open");
        let drilled = |name: &[u8], files: u64, bytes: u64, ended_seconds: i64| {
            let drill = Drill {
                ended_seconds,
                seconds: 0.2,
                files,
                bytes,
                costs: None,
            };
            let name = DatasetName::fit(name);
            remember(&directory, state.path(), "spare", &name, drill).expect("written");
            expectation(state.path(), "spare", Some(&name)).seconds(1_000_000, 1 << 30)
        };
        let usual = Expectation::default().seconds(1_000_000, 1 << 30);
        assert_eq!(drilled(b"empty", 0, 0, 1), usual);
        assert_eq!(drilled(b"tiny", 3, 1000, 2), usual);
        // Of its own dataset little is enough.
        assert!(drilled(b"small", 40, 0, 3) > usual);
        assert_eq!(drilled(b"empty", 0, 0, 4), usual);
        let large = drilled(b"large", 2000, 0, 5);
        assert!(large < usual, "{large}");
        assert_eq!(drilled(b"empty", 0, 0, 6), large);
    }
}
