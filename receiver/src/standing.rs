//! What stands at a name of a twin against the entry that should stand there. Reads no content.

use understudy_protocol::{Entry, Node};
use understudy_tree::attributes::{is_within_reach, to_make};
use understudy_tree::{Directory, Kind, Privileges, Stat, TreeError, node};

use crate::catalog::Row;

/// Seconds since 1970 that every file system with more than 32 bits for them can hold (ext4: 1901 to 2446). A main may say others; what
/// becomes of those on the disk is no damage.
const LASTING: std::ops::RangeInclusive<i64> = -(1 << 31)..=(1 << 34) - (1 << 31) - 1;

/// What is different in kind, size, target or metadata, if anything.
pub(crate) fn differs(
    privileges: &Privileges,
    directory: &Directory,
    row: &Row,
    stat: &Stat,
) -> Result<Option<String>, TreeError> {
    match is_another(directory, row, stat)? {
        None => differs_in_attributes(privileges, directory, row, stat),
        another => Ok(another),
    }
}

/// Why what stands there is not what should, whatever its attributes are.
pub(crate) fn is_another(
    directory: &Directory,
    row: &Row,
    stat: &Stat,
) -> Result<Option<String>, TreeError> {
    let entry = &row.entry;
    if !same_kind(entry, stat.kind) {
        return Ok(Some(format!("is not a {} any more", entry.kind())));
    }
    if let Some((size, _)) = entry.content()
        && size != stat.size
    {
        return Ok(Some(format!("has {} bytes instead of {size}", stat.size)));
    }
    if let Node::Symlink { target } = &entry.node
        && directory.read_link(&row.place.name)? != target.0
    {
        return Ok(Some("points elsewhere".to_owned()));
    }
    Ok(None)
}

fn differs_in_attributes(
    privileges: &Privileges,
    directory: &Directory,
    row: &Row,
    stat: &Stat,
) -> Result<Option<String>, TreeError> {
    let entry = &row.entry;
    let found = node::read_attributes(directory, &row.place.name, stat)?;
    let wanted = to_make(entry, privileges);
    let mut differing = Vec::new();
    if found.modified != wanted.modified && LASTING.contains(&wanted.modified.seconds) {
        differing.push("modification time");
    }
    // What could not be set for lack of privileges is recorded only, and no damage.
    let mode_matters = privileges.override_permissions;
    let differs = mode_matters && found.mode != wanted.mode
        || found.mode & 0o777 & !wanted.mode & !0o500 != 0;
    // Nobody can set that of a symbolic link.
    if differs && !matches!(entry.node, Node::Symlink { .. }) {
        differing.push("mode");
    }
    if privileges.chown && (found.uid, found.gid) != (wanted.uid, wanted.gid) {
        differing.push("owner");
    }
    let within_reach = found
        .xattrs
        .iter()
        .filter(|xattr| is_within_reach(xattr, privileges));
    if privileges.chown && !within_reach.eq(&wanted.xattrs) {
        differing.push("extended attributes");
    }
    Ok((!differing.is_empty()).then(|| format!("differs in {}", differing.join(", "))))
}

/// Whether somebody has written to a file since it was made what its row says. A disk that fails changes neither size nor time.
pub(crate) fn is_written(row: &Row, stat: &Stat) -> bool {
    stat.kind != Kind::File
        || row
            .entry
            .content()
            .is_none_or(|(size, _)| size != stat.size)
        || LASTING.contains(&row.entry.attributes.modified.seconds)
            && row.entry.attributes.modified != stat.modified
}

/// Whether what stands there is what the entry says.
fn same_kind(entry: &Entry, kind: Kind) -> bool {
    match entry.node {
        Node::Directory { .. } => kind == Kind::Directory,
        Node::File { .. } => kind == Kind::File,
        Node::Symlink { .. } => kind == Kind::Symlink,
        Node::Fifo => kind == Kind::Fifo,
        Node::CharacterDevice { .. } => kind == Kind::CharacterDevice,
        Node::BlockDevice { .. } => kind == Kind::BlockDevice,
    }
}
