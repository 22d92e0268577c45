//! The live tree beside the rows of the newest snapshot: the names of a directory and its rows in lock step, a directory before what it
//! holds. Knows nothing of contents: what may have another one is handed on.

use std::collections::HashMap;
use std::sync::Arc;

use understudy_protocol::{
    Attributes, DirectoryId, Entry, Node, Place, RelPath, Timestamp, limits,
};
use understudy_tree::{Directory, Kind, Privileges, Stat, TreeError, node};

use super::rows::Rows;
use crate::catalog::{Catalog, Row};
use crate::comparison::{self, Deviation};
use crate::error::ReceiverError;
use crate::names;

/// What a walk meets.
#[derive(Debug)]
pub(crate) enum Found {
    /// Something that is not what its row says, or may not be, or has none.
    Suspect(Suspect),
    /// A directory that is new, or has other attributes.
    Directory(Suspect, Entry),
    /// A row without anything at its place.
    Gone(Place, RelPath),
    /// What cannot be taken, and why. Its row, if it has one, stays.
    Lost(RelPath, String),
}

/// A name of the live tree.
#[derive(Debug)]
pub(crate) struct Suspect {
    pub(crate) directory: Arc<Directory>,
    /// The same directory of the other twin, if that has it.
    pub(crate) twin: Option<Arc<Directory>>,
    pub(crate) place: Place,
    /// Below the live tree.
    pub(crate) path: RelPath,
    pub(crate) stat: Stat,
    /// What the newest snapshot has there.
    pub(crate) row: Option<Row>,
    /// How that differs; `None` if only its content may.
    pub(crate) deviation: Option<Deviation>,
    /// Whether it is another file than the names of its hard-link group that were met before.
    pub(crate) is_apart: bool,
}

/// What is known of a live tree without a look at it.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Grounds {
    /// Directories that were not touched since then hold the files that they held; `None` if nobody knows a moment like this.
    pub(crate) sound_until: Option<Timestamp>,
    /// When the other twin was made anew from the live tree, whatever stood there: it is no witness of what was done before.
    pub(crate) rebuilt: Option<Timestamp>,
}

/// A walk through a live tree.
pub(crate) struct Walk<'a> {
    pub(crate) live: &'a Directory,
    /// The other twin.
    pub(crate) twin: Option<&'a Directory>,
    /// The newest snapshot; `None` if everything is new.
    pub(crate) base: Option<(&'a Catalog, u64)>,
    pub(crate) privileges: Privileges,
    pub(crate) grounds: Grounds,
    /// The number of the next new directory.
    pub(crate) next_directory: u64,
    /// The inode of each hard-link group that was met.
    pub(crate) groups: HashMap<u64, u64>,
}

/// A directory that is to be walked through.
pub(crate) struct Pending {
    id: DirectoryId,
    path: RelPath,
    depth: usize,
    /// Whether the snapshot has it.
    is_known: bool,
}

type Visit<'v> = &'v mut dyn FnMut(Found) -> Result<(), ReceiverError>;

