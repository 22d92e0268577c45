//! Looking into the past: what a snapshot has at a path and below, which versions of a file there are, what differs
//! between two snapshots.
//!
//! Only the catalog is read, in pages, and answers leave in batches: no question makes this side hold more than a page
//! of entries for each level of a tree.

mod diff;
mod find;
mod paths;
mod side;
mod walk;

use understudy_protocol::message::{
    Compare, Depth, Differences, Find, Found, ListSnapshots, ListTree, Listed, Locate, Located,
    Snapshots, Summaries, Summary, Tally, Told,
};
use understudy_protocol::transport::Outgoing;
use understudy_protocol::{
    ContentHash, DirectoryId, Encoder, Entry, Message, Name, Node, Place, ProtocolError, RelPath,
    limits,
};

use crate::access::Permitted;
use crate::catalog::{Catalog, Recorded};
use crate::dataset::Dataset;
use crate::error::ReceiverError;
use crate::names;
use crate::promote::preserve;
use crate::serve::send;

/// Answers the questions that leave a session as it was.
pub(crate) fn serve(
    dataset: &Permitted,
    request: &Message,
    outgoing: &Outgoing,
) -> Result<(), ReceiverError> {
    match request {
        Message::ListTree(request) => list(dataset, request, outgoing),
        Message::Find(request) => find(dataset, request, outgoing),
        Message::Compare(request) => compare(dataset, request, outgoing),
        Message::Summarise(_) => summarise(dataset, outgoing),
        Message::ListSnapshots(request) => list_snapshots(dataset, request, outgoing),
        other => Err(ProtocolError::Unexpected {
            got: other.name(),
            wanted: "a request",
        }
        .into()),
    }
}

/// Answers a `Locate`; contents are given of the snapshot that is returned.
pub(crate) fn locate(
    dataset: &Permitted,
    request: &Locate,
    outgoing: &Outgoing,
) -> Result<Recorded, ReceiverError> {
    let catalog = catalog(dataset)?;
    let recorded = match request.number {
        Some(number) => snapshot(dataset, &catalog, number)?,
        None => newest(dataset, &catalog)?,
    };
    let at = recorded.snapshot.position.number;
    let (place, entry) = resolve(&catalog, at, &request.path)?;
    let located = Located {
        snapshot: recorded.snapshot.clone(),
        place,
        entry,
    };
    send(outgoing, &Message::Located(located))?;
    Ok(recorded)
}

/// Answers a `ListTree`.
fn list(dataset: &Permitted, request: &ListTree, outgoing: &Outgoing) -> Result<(), ReceiverError> {
    let _reading = dataset.reading()?;
    let catalog = catalog(dataset)?;
    let at = request.number;
    snapshot(dataset, &catalog, at)?;
    let (_, entry) = resolve(&catalog, at, &request.path)?;
    let mut batch = Batch::new(outgoing, |entries| Message::Listed(Listed { entries }));
    match entry.directory_id() {
        None => batch.add((request.path.clone(), entry))?,
        Some(directory) => {
            let below = walk::Walk::new(&catalog, directory, request.path.clone(), (at, at));
            let mut walks = vec![below];
            if directory == DirectoryId::FILES {
                walks.push(walk::Walk::of_databases(&catalog, (at, at)));
            }
            for mut walk in walks {
                while let Some(seen) = walk.next()? {
                    if request.depth == Depth::All {
                        walk.enter(&seen, walk::Wanted::All)?;
                    }
                    batch.add((seen.path, seen.entry))?;
                }
            }
        }
    }
    batch.send()?;
    snapshot(dataset, &catalog, at)?;
    send(outgoing, &Message::Told(Told {}))
}

/// Answers a `Find`.
fn find(dataset: &Permitted, request: &Find, outgoing: &Outgoing) -> Result<(), ReceiverError> {
    let _reading = dataset.reading()?;
    let catalog = catalog(dataset)?;
    let head = newest(dataset, &catalog)?.snapshot.position.number;
    let mut batch = Batch::new(outgoing, |versions| Message::Found(Found { versions }));
    find::versions(&catalog, head, request, |version| batch.add(version))?;
    batch.send()?;
    send(outgoing, &Message::Told(Told {}))
}

