//! The other twin: what it has of its own. What it shares with the live tree is read there.
//!
//! It shows the newest snapshot or the one before it; while a cycle changes it, it shows none, and says so by having no
//! marker. Whoever changes it removes the marker first.

use understudy_protocol::{ContentHash, DirectoryId, Name, Position as SnapshotPosition};
use understudy_tree::{Directory, Kind};

use super::ground::Ground;
use super::reading::{Cursor, Position, Reading, STEP, Tally, is_of_disk, shown};
use crate::catalog::Row;
use crate::error::ReceiverError;
use crate::findings::{Damage, Part};
use crate::marker;
use crate::resolve::Handles;
use crate::verify::reading::Found;

impl Reading<'_> {
    pub(super) fn twin(
        &mut self,
        ground: &Ground,
        cursor: Cursor,
    ) -> Result<Position, ReceiverError> {
        let next = Position::Objects(None);
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
            let Some(content) = row.entry.content() else {
                continue;
            };
            if let Some(what) = self.twin_row(&mut twin, live.as_mut(), row, content)? {
                // A cycle that began meanwhile has reason to change what it finds there.
                let now = self.dataset.shadow()?;
                if marker::read(&now)?.as_ref() != Some(shows)
                    || now.stat_self()?.identity != shadow.stat_self()?.identity
                {
                    return Ok(None);
                }
                let path = twin.paths.path(row.place.parent)?.join(&row.place.name);
                self.found.push(Found {
                    damage: Damage {
                        part: Part::Twin,
                        path: shown(&path),
                        content: Some(content),
                        what,
                    },
                    row: Some(row.clone()),
                });
            }
            if self.is_enough(before) {
                return Ok(Some(row.place.name.clone()));
            }
        }
        Ok(None)
    }

    /// What is wrong with the file of a row in the other twin, if that has one of its own.
    fn twin_row(
        &mut self,
        twin: &mut Handles<'_>,
        live: Option<&mut Handles<'_>>,
        row: &Row,
        (size, hash): (u64, ContentHash),
    ) -> Result<Option<String>, ReceiverError> {
        let name = &row.place.name;
        let looked = twin
            .get(row.place.parent)
            .and_then(|directory| Ok((directory.try_clone()?, directory.stat_if_present(name)?)));
        let (directory, stat) = match looked {
            Err(ReceiverError::Tree(error)) if error.is_gone() => return Ok(missing()),
            Err(ReceiverError::Tree(error)) if is_of_disk(&error) => {
                return Ok(Some(format!("in the other tree, cannot be read: {error}")));
            }
            Err(error) => return Err(error),
            Ok((_, None)) => return Ok(missing()),
            Ok((directory, Some(stat))) => (directory, stat),
        };
        if stat.kind != Kind::File || stat.size != size {
            return Ok(Some(
                "is not the file that it should be in the other tree".to_owned(),
            ));
        }
        let shared = live
            .and_then(|live| live.get(row.place.parent).ok())
            .and_then(|live| live.stat_if_present(name).ok().flatten());
        if shared.is_some_and(|live| live.identity == stat.identity) {
            return Ok(None);
        }
        self.tally.twin_files += 1;
        self.tally.twin_bytes += size;
        let found = self.content_of(&directory, name, (size, hash))?;
        Ok(found.map(|what| format!("in the other tree, {what}")))
    }
}

fn missing() -> Option<String> {
    Some("is missing from the other tree".to_owned())
}
