//! Reading and setting owner, mode, times and extended attributes.

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{
    AtFlags, CWD, Gid, Mode, Timespec, Timestamps, UTIME_OMIT, Uid, XattrFlags, chmodat, chownat,
    fchmod, fchown, fgetxattr, flistxattr, fremovexattr, fsetxattr, futimens, lgetxattr,
    llistxattr, removexattr, setxattr, utimensat,
};
use rustix::io::Errno;
use understudy_protocol::{Attributes, Entry, Name, Node, Timestamp, Xattr, limits};

use crate::directory::Directory;
use crate::error::{Context, TreeError};
use crate::privileges::{Privileges, Specials};

const CAPABILITY: &[u8] = b"security.capability";
const DEFAULT_ACL: &str = "system.posix_acl_default";
/// Bits of a file that give rights to whoever runs it.
const SET_ID: u16 = 0o6000;
/// The mode of files until their attributes are set.
const PRIVATE: u16 = 0o600;

/// What could not be set for lack of privileges or because the file system has no place for it. The catalog
/// still has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Lacking {
    /// Owner or group.
    pub owner: bool,
    /// Some permission bits.
    pub mode: bool,
    /// Some extended attributes.
    pub xattrs: bool,
    /// The whole entry: a device node.
    pub device: bool,
}

impl Lacking {
    /// Adds what `other` lacks.
    pub fn merge(&mut self, other: Self) {
        self.owner |= other.owner;
        self.mode |= other.mode;
        self.xattrs |= other.xattrs;
        self.device |= other.device;
    }
}

/// All extended attributes of an open file or directory, in the order of their names.
pub fn read_xattrs_of(file: impl AsFd) -> Result<Vec<Xattr>, TreeError> {
    collect_xattrs(
        b"an open file",
        |list| flistxattr(&file, list),
        |name, value| fgetxattr(&file, OsStr::from_bytes(name), value),
    )
}

/// All extended attributes of the entry `name`, a symbolic link's own where it is one.
pub fn read_xattrs(directory: &Directory, name: &Name) -> Result<Vec<Xattr>, TreeError> {
    let path = directory.proc_path(name);
    let path = OsStr::from_bytes(&path);
    collect_xattrs(
        name.as_bytes(),
        |list| llistxattr(path, list),
        |attribute, value| lgetxattr(path, OsStr::from_bytes(attribute), value),
    )
}

fn collect_xattrs(
    of: &[u8],
    list: impl Fn(&mut [u8]) -> Result<usize, Errno>,
    get: impl Fn(&[u8], &mut [u8]) -> Result<usize, Errno>,
) -> Result<Vec<Xattr>, TreeError> {
    let names = match read_growing(list) {
        Ok(names) => names,
        Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
        Err(error) => return Err(TreeError::new("list extended attributes of", of, error)),
    };
    let mut xattrs = Vec::new();
    for name in names
        .split(|&byte| byte == 0)
        .filter(|name| !name.is_empty())
    {
        match read_growing(|value| get(name, value)) {
            Ok(value) => xattrs.push(Xattr {
                name: name.into(),
                value: value.into(),
            }),
            // Removed meanwhile, or one that is listed but not for us.
            Err(Errno::NODATA | Errno::PERM | Errno::OPNOTSUPP) => {}
            // What gives no capabilities, which a disk may hold, is shown to nobody.
            Err(Errno::INVAL) if name == CAPABILITY => {}
            Err(error) => return Err(TreeError::new("read extended attributes of", of, error)),
        }
    }
    xattrs.sort_unstable();
    let bytes: usize = xattrs
        .iter()
        .map(|xattr| xattr.name.len() + xattr.value.len())
        .sum();
    if xattrs.len() > limits::XATTRS || bytes > limits::XATTRS_BYTES {
        return Err(TreeError::new(
            "carry extended attributes of",
            of,
            Errno::TOOBIG,
        ));
    }
    Ok(xattrs)
}

/// Calls with a small buffer first: most inodes have no or few attributes. The kernel's own limit is 64 KiB.
fn read_growing(read: impl Fn(&mut [u8]) -> Result<usize, Errno>) -> Result<Vec<u8>, Errno> {
    let mut small = [0; 256];
    match read(&mut small) {
        Err(Errno::RANGE) => {}
        result => return result.map(|length| small[..length].to_vec()),
    }
    let mut large = vec![0; 64 * 1024];
    let length = read(&mut large)?;
    large.truncate(length);
    Ok(large)
}

