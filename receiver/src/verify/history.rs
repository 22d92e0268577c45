//! History: the files that hold former contents, and whether every content of every snapshot is somewhere.

use std::collections::HashSet;
use std::time::Duration;

use rustix::io::Errno;
use understudy_protocol::{ContentHash, Name, RelPath};
use understudy_tree::{Directory, TreeError, content};

use super::ground::Ground;
use super::reading::{Found, Position, Reading, STEP, Subject, is_of_disk};
use crate::browse;
use crate::catalog::{Catalog, Needed, Row};
use crate::error::ReceiverError;
use crate::findings::{self, Damage, Part};
use crate::history::{Form, Objects};
use crate::library::Library;
use crate::packing;
use crate::patch::Patch;

/// Between two looks for something that a cycle may just be moving.
const PAUSE: Duration = Duration::from_millis(200);

impl Reading<'_> {
    pub(super) fn objects(
        &mut self,
        ground: &Ground,
        after: Option<(Name, Option<Name>)>,
    ) -> Result<Position, ReceiverError> {
        let before = self.tally;
        let objects = Objects::open(&self.dataset.control)?;
        let (mut shelf, mut last) = match after {
            Some((shelf, last)) => (shelf, last),
            None => match objects.shelf_after(None)? {
                Some(shelf) => (shelf, None),
                None => return Ok(Position::History(0)),
            },
        };
        let mut looked = 0;
        loop {
            let files = match objects.files_after(&shelf, last.as_ref()) {
                Err(ReceiverError::Tree(error)) if is_unlisted(&error) => {
                    let path = object_path(&shelf, None);
                    let what = format!("cannot be listed: {error}");
                    self.found.push(Found::at(Part::Object, &path, what));
                    Vec::new()
                }
                files => files?,
            };
            for (name, promised, directory) in files {
                self.object(ground, &directory, &name, promised)?;
                last = Some(name);
                looked += 1;
                if looked >= STEP || self.is_enough(&before) {
                    return Ok(Position::Objects(Some((shelf, last))));
                }
            }
            match objects.shelf_after(Some(&shelf))? {
                Some(next) => (shelf, last) = (next, None),
                None => return Ok(Position::History(0)),
            }
        }
    }

    fn object(
        &mut self,
        ground: &Ground,
        shelf: &Directory,
        name: &Name,
        promised: Option<(ContentHash, Form)>,
    ) -> Result<(), ReceiverError> {
        let path = object_path(name, promised.map(|(hash, _)| hash));
        let Some((hash, form)) = promised else {
            self.tally.objects += 1;
            let found = Found::at(Part::Object, &path, "is not an object's name");
            self.found.push(found);
            return Ok(());
        };
        // What is pruned meanwhile is nobody's loss.
        let stat = match shelf.stat_if_present(name) {
            Ok(None) => return Ok(()),
            Ok(Some(stat)) => Ok(stat),
            Err(error) if is_of_disk(&error) => Err(error),
            Err(error) => return Err(error.into()),
        };
        self.tally.objects += 1;
        let (size, what) = match (&stat, form) {
            (Err(error), _) => (None, Some(format!("cannot be read: {error}"))),
            (Ok(stat), Form::Whole) => {
                self.tally.object_bytes += stat.size;
                let what = self.content_of(shelf, name, (stat.size, hash))?;
                let is_read = what
                    .as_deref()
                    .is_some_and(|what| !what.starts_with("cannot"));
                let wrong = "this object of history does not have the content its name says";
                let what = if is_read {
                    Some(wrong.to_owned())
                } else {
                    what
                };
                (None, what)
            }
            (Ok(stat), Form::Compressed) => {
                self.tally.object_bytes += stat.size;
                (None, self.compressed(shelf, name, hash)?)
            }
            (Ok(_), Form::Patch) => self.patch(shelf, name, hash)?,
        };
        let Some(what) = what else { return Ok(()) };
        if matches!(shelf.stat_if_present(name), Ok(None)) {
            return Ok(());
        }
        let of = browse::former_names(&ground.catalog, hash)?;
        let size = match size {
            Some(size) => Some(size),
            None => size_of(ground, hash)?,
        };
        self.found.push(Found {
            damage: Damage {
                part: Part::Object,
                path,
                // Without a row nobody knows the size; what others are made of it counts all the same.
                content: Some((size.unwrap_or(stat.map_or(0, |stat| stat.size)), hash)),
                what: format!("{what}{of}"),
            },
            subject: Subject::Other,
        });
        Ok(())
    }

    /// Reads a compressed content; what is wrong with it.
    fn compressed(
        &mut self,
        shelf: &Directory,
        name: &Name,
        hash: ContentHash,
    ) -> Result<Option<String>, ReceiverError> {
        let read = || -> Result<(u64, ContentHash), ReceiverError> {
            let file = shelf.open_file(name)?;
            content::drop_cache(&file);
            let read = packing::hash(&file);
            content::drop_cache(&file);
            read
        };
        match read() {
            Ok((size, found)) => {
                (self.pace)(super::reading::cost_bytes(1, size))?;
                let wrong = "this object of history does not have the content its name says";
                Ok((found != hash).then(|| wrong.to_owned()))
            }
            Err(ReceiverError::Tree(error)) if error.is_gone() => Ok(None),
            Err(error @ (ReceiverError::Tree(_) | ReceiverError::Damaged(_))) => {
                Ok(Some(format!("cannot be read: {error}")))
            }
            Err(error) => Err(error),
        }
    }

    /// Reads a patch; the size of what it leads to if it is whole, and what is wrong with it.
    fn patch(
        &mut self,
        shelf: &Directory,
        name: &Name,
        hash: ContentHash,
    ) -> Result<(Option<u64>, Option<String>), ReceiverError> {
        let open = || -> Result<Option<Patch>, ReceiverError> {
            let file = shelf.open_file(name)?;
            content::drop_cache(&file);
            let opened = Patch::open(file.try_clone().map_err(unreadable)?);
            content::drop_cache(&file);
            opened
        };
        let opened = open();
        let damaged = "this patch of history is damaged".to_owned();
        match opened {
            Ok(Some(patch)) if patch.about().hash == hash => {
                let bytes = patch.bytes();
                let size = patch.about().size;
                drop(patch);
                self.tally.object_bytes += bytes;
                (self.pace)(super::reading::cost_bytes(1, bytes))?;
                Ok((Some(size), None))
            }
            Ok(_) => Ok((None, Some(damaged))),
            Err(ReceiverError::Tree(error)) if error.is_gone() => Ok((None, None)),
            Err(ReceiverError::Tree(error)) => Ok((None, Some(format!("cannot be read: {error}")))),
            Err(error) => Err(error),
        }
    }

    /// Every content of every snapshot must be somewhere.
    pub(super) fn history(&mut self, after: u64) -> Result<Position, ReceiverError> {
        // No snapshot goes meanwhile.
        let reading = self.dataset.reading()?;
        let Some(ground) = Ground::open(self.dataset)? else {
            return Ok(Position::History(after));
        };
        let (catalog, head) = (&ground.catalog, ground.at());
        let snapshots = catalog.snapshots()?;
        let numbers: Vec<u64> = snapshots
            .iter()
            .map(|one| one.snapshot.position.number)
            .collect();
        // Rows of snapshots that are gone may outlive their contents for a moment.
        let listed = Needed::new(numbers, head);
        let rows = catalog.superseded_after(head, after, STEP)?;
        let known = findings::read(&self.dataset.control)?;
        let mut wrong = known.contents_of(|part| part == Part::Live);
        for hash in known.contents_of(|part| part == Part::Object) {
            if catalog.rows_with(hash, head)?.is_empty() {
                wrong.insert(hash);
            }
        }
        let library = Library::open(self.dataset)?;
        let mut finder = library.finder();
        let mut doubtful = Vec::new();
        for row in &rows {
            let Some((_, hash)) = row.entry.content() else {
                continue;
            };
            if !listed.has_in(row.since, row.until) {
                continue;
            }
            match finder.check(hash, &wrong) {
                Ok(()) if finder.is_unproved(hash)? => doubtful.push((row, Doubt::Made)),
                Ok(()) => {}
                Err(ReceiverError::Damaged(_)) => doubtful.push((row, Doubt::There)),
                Err(ReceiverError::Tree(error)) if is_of_disk(&error) => {
                    doubtful.push((row, Doubt::There));
                }
                Err(error) => return Err(error),
            }
        }
        drop(finder);
        drop(library);
        drop(reading);
        let before = self.tally;
        let mut read = HashSet::new();
        for (row, doubt) in doubtful {
            match doubt {
                Doubt::There => self.lost(row, head, &wrong)?,
                Doubt::Made if read.insert(row.entry.content()) => self.prove(row)?,
                Doubt::Made => {}
            }
            if self.is_enough(&before) {
                return Ok(Position::History(row.id));
            }
        }
        Ok(match rows.last() {
            Some(last) if rows.len() == STEP => Position::History(last.id),
            _ => Position::End,
        })
    }

    /// A content was not found: a cycle may just have moved it.
    fn lost(
        &mut self,
        row: &Row,
        head: u64,
        wrong: &HashSet<ContentHash>,
    ) -> Result<(), ReceiverError> {
        let Some((_, hash)) = row.entry.content() else {
            return Ok(());
        };
        loop {
            let is_held = self.dataset.holds_lock();
            let locked = self.dataset.lock();
            let library = Library::open(self.dataset)?;
            if !is_needed(&library.catalog, row, head)? {
                return Ok(());
            }
            let what = match library.finder().check(hash, wrong) {
                Ok(()) => return Ok(()),
                Err(ReceiverError::Damaged(_)) => "is missing".to_owned(),
                Err(ReceiverError::Tree(error)) if is_of_disk(&error) => {
                    format!("cannot be read: {error}")
                }
                Err(error) => return Err(error),
            };
            // Whoever may not lock it does not change it either, and nobody does while it is held to read.
            if is_held || !matches!(locked, Err(ReceiverError::Busy(_))) {
                self.found.extend(of_history(row, head, &what));
                return Ok(());
            }
            drop(library);
            (self.pace)(0)?;
            std::thread::park_timeout(PAUSE);
        }
    }
}

