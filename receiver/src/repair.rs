//! Repairing damaged files of the live tree with what the spare itself has: another name of the content, the other
//! twin's own copy, or history. [`places`] is for what is not there at all.
//!
//! The shadow shows the same snapshot by then, so that both twins have the same places. It is repaired first: if the
//! process dies in between, the damage in `live` is found again. Every step replaces one name, or nothing.

mod keep;
mod looking;
mod places;
mod putting;

use std::cell::Cell;
use std::collections::HashSet;
use std::fs::File;

use understudy_protocol::{ContentHash, Name, Place};
use understudy_tree::attributes::{set_attributes, set_attributes_of_new};
use understudy_tree::{Directory, content, crash_point};

use crate::catalog::{Catalog, Row};
use crate::cycle;
use crate::dataset::{Dataset, Locked};
use crate::error::ReceiverError;
use crate::findings::{self, Part};
use crate::history::Objects;
use crate::housekeeping::Stop;
use crate::library::Library;
use crate::names;
use crate::recover;
use crate::resolve::Handles;

pub(crate) use keep::room_to_keep;

/// Rows of a content that are read at once.
const BATCH: usize = 1024;

/// What it takes to repair a dataset.
pub(crate) struct Repairer<'a> {
    dataset: &'a Dataset,
    library: Library,
    /// After a promotion an application writes into `live`: then both are the frozen tree.
    live: Directory,
    shadow: Directory,
    at: u64,
    /// A content that came from elsewhere.
    given: Option<File>,
    /// The last number that something was kept by.
    kept: Cell<u64>,
}

/// What became of what a row was about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It has its content again, and that is durable.
    Repaired,
    /// Its content is nowhere.
    Lost,
    /// It is a file of history by now, and its content is nowhere.
    Former,
}

impl Outcome {
    pub(crate) fn of(repaired: bool) -> Self {
        match repaired {
            true => Self::Repaired,
            false => Self::Lost,
        }
    }
}

impl<'a> Repairer<'a> {
    /// Makes the twins equal; `None` if there is no snapshot.
    pub(crate) fn new(
        dataset: &'a Dataset,
        locked: &Locked,
    ) -> Result<Option<Self>, ReceiverError> {
        let catalog = dataset.catalog(locked)?;
        recover::recover(dataset, &catalog, locked)?;
        Self::of(dataset, &catalog, locked)
    }

    /// The same of a dataset that was recovered already.
    pub(crate) fn of(
        dataset: &'a Dataset,
        catalog: &Catalog,
        locked: &Locked,
    ) -> Result<Option<Self>, ReceiverError> {
        let Some(head) = catalog.head()? else {
            return Ok(None);
        };
        catalog.index_contents()?;
        if dataset.is_spare()? {
            cycle::catch_up(dataset, catalog, locked, &Stop::default())?;
        }
        let Some(live) = dataset.newest()? else {
            return Ok(None);
        };
        Ok(Some(Self {
            dataset,
            library: Library::open(dataset)?,
            live,
            shadow: dataset.shadow()?,
            at: head.snapshot.position.number,
            given: None,
            kept: Cell::new(0),
        }))
    }

    /// The same with a content that may be used where the spare has none.
    pub(crate) fn with(self, given: File) -> Self {
        Self {
            given: Some(given),
            ..self
        }
    }

    /// Gives what a row was about its content again, wherever that belongs by now. The row may have been read before commits
    /// that have ended it since: neither its place nor its attributes count then, only where its content is.
    pub(crate) fn repair_of(&self, row: &Row) -> Result<Outcome, ReceiverError> {
        let Some((size, hash)) = row.entry.content() else {
            return Ok(Outcome::of(false));
        };
        if let Some(now) = self.library.catalog.row_by_id(row.id)?
            && now.is_valid_at(self.at)
            && (&now.place, now.entry.content()) == (&row.place, row.entry.content())
        {
            return Ok(Outcome::of(self.repair(&now)?));
        }
        match self.repair_rows(hash)? {
            Some(repaired) => Ok(Outcome::of(repaired)),
            // It has moved into history since.
            None if self.repair_object(size, hash)? => Ok(Outcome::Repaired),
            None => Ok(Outcome::Former),
        }
    }

    /// Gives the file of a row of the newest snapshot its content again, under every name that it has, in both twins. Returns
    /// whether that was possible; it is durable then.
    fn repair(&self, row: &Row) -> Result<bool, ReceiverError> {
        let Some(content) = row.entry.content() else {
            return Ok(false);
        };
        let (trash, file) = self.empty_file()?;
        let repaired = self.fill(content, &file)?;
        if repaired {
            set_attributes_of_new(&file, &row.entry.attributes, &self.dataset.privileges)?;
            content::sync(&file)?;
            for place in self.names_of(row)? {
                self.replace(&place, row, &trash)?;
            }
        }
        remove(&trash, &names::REPAIRED)?;
        Ok(repaired)
    }

    /// Gives history a content again that it had and lost. Returns whether that was possible; it is durable then.
    pub(crate) fn repair_object(
        &self,
        size: u64,
        hash: ContentHash,
    ) -> Result<bool, ReceiverError> {
        let objects = Objects::open(&self.dataset.control)?;
        let (trash, file) = self.empty_file()?;
        let repaired = self.fill((size, hash), &file)?;
        if repaired {
            content::sync(&file)?;
            objects.put(hash, &trash, &names::REPAIRED)?;
        }
        remove(&trash, &names::REPAIRED)?;
        Ok(repaired)
    }

