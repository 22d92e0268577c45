//! Making the index equal to a snapshot of the spare, keeping what was seen of entries that are the same.

use std::collections::BTreeSet;

use understudy_protocol::{Entry, Place, Snapshot, StateDigest};

use super::{Index, Meta, Update};
use crate::error::AgentError;
use crate::manifest;

/// An index that is being rebuilt from a manifest, beside the old one.
#[derive(Debug)]
pub(crate) struct Adoption<'a> {
    index: &'a Index,
    digest: StateDigest,
    next_directory: u64,
    fuzzy: BTreeSet<Place>,
}

impl<'a> Adoption<'a> {
    /// Opens the transaction.
    pub(crate) fn begin(index: &'a Index, former: &Meta) -> Result<Self, AgentError> {
        index.check(index.connection().execute_batch(
            "BEGIN IMMEDIATE;
             CREATE TABLE adopted (
                parent INTEGER NOT NULL, name BLOB NOT NULL, directory INTEGER,
                kind INTEGER, inode INTEGER, born INTEGER, size INTEGER, modified INTEGER, changed INTEGER,
                hash INTEGER, entry BLOB NOT NULL,
                PRIMARY KEY (parent, name)
             ) WITHOUT ROWID;",
        ))?;
        Ok(Self {
            index,
            digest: StateDigest::empty(),
            next_directory: former.next_directory,
            fuzzy: BTreeSet::new(),
        })
    }

    /// Takes one entry of the manifest.
    pub(crate) fn add(&mut self, place: Place, entry: Entry) -> Result<(), AgentError> {
        let former = self
            .index
            .pending_at(&place)?
            .filter(|known| known.entry == entry);
        self.digest.add(&place, &entry);
        if let Some(id) = entry.directory_id() {
            self.next_directory = self.next_directory.max(id.0.saturating_add(1));
        }
        let update = Update {
            place,
            entry,
            seen: former.and_then(|known| known.seen),
        };
        self.index
            .write(&self.index.connection(), "adopted", &update)
    }

    /// How many bytes the entries that were taken are.
    pub(crate) fn weight(&self) -> u64 {
        self.digest.weight()
    }

    /// Takes places whose files may be mixtures: whatever was seen of them, they are read again.
    pub(crate) fn add_fuzzy(&mut self, places: Vec<Place>) -> Result<(), AgentError> {
        let connection = self.index.connection();
        let sql = "UPDATE adopted SET changed = NULL WHERE parent = ?1 AND name = ?2";
        let mut statement = self.index.check(connection.prepare_cached(sql))?;
        for place in places {
            let updated = statement.execute((place.parent.0 as i64, place.name.as_bytes()));
            if self.index.check(updated)? == 0 || self.fuzzy.contains(&place) {
                return Err(manifest::malformed(
                    "a fuzzy place without an entry, or twice",
                ));
            }
            self.fuzzy.insert(place);
        }
        Ok(())
    }

    /// Makes it the base; returns its description. Fails if the entries are not those of `snapshot`.
    pub(crate) fn finish(self, snapshot: &Snapshot, former: &Meta) -> Result<Meta, AgentError> {
        if self.digest.fingerprint() != snapshot.position.fingerprint {
            return Err(AgentError::OutOfStep {
                reason: "its manifest does not have the digest it tells; run `understudy verify`"
                    .to_owned(),
            });
        }
        let meta = Meta {
            position: Some(snapshot.position),
            digest: self.digest.clone(),
            next_directory: self.next_directory,
            root: former.root,
        };
        let swapped = self
            .index
            .connection()
            .execute_batch("DROP TABLE entries; ALTER TABLE adopted RENAME TO entries;");
        self.index.check(swapped)?;
        self.prove_tree()?;
        self.index.set_fuzzy(&self.fuzzy)?;
        self.index.drop_stray_signatures()?;
        self.index.ensure_lookups()?;
        self.index.commit(&meta)?;
        Ok(meta)
    }

    /// Fails unless every entry is reached from the root, on one way: of what no look at the source ever meets, the digest would be signed
    /// for ever.
    fn prove_tree(&self) -> Result<(), AgentError> {
        self.index.ensure_lookups()?;
        let sql = "
            WITH RECURSIVE reached (directory) AS (
                VALUES (0)
                UNION SELECT entries.directory FROM entries JOIN reached ON entries.parent = reached.directory
                WHERE entries.directory IS NOT NULL)
            SELECT (SELECT count(*) FROM entries) = (SELECT count(*) FROM entries JOIN reached ON parent = reached.directory)
                AND (SELECT count(directory) = count(DISTINCT directory) FROM entries)";
        let connection = self.index.connection();
        let is_tree: bool = self
            .index
            .check(connection.query_row(sql, [], |row| row.get(0)))?;
        if is_tree {
            Ok(())
        } else {
            Err(manifest::malformed("its entries are no tree"))
        }
    }
}