/// Answers a `Compare`.
fn compare(
    dataset: &Permitted,
    request: &Compare,
    outgoing: &Outgoing,
) -> Result<(), ReceiverError> {
    let _reading = dataset.reading()?;
    let catalog = catalog(dataset)?;
    let (from, to) = (request.from, request.to);
    let check = || {
        snapshot(dataset, &catalog, from)?;
        snapshot(dataset, &catalog, to).map(drop)
    };
    check()?;
    let mut batch = Batch::new(outgoing, |differences| {
        Message::Differences(Differences { differences })
    });
    diff::differences(&catalog, from, to, |difference| batch.add(difference))?;
    batch.send()?;
    // One that was removed meanwhile has lost rows.
    check()?;
    send(outgoing, &Message::Told(Told {}))
}

/// Answers a `ListSnapshots`.
fn list_snapshots(
    dataset: &Permitted,
    request: &ListSnapshots,
    outgoing: &Outgoing,
) -> Result<(), ReceiverError> {
    if let Some(catalog) = dataset.read_catalog()? {
        let mut snapshots = catalog.snapshots()?;
        snapshots.truncate(
            snapshots.partition_point(|one| one.snapshot.position.number < request.before),
        );
        for some in snapshots.chunks(limits::RECORDS) {
            let snapshots = some.iter().map(|one| one.snapshot.clone()).collect();
            send(outgoing, &Message::Snapshots(Snapshots { snapshots }))?;
        }
    }
    send(outgoing, &Message::Told(Told {}))
}

/// Answers a `Summarise`.
fn summarise(dataset: &Permitted, outgoing: &Outgoing) -> Result<(), ReceiverError> {
    let _reading = dataset.reading()?;
    let mut batch = Batch::new(outgoing, |summaries| {
        Message::Summaries(Summaries { summaries })
    });
    if let Some(catalog) = dataset.read_catalog()? {
        let mut before = None;
        for recorded in catalog.snapshots()? {
            let number = recorded.snapshot.position.number;
            let mut summary = Summary {
                number,
                ..Summary::default()
            };
            match before.replace(number) {
                None => {
                    summary.added = Tally {
                        entries: recorded.snapshot.entries,
                        bytes: recorded.snapshot.bytes,
                    };
                }
                Some(before) => diff::differences(&catalog, before, number, |difference| {
                    summary.count(&difference);
                    Ok(())
                })?,
            }
            batch.add(summary)?;
        }
    }
    batch.send()?;
    send(outgoing, &Message::Told(Told {}))
}

/// Which files of which snapshots had a content, for people, after what is wrong with it; the first few.
pub(crate) fn former_names(catalog: &Catalog, hash: ContentHash) -> Result<String, ReceiverError> {
    let mut text = String::new();
    for row in catalog.former_rows(hash)? {
        // Of snapshots that were removed the catalog may know no paths.
        let numbers = catalog.snapshots()?.into_iter();
        let mut numbers = numbers.map(|one| one.snapshot.position.number);
        let is_of =
            |number: &u64| row.since <= *number && row.until.is_none_or(|until| *number < until);
        let Some(number) = numbers.find(is_of) else {
            continue;
        };
        let path = paths::Paths::new(catalog, number).of(&row.place)?;
        let last = row.until.unwrap_or(row.since + 1).saturating_sub(1);
        text.push_str(&format!(
            "; it is `{path}` in snapshots {} to {last}",
            row.since
        ));
    }
    Ok(text)
}

fn catalog(dataset: &Dataset) -> Result<Catalog, ReceiverError> {
    dataset.read_catalog()?.ok_or_else(|| nothing(dataset))
}

fn newest(dataset: &Dataset, catalog: &Catalog) -> Result<Recorded, ReceiverError> {
    catalog.head()?.ok_or_else(|| nothing(dataset))
}

fn nothing(dataset: &Dataset) -> ReceiverError {
    ReceiverError::NotFound(format!("dataset `{}` has no snapshot yet", dataset.name))
}

fn snapshot(dataset: &Dataset, catalog: &Catalog, number: u64) -> Result<Recorded, ReceiverError> {
    catalog.snapshot(number)?.ok_or_else(|| {
        ReceiverError::NotFound(format!(
            "dataset `{}` has no snapshot {number}; `snapshots` lists them",
            dataset.name
        ))
    })
}

/// Damage names the file of the snapshot that cannot be given for it: people know a path, not a hash.
pub(crate) fn name_damage(
    dataset: &Dataset,
    (place, at): (Option<&Place>, u64),
    error: ReceiverError,
) -> ReceiverError {
    let path = || {
        let catalog = dataset.read_catalog().ok()??;
        paths::Paths::new(&catalog, at).of(place?).ok()
    };
    match (error, path()) {
        (ReceiverError::Damaged(why), Some(path)) => {
            let why = preserve::why_lost(dataset, &path).unwrap_or(why);
            ReceiverError::Damaged(format!("`{path}` of snapshot {at} cannot be given: {why}"))
        }
        (error, _) => error,
    }
}

