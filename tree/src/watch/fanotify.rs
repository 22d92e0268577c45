//! The fanotify group: reads records, finds out which directory of which root each one concerns, and tells.
//!
//! One mark covers a whole file system, so most of what arrives concerns no root at all; a bounded cache from
//! directory handles to roots makes that cheap. A file system is never held open between two batches, for
//! that would keep people from unmounting it.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use rustix::io::Errno;
use understudy_protocol::{Name, escape};

use super::records::{METADATA_BYTES, Malformed, Place, Record, Records};
use super::resolve::{Inside, Located, Resolver, Trouble};
use super::standing::{FileSystemId, Part, Standing};
use super::{Event, Reach, Touched};
use crate::raw::{self, Mark};
use crate::stat::Identity;

/// How much is read at once.
const BUFFER_BYTES: usize = 256 * 1024;
const MOVES: u64 = libc::FAN_MOVED_FROM | libc::FAN_MOVED_TO;
/// What concerns all names of a file. A write through a memory map gives no event of its own: closing the file does.
const WRITES: u64 = libc::FAN_MODIFY | libc::FAN_CLOSE_WRITE | libc::FAN_ATTRIB;
const MASK: u64 = WRITES | libc::FAN_CREATE | libc::FAN_DELETE | MOVES | libc::FAN_ONDIR;

/// An event that is not in [`MASK`].
const UNUSED: u64 = libc::FAN_ACCESS;

/// The group, its marks and what it knows of directories.
pub(super) struct Group {
    descriptor: OwnedFd,
    /// Whose events are not told; `None` in tests.
    own_process: Option<u32>,
    ignored: Arc<[Vec<u8>]>,
    /// The file systems that carry a mark, with a directory to take it away by.
    marked: HashMap<FileSystemId, Vec<u8>>,
    resolver: Resolver,
    buffer: Vec<u8>,
}

/// What one call of [`Group::read`] came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// This many events were read.
    Events(u64),
    /// The queue was empty.
    Empty,
}

impl Group {
    /// A group without marks; the reason in an operator's words where the kernel refuses.
    pub(super) fn new(own_process: Option<u32>, ignored: Arc<[Vec<u8>]>) -> Result<Self, String> {
        let descriptor = raw::fanotify_init().map_err(|error| explain(error, "this system"))?;
        Ok(Self {
            descriptor,
            own_process,
            ignored,
            marked: HashMap::new(),
            resolver: Resolver::default(),
            buffer: vec![0; BUFFER_BYTES],
        })
    }

    /// Marks every file system of a tree, and tries whether handles can be opened there.
    pub(super) fn arm(&mut self, standing: &Standing) -> Result<(), String> {
        for part in &standing.parts {
            let place = format!("`{}`", escape(&part.path));
            let (directory, now) = Part::open(Path::new(OsStr::from_bytes(&part.path)))
                .map_err(|error| error.to_string())?;
            if now != *part {
                return Err(format!("{place} changed while it was looked at"));
            }
            let directory = directory.as_fd();
            raw::fanotify_mark_file_system(self.as_fd(), Mark::Set, MASK, directory)
                .map_err(|error| explain(error, &place))?;
            self.marked.insert(part.file_system, part.path.clone());
            raw::handle_of(directory)
                .and_then(|handle| raw::open_by_handle(directory, &handle))
                .map_err(|error| explain_handles(error, &place))?;
        }
        Ok(())
    }

    /// Whether the file systems of a tree still carry the marks that they were given. A mark goes with its file system,
    /// and one that was unmounted and mounted again may look the same in every other way.
    pub(super) fn is_armed(&self, standing: &Standing) -> bool {
        standing.parts.iter().all(|part| {
            let opened = Part::open(Path::new(OsStr::from_bytes(&part.path)));
            // Taking away an event that no mark here has changes nothing, and fails where there is no mark.
            opened.is_ok_and(|(directory, _)| {
                raw::fanotify_mark_file_system(
                    self.as_fd(),
                    Mark::Remove,
                    UNUSED,
                    directory.as_fd(),
                )
                .is_ok()
            })
        })
    }

