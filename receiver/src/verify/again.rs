//! What is still open of the twins when a pass ends: it is read once more before it counts as right again.
//!
//! Commits exchange the twins under a pass, which may meet the same file of two in both phases, and a twin that is being changed
//! is not read at all. So that a pass has not seen something proves nothing: the file is read here, in both twins, alone on the
//! dataset. Only what was found before costs anything.

use std::time::{Duration, Instant};

use understudy_protocol::{ContentHash, DirectoryId, Name, Place, RelPath};
use understudy_tree::{Directory, node};

use super::made::Made;
use super::reading::{Found, Reading, Subject};
use crate::catalog::{Catalog, Row};
use crate::dataset::{Dataset, Locked};
use crate::error::ReceiverError;
use crate::findings::{self, Damage};
use crate::history::Objects;
use crate::marker;
use crate::resolve::Handles;
use crate::standing::{differs, is_another};

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
        // Others want the dataset, too: it is given back after each.
        let locked = if is_busy { None } else { lock(dataset)? };
        is_busy = locked.is_none();
        let looked = match &locked {
            None => Look::Unread("somebody else is working on the dataset"),
            Some(locked) => match look(dataset, locked, &damage) {
                Err(ReceiverError::Damaged(_)) => Look::Unread("the catalog does not lead to it"),
                Err(ReceiverError::Tree(_)) => Look::Unread("its directory cannot be read"),
                looked => looked?,
            },
        };
        match looked {
            Look::Sound => {}
            // That finding goes on in its place.
            Look::Moved
                if damage
                    .content
                    .is_some_and(|(_, hash)| known.is_found_in_history(hash, pass)) => {}
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

fn look(dataset: &Dataset, _locked: &Locked, damage: &Damage) -> Result<Look, ReceiverError> {
    let catalog = dataset.read_catalog()?;
    let Some((catalog, head)) = catalog
        .map(|catalog| catalog.head().map(|head| head.map(|head| (catalog, head))))
        .transpose()?
        .flatten()
    else {
        return Ok(Look::Unread("the catalog has no snapshot"));
    };
    let newest = head.snapshot.position;
    let live = match dataset.newest()? {
        Some(live) if marker::read(&live)? == Some(newest) => live,
        _ => return Ok(Look::Unread("the live tree is not the newest snapshot")),
    };
    let mut pace = |_| Ok(());
    let mut reading = Reading::new(dataset, &mut pace);
    let mut twins = vec![(live, newest.number)];
    let shadow = dataset.shadow()?;
    let shown = marker::read(&shadow)?;
    let is_whole = match shown {
        // After a promotion it is what was read already.
        Some(_) if !dataset.is_spare()? => true,
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
        let found = match damage.content {
            Some((_, hash)) => {
                let rows = rows(&catalog, &damage.path, hash, *at)?;
                is_anywhere |= !rows.is_empty();
                wrong_content(&mut reading, (twin, &catalog, *at), rows)?
            }
            None => wrong_name(dataset, (twin, &catalog, *at), damage)?,
        };
        if let Some((what, subject)) = found {
            let damage = Damage {
                what,
                ..damage.clone()
            };
            return Ok(Look::Wrong(Box::new(Found { damage, subject })));
        }
    }
    if !is_whole {
        return Ok(Look::Unread("the other tree is being changed"));
    }
    // A cycle may have made it history after that was read.
    if let Some(content) = damage.content
        && !is_anywhere
        && !is_sound_object(&mut reading, content)?
    {
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
    for path in paths(path) {
        found.extend(row_of(catalog, &path, at)?.filter(has_it));
    }
    match found.is_empty() {
        true => catalog.rows_with(hash, at),
        false => Ok(found),
    }
}

/// Where the path of a finding may be: of one below the root `files`, that is not told.
fn paths(told: &RelPath) -> [Vec<u8>; 2] {
    [b"files/".as_slice(), b""].map(|prefix| [prefix, told.as_bytes()].concat())
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

/// A twin and the snapshot that it shows.
type Twin<'a> = (&'a Directory, &'a Catalog, u64);

/// What is wrong in a twin with the first of these files that is not as it should be.
fn wrong_content(
    reading: &mut Reading<'_>,
    (twin, catalog, at): Twin<'_>,
    rows: Vec<Row>,
) -> Result<Option<(String, Subject)>, ReceiverError> {
    let mut handles = Handles::new(twin, catalog, at);
    for row in rows {
        let (name, Some(content)) = (&row.place.name, row.entry.content()) else {
            continue;
        };
        let Some(directory) = standing(&mut handles, &row.place)? else {
            return Ok(Some(("is missing".to_owned(), Subject::Name(row))));
        };
        let is_file = is_another(&directory, &row, &directory.stat(name)?)?.is_none();
        let what = match is_file {
            true => reading.content_of(&directory, name, content)?,
            false => Some("is not the file that it should be".to_owned()),
        };
        if let Some(what) = what {
            return Ok(Some((what, Subject::Content(row))));
        }
    }
    Ok(None)
}

/// What is wrong in a twin with the name of a finding that is not about a content: what a row says does not stand there, or something
/// stands where no row is.
fn wrong_name(
    dataset: &Dataset,
    (twin, catalog, at): Twin<'_>,
    damage: &Damage,
) -> Result<Option<(String, Subject)>, ReceiverError> {
    let mut handles = Handles::new(twin, catalog, at);
    for path in paths(&damage.path) {
        if let Some(row) = row_of(catalog, &path, at)? {
            let what = match standing(&mut handles, &row.place)? {
                None => node::can_exist(&row.entry, &dataset.privileges)
                    .then(|| "is missing".to_owned()),
                Some(directory) => {
                    if let Some(id) = row.entry.directory_id() {
                        handles.get(id)?.names()?;
                    }
                    let stat = directory.stat(&row.place.name)?;
                    differs(&dataset.privileges, &directory, &row, &stat)?
                }
            };
            if let Some(what) = what {
                return Ok(Some((what, Subject::Name(row))));
            }
            // There may be a path of the same name above `files`.
            continue;
        }
        let (above, name) = match path.iter().rposition(|byte| *byte == b'/') {
            Some(slash) => (row_of(catalog, &path[..slash], at)?, &path[slash + 1..]),
            None => (None, &path[..]),
        };
        let parent = match (
            above.map(|row| row.entry.directory_id()),
            path.contains(&b'/'),
        ) {
            (Some(Some(id)), _) => id,
            (None, false) => DirectoryId::TOP,
            _ => continue,
        };
        let Ok(name) = Name::new(name) else { continue };
        let place = Place::new(parent, name);
        if standing(&mut handles, &place)?.is_some() {
            return Ok(Some((damage.what.clone(), Subject::Extra(place))));
        }
    }
    Ok(None)
}

/// The directory of what stands at a place; `None` if nothing does.
fn standing(handles: &mut Handles<'_>, place: &Place) -> Result<Option<Directory>, ReceiverError> {
    let looked = handles.get(place.parent).and_then(|directory| {
        Ok((
            directory.try_clone()?,
            directory.stat_if_present(&place.name)?,
        ))
    });
    match looked {
        Err(ReceiverError::Tree(error)) if error.is_gone() => Ok(None),
        looked => looked.map(|(directory, stat)| stat.map(|_| directory)),
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
