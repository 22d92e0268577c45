//! Files that may be mixtures of several states, as ranges of snapshots.
//!
//! The agent tells all fuzzy places of each snapshot; a range goes on as long as a place is told again. What is told
//! for the next snapshot waits as ranges of their own until the upload is sealed.

use rusqlite::params;
use understudy_protocol::{Place, limits, version};

use super::read::{VALID_AT, place_from};
use super::upload::Upload;
use super::used::SMALL_ROW;
use super::{Catalog, count};
use crate::error::ReceiverError;

/// Whether an agent tells which files are fuzzy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Telling {
    /// All of them, with each snapshot.
    All,
    /// It does not know how to: a file stays fuzzy until another stands at its place.
    None,
}

impl Telling {
    /// In a session of this version of the protocol.
    pub(crate) fn of(spoken: u32) -> Self {
        if spoken >= version::FUZZY {
            Self::All
        } else {
            Self::None
        }
    }
}

/// A place whose file is fuzzy in the snapshots `since <= N < until`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FuzzyRange {
    pub(crate) place: Place,
    pub(crate) since: u64,
    pub(crate) until: Option<u64>,
}

/// A range that goes on after the snapshot before ?1.
const IS_OPEN: &str = "since < ?1 AND until IS NULL";

impl Catalog {
    /// Some of the fuzzy places of snapshot `at`: those after `after`. Empty once nothing comes.
    pub(crate) fn fuzzy_at(
        &self,
        at: u64,
        after: Option<&FuzzyRange>,
    ) -> Result<Vec<FuzzyRange>, ReceiverError> {
        self.fuzzy_ranges(VALID_AT, at, after)
    }

    /// Calls `visit` with the fuzzy places of snapshot `at`, as many at a time as a message may have.
    pub(crate) fn fuzzy_places(
        &self,
        at: u64,
        mut visit: impl FnMut(Vec<Place>) -> Result<(), ReceiverError>,
    ) -> Result<(), ReceiverError> {
        let mut after = None;
        loop {
            let ranges = self.fuzzy_at(at, after.as_ref())?;
            let Some(last) = ranges.last() else {
                return Ok(());
            };
            after = Some(last.clone());
            visit(ranges.into_iter().map(|range| range.place).collect())?;
        }
    }

    /// As [`Self::fuzzy_at`], of all snapshots up to `to`.
    pub(crate) fn fuzzy_up_to(
        &self,
        to: u64,
        after: Option<&FuzzyRange>,
    ) -> Result<Vec<FuzzyRange>, ReceiverError> {
        self.fuzzy_ranges("since <= ?1", to, after)
    }

    fn fuzzy_ranges(
        &self,
        which: &str,
        at: u64,
        after: Option<&FuzzyRange>,
    ) -> Result<Vec<FuzzyRange>, ReceiverError> {
        if self.format < super::FORMAT_FUZZY {
            return Ok(Vec::new());
        }
        // Numbers of directories may look negative here; nothing comes before all of them but this.
        let (parent, name, since) = match after {
            None => (i64::MIN, &[][..], i64::MIN),
            Some(range) => {
                let name = range.place.name.as_bytes();
                (range.place.parent.0 as i64, name, range.since as i64)
            }
        };
        self.run(|connection| {
            let sql = format!(
                "SELECT parent, name, since, until FROM fuzzy WHERE {which} AND (parent, name, since) > (?2, ?3, ?4) \
                 ORDER BY parent, name, since LIMIT {}",
                limits::BATCH_RECORDS
            );
            let range = |row: &rusqlite::Row<'_>| {
                let until: Option<i64> = row.get(3)?;
                Ok(FuzzyRange {
                    place: place_from(row, 0)?,
                    since: count(row, 2)?,
                    until: until.map(|until| until as u64),
                })
            };
            let mut statement = connection.prepare_cached(&sql)?;
            let bounds = params![at as i64, parent, name, since];
            statement.query_map(bounds, range)?.collect()
        })
    }
}

