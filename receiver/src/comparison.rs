//! What stands on a disk beside what an entry says of it. What could not be set here for lack of privileges is recorded only, and no
//! difference.

use understudy_protocol::{Attributes, Entry, Name, Node, Timestamp};
use understudy_tree::attributes::{is_within_reach, to_make};
use understudy_tree::{Directory, Kind, Privileges, Stat, TreeError, node};

/// Seconds since 1970 that every file system with more than 32 bits for them can hold (ext4: 1901 to 2446). A main may say others; what
/// becomes of those on the disk is no difference.
const LASTING: std::ops::RangeInclusive<i64> = -(1 << 31)..=(1 << 34) - (1 << 31) - 1;

/// How what stands there differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Deviation {
    /// It is something else.
    Kind,
    /// It has so many bytes.
    Size(u64),
    /// A link that points elsewhere, or another device.
    Node,
    /// It is the same, with other attributes.
    Attributes(Aspects),
}

/// Which attributes differ.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Aspects {
    modified: bool,
    mode: bool,
    owner: bool,
    xattrs: bool,
}

/// How what has this stat differs from an entry, if it does.
pub(crate) fn deviation(
    (directory, name): (&Directory, &Name),
    entry: &Entry,
    stat: &Stat,
    privileges: &Privileges,
) -> Result<Option<Deviation>, TreeError> {
    let another = another((directory, name), entry, stat)?;
    if another.is_some() {
        return Ok(another);
    }
    let found = node::read_attributes(directory, name, stat)?;
    let aspects = aspects(entry, &found, privileges);
    Ok((aspects != Aspects::default()).then_some(Deviation::Attributes(aspects)))
}

/// How it is something else, whatever its attributes are.
pub(crate) fn another(
    (directory, name): (&Directory, &Name),
    entry: &Entry,
    stat: &Stat,
) -> Result<Option<Deviation>, TreeError> {
    if !is_same_kind(entry, stat.kind) {
        return Ok(Some(Deviation::Kind));
    }
    Ok(match &entry.node {
        Node::File { size, .. } if *size != stat.size => Some(Deviation::Size(stat.size)),
        Node::Symlink { target } if directory.read_link(name)? != target.0 => Some(Deviation::Node),
        Node::CharacterDevice { major, minor } | Node::BlockDevice { major, minor }
            if stat.device != (*major, *minor) =>
        {
            Some(Deviation::Node)
        }
        _ => None,
    })
}

/// Which attributes are not what this entry would have here.
fn aspects(entry: &Entry, found: &Attributes, privileges: &Privileges) -> Aspects {
    let wanted = to_make(entry, privileges);
    let differs = privileges.override_permissions && found.mode != wanted.mode
        || found.mode & 0o777 & !wanted.mode & !0o500 != 0;
    let within_reach = found
        .xattrs
        .iter()
        .filter(|xattr| is_within_reach(xattr, privileges));
    Aspects {
        modified: found.modified != wanted.modified && lasts(wanted.modified),
        // Nobody can set that of a symbolic link.
        mode: differs && !matches!(entry.node, Node::Symlink { .. }),
        owner: privileges.chown && (found.uid, found.gid) != (wanted.uid, wanted.gid),
        xattrs: privileges.chown && !within_reach.eq(&wanted.xattrs),
    }
}

/// Whether any file system can hold a time.
pub(crate) fn lasts(time: Timestamp) -> bool {
    LASTING.contains(&time.seconds)
}

/// The attributes of what an entry was about, as they are found now: what this disk cannot have stays as it was recorded.
pub(crate) fn attributes_now(
    entry: &Entry,
    found: Attributes,
    privileges: &Privileges,
) -> Attributes {
    let differ = aspects(entry, &found, privileges);
    let former = &entry.attributes;
    let (uid, gid) = match differ.owner {
        true => (found.uid, found.gid),
        false => (former.uid, former.gid),
    };
    let xattrs = if differ.xattrs {
        let made = to_make(entry, privileges).xattrs;
        let recorded = former.xattrs.iter().filter(|xattr| !made.contains(xattr));
        let mut xattrs: Vec<_> = found.xattrs;
        let is_new = |name: &[u8]| xattrs.iter().all(|xattr| *xattr.name != *name);
        let recorded: Vec<_> = recorded.filter(|one| is_new(&one.name)).cloned().collect();
        xattrs.extend(recorded);
        xattrs.sort_unstable();
        xattrs
    } else {
        former.xattrs.clone()
    };
    Attributes {
        mode: if differ.mode { found.mode } else { former.mode },
        uid,
        gid,
        modified: if differ.modified {
            found.modified
        } else {
            former.modified
        },
        xattrs,
    }
}

/// Whether what stands there is what the entry says.
pub(crate) fn is_same_kind(entry: &Entry, kind: Kind) -> bool {
    match entry.node {
        Node::Directory { .. } => kind == Kind::Directory,
        Node::File { .. } => kind == Kind::File,
        Node::Symlink { .. } => kind == Kind::Symlink,
        Node::Fifo => kind == Kind::Fifo,
        Node::CharacterDevice { .. } => kind == Kind::CharacterDevice,
        Node::BlockDevice { .. } => kind == Kind::BlockDevice,
    }
}

impl Deviation {
    /// For people, after the path.
    pub(crate) fn text(self, entry: &Entry) -> String {
        match self {
            Self::Kind => format!("is not a {} any more", entry.kind()),
            Self::Size(found) => {
                format!("has {found} bytes instead of {}", entry.size_bytes())
            }
            Self::Node if matches!(entry.node, Node::Symlink { .. }) => {
                "points elsewhere".to_owned()
            }
            Self::Node => "is another device".to_owned(),
            Self::Attributes(aspects) => format!("differs in {}", aspects.text()),
        }
    }
}

impl Aspects {
    fn text(self) -> String {
        let all = [
            (self.modified, "modification time"),
            (self.mode, "mode"),
            (self.owner, "owner"),
            (self.xattrs, "extended attributes"),
        ];
        let differing = all.iter().filter(|(differs, _)| *differs);
        let differing: Vec<_> = differing.map(|(_, what)| *what).collect();
        differing.join(", ")
    }
}
