//! The other twin: its names, and what it has of its own. What it shares with the live tree is read there.
//!
//! It shows the newest snapshot or the one before it; while a cycle changes it, it shows none, and says so by having no
//! marker. Whoever changes it removes the marker first.

use understudy_protocol::{DirectoryId, Name, Position as SnapshotPosition};
use understudy_tree::{Directory, Kind, node};

use super::ground::Ground;
use super::reading::{
    APART, Cursor, Found, Position, Reading, STEP, Subject, Tally, is_apart, is_of_disk, shown,
    without_row,
};
use crate::catalog::Row;
use crate::error::ReceiverError;
use crate::findings::{Damage, Part};
use crate::marker;
use crate::resolve::Handles;
use crate::standing::{differs, is_another};

impl Reading<'_> {
    pub(super) fn twin(
        &mut self,
        ground: &Ground,
        cursor: Cursor,
    ) -> Result<Position, ReceiverError> {
        let next = Position::Objects(None);
        // After a promotion the other one is an application's.
        if !self.dataset.is_spare()? {
            return Ok(next);
        }
        let shadow = self.dataset.shadow()?;
        // One that is being changed is made of what is read elsewhere.
        let Some(shown) = marker::read(&shadow)? else {
            return Ok(next);
        };
        let at = shown.number;
        let is_known = ground.catalog.snapshot(at)?;
        let is_known = is_known.is_some_and(|one| one.snapshot.position == shown);
        // Rows of the one before are there even if retention let it go.
        if !is_known && at + 1 != ground.at() {
            return Ok(next);
        }
        let before = self.tally;
        let mut cursor = cursor;
        for _ in 0..STEP {
            let rows = ground
                .catalog
                .rows_after(cursor.id(), cursor.after.as_ref(), at, STEP)?;
            let stopped = self.twin_rows((ground, &shadow), &shown, &rows, &before)?;
            let is_last = rows.len() < STEP;
            let end = rows.last().filter(|_| !is_last);
            if let Some(end) = stopped.or(end.map(|row| row.place.name.clone())) {
                cursor.after = Some(end);
                break;
            }
            self.twin_extras((ground, &shadow), &shown, cursor.id(), &rows)?;
            let last = cursor.directory.map(DirectoryId);
            let Some(directory) = ground.catalog.directory_after(last, at)? else {
                return Ok(next);
            };
            cursor = Cursor {
                directory: Some(directory.0),
                after: None,
            };
            if self.is_enough(&before) {
                break;
            }
        }
        Ok(Position::Twin(cursor))
    }

    /// Compares rows in a step that began with `before`; the name at which it has read enough for one.
    fn twin_rows(
        &mut self,
        (ground, shadow): (&Ground, &Directory),
        shows: &SnapshotPosition,
        rows: &[Row],
        before: &Tally,
    ) -> Result<Option<Name>, ReceiverError> {
        let mut twin = Handles::new(shadow, &ground.catalog, shows.number);
        let root = ground.live.as_ref();
        let mut live = root.map(|live| Handles::new(live, &ground.catalog, ground.at()));
        for row in rows {
            let of = (ground, shows.number);
            let looked = self.twin_row((&mut twin, live.as_mut()), row, of);
            if let Some((what, mended)) = wrong(looked)? {
                if !self.still_shows(shadow, shows)? {
                    return Ok(None);
                }
                let path = twin.paths.path(row.place.parent)?.join(&row.place.name);
                self.found.push(Found {
                    damage: Damage {
                        part: Part::Twin,
                        path: shown(&path),
                        content: row.entry.content(),
                        what,
                    },
                    subject: mended(row.clone()),
                });
            }
            if self.is_enough(before) {
                return Ok(Some(row.place.name.clone()));
            }
        }
        Ok(None)
    }

    /// A cycle that began meanwhile has reason to change what it finds there.
    fn still_shows(
        &self,
        shadow: &Directory,
        shows: &SnapshotPosition,
    ) -> Result<bool, ReceiverError> {
        let now = self.dataset.shadow()?;
        Ok(marker::read(&now)?.as_ref() == Some(shows)
            && now.stat_self()?.identity == shadow.stat_self()?.identity)
    }

    /// What a directory of the other twin has beside its rows, of which `last` were read last.
    fn twin_extras(
        &mut self,
        (ground, shadow): (&Ground, &Directory),
        shows: &SnapshotPosition,
        id: DirectoryId,
        last: &[Row],
    ) -> Result<(), ReceiverError> {
        let mut twin = Handles::new(shadow, &ground.catalog, shows.number);
        let listed = twin.get(id).and_then(|directory| Ok(directory.names()?));
        let mut found = Vec::new();
        let names = match listed {
            // It is missing from the directory that it should be in.
            Err(ReceiverError::Tree(error)) if error.is_gone() => return Ok(()),
            Err(ReceiverError::Tree(error)) if is_of_disk(&error) => {
                let what = format!("in the other tree, cannot be listed: {error}");
                found.push(Found::at(Part::Twin, &shown(&twin.paths.path(id)?), what));
                Vec::new()
            }
            names => names?,
        };
        for place in without_row(&ground.catalog, (id, shows.number), names, last)? {
            let path = twin.paths.path(id)?.join(&place.name);
            let what = "is in the other tree but not in the snapshot";
            let extra = Found::at(Part::Twin, &shown(&path), what);
            found.push(extra.about(Subject::Extra(place)));
        }
        if !found.is_empty() && self.still_shows(shadow, shows)? {
            self.found.append(&mut found);
        }
        Ok(())
    }

    /// What is wrong with what stands at the place of a row in the other twin, so far as that has it for itself. What the live
    /// tree shares with it may have got other attributes since, where that does not have the row any more.
    fn twin_row(
        &mut self,
        (twin, live): (&mut Handles<'_>, Option<&mut Handles<'_>>),
        row: &Row,
        (ground, at): (&Ground, u64),
    ) -> Result<Looked, ReceiverError> {
        let catalog = &ground.catalog;
        let name = &row.place.name;
        let directory = twin.get(row.place.parent)?.try_clone()?;
        let Some(stat) = directory.stat_if_present(name)? else {
            return Ok(
                match node::can_exist(&row.entry, &self.dataset.privileges) {
                    true => Looked::Missing,
                    false => Looked::Right,
                },
            );
        };
        if is_another(&directory, row, &stat)?.is_some() {
            return Ok(match (stat.kind, row.entry.content()) {
                (Kind::File, Some(_)) => {
                    Looked::Content("is not the file that it should be".to_owned())
                }
                _ => Looked::Name("is not what it should be".to_owned()),
            });
        }
        let apart = is_apart(&mut self.twin_groups, (catalog, at), twin, (row, &stat))?;
        let shared = live
            .and_then(|live| live.get(row.place.parent).ok())
            .and_then(|live| live.stat_if_present(name).ok().flatten());
        let apart = apart.then(|| APART.to_owned());
        if shared.is_some_and(|live| live.identity == stat.identity) {
            return Ok(apart.map_or(Looked::Right, Looked::Name));
        }
        if let Some(content) = row.entry.content() {
            self.tally.twin_files += 1;
            self.tally.twin_bytes += content.0;
            if let Some(what) = self.content_of(&directory, name, content)? {
                return Ok(Looked::Content(what));
            }
        }
        let is_of_live = row.is_valid_at(ground.at());
        let different = match is_of_live || stat.kind == Kind::Directory {
            true => differs(&self.dataset.privileges, &directory, row, &stat)?,
            false => None,
        };
        Ok(different.or(apart).map_or(Looked::Right, Looked::Name))
    }
}

/// What a look at a row in the other twin came to.
enum Looked {
    Right,
    Missing,
    /// The content is wrong.
    Content(String),
    /// Something else is.
    Name(String),
}

type Mended = fn(Row) -> Subject;

/// What is told, and what is to be mended.
fn wrong(looked: Result<Looked, ReceiverError>) -> Result<Option<(String, Mended)>, ReceiverError> {
    let in_the_other = |what: &dyn std::fmt::Display| format!("in the other tree, {what}");
    Ok(match looked {
        Err(ReceiverError::Tree(error)) if error.is_gone() => Some((missing(), Subject::Name)),
        Ok(Looked::Missing) => Some((missing(), Subject::Name)),
        Err(ReceiverError::Tree(error)) if is_of_disk(&error) => {
            let what = in_the_other(&format!("cannot be read: {error}"));
            Some((what, Subject::Content))
        }
        Ok(Looked::Content(what)) => Some((in_the_other(&what), Subject::Content)),
        Ok(Looked::Name(what)) => Some((in_the_other(&what), Subject::Name)),
        Ok(Looked::Right) => None,
        Err(error) => return Err(error),
    })
}

fn missing() -> String {
    "is missing from the other tree".to_owned()
}
