//! Making a dataset of a tree that is there already: the copy of another program, or what a main has left. Nothing is copied. The tree is
//! moved into a dataset that is made aside, made its first snapshot there, and the dataset appears whole.
//!
//! Until then the tree is either where it was or in the directory aside, which says where it came from; the same call goes on with it.

mod check;

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use understudy_protocol::{DatasetName, FIRST_EPOCH, MainName, Name, Role, Snapshot, Standing};
use understudy_tree::{Directory, crash_point, remove};

use crate::absorb::{AbsorbOptions, AsOf, absorb};
use crate::access::existing;
use crate::catalog::Nature;
use crate::dataset::{Dataset, furnish, now_seconds, own_name};
use crate::error::ReceiverError;
use crate::owner::{self, Owner};
use crate::store::Store;
use crate::{drift, names, sealed};
use check::{check, elsewhere, is_directory, shown, split};

/// What the directories begin with in which a tree waits to become a dataset; no dataset can have such a name.
const ADOPTING: &str = "understudy.adopting-";
const LIMIT_BYTES: u64 = 64 << 10;

/// A tree that is to become a dataset.
#[derive(Debug, Clone, Copy)]
pub struct Adoption<'a> {
    /// Where it is: absolute, and nothing but its last part may be a link.
    pub directory: &'a Path,
    /// The dataset, which must not be there.
    pub dataset: &'a DatasetName,
    /// The main that may use it.
    pub main: Option<&'a MainName>,
    /// See [`Origin`].
    pub origin: Origin,
}

/// What a tree was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// A copy of what a main has.
    Copy,
    /// The source of a main, until another host took over.
    FormerMain {
        /// In which it was the main.
        epoch: u64,
        /// In which the other host is.
        next: u64,
        /// The first number that none of its snapshots on the other host had.
        least_number: u64,
    },
}

/// A tree that is a dataset now.
#[derive(Debug)]
pub struct Adopted {
    /// The newest snapshot.
    pub snapshot: Snapshot,
    /// What became of it just now, for people; `None` if it was adopted before.
    pub found: Option<String>,
    /// What could not become part of the snapshot, with the reasons: the first ones.
    pub lost: Vec<(String, String)>,
    /// Where the tree is.
    pub files: PathBuf,
}

/// How far an adoption is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Nothing was done yet.
    Begins,
    /// The tree was moved, and the dataset is not whole.
    Taken,
    /// It is done.
    Whole,
}

/// Where a tree came from.
#[derive(Debug, Serialize, Deserialize)]
struct Note {
    directory: Vec<u8>,
}

/// How far it is; fails if it cannot be done. Changes nothing.
pub fn stage(store: &Store, adoption: &Adoption<'_>) -> Result<Stage, ReceiverError> {
    let name = adoption.dataset;
    if Owner::of(store.directory(), name)? != Owner::Absent {
        let dataset = existing(store, name)?;
        let is_it = came_from(&dataset.control)?.as_deref() == Some(adoption.directory);
        if is_it && !is_directory(adoption.directory) {
            return Ok(Stage::Whole);
        }
        if !is_blank(&dataset)? {
            return Err(taken(name));
        }
    }
    if let Some(aside) = open(store, name)?
        && holds_tree(&aside)?
    {
        let from = came_from(&aside.open_directory(&names::CONTROL)?)?;
        return match from {
            Some(from) if from == adoption.directory => Ok(Stage::Taken),
            from => Err(ReceiverError::Adoption(format!(
                "another tree is just becoming dataset `{name}`{}: finish that by the same command as before",
                from.map_or(String::new(), |from| format!(", `{}`", shown(&from)))
            ))),
        };
    }
    check(store, adoption.directory)?;
    Ok(Stage::Begins)
}

