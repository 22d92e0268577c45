//! Changes as they happen: a tree between two syncs, and what made it another.

mod git;
mod logs;
mod source;
mod sqlite;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::options::Options;

/// What happens between two syncs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scenario {
    /// A database takes some thousand inserts, updates and deletes.
    Sqlite,
    /// Logs grow, and a few are rotated.
    Logs,
    /// `git gc` packs a repository anew.
    Git,
    /// A source tree is replaced by its next version.
    Source,
}

impl Scenario {
    /// The scenario of this name.
    ///
    /// # Errors
    /// Says which name is unknown.
    pub(crate) fn parse(name: &str) -> Result<Self, String> {
        match name {
            "sqlite" => Ok(Self::Sqlite),
            "logs" => Ok(Self::Logs),
            "git" => Ok(Self::Git),
            "source" => Ok(Self::Source),
            _ => Err(format!("unknown scenario {name}")),
        }
    }

    /// As the report calls the change.
    pub(crate) fn change_name(self) -> &'static str {
        match self {
            Self::Sqlite => "SQLite between two points of a load",
            Self::Logs => "logs grown, a few rotated",
            Self::Git => "git gc",
            Self::Source => "the next version unpacked",
        }
    }

    /// The program without which it cannot be done.
    fn program(self) -> Option<&'static str> {
        match self {
            Self::Sqlite => Some("python3"),
            Self::Git => Some("git"),
            Self::Logs | Self::Source => None,
        }
    }
}

/// A tree that every peer finds in the same state, and that changes for each in the same way.
#[derive(Debug)]
pub(crate) struct Stage {
    scenario: Scenario,
    /// The tree before the change, which nobody touches.
    pristine: PathBuf,
    /// What is synced.
    pub(crate) root: PathBuf,
}

impl Stage {
    /// Makes the tree beside `root`, where [`reset`](Self::reset) puts it.
    ///
    /// # Errors
    /// Says which program is missing.
    pub(crate) fn make(scenario: Scenario, root: &Path, options: &Options) -> Result<Self, String> {
        if let Some(program) = scenario.program()
            && Command::new(program).arg("--version").output().is_err()
        {
            return Err(format!("{program} is not installed"));
        }
        eprintln!("making the tree of {scenario:?}");
        let pristine = root.with_extension("pristine");
        std::fs::create_dir(&pristine).unwrap();
        match scenario {
            Scenario::Sqlite => sqlite::make(&pristine, options),
            Scenario::Logs => logs::make(&pristine, options),
            Scenario::Git => git::make(&pristine, options),
            Scenario::Source => source::make(&pristine, options),
        }
        Ok(Self {
            scenario,
            pristine,
            root: root.to_owned(),
        })
    }

    /// Brings the tree back to what it was before the change.
    pub(crate) fn reset(&self) {
        if self.root.exists() {
            std::fs::remove_dir_all(&self.root).unwrap();
        }
        copy_tree(&self.pristine, &self.root);
    }

    /// Changes the tree, which must be as [`reset`](Self::reset) left it.
    pub(crate) fn change(&self, options: &Options) {
        match self.scenario {
            Scenario::Sqlite => sqlite::change(&self.root, options),
            Scenario::Logs => logs::change(&self.root, options),
            Scenario::Git => git::change(&self.root),
            Scenario::Source => source::change(&self.root, options),
        }
    }
}

fn copy_tree(from: &Path, to: &Path) {
    run(Command::new("cp").arg("-a").arg(from).arg(to));
}

fn run(command: &mut Command) {
    let output = command.stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(
        output.status.success(),
        "{command:?}: {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
}
