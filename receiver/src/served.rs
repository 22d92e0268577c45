//! Whether what is served of a store can be written to: whoever serves it must not be able to, as long as this host is the spare.
//!
//! What is served is seen through a read-only mount of the store, or of a dataset's directory: of the parent of `live`, for a mount of
//! `live` itself would show the same snapshot for ever.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::StatVfsMountFlags;
use understudy_protocol::{DatasetName, Role};

use crate::error::ReceiverError;
use crate::store::Store;

/// What is wrong with how a dataset is served below `served`, for people; `None` if nothing is, or it is not served there. Of a dataset
/// of which this host is not the spare nothing is wrong: an application is to write there.
pub fn problem(
    store: &Store,
    name: &DatasetName,
    served: &Path,
) -> Result<Option<String>, ReceiverError> {
    let seen = served.join(name.as_str());
    if store.standing(name)?.role != Role::Spare || !seen.exists() {
        return Ok(None);
    }
    let shown = seen.display();
    let own = store.path().join(name.as_str());
    let identity = |path: &Path| {
        let found = std::fs::metadata(path).ok()?;
        Some((found.dev(), found.ino()))
    };
    if identity(&seen) != identity(&own) {
        return Ok(Some(format!(
            "`{shown}` is not a mount of `{}`, so what is served there is not what the main sent last; mount the dataset's directory, \
             not its `live`",
            own.display()
        )));
    }
    let stat = rustix::fs::statvfs(&seen);
    let is_read_only = stat.is_ok_and(|stat| stat.f_flag.contains(StatVfsMountFlags::RDONLY));
    Ok((!is_read_only).then(|| {
        format!(
            "`{shown}` can be written to, although this host is the spare of dataset `{name}`: what is written there disappears with the \
             next snapshot; mount it read-only (`systemctl restart understudy-served@{name}`)"
        )
    }))
}

/// What it means that nothing of the store is served below a place; `None` if anything is, or the store is empty.
pub fn absence(store: &Store, served: &Path) -> Result<Option<String>, ReceiverError> {
    let names = store.dataset_names()?;
    let is_there = |name: &DatasetName| served.join(name.as_str()).exists();
    Ok((!names.is_empty() && !names.iter().any(is_there)).then(|| {
        format!(
            "nothing of the store is mounted below `{}`, where it is to be served from",
            served.display()
        )
    }))
}

/// What is wrong with any dataset of the store: the first, with how many there are.
pub fn trouble(store: &Store, served: &Path) -> Result<Option<String>, ReceiverError> {
    if let Some(absence) = absence(store, served)? {
        return Ok(Some(absence));
    }
    let (mut first, mut others) = (None, 0);
    for name in store.dataset_names()? {
        match problem(store, &name, served)? {
            Some(found) if first.is_none() => first = Some(found),
            Some(_) => others += 1,
            None => {}
        }
    }
    Ok(first.map(|first| match others {
        0 => first,
        more => format!("{first}; and {more} more datasets"),
    }))
}