/// Creates a regular file in a private directory that gives what is created in it no ACL, and sets attributes once
/// `fill` has written its content.
pub fn create_file_as<E: From<TreeError>>(
    directory: &Directory,
    name: &Name,
    attributes: &Attributes,
    privileges: &Privileges,
    fill: impl FnOnce(&File) -> Result<(), E>,
) -> Result<Lacking, E> {
    let mode = materialised_mode(file_mode(attributes, privileges), 0o400, privileges);
    // What it can be created with need not be set. A change of owner would take the special bits away, and without
    // privileges extended attributes want a file that can be written to.
    let is_plain = attributes.xattrs.is_empty() && mode & (privileges.umask | 0o7000) == 0;
    let created = if is_plain { mode } else { PRIVATE };
    let file = directory.create_file_with(name, mode_of(created))?;
    fill(&file)?;
    Ok(set_what_differs(&file, created, attributes, privileges)?)
}

/// Sets the attributes of a regular file just created by [`Directory::create_file`] in a private directory: it has
/// the process's owner and no extended attributes, so only what differs is set.
pub fn set_attributes_of_new(
    file: &File,
    attributes: &Attributes,
    privileges: &Privileges,
) -> Result<Lacking, TreeError> {
    set_what_differs(file, PRIVATE, attributes, privileges)
}

fn set_what_differs(
    file: &File,
    created: u16,
    attributes: &Attributes,
    privileges: &Privileges,
) -> Result<Lacking, TreeError> {
    let mut lacking = Lacking::default();
    let (uid, gid) = (attributes.uid, attributes.gid);
    if (uid, gid) != (privileges.uid, privileges.gid) {
        lacking.owner = !permitted(
            fchown(file, Some(uid_of(uid)), Some(gid_of(gid))),
            b"a new file",
        )?;
    }
    let set = |xattr: &Xattr| {
        fsetxattr(
            file,
            OsStr::from_bytes(&xattr.name),
            &xattr.value,
            XattrFlags::empty(),
        )
    };
    for xattr in wanted_xattrs(attributes, privileges).filter(|xattr| *xattr.name != *CAPABILITY) {
        lacking.xattrs |= !kept(set(xattr), b"a new file")?;
    }
    let wanted = file_mode(attributes, privileges);
    let mode = materialised_mode(wanted, 0o400, privileges);
    lacking.mode |= mode != wanted;
    if mode != created || created & privileges.umask != 0 {
        lacking.mode |= !permitted(fchmod(file, mode_of(mode)), b"a new file")?;
    }
    for xattr in wanted_xattrs(attributes, privileges).filter(|xattr| *xattr.name == *CAPABILITY) {
        lacking.xattrs |= !kept(set(xattr), b"a new file")?;
    }
    futimens(file, &times(attributes.modified)).context("set times of", b"a new file")?;
    Ok(lacking)
}

/// Gives what stands at `name` the attributes of `entry`, whatever it had before.
///
/// The inode is pinned first, so nobody can redirect the calls. Order matters: a change of owner clears
/// set-user-id bits and capabilities, a change of anything clears times.
pub fn set_attributes(
    directory: &Directory,
    name: &Name,
    entry: &Entry,
    privileges: &Privileges,
) -> Result<Lacking, TreeError> {
    let pinned = directory.pin(name.as_bytes())?;
    let bytes = name.as_bytes();
    let attributes = &entry.attributes;
    let mut lacking = Lacking::default();
    let stat = directory.stat(name)?;
    if (stat.uid, stat.gid) != (attributes.uid, attributes.gid) {
        let (uid, gid) = (Some(uid_of(attributes.uid)), Some(gid_of(attributes.gid)));
        lacking.owner = !permitted(chownat(&pinned, "", uid, gid, AtFlags::EMPTY_PATH), bytes)?;
    }
    if matches!(entry.node, Node::Symlink { .. }) {
        let path = directory.proc_path(name);
        lacking.xattrs = replace_symlink_xattrs(directory, name, &path, attributes)?;
    } else {
        let path = format!("/proc/self/fd/{}", pinned.as_fd().as_raw_fd());
        let (wanted, least) = if matches!(entry.node, Node::Directory { .. }) {
            (attributes.mode, 0o500)
        } else {
            (file_mode(attributes, privileges), 0o400)
        };
        let mode = materialised_mode(wanted, least, privileges);
        if !privileges.override_permissions && stat.mode & 0o200 == 0 {
            // Without privileges attributes in `user.` can only be written while the file can.
            permitted(
                chmodat(
                    CWD,
                    path.as_str(),
                    mode_of(stat.mode | 0o200),
                    AtFlags::empty(),
                ),
                bytes,
            )?;
        }
        let present = read_xattrs(directory, name)?;
        let new: Vec<&Xattr> = wanted_xattrs(attributes, privileges).collect();
        lacking.xattrs = replace_xattrs(path.as_bytes(), bytes, &present, &new)?;
        lacking.mode = mode != wanted;
        lacking.mode |= !permitted(
            chmodat(CWD, path.as_str(), mode_of(mode), AtFlags::empty()),
            bytes,
        )?;
        for xattr in new.iter().filter(|xattr| *xattr.name == *CAPABILITY) {
            lacking.xattrs |= !kept(set_xattr(path.as_bytes(), xattr), bytes)?;
        }
    }
    utimensat(
        directory,
        name.as_os_str(),
        &times(attributes.modified),
        AtFlags::SYMLINK_NOFOLLOW,
    )
    .context("set times of", bytes)?;
    Ok(lacking)
}

