//! Contents that left the base: the spare has them in its history, so that they need not be sent when they come back.
//!
//! A content is known by its size and the key of its hash. A wrong guess costs one more cycle: the spare looks for the
//! whole hash.

use understudy_protocol::delta::SMALLEST;
use understudy_protocol::{ContentHash, Entry};

use super::{Index, Reader};
use crate::error::AgentError;

/// Contents that are remembered, about 50 bytes each; the oldest are forgotten first.
const REMEMBERED: i64 = 1_000_000;

/// A content of fewer bytes costs little more than the record that names it, and would have to be remembered and looked for all
/// the same. Trees that are rolled back consist of small files, so that all others count.
const LEAST_BYTES: u64 = SMALLEST as u64;

impl Index {
    /// Remembers the content of an entry that stands at a place of the base no more.
    pub(crate) fn remember_former(&self, entry: &Entry) -> Result<(), AgentError> {
        let Some((size, hash)) = entry.content().filter(|(size, _)| *size >= LEAST_BYTES) else {
            return Ok(());
        };
        let connection = self.connection();
        // What leaves again is as new as anything.
        let sql = "INSERT OR REPLACE INTO history (hash, size) VALUES (?1, ?2)";
        let mut statement = self.check(connection.prepare_cached(sql))?;
        self.check(statement.execute((hash.key(), size as i64)))
            .map(drop)
    }

    /// Forgets a content: it is in the base again.
    pub(crate) fn forget_former(&self, hash: ContentHash) -> Result<(), AgentError> {
        let connection = self.connection();
        let sql = "DELETE FROM history WHERE hash = ?1";
        let mut statement = self.check(connection.prepare_cached(sql))?;
        self.check(statement.execute([hash.key()])).map(drop)
    }

    /// Forgets all of them, in the base as well: the spare did not have one.
    pub(crate) fn forget_history(&self) -> Result<(), AgentError> {
        self.check(self.connection().execute("DELETE FROM history", []))
            .map(drop)
    }

    /// The number of the content that was remembered last.
    pub(super) fn newest_former(&self) -> Result<i64, AgentError> {
        let sql = "SELECT max(number) FROM history";
        let found = self.connection().query_row(sql, [], |row| row.get(0));
        let newest: Option<i64> = self.check(found)?;
        Ok(newest.unwrap_or(0))
    }

    /// Of what was remembered after the number `before`, forgets what the pending state has after all: it moved, or had
    /// other places. Then, of everything, all but the newest.
    pub(super) fn settle_history(&self, before: i64) -> Result<(), AgentError> {
        self.keep_of_history(before, REMEMBERED)
    }

    pub(super) fn keep_of_history(&self, before: i64, most: i64) -> Result<(), AgentError> {
        let connection = self.connection();
        let sql = "DELETE FROM history WHERE number > ?1 \
                   AND EXISTS (SELECT 1 FROM entries WHERE entries.hash = history.hash)";
        self.check(connection.execute(sql, [before]))?;
        // Numbers have gaps, so that these may be fewer; counting would read them all.
        let sql = "DELETE FROM history WHERE number <= (SELECT max(number) FROM history) - ?1";
        self.check(connection.execute(sql, [most])).map(drop)
    }
}

impl Reader<'_> {
    /// Whether a content left the base and was not sent since.
    pub(crate) fn is_in_history(&self, size: u64, hash: ContentHash) -> Result<bool, AgentError> {
        let sql = "SELECT 1 FROM history WHERE hash = ?1 AND size = ?2";
        let mut statement = self.index.check(self.connection.prepare_cached(sql))?;
        self.index
            .check(statement.exists((hash.key(), size as i64)))
    }

    /// Whether some content of this size did, one that does not travel inline.
    pub(crate) fn is_large_in_history(&self, size: u64) -> Result<bool, AgentError> {
        // As the partial index has it.
        let sql = "SELECT 1 FROM history WHERE size = ?1 AND size > 65536";
        let mut statement = self.index.check(self.connection.prepare_cached(sql))?;
        self.index.check(statement.exists([size as i64]))
    }
}