/// What stands at a path of a snapshot: paths of files begin below their root, those of databases with the name of theirs. Where both
/// have something it is the file's, for those are of people's making.
fn resolve(catalog: &Catalog, at: u64, path: &RelPath) -> Result<(Place, Entry), ReceiverError> {
    let below = || {
        let components = path.as_bytes().split(|&byte| byte == b'/');
        components.filter(|component| !component.is_empty())
    };
    let files = [names::FILES.as_bytes()].into_iter().chain(below());
    if let Some(found) = stands_at(catalog, at, files)? {
        return Ok(found);
    }
    let found = match below().next() == Some(names::DATABASES.as_bytes()) {
        true => stands_at(catalog, at, below())?,
        false => None,
    };
    found.ok_or_else(|| ReceiverError::NotFound(format!("snapshot {at} has no `{path}`")))
}

/// What stands at the end of these names, the first of which is that of a root.
fn stands_at<'a>(
    catalog: &Catalog,
    at: u64,
    names: impl Iterator<Item = &'a [u8]>,
) -> Result<Option<(Place, Entry)>, ReceiverError> {
    let (mut parent, mut found) = (Some(DirectoryId::TOP), None);
    for name in names {
        let (Some(directory), Ok(name)) = (parent, Name::new(name)) else {
            return Ok(None);
        };
        let place = Place::new(directory, name);
        let Some(mut row) = catalog.row(&place, at)? else {
            return Ok(None);
        };
        parent = row.entry.directory_id();
        row.entry.attributes.xattrs = Vec::new();
        found = Some((place, row.entry));
    }
    Ok(found)
}

/// Something told in batches.
trait Item {
    /// About as many bytes as it takes in a message.
    fn bytes(&self) -> usize;
}

/// Bytes of an entry without extended attributes, at most, beside the target of a link.
const ENTRY_BYTES: usize = 96;

fn entry_bytes(entry: &Entry) -> usize {
    match &entry.node {
        Node::Symlink { target } => ENTRY_BYTES + target.len(),
        _ => ENTRY_BYTES,
    }
}

impl Item for (RelPath, Entry) {
    fn bytes(&self) -> usize {
        self.0.as_bytes().len() + entry_bytes(&self.1)
    }
}

impl Item for understudy_protocol::message::Version {
    fn bytes(&self) -> usize {
        self.path.as_bytes().len() + entry_bytes(&self.entry)
    }
}

impl Item for understudy_protocol::message::Difference {
    fn bytes(&self) -> usize {
        match self {
            Self::Added { path, entry } | Self::Removed { path, entry } => {
                path.as_bytes().len() + entry_bytes(entry)
            }
            Self::Changed {
                path,
                before,
                after,
            } => path.as_bytes().len() + entry_bytes(before) + entry_bytes(after),
            Self::Moved {
                from,
                path,
                before,
                after,
            } => {
                let paths = from.as_bytes().len() + path.as_bytes().len();
                paths + entry_bytes(before) + entry_bytes(after)
            }
        }
    }
}

impl Item for Summary {
    fn bytes(&self) -> usize {
        ENTRY_BYTES
    }
}

/// Collects items and sends them as messages below every limit.
struct Batch<'a, T> {
    items: Vec<T>,
    bytes: usize,
    encoder: Encoder,
    outgoing: &'a Outgoing,
    message: fn(Vec<T>) -> Message,
}

impl<'a, T: Item> Batch<'a, T> {
    fn new(outgoing: &'a Outgoing, message: fn(Vec<T>) -> Message) -> Self {
        Self {
            items: Vec::new(),
            bytes: 0,
            encoder: outgoing.encoder(),
            outgoing,
            message,
        }
    }

    fn add(&mut self, item: T) -> Result<(), ReceiverError> {
        let bytes = item.bytes();
        // Before it is added: one path alone may nearly fill a frame.
        if self.bytes + bytes > limits::BATCH_BYTES || self.items.len() >= limits::BATCH_RECORDS {
            self.send()?;
        }
        self.bytes += bytes;
        self.items.push(item);
        Ok(())
    }

    fn send(&mut self) -> Result<(), ReceiverError> {
        if !self.items.is_empty() {
            self.bytes = 0;
            let message = (self.message)(std::mem::take(&mut self.items));
            self.outgoing.send(self.encoder.encode(&message)?)?;
        }
        Ok(())
    }
}