impl Walk<'_> {
    /// Meets everything.
    pub(crate) fn run(&mut self, visit: Visit<'_>) -> Result<(), ReceiverError> {
        let mut pending = self.roots(visit)?;
        pending.reverse();
        while let Some(directory) = pending.pop() {
            let first = pending.len();
            self.directory(directory, &mut pending, visit)?;
            pending[first..].reverse();
        }
        Ok(())
    }

    /// Meets what is in one directory that the snapshot has, and nothing below that.
    pub(crate) fn one(
        &mut self,
        id: DirectoryId,
        path: RelPath,
        visit: Visit<'_>,
    ) -> Result<(), ReceiverError> {
        let directory = Pending {
            id,
            path,
            depth: 0,
            is_known: true,
        };
        self.directory(directory, &mut Vec::new(), visit)
    }

    /// The directories `files` and `databases`; nothing else belongs beside them.
    fn roots(&mut self, visit: Visit<'_>) -> Result<Vec<Pending>, ReceiverError> {
        let live = Arc::new(self.live.try_clone()?);
        let twin = self.twin.map(Directory::try_clone).transpose()?;
        let twin = twin.map(Arc::new);
        let mut pending = Vec::new();
        for name in live.names()? {
            let path = RelPath::root().join(&name);
            let is_root = [&*names::FILES, &*names::DATABASES].contains(&&name);
            let Some(stat) = live.stat_if_present(&name)? else {
                continue;
            };
            if !is_root || stat.kind != Kind::Directory {
                if name != *names::SNAPSHOT {
                    let what = "does not belong beside `files`, and is in no snapshot";
                    visit(Found::Lost(path, what.to_owned()))?;
                }
                continue;
            }
            let place = Place::new(DirectoryId::TOP, name);
            let row = self.row(&place)?;
            let suspect = Suspect {
                directory: Arc::clone(&live),
                twin: twin.clone(),
                place,
                path,
                stat,
                row,
                deviation: None,
                is_apart: false,
            };
            self.child(suspect, 0, &mut pending, visit)?;
        }
        Ok(pending)
    }

    fn row(&self, place: &Place) -> Result<Option<Row>, ReceiverError> {
        match self.base {
            Some((catalog, at)) => catalog.row(place, at),
            None => Ok(None),
        }
    }

    fn directory(
        &mut self,
        at: Pending,
        pending: &mut Vec<Pending>,
        visit: Visit<'_>,
    ) -> Result<(), ReceiverError> {
        let opened = self.live.open_beneath(&at.path);
        let opened = opened.and_then(|directory| {
            let names = directory.names()?;
            Ok((directory, names))
        });
        let (directory, names) = match opened {
            // It is met as gone by whoever looks again.
            Err(error) if error.is_gone() => return Ok(()),
            Err(error) if is_of_entry(&error) => {
                return visit(Found::Lost(at.path, format!("cannot be read: {error}")));
            }
            opened => opened?,
        };
        let twin = match self.twin.filter(|_| at.is_known) {
            Some(twin) => twin.open_beneath(&at.path).ok().map(Arc::new),
            None => None,
        };
        let (directory, mut rows) = (
            Arc::new(directory),
            Rows::new(self.base.filter(|_| at.is_known), at.id),
        );
        for name in names {
            while let Some(row) = rows.before(&name)? {
                self.gone(&at, row, visit)?;
            }
            let row = rows.at(&name)?;
            let path = at.path.join(&name);
            let Some(stat) = directory.stat_if_present(&name)? else {
                if let Some(row) = row {
                    self.gone(&at, row, visit)?;
                }
                continue;
            };
            let suspect = Suspect {
                directory: Arc::clone(&directory),
                twin: twin.clone(),
                place: Place::new(at.id, name),
                path,
                stat,
                row,
                deviation: None,
                is_apart: false,
            };
            self.child(suspect, at.depth, pending, visit)?;
        }
        while let Some(row) = rows.next()? {
            self.gone(&at, row, visit)?;
        }
        Ok(())
    }

    fn gone(&self, at: &Pending, row: Row, visit: Visit<'_>) -> Result<(), ReceiverError> {
        // What is recorded only is on no disk.
        if !node::can_exist(&row.entry, &self.privileges) {
            return Ok(());
        }
        let path = at.path.join(&row.place.name);
        visit(Found::Gone(row.place, path))
    }

    fn child(
        &mut self,
        mut suspect: Suspect,
        depth: usize,
        pending: &mut Vec<Pending>,
        visit: Visit<'_>,
    ) -> Result<(), ReceiverError> {
        if let Some(row) = &suspect.row {
            let at = (&*suspect.directory, &suspect.place.name);
            match comparison::deviation(at, &row.entry, &suspect.stat, &self.privileges) {
                Err(error) if error.is_gone() => {
                    return visit(Found::Gone(suspect.place, suspect.path));
                }
                Err(error) if is_of_entry(&error) => {
                    return visit(Found::Lost(
                        suspect.path,
                        format!("cannot be read: {error}"),
                    ));
                }
                deviation => suspect.deviation = deviation?,
            }
        }
        match suspect.stat.kind {
            Kind::Directory => self.child_directory(suspect, depth, pending, visit),
            Kind::Socket => {
                if suspect.row.is_some() {
                    visit(Found::Gone(suspect.place, suspect.path.clone()))?;
                }
                let what = "is a socket, which no snapshot can have".to_owned();
                visit(Found::Lost(suspect.path, what))
            }
            _ => match self.is_sound(&mut suspect)? {
                true => Ok(()),
                false => visit(Found::Suspect(suspect)),
            },
        }
    }

    fn child_directory(
        &mut self,
        suspect: Suspect,
        depth: usize,
        pending: &mut Vec<Pending>,
        visit: Visit<'_>,
    ) -> Result<(), ReceiverError> {
        if depth >= limits::DEPTH {
            let what = "is deeper than a snapshot may have it".to_owned();
            return visit(Found::Lost(suspect.path, what));
        }
        if suspect.stat.mount_root {
            let what = "is a file system of its own that is mounted there".to_owned();
            return visit(Found::Lost(suspect.path, what));
        }
        let known = suspect.row.as_ref();
        let known = known.and_then(|row| Some((row, row.entry.directory_id()?)));
        let is_known = known.is_some();
        let id = match known {
            Some((_, id)) => id,
            None => self.new_directory(&suspect.place)?,
        };
        pending.push(Pending {
            id,
            path: suspect.path.clone(),
            depth: depth + 1,
            is_known,
        });
        if is_known && suspect.deviation.is_none() {
            return Ok(());
        }
        let found = node::read_attributes(&suspect.directory, &suspect.place.name, &suspect.stat);
        let found = match found {
            Err(error) if is_of_entry(&error) => {
                pending.pop();
                return visit(Found::Lost(
                    suspect.path,
                    format!("cannot be read: {error}"),
                ));
            }
            found => found?,
        };
        let entry = Entry {
            attributes: self.attributes(suspect.row.as_ref(), is_known, found),
            node: Node::Directory { id },
            group: 0,
        };
        visit(Found::Directory(suspect, entry))
    }

    fn attributes(&self, row: Option<&Row>, is_known: bool, found: Attributes) -> Attributes {
        match row.filter(|_| is_known) {
            Some(row) => comparison::attributes_now(&row.entry, found, &self.privileges),
            None => found,
        }
    }

    fn new_directory(&mut self, place: &Place) -> Result<DirectoryId, ReceiverError> {
        if place.parent == DirectoryId::TOP && place.name == *names::FILES {
            return Ok(DirectoryId::FILES);
        }
        let id = self.next_directory;
        self.next_directory = id.checked_add(1).ok_or(ReceiverError::Worker)?;
        Ok(DirectoryId(id))
    }

    /// Whether what stands there is surely what the row says.
    fn is_sound(&mut self, suspect: &mut Suspect) -> Result<bool, ReceiverError> {
        let Some(row) = &suspect.row else {
            return Ok(false);
        };
        if suspect.deviation.is_some() {
            return Ok(false);
        }
        let inode = suspect.stat.identity.inode;
        let group = row.entry.group;
        suspect.is_apart = group != 0 && *self.groups.entry(group).or_insert(inode) != inode;
        if suspect.is_apart {
            return Ok(false);
        }
        if suspect.stat.kind != Kind::File {
            return Ok(true);
        }
        let touched = suspect.directory.stat_self()?.changed;
        if self
            .grounds
            .sound_until
            .is_some_and(|until| touched < until)
        {
            return Ok(true);
        }
        if self
            .grounds
            .rebuilt
            .is_some_and(|rebuilt| touched <= rebuilt)
        {
            return Ok(false);
        }
        // Another file may have come to its place with the same size and times. One that is new in the newest snapshot may have come to
        // the twin after that.
        let is_old = self.base.is_some_and(|(_, at)| row.since < at);
        let twin = match &suspect.twin {
            Some(twin) => twin.stat_if_present(&suspect.place.name)?,
            None => None,
        };
        Ok(is_old && twin.is_some_and(|twin| twin.identity == suspect.stat.identity))
    }
}

/// Whether an error is about one entry: the others can be read.
pub(super) fn is_of_entry(error: &TreeError) -> bool {
    use rustix::io::Errno;
    let of_entry = [
        Errno::ACCESS,
        Errno::PERM,
        Errno::IO,
        Errno::TOOBIG,
        Errno::XDEV,
        Errno::LOOP,
        Errno::NOTDIR,
        Errno::NODATA,
        Errno::ISDIR,
        Errno::STALE,
    ];
    error.errno().is_some_and(|errno| of_entry.contains(&errno))
}
