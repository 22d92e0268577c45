//! What a settled upload does to the files of its base, as the guards see it.

use rusqlite::params;
use understudy_protocol::{DirectoryId, Entry, Place};

use super::Catalog;
use super::read::place_from;
use crate::error::ReceiverError;

/// A file of an earlier snapshot that one which is being uploaded does not have as it was.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) place: Place,
    /// What stood there.
    pub(crate) former: Entry,
    /// What stands there then: the number of its row, and what it is.
    pub(crate) now: Option<(u64, Entry)>,
}

/// A file that an upload puts.
#[derive(Debug)]
pub(crate) struct Added {
    pub(crate) id: u64,
    pub(crate) place: Place,
    pub(crate) entry: Entry,
    /// Whether its content was staged under its own number.
    pub(crate) is_staged: bool,
}

impl Catalog {
    /// Calls `visit` for each file of snapshot `from` that `number`, which is being uploaded, does not have at its place as it was.
    pub(crate) fn files_ended(
        &self,
        (from, number): (u64, u64),
        visit: impl FnMut(Ended) -> Result<(), ReceiverError>,
    ) -> Result<(), ReceiverError> {
        let sql = "SELECT former.parent, former.name, former.entry, now.id, now.entry FROM entry AS former \
                   LEFT JOIN entry AS now ON now.parent = former.parent AND now.name = former.name \
                   AND now.since > ?2 AND now.since <= ?1 AND (now.until IS NULL OR now.until > ?1) \
                   WHERE former.until > ?2 AND former.until <= ?1 AND former.since <= ?2 AND former.kind = 0";
        let read = |row: &rusqlite::Row<'_>| {
            let now = match row.get::<_, Option<i64>>(3)? {
                Some(id) => Some((id as u64, decoded(row, 4)?)),
                None => None,
            };
            Ok(Ended {
                place: place_from(row, 0)?,
                former: decoded(row, 2)?,
                now,
            })
        };
        self.each(sql, params![number as i64, from as i64], read, visit)
    }

    /// Calls `visit` for each file row that begins with snapshot `number`, whose rows begin at `first_entry`.
    pub(crate) fn files_put(
        &self,
        number: u64,
        first_entry: u64,
        visit: impl FnMut(Added) -> Result<(), ReceiverError>,
    ) -> Result<(), ReceiverError> {
        let sql = "SELECT id, parent, name, entry, origin FROM entry WHERE id >= ?2 AND since = ?1 AND kind = 0";
        self.each(
            sql,
            params![number as i64, first_entry as i64],
            added_from,
            visit,
        )
    }

    /// The first file rows that begin with snapshot `number` in a directory, with a name from `first` on and before `end`.
    pub(crate) fn files_put_between(
        &self,
        (number, parent): (u64, DirectoryId),
        (first, end): (&[u8], &[u8]),
        most: usize,
    ) -> Result<Vec<Added>, ReceiverError> {
        let sql = "SELECT id, parent, name, entry, origin FROM entry \
                   WHERE parent = ?1 AND name >= ?2 AND name < ?3 AND since = ?4 AND kind = 0 ORDER BY name LIMIT ?5";
        let parent = parent.0 as i64;
        let mut found = Vec::new();
        self.each(
            sql,
            params![parent, first, end, number as i64, most as i64],
            added_from,
            |added| {
                found.push(added);
                Ok(())
            },
        )?;
        Ok(found)
    }

    /// Calls `visit` with the directory and the size of each file of snapshot `at`, which may be one that is being uploaded on.
    pub(crate) fn files_of(
        &self,
        at: u64,
        mut visit: impl FnMut(DirectoryId, u64) -> Result<(), ReceiverError>,
    ) -> Result<(), ReceiverError> {
        let sql = "SELECT parent, entry FROM entry WHERE kind = 0 AND since <= ?1 AND (until IS NULL OR until > ?1)";
        let read = |row: &rusqlite::Row<'_>| {
            let parent = DirectoryId(row.get::<_, i64>(0)? as u64);
            Ok((parent, decoded(row, 1)?.size_bytes()))
        };
        self.each(sql, params![at as i64], read, |(parent, size)| {
            visit(parent, size)
        })
    }
}

fn added_from(row: &rusqlite::Row<'_>) -> rusqlite::Result<Added> {
    let id: i64 = row.get(0)?;
    Ok(Added {
        id: id as u64,
        place: place_from(row, 1)?,
        entry: decoded(row, 3)?,
        is_staged: row.get::<_, i64>(4)? == id,
    })
}

fn decoded(row: &rusqlite::Row<'_>, column: usize) -> rusqlite::Result<Entry> {
    let encoded = row.get_ref(column)?.as_blob()?;
    postcard::from_bytes(encoded).map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(
            column,
            rusqlite::types::Type::Blob,
            Box::new(error),
        )
    })
}
