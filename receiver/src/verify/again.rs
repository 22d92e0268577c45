//! What is still open of the twins when a pass ends: it is read once more before it counts as right again.
//!
//! Commits exchange the twins under a pass, which may meet the same file of two in both phases, and a twin that is being changed
//! is not read at all. So that a pass has not seen something proves nothing: the file is read here, in both twins, alone on the
//! dataset. Only what was found before costs anything.

use std::time::{Duration, Instant};

use understudy_protocol::{ContentHash, DirectoryId, Name, Place, RelPath};
use understudy_tree::{Directory, Kind};

use super::made::Made;
use super::reading::{Found, Reading};
use crate::catalog::{Catalog, Row};
use crate::dataset::{Dataset, Locked};
use crate::error::ReceiverError;
use crate::findings::{self, Damage};
use crate::history::Objects;
use crate::marker;
use crate::resolve::Handles;

/// How long somebody else may work on the dataset before what is open stays so until the next pass.
const PATIENCE: Duration = Duration::from_secs(60);

/// Follows what was wrong with something.
pub(super) const MOVED: &str = "; now it is history, and wrong there";

/// What a pass over everything did not see, and that is not right for that.
#[derive(Debug, Default)]
pub(crate) struct Doubtful {
    /// It is as wrong as it was.
    pub(crate) found: Vec<Found>,
    /// It could not be read.
    pub(crate) unread: Vec<Damage>,
}

