//! Places whose files the spare has as mixtures of several states, maybe.

use std::collections::BTreeSet;

use understudy_protocol::{DirectoryId, Name, Place};

use super::Index;
use crate::error::AgentError;

impl Index {
    /// The fuzzy places, as they were given last.
    pub(crate) fn fuzzy(&self) -> Result<BTreeSet<Place>, AgentError> {
        let connection = self.connection();
        let mut statement =
            self.check(connection.prepare_cached("SELECT parent, name FROM fuzzy"))?;
        let mut rows = self.check(statement.query([]))?;
        let mut places = BTreeSet::new();
        while let Some(row) = self.check(rows.next())? {
            let parent: i64 = self.check(row.get(0))?;
            let name: Vec<u8> = self.check(row.get(1))?;
            places.insert(Place::new(DirectoryId(parent as u64), self.name(&name)?));
        }
        Ok(places)
    }

    /// Makes `places` the fuzzy ones of the pending state; returns whether that changed anything.
    pub(crate) fn set_fuzzy(&self, places: &BTreeSet<Place>) -> Result<bool, AgentError> {
        if self.fuzzy()? == *places {
            return Ok(false);
        }
        let connection = self.connection();
        self.check(connection.execute("DELETE FROM fuzzy", []))?;
        let mut put = self.check(connection.prepare_cached("INSERT INTO fuzzy VALUES (?1, ?2)"))?;
        for place in places {
            let name = Name::as_bytes(&place.name);
            self.check(put.execute((place.parent.0 as i64, name)))?;
        }
        Ok(true)
    }
}
