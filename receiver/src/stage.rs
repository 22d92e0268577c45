//! Staging: contents are written beside the live tree, verified and given their attributes before anything
//! else sees them.
//!
//! What belongs into a directory that the base snapshot does not have waits under its final name in a staged
//! directory, which is later moved into place as a whole: a first sync renames directories, not files. Any
//! other staged file is named by the number of its entry row; rows in blocks of 4,096 share a shelf, and each
//! worker fills shelves of its own.

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::io::Errno;
use understudy_protocol::message::{Change, Content};
use understudy_protocol::{
    ContentHash, DirectoryId, Entry, Frame, Message, Name, Node, Place, StateDigest,
};
use understudy_tree::attributes::{set_attributes, set_attributes_of_new};
use understudy_tree::{Directory, Lacking, Privileges, TreeError, content, node};

use crate::catalog::{Catalog, Origin, Put, Row};
use crate::dataset::Dataset;
use crate::error::ReceiverError;
use crate::names;
use crate::resolve::Handles;
use crate::streams::Streams;

/// Rows per shelf.
const SHELF: u64 = 4096;

/// Where staged files are, with the directories used last kept open.
pub(crate) struct Shelves {
    staging: Directory,
    incoming: Directory,
    open: Option<(u64, Directory)>,
    open_incoming: Option<(DirectoryId, Directory)>,
}

impl Shelves {
    pub(crate) fn open(control: &Directory) -> Result<Self, ReceiverError> {
        let staging = control.ensure_directory(&names::STAGING)?;
        let incoming = staging.ensure_directory(&names::INCOMING)?;
        Ok(Self {
            staging,
            incoming,
            open: None,
            open_incoming: None,
        })
    }

    /// The shelf and name of an entry's staged file.
    pub(crate) fn get(&mut self, id: u64) -> Result<(&Directory, Name), ReceiverError> {
        let shelf = id / SHELF;
        if self.open.as_ref().is_none_or(|(open, _)| *open != shelf) {
            self.open = Some((shelf, self.staging.ensure_directory(&names::number(shelf))?));
        }
        let (_, directory) = self.open.as_ref().ok_or(ReceiverError::Worker)?;
        Ok((directory, names::number(id)))
    }

    /// The staged directory that will be the new directory `id`.
    fn incoming(&mut self, id: DirectoryId) -> Result<&Directory, ReceiverError> {
        if self
            .open_incoming
            .as_ref()
            .is_none_or(|(open, _)| *open != id)
        {
            self.open_incoming = Some((id, self.incoming.ensure_directory(&names::number(id.0))?));
        }
        let (_, directory) = self.open_incoming.as_ref().ok_or(ReceiverError::Worker)?;
        Ok(directory)
    }

