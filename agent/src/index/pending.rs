//! Reading and changing the pending state, the transaction that is open during a cycle.

use rusqlite::{Connection, ErrorCode, OptionalExtension};
use understudy_protocol::{DirectoryId, Entry, Name, Place, RelPath, StateDigest};
use understudy_tree::Identity;

use super::Index;
use super::row::{Known, SEEN_COLUMNS, Seen, folded};
use crate::error::AgentError;
use crate::manifest;

/// One row to write.
#[derive(Debug, Clone)]
pub(crate) struct Update {
    /// Where.
    pub(crate) place: Place,
    /// The entry.
    pub(crate) entry: Entry,
    /// What the file system says now; `None` if it has to be looked at again.
    pub(crate) seen: Option<Seen>,
}

impl Index {
    /// Writes rows.
    pub(crate) fn apply(&self, updates: &[Update]) -> Result<(), AgentError> {
        let connection = self.connection();
        updates
            .iter()
            .try_for_each(|update| self.write(&connection, "entries", update))
    }

    pub(super) fn write(
        &self,
        connection: &Connection,
        table: &str,
        update: &Update,
    ) -> Result<(), AgentError> {
        let sql = match table {
            "entries" => concat!(
                "INSERT OR REPLACE INTO entries (parent, name, directory, kind, inode, born, size, modified, ",
                "changed, hash, entry) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)"
            ),
            _ => concat!(
                "INSERT INTO adopted (parent, name, directory, kind, inode, born, size, modified, ",
                "changed, hash, entry) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)"
            ),
        };
        let Update { place, entry, seen } = update;
        // Empty files are never copied from one another.
        let hash = entry
            .content()
            .filter(|(size, _)| *size > 0)
            .map(|(_, hash)| hash.key());
        let encoded = self.encode(entry)?;
        let mut statement = self.check(connection.prepare_cached(sql))?;
        let written = statement.execute((
            place.parent.0 as i64,
            place.name.as_bytes(),
            entry.directory_id().map(|id| id.0 as i64),
            seen.map(|seen| seen.kind),
            seen.map(|seen| seen.inode),
            seen.and_then(|seen| seen.born),
            seen.map(|seen| seen.size),
            seen.map(|seen| seen.modified),
            seen.and_then(|seen| seen.changed),
            hash,
            encoded,
        ));
        // Sums of many equal entries may be those of none: no digest would tell.
        let code = written
            .as_ref()
            .err()
            .and_then(rusqlite::Error::sqlite_error_code);
        if code == Some(ErrorCode::ConstraintViolation) {
            return Err(manifest::malformed(&format!(
                "{place:?} stands there twice"
            )));
        }
        self.check(written).map(drop)
    }

    /// Removes the row at a place; returns its entry.
    pub(crate) fn delete(
        &self,
        place: &Place,
        digest: &mut StateDigest,
    ) -> Result<Option<Entry>, AgentError> {
        let Some(known) = self.pending_at(place)? else {
            return Ok(None);
        };
        self.remember_former(&known.entry)?;
        let connection = self.connection();
        let sql = "DELETE FROM entries WHERE parent = ?1 AND name = ?2";
        let mut statement = self.check(connection.prepare_cached(sql))?;
        self.check(statement.execute((place.parent.0 as i64, place.name.as_bytes())))?;
        let sql = "DELETE FROM signatures WHERE parent = ?1 AND name = ?2";
        let mut statement = self.check(connection.prepare_cached(sql))?;
        self.check(statement.execute((place.parent.0 as i64, place.name.as_bytes())))?;
        digest.remove(place, &known.entry);
        Ok(Some(known.entry))
    }

    /// Removes everything below a directory, but not what is below a directory that `is_elsewhere`; returns how
    /// many rows went that stand nowhere else.
    pub(crate) fn delete_below(
        &self,
        directory: DirectoryId,
        digest: &mut StateDigest,
        is_elsewhere: impl Fn(DirectoryId) -> bool,
    ) -> Result<u64, AgentError> {
        let mut gone = 0;
        let mut directories = vec![directory];
        while let Some(directory) = directories.pop() {
            for (place, known) in self.pending_children(directory)? {
                digest.remove(&place, &known.entry);
                self.remember_former(&known.entry)?;
                match known.entry.directory_id() {
                    Some(id) if is_elsewhere(id) => continue,
                    Some(id) => directories.push(id),
                    None => {}
                }
                gone += 1;
            }
            let connection = self.connection();
            for sql in [
                "DELETE FROM entries WHERE parent = ?1",
                "DELETE FROM signatures WHERE parent = ?1",
            ] {
                self.check(connection.execute(sql, [directory.0 as i64]))?;
            }
        }
        Ok(gone)
    }

