//! What a snapshot has of a database, as the catalog says, and whether that is what stands on the disk.

use std::fs::File;

use understudy_protocol::{ContentHash, DirectoryId, Name, Node, Place, Position, RelPath};
use understudy_tree::{Directory, content};

use crate::catalog::Catalog;
use crate::error::ReceiverError;
use crate::names;

/// The dump of a database in a snapshot.
#[derive(Debug, Clone)]
pub struct Dump {
    /// The snapshot.
    pub position: Position,
    /// When it was committed, seconds since 1970.
    pub committed_seconds: i64,
    /// What it consists of: two with the same have the same files.
    pub hash: String,
    /// Of all files.
    pub bytes: u64,
    pub(super) database: Name,
    pub(super) directories: Vec<(RelPath, Name)>,
    pub(super) files: Vec<DumpFile>,
}

#[derive(Debug, Clone)]
pub(super) struct DumpFile {
    pub(super) parent: RelPath,
    pub(super) name: Name,
    pub(super) size: u64,
    hash: ContentHash,
}

/// That of the newest snapshot; `None` if that has none.
pub(super) fn newest(catalog: &Catalog, database: Name) -> Result<Option<Dump>, ReceiverError> {
    let Some(head) = catalog.head()? else {
        return Ok(None);
    };
    let mut dump = Dump {
        position: head.snapshot.position,
        committed_seconds: head.snapshot.committed_seconds,
        hash: String::new(),
        bytes: 0,
        database,
        directories: Vec::new(),
        files: Vec::new(),
    };
    let Some(root) = root(catalog, &dump)? else {
        return Ok(None);
    };
    let mut hasher = blake3::Hasher::new();
    gather(catalog, (root, &RelPath::root()), &mut dump, &mut hasher)?;
    dump.hash = hasher.finalize().to_hex().to_string();
    Ok(Some(dump))
}

/// The directory of a dump, as the snapshot has it.
fn root(catalog: &Catalog, dump: &Dump) -> Result<Option<DirectoryId>, ReceiverError> {
    let mut parent = DirectoryId::TOP;
    for name in [&*names::DATABASES, &dump.database] {
        let place = Place {
            parent,
            name: name.clone(),
        };
        match catalog
            .row(&place, dump.position.number)?
            .map(|row| row.entry.node)
        {
            Some(Node::Directory { id }) => parent = id,
            _ => return Ok(None),
        }
    }
    Ok(Some(parent))
}

/// Everything below a directory, in an order that is always the same.
fn gather(
    catalog: &Catalog,
    (id, path): (DirectoryId, &RelPath),
    dump: &mut Dump,
    hasher: &mut blake3::Hasher,
) -> Result<(), ReceiverError> {
    let mut after: Option<Name> = None;
    loop {
        let rows = catalog.rows_in(id, dump.position.number, after.as_ref())?;
        let Some(last) = rows.last() else {
            return Ok(());
        };
        after = Some(last.place.name.clone());
        for row in rows {
            let (name, entry) = (row.place.name, row.entry);
            let own = path.join(&name);
            hasher.update(&(own.as_bytes().len() as u64).to_le_bytes());
            hasher.update(own.as_bytes());
            match entry.node {
                Node::Directory { id } => {
                    hasher.update(b"d");
                    dump.directories.push((path.clone(), name));
                    gather(catalog, (id, &own), dump, hasher)?;
                }
                Node::File { size, hash } => {
                    hasher.update(b"f");
                    hasher.update(hash.to_string().as_bytes());
                    dump.bytes = dump.bytes.saturating_add(size);
                    dump.files.push(DumpFile {
                        parent: path.clone(),
                        name,
                        size,
                        hash,
                    });
                }
                // No engine makes others, and none reads them.
                _ => {
                    hasher.update(b"o");
                }
            }
        }
    }
}

/// Where a tree has it.
pub(super) fn open_root(live: &Directory, dump: &Dump) -> Result<Directory, ReceiverError> {
    let databases = live.open_directory(&names::DATABASES)?;
    Ok(databases.open_directory(&dump.database)?)
}

/// Fails if a file is not what the main has sent.
pub(super) fn check(dump: &Dump, file: &DumpFile, found: &File) -> Result<(), ReceiverError> {
    if content::size(found)? == file.size && content::hash_file(found, file.size)? == file.hash {
        return Ok(());
    }
    Err(ReceiverError::Damaged(format!(
        "the file `{}` of the dump of the database `{}` is not what the main has sent with snapshot {}, so it is not loaded: `understudy \
         verify` finds what is damaged",
        file.parent.join(&file.name),
        dump.database,
        dump.position.number
    )))
}

/// There is no tree that could have it.
pub(super) fn gone(dump: &Dump) -> ReceiverError {
    ReceiverError::Damaged(format!(
        "the live tree with the dump of the database `{}` is not there",
        dump.database
    ))
}
