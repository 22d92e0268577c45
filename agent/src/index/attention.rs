//! Names that every cycle looks at, whatever the journal says.

use std::collections::HashMap;

use understudy_protocol::{DirectoryId, Name, Place};

use super::{Index, Reader};
use crate::error::AgentError;

/// More names than this are left to the next look at everything.
const LIMIT: usize = 10_000;

/// Why a name is looked at in every cycle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Reason {
    /// It could not be read.
    Unreadable,
    /// It never stood still while it was read.
    Unsettled,
    /// It changed once without an event: the kernel does not tell everything. This stays.
    Missed,
    /// It was gone, and stayed in one snapshot more for the sake of a database.
    Kept,
    /// It is a database, whose log may change without it.
    Sqlite,
}

/// A name that is looked at in every cycle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Attended {
    pub(crate) directory: DirectoryId,
    /// `None` for the directory itself and all that is below it.
    pub(crate) name: Option<Name>,
    pub(crate) reason: Reason,
    /// Since when, in seconds since 1970 by this host's clock; only told to people.
    pub(crate) since: i64,
}

impl Reader<'_> {
    /// Rows that prove nothing about what they describe; `None` if there are more than is worth looking at one
    /// by one.
    pub(crate) fn unproven(&self) -> Result<Option<Vec<Place>>, AgentError> {
        let sql = format!(
            "SELECT parent, name FROM entries WHERE changed IS NULL LIMIT {}",
            LIMIT + 1
        );
        let check = |error| crate::db::explain(&self.index.path, &error);
        let mut statement = self.connection.prepare_cached(&sql).map_err(check)?;
        let mut rows = statement.query([]).map_err(check)?;
        let mut places = Vec::new();
        while let Some(row) = rows.next().map_err(check)? {
            let parent: i64 = row.get(0).map_err(check)?;
            let name: Vec<u8> = row.get(1).map_err(check)?;
            places.push(Place::new(
                DirectoryId(parent as u64),
                self.index.name(&name)?,
            ));
        }
        Ok((places.len() <= LIMIT).then_some(places))
    }
}

impl Index {
    /// The names that every cycle looks at.
    pub(crate) fn attention(&self) -> Result<Vec<Attended>, AgentError> {
        let connection = self.connection();
        let mut statement = self.check(
            connection.prepare_cached("SELECT directory, name, reason, since FROM attention"),
        )?;
        let mut rows = self.check(statement.query([]))?;
        let mut attended = Vec::new();
        while let Some(row) = self.check(rows.next())? {
            let read = || {
                Ok((
                    row.get::<_, i64>(0)?,
                    row.get::<_, Vec<u8>>(1)?,
                    row.get(2)?,
                    row.get(3)?,
                ))
            };
            let (directory, name, reason, since): (i64, Vec<u8>, i64, i64) = self.check(read())?;
            let name = if name.is_empty() {
                None
            } else {
                Some(self.name(&name)?)
            };
            attended.push(Attended {
                directory: DirectoryId(directory as u64),
                name,
                reason: reason_from(reason),
                since,
            });
        }
        Ok(attended)
    }

    /// Whether the pending state has the entry that a name is about.
    pub(crate) fn is_there(&self, attended: &Attended) -> Result<bool, AgentError> {
        match &attended.name {
            Some(name) => {
                let place = Place::new(attended.directory, name.clone());
                Ok(self.pending_at(&place)?.is_some())
            }
            None => Ok(self.pending_path(attended.directory)?.is_some()),
        }
    }

    /// Makes `wanted` the names that every cycle looks at; those that were among them keep their `since`. Returns
    /// whether anything changed.
    pub(crate) fn attend(&self, wanted: Vec<Attended>) -> Result<bool, AgentError> {
        let key = |one: &Attended| (one.directory, one.name.clone());
        let mut before: HashMap<_, _> = self
            .attention()?
            .into_iter()
            .map(|one| (key(&one), one))
            .collect();
        let mut is_changed = false;
        let connection = self.connection();
        let mut put = self.check(
            connection.prepare_cached("INSERT OR REPLACE INTO attention VALUES (?1, ?2, ?3, ?4)"),
        )?;
        let mut others = 0;
        for one in wanted {
            // Databases are looked at however many they are.
            others += usize::from(one.reason != Reason::Sqlite);
            if one.reason != Reason::Sqlite && others > LIMIT {
                continue;
            }
            let former = before.remove(&key(&one));
            let since = former.as_ref().map_or(one.since, |former| former.since);
            if former.is_some_and(|former| former.reason == one.reason) {
                continue;
            }
            is_changed = true;
            let name = one.name.as_ref().map_or(&b""[..], Name::as_bytes);
            self.check(put.execute((
                one.directory.0 as i64,
                name,
                reason_number(one.reason),
                since,
            )))?;
        }
        let mut remove = self.check(
            connection.prepare_cached("DELETE FROM attention WHERE directory = ?1 AND name = ?2"),
        )?;
        for one in before.into_values() {
            is_changed = true;
            let name = one.name.as_ref().map_or(&b""[..], Name::as_bytes);
            self.check(remove.execute((one.directory.0 as i64, name)))?;
        }
        Ok(is_changed)
    }
}

fn reason_number(reason: Reason) -> i64 {
    match reason {
        Reason::Unreadable => 1,
        Reason::Unsettled => 2,
        Reason::Missed => 3,
        Reason::Kept => 4,
        Reason::Sqlite => 5,
    }
}

fn reason_from(number: i64) -> Reason {
    match number {
        1 => Reason::Unreadable,
        2 => Reason::Unsettled,
        4 => Reason::Kept,
        5 => Reason::Sqlite,
        _ => Reason::Missed,
    }
}
