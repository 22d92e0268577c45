//! Repairing damaged files of the live tree with what the spare itself has: another name of the content, the other
//! twin's own copy, or history.
//!
//! The shadow shows the same snapshot by then, so that both twins have the same places. It is repaired first: if the
//! process dies in between, the damage in `live` is found again. Every step replaces one name, or nothing.

use understudy_protocol::{Name, Place};
use understudy_tree::attributes::{set_attributes, set_attributes_of_new};
use understudy_tree::{Directory, content, crash_point};

use crate::catalog::Row;
use crate::cycle;
use crate::dataset::{Dataset, Locked};
use crate::error::ReceiverError;
use crate::housekeeping::Stop;
use crate::library::Library;
use crate::names;
use crate::recover;
use crate::resolve::Handles;

/// What it takes to repair a dataset.
pub(crate) struct Repairer<'a> {
    dataset: &'a Dataset,
    library: Library,
    live: Directory,
    shadow: Directory,
    at: u64,
}

impl<'a> Repairer<'a> {
    /// Makes the twins equal; `None` if there is no snapshot.
    pub(crate) fn new(
        dataset: &'a Dataset,
        locked: &Locked,
    ) -> Result<Option<Self>, ReceiverError> {
        let catalog = dataset.catalog(locked)?;
        recover::recover(dataset, &catalog, locked)?;
        let Some(head) = catalog.head()? else {
            return Ok(None);
        };
        catalog.index_contents()?;
        cycle::catch_up(dataset, &catalog, locked, &Stop::default())?;
        let Some(live) = dataset.live()? else {
            return Ok(None);
        };
        Ok(Some(Self {
            dataset,
            library: Library::open(dataset)?,
            live,
            shadow: dataset.shadow()?,
            at: head.snapshot.position.number,
        }))
    }

    /// Gives the file of a row its content again, under every name that it has, in both twins. Returns whether that was
    /// possible; it is durable then.
    pub(crate) fn repair(&self, row: &Row) -> Result<bool, ReceiverError> {
        // Whatever an interruption leaves there goes with the next recovery.
        let trash = self.dataset.control.ensure_directory(&names::TRASH)?;
        for name in [&*names::REPAIRED, &*names::REPAIRED_LINK] {
            remove(&trash, name)?;
        }
        let file = trash.create_file(&names::REPAIRED)?;
        let repaired = self.fill(row, &file)?;
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

    /// Writes the content to a file, if it is anywhere.
    fn fill(&self, row: &Row, to: &std::fs::File) -> Result<bool, ReceiverError> {
        let Some((size, hash)) = row.entry.content() else {
            return Ok(false);
        };
        let is_right = || -> Result<bool, ReceiverError> {
            Ok(content::size(to)? == size && content::hash_file(to, size)? == hash)
        };
        let mut shadow = Handles::new(&self.shadow, &self.library.catalog, self.at);
        let twin = shadow
            .get(row.place.parent)
            .and_then(|directory| Ok(directory.open_file(&row.place.name)?));
        if let Ok(twin) = twin {
            // A copy that cannot be read is none; others are tried.
            let copied = content::size(&twin).and_then(|size| content::copy(&twin, to, size));
            if copied.is_ok() && is_right()? {
                return Ok(true);
            }
        }
        self.library.finder().copy_sound(hash, to, is_right)
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
        for (twin, is_shadow) in [(&self.shadow, true), (&self.live, false)] {
            let mut handles = Handles::new(twin, catalog, self.at);
            let directory = handles.get(place.parent)?;
            if is_shadow && is_sound(directory, &place.name, row) {
                continue;
            }
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
