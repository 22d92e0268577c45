//! From a directory's handle to the roots that it is in: a bounded cache before the kernel's own answer.
//!
//! A path means something only within one mount, so handles are opened in each mount in which a root is; and only
//! while every root stands where it stood, so that "outside" is never said of what is merely elsewhere for a moment.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{Mode, OFlags, openat};
use rustix::io::Errno;
use understudy_protocol::RelPath;

use super::mounts;
use super::records::{InodeKey, Place};
use super::standing::{FileSystemId, Part, Standing, identify, identify_with_names, path_of};
use crate::raw;
use crate::stat::Identity;

/// Directories remembered; about 300 bytes each.
const CACHE_ENTRIES: usize = 16_384;
/// A directory so deep that the kernel cannot name it is looked up from above; deeper than this is an error.
const CLIMB_LIMIT: usize = 4096;
/// The kernel answers "no memory" too while the directory is being removed (seen on Linux 6.18, ext4; up to five
/// times in a row).
const HANDLE_TRIES: usize = 100;

/// What a batch told beside its events.
#[derive(Debug, Default)]
pub(super) struct Trouble {
    /// Roots of which something was missed.
    pub(super) gaps: Vec<(u32, String)>,
    /// Something was missed, and nobody knows in which root.
    pub(super) gap_everywhere: Option<String>,
    /// Roots that do not stand where they stood.
    pub(super) lost: Vec<(u32, String)>,
}

/// A directory inside at least one root.
pub(super) struct Inside {
    pub(super) directory: Identity,
    pub(super) roots: Vec<(u32, RelPath)>,
}

/// Where a directory is.
#[derive(Clone)]
pub(super) enum Located {
    /// In these roots.
    Inside(Arc<Inside>),
    /// In none.
    Outside,
    /// It is gone, or could not be found, which was noted as trouble.
    Unknown,
}

/// Finds the roots of a directory from its handle.
#[derive(Default)]
pub(super) struct Resolver {
    views: Vec<View>,
    ancestors: Vec<Ancestor>,
    cache: HashMap<Box<[u8]>, Located>,
    /// Files with one name. The kernel tells of each that gets another, so it is known of most without a look.
    single: HashSet<Box<[u8]>>,
    pub(super) trouble: Trouble,
}

/// A directory above a root.
struct Ancestor {
    path: Vec<u8>,
    identity: Identity,
    /// What leads to the root.
    name: Vec<u8>,
    root: u32,
}

impl Ancestor {
    fn stands(&self) -> bool {
        Part::open(Path::new(OsStr::from_bytes(&self.path)))
            .is_ok_and(|(_, part)| part.identity == self.identity)
    }
}

/// One mount in which roots are: a path means something only within a mount.
struct View {
    file_system: FileSystemId,
    mount: u64,
    anchors: Vec<Anchor>,
    /// Open while a batch is read.
    held: Option<OwnedFd>,
    /// Whether a failure was told in this batch.
    failed: bool,
}

/// The topmost directory of a root in a mount.
struct Anchor {
    root: u32,
    real: Vec<u8>,
    part: Part,
}

impl Resolver {
    pub(super) fn add(&mut self, root: u32, standing: &Standing) {
        for part in &standing.parts {
            let anchor = Anchor {
                root,
                real: standing.real.clone(),
                part: part.clone(),
            };
            let known = self
                .views
                .iter_mut()
                .find(|view| view.file_system == part.file_system && view.mount == part.mount);
            match known {
                Some(view) => view.anchors.push(anchor),
                None => self.views.push(View {
                    file_system: part.file_system,
                    mount: part.mount,
                    anchors: vec![anchor],
                    held: None,
                    failed: false,
                }),
            }
        }
        for (end, _) in standing
            .real
            .iter()
            .enumerate()
            .filter(|(_, byte)| **byte == b'/')
        {
            let above = &standing.real[..end.max(1)];
            let rest = &standing.real[end + 1..];
            let name = rest.split(|&byte| byte == b'/').next().unwrap_or_default();
            // One that cannot be opened cannot be told apart either; the roots are looked at in every drain.
            if let Ok((_, part)) = Part::open(Path::new(OsStr::from_bytes(above))) {
                self.ancestors.push(Ancestor {
                    path: above.to_vec(),
                    identity: part.identity,
                    name: name.to_vec(),
                    root,
                });
            }
        }
    }

