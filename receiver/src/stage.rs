//! Staging: contents are written beside the live tree, verified and given their attributes before anything
//! else sees them.
//!
//! What belongs into a directory that the base snapshot does not have waits under its final name in a staged
//! directory, which is later moved into place as a whole: a first sync renames directories, not files. Any
//! other staged file is named by the number of its entry row; rows in blocks of 4,096 share a shelf, and each
//! worker fills shelves of its own. Of a large file that changes a little a patch is all that is staged.

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::io::Errno;
use understudy_protocol::message::{Change, Content, Piece, Touch};
use understudy_protocol::{
    Attributes, ContentHash, Entry, Frame, Message, Name, Node, Place, StateDigest, delta, limits,
};
use understudy_tree::attributes::{create_file_as, set_attributes, set_attributes_of_new};
use understudy_tree::{Directory, Lacking, Privileges, TreeError, content, node};

use crate::arriving::Shape;
use crate::catalog::{Origin, Put, Row};
use crate::dataset::Dataset;
use crate::error::ReceiverError;
use crate::keeping::Keeping;
use crate::ledger::{Entries, Record, Spot};
use crate::leftovers::Taker;
use crate::names;
use crate::patch::Patch;
use crate::resolve::Base;
use crate::shelves::{NewDirectories, SHELF, Shelves};
use crate::streams::Streams;

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
    patches: Directory,
    privileges: Privileges,
    base: Option<Base<'a>>,
    new_directories: NewDirectories<'a>,
    streams: &'a Streams,
    numbers: Numbers,
    /// Next number and end of this worker's shelf.
    own: (u64, u64),
    lacking: Lacking,
    keeping: &'a Keeping<'a>,
    taker: Option<Taker<'a>>,
    /// What the ledger is to tell of the message at hand.
    entries: Entries,
}

