//! Reading what stands at a name into an [`Entry`], and making it anew.

use std::fs::File;

use understudy_protocol::{Attributes, DirectoryId, Entry, Name, Node};

use crate::attributes::{Lacking, read_xattrs, read_xattrs_of, set_attributes};
use crate::directory::Directory;
use crate::error::TreeError;
use crate::privileges::{Privileges, Specials};
use crate::stat::{Kind, Stat};

/// The attributes of an entry whose `stat` was just read.
pub fn read_attributes(
    directory: &Directory,
    name: &Name,
    stat: &Stat,
) -> Result<Attributes, TreeError> {
    Ok(attributes_from(stat, read_xattrs(directory, name)?))
}

/// The attributes of an open file.
pub fn read_attributes_of(file: &File, stat: &Stat) -> Result<Attributes, TreeError> {
    Ok(attributes_from(stat, read_xattrs_of(file)?))
}

fn attributes_from(stat: &Stat, xattrs: Vec<understudy_protocol::Xattr>) -> Attributes {
    // A symbolic link's mode means nothing and cannot be set.
    let mode = if stat.kind == Kind::Symlink {
        0o777
    } else {
        stat.mode
    };
    Attributes {
        mode,
        uid: stat.uid,
        gid: stat.gid,
        modified: stat.modified,
        xattrs,
    }
}

/// The attributes of an open directory, for a root, which has no name here.
pub fn read_own_attributes(directory: &Directory, stat: &Stat) -> Result<Attributes, TreeError> {
    Ok(attributes_from(stat, read_xattrs_of(directory)?))
}

/// The node of anything but a regular file; `id` is the directory's number if it is one. `None` for files,
/// whose content must be hashed, and for sockets, which are not captured.
pub fn read_node(
    directory: &Directory,
    name: &Name,
    stat: &Stat,
    id: DirectoryId,
) -> Result<Option<Node>, TreeError> {
    let (major, minor) = stat.device;
    Ok(match stat.kind {
        Kind::File | Kind::Socket => None,
        Kind::Directory => Some(Node::Directory { id }),
        Kind::Symlink => Some(Node::Symlink {
            target: directory.read_link(name)?.into(),
        }),
        Kind::Fifo => Some(Node::Fifo),
        Kind::CharacterDevice => Some(Node::CharacterDevice { major, minor }),
        Kind::BlockDevice => Some(Node::BlockDevice { major, minor }),
    })
}

/// Whether the entry can exist on disk with these privileges; a device node may be recorded only.
pub fn can_exist(entry: &Entry, privileges: &Privileges) -> bool {
    privileges.make_devices
        || !matches!(
            entry.node,
            Node::CharacterDevice { .. } | Node::BlockDevice { .. }
        )
}

/// Makes a symbolic link, fifo or device node at a free name, with all attributes.
pub fn create_special(
    directory: &Directory,
    name: &Name,
    entry: &Entry,
    privileges: &Privileges,
) -> Result<Lacking, TreeError> {
    if !can_exist(entry, privileges) {
        return Ok(Lacking {
            device: privileges.specials == Specials::Materialise,
            ..Lacking::default()
        });
    }
    match &entry.node {
        Node::Symlink { target } => directory.create_symlink(name, target)?,
        Node::Fifo => directory.create_special(name, Kind::Fifo, (0, 0))?,
        Node::CharacterDevice { major, minor } => {
            directory.create_special(name, Kind::CharacterDevice, (*major, *minor))?;
        }
        Node::BlockDevice { major, minor } => {
            directory.create_special(name, Kind::BlockDevice, (*major, *minor))?;
        }
        Node::Directory { .. } => directory.create_directory(name)?,
        Node::File { .. } => drop(directory.create_file(name)?),
    }
    set_attributes(directory, name, entry, privileges)
}