    /// From now on these are the roots: forgets what it knew of directories, and the file systems that none of
    /// them is on.
    pub(super) fn set_roots<'a>(&mut self, roots: impl Iterator<Item = (u32, &'a Standing)>) {
        self.resolver = Resolver::default();
        let mut needed = HashSet::new();
        for (key, standing) in roots {
            self.resolver.add(key, standing);
            needed.extend(standing.parts.iter().map(|part| part.file_system));
        }
        let group = self.descriptor.as_fd();
        self.marked.retain(|file_system, path| {
            if needed.contains(file_system) {
                return true;
            }
            // Where it fails there is another file system by now, and the mark went with its own.
            if let Ok((directory, part)) = Part::open(Path::new(OsStr::from_bytes(path)))
                && part.file_system == *file_system
            {
                let _ =
                    raw::fanotify_mark_file_system(group, Mark::Remove, MASK, directory.as_fd());
            }
            false
        });
    }

    /// At least as many events as are waiting.
    pub(super) fn waiting_events(&self) -> u64 {
        // The kernel counts the fixed part of each event, or all of it. Where it does not say, everything is read.
        rustix::io::ioctl_fionread(&self.descriptor)
            .map_or(u64::MAX, |bytes| bytes.div_ceil(METADATA_BYTES as u64))
    }

    /// Reads one batch and tells what it says.
    pub(super) fn read(
        &mut self,
        tell: &mut impl FnMut(Event),
    ) -> Result<(Progress, Trouble), Errno> {
        let length = match rustix::io::read(&self.descriptor, &mut self.buffer[..]) {
            Ok(length) => length,
            Err(Errno::INTR) => return Ok((Progress::Events(0), Trouble::default())),
            Err(Errno::AGAIN) => return Ok((Progress::Empty, Trouble::default())),
            Err(error) => return Err(error),
        };
        if length == 0 {
            return Err(Errno::IO);
        }
        let buffer = std::mem::take(&mut self.buffer);
        let mut batch = Batch {
            told: HashSet::new(),
            told_inodes: HashSet::new(),
            tell,
        };
        let mut count = 0;
        for record in Records::new(&buffer[..length]) {
            count += 1;
            match record {
                Ok(record) => self.take(&record, &mut batch),
                Err(Malformed) => {
                    self.resolver.trouble.gap_everywhere =
                        Some("the kernel's events have an unknown format".to_owned());
                }
            }
        }
        drop(batch);
        self.buffer = buffer;
        Ok((Progress::Events(count), self.resolver.end_batch()))
    }

    fn take<'a, F: FnMut(Event)>(&mut self, record: &Record<'a>, batch: &mut Batch<'a, '_, F>) {
        if record.mask & libc::FAN_Q_OVERFLOW != 0 {
            self.resolver.trouble.gap_everywhere = Some(
                "more happened at once than the kernel's queue holds (fs.fanotify.max_queued_events)"
                    .to_owned(),
            );
            self.resolver.forget();
            return;
        }
        let moves_directory = record.mask & libc::FAN_ONDIR != 0 && record.mask & MOVES != 0;
        if self.own_process == Some(record.process) {
            // Not told; but what is known of the directory's path is wrong now.
            if moves_directory {
                self.resolver.purge();
            }
            return;
        }
        let Some(place) = record.place else {
            // The number of its names changed: the kernel tells it of the inode, wherever the name was.
            if let Some(inode) = record.inode
                && let Some((inode, roots)) = self.resolver.find_file(inode)
            {
                batch.tell_inode(inode, &roots);
            }
            return;
        };
        let mut located = self.resolver.locate(place.directory, &self.ignored);
        if moves_directory {
            self.resolver.check_ancestors(place);
            if matches!(located, Located::Outside) {
                return;
            }
            // The paths of everything below are others now, and so may be that of this directory.
            self.resolver.purge();
            located = self.resolver.locate(place.directory, &self.ignored);
        }
        // What a directory brought with it may have been changed where nobody looked, and no event says where it
        // was: not even one of both sides, for that side may have come in just before.
        let reach = if moves_directory && record.mask & libc::FAN_MOVED_TO != 0 {
            Reach::Below
        } else if record.mask & libc::FAN_CLOSE_WRITE != 0 {
            Reach::Content
        } else {
            Reach::Entry
        };
        let is_news = match located {
            Located::Inside(inside) => batch.tell(&inside, &place, reach),
            // Another name of the file may stand in a tree.
            Located::Outside | Located::Unknown => batch.told.insert((place.whole, reach)),
        };
        if is_news
            && record.mask & WRITES != 0
            && record.mask & libc::FAN_ONDIR == 0
            && let Some(inode) = record.inode
            && let Some((inode, roots)) = self.resolver.find_shared(inode)
        {
            batch.tell_inode(inode, &roots);
        }
    }
}