/// From now on a directory gives what is created in it no ACL.
pub fn drop_default_acl(directory: &Directory) -> Result<(), TreeError> {
    match fremovexattr(directory, DEFAULT_ACL) {
        // There was none, or there cannot be one here.
        Ok(()) | Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(()),
        Err(error) => Err(TreeError::new(
            "remove the default ACL of",
            b"a directory of our own",
            error,
        )),
    }
}

/// Makes a directory writable for this process if its mode says otherwise; for unprivileged work on a tree
/// whose modes are set again afterwards.
pub fn make_accessible(directory: &Directory, name: &Name) -> Result<(), TreeError> {
    let pinned = directory.pin(name.as_bytes())?;
    let path = format!("/proc/self/fd/{}", pinned.as_raw_fd());
    chmodat(CWD, path.as_str(), Mode::RWXU, AtFlags::empty())
        .context("set mode of", name.as_bytes())
}

/// What the attributes of an entry are to be on disk, as far as these privileges can read and set them; an unprivileged process
/// adds bits to modes, to keep its access.
pub fn to_make(entry: &Entry, privileges: &Privileges) -> Attributes {
    let attributes = &entry.attributes;
    let mode = match entry.node {
        Node::Directory { .. } => attributes.mode,
        _ => file_mode(attributes, privileges),
    };
    let xattrs = wanted_xattrs(attributes, privileges);
    Attributes {
        mode,
        xattrs: xattrs
            .filter(|xattr| is_within_reach(xattr, privileges))
            .cloned()
            .collect(),
        ..attributes.clone()
    }
}

/// Whether an attribute can be read and set; others are neither there nor missing.
pub fn is_within_reach(xattr: &Xattr, privileges: &Privileges) -> bool {
    privileges.trusted
        || *xattr.name == *CAPABILITY
        || !(xattr.name.starts_with(b"trusted.") || xattr.name.starts_with(b"security."))
}

/// The mode that anything but a directory is to have.
fn file_mode(attributes: &Attributes, privileges: &Privileges) -> u16 {
    match privileges.specials {
        Specials::Materialise => attributes.mode,
        Specials::Record => attributes.mode & !SET_ID,
    }
}

/// The extended attributes that an entry is to have.
fn wanted_xattrs<'a>(
    attributes: &'a Attributes,
    privileges: &Privileges,
) -> impl Iterator<Item = &'a Xattr> + use<'a> {
    let is_recording = privileges.specials == Specials::Record;
    let xattrs = attributes.xattrs.iter();
    xattrs.filter(move |xattr| !is_recording || *xattr.name != *CAPABILITY)
}

/// Whether an entry has what the mode [`Specials::Record`] does not make.
pub fn is_special(entry: &Entry) -> bool {
    let attributes = &entry.attributes;
    match entry.node {
        Node::CharacterDevice { .. } | Node::BlockDevice { .. } => true,
        Node::Directory { .. } | Node::Symlink { .. } => false,
        Node::File { .. } | Node::Fifo => {
            attributes.mode & SET_ID != 0
                || attributes
                    .xattrs
                    .iter()
                    .any(|xattr| *xattr.name == *CAPABILITY)
        }
    }
}

/// Without privileges a file that its owner could not read is lost to restore, and such a directory to
/// everything; those bits stay set and the catalog has the true ones.
fn materialised_mode(mode: u16, least: u16, privileges: &Privileges) -> u16 {
    if privileges.override_permissions {
        mode
    } else {
        mode | least
    }
}

