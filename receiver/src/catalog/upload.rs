//! Writing the rows of the next snapshot, and proving that they make sense before they become the intent.

use std::collections::HashSet;

use rusqlite::{OptionalExtension, params};
use understudy_protocol::{DirectoryId, Entry, Fingerprint, Node, Place, StateDigest, limits};

use super::prove::Siblings;
use super::read::DIRECTORY;
use super::used::ROW;
use super::{Catalog, Recorded, Telling, count};
use crate::error::ReceiverError;
use crate::names;
use crate::quota::Used;

/// `kind` of a file row.
pub(super) const FILE: i64 = 0;

/// Further names of files that wait for the first one at once.
const SIBLINGS: usize = 1 << 16;
/// Even out of order no more can be waiting: messages overtake one another by a few at most.
const SIBLINGS_MOST: usize = 1 << 20;

/// Where the inode of a put entry comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Origin {
    /// Staged under the row's own number, or a directory.
    Own,
    /// The inode of this older row.
    Kept(u64),
    /// The inode of the entry put at this place in the same upload.
    Sibling(Place),
}

/// Where something was put, for the proof at the end.
#[derive(Debug, Default)]
pub(super) struct Placed {
    pub(super) parents: HashSet<DirectoryId>,
    /// Directories that were put, where there is a base.
    pub(super) directories: HashSet<DirectoryId>,
    /// There were too many to remember: the rows tell.
    pub(super) is_forgotten: bool,
}

/// So many are remembered; an entry takes about 16 bytes.
const PLACED: usize = 1 << 20;

impl Placed {
    fn bound(&mut self) {
        if self.is_forgotten || self.parents.len() + self.directories.len() > PLACED {
            *self = Self {
                is_forgotten: true,
                ..Self::default()
            };
        }
    }
}

/// What becomes of an intent once it is sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It is applied, now or by recovery.
    Applied,
    /// It waits for somebody's word, and is never applied without.
    Held,
    /// The live tree is what it says already, and only the marker is missing: without that it is dropped.
    Absorbed,
}

impl Fate {
    /// As it is written of a snapshot that is not committed.
    fn code(self) -> i64 {
        match self {
            Self::Applied => 0,
            Self::Held => 2,
            Self::Absorbed => 3,
        }
    }
}

/// One entry to put.
#[derive(Debug)]
pub(crate) struct Put {
    pub(crate) id: u64,
    pub(crate) place: Place,
    pub(crate) entry: Entry,
    pub(crate) origin: Origin,
}

/// An upload in flight: one open transaction, of which nothing remains if the process dies.
pub(crate) struct Upload<'a> {
    pub(super) catalog: &'a Catalog,
    pub(super) number: u64,
    base: Option<Recorded>,
    pub(super) first_entry: u64,
    digest: StateDigest,
    entries: u64,
    bytes: u64,
    pub(super) siblings: Vec<(u64, Place, u64)>,
    /// So many may wait before those are resolved that can be.
    siblings_allowed: usize,
    pub(super) ended_directories: Vec<DirectoryId>,
    pub(super) placed: Placed,
    pub(super) kept: u64,
    pub(super) brings: Used,
    /// What rows take, and statements, in bytes.
    pub(super) row_bytes: u64,
    pub(super) said_bytes: u64,
    /// Rows that ended.
    pub(super) ended: u64,
}

impl Catalog {
    /// Starts writing the next snapshot. An intent that waits is dropped by this only if another one is sealed.
    pub(crate) fn upload(&self) -> Result<Upload<'_>, ReceiverError> {
        let (base, waiting) = (self.head()?, self.pending()?);
        let number = base
            .as_ref()
            .map_or(0, |base| base.snapshot.position.number);
        let digest = self.digest(number)?;
        self.run(|connection| connection.execute_batch("BEGIN IMMEDIATE"))?;
        let last = self.run(|connection| {
            let sql = "SELECT coalesce(max(id), 0) FROM entry";
            connection.query_row(sql, [], |row| count(row, 0))
        })?;
        let upload = Upload {
            catalog: self,
            number: number + 1,
            entries: base.as_ref().map_or(0, |base| base.snapshot.entries),
            bytes: base.as_ref().map_or(0, |base| base.snapshot.bytes),
            base,
            first_entry: last + 1,
            digest,
            siblings: Vec::new(),
            siblings_allowed: SIBLINGS,
            ended_directories: Vec::new(),
            placed: Placed::default(),
            kept: 0,
            brings: Used::default(),
            row_bytes: 0,
            said_bytes: 0,
            ended: 0,
        };
        if let Some(waiting) = waiting {
            self.undo(&waiting)?;
        }
        Ok(upload)
    }
}

impl Drop for Upload<'_> {
    fn drop(&mut self) {
        // After a seal there is no open transaction and this does nothing.
        self.catalog.abandon();
    }
}

