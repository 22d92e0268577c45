//! Whether the entries of snapshots still are those that they had: each snapshot is named by the digest of its entries, which
//! nobody has to believe.

use rusqlite::params;
use understudy_protocol::{Entry, Position, StateDigest};

use super::Catalog;
use super::read::{ROW, row_from};
use super::upload::kind_number;
use crate::error::ReceiverError;

impl Catalog {
    /// Whether the entries of a snapshot, listed or pending, have its digest.
    pub(crate) fn has_digest(&self, position: Position) -> Result<bool, ReceiverError> {
        let mut digest = StateDigest::empty();
        self.rows_at(position.number, |row| {
            digest.add(&row.place, &row.entry);
            Ok(())
        })?;
        Ok(digest.fingerprint() == position.fingerprint)
    }

    /// The numbers of the snapshots whose entries do not have their digests. Every entry is looked at once, however many
    /// snapshots have it, and so is what it is found by.
    pub(crate) fn wrong_digests(&self) -> Result<Vec<u64>, ReceiverError> {
        let snapshots = self.snapshots()?;
        let positions = snapshots.iter().map(|one| one.snapshot.position);
        let positions: Vec<Position> = positions.collect();
        // What is different in each from the one before it.
        let mut changes = vec![StateDigest::empty(); positions.len()];
        let sql = format!("SELECT {ROW}, kind, directory, hash_key, link_group FROM entry");
        let read = |row: &rusqlite::Row<'_>| Ok((row_from(row)?, beside(row)?));
        self.each(&sql, params![], read, |(row, found)| {
            let row = row?;
            if found != beside_of(&row.entry) {
                return Err(ReceiverError::Damaged(format!(
                    "what the catalog has beside entry {} is not what that says",
                    row.id
                )));
            }
            let from = |number: u64| positions.partition_point(|one| one.number < number);
            let (first, end) = (from(row.since), row.until.map_or(positions.len(), from));
            if first < end {
                changes[first].add(&row.place, &row.entry);
                if let Some(change) = changes.get_mut(end) {
                    change.remove(&row.place, &row.entry);
                }
            }
            Ok(())
        })?;
        let mut digest = StateDigest::empty();
        let mut wrong = Vec::new();
        for (position, change) in positions.iter().zip(&changes) {
            digest.merge(change);
            wrong.extend((digest.fingerprint() != position.fingerprint).then_some(position.number));
        }
        Ok(wrong)
    }
}

/// What an entry is found by: kind, directory, key of the hash, group.
type Beside = (i64, Option<i64>, Option<i64>, i64);

fn beside(row: &rusqlite::Row<'_>) -> rusqlite::Result<Beside> {
    Ok((row.get(6)?, row.get(7)?, row.get(8)?, row.get(9)?))
}

fn beside_of(entry: &Entry) -> Beside {
    (
        kind_number(&entry.node),
        entry.directory_id().map(|id| id.0 as i64),
        entry.content().map(|(_, hash)| hash.key()),
        entry.group as i64,
    )
}