fn replace_xattrs(
    path: &[u8],
    of: &[u8],
    present: &[Xattr],
    wanted: &[&Xattr],
) -> Result<bool, TreeError> {
    let path_str = OsStr::from_bytes(path);
    let mut lacking = false;
    for xattr in present {
        if !wanted.iter().any(|wanted| wanted.name == xattr.name) {
            // Labels that the system itself gives (SELinux) may not be removable: not ours to report.
            permitted(removexattr(path_str, OsStr::from_bytes(&xattr.name)), of)?;
        }
    }
    for xattr in wanted.iter().filter(|xattr| *xattr.name != *CAPABILITY) {
        if !present.contains(xattr) {
            lacking |= !kept(set_xattr(path, xattr), of)?;
        }
    }
    Ok(lacking)
}

/// A symbolic link's own attributes can only be reached by its path, which ends in a held directory.
fn replace_symlink_xattrs(
    directory: &Directory,
    name: &Name,
    path: &[u8],
    attributes: &Attributes,
) -> Result<bool, TreeError> {
    let present = read_xattrs(directory, name)?;
    let mut lacking = false;
    for xattr in attributes
        .xattrs
        .iter()
        .filter(|xattr| !present.contains(xattr))
    {
        let set = rustix::fs::lsetxattr(
            OsStr::from_bytes(path),
            OsStr::from_bytes(&xattr.name),
            &xattr.value,
            XattrFlags::empty(),
        );
        lacking |= !kept(set, name.as_bytes())?;
    }
    Ok(lacking)
}

fn set_xattr(path: &[u8], xattr: &Xattr) -> Result<(), Errno> {
    setxattr(
        OsStr::from_bytes(path),
        OsStr::from_bytes(&xattr.name),
        &xattr.value,
        XattrFlags::empty(),
    )
}

/// `false` if the system does not let us; other failures are errors.
fn permitted(result: Result<(), Errno>, of: &[u8]) -> Result<bool, TreeError> {
    match result {
        Ok(()) => Ok(true),
        Err(Errno::PERM | Errno::ACCESS | Errno::OPNOTSUPP | Errno::INVAL | Errno::NODATA) => {
            Ok(false)
        }
        Err(error) => Err(TreeError::new("set attributes of", of, error)),
    }
}

/// As [`permitted`], and `false` too if the file system has no place for an extended attribute of that size. ext4 says of one that
/// is larger than a block what it says of a full disk.
fn kept(result: Result<(), Errno>, of: &[u8]) -> Result<bool, TreeError> {
    match result {
        Err(Errno::TOOBIG | Errno::RANGE | Errno::NOSPC | Errno::DQUOT) => Ok(false),
        result => permitted(result, of),
    }
}

fn times(modified: Timestamp) -> Timestamps {
    Timestamps {
        last_access: Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_OMIT,
        },
        last_modification: Timespec {
            tv_sec: modified.seconds,
            tv_nsec: i64::from(modified.nanoseconds),
        },
    }
}

fn mode_of(mode: u16) -> Mode {
    Mode::from_raw_mode(u32::from(mode))
}

fn uid_of(uid: u32) -> Uid {
    Uid::from_raw(uid)
}

fn gid_of(gid: u32) -> Gid {
    Gid::from_raw(gid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "a scratch directory of the test")]
    fn an_attribute_that_the_file_system_has_no_place_for_is_told_and_no_error() {
        // A place of the checkout, for many a /tmp is a tmpfs, which has room for it; ext4 says that the disk is full.
        let scratch = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).expect("scratch");
        let directory =
            Directory::open(scratch.path(), crate::directory::Mounts::Cross).expect("open");
        let file = File::create(scratch.path().join("file")).expect("file");
        let stat = rustix::fs::fstat(&file).expect("stat");
        let large = Xattr {
            name: b"user.large"[..].into(),
            value: vec![b'x'; 5000].into(),
        };
        let attributes = Attributes {
            mode: 0o644,
            uid: stat.st_uid,
            gid: stat.st_gid,
            modified: Timestamp {
                seconds: 1,
                nanoseconds: 0,
            },
            xattrs: vec![large.clone()],
        };
        let privileges = Privileges::current();
        let lacking = set_what_differs(&file, 0o644, &attributes, &privileges).expect("created");
        let name = Name::new("file").expect("name");
        let present = read_xattrs(&directory, &name).expect("read");
        assert_eq!(lacking.xattrs, !present.contains(&large));
        let path = scratch.path().join("file");
        let path = path.as_os_str().as_bytes();
        let lacks = replace_xattrs(path, b"file", &[], &[&large]).expect("replaced");
        assert_eq!(lacks, lacking.xattrs);
    }
}
