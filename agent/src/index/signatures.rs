//! Signatures of files as the spare has them: what a delta starts from.
//!
//! A signature belongs to a place and to the content that stands there in the base. One that does not fit is as good as
//! none: the file is then sent whole.

use rusqlite::OptionalExtension;
use understudy_protocol::delta::{Damaged, Signature, SmallSignature};
use understudy_protocol::{ContentHash, DirectoryId, Name, Place};

use super::{Index, Reader};
use crate::error::AgentError;

/// Files of a directory of which the largest is searched for.
const LOOKED_AT: i64 = 1000;

/// Key of a note in `meta`.
const WHOLE: &str = "whole";

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
        self.check(self.connection().execute("DELETE FROM signatures", []))?;
        self.store(WHOLE, &true)
    }

    /// Whether what has no signature is to be sent whole as well: for once, until the spare has acknowledged something.
    pub(crate) fn sends_whole(&self) -> Result<bool, AgentError> {
        Ok(self.load(WHOLE)?.unwrap_or(false))
    }

    /// The spare has what it was sent: the next differences start from that.
    pub(super) fn sends_differences(&self) -> Result<(), AgentError> {
        let sql = "DELETE FROM meta WHERE key = ?1";
        self.check(self.connection().execute(sql, [WHOLE]))
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

    /// The largest file in a directory with this ending that has a signature, by name.
    ///
    /// Looks at the first [`LOOKED_AT`] files only: a directory may have millions.
    pub(crate) fn largest_signed(
        &self,
        parent: DirectoryId,
        ending: &[u8],
    ) -> Result<Option<(Name, Signature)>, AgentError> {
        // A signature may have outlived its file.
        let sql = "SELECT signed.name, signed.hash FROM \
                   (SELECT name, hash FROM signatures WHERE parent = ?1 LIMIT ?2) AS signed \
                   JOIN entries ON entries.parent = ?1 AND entries.name = signed.name AND entries.hash = signed.hash \
                   WHERE substr(signed.name, -?3) = ?4 ORDER BY entries.size DESC LIMIT 1";
        let mut statement = self.index.check(self.connection.prepare_cached(sql))?;
        let key = (parent.0 as i64, LOOKED_AT, ending.len() as i64, ending);
        let found = statement.query_row(key, |row| Ok((row.get(0)?, row.get(1)?)));
        let found: Option<(Vec<u8>, i64)> = self.index.check(found.optional())?;
        let Some((name, hash)) = found else {
            return Ok(None);
        };
        let Ok(name) = Name::new(name) else {
            return Ok(None);
        };
        let place = Place::new(parent, name);
        let signature = self.read_by_key(&place, hash, Signature::from_bytes)?;
        Ok(signature.map(|signature| (place.name, signature)))
    }

    fn read_signature<T>(
        &self,
        place: &Place,
        hash: ContentHash,
        read: impl Fn(&[u8]) -> Result<T, Damaged>,
    ) -> Result<Option<T>, AgentError> {
        self.read_by_key(place, hash.key(), read)
    }

    fn read_by_key<T>(
        &self,
        place: &Place,
        hash: i64,
        read: impl Fn(&[u8]) -> Result<T, Damaged>,
    ) -> Result<Option<T>, AgentError> {
        let sql = "SELECT signature FROM signatures WHERE parent = ?1 AND name = ?2 AND hash = ?3";
        let mut statement = self.index.check(self.connection.prepare_cached(sql))?;
        let key = (place.parent.0 as i64, place.name.as_bytes(), hash);
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
