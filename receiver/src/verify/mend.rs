//! What becomes of damaged files of the live tree: they are told, or repaired first.

use understudy_protocol::message::Repaired;
use understudy_protocol::{ContentHash, Message, Name, RelPath};
use understudy_tree::{Directory, content};

use super::{Verifier, shown};
use crate::catalog::Row;
use crate::error::ReceiverError;
use crate::serve::send;

/// What happens with damage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mending {
    /// It is told.
    None,
    /// What the spare can repair by itself is repaired.
    All,
}

/// What became of a damaged file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Repaired,
    Told,
}

impl Verifier<'_> {
    /// A file of the live tree does not have its content: it is repaired, or told.
    pub(super) fn damaged(
        &mut self,
        directory: &Directory,
        path: &RelPath,
        row: &Row,
        what: String,
    ) -> Result<Fate, ReceiverError> {
        let Some(repairer) = &self.repairer else {
            self.found(&shown(path), what)?;
            return Ok(Fate::Told);
        };
        match repairer.repair(row) {
            Ok(true) => {}
            Ok(false) => {
                let lost = format!(
                    "{what}; the spare has no other copy of it, and the snapshots from {} on have it so",
                    row.since
                );
                self.found(&shown(path), lost)?;
                return Ok(Fate::Told);
            }
            Err(error) => {
                let failed = format!("{what}; it cannot be repaired: {error}");
                self.found(&shown(path), failed)?;
                return Ok(Fate::Told);
            }
        }
        if row.entry.group != 0 {
            let inode = directory.stat(&row.place.name)?.identity.inode;
            self.first_names.insert(row.entry.group, inode);
        }
        let repaired = Repaired {
            dataset: self.dataset.name.clone(),
            path: shown(path),
            what,
        };
        send(self.outgoing, &Message::Repaired(repaired))?;
        Ok(Fate::Repaired)
    }

    /// Reads a file of the right size; what is wrong with its content, if anything.
    pub(super) fn damage_of(
        &mut self,
        directory: &Directory,
        name: &Name,
        (size, hash): (u64, ContentHash),
    ) -> Option<String> {
        self.verified.files += 1;
        self.verified.bytes += size;
        let read = directory.open_file(name).and_then(|file| {
            content::drop_cache(&file);
            content::hash_file(&file, size)
        });
        match read {
            Ok(found) if found == hash => None,
            Ok(_) => Some("its content is not what the main sent (hash differs)".to_owned()),
            Err(error) => Some(format!("cannot be read: {error}")),
        }
    }
}
