//! What the spare holds back: the pending state of a cycle that a guard holds, kept beside the index as the difference to the
//! base. Once it is released nothing has to be asked of the spare or read again.

use std::collections::BTreeSet;
use std::path::PathBuf;

use rusqlite::types::Value;
use rusqlite::{Connection, OpenFlags, Rows, params_from_iter};
use serde::{Deserialize, Serialize};
use understudy_protocol::{DirectoryId, Fingerprint, Place, Position, StateDigest};

use super::{Index, Meta};
use crate::db;
use crate::error::AgentError;

/// Tables of which the difference is kept, and how many columns they have. The first two are the place.
const TABLES: [(&str, usize); 2] = [("entries", 11), ("signatures", 4)];

const FRESH: &str = "
    DROP TABLE IF EXISTS about; DROP TABLE IF EXISTS gone;
    DROP TABLE IF EXISTS put_entries; DROP TABLE IF EXISTS put_signatures;
    CREATE TABLE about (value BLOB NOT NULL);
    CREATE TABLE gone (kind INTEGER NOT NULL, parent INTEGER NOT NULL, name BLOB NOT NULL);
    CREATE TABLE put_entries (
        parent INTEGER NOT NULL, name BLOB NOT NULL, directory INTEGER,
        kind INTEGER, inode INTEGER, born INTEGER, size INTEGER, modified INTEGER, changed INTEGER,
        hash INTEGER, entry BLOB NOT NULL);
    CREATE TABLE put_signatures (parent INTEGER NOT NULL, name BLOB NOT NULL, hash INTEGER NOT NULL, signature BLOB NOT NULL);
";

/// What is known of it beside the rows.
#[derive(Debug, Serialize, Deserialize)]
struct About {
    base: Position,
    fingerprint: Fingerprint,
    digest: Vec<u8>,
    weight: u64,
    next_directory: u64,
    fuzzy: Vec<Place>,
}

/// A row as it is in the database.
type Cells = Vec<Value>;

impl Index {
    /// Remembers the pending state, which is `digest` and starts from `base`. The pending state stays what it is.
    pub(crate) fn remember_shipped(
        &self,
        base: Position,
        meta: &Meta,
        fuzzy: &BTreeSet<Place>,
    ) -> Result<(), AgentError> {
        let held = db::connect(&self.shipped_path())?;
        let about = About {
            base,
            fingerprint: meta.digest.fingerprint(),
            digest: meta.digest.to_bytes(),
            weight: meta.digest.weight(),
            next_directory: meta.next_directory,
            fuzzy: fuzzy.iter().cloned().collect(),
        };
        self.check(held.execute_batch(&format!("BEGIN IMMEDIATE; {FRESH}")))?;
        let value = self.encode(&about)?;
        self.check(held.execute("INSERT INTO about VALUES (?1)", [value]))?;
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let base = self.check(db::open(&self.path, flags))?;
        for (kind, table) in TABLES.iter().enumerate() {
            self.keep_difference(&base, &held, kind, *table)?;
        }
        self.check(held.execute_batch("COMMIT"))
    }

    /// Writes down how a table of the pending state differs from that of the base: both in the order of the places.
    fn keep_difference(
        &self,
        base: &Connection,
        held: &Connection,
        kind: usize,
        (table, columns): (&str, usize),
    ) -> Result<(), AgentError> {
        let sql = format!("SELECT * FROM {table} ORDER BY parent, name");
        let pending = self.connection();
        let mut ours = self.check(pending.prepare(&sql))?;
        let mut theirs = self.check(base.prepare(&sql))?;
        let (mut ours, mut theirs) = (self.check(ours.query([]))?, self.check(theirs.query([]))?);
        let put = format!(
            "INSERT INTO put_{table} VALUES ({})",
            vec!["?"; columns].join(", ")
        );
        let mut put = self.check(held.prepare(&put))?;
        let mut gone = self.check(held.prepare("INSERT INTO gone VALUES (?, ?, ?)"))?;
        let next = |rows: &mut Rows<'_>| self.check(next_cells(rows, columns));
        let (mut new, mut old) = (next(&mut ours)?, next(&mut theirs)?);
        loop {
            let order = match (&new, &old) {
                (None, None) => return Ok(()),
                (Some(_), None) => std::cmp::Ordering::Less,
                (None, Some(_)) => std::cmp::Ordering::Greater,
                (Some(new), Some(old)) => key(new).cmp(&key(old)),
            };
            if order.is_le() && (order.is_lt() || new != old) {
                self.check(put.execute(params_from_iter(new.iter().flatten())))?;
            }
            if order.is_gt() {
                let place = old.iter().flatten().take(2).cloned();
                let cells = std::iter::once(Value::Integer(kind as i64)).chain(place);
                self.check(gone.execute(params_from_iter(cells)))?;
            }
            if order.is_le() {
                new = next(&mut ours)?;
            }
            if order.is_ge() {
                old = next(&mut theirs)?;
            }
        }
    }

