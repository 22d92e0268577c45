//! What the command line of the benchmark says.

use std::path::PathBuf;

use crate::link::Speed;
use crate::scenarios::Scenario;

/// Shown when it says something else.
pub(crate) const USAGE: &str = "\
usage: cargo bench --bench peers -- [OPTION VALUE]...
  --files N      files in the generated tree (100000)
  --bytes N      bytes in all of them (1200000000)
  --file N       one file of so many bytes instead of a tree (0: no)
  --changed N    files that change before the third sync (1000)
  --scenario S   sqlite, logs, git or source: a tree and a change as they happen, two syncs
                 (--bytes then scales the database and the logs; 1000000000 if not given)
  --before DIR   the tree of the scenario source; in git, the texts of which the history is made
                 (those of the crates that cargo has unpacked)
  --after DIR    the tree that replaces it in the scenario source
  --link R,D     over a link of this rate and round trip, such as 100mbit,20ms (needs root)
  --runs N       runs of each peer (3)
  --peers LIST   rsync, rsync-z, restic and borg, those that are installed (rsync,restic,borg)
  --bin FILE     the understudy to run (the one that cargo built)
  --work DIR     where trees and disk images are made (the system's temporary directory)
  --seed N       of the generated tree (1)";

/// The settings of one benchmark.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) files: u64,
    pub(crate) bytes: u64,
    pub(crate) file: u64,
    pub(crate) changed: u64,
    pub(crate) scenario: Option<Scenario>,
    pub(crate) before: Option<PathBuf>,
    pub(crate) after: Option<PathBuf>,
    pub(crate) link: Option<Speed>,
    pub(crate) runs: u64,
    pub(crate) peers: Vec<String>,
    pub(crate) binary: PathBuf,
    pub(crate) work: PathBuf,
    pub(crate) seed: u64,
}

impl Options {
    /// Reads the arguments.
    ///
    /// # Errors
    /// Says which argument is unknown, lacks its value, or has one that means nothing.
    pub(crate) fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut options = Self {
            files: 100_000,
            bytes: 0,
            file: 0,
            changed: 1_000,
            scenario: None,
            before: None,
            after: None,
            link: None,
            runs: 3,
            peers: ["rsync", "restic", "borg"].map(str::to_owned).to_vec(),
            binary: env!("CARGO_BIN_EXE_understudy").into(),
            work: std::env::temp_dir(),
            seed: 1,
        };
        let mut bytes = None;
        while let Some(argument) = arguments.next() {
            // cargo bench adds it.
            if argument == "--bench" {
                continue;
            }
            let value = arguments
                .next()
                .ok_or(format!("{argument} needs a value"))?;
            let number = || {
                let digits = value.replace('_', "");
                digits
                    .parse::<u64>()
                    .map_err(|error| format!("{argument} {value}: {error}"))
            };
            match argument.as_str() {
                "--files" => options.files = number()?.max(1),
                "--bytes" => bytes = Some(number()?),
                "--file" => {
                    options.file = number()?;
                    options.files = 1;
                    bytes = Some(options.file);
                }
                "--changed" => options.changed = number()?,
                "--scenario" => options.scenario = Some(Scenario::parse(&value)?),
                "--before" => options.before = Some(value.into()),
                "--after" => options.after = Some(value.into()),
                "--link" => options.link = Some(Speed::parse(&value)?),
                "--runs" => options.runs = number()?.max(1),
                "--seed" => options.seed = number()?,
                "--bin" => options.binary = value.into(),
                "--work" => options.work = value.into(),
                "--peers" => {
                    options.peers = value.split(',').map(str::to_owned).collect();
                    let known = ["rsync", "rsync-z", "restic", "borg", ""];
                    if let Some(name) = options.peers.iter().find(|n| !known.contains(&n.as_str()))
                    {
                        return Err(format!("unknown peer {name}"));
                    }
                }
                _ => return Err(format!("unknown option {argument}")),
            }
        }
        options.bytes = bytes.unwrap_or(match options.scenario {
            Some(_) => 1_000_000_000,
            None => 1_200_000_000,
        });
        if options.scenario == Some(Scenario::Source)
            && (options.before.is_none() || options.after.is_none())
        {
            return Err("--scenario source needs --before and --after".to_owned());
        }
        Ok(options)
    }
}