impl<'a> Stager<'a> {
    /// `base` is there if there is a snapshot.
    pub(crate) fn new(
        dataset: &Dataset,
        base: Option<Base<'a>>,
        streams: &'a Streams,
        numbers: Numbers,
        keeping: &'a Keeping<'a>,
    ) -> Result<Self, ReceiverError> {
        let shelves = Shelves::open(&dataset.control)?;
        let stream_files = shelves.staging.ensure_directory(&names::STREAMS)?;
        let patches = dataset.control.ensure_directory(&names::PATCHES)?;
        let new_directories = NewDirectories::new(base.as_ref().map(Base::snapshot));
        let privileges = dataset.privileges;
        let lacking = Lacking::default();
        Ok(Self {
            shelves,
            stream_files,
            patches,
            privileges,
            base,
            new_directories,
            streams,
            numbers,
            own: (0, 0),
            lacking,
            keeping,
            taker: keeping.leftovers.map(Taker::new),
            entries: Entries::default(),
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
            let (place, entry, content) = match record {
                Change::Remove { place } => {
                    staged.removals.push(place);
                    continue;
                }
                Change::Put {
                    place,
                    entry,
                    content,
                } => (place, entry, content),
                Change::Touch {
                    place,
                    attributes,
                    touch,
                } => self.in_full(place, attributes, touch)?,
            };
            staged.digest.add(&place, &entry);
            let put = self.put(place, entry, content, number)?;
            staged.puts.push(put);
        }
        self.keeping.append(&mut self.entries)?;
        Ok(staged)
    }

    /// The `Put` that a `Touch` is short for.
    fn in_full(
        &self,
        place: Place,
        attributes: Attributes,
        touch: Touch,
    ) -> Result<(Place, Entry, Content), ReceiverError> {
        let base = self.base.as_ref().ok_or_else(|| {
            ReceiverError::OutOfStep("a touch needs a snapshot, and there is none".to_owned())
        })?;
        let Entry { node, group, .. } = base.row(&place)?.entry;
        let (group, content) = match touch {
            Touch::Kept => (group, Content::Keep(place.clone())),
            Touch::Copied => (0, Content::Copy(place.clone())),
        };
        let entry = Entry {
            attributes,
            node,
            group,
        };
        Ok((place, entry, content))
    }

    /// Has the ledger tell of a new file: with the message at hand, or at once if it is large and about to be moved.
    fn note(&mut self, id: u64, place: &Place, entry: &Entry) -> Result<(), ReceiverError> {
        let Some((size, hash)) = self.keeping.worth_noting(entry) else {
            return Ok(());
        };
        let spot = if self.new_directories.contains(place.parent)? {
            Spot::Incoming(place.parent.0, place.name.clone())
        } else {
            Spot::Shelf(id)
        };
        self.entries.add(&Record::Staged { hash, size, spot })?;
        self.keeping.append_if_large(size, &mut self.entries)
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
                self.note(id, &place, &entry)?;
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
                let shape = self.streams.claim(stream, *size, *hash, number)?;
                self.stage_shape(id, &place, &entry, stream, shape)?;
                Origin::Own
            }
            (Content::Delta(from, pieces), Node::File { hash, .. }) => {
                let data = self.assemble(&place, &from, &pieces, *hash)?;
                self.stage_inline(id, &place, &entry, &data)?;
                Origin::Own
            }
            (Content::Leftover, Node::File { size, hash }) if self.taker.is_some() => {
                self.stage_leftover(id, &place, &entry, (*size, *hash))?;
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
        let privileges = self.privileges;
        let (directory, name) = self.waiting_place(id, place)?;
        let fill = |file: &File| match data {
            [] => Ok(()),
            data => content::write_at(file, 0, data),
        };
        let created = create_file_as(directory, &name, &entry.attributes, &privileges, fill);
        self.lacking.merge(once(place, created)?);
        Ok(())
    }

    /// Stages what has arrived as a stream.
    fn stage_shape(
        &mut self,
        id: u64,
        place: &Place,
        entry: &Entry,
        stream: u64,
        shape: Shape,
    ) -> Result<(), ReceiverError> {
        match shape {
            Shape::Whole => self.stage_stream(id, place, entry, stream),
            Shape::Patch(from) if from == *place && self.may_stay_patch(place, entry)? => {
                let (patches, name) = (&self.patches, names::number(id));
                let stream = names::number(stream);
                once(place, self.stream_files.rename_new(&stream, patches, &name))
            }
            Shape::Patch(from) => self.stage_patched(id, place, entry, stream, &from),
        }
    }

    fn stage_stream(
        &mut self,
        id: u64,
        place: &Place,
        entry: &Entry,
        stream: u64,
    ) -> Result<(), ReceiverError> {
        self.note(id, place, entry)?;
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

    /// Takes what an interrupted upload left.
    fn stage_leftover(
        &mut self,
        id: u64,
        place: &Place,
        entry: &Entry,
        (size, hash): (u64, ContentHash),
    ) -> Result<(), ReceiverError> {
        let taker = self.taker.as_mut().ok_or(ReceiverError::Worker)?;
        let (from, former) = taker.find(size, hash)?;
        self.note(id, place, entry)?;
        let privileges = self.privileges;
        let (directory, name) = self.waiting_place(id, place)?;
        once(place, from.rename_new(&former, directory, &name))?;
        let lacking = set_attributes(directory, &name, entry, &privileges)?;
        self.lacking.merge(lacking);
        Ok(())
    }

    /// Whether a patch is all that is staged of a file: each twin has it under one name only, and then as a file of its own.
    fn may_stay_patch(&mut self, place: &Place, entry: &Entry) -> Result<bool, ReceiverError> {
        if entry.group != 0 || self.new_directories.contains(place.parent)? {
            return Ok(false);
        }
        let base = self.base.as_ref().ok_or(ReceiverError::Worker)?;
        Ok(base.row(place)?.entry.group == 0)
    }

    /// Makes the whole file of a patch.
    fn stage_patched(
        &mut self,
        id: u64,
        place: &Place,
        entry: &Entry,
        stream: u64,
        from: &Place,
    ) -> Result<(), ReceiverError> {
        let stream = names::number(stream);
        let patch = Patch::open(self.stream_files.open_file(&stream)?)?;
        let patch = patch.ok_or(ReceiverError::Worker)?;
        let base = self.base.as_mut().ok_or(ReceiverError::Worker)?;
        let size = base.row(from)?.entry.size_bytes();
        let former = base.open_file(from)?;
        let (directory, name) = self.waiting_place(id, place)?;
        let file = once(place, directory.create_file(&name))?;
        content::copy(&former, &file, size)?;
        patch.apply(&file)?;
        let lacking = set_attributes_of_new(&file, &entry.attributes, &self.privileges)?;
        self.lacking.merge(lacking);
        Ok(self.stream_files.remove_file(&stream)?)
    }

    /// Makes a small content of what the base has and what came.
    fn assemble(
        &mut self,
        place: &Place,
        from: &Place,
        pieces: &[Piece],
        hash: ContentHash,
    ) -> Result<Vec<u8>, ReceiverError> {
        let base = self.base.as_mut().ok_or_else(|| {
            ReceiverError::OutOfStep("a delta needs a snapshot, and there is none".to_owned())
        })?;
        let size = base.row(from)?.entry.content().map(|(size, _)| size);
        let size = size.filter(|size| *size <= limits::INLINE_BYTES as u64);
        let size = size.ok_or_else(|| {
            ReceiverError::Misbehaved(format!("{from:?} is no small file to be a base"))
        })?;
        let of = || format!("{place:?}");
        let file = match base.open_file(from) {
            // Somebody removed it from the live tree: the whole file heals that.
            Err(ReceiverError::Tree(error)) if error.is_gone() => {
                return Err(ReceiverError::BadDelta { of: of() });
            }
            opened => opened?,
        };
        let mut former = vec![0; size as usize];
        let length = content::read_at(&file, 0, &mut former)?;
        let data = delta::assemble(&former, pieces).ok_or_else(|| {
            ReceiverError::Misbehaved(format!("the pieces of {place:?} are not within its base"))
        })?;
        // The base may be damaged, or the two versions alike in a way that the agent's short sums do not tell.
        if length as u64 == size && ContentHash::of(&data) == hash {
            Ok(data)
        } else {
            Err(ReceiverError::BadDelta { of: of() })
        }
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
        let source = base.open_file(from)?;
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
        match self.base.as_ref().map(|base| base.row(from)) {
            Some(Ok(row)) if row.entry.node == *node => Ok(row),
            Some(Err(error)) => Err(error),
            _ => Err(ReceiverError::OutOfStep(format!(
                "the spare has something else than what the agent refers to at {from:?}"
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