    pub(super) fn purge(&mut self) {
        self.cache.clear();
    }

    /// Events were lost: nothing that they keep true is.
    pub(super) fn forget(&mut self) {
        self.purge();
        self.single.clear();
    }

    /// Lets go of the file systems.
    pub(super) fn end_batch(&mut self) -> Trouble {
        for view in &mut self.views {
            view.held = None;
            view.failed = false;
        }
        std::mem::take(&mut self.trouble)
    }

    pub(super) fn locate(&mut self, key: InodeKey<'_>, ignored: &[Vec<u8>]) -> Located {
        if let Some(known) = self.cache.get(key.0) {
            return known.clone();
        }
        let Ok(located) = self.resolve(key, ignored) else {
            return Located::Unknown;
        };
        if self.cache.len() >= CACHE_ENTRIES {
            self.cache.clear();
        }
        self.cache.insert(key.0.into(), located.clone());
        located
    }

    /// Asks the kernel. An error was noted as trouble, and is not remembered.
    fn resolve(&mut self, key: InodeKey<'_>, ignored: &[Vec<u8>]) -> Result<Located, Errno> {
        let mut inside: Option<Inside> = None;
        for view in &mut self.views {
            if view.file_system != key.file_system() {
                continue;
            }
            let found = view
                .hold(&mut self.trouble)
                .and_then(|mount| find(mount, key.handle()));
            let (directory, path) = match found {
                Ok(found) => found,
                // The directory is gone; the one it was in tells so.
                Err(Errno::STALE) => return Ok(Located::Unknown),
                Err(error) => {
                    view.fail(error, &mut self.trouble);
                    return Err(error);
                }
            };
            if ignored
                .iter()
                .any(|ignored| mounts::is_at_or_below(&path, ignored))
            {
                return Ok(Located::Outside);
            }
            for anchor in &view.anchors {
                let Some(rest) = mounts::below(&path, &anchor.real) else {
                    continue;
                };
                let rest = RelPath::new(rest).map_err(|_| Errno::INVAL)?;
                let inside = inside.get_or_insert_with(|| Inside {
                    directory,
                    roots: Vec::new(),
                });
                if !inside.roots.iter().any(|(root, _)| *root == anchor.root) {
                    inside.roots.push((anchor.root, rest));
                }
            }
        }
        Ok(inside.map_or(Located::Outside, |inside| Located::Inside(Arc::new(inside))))
    }

    /// The same as [`Self::find_file`], for a file with several names.
    pub(super) fn find_shared(&mut self, key: InodeKey<'_>) -> Option<(Identity, Vec<u32>)> {
        if self.single.contains(key.0) {
            return None;
        }
        let (identity, names, roots) = self.look_at(key)?;
        if names > 1 {
            return Some((identity, roots));
        }
        if self.single.len() >= CACHE_ENTRIES {
            self.single.clear();
        }
        self.single.insert(key.0.into());
        None
    }

    /// A file that got or lost a name, if it still has one, and the roots on its file system: by itself it is in none.
    /// An error was noted as trouble.
    pub(super) fn find_file(&mut self, key: InodeKey<'_>) -> Option<(Identity, Vec<u32>)> {
        self.single.remove(key.0);
        let (identity, _, roots) = self.look_at(key)?;
        Some((identity, roots))
    }

