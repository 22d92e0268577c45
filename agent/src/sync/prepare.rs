//! What a cycle may rely on, and opening what it needs on this side.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use understudy_tree::{Directory, Mounts, Stat};

use crate::clock::Moment;
use crate::dumps::Captured;
use crate::error::AgentError;
use crate::index::Index;
use crate::journal::Journal;
use crate::leftovers::Leftovers;
use crate::role::Part;
use crate::scan::{Trust, Turn};
use crate::sync::freeze::Freeze;
use crate::sync::still::Still;
use crate::{Context, Source};

/// How long somebody else may work on the dataset before a patient caller gives up.
const LONGEST_WAIT: Duration = Duration::from_secs(30 * 60);
/// How often a patient caller tries.
const LOCK_PAUSE: Duration = Duration::from_millis(200);

/// What a cycle may rely on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reliance<'a> {
    /// A journal of what changed since the last cycle.
    pub(crate) journal: Option<&'a Journal>,
    /// Why to look at everything even if the journal is sound.
    pub(crate) sweep: Option<&'a str>,
    /// What proves that a file did not change.
    pub(crate) trust: Trust,
    /// What to do while somebody else works on the dataset.
    pub(crate) patience: Patience,
    /// Who hears of a cycle that fails.
    pub(crate) telling: Telling,
    /// Whether what the spare has of an interrupted upload counts.
    pub(crate) carrying: Carrying,
    /// What to do where the spare does not have the dataset.
    pub(crate) making: Making,
    /// What was captured of the dataset's databases before.
    pub(crate) captured: Option<&'a Captured>,
    /// Whether databases among the files that changed are taken.
    pub(crate) turn: Turn,
    /// The snapshot of the file system that stands for the source, if one was made already.
    pub(crate) freeze: Option<&'a Freeze<'a>>,
    /// The application, if it is kept still until everything was looked at.
    pub(crate) still: Option<&'a Still<'a>>,
}

/// What to do where the spare does not have the dataset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Making {
    /// It is made.
    Always,
    /// A host that was promoted does not make it by itself: its old main has files that are looked through first.
    UnlessPromoted,
}

/// What a cycle carries on with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Carrying {
    /// What the spare has left over of interrupted ones.
    On,
    /// Nothing: everything that differs is sent.
    Nothing,
}

/// What to do while somebody else works on the dataset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Patience {
    /// Say so.
    None,
    /// Wait until they have ended, for a while.
    Wait,
}

/// Who hears of a cycle that fails before it began on the spare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Telling {
    /// Whoever asked for it.
    Nobody,
    /// The spare too: nobody sits at this host.
    Spare,
}

impl Carrying {
    /// What counts of what the spare has told.
    pub(super) fn of(self, told: Leftovers) -> Leftovers {
        match self {
            Self::On => told,
            Self::Nothing => Leftovers::default(),
        }
    }
}

/// Opens what a cycle needs on this side.
pub(super) fn prepare(
    source: &Source,
    context: &Context,
    patience: Patience,
    freeze: Option<&Freeze<'_>>,
) -> Result<(Directory, Stat, Index, Part), AgentError> {
    let path = canonical(&source.path)?;
    if let Some(store) = &context.store {
        check_apart(&path, store)?;
    }
    let (root, root_stat) = open_source(freeze.map_or(source, Freeze::source))?;
    let (dataset, spare) = (&source.dataset, &context.spare);
    let part = Part::load(&context.state, &path, dataset, spare)?;
    part.claim()?;
    let asked = Moment::now();
    loop {
        match Index::open(&context.state, &path, dataset, spare) {
            Err(AgentError::IndexLocked { .. })
                if patience == Patience::Wait && asked.elapsed() < LONGEST_WAIT =>
            {
                context.cancel.wait(LOCK_PAUSE)?;
            }
            index => return Ok((root, root_stat, index?, part)),
        }
    }
}

/// A spare that is kept in its own store would grow for ever.
fn check_apart(source: &Path, store: &Path) -> Result<(), AgentError> {
    let store = std::fs::canonicalize(store).unwrap_or_else(|_| store.to_owned());
    if !store.starts_with(source) && !source.starts_with(&store) {
        return Ok(());
    }
    let shown = |path: &Path| understudy_protocol::escape(path.as_os_str().as_bytes());
    Err(AgentError::Configuration(format!(
        "the source `{}` and the spare's store `{}` lie in one another; give one of them another place",
        shown(source),
        shown(&store)
    )))
}

fn canonical(path: &Path) -> Result<PathBuf, AgentError> {
    std::fs::canonicalize(path).map_err(|error| source_error(path, error))
}

fn source_error(path: &Path, error: std::io::Error) -> AgentError {
    match error.kind() {
        std::io::ErrorKind::NotFound => AgentError::SourceMissing {
            path: path.to_owned(),
        },
        std::io::ErrorKind::NotADirectory => AgentError::SourceNotDirectory {
            path: path.to_owned(),
        },
        _ => {
            let error = understudy_tree::TreeError::new("open", path.as_os_str().as_bytes(), error);
            AgentError::SourceUnreadable {
                path: path.to_owned(),
                error,
            }
        }
    }
}

fn open_source(source: &Source) -> Result<(Directory, Stat), AgentError> {
    let open = |mounts: Mounts| -> Result<(Directory, Stat), understudy_tree::TreeError> {
        let root = Directory::open(&source.path, mounts)?;
        let stat = root.stat_self()?;
        Ok((root, stat))
    };
    open(source.mounts).map_err(|error| source_error(&source.path, error.source))
}