    /// Gives every place that should have a content that content again.
    pub(crate) fn repair_content(
        &self,
        size: u64,
        hash: ContentHash,
    ) -> Result<bool, ReceiverError> {
        let repaired = self.repair_rows(hash)?;
        // What the newest snapshot has, history finds there: only a file that it keeps all the same is mended.
        let found = findings::read(&self.dataset.control)?;
        let is_kept = found
            .contents_of(|part| part == Part::Object)
            .contains(&hash);
        let is_of_history = repaired.is_none() || is_kept;
        Ok(repaired.unwrap_or(true) && (!is_of_history || self.repair_object(size, hash)?))
    }

    /// Repairs every file of the newest snapshot that has a content; whether that was possible, `None` if there is none.
    fn repair_rows(&self, hash: ContentHash) -> Result<Option<bool>, ReceiverError> {
        let (mut repaired, mut groups) = (None, HashSet::new());
        let mut after = 0;
        let catalog = &self.library.catalog;
        while let Some((last, rows)) = catalog.some_rows_with(hash, self.at, after, BATCH)? {
            after = last;
            for row in rows {
                let group = row.entry.group;
                // All names of a file are repaired with the first.
                if group == 0 || groups.insert(group) {
                    repaired = Some(repaired.unwrap_or(true) & self.repair(&row)?);
                }
            }
        }
        Ok(repaired)
    }

    /// Whether the spare has a content whole anywhere.
    pub(crate) fn has_copy(&self, content: (u64, ContentHash)) -> Result<bool, ReceiverError> {
        let file = self.dataset.control.create_unnamed()?;
        self.fill(content, &file)
    }

    /// A file to be filled, and the directory that it is in.
    fn empty_file(&self) -> Result<(Directory, File), ReceiverError> {
        // Whatever an interruption leaves there goes with the next recovery.
        let trash = self.dataset.control.ensure_directory(&names::TRASH)?;
        for name in [&*names::REPAIRED, &*names::REPAIRED_LINK] {
            remove(&trash, name)?;
        }
        let file = trash.create_file(&names::REPAIRED)?;
        Ok((trash, file))
    }

    /// Writes a content to a file, if it is anywhere.
    fn fill(&self, (size, hash): (u64, ContentHash), to: &File) -> Result<bool, ReceiverError> {
        let is_right = || -> Result<bool, ReceiverError> {
            Ok(content::size(to)? == size && content::hash_file(to, size)? == hash)
        };
        let take = |from: &File| -> Result<bool, ReceiverError> {
            // A copy that cannot be read is none; others are tried.
            content::set_size(to, 0)?;
            let copied = content::size(from).and_then(|size| content::copy(from, to, size));
            Ok(copied.is_ok() && is_right()?)
        };
        let mut shadow = Handles::new(&self.shadow, &self.library.catalog, self.at);
        for row in self.library.catalog.rows_with(hash, self.at)? {
            let twin = shadow
                .get(row.place.parent)
                .and_then(|directory| Ok(directory.open_file(&row.place.name)?));
            if let Ok(twin) = twin
                && take(&twin)?
            {
                return Ok(true);
            }
        }
        if self.library.finder().copy_sound(hash, to, is_right)? {
            return Ok(true);
        }
        match &self.given {
            Some(given) => take(given),
            None => Ok(false),
        }
    }

    /// The places of a row's file: all names of its hard-link group.
    fn names_of(&self, row: &Row) -> Result<Vec<Place>, ReceiverError> {
        let mut places = vec![row.place.clone()];
        if row.entry.group != 0 {
            self.library.catalog.rows_at(self.at, |other| {
                if other.entry.group == row.entry.group && other.place != row.place {
                    places.push(other.place);
                }
                Ok(())
            })?;
        }
        Ok(places)
    }

    fn replace(&self, place: &Place, row: &Row, trash: &Directory) -> Result<(), ReceiverError> {
        let catalog = &self.library.catalog;
        let mut kept = None;
        for (twin, is_shadow) in [(&self.shadow, true), (&self.live, false)] {
            let mut handles = Handles::new(twin, catalog, self.at);
            let directory = handles.get(place.parent)?;
            // The names of a group must be one file.
            let may_stay = is_shadow || row.entry.group == 0;
            if may_stay && is_sound(directory, &place.name, row) {
                continue;
            }
            self.keep_written(directory, (&place.name, row), &mut kept)?;
            trash.link(&names::REPAIRED, trash, &names::REPAIRED_LINK)?;
            trash.rename(&names::REPAIRED_LINK, directory, &place.name)?;
            // Its directory has another time now.
            if let Some(parent) = catalog.directory_row(place.parent, self.at)? {
                let mut above = Handles::new(twin, catalog, self.at);
                let above = above.get(parent.place.parent)?;
                let name = &parent.place.name;
                set_attributes(above, name, &parent.entry, &self.dataset.privileges)?;
            }
            directory.sync()?;
            crash_point!("receiver.repaired-twin");
        }
        Ok(())
    }
}

/// Whether a twin has the content there: a copy of its own that is not damaged.
fn is_sound(directory: &Directory, name: &Name, row: &Row) -> bool {
    let Some((size, hash)) = row.entry.content() else {
        return false;
    };
    let Ok(file) = directory.open_file(name) else {
        return false;
    };
    content::size(&file).is_ok_and(|found| found == size)
        && content::hash_file(&file, size).is_ok_and(|found| found == hash)
}

fn remove(directory: &Directory, name: &Name) -> Result<(), ReceiverError> {
    match directory.remove_file(name) {
        Err(error) if !error.is_gone() => Err(error.into()),
        _ => Ok(()),
    }
}
