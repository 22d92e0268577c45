//! Practising a promotion: how a copy of the newest snapshot is come by that nothing can reach the store through, and what the last practice
//! showed. Must not know how hooks are run.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use understudy_protocol::shown::size;
use understudy_protocol::{
    DatasetName, DirectoryId, Entry, Name, Node, Position, RelPath, Snapshot,
};
use understudy_tree::attributes::{drop_default_acl, set_attributes, set_attributes_of_new};
use understudy_tree::node::{create_special, read_attributes, read_attributes_of, read_node};
use understudy_tree::walk::{Visited, walk};
use understudy_tree::{Directory, Identity, Kind, Privileges, content};

use crate::access::existing;
use crate::cycle;
use crate::error::ReceiverError;
use crate::guard;
use crate::housekeeping::Stop;
use crate::space::Reserve;
use crate::store::Store;
use crate::{names, sealed};

const LIMIT_BYTES: u64 = 4096;

/// What the last practice showed that succeeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rehearsed {
    /// When it ended: seconds since 1970.
    pub ended_seconds: i64,
    /// What was promoted.
    pub position: Position,
    /// How long it took until an application could have written.
    pub promotion_milliseconds: u64,
    /// How long the hooks ran.
    pub hooks_milliseconds: u64,
    /// So many hooks ran.
    pub ran: u64,
    /// So many cannot be rehearsed.
    pub left_out: u64,
}

/// Writes it down. Durable when it returns.
pub fn remember(
    store: &Store,
    name: &DatasetName,
    rehearsed: &Rehearsed,
) -> Result<(), ReceiverError> {
    let dataset = existing(store, name)?;
    sealed::write(&dataset.control, &names::REHEARSED, rehearsed)
}

/// What was written down last; `None` if nothing that can be read: nobody's decision may wait for a practice.
pub fn last(store: &Store, name: &DatasetName) -> Result<Option<Rehearsed>, ReceiverError> {
    let dataset = existing(store, name)?;
    let known = sealed::read(&dataset.control, &names::REHEARSED, LIMIT_BYTES);
    Ok(known.unwrap_or(None))
}

/// How a copy is come by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Its files share blocks with those of the store until either is written to.
    Share,
    /// Every byte is written once more.
    Copy,
}

/// Which way there is to a copy of a dataset in a directory. Fails with [`ReceiverError::NoSpace`] if the copy would take the reserve.
pub fn way(
    store: &Store,
    name: &DatasetName,
    (place, bytes): (&Directory, u64),
    reserve: Reserve,
) -> Result<Way, ReceiverError> {
    let dataset = existing(store, name)?;
    let (from, to) = (dataset.control.create_unnamed()?, place.create_unnamed()?);
    if content::try_reflink(&from, &to) {
        return Ok(Way::Share);
    }
    if reserve.has_room_for(place, bytes)? {
        return Ok(Way::Copy);
    }
    Err(ReceiverError::NoSpace(format!(
        "a copy of dataset `{name}`, on a file system that shares no blocks with the store's, takes {} beside the reserve",
        size(bytes)
    )))
}

/// Makes a directory of this name in `place`, a copy of the tree that shows the newest snapshot, which is returned. No cycle can begin
/// meanwhile.
///
/// What another program did to that tree is in the copy too: whoever needs the snapshot compares the digests.
pub fn share(
    store: &Store,
    name: &DatasetName,
    (place, to): (&Directory, &Name),
) -> Result<Snapshot, ReceiverError> {
    let dataset = existing(store, name)?;
    let locked = dataset.lock_patiently()?;
    let catalog = dataset.catalog(&locked)?;
    let pending = catalog.pending()?;
    if pending.is_some() && guard::standing(&dataset, pending.as_ref())?.is_none() {
        return Err(ReceiverError::Crowded(format!(
            "a cycle of dataset `{name}` was interrupted: the receiver finishes it when it starts, or with the next cycle"
        )));
    }
    let (Some(head), Some(from)) = (catalog.head()?, dataset.newest()?) else {
        return Err(ReceiverError::NotFound(format!(
            "dataset `{name}` has no snapshot yet"
        )));
    };
    let stat = from.stat(&names::FILES)?;
    let root = Entry {
        attributes: read_attributes(&from, &names::FILES, &stat)?,
        node: Node::Directory {
            id: DirectoryId::FILES,
        },
        group: 0,
    };
    place.create_directory(to)?;
    let twin = Twin::new(place.open_directory(to)?, dataset.privileges);
    twin.copy(&from.open_directory(&names::FILES)?)?;
    set_attributes(place, to, &root, &dataset.privileges)?;
    Ok(head.snapshot)
}

/// Brings a dataset that was just made to where one stands that is kept up to date: with both of its trees.
pub fn settle(store: &Store, name: &DatasetName) -> Result<(), ReceiverError> {
    let dataset = existing(store, name)?;
    let locked = dataset.lock_patiently()?;
    let catalog = dataset.catalog(&locked)?;
    cycle::catch_up(&dataset, &catalog, &locked, &Stop::default())?;
    dataset.sync()
}

/// A copy that is being made.
struct Twin {
    to: Directory,
    privileges: Privileges,
    /// Where a file with several names is already. Both trees of a store have names of nearly every file.
    first: HashMap<Identity, (RelPath, Name)>,
    /// What gets its attributes once nothing is made in it any more.
    directories: Vec<(RelPath, Name, Entry)>,
}

impl Twin {
    fn new(to: Directory, privileges: Privileges) -> Self {
        Self {
            to,
            privileges,
            first: HashMap::new(),
            directories: Vec::new(),
        }
    }

    fn copy(mut self, from: &Directory) -> Result<(), ReceiverError> {
        drop_default_acl(&self.to)?;
        walk(from, |parent, visited| self.visit(parent, visited))?;
        for (parent, name, entry) in self.directories.iter().rev() {
            let parent = self.to.open_beneath(parent)?;
            set_attributes(&parent, name, entry, &self.privileges)?;
        }
        Ok(())
    }

    fn visit(&mut self, parent: &Directory, visited: Visited) -> Result<bool, ReceiverError> {
        let Visited {
            parent: path,
            name,
            stat,
        } = visited;
        let to = self.to.open_beneath(&path)?;
        if stat.kind == Kind::File {
            if let Some((path, first)) = self.first.get(&stat.identity) {
                self.to.open_beneath(path)?.link(first, &to, &name)?;
                return Ok(false);
            }
            let from = parent.open_file(&name)?;
            let file = to.create_file(&name)?;
            content::copy(&from, &file, stat.size)?;
            let attributes = read_attributes_of(&from, &stat)?;
            set_attributes_of_new(&file, &attributes, &self.privileges)?;
            if stat.links > 1 {
                self.first.insert(stat.identity, (path, name));
            }
            return Ok(false);
        }
        let Some(node) = read_node(parent, &name, &stat, DirectoryId::TOP)? else {
            return Ok(false);
        };
        let attributes = read_attributes(parent, &name, &stat)?;
        let entry = Entry {
            attributes,
            node,
            group: 0,
        };
        if stat.kind == Kind::Directory {
            to.create_directory(&name)?;
            drop_default_acl(&to.open_directory(&name)?)?;
            self.directories.push((path, name, entry));
            return Ok(true);
        }
        create_special(&to, &name, &entry, &self.privileges)?;
        Ok(false)
    }
}