    /// The pending row at a place.
    pub(crate) fn pending_at(&self, place: &Place) -> Result<Option<Known>, AgentError> {
        let sql = format!(
            "SELECT parent, name, entry, {SEEN_COLUMNS} FROM entries WHERE parent = ?1 AND name = ?2"
        );
        let found = self.select(
            &self.connection(),
            &sql,
            (place.parent.0 as i64, place.name.as_bytes()),
        )?;
        Ok(found.into_iter().next().map(|(_, known)| known))
    }

    /// The pending rows of a directory.
    pub(crate) fn pending_children(
        &self,
        directory: DirectoryId,
    ) -> Result<Vec<(Place, Known)>, AgentError> {
        let sql =
            format!("SELECT parent, name, entry, {SEEN_COLUMNS} FROM entries WHERE parent = ?1");
        self.select(&self.connection(), &sql, [directory.0 as i64])
    }

    /// Pending rows with this inode.
    pub(crate) fn pending_with_identity(
        &self,
        identity: Identity,
    ) -> Result<Vec<(Place, Known)>, AgentError> {
        let sql = format!(
            "SELECT parent, name, entry, {SEEN_COLUMNS} FROM entries WHERE inode = ?1 AND born IS ?2"
        );
        self.select(
            &self.connection(),
            &sql,
            (identity.inode as i64, identity.born.map(folded)),
        )
    }

    /// Where a directory stands in the pending state, and its row.
    pub(crate) fn pending_directory(
        &self,
        directory: DirectoryId,
    ) -> Result<Option<(Place, Known)>, AgentError> {
        let sql =
            format!("SELECT parent, name, entry, {SEEN_COLUMNS} FROM entries WHERE directory = ?1");
        let found = self.select(&self.connection(), &sql, [directory.0 as i64])?;
        Ok(found.into_iter().next())
    }

    /// The pending path of a directory below the root of the files; `None` if it is not in the tree.
    pub(crate) fn pending_path(
        &self,
        directory: DirectoryId,
    ) -> Result<Option<RelPath>, AgentError> {
        let mut names: Vec<Name> = Vec::new();
        let mut directory = directory;
        let connection = self.connection();
        while directory != DirectoryId::FILES {
            let sql = "SELECT parent, name FROM entries WHERE directory = ?1";
            let mut statement = self.check(connection.prepare_cached(sql))?;
            let found =
                statement.query_row([directory.0 as i64], |row| Ok((row.get(0)?, row.get(1)?)));
            let Some((parent, name)) = self.check(found.optional())? else {
                return Ok(None);
            };
            let (parent, name): (i64, Vec<u8>) = (parent, name);
            names.push(self.name(&name)?);
            if names.len() > understudy_protocol::limits::DEPTH {
                return Err(self.damaged(&"directories hold one another"));
            }
            directory = DirectoryId(parent as u64);
        }
        Ok(Some(
            names
                .iter()
                .rev()
                .fold(RelPath::root(), |path, name| path.join(name)),
        ))
    }

    /// Forgets all inodes: after the file system was made anew they mean nothing. Content decides then.
    pub(crate) fn forget_inodes(&self) -> Result<(), AgentError> {
        let sql = "UPDATE entries SET kind = NULL, inode = NULL, born = NULL, size = NULL, modified = NULL, changed = NULL";
        self.check(self.connection().execute(sql, [])).map(drop)
    }

    /// Removes all rows.
    pub(crate) fn clear(&self) -> Result<(), AgentError> {
        self.check(self.connection().execute_batch(
            "DROP INDEX IF EXISTS by_inode; DROP INDEX IF EXISTS by_hash; DROP INDEX IF EXISTS by_directory;
             DROP INDEX IF EXISTS unproven; DELETE FROM attention; DELETE FROM fuzzy; DELETE FROM signatures;
             DELETE FROM history; DELETE FROM entries; DELETE FROM meta WHERE key = 'position';",
        ))
    }
}
