//! The live tree against the newest snapshot: the names of a directory and its rows in lock step.

use understudy_protocol::{ContentHash, DirectoryId, Name, Place, RelPath};
use understudy_tree::{Directory, Kind, node};

use super::ground::Ground;
use super::reading::{
    APART, Cursor, Found, Position, Reading, STEP, Subject, Tally, is_apart, is_of_disk, shown,
    without_row,
};
use crate::catalog::Row;

use crate::error::ReceiverError;
use crate::findings::{Damage, Part};
use crate::resolve::Handles;
use crate::standing::differs;

/// How often something is looked at again because a commit came in between.
const TRIES: u32 = 100;

/// What looks wrong with one entry.
struct Suspicion {
    what: String,
    aspect: Aspect,
}

/// What it is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Aspect {
    /// The content of this inode.
    Content(u64),
    /// A file that is not there, or that nobody can look at.
    Missing,
    /// Anything else.
    Other,
}

impl Reading<'_> {
    pub(super) fn live(
        &mut self,
        ground: &Ground,
        cursor: Cursor,
    ) -> Result<Position, ReceiverError> {
        let Some(live) = &ground.live else {
            return Ok(Position::Twin(Cursor::default()));
        };
        let before = self.tally;
        let mut cursor = cursor;
        for _ in 0..STEP {
            let is_done = self.live_directory((ground, live), &mut cursor, &before)?;
            if is_done {
                let next = ground
                    .catalog
                    .directory_after(cursor.directory.map(DirectoryId), ground.at())?;
                let Some(next) = next else {
                    return Ok(Position::Twin(Cursor::default()));
                };
                cursor = Cursor {
                    directory: Some(next.0),
                    after: None,
                };
            }
            if !is_done || self.is_enough(&before) {
                break;
            }
        }
        Ok(Position::Live(cursor))
    }

    /// Compares a part of a directory in a step that began with `before`; whether that was the last one.
    fn live_directory(
        &mut self,
        (ground, live): (&Ground, &Directory),
        cursor: &mut Cursor,
        before: &Tally,
    ) -> Result<bool, ReceiverError> {
        let (id, at) = (cursor.id(), ground.at());
        let mut handles = Handles::new(live, &ground.catalog, at);
        let opened = handles.get(id).map(drop);
        let path = handles.paths.path(id);
        let (path, opened) = match (path, opened) {
            (Ok(path), opened) => (path, opened),
            // Gone since the cursor came here.
            (Err(ReceiverError::Damaged(_)), _)
                if ground.catalog.directory_row(id, at)?.is_none() =>
            {
                return Ok(true);
            }
            (Err(error), _) => return Err(error),
        };
        if let Err(error) = opened {
            if ground.stands(self.dataset)? {
                let what = format!("cannot be opened: {error}");
                let row = ground.catalog.directory_row(id, at)?;
                let subject = row.map_or(Subject::Other, Subject::Name);
                let found = Found::at(Part::Live, &shown(&path), what).about(subject);
                self.found.push(found);
            }
            return Ok(true);
        }
        let after = cursor.after.take();
        let rows = ground.catalog.rows_after(id, after.as_ref(), at, STEP)?;
        let mut is_last = rows.len() < STEP;
        let mut end = None;
        for (number, row) in rows.iter().enumerate() {
            self.live_row(ground, &mut handles, row)?;
            end = Some(row.place.name.clone());
            if self.is_enough(before) && number + 1 < rows.len() {
                is_last = false;
                break;
            }
        }
        if is_last {
            let names = self.listed(ground, handles.get(id)?, &path)?;
            for place in without_row(&ground.catalog, (id, at), names, &rows)? {
                self.extra(ground, &path, place)?;
            }
        }
        cursor.after = end;
        Ok(is_last)
    }

    /// The names in a directory; none if it cannot be listed.
    fn listed(
        &mut self,
        ground: &Ground,
        directory: &Directory,
        path: &RelPath,
    ) -> Result<Vec<Name>, ReceiverError> {
        match directory.names() {
            Err(error) if is_of_disk(&error) => {
                if ground.stands(self.dataset)? {
                    let what = format!("cannot be listed: {error}");
                    self.found.push(Found::at(Part::Live, &shown(path), what));
                }
                Ok(Vec::new())
            }
            names => Ok(names?),
        }
    }

    fn extra(
        &mut self,
        ground: &Ground,
        path: &RelPath,
        place: Place,
    ) -> Result<(), ReceiverError> {
        // What a commit brought, or took away, is looked at by the next pass.
        if !ground.stands(self.dataset)? {
            return Ok(());
        }
        let what = "is in the live tree but not in the snapshot";
        let found = Found::at(Part::Live, &shown(&path.join(&place.name)), what);
        self.found.push(found.about(Subject::Extra(place)));
        Ok(())
    }

    fn live_row(
        &mut self,
        ground: &Ground,
        handles: &mut Handles<'_>,
        row: &Row,
    ) -> Result<(), ReceiverError> {
        self.tally.entries += 1;
        let Some(mut suspicion) = self.look(ground, handles, row, Aspect::Other)? else {
            return Ok(());
        };
        for _ in 0..TRIES {
            let Some(again) = Ground::open(self.dataset)? else {
                return Ok(());
            };
            let (at, live) = (again.at(), again.live.as_ref());
            let now = again.catalog.row(&row.place, at)?;
            let (Some(now), Some(live)) = (now.filter(|now| now.id == row.id), live) else {
                return Ok(());
            };
            let mut handles = Handles::new(live, &again.catalog, at);
            let Some(still) = self.look(&again, &mut handles, &now, suspicion.aspect)? else {
                return Ok(());
            };
            // A content that belongs to a row stays what it is as long as the row does.
            let is_same_file =
                matches!(still.aspect, Aspect::Content(_)) && still.aspect == suspicion.aspect;
            suspicion = still;
            if is_same_file || again.stands(self.dataset)? {
                let path = handles.paths.path(now.place.parent)?.join(&now.place.name);
                self.suspect(suspicion, &shown(&path), now);
                return Ok(());
            }
        }
        Ok(())
    }

    fn suspect(&mut self, suspicion: Suspicion, path: &RelPath, row: Row) {
        let content = row.entry.content();
        let is_content = suspicion.aspect != Aspect::Other;
        let damage = Damage {
            part: Part::Live,
            path: path.clone(),
            content: content.filter(|_| is_content),
            what: suspicion.what,
        };
        let subject = match suspicion.aspect {
            Aspect::Content(_) => Subject::Content(row),
            Aspect::Missing | Aspect::Other => Subject::Name(row),
        };
        self.found.push(Found { damage, subject });
    }

    /// As `compare`; what goes while it is looked at is missing.
    fn look(
        &mut self,
        ground: &Ground,
        handles: &mut Handles<'_>,
        row: &Row,
        read: Aspect,
    ) -> Result<Option<Suspicion>, ReceiverError> {
        match self.compare(ground, handles, row, read) {
            Err(ReceiverError::Tree(error)) if error.is_gone() => Ok(self.missing(row)),
            Err(ReceiverError::Tree(error)) if is_of_disk(&error) => Ok(Some(Suspicion {
                what: format!("cannot be read: {error}"),
                aspect: absent(row),
            })),
            compared => compared,
        }
    }

    fn missing(&self, row: &Row) -> Option<Suspicion> {
        let missing = Suspicion {
            what: "is missing from the live tree".to_owned(),
            aspect: absent(row),
        };
        node::can_exist(&row.entry, &self.dataset.privileges).then_some(missing)
    }

    /// What is wrong with an entry of the live tree. A file that was read, and did not have its content, is not read again.
    fn compare(
        &mut self,
        ground: &Ground,
        handles: &mut Handles<'_>,
        row: &Row,
        read: Aspect,
    ) -> Result<Option<Suspicion>, ReceiverError> {
        let name = &row.place.name;
        let directory = handles.get(row.place.parent)?;
        let Some(stat) = directory.stat_if_present(name)? else {
            return Ok(self.missing(row));
        };
        let different = differs(&self.dataset.privileges, directory, row, &stat)?;
        let damage = match row.entry.content() {
            Some((size, _)) if stat.kind == Kind::File && stat.size != size => different.clone(),
            Some(content) if stat.kind == Kind::File => {
                if read == Aspect::Content(stat.identity.inode) {
                    Some("its content is not what the main sent (hash differs)".to_owned())
                } else {
                    let directory = directory.try_clone()?;
                    self.damage_of(&directory, name, content)?
                }
            }
            _ => None,
        };
        if let Some(what) = damage {
            return Ok(Some(Suspicion {
                what,
                aspect: Aspect::Content(stat.identity.inode),
            }));
        }
        let of = (&ground.catalog, ground.at());
        let apart = is_apart(&mut self.groups, of, handles, (row, &stat))?;
        let what = different.or(apart.then(|| APART.to_owned()));
        Ok(what.map(|what| Suspicion {
            what,
            aspect: Aspect::Other,
        }))
    }

    /// Reads a file of the right size; what is wrong with its content, if anything.
    fn damage_of(
        &mut self,
        directory: &Directory,
        name: &Name,
        (size, hash): (u64, ContentHash),
    ) -> Result<Option<String>, ReceiverError> {
        self.tally.files += 1;
        self.tally.bytes += size;
        self.content_of(directory, name, (size, hash))
    }
}

/// What it is about if what a row is about is not there.
fn absent(row: &Row) -> Aspect {
    match row.entry.content() {
        Some(_) => Aspect::Missing,
        None => Aspect::Other,
    }
}
