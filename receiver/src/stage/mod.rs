//! Staging: contents are written beside the live tree, verified and given their attributes before anything
//! else sees them.
//!
//! What belongs into a directory that the base snapshot does not have waits under its final name in a staged
//! directory, which is later moved into place as a whole: a first sync renames directories, not files. Any
//! other staged file is named by the number of its entry row; rows in blocks of 4,096 share a shelf, and each
//! worker fills shelves of its own. Of a large file that changes a little a patch is all that is staged.

mod arrived;
mod derived;
mod recalled;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::io::Errno;
use understudy_protocol::message::{Change, Content, Owners};
use understudy_protocol::{
    Bytes, ContentHash, Entry, Frame, Message, Name, Node, Place, StateDigest, version,
};
use understudy_tree::{Directory, Lacking, Privileges, TreeError, node};

use crate::catalog::{Origin, Put};
use crate::dataset::Dataset;
use crate::error::ReceiverError;
use crate::keeping::Keeping;
use crate::ledger::{Entries, Record, Spot};
use crate::leftovers::Taker;
use crate::names;
use crate::recall::{CaughtUp, Recall};
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
    /// What owners are called.
    pub(crate) owners: Owners,
    /// What the main has signed.
    pub(crate) statement: Option<Bytes>,
    /// Sum over `puts`.
    pub(crate) digest: StateDigest,
    /// Bytes of files that came into being, and of those that were there already: leftovers.
    pub(crate) bytes: (u64, u64),
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
    recall: Recall<'a>,
    /// The version of the protocol.
    spoken: u32,
    /// What the ledger is to tell of the message at hand.
    entries: Entries,
}

impl<'a> Stager<'a> {
    /// `base` is there if there is a snapshot.
    pub(crate) fn new(
        dataset: &'a Dataset,
        base: Option<Base<'a>>,
        streams: &'a Streams,
        numbers: Numbers,
        keeping: &'a Keeping<'a>,
        caught_up: &'a CaughtUp,
        spoken: u32,
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
            recall: Recall::new(dataset, caught_up),
            spoken,
            entries: Entries::default(),
        })
    }

    /// What could not be set on any staged entry.
    pub(crate) fn lacking(&self) -> Lacking {
        self.lacking
    }

    /// Stages everything that a `Changes`, `Fuzzy` or `Owners` frame or `Stated` frame carries; `number` counts the frames of the upload.
    pub(crate) fn stage(&mut self, frame: &Frame, number: u64) -> Result<Staged, ReceiverError> {
        let (mut records, mut fuzzy, mut owners) = (Vec::new(), Vec::new(), Owners::default());
        let mut statement = None;
        match frame.decode()? {
            Message::Changes(changes) => records = changes.records,
            Message::Fuzzy(told) => fuzzy = told.places,
            Message::Owners(told) => owners = told,
            Message::Stated(stated) => statement = Some(stated.statement),
            _ => return Err(ReceiverError::Worker),
        }
        let mut staged = Staged {
            puts: Vec::with_capacity(records.len()),
            removals: Vec::new(),
            fuzzy,
            owners,
            statement,
            digest: StateDigest::empty(),
            bytes: (0, 0),
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
                } if self.spoken >= since(&content) => (place, entry, content),
                Change::Touch {
                    place,
                    attributes,
                    touch,
                } if self.spoken >= version::SHORT => self.in_full(place, attributes, touch)?,
                Change::Put { place, .. } | Change::Touch { place, .. } => {
                    return Err(too_new(&place));
                }
            };
            staged.digest.add(&place, &entry);
            weigh(&content, entry.size_bytes(), &mut staged.bytes);
            let put = self.put(place, entry, content, number)?;
            staged.puts.push(put);
        }
        self.keeping.append(&mut self.entries)?;
        Ok(staged)
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
                check(&place, &data, (*size, *hash))?;
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
            (Content::Delta(from, pieces), Node::File { size, hash }) => {
                let data = self.assemble(&place, &from, &pieces, (*size, *hash))?;
                self.stage_inline(id, &place, &entry, &data)?;
                Origin::Own
            }
            (Content::Leftover, Node::File { size, hash }) if self.taker.is_some() => {
                self.stage_leftover(id, &place, &entry, (*size, *hash))?;
                Origin::Own
            }
            (Content::History, Node::File { size, hash }) if self.base.is_some() => {
                self.stage_recalled(id, &place, &entry, (*size, *hash))?;
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
}

/// Adds the bytes of a file to those that came into being, or were there. Those of a stream were counted as they came.
fn weigh(content: &Content, size: u64, (fresh, taken): &mut (u64, u64)) {
    let sum = match content {
        Content::Directory | Content::Stream(_) | Content::Keep(_) | Content::Sibling(_) => return,
        Content::Leftover => taken,
        Content::Inline(_) | Content::Copy(_) | Content::Delta(..) | Content::History => fresh,
    };
    *sum = sum.saturating_add(size);
}

fn check(place: &Place, data: &[u8], content: (u64, ContentHash)) -> Result<(), ReceiverError> {
    if (data.len() as u64, ContentHash::of(data)) == content {
        return Ok(());
    }
    Err(ReceiverError::Misbehaved(format!(
        "the content of {place:?} does not have its hash"
    )))
}

/// The version that brought a content.
fn since(content: &Content) -> u32 {
    match content {
        Content::Delta(..) => version::SHORT,
        Content::History => version::HISTORY,
        // Leftovers are refused where none were told.
        _ => version::OLDEST,
    }
}

fn too_new(place: &Place) -> ReceiverError {
    ReceiverError::Misbehaved(format!(
        "what is said of {place:?} belongs to a newer version than was agreed on"
    ))
}

/// A name that is taken in staging was put before in the same upload.
fn once<T>(place: &Place, result: Result<T, TreeError>) -> Result<T, ReceiverError> {
    result.map_err(|error| match error.errno() {
        Some(Errno::EXIST) => ReceiverError::Misbehaved(format!("{place:?} was put twice")),
        _ => error.into(),
    })
}
