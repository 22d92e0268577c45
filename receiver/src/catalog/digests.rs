//! Whether the entries of snapshots still are those that they had: each snapshot is named by the digest of its entries, which
//! nobody has to believe.

use rusqlite::params;
use understudy_protocol::{Position, StateDigest};

use super::Catalog;
use super::read::{ROW, row_from};
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
    /// snapshots have it.
    pub(crate) fn wrong_digests(&self) -> Result<Vec<u64>, ReceiverError> {
        let snapshots = self.snapshots()?;
        let positions = snapshots.iter().map(|one| one.snapshot.position);
        let positions: Vec<Position> = positions.collect();
        // What is different in each from the one before it.
        let mut changes = vec![StateDigest::empty(); positions.len()];
        let sql = format!("SELECT {ROW} FROM entry");
        self.each(&sql, params![], row_from, |row| {
            let row = row?;
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
