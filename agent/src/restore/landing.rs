//! Putting finished entries into a tree that is in use: each appears at once and whole, by a rename, and what stood in its
//! place is kept beside the target.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use rustix::io::Errno;
use understudy_protocol::{ContentHash, Name, RelPath};
use understudy_tree::{Directory, Kind, TreeError, remove};

use super::plan::Leaf;
use super::switch::Site;
use crate::error::AgentError;

/// The names under which large files grow begin so; all others are of no use to a later run.
const LARGE: &[u8] = b"large-";
/// How many things of one name may be kept.
const SAME_NAMES: u32 = 1000;

/// The way into the target.
#[derive(Debug)]
pub(super) struct Landing<'a> {
    site: &'a Site,
    /// Where entries are made, open to this process only.
    pub(super) scratch: Directory,
    next: AtomicU64,
    kept: Mutex<Option<Kept>>,
}

/// Where is kept what had to go.
#[derive(Debug)]
struct Kept {
    name: Name,
    directory: Directory,
}

impl<'a> Landing<'a> {
    /// With the directory that an interrupted run left, less what is of no use.
    pub(super) fn new(site: &'a Site) -> Result<Self, AgentError> {
        let scratch = site.open_scratch()?;
        for name in scratch.names()? {
            if !name.as_bytes().starts_with(LARGE) {
                site.discard(&scratch, &name)?;
            }
        }
        Ok(Self {
            site,
            scratch,
            next: AtomicU64::new(0),
            kept: Mutex::new(None),
        })
    }

    /// A name in the scratch directory that nothing has.
    pub(super) fn fresh(&self) -> Result<Name, AgentError> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.site.name(format!("new-{number}").into_bytes())
    }

    /// The name in the scratch directory for a content that comes in pieces: another for another content, and for another place.
    pub(super) fn of_content(&self, leaf: &Leaf) -> Result<Name, AgentError> {
        let (_, hash) = leaf.entry.content().unwrap_or((0, ContentHash::of(b"")));
        let parent = leaf.place.parent.0.to_le_bytes();
        let key = [&hash.0[..], &parent[..], leaf.place.name.as_bytes()].concat();
        let key = ContentHash::of(&key).to_string();
        self.site.name([LARGE, key.as_bytes()].concat())
    }

    /// Gives what is called `made` in the scratch directory its place: `name` in `directory`, which is at `path` in the target.
    pub(super) fn land(
        &self,
        made: &Name,
        directory: &Directory,
        path: &RelPath,
        name: &Name,
    ) -> Result<(), AgentError> {
        match self.scratch.rename_new(made, directory, name) {
            Err(error) if error.errno() == Some(Errno::EXIST) => {}
            result => return Ok(result?),
        }
        let is_directory = self.scratch.stat(made)?.kind == Kind::Directory;
        let stands = directory.stat_if_present(name)?;
        let stands_directory = stands.is_some_and(|stat| stat.kind == Kind::Directory);
        if is_directory || stands_directory || !self.link_aside(directory, path, name)? {
            self.move_aside(directory, path, name)?;
        }
        Ok(self.scratch.rename(made, directory, name)?)
    }

    /// Keeps what stands at a name by a second name, so that there is no moment without it; whether that can be done.
    fn link_aside(
        &self,
        directory: &Directory,
        path: &RelPath,
        name: &Name,
    ) -> Result<bool, AgentError> {
        let aside = self.aside(path)?;
        match self.under_free_name(name, |free| directory.link(name, &aside, free)) {
            Ok(()) => Ok(true),
            // Whatever forbids the link, a rename is as good but for the moment in between.
            Err(AgentError::Tree(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Moves what stands at a name away; nothing there is fine.
    pub(super) fn move_aside(
        &self,
        directory: &Directory,
        path: &RelPath,
        name: &Name,
    ) -> Result<(), AgentError> {
        let aside = self.aside(path)?;
        let moved = self.under_free_name(name, |free| directory.rename_new(name, &aside, free));
        match moved {
            Err(AgentError::Tree(error)) if error.is_gone() => Ok(()),
            result => result,
        }
    }

    fn under_free_name(
        &self,
        name: &Name,
        keep: impl Fn(&Name) -> Result<(), TreeError>,
    ) -> Result<(), AgentError> {
        let mut result = keep(name);
        for number in 1..SAME_NAMES {
            match result {
                Err(error) if error.errno() == Some(Errno::EXIST) => {
                    let free = [name.as_bytes(), format!(".{number}").as_bytes()].concat();
                    result = keep(&self.site.name(free)?);
                }
                result => return Ok(result?),
            }
        }
        Ok(result?)
    }

    /// The directory of the kept things for `path`, made if need be.
    fn aside(&self, path: &RelPath) -> Result<Directory, AgentError> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.is_none() {
            let (name, directory) = self.site.make_kept()?;
            *kept = Some(Kept { name, directory });
        }
        let Some(kept) = &*kept else {
            return Err(AgentError::Interrupted);
        };
        let mut directory = kept.directory.try_clone()?;
        let parts = path.as_bytes().split(|&byte| byte == b'/');
        for part in parts.filter(|part| !part.is_empty()) {
            directory = directory.ensure_directory(&self.site.name(part.to_vec())?)?;
        }
        Ok(directory)
    }

    /// Removes the scratch directory; returns where things are kept, if any are.
    pub(super) fn finish(self) -> Result<Option<PathBuf>, AgentError> {
        remove::empty(&self.scratch)?;
        self.site.remove_scratch()?;
        let kept = self
            .kept
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        Ok(kept.map(|kept| self.site.path_beside(&kept.name)))
    }
}
