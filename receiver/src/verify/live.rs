//! The live tree against the newest snapshot: the names of a directory and its rows in lock step.

use std::collections::HashSet;

use understudy_protocol::{ContentHash, DirectoryId, Entry, Name, Node, RelPath};
use understudy_tree::attributes::{is_within_reach, to_make};
use understudy_tree::{Directory, Kind, Stat, node};

use super::ground::Ground;
use super::reading::{Cursor, Found, Position, Reading, STEP, Tally, is_of_disk, shown};
use crate::catalog::Row;
use crate::error::ReceiverError;
use crate::findings::{Damage, Part};
use crate::names;
use crate::resolve::Handles;

/// Seconds since 1970 that every file system with more than 32 bits for them can hold (ext4: 1901 to 2446). A main may say others; what
/// becomes of those on the disk is no damage.
const LASTING: std::ops::RangeInclusive<i64> = -(1 << 31)..=(1 << 34) - (1 << 31) - 1;

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
                self.found.push(Found::at(Part::Live, &shown(&path), what));
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
        let is_ours = |name: &Name| {
            after.as_ref().is_none_or(|after| name > after)
                && (is_last || end.as_ref().is_some_and(|end| name <= end))
        };
        let mut names = self.listed(ground, handles.get(id)?, &path)?;
        names.retain(is_ours);
        let known: HashSet<&Name> = rows.iter().map(|row| &row.place.name).collect();
        names.retain(|name| !known.contains(name));
        names.sort_unstable();
        for name in names {
            self.extra(ground, id, &path, &name)?;
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
        id: DirectoryId,
        path: &RelPath,
        name: &Name,
    ) -> Result<(), ReceiverError> {
        let is_marker = id == DirectoryId::TOP && *name == *names::SNAPSHOT;
        // What a commit brought, or took away, is looked at by the next pass.
        if is_marker || !ground.stands(self.dataset)? {
            return Ok(());
        }
        let what = "is in the live tree but not in the snapshot";
        let path = shown(&path.join(name));
        self.found.push(Found::at(Part::Live, &path, what));
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
        self.found.push(Found {
            damage,
            row: is_content.then_some(row),
        });
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
        let different = self.differs(directory, row, &stat)?;
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
        let apart = self.is_apart(ground, handles, row, &stat)?;
        let what = different
            .or(apart.then(|| "is not hard-linked to the other names of its group".to_owned()));
        Ok(what.map(|what| Suspicion {
            what,
            aspect: Aspect::Other,
        }))
    }

    /// Whether a name of a hard-link group has another inode than the first one seen.
    fn is_apart(
        &mut self,
        ground: &Ground,
        handles: &mut Handles<'_>,
        row: &Row,
        stat: &Stat,
    ) -> Result<bool, ReceiverError> {
        if row.entry.group == 0 {
            return Ok(false);
        }
        let own = (row.place.clone(), row.id);
        let first = self.groups.entry(row.entry.group).or_insert(own.clone());
        if *first == own {
            return Ok(false);
        }
        let place = first.0.clone();
        let now = ground.catalog.row(&place, ground.at())?;
        if now.is_none_or(|now| now.entry.group != row.entry.group) {
            *first = own;
            return Ok(false);
        }
        let first = handles
            .get(place.parent)
            .and_then(|directory| Ok(directory.stat_if_present(&place.name)?));
        Ok(first?.is_some_and(|first| first.identity.inode != stat.identity.inode))
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

    /// What is different in kind, size or metadata, if anything.
    fn differs(
        &self,
        directory: &Directory,
        row: &Row,
        stat: &Stat,
    ) -> Result<Option<String>, ReceiverError> {
        let entry = &row.entry;
        if !same_kind(entry, stat.kind) {
            return Ok(Some(format!("is not a {} any more", entry.kind())));
        }
        if let Some((size, _)) = entry.content()
            && size != stat.size
        {
            return Ok(Some(format!("has {} bytes instead of {size}", stat.size)));
        }
        if let Node::Symlink { target } = &entry.node
            && directory.read_link(&row.place.name)? != target.0
        {
            return Ok(Some("points elsewhere".to_owned()));
        }
        let found = node::read_attributes(directory, &row.place.name, stat)?;
        let privileges = &self.dataset.privileges;
        let wanted = to_make(entry, privileges);
        let mut differing = Vec::new();
        if found.modified != wanted.modified && LASTING.contains(&wanted.modified.seconds) {
            differing.push("modification time");
        }
        // What could not be set for lack of privileges is recorded only, and no damage.
        let mode_matters = privileges.override_permissions;
        let differs = mode_matters && found.mode != wanted.mode
            || found.mode & 0o777 & !wanted.mode & !0o500 != 0;
        // Nobody can set that of a symbolic link.
        if differs && !matches!(entry.node, Node::Symlink { .. }) {
            differing.push("mode");
        }
        if privileges.chown && (found.uid, found.gid) != (wanted.uid, wanted.gid) {
            differing.push("owner");
        }
        let within_reach = found
            .xattrs
            .iter()
            .filter(|xattr| is_within_reach(xattr, privileges));
        if privileges.chown && !within_reach.eq(&wanted.xattrs) {
            differing.push("extended attributes");
        }
        Ok((!differing.is_empty()).then(|| format!("differs in {}", differing.join(", "))))
    }
}

/// What it is about if what a row is about is not there.
fn absent(row: &Row) -> Aspect {
    match row.entry.content() {
        Some(_) => Aspect::Missing,
        None => Aspect::Other,
    }
}

/// Whether what stands there is what the entry says.
pub(super) fn same_kind(entry: &Entry, kind: Kind) -> bool {
    match entry.node {
        Node::Directory { .. } => kind == Kind::Directory,
        Node::File { .. } => kind == Kind::File,
        Node::Symlink { .. } => kind == Kind::Symlink,
        Node::Fifo => kind == Kind::Fifo,
        Node::CharacterDevice { .. } => kind == Kind::CharacterDevice,
        Node::BlockDevice { .. } => kind == Kind::BlockDevice,
    }
}