impl Upload<'_> {
    /// The number the next snapshot will have.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// Gives the first snapshot of a dataset a number that is at least this one.
    pub(crate) fn begin_at(&mut self, number: u64) {
        if self.base.is_none() {
            self.number = self.number.max(number);
        }
    }

    /// The fingerprint of the state that the changes so far lead to, as far as their digests were given.
    pub(crate) fn fingerprint(&self) -> Fingerprint {
        self.digest.fingerprint()
    }

    /// The snapshot this one starts from.
    pub(crate) fn base(&self) -> Option<&Recorded> {
        self.base.as_ref()
    }

    /// Row numbers from here on belong to this upload.
    pub(crate) fn first_entry(&self) -> u64 {
        self.first_entry
    }

    /// Entries after the changes so far.
    pub(crate) fn entries(&self) -> u64 {
        self.entries
    }

    /// Adds the digests of entries that were put; workers compute them.
    pub(crate) fn add_digest(&mut self, digest: &StateDigest) {
        self.digest.merge(digest);
    }

    /// Puts an entry. Its digest must be given to [`Self::add_digest`].
    pub(crate) fn put(&mut self, put: &Put) -> Result<(), ReceiverError> {
        check_root(&put.place, &put.entry)?;
        if self.base.is_some() {
            self.end_row_at(&put.place)?;
            if let Some(id) = put.entry.directory_id() {
                self.end_directory(id)?;
                self.placed.directories.insert(id);
            }
        }
        self.placed.parents.insert(put.place.parent);
        self.placed.bound();
        self.insert(put)?;
        if self.siblings.len() >= self.siblings_allowed {
            self.resolve_siblings(Siblings::SoFar)?;
            // Messages overtake one another a little; who names first what comes last makes this look ever less often.
            self.siblings_allowed = SIBLINGS.max(2 * self.siblings.len());
        }
        if self.siblings.len() > SIBLINGS_MOST {
            return Err(ReceiverError::Misbehaved(
                "too many names are linked to files that have not come".to_owned(),
            ));
        }
        if self.entries >= limits::ENTRIES {
            return Err(ReceiverError::Quota(format!(
                "a snapshot may have {} entries, and this one has more: nothing was changed",
                limits::ENTRIES
            )));
        }
        let size = put.entry.size_bytes();
        self.entries += 1;
        self.bytes = self.bytes.checked_add(size).ok_or_else(|| {
            ReceiverError::Misbehaved(format!(
                "the sizes of all files up to {:?} are more than can be counted",
                put.place
            ))
        })?;
        self.brings.files += 1;
        if put.origin == Origin::Own {
            self.brings.bytes = self.brings.bytes.saturating_add(size);
        }
        Ok(())
    }

    /// Removes what stands at `place`.
    pub(crate) fn remove(&mut self, place: &Place) -> Result<(), ReceiverError> {
        if place.parent == DirectoryId::TOP && place.name != *names::DATABASES {
            return Err(ReceiverError::Misbehaved(
                "the root of the files cannot be removed".to_owned(),
            ));
        }
        if self.end_row_at(place)? {
            return Ok(());
        }
        // It may have been ended already because it moved; otherwise the agent believes in another base.
        let ended = self.catalog.row(place, self.number - 1)?.is_some();
        if ended {
            Ok(())
        } else {
            Err(ReceiverError::OutOfStep(format!(
                "the spare has nothing to remove at {place:?}"
            )))
        }
    }

    /// Draws the conclusions of the change set: after this [`Self::entries`] is what the snapshot will have.
    pub(crate) fn settle(&mut self) -> Result<(), ReceiverError> {
        self.resolve_siblings(Siblings::All)?;
        self.end_orphans()
    }

    /// Proves the settled change set and makes it the intent. Durable when it returns.
    pub(crate) fn seal(
        &mut self,
        mut pending: Recorded,
        telling: Telling,
        fate: Fate,
    ) -> Result<Recorded, ReceiverError> {
        self.check_parents()?;
        self.check_kept()?;
        self.settle_fuzzy(telling)?;
        if self.digest.fingerprint() != pending.snapshot.position.fingerprint {
            return Err(ReceiverError::OutOfStep(format!(
                "the change set does not lead to the state that the agent computed (its digest is {}, the spare's {})",
                pending.snapshot.position.fingerprint,
                self.digest.fingerprint()
            )));
        }
        (pending.snapshot.entries, pending.snapshot.bytes) = (self.entries, self.bytes);
        pending.first_entry = self.first_entry;
        let (snapshot, position) = (&pending.snapshot, &pending.snapshot.position);
        self.catalog.run(|connection| {
            let sql = "INSERT INTO snapshot VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)";
            connection.execute(
                sql,
                params![
                    position.number as i64,
                    position.epoch as i64,
                    position.fingerprint.0,
                    self.digest.to_bytes(),
                    snapshot.committed_seconds,
                    pending.as_of_seconds,
                    snapshot.entries as i64,
                    snapshot.bytes as i64,
                    self.first_entry as i64,
                    fate.code(),
                ],
            )?;
            self.note_used()?;
            connection.execute_batch("COMMIT")
        })?;
        Ok(pending)
    }

    fn insert(&mut self, put: &Put) -> Result<(), ReceiverError> {
        let origin = match &put.origin {
            Origin::Own => put.id,
            Origin::Kept(row) => {
                self.kept += 1;
                *row
            }
            Origin::Sibling(first) => {
                self.siblings.push((put.id, first.clone(), put.entry.group));
                0
            }
        };
        let encoded = postcard::to_stdvec(&put.entry).map_err(|error| {
            ReceiverError::Misbehaved(format!("an entry cannot be stored: {error}"))
        })?;
        let name = put.place.name.as_bytes();
        self.row_bytes += ROW + (name.len() + encoded.len()) as u64;
        let inserted = self.catalog.connection.prepare_cached(
            "INSERT INTO entry (id, parent, name, since, kind, directory, hash_key, link_group, origin, entry) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
        );
        let inserted = inserted.and_then(|mut statement| {
            statement.execute(params![
                put.id as i64,
                put.place.parent.0 as i64,
                name,
                self.number as i64,
                kind_number(&put.entry.node),
                put.entry.directory_id().map(|id| id.0 as i64),
                put.entry.content().map(|(_, hash)| hash.key()),
                put.entry.group as i64,
                origin as i64,
                encoded,
            ])
        });
        match inserted {
            Ok(_) => Ok(()),
            Err(error)
                if error.sqlite_error_code() == Some(rusqlite::ErrorCode::ConstraintViolation) =>
            {
                Err(ReceiverError::Misbehaved(format!(
                    "{:?} was put twice",
                    put.place
                )))
            }
            Err(error) => Err(Catalog::failed(&self.catalog.path, error)),
        }
    }

    /// Ends the row at a place, if one from before stands there.
    pub(super) fn end_row_at(&mut self, place: &Place) -> Result<bool, ReceiverError> {
        let sql = "SELECT id, entry FROM entry WHERE parent = ?1 AND name = ?2 AND until IS NULL AND since < ?3 \
                   ORDER BY since DESC LIMIT 1";
        self.end_first(
            sql,
            params![
                place.parent.0 as i64,
                place.name.as_bytes(),
                self.number as i64
            ],
            Some(place),
        )
    }

    /// Ends the row of a directory that is put elsewhere.
    fn end_directory(&mut self, id: DirectoryId) -> Result<bool, ReceiverError> {
        let sql =
            "SELECT id, entry FROM entry WHERE directory = ?1 AND until IS NULL AND since < ?2";
        self.end_first(sql, params![id.0 as i64, self.number as i64], None)
    }

    fn end_first(
        &mut self,
        sql: &str,
        parameters: impl rusqlite::Params,
        place: Option<&Place>,
    ) -> Result<bool, ReceiverError> {
        let found: Option<i64> = self.catalog.run(|connection| {
            connection
                .prepare_cached(sql)?
                .query_row(parameters, |row| row.get(0))
                .optional()
        })?;
        let Some(id) = found else { return Ok(false) };
        let row = self.catalog.row_by_id(id as u64)?;
        let row = row.ok_or_else(|| {
            ReceiverError::Damaged(format!("entry {id} vanished from the catalog"))
        })?;
        debug_assert!(place.is_none_or(|place| *place == row.place));
        self.catalog.run(|connection| {
            let mut statement =
                connection.prepare_cached("UPDATE entry SET until = ?2 WHERE id = ?1")?;
            statement.execute(params![id, self.number as i64]).map(drop)
        })?;
        self.ended += 1;
        self.digest.remove(&row.place, &row.entry);
        self.entries = self.entries.checked_sub(1).ok_or_else(|| {
            let number = self.number - 1;
            ReceiverError::Damaged(format!(
                "snapshot {number} has more entries than the catalog says"
            ))
        })?;
        self.bytes = self.bytes.saturating_sub(row.entry.size_bytes());
        self.ended_directories.extend(row.entry.directory_id());
        Ok(true)
    }
}

