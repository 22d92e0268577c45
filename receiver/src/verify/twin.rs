//! The other twin: what it has of its own. What it shares with the live tree is read there.
//!
//! It shows the newest snapshot or the one before it; while a cycle changes it, it shows none, and says so by having no
//! marker. Whoever changes it removes the marker first.

use understudy_protocol::{DirectoryId, Position as SnapshotPosition};
use understudy_tree::{Directory, Kind};

use super::ground::Ground;
use super::reading::{Cursor, Position, Reading, STEP, shown};
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
            self.twin_rows(ground, &shadow, &shown, &rows)?;
            if rows.len() == STEP {
                cursor.after = rows.last().map(|row| row.place.name.clone());
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

    fn twin_rows(
        &mut self,
        ground: &Ground,
        shadow: &Directory,
        shows: &SnapshotPosition,
        rows: &[Row],
    ) -> Result<(), ReceiverError> {
        let mut twin = Handles::new(shadow, &ground.catalog, shows.number);
        let root = ground.live.as_ref();
        let mut live = root.map(|live| Handles::new(live, &ground.catalog, ground.at()));
        for row in rows {
            let Some((size, hash)) = row.entry.content() else {
                continue;
            };
            let name = &row.place.name;
            let looked = twin.get(row.place.parent).and_then(|directory| {
                Ok((directory.try_clone()?, directory.stat_if_present(name)?))
            });
            let what = match looked {
                Err(ReceiverError::Tree(error)) if error.is_gone() => missing(),
                Err(error) => return Err(error),
                Ok((_, None)) => missing(),
                Ok((_, Some(stat))) if stat.kind != Kind::File || stat.size != size => {
                    Some("is not the file that it should be in the other tree".to_owned())
                }
                Ok((directory, Some(stat))) => {
                    let shared = live
                        .as_mut()
                        .and_then(|live| live.get(row.place.parent).ok())
                        .and_then(|live| live.stat_if_present(name).ok().flatten());
                    if shared.is_some_and(|live| live.identity == stat.identity) {
                        None
                    } else {
                        self.tally.twin_files += 1;
                        self.tally.twin_bytes += size;
                        let found = self.content_of(&directory, name, (size, hash))?;
                        found.map(|what| format!("in the other tree, {what}"))
                    }
                }
            };
            // A cycle that began meanwhile has reason to change what it finds there.
            let Some(what) = what else { continue };
            let now = self.dataset.shadow()?;
            if marker::read(&now)?.as_ref() != Some(shows)
                || now.stat_self()?.identity != shadow.stat_self()?.identity
            {
                return Ok(());
            }
            let path = twin.paths.path(row.place.parent)?.join(name);
            self.found.push(Found {
                damage: Damage {
                    part: Part::Twin,
                    path: shown(&path),
                    content: Some((size, hash)),
                    what,
                },
                row: Some(row.clone()),
            });
        }
        Ok(())
    }
}

fn missing() -> Option<String> {
    Some("is missing from the other tree".to_owned())
}