/// What may be wrong with a content that is needed.
enum Doubt {
    /// Whether it is there.
    There,
    /// Whether its patches lead to it.
    Made,
}

/// Whether a snapshot has a row still.
pub(super) fn is_needed(catalog: &Catalog, row: &Row, head: u64) -> Result<bool, ReceiverError> {
    let snapshots = catalog.snapshots()?;
    let numbers = snapshots.iter().map(|one| one.snapshot.position.number);
    Ok(Needed::new(numbers, head).has_in(row.since, row.until))
}

/// Something wrong with the content of a row.
pub(super) fn of_history(row: &Row, head: u64, what: &str) -> Option<Found> {
    let (size, hash) = row.entry.content()?;
    let name = &row.place.name;
    let (first, last) = (row.since, row.until.unwrap_or(head).saturating_sub(1));
    Some(Found {
        damage: Damage {
            part: Part::History,
            path: object_path(name, Some(hash)),
            content: Some((size, hash)),
            what: format!("the content of `{name}` in snapshots {first} to {last} {what}"),
        },
        subject: Subject::Other,
    })
}

/// Whether a shelf of history cannot be listed for good: whatever is there instead of a directory counts, too.
fn is_unlisted(error: &TreeError) -> bool {
    is_of_disk(error) || error.errno() == Some(Errno::NOTDIR)
}

/// The size of a content by the rows that have it; `None` if none has.
fn size_of(ground: &Ground, hash: ContentHash) -> Result<Option<u64>, ReceiverError> {
    let mut found = None;
    ground.catalog.rows_of(hash, |row| {
        found = row.entry.content().map(|(size, _)| size);
        Ok(())
    })?;
    Ok(found)
}

fn unreadable(error: std::io::Error) -> ReceiverError {
    understudy_tree::TreeError::new("read", b"a patch", error).into()
}

fn object_path(name: &Name, hash: Option<ContentHash>) -> RelPath {
    let text = hash.map_or_else(|| name.to_string(), |hash| hash.to_string());
    RelPath::new(format!("objects/{text}").as_bytes()).unwrap_or_default()
}