/// Only the two roots stand at the top.
fn check_root(place: &Place, entry: &Entry) -> Result<(), ReceiverError> {
    let is_top = place.parent == DirectoryId::TOP;
    let is_root = *place.name.as_bytes() == *b"files"
        && entry.directory_id() == Some(DirectoryId::FILES)
        || is_top
            && *place.name.as_bytes() == *b"databases"
            && entry
                .directory_id()
                .is_some_and(|id| id != DirectoryId::FILES);
    let is_reserved = matches!(entry.directory_id(), Some(DirectoryId::TOP))
        || entry.directory_id() == Some(DirectoryId::FILES) && !is_top;
    if is_top != is_root || is_reserved {
        return Err(ReceiverError::Misbehaved(format!(
            "{place:?} cannot be put there"
        )));
    }
    if entry.group != 0 && entry.directory_id().is_some() {
        return Err(ReceiverError::Misbehaved(format!(
            "the directory {place:?} cannot have hard links"
        )));
    }
    Ok(())
}

pub(super) fn kind_number(node: &Node) -> i64 {
    match node {
        Node::File { .. } => FILE,
        Node::Directory { .. } => DIRECTORY,
        Node::Symlink { .. } => 2,
        Node::Fifo => 3,
        Node::CharacterDevice { .. } => 4,
        Node::BlockDevice { .. } => 5,
    }
}
