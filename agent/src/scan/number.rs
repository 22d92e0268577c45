//! The number that a directory goes by: its own, that of one which moved, or a new one.

use understudy_protocol::{Attributes, DirectoryId, Entry, Place};
use understudy_tree::Stat;

use super::is_about_entry;
use super::stands::Stand;
use super::worker::Worker;
use crate::error::AgentError;
use crate::index::Known;

/// A directory's number and what the base has under it.
#[derive(Debug)]
pub(super) struct Number {
    pub(super) id: DirectoryId,
    pub(super) at_home: Option<Entry>,
    pub(super) moved_from: Option<(Place, Entry)>,
}

impl Number {
    pub(super) fn known_attributes(&self) -> Option<Attributes> {
        let entry = self
            .at_home
            .as_ref()
            .or(self.moved_from.as_ref().map(|(_, entry)| entry));
        entry.map(|entry| entry.attributes.clone())
    }
}

impl Worker<'_> {
    /// The number of a directory: its own, that of one which moved here, or a new one.
    pub(super) fn number(
        &self,
        place: &Place,
        stat: &Stat,
        known: Option<&Known>,
    ) -> Result<Number, AgentError> {
        let here = known.and_then(|known| Some((known, known.entry.directory_id()?)));
        if let Some((known, id)) = here
            && (known.may_be_inode(stat.identity) || !self.may_enter(stat))
            && self.scan.stands.claim(id, Stand::Home)
        {
            return Ok(Number {
                id,
                at_home: Some(known.entry.clone()),
                moved_from: None,
            });
        }
        let mut is_second = !self.scan.stands.is_first_number(stat.identity);
        if !self.scan.base_is_empty && self.may_enter(stat) {
            for (from, former) in self.base.with_identity(stat.identity)? {
                let Some(id) = former.entry.directory_id() else {
                    continue;
                };
                if from != *place && self.still_stands(&from, stat)? {
                    // A snapshot of a subvolume, or what is mounted a second time: the same inode at two places.
                    continue;
                }
                is_second = true;
                let may_move = from != *place && id != DirectoryId::FILES;
                if may_move && self.scan.stands.claim(id, Stand::Away) {
                    return Ok(Number {
                        id,
                        at_home: None,
                        moved_from: Some((from, former.entry)),
                    });
                }
            }
        }
        if is_second {
            // It moved while it was looked at. Each number has a part of the truth until everything is compared.
            self.scan.lose_sight();
        }
        Ok(Number {
            id: self.new_directory(),
            at_home: None,
            moved_from: None,
        })
    }

    /// Whether an inode that is met elsewhere is at its former place as well.
    fn still_stands(&self, from: &Place, stat: &Stat) -> Result<bool, AgentError> {
        let Some(path) = self.scan.index.pending_path(from.parent)? else {
            return Ok(false);
        };
        let standing = self
            .scan
            .root
            .open_beneath(&path)
            .and_then(|directory| directory.stat(&from.name));
        match standing {
            Ok(standing) => Ok(standing.identity == stat.identity),
            Err(error) if !is_about_entry(&error) => Err(error.into()),
            Err(_) => Ok(false),
        }
    }
}