impl Upload<'_> {
    /// Notes that the file at this place of the next snapshot is fuzzy.
    pub(crate) fn tell_fuzzy(&mut self, place: &Place) -> Result<(), ReceiverError> {
        let inserted = self
            .catalog
            .connection
            .prepare_cached("INSERT INTO fuzzy (parent, name, since) VALUES (?1, ?2, ?3)");
        let inserted = inserted.and_then(|mut statement| {
            let (parent, number) = (place.parent.0 as i64, self.number as i64);
            statement.execute(params![parent, place.name.as_bytes(), number])
        });
        match inserted {
            Ok(_) => {
                // One that goes on has its row already.
                if !self.goes_on(place)? {
                    self.row_bytes += SMALL_ROW + place.name.as_bytes().len() as u64;
                }
                Ok(())
            }
            Err(error)
                if error.sqlite_error_code() == Some(rusqlite::ErrorCode::ConstraintViolation) =>
            {
                Err(ReceiverError::Misbehaved(format!(
                    "{place:?} was told to be fuzzy twice"
                )))
            }
            Err(error) => Err(Catalog::failed(&self.catalog.path, error)),
        }
    }

    fn goes_on(&self, place: &Place) -> Result<bool, ReceiverError> {
        self.catalog.run(|connection| {
            let sql = format!(
                "SELECT EXISTS (SELECT 1 FROM fuzzy WHERE parent = ?2 AND name = ?3 AND {IS_OPEN})"
            );
            let (number, parent) = (self.number as i64, place.parent.0 as i64);
            let of = params![number, parent, place.name.as_bytes()];
            connection
                .prepare_cached(&sql)?
                .query_row(of, |row| row.get(0))
        })
    }

    /// Ends the ranges of places that are fuzzy no more, and goes on with those that still are. Every entry must be
    /// in its place by now.
    pub(super) fn settle_fuzzy(&self, telling: Telling) -> Result<(), ReceiverError> {
        match telling {
            Telling::All => {
                self.check_fuzzy()?;
                self.change_fuzzy(&format!(
                    "UPDATE fuzzy SET until = ?1 WHERE {IS_OPEN} AND NOT EXISTS (SELECT 1 FROM fuzzy AS told \
                     WHERE told.parent = fuzzy.parent AND told.name = fuzzy.name AND told.since = ?1)"
                ))?;
                self.change_fuzzy(&format!(
                    "DELETE FROM fuzzy WHERE since = ?1 AND (parent, name) IN (SELECT parent, name FROM fuzzy \
                     WHERE {IS_OPEN})"
                ))
            }
            Telling::None => self.change_fuzzy(&format!(
                "UPDATE fuzzy SET until = ?1 WHERE {IS_OPEN} AND NOT EXISTS (SELECT 1 FROM entry \
                 WHERE entry.parent = fuzzy.parent AND entry.name = fuzzy.name AND entry.since < ?1 \
                 AND entry.until IS NULL)"
            )),
        }
    }

    fn change_fuzzy(&self, sql: &str) -> Result<(), ReceiverError> {
        self.catalog.run(|connection| {
            let mut statement = connection.prepare_cached(sql)?;
            statement.execute([self.number as i64]).map(drop)
        })
    }

    /// Only files of the snapshot can be fuzzy.
    fn check_fuzzy(&self) -> Result<(), ReceiverError> {
        let stray: Option<Place> = self.catalog.run(|connection| {
            use rusqlite::OptionalExtension;
            let sql = "SELECT parent, name FROM fuzzy WHERE since = ?1 AND NOT EXISTS (SELECT 1 FROM entry \
                       WHERE entry.parent = fuzzy.parent AND entry.name = fuzzy.name AND entry.kind = ?2 \
                       AND entry.until IS NULL) LIMIT 1";
            let mut statement = connection.prepare_cached(sql)?;
            let of = params![self.number as i64, super::upload::FILE];
            statement.query_row(of, |row| place_from(row, 0)).optional()
        })?;
        match stray {
            None => Ok(()),
            Some(place) => Err(ReceiverError::Misbehaved(format!(
                "{place:?} was told to be fuzzy, and is no file of the snapshot"
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use rusqlite::Connection;
    use understudy_protocol::{
        Attributes, ContentHash, DirectoryId, Entry, Name, Node, Position, Snapshot, StateDigest,
        Timestamp,
    };

    use super::*;
    use crate::catalog::{Fate, Origin, Put, Recorded};

    fn place(name: &str) -> Place {
        Place::new(DirectoryId::FILES, Name::new(name).expect("name"))
    }

    fn entry(node: Node) -> Entry {
        let attributes = Attributes {
            mode: 0,
            uid: 0,
            gid: 0,
            modified: Timestamp {
                seconds: 0,
                nanoseconds: 0,
            },
            xattrs: Vec::new(),
        };
        Entry {
            attributes,
            node,
            group: 0,
        }
    }

    /// Seals a snapshot of the root and the files `a` and `b`, of which `fuzzy` are fuzzy.
    fn seal(catalog: &Catalog, fuzzy: &[&str]) -> Recorded {
        let mut upload = catalog.upload().expect("upload");
        let file = |text: &str| {
            entry(Node::File {
                size: text.len() as u64,
                hash: ContentHash::of(text.as_bytes()),
            })
        };
        let root = Place::new(DirectoryId::TOP, Name::new("files").expect("name"));
        let id = DirectoryId::FILES;
        let entries = [
            (root, entry(Node::Directory { id })),
            (place("a"), file("a")),
            (place("b"), file("b")),
        ];
        let mut digest = StateDigest::empty();
        for (number, (place, entry)) in entries.into_iter().enumerate() {
            digest.add(&place, &entry);
            let put = Put {
                id: upload.first_entry() + number as u64,
                place,
                entry,
                origin: Origin::Own,
            };
            upload.put(&put).expect("put");
        }
        upload.add_digest(&digest);
        for name in fuzzy {
            upload.tell_fuzzy(&place(name)).expect("tell");
        }
        upload.settle().expect("settle");
        let position = Position {
            epoch: 1,
            number: upload.number(),
            fingerprint: digest.fingerprint(),
        };
        let pending = Recorded {
            snapshot: Snapshot {
                position,
                committed_seconds: 0,
                entries: 0,
                bytes: 0,
            },
            as_of_seconds: 0,
            first_entry: 0,
        };
        upload
            .seal(pending, Telling::All, Fate::Applied)
            .expect("seal")
    }

    fn range(name: &str, since: u64, until: Option<u64>) -> FuzzyRange {
        FuzzyRange {
            place: place(name),
            since,
            until,
        }
    }

    #[test]
    fn an_intent_that_is_dropped_leaves_ranges_as_they_were() {
        let scratch = tempfile::tempdir().expect("tempdir");
        let catalog = Catalog::open(&scratch.path().join("catalog.db")).expect("open");
        let first = seal(&catalog, &["a"]);
        catalog.record(&first).expect("record");
        let second = seal(&catalog, &["b"]);
        assert_eq!(
            catalog.fuzzy_at(1, None).expect("ranges"),
            [range("a", 1, Some(2))]
        );
        catalog.roll_back(&second).expect("roll back");
        let ranges = catalog.fuzzy_up_to(2, None).expect("ranges");
        assert_eq!(ranges, [range("a", 1, None)]);
        // An upload that is cut leaves nothing either.
        let mut cut = catalog.upload().expect("upload");
        cut.tell_fuzzy(&place("b")).expect("tell");
        drop(cut);
        let second = seal(&catalog, &["a", "b"]);
        catalog.record(&second).expect("record");
        let ranges = catalog.fuzzy_up_to(2, None).expect("ranges");
        assert_eq!(ranges, [range("a", 1, None), range("b", 2, None)]);
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "plays an older version")]
    fn a_catalog_of_the_first_format_is_read_as_it_is_and_upgraded_by_who_writes() {
        let scratch = tempfile::tempdir().expect("tempdir");
        let path = scratch.path().join("catalog.db");
        let older = Connection::open(&path).expect("open");
        let made = older.execute_batch(&format!(
            "BEGIN; {} PRAGMA user_version = 1; COMMIT;",
            super::super::ENTRIES
        ));
        made.expect("make");
        drop(older);
        let reading = Catalog::open_reading(&path).expect("open");
        assert_eq!(reading.fuzzy_up_to(1, None).expect("ranges"), []);
        drop(reading);
        let catalog = Catalog::open(&path).expect("open");
        let first = seal(&catalog, &["a"]);
        catalog.record(&first).expect("record");
        let reading = Catalog::open_reading(&path).expect("open");
        assert_eq!(
            reading.fuzzy_at(1, None).expect("ranges"),
            [range("a", 1, None)]
        );
    }
}