    /// Makes what was remembered the base, if that is what the spare has at `position` now; returns its description.
    pub(crate) fn adopt_shipped(
        &self,
        former: &Meta,
        position: Position,
    ) -> Result<Option<Meta>, AgentError> {
        let path = self.shipped_path();
        if !path.exists() {
            return Ok(None);
        }
        let adopted = self.take_shipped(former, position);
        let adopted = adopted.inspect_err(|error| {
            tracing::warn!("cannot use what was remembered of a held cycle: {error}");
        });
        self.roll_back()?;
        self.forget_shipped();
        Ok(adopted.ok().flatten())
    }

    fn take_shipped(&self, former: &Meta, position: Position) -> Result<Option<Meta>, AgentError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let held = self.check(db::open(&self.shipped_path(), flags))?;
        let value: Vec<u8> =
            self.check(held.query_row("SELECT value FROM about", [], |row| row.get(0)))?;
        let about: About = postcard::from_bytes(&value).map_err(|error| self.damaged(&error))?;
        let digest =
            StateDigest::from_bytes(&about.digest).map(|digest| digest.weighing(about.weight));
        let is_it = former.position == Some(about.base)
            && position.fingerprint == about.fingerprint
            && Some(position.number) == about.base.number.checked_add(1);
        let Some(digest) =
            digest.filter(|digest| is_it && digest.fingerprint() == about.fingerprint)
        else {
            return Ok(None);
        };
        self.begin()?;
        let mut rows = self.check(held.prepare("SELECT parent, name FROM gone WHERE kind = ?1"))?;
        for (kind, (table, columns)) in TABLES.into_iter().enumerate() {
            let sql = format!("DELETE FROM {table} WHERE parent = ? AND name = ?");
            let mut rows = self.check(rows.query([kind as i64]))?;
            self.take_rows(&mut rows, (kind, 2), &sql)?;
            let sql = format!(
                "INSERT OR REPLACE INTO {table} VALUES ({})",
                vec!["?"; columns].join(", ")
            );
            let mut rows = self.check(held.prepare(&format!("SELECT * FROM put_{table}")))?;
            let mut rows = self.check(rows.query([]))?;
            self.take_rows(&mut rows, (kind, columns), &sql)?;
        }
        let meta = Meta {
            position: Some(position),
            digest,
            next_directory: about.next_directory,
            root: former.root,
        };
        self.set_fuzzy(&about.fuzzy.into_iter().collect())?;
        self.commit(&meta)?;
        Ok(Some(meta))
    }

    /// Does with each row what `sql` says; what stood at its place is history from now on.
    fn take_rows(
        &self,
        rows: &mut Rows<'_>,
        (kind, columns): (usize, usize),
        sql: &str,
    ) -> Result<(), AgentError> {
        while let Some(cells) = self.check(next_cells(rows, columns))? {
            if let ([Value::Integer(parent), Value::Blob(name), ..], 0) = (&cells[..], kind) {
                let place = Place::new(DirectoryId(*parent as u64), self.name(name)?);
                if let Some(known) = self.pending_at(&place)? {
                    self.remember_former(&known.entry)?;
                }
            }
            let connection = self.connection();
            let mut statement = self.check(connection.prepare_cached(sql))?;
            self.check(statement.execute(params_from_iter(cells)))?;
        }
        Ok(())
    }

    /// Forgets it: the spare holds nothing of this index any more.
    pub(crate) fn forget_shipped(&self) {
        let path = self.shipped_path();
        if let Err(error) = db::remove(&path) {
            tracing::warn!("cannot remove `{}`: {error}", path.display());
        }
    }

    fn shipped_path(&self) -> PathBuf {
        self.path.with_extension("held")
    }
}

fn next_cells(rows: &mut Rows<'_>, columns: usize) -> rusqlite::Result<Option<Cells>> {
    let row = rows.next()?;
    row.map(|row| (0..columns).map(|column| row.get(column)).collect())
        .transpose()
}

/// The place of a row, ordered as SQLite orders it.
fn key(cells: &[Value]) -> (i64, &[u8]) {
    match cells {
        [Value::Integer(parent), Value::Blob(name), ..] => (*parent, name),
        _ => (i64::MIN, &[]),
    }
}