/// What became of one finding.
enum Look {
    Sound,
    Wrong(Box<Found>),
    /// No twin has it any more, and history has it wrong.
    Moved,
    Unread(&'static str),
}

/// Looks again at what a pass did not see.
pub(crate) fn look_again(dataset: &Dataset, pass: u64) -> Result<Doubtful, ReceiverError> {
    let mut doubtful = Doubtful::default();
    let mut is_busy = false;
    let known = findings::read(&dataset.control)?;
    for damage in known.unseen_of_twins(pass) {
        let Some(content) = damage.content else {
            continue;
        };
        // Others want the dataset, too: it is given back after each.
        let locked = if is_busy { None } else { lock(dataset)? };
        is_busy = locked.is_none();
        let looked = match &locked {
            None => Look::Unread("somebody else is working on the dataset"),
            Some(locked) => match look(dataset, locked, &damage, content) {
                Err(ReceiverError::Damaged(_)) => Look::Unread("the catalog does not lead to it"),
                Err(ReceiverError::Tree(_)) => Look::Unread("its directory cannot be read"),
                looked => looked?,
            },
        };
        match looked {
            Look::Sound => {}
            // That finding goes on in its place.
            Look::Moved if known.is_found_in_history(content.1, pass) => {}
            Look::Moved => {
                let what = format!("{}{MOVED}", damage.what);
                doubtful.unread.push(Damage { what, ..damage });
            }
            Look::Wrong(found) => doubtful.found.push(*found),
            Look::Unread(why) => {
                let what = format!("{}; now it could not be read again: {why}", damage.what);
                doubtful.unread.push(Damage { what, ..damage });
            }
        }
    }
    Ok(doubtful)
}

fn lock(dataset: &Dataset) -> Result<Option<Locked>, ReceiverError> {
    let started = Instant::now();
    loop {
        match dataset.lock_patiently() {
            Err(ReceiverError::Busy(_)) if started.elapsed() < PATIENCE => {}
            Err(ReceiverError::Busy(_)) => return Ok(None),
            locked => return locked.map(Some),
        }
    }
}

fn look(
    dataset: &Dataset,
    _locked: &Locked,
    damage: &Damage,
    content: (u64, ContentHash),
) -> Result<Look, ReceiverError> {
    let catalog = dataset.read_catalog()?;
    let Some((catalog, head)) = catalog
        .map(|catalog| catalog.head().map(|head| head.map(|head| (catalog, head))))
        .transpose()?
        .flatten()
    else {
        return Ok(Look::Unread("the catalog has no snapshot"));
    };
    let newest = head.snapshot.position;
    let live = match dataset.live()? {
        Some(live) if marker::read(&live)? == Some(newest) => live,
        _ => return Ok(Look::Unread("the live tree is not the newest snapshot")),
    };
    let mut pace = |_| Ok(());
    let mut reading = Reading::new(dataset, &mut pace);
    let mut twins = vec![(live, newest.number)];
    let shadow = dataset.shadow()?;
    let shown = marker::read(&shadow)?;
    let is_whole = match shown {
        Some(shown) => {
            let is_known = catalog.snapshot(shown.number)?;
            let is_known = is_known.is_some_and(|one| one.snapshot.position == shown);
            twins.extend(
                (is_known || shown.number + 1 == newest.number).then_some((shadow, shown.number)),
            );
            twins.len() == 2
        }
        // What was thrown away, or was never made, has nothing of its own.
        None => shadow.names()?.is_empty(),
    };
    let mut is_anywhere = false;
    for (twin, at) in &twins {
        for row in rows(&catalog, &damage.path, content.1, *at)? {
            is_anywhere = true;
            if let Some(what) = wrong(&mut reading, &catalog, (twin, *at), &row)? {
                let damage = Damage {
                    what,
                    ..damage.clone()
                };
                let row = Some(row);
                return Ok(Look::Wrong(Box::new(Found { damage, row })));
            }
        }
    }
    if !is_whole {
        return Ok(Look::Unread("the other tree is being changed"));
    }
    // A cycle may have made it history after that was read.
    if !is_anywhere && !is_sound_object(&mut reading, content)? {
        return Ok(Look::Moved);
    }
    Ok(Look::Sound)
}

/// What should have the content in a snapshot: the place itself, or where it has moved to.
fn rows(
    catalog: &Catalog,
    path: &RelPath,
    hash: ContentHash,
    at: u64,
) -> Result<Vec<Row>, ReceiverError> {
    let has_it = |row: &Row| row.entry.content().is_some_and(|(_, found)| found == hash);
    let mut found = Vec::new();
    // Of a path below the root `files`, that is not told.
    for prefix in [b"files/".as_slice(), b"".as_slice()] {
        let row = row_of(catalog, &[prefix, path.as_bytes()].concat(), at)?;
        found.extend(row.filter(has_it));
    }
    match found.is_empty() {
        true => catalog.rows_with(hash, at),
        false => Ok(found),
    }
}

fn row_of(catalog: &Catalog, path: &[u8], at: u64) -> Result<Option<Row>, ReceiverError> {
    let mut parent = Some(DirectoryId::TOP);
    let mut found = None;
    for name in path.split(|byte| *byte == b'/') {
        let (Some(directory), Ok(name)) = (parent, Name::new(name)) else {
            return Ok(None);
        };
        found = catalog.row(&Place::new(directory, name), at)?;
        parent = found.as_ref().and_then(|row| row.entry.directory_id());
    }
    Ok(found)
}

/// What is wrong with the file of a row in a twin, if anything.
fn wrong(
    reading: &mut Reading<'_>,
    catalog: &Catalog,
    (twin, at): (&Directory, u64),
    row: &Row,
) -> Result<Option<String>, ReceiverError> {
    let (name, missing) = (&row.place.name, "is missing");
    let Some((size, hash)) = row.entry.content() else {
        return Ok(None);
    };
    let mut handles = Handles::new(twin, catalog, at);
    let looked = handles
        .get(row.place.parent)
        .and_then(|directory| Ok((directory.try_clone()?, directory.stat_if_present(name)?)));
    match looked {
        Err(ReceiverError::Tree(error)) if error.is_gone() => Ok(Some(missing.to_owned())),
        Err(error) => Err(error),
        Ok((_, None)) => Ok(Some(missing.to_owned())),
        Ok((_, Some(stat))) if stat.kind != Kind::File || stat.size != size => {
            Ok(Some("is not the file that it should be".to_owned()))
        }
        Ok((directory, Some(_))) => reading.content_of(&directory, name, (size, hash)),
    }
}

/// Whether history has the content as it should be, or does not have it at all.
fn is_sound_object(
    reading: &mut Reading<'_>,
    (size, hash): (u64, ContentHash),
) -> Result<bool, ReceiverError> {
    let objects = Objects::open(&reading.dataset.control)?;
    let looked = match objects.open_object(hash) {
        Ok(Some(base)) => Ok(base.hash().is_ok_and(|found| found == (size, hash))),
        Ok(None) if objects.open_patch_file(hash)?.is_none() => Ok(true),
        Ok(None) => reading.make((size, hash)).map(|made| made == Made::Right),
        Err(error) => Err(error),
    };
    match looked {
        Err(ReceiverError::Tree(_) | ReceiverError::Damaged(_)) => Ok(false),
        looked => looked,
    }
}
