//! Where what was staged for a held cycle waits, so that later cycles can be staged meanwhile.
//!
//! It is the staging directory itself, renamed, and named by the digest of the intent: whatever stands there under another name
//! belongs to a cycle that another one has taken the place of. An intent without such a directory has its files in staging.

use understudy_protocol::Name;
use understudy_tree::{Directory, Kind, remove};

use crate::catalog::Recorded;
use crate::dataset::{Dataset, Locked};
use crate::error::ReceiverError;
use crate::{leftovers, names};

fn name_of(pending: &Recorded) -> Name {
    names::digest(pending.snapshot.position.fingerprint)
}

/// What was staged for an intent, if it was put aside.
pub(crate) fn directory(
    dataset: &Dataset,
    pending: &Recorded,
) -> Result<Option<Directory>, ReceiverError> {
    let opened = dataset.control.open_directory(&names::ASIDE);
    match opened.and_then(|pool| pool.open_directory(&name_of(pending))) {
        Ok(directory) => Ok(Some(directory)),
        Err(error) if error.is_gone() => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Puts aside what was staged for an intent, unless that was done; then staging has what an interrupted upload left.
pub(crate) fn put(
    dataset: &Dataset,
    locked: &Locked,
    pending: &Recorded,
) -> Result<(), ReceiverError> {
    let control = &dataset.control;
    let (pool, name) = (control.ensure_directory(&names::ASIDE)?, name_of(pending));
    let trash = control.ensure_directory(&names::TRASH)?;
    for other in pool.names()? {
        if other != name {
            remove::tree(&pool, &other, &trash)?;
        }
    }
    if pool.stat_if_present(&name)?.is_some() {
        return leftovers::keep(dataset, locked);
    }
    control.rename_new(&names::STAGING, &pool, &name)?;
    control.ensure_directory(&names::STAGING)?;
    // What is staged from here on must not be taken for that of the intent after a power cut.
    pool.sync()?;
    Ok(control.sync()?)
}

/// Fills staging, which is empty, with further names of all files: whatever comes of it, those that were put aside stay.
pub(crate) fn lend(dataset: &Dataset, pending: &Recorded) -> Result<(), ReceiverError> {
    let Some(aside) = directory(dataset, pending)? else {
        return Ok(());
    };
    let staging = dataset.control.ensure_directory(&names::STAGING)?;
    for name in aside.names()? {
        if name == *names::LEDGER || name == *names::STREAMS {
            continue;
        }
        let from = aside.open_directory(&name)?;
        let to = staging.ensure_directory(&name)?;
        link_all(&from, &to)?;
    }
    Ok(())
}

/// Shelves have files, and `incoming` has directories of files.
fn link_all(from: &Directory, to: &Directory) -> Result<(), ReceiverError> {
    for name in from.names()? {
        if from.stat(&name)?.kind != Kind::Directory {
            from.link(&name, to, &name)?;
            continue;
        }
        let (from, to) = (from.open_directory(&name)?, to.ensure_directory(&name)?);
        for name in from.names()? {
            from.link(&name, &to, &name)?;
        }
    }
    Ok(())
}

/// Removes everything that was put aside: nothing is held.
pub(crate) fn drop_all(dataset: &Dataset) -> Result<(), ReceiverError> {
    let trash = dataset.control.ensure_directory(&names::TRASH)?;
    Ok(remove::tree(&dataset.control, &names::ASIDE, &trash)?)
}

/// Nothing of it is told to agents any more.
pub(crate) fn conceal(dataset: &Dataset, pending: &Recorded) -> Result<(), ReceiverError> {
    let Some(aside) = directory(dataset, pending)? else {
        return Ok(());
    };
    match aside.remove_file(&names::LEDGER) {
        Err(error) if !error.is_gone() => Err(error.into()),
        _ => Ok(()),
    }
}