/// Makes a dataset of a tree. Whole and durable when it returns; whoever is interrupted calls it again.
pub fn adopt(store: &Store, adoption: &Adoption<'_>) -> Result<Adopted, ReceiverError> {
    let stage = stage(store, adoption)?;
    let files = store.path().join(adoption.dataset.as_str());
    let files = files.join("live/files");
    if stage == Stage::Whole {
        return whole(store, adoption.dataset, files);
    }
    let aside = prepare(store, adoption)?;
    crash_point!("adopt.prepared");
    if stage == Stage::Begins {
        take(adoption.directory, &aside)?;
    }
    crash_point!("adopt.taken");
    let made = first_snapshot(store, adoption);
    let (snapshot, found, lost) = match made {
        Ok(made) => made,
        Err(error) => return Err(put_back(store, adoption, &aside, error)),
    };
    crash_point!("adopt.absorbed");
    let (own, to) = (aside_name(adoption.dataset)?, own_name(adoption.dataset)?);
    appear(store, adoption.dataset, (&own, &to))?;
    crash_point!("adopt.whole");
    Ok(Adopted {
        snapshot,
        found: Some(found),
        lost,
        files,
    })
}

/// Gives the dataset its name. One without a snapshot may have it, which a main has made by telling of a cycle that failed: that goes.
fn appear(
    store: &Store,
    name: &DatasetName,
    (own, to): (&Name, &Name),
) -> Result<(), ReceiverError> {
    let directory = store.directory();
    match directory.rename_new(own, directory, to) {
        Err(error) if error.errno() == Some(Errno::EXIST) => {}
        renamed => {
            renamed?;
            return Ok(directory.sync()?);
        }
    }
    let there = existing(store, name)?;
    let locked = there.lock_patiently()?;
    if !is_blank(&there)? {
        return Err(taken(name));
    }
    directory.exchange(own, directory, to)?;
    directory.sync()?;
    drop(locked);
    remove::empty(&directory.open_directory(own)?)?;
    Ok(directory.remove_directory(own)?)
}

/// Whether a dataset has no snapshot, and nothing on the way to one.
fn is_blank(dataset: &Dataset) -> Result<bool, ReceiverError> {
    let Some(catalog) = dataset.read_catalog()? else {
        return Ok(true);
    };
    Ok(catalog.head()?.is_none() && catalog.pending()?.is_none())
}

fn taken(name: &DatasetName) -> ReceiverError {
    ReceiverError::Adoption(format!(
        "the store has a dataset `{name}` already: adopt the tree under another name, or bring the dataset up to date by `understudy sync`"
    ))
}

fn whole(store: &Store, name: &DatasetName, files: PathBuf) -> Result<Adopted, ReceiverError> {
    let dataset = existing(store, name)?;
    let catalog = dataset.read_catalog()?;
    let head = catalog.and_then(|catalog| catalog.head().transpose());
    let head = head.transpose()?.ok_or_else(|| {
        ReceiverError::Damaged(format!("dataset `{name}` was adopted, and has no snapshot"))
    })?;
    Ok(Adopted {
        snapshot: head.snapshot,
        found: None,
        lost: Vec::new(),
        files,
    })
}

/// What the tree is moved into. Can be repeated.
fn prepare(store: &Store, adoption: &Adoption<'_>) -> Result<Directory, ReceiverError> {
    let own = aside_name(adoption.dataset)?;
    let aside = store.directory().ensure_directory(&own)?;
    let control = furnish(&aside)?;
    let note = Note {
        directory: adoption.directory.as_os_str().as_bytes().to_vec(),
    };
    sealed::write(&control, &names::ADOPTED, &note)?;
    let before = match Owner::of(store.directory(), adoption.dataset)? {
        Owner::Main(main) => Some(main),
        Owner::Absent | Owner::Nobody => None,
    };
    if let Some(main) = adoption.main.or(before.as_ref()) {
        owner::write(&control, main)?;
    }
    aside.ensure_directory(&names::LIVE)?.set_mode(0o755)?;
    aside.sync()?;
    store.directory().sync()?;
    Ok(aside)
}

fn take(path: &Path, aside: &Directory) -> Result<(), ReceiverError> {
    let (parent, name) = split(path)?;
    let live = aside.open_directory(&names::LIVE)?;
    match parent.rename_new(&name, &live, &names::FILES) {
        Err(error) if error.errno() == Some(Errno::XDEV) => {
            let why = format!("`{}` cannot be adopted: {}", shown(path), elsewhere());
            return Err(ReceiverError::Adoption(why));
        }
        renamed => renamed?,
    }
    live.sync()?;
    Ok(parent.sync()?)
}

type Made = (Snapshot, String, Vec<(String, String)>);

