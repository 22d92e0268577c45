//! Signatures of files as the spare has them: what a delta starts from.
//!
//! A signature belongs to a place and to the content that stands there in the base. One that does not fit is as good as
//! none: the file is then sent whole.

use rusqlite::OptionalExtension;
use understudy_protocol::delta::{Damaged, Signature, SmallSignature};
use understudy_protocol::{ContentHash, Place};

use super::{Index, Reader};
use crate::error::AgentError;

impl Index {
    /// Remembers the signature of the content that stands at a place in the pending state.
    pub(crate) fn remember_signature(
        &self,
        place: &Place,
        hash: ContentHash,
        signature: &[u8],
    ) -> Result<(), AgentError> {
        let connection = self.connection();
        let sql = "INSERT OR REPLACE INTO signatures (parent, name, hash, signature) VALUES (?1, ?2, ?3, ?4)";
        let mut statement = self.check(connection.prepare_cached(sql))?;
        let (parent, name) = (place.parent.0 as i64, place.name.as_bytes());
        self.check(statement.execute((parent, name, hash.key(), signature)))
            .map(drop)
    }

    /// Forgets all signatures, in the base as well: the spare could not make anything of one.
    pub(crate) fn forget_signatures(&self) -> Result<(), AgentError> {
        self.check(self.connection().execute("DELETE FROM signatures", []))
            .map(drop)
    }

    /// Forgets signatures of places that have no entry.
    pub(super) fn drop_stray_signatures(&self) -> Result<(), AgentError> {
        let sql = "DELETE FROM signatures WHERE NOT EXISTS (SELECT 1 FROM entries \
                   WHERE entries.parent = signatures.parent AND entries.name = signatures.name)";
        self.check(self.connection().execute(sql, [])).map(drop)
    }
}

impl Reader<'_> {
    /// The signature of the content with this hash at a place.
    pub(crate) fn signature(
        &self,
        place: &Place,
        hash: ContentHash,
    ) -> Result<Option<Signature>, AgentError> {
        self.read_signature(place, hash, Signature::from_bytes)
    }

    /// As [`Self::signature`], of a content that travels inline.
    pub(crate) fn small_signature(
        &self,
        place: &Place,
        hash: ContentHash,
    ) -> Result<Option<SmallSignature>, AgentError> {
        self.read_signature(place, hash, SmallSignature::from_bytes)
    }

    fn read_signature<T>(
        &self,
        place: &Place,
        hash: ContentHash,
        read: impl Fn(&[u8]) -> Result<T, Damaged>,
    ) -> Result<Option<T>, AgentError> {
        let sql = "SELECT signature FROM signatures WHERE parent = ?1 AND name = ?2 AND hash = ?3";
        let mut statement = self.index.check(self.connection.prepare_cached(sql))?;
        let key = (place.parent.0 as i64, place.name.as_bytes(), hash.key());
        let found = statement.query_row(key, |row| Ok(row.get_ref(0)?.as_blob().map(&read)));
        match self.index.check(found.optional())? {
            Some(Ok(Ok(signature))) => Ok(Some(signature)),
            Some(_) => {
                tracing::warn!("the signature of {place:?} is damaged: the file is sent whole");
                Ok(None)
            }
            None => Ok(None),
        }
    }

    /// Whether there is one.
    pub(crate) fn has_signature(
        &self,
        place: &Place,
        hash: ContentHash,
    ) -> Result<bool, AgentError> {
        let sql = "SELECT 1 FROM signatures WHERE parent = ?1 AND name = ?2 AND hash = ?3";
        let mut statement = self.index.check(self.connection.prepare_cached(sql))?;
        let key = (place.parent.0 as i64, place.name.as_bytes(), hash.key());
        self.index.check(statement.exists(key))
    }
}