    /// Also how many names it has.
    fn look_at(&mut self, key: InodeKey<'_>) -> Option<(Identity, u32, Vec<u32>)> {
        let mut roots = Vec::new();
        let mut found = None;
        for view in &mut self.views {
            if view.file_system != key.file_system() {
                continue;
            }
            roots.extend(view.anchors.iter().map(|anchor| anchor.root));
            if found.is_some() {
                continue;
            }
            let looked = view
                .hold(&mut self.trouble)
                .and_then(|mount| open(mount, key.handle()))
                .and_then(|inode| identify_with_names(inode.as_fd()));
            match looked {
                Ok(looked) => found = Some(looked),
                Err(Errno::STALE) => return None,
                Err(error) => view.fail(error, &mut self.trouble),
            }
        }
        roots.sort_unstable();
        roots.dedup();
        found.map(|(identity, names)| (identity, names, roots))
    }

    /// A directory got another name. If a root is below it, its paths were others for a while.
    pub(super) fn check_ancestors(&mut self, place: Place<'_>) {
        if !self.ancestors.iter().any(|above| above.name == place.name) {
            return;
        }
        let mut on_it = self
            .views
            .iter_mut()
            .filter(|view| view.file_system == place.directory.file_system());
        if let Some(view) = on_it.next() {
            let parent = view
                .hold(&mut self.trouble)
                .and_then(|mount| identify(open(mount, place.directory.handle())?.as_fd()));
            for above in &self.ancestors {
                if above.name != place.name {
                    continue;
                }
                let same = match parent {
                    Ok((parent, _)) => parent == above.identity,
                    // One that is gone is not the one that stands.
                    Err(Errno::STALE) => !above.stands(),
                    Err(_) => true,
                };
                if same {
                    let reason = "a directory above it was moved".to_owned();
                    self.trouble.gaps.push((above.root, reason));
                    self.cache.clear();
                }
            }
        }
    }
}

impl View {
    /// A descriptor in this mount, with all roots where they were; a root that is not there is lost.
    fn hold(&mut self, trouble: &mut Trouble) -> Result<BorrowedFd<'_>, Errno> {
        if self.held.is_none() && !self.failed {
            for anchor in &self.anchors {
                let stands = if self.held.is_some() {
                    anchor.part.still_stands()
                } else {
                    let opened = Part::open(Path::new(OsStr::from_bytes(&anchor.part.path)));
                    self.held = opened
                        .ok()
                        .filter(|(_, part)| *part == anchor.part)
                        .map(|(descriptor, _)| descriptor);
                    self.held.is_some()
                };
                if !stands {
                    let reason = "it does not stand where it stood".to_owned();
                    trouble.lost.push((anchor.root, reason));
                }
            }
            // The losses say it all.
            self.failed = self.held.is_none();
        }
        self.held.as_ref().map(AsFd::as_fd).ok_or(Errno::NOENT)
    }

    fn fail(&mut self, error: Errno, trouble: &mut Trouble) {
        if std::mem::replace(&mut self.failed, true) {
            return;
        }
        for anchor in &self.anchors {
            let reason = format!(
                "a directory in which something changed could not be found: {}",
                std::io::Error::from(error)
            );
            trouble.gaps.push((anchor.root, reason));
        }
    }
}

/// The identity and path of the directory with this handle.
fn find(mount: BorrowedFd<'_>, handle: &[u8]) -> Result<(Identity, Vec<u8>), Errno> {
    let directory = open(mount, handle)?;
    let (identity, _) = identify(directory.as_fd())?;
    let mut climbed = directory;
    for _ in 0..CLIMB_LIMIT {
        match path_of(climbed.as_fd()) {
            // Deeper than a path can say: the nearest directory above that has one is in the same roots.
            Err(Errno::NAMETOOLONG) => {
                let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
                climbed = openat(&climbed, "..", flags, Mode::empty())?;
            }
            path => return path.map(|path| (identity, path)),
        }
    }
    Err(Errno::NAMETOOLONG)
}

fn open(mount: BorrowedFd<'_>, handle: &[u8]) -> Result<OwnedFd, Errno> {
    for _ in 0..HANDLE_TRIES {
        match raw::open_by_handle(mount, handle) {
            Err(Errno::NOMEM) => std::thread::yield_now(),
            opened => return opened,
        }
    }
    Err(Errno::NOMEM)
}
