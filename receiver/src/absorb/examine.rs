//! Reading what a walk suspects: its attributes, and the hash of its content.

use understudy_protocol::{ContentHash, DirectoryId, Entry, Node};
use understudy_tree::{Kind, Privileges, Stat, TreeError, content, node};

use super::walk::{Suspect, is_of_entry};
use crate::catalog::Origin;
use crate::comparison;
use crate::error::ReceiverError;

/// How often a file is read that changes while it is.
const TRIES: u32 = 3;

/// What became of a suspect.
#[derive(Debug)]
pub(crate) enum Examined {
    /// It is gone meanwhile.
    Gone,
    /// It cannot be read, for this reason.
    Unreadable(String),
    /// It is this now.
    Now(Box<Now>),
}

/// An entry as it was found.
#[derive(Debug)]
pub(crate) struct Now {
    /// With the hard-link group of its row.
    pub(crate) entry: Entry,
    pub(crate) origin: Origin,
    pub(crate) stat: Stat,
    /// Whether the other twin has the same inode at its place.
    pub(crate) is_in_twin: bool,
    /// It changed whenever it was read: this is a mixture.
    pub(crate) is_fuzzy: bool,
}

/// Reads a suspect that is no directory.
pub(crate) fn examine(
    suspect: &Suspect,
    privileges: &Privileges,
) -> Result<Examined, ReceiverError> {
    match read(suspect, privileges) {
        Err(error) if error.is_gone() => Ok(Examined::Gone),
        Err(error) if is_of_entry(&error) => {
            Ok(Examined::Unreadable(format!("cannot be read: {error}")))
        }
        examined => Ok(examined?),
    }
}

fn read(suspect: &Suspect, privileges: &Privileges) -> Result<Examined, TreeError> {
    let (node, attributes, stat, is_fuzzy) = match suspect.stat.kind {
        Kind::File => match file(suspect)? {
            Some(found) => found,
            // Something else came to its place: that is found by the next look.
            None => return Ok(Examined::Gone),
        },
        _ => {
            let (directory, name) = (&suspect.directory, &suspect.place.name);
            let node = node::read_node(directory, name, &suspect.stat, DirectoryId::TOP)?;
            let Some(node) = node else {
                return Ok(Examined::Gone);
            };
            let attributes = node::read_attributes(directory, name, &suspect.stat)?;
            (node, attributes, suspect.stat.clone(), false)
        }
    };
    let twin = match &suspect.twin {
        Some(twin) => twin.stat_if_present(&suspect.place.name)?,
        None => None,
    };
    let is_in_twin = twin
        .as_ref()
        .is_some_and(|twin| twin.identity == stat.identity);
    let row = suspect.row.as_ref();
    let row = row.filter(|row| comparison::is_same_kind(&row.entry, stat.kind));
    let attributes = match row {
        Some(row) => comparison::attributes_now(&row.entry, attributes, privileges),
        None => attributes,
    };
    let entry = Entry {
        attributes,
        node,
        group: row.map_or(0, |row| row.entry.group),
    };
    // The twin may have a file of its own with the same content: it keeps that.
    let has_twin = twin.is_some_and(|twin| twin.kind == stat.kind && twin.size == stat.size);
    let origin = match row {
        Some(row) if row.entry.node == entry.node && has_twin => Origin::Kept(row.id),
        _ => Origin::Own,
    };
    Ok(Examined::Now(Box::new(Now {
        entry,
        origin,
        stat,
        is_in_twin,
        is_fuzzy,
    })))
}

/// Content and attributes of a regular file; `None` if it is none any more.
fn file(
    suspect: &Suspect,
) -> Result<Option<(Node, understudy_protocol::Attributes, Stat, bool)>, TreeError> {
    let mut tries = 0;
    loop {
        tries += 1;
        let file = suspect.directory.open_file(&suspect.place.name)?;
        let before = Stat::of(&file)?;
        if before.kind != Kind::File {
            return Ok(None);
        }
        let hashed = content::hash_file(&file, before.size);
        let after = Stat::of(&file)?;
        let is_still = before == after;
        let hash: ContentHash = match hashed {
            Ok(hash) if is_still || tries == TRIES => hash,
            Err(error) if is_still || tries == TRIES => return Err(error),
            _ => continue,
        };
        let size = before.size;
        let attributes = node::read_attributes_of(&file, &before)?;
        return Ok(Some((
            Node::File { size, hash },
            attributes,
            before,
            !is_still,
        )));
    }
}