impl AsFd for Group {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

/// The events of one read; no name is told twice, for all of it happened before the first telling.
struct Batch<'a, 't, F> {
    told: HashSet<(&'a [u8], Reach)>,
    told_inodes: HashSet<Identity>,
    tell: &'t mut F,
}

impl<'a, F: FnMut(Event)> Batch<'a, '_, F> {
    /// Whether it was not told before.
    fn tell(&mut self, inside: &Inside, place: &Place<'a>, reach: Reach) -> bool {
        if !self.told.insert((place.whole, reach)) {
            return false;
        }
        if place.name == b"." {
            for (root, path) in &inside.roots {
                (self.tell)(Event::Touched {
                    root: *root,
                    directory: inside.directory,
                    path: path.clone(),
                    what: Touched::Itself,
                });
            }
        } else if let Ok(name) = Name::new(place.name) {
            tell_name(inside, &name, reach, self.tell);
        }
        true
    }

    fn tell_inode(&mut self, inode: Identity, roots: &[u32]) {
        if self.told_inodes.insert(inode) {
            for &root in roots {
                (self.tell)(Event::Inode { root, inode });
            }
        }
    }
}

fn tell_name(inside: &Inside, name: &Name, reach: Reach, tell: &mut impl FnMut(Event)) {
    for (root, path) in &inside.roots {
        tell(Event::Touched {
            root: *root,
            directory: inside.directory,
            path: path.clone(),
            what: Touched::Name(name.clone(), reach),
        });
    }
}

/// Why fanotify cannot be had.
fn explain(error: Errno, place: &str) -> String {
    match error {
        Errno::PERM => "fanotify needs CAP_SYS_ADMIN: run as root, or add \
            AmbientCapabilities=CAP_SYS_ADMIN CAP_DAC_READ_SEARCH to the service"
            .to_owned(),
        Errno::NOSYS => "this kernel is built without fanotify".to_owned(),
        Errno::INVAL => {
            format!("fanotify cannot report names on {place}: it takes Linux 5.9 or newer")
        }
        Errno::MFILE => "too many fanotify groups: raise fs.fanotify.max_user_groups".to_owned(),
        Errno::NOSPC => "too many fanotify marks: raise fs.fanotify.max_user_marks".to_owned(),
        Errno::XDEV => format!("{place} is a btrfs subvolume, which fanotify cannot watch"),
        Errno::OPNOTSUPP | Errno::NODEV => {
            format!("the file system of {place} has no handles that fanotify could report")
        }
        error => format!(
            "fanotify is refused on {place}: {}",
            std::io::Error::from(error)
        ),
    }
}

fn explain_handles(error: Errno, place: &str) -> String {
    match error {
        Errno::PERM => {
            "fanotify needs CAP_DAC_READ_SEARCH to find directories: run as root, or add \
            AmbientCapabilities=CAP_SYS_ADMIN CAP_DAC_READ_SEARCH to the service"
                .to_owned()
        }
        error => format!(
            "directories of {place} cannot be opened by handle: {}",
            std::io::Error::from(error)
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::records::InodeKey;
    use super::*;
    use crate::directory::Mounts;
    use understudy_protocol::RelPath;

    #[test]
    fn a_tree_is_armed_until_its_mark_goes() {
        let scratch = tempfile::tempdir().expect("scratch");
        let Ok(mut group) = Group::new(None, Arc::default()) else {
            return;
        };
        let all = super::super::mounts::read().expect("mounts");
        let standing = Standing::look(scratch.path(), Mounts::Stay, &all).expect("look");
        assert!(!group.is_armed(&standing));
        if group.arm(&standing).is_err() {
            return;
        }
        assert!(group.is_armed(&standing) && group.is_armed(&standing));
        group.set_roots(std::iter::empty());
        assert!(!group.is_armed(&standing), "nobody needs it any more");
    }

    #[test]
    fn a_batch_tells_each_name_once_to_each_root() {
        let inside = Inside {
            directory: Identity {
                inode: 1,
                born: None,
            },
            roots: vec![(1, RelPath::root()), (2, RelPath::root())],
        };
        let mut told = Vec::new();
        let mut tell = |event| told.push(event);
        let mut batch = Batch {
            told: HashSet::new(),
            told_inodes: HashSet::new(),
            tell: &mut tell,
        };
        let place = |whole: &'static [u8]| Place {
            directory: InodeKey(&whole[..8]),
            name: &whole[8..],
            whole,
        };
        for whole in [
            b"handle-1f",
            b"handle-1f",
            b"handle-2f",
            b"handle-1.",
            b"handle-1f",
        ] {
            batch.tell(&inside, &place(whole), Reach::Entry);
        }
        assert_eq!(told.len(), 3 * inside.roots.len());
    }
}