/// Makes the tree the first snapshot of what is to be a dataset, and writes down which part this host plays in it.
fn first_snapshot(store: &Store, adoption: &Adoption<'_>) -> Result<Made, ReceiverError> {
    let own = aside_name(adoption.dataset)?;
    let dataset = Dataset::aside(store, &own, adoption.dataset)?;
    let locked = dataset.lock_patiently()?;
    let catalog = dataset.catalog(&locked)?;
    crate::recover::absorbed(&dataset, &catalog)?;
    let (options, standing) = plan(adoption.origin);
    let (mut found, mut lost) = ("nothing differs".to_owned(), Vec::new());
    if let Some(absorption) = absorb(&dataset, &catalog, &locked, &options)? {
        found = absorption.tally.text();
        let losses = absorption.tally.losses.into_iter();
        lost.extend(losses.map(|(path, why)| (path.to_string(), why)));
    }
    let head = catalog.head()?.ok_or_else(|| {
        ReceiverError::Damaged("a tree was taken, and there is no snapshot of it".to_owned())
    })?;
    if let Some(standing) = standing {
        // Nobody has to look at what they have just brought here.
        drift::pass(&dataset, head.snapshot.position.number)?;
        dataset.stand(&standing, &locked)?;
    }
    Ok((head.snapshot, found, lost))
}

fn plan(origin: Origin) -> (AbsorbOptions, Option<Standing>) {
    let options = AbsorbOptions {
        epoch: FIRST_EPOCH,
        nature: Nature::Written,
        pin: None,
        as_of: AsOf::Now,
        least_number: 1,
        sound_until: None,
    };
    let Origin::FormerMain {
        epoch,
        next,
        least_number,
    } = origin
    else {
        return (options, None);
    };
    let reason = format!("drift: what this host had and never shipped before epoch {next}");
    let options = AbsorbOptions {
        epoch,
        nature: Nature::Drift,
        pin: Some(reason),
        least_number,
        ..options
    };
    let standing = Standing {
        role: Role::Spare,
        epoch: next,
        since_seconds: now_seconds(),
        snapshot: None,
    };
    (options, Some(standing))
}

/// Undoes the move after a failure, so that the tree is where everybody looks for it.
fn put_back(
    store: &Store,
    adoption: &Adoption<'_>,
    aside: &Directory,
    error: ReceiverError,
) -> ReceiverError {
    let back = || -> Result<(), ReceiverError> {
        let (parent, name) = split(adoption.directory)?;
        let live = aside.open_directory(&names::LIVE)?;
        live.rename_new(&names::FILES, &parent, &name)?;
        parent.sync()?;
        remove::empty(aside)?;
        let own = aside_name(adoption.dataset)?;
        Ok(store.directory().remove_directory(&own)?)
    };
    if let Err(failed) = back() {
        let place = store
            .path()
            .join(format!("{ADOPTING}{}", adoption.dataset))
            .join("live/files");
        tracing::error!(
            "the tree is at `{}` now and could not be moved back: {failed}; the same command goes on with it",
            shown(&place)
        );
    }
    error
}

fn aside_name(name: &DatasetName) -> Result<Name, ReceiverError> {
    let text = format!("{ADOPTING}{name}");
    Name::new(text).map_err(|error| ReceiverError::Misbehaved(error.to_string()))
}

fn open(store: &Store, name: &DatasetName) -> Result<Option<Directory>, ReceiverError> {
    match store.directory().open_directory(&aside_name(name)?) {
        Ok(aside) => Ok(Some(aside)),
        Err(error) if error.is_gone() => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn holds_tree(aside: &Directory) -> Result<bool, ReceiverError> {
    match aside.open_directory(&names::LIVE) {
        Ok(live) => Ok(live.stat_if_present(&names::FILES)?.is_some()),
        Err(error) if error.is_gone() => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Where the tree of a dataset came from, if it was adopted.
fn came_from(control: &Directory) -> Result<Option<PathBuf>, ReceiverError> {
    let note = sealed::read::<Note>(control, &names::ADOPTED, LIMIT_BYTES)?;
    Ok(note.map(|note| PathBuf::from(std::ffi::OsStr::from_bytes(&note.directory))))
}