    /// Moves the staged directory to its place; `false` if there is none, because nothing was staged for it.
    pub(crate) fn place_directory(
        &self,
        id: DirectoryId,
        parent: &Directory,
        name: &Name,
    ) -> Result<bool, ReceiverError> {
        match self.incoming.rename_new(&names::number(id.0), parent, name) {
            Ok(()) => Ok(true),
            Err(error) if error.is_gone() => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

/// Tells which directories the base snapshot does not have.
pub(crate) struct NewDirectories<'a> {
    /// The catalog and the number of the base snapshot; `None` without a base: all are new.
    base: Option<(&'a Catalog, u64)>,
    last: Option<(DirectoryId, bool)>,
}

impl<'a> NewDirectories<'a> {
    pub(crate) fn new(base: Option<(&'a Catalog, u64)>) -> Self {
        Self { base, last: None }
    }

    pub(crate) fn contains(&mut self, id: DirectoryId) -> Result<bool, ReceiverError> {
        let Some((catalog, at)) = self.base else {
            return Ok(true);
        };
        if let Some((last, is_new)) = self.last
            && last == id
        {
            return Ok(is_new);
        }
        let is_new = catalog.directory_place(id, at)?.is_none();
        self.last = Some((id, is_new));
        Ok(is_new)
    }
}

/// Hands out row numbers to all workers of an upload.
#[derive(Debug, Clone)]
pub(crate) struct Numbers {
    next_shelf: Arc<AtomicU64>,
}

impl Numbers {
    /// All numbers are at least `first`.
    pub(crate) fn new(first: u64) -> Self {
        Self {
            next_shelf: Arc::new(AtomicU64::new(first.div_ceil(SHELF))),
        }
    }
}

/// What a worker made of one message.
#[derive(Debug)]
pub(crate) struct Staged {
    pub(crate) puts: Vec<Put>,
    pub(crate) removals: Vec<Place>,
    /// Files that are fuzzy, put now or not.
    pub(crate) fuzzy: Vec<Place>,
    /// Sum over `puts`.
    pub(crate) digest: StateDigest,
}

/// Turns `Changes` messages into staged files and rows.
pub(crate) struct Stager<'a> {
    shelves: Shelves,
    stream_files: Directory,
    privileges: Privileges,
    base: Option<Base<'a>>,
    new_directories: NewDirectories<'a>,
    streams: &'a Streams,
    numbers: Numbers,
    /// Next number and end of this worker's shelf.
    own: (u64, u64),
    lacking: Lacking,
}

/// The snapshot the upload starts from.
struct Base<'a> {
    catalog: &'a Catalog,
    at: u64,
    live: Handles<'a>,
}

impl<'a> Stager<'a> {
    /// `base` is a reading catalog with the live twin, if there is a snapshot.
    pub(crate) fn new(
        dataset: &Dataset,
        base: Option<(&'a Catalog, u64, &'a Directory)>,
        streams: &'a Streams,
        numbers: Numbers,
    ) -> Result<Self, ReceiverError> {
        let shelves = Shelves::open(&dataset.control)?;
        let stream_files = shelves.staging.ensure_directory(&names::STREAMS)?;
        let new_directories = NewDirectories::new(base.map(|(catalog, at, _)| (catalog, at)));
        let base = base.map(|(catalog, at, live)| Base {
            catalog,
            at,
            live: Handles::new(live, catalog, at),
        });
        let privileges = dataset.privileges;
        let lacking = Lacking::default();
        Ok(Self {
            shelves,
            stream_files,
            privileges,
            base,
            new_directories,
            streams,
            numbers,
            own: (0, 0),
            lacking,
        })
    }

    /// What could not be set on any staged entry.
    pub(crate) fn lacking(&self) -> Lacking {
        self.lacking
    }

    /// Stages everything that a `Changes` or `Fuzzy` frame carries; `number` counts the frames of the upload.
    pub(crate) fn stage(&mut self, frame: &Frame, number: u64) -> Result<Staged, ReceiverError> {
        let (records, fuzzy) = match frame.decode()? {
            Message::Changes(changes) => (changes.records, Vec::new()),
            Message::Fuzzy(fuzzy) => (Vec::new(), fuzzy.places),
            _ => return Err(ReceiverError::Worker),
        };
        let mut staged = Staged {
            puts: Vec::with_capacity(records.len()),
            removals: Vec::new(),
            fuzzy,
            digest: StateDigest::empty(),
        };
        for record in records {
            match record {
                Change::Remove { place } => staged.removals.push(place),
                Change::Put {
                    place,
                    entry,
                    content,
                } => {
                    staged.digest.add(&place, &entry);
                    staged.puts.push(self.put(place, entry, content, number)?);
                }
            }
        }
        Ok(staged)
    }

    fn put(
        &mut self,
        place: Place,
        entry: Entry,
        content: Content,
        number: u64,
    ) -> Result<Put, ReceiverError> {
        let id = self.next_number();
        let origin = match (content, &entry.node) {
            (Content::Directory, Node::Directory { .. }) => Origin::Own,
            (Content::Inline(data), Node::File { size, hash }) => {
                if data.len() as u64 != *size || ContentHash::of(&data) != *hash {
                    return Err(ReceiverError::Misbehaved(format!(
                        "the content of {place:?} does not have its hash"
                    )));
                }
                self.stage_inline(id, &place, &entry, &data)?;
                Origin::Own
            }
            (Content::Inline(data), node)
                if data.is_empty() && !matches!(node, Node::Directory { .. }) =>
            {
                let privileges = self.privileges;
                let (directory, name) = self.waiting_place(id, &place)?;
                let lacking = once(
                    &place,
                    node::create_special(directory, &name, &entry, &privileges),
                )?;
                self.lacking.merge(lacking);
                Origin::Own
            }
            (Content::Stream(stream), Node::File { size, hash }) => {
                self.streams.claim(stream, *size, *hash, number)?;
                self.stage_stream(id, &place, &entry, stream)?;
                Origin::Own
            }
            (Content::Copy(from), Node::File { .. }) => {
                self.stage_copy(id, &place, &entry, &from)?;
                Origin::Own
            }
            (Content::Keep(from), node) if !matches!(node, Node::Directory { .. }) => {
                Origin::Kept(self.kept_row(&from, node)?.id)
            }
            (Content::Sibling(first), node) if !matches!(node, Node::Directory { .. }) => {
                Origin::Sibling(first)
            }
            (content, _) => {
                let kind = entry.kind();
                return Err(ReceiverError::Misbehaved(format!(
                    "{place:?}: a {kind} cannot have the content {content:?}"
                )));
            }
        };
        Ok(Put {
            id,
            place,
            entry,
            origin,
        })
    }

    fn next_number(&mut self) -> u64 {
        if self.own.0 == self.own.1 {
            let shelf = self.numbers.next_shelf.fetch_add(1, Ordering::Relaxed);
            self.own = (shelf * SHELF, (shelf + 1) * SHELF);
        }
        self.own.0 += 1;
        self.own.0 - 1
    }

    /// Where a new file waits for the build.
    fn waiting_place(
        &mut self,
        id: u64,
        place: &Place,
    ) -> Result<(&Directory, Name), ReceiverError> {
        if self.new_directories.contains(place.parent)? {
            Ok((self.shelves.incoming(place.parent)?, place.name.clone()))
        } else {
            self.shelves.get(id)
        }
    }

    fn stage_inline(
        &mut self,
        id: u64,
        place: &Place,
        entry: &Entry,
        data: &[u8],
    ) -> Result<(), ReceiverError> {
        let (directory, name) = self.waiting_place(id, place)?;
        let file = once(place, directory.create_file(&name))?;
        if !data.is_empty() {
            content::write_at(&file, 0, data)?;
        }
        let lacking = set_attributes_of_new(&file, &entry.attributes, &self.privileges)?;
        self.lacking.merge(lacking);
        Ok(())
    }

    fn stage_stream(
        &mut self,
        id: u64,
        place: &Place,
        entry: &Entry,
        stream: u64,
    ) -> Result<(), ReceiverError> {
        let (privileges, stream_files) = (self.privileges, self.stream_files.try_clone()?);
        let (directory, name) = self.waiting_place(id, place)?;
        once(
            place,
            stream_files.rename_new(&names::number(stream), directory, &name),
        )?;
        let lacking = set_attributes(directory, &name, entry, &privileges)?;
        self.lacking.merge(lacking);
        Ok(())
    }

    /// Copies within the store; what is copied is verified as if it had been sent.
    fn stage_copy(
        &mut self,
        id: u64,
        place: &Place,
        entry: &Entry,
        from: &Place,
    ) -> Result<(), ReceiverError> {
        self.kept_row(from, &entry.node)?;
        let (size, hash) = entry.content().ok_or(ReceiverError::Worker)?;
        let base = self.base.as_mut().ok_or(ReceiverError::Worker)?;
        let source: File = base.live.get(from.parent)?.open_file(&from.name)?;
        let (directory, name) = self.waiting_place(id, place)?;
        let file = once(place, directory.create_file(&name))?;
        content::copy(&source, &file, size)?;
        if content::hash_file(&file, size)? != hash {
            return Err(ReceiverError::Damaged(format!(
                "the live file at {from:?} does not have the content the catalog says; run `understudy verify`"
            )));
        }
        let lacking = set_attributes_of_new(&file, &entry.attributes, &self.privileges)?;
        self.lacking.merge(lacking);
        Ok(())
    }

    /// The base row at a place, which must be the same thing as what is put.
    fn kept_row(&self, from: &Place, node: &Node) -> Result<Row, ReceiverError> {
        let row = match &self.base {
            Some(base) => base.catalog.row(from, base.at)?,
            None => None,
        };
        match row {
            Some(row) if row.entry.node == *node => Ok(row),
            _ => Err(ReceiverError::OutOfStep(format!(
                "the spare does not have what the agent refers to at {from:?}"
            ))),
        }
    }
}

/// A name that is taken in staging was put before in the same upload.
fn once<T>(place: &Place, result: Result<T, TreeError>) -> Result<T, ReceiverError> {
    result.map_err(|error| match error.errno() {
        Some(Errno::EXIST) => ReceiverError::Misbehaved(format!("{place:?} was put twice")),
        _ => error.into(),
    })
}
