//! Giving back: manifests and contents of any snapshot.

use std::collections::HashSet;
use std::fs::File;

use understudy_protocol::message::{
    Fuzzy, Given, GivenStream, Manifest, ManifestEnd, ReadManifest, StreamBlock, StreamEnd, Want,
};
use understudy_protocol::transport::{Incoming, Outgoing};
use understudy_protocol::{
    Bytes, ContentHash, DirectoryId, Encoder, Entry, Message, Place, ProtocolError, limits,
};
use understudy_tree::Directory;
use understudy_tree::content::{self, HoleyHasher};

use crate::catalog::{Catalog, Recorded, Row, Telling};
use crate::cycle;
use crate::dataset::Dataset;
use crate::error::ReceiverError;
use crate::history::Objects;
use crate::marker;
use crate::resolve::Handles;

/// Sends all entries of a snapshot, directories before what they hold.
pub(crate) fn manifest(
    dataset: &Dataset,
    request: &ReadManifest,
    telling: Telling,
    outgoing: &Outgoing,
) -> Result<Recorded, ReceiverError> {
    let nothing =
        || ReceiverError::NotFound(format!("dataset `{}` has no snapshot yet", dataset.name));
    let catalog = dataset.read_catalog()?.ok_or_else(nothing)?;
    let snapshot = match request.number {
        None => catalog.head()?.ok_or_else(nothing)?,
        Some(number) => catalog.snapshot(number)?.ok_or_else(|| {
            ReceiverError::NotFound(format!(
                "dataset `{}` has no snapshot {number}; `snapshots` lists them",
                dataset.name
            ))
        })?,
    };
    let at = snapshot.snapshot.position.number;
    let mut encoder = outgoing.encoder();
    let mut batch = Batch {
        entries: Vec::new(),
        bytes: 0,
    };
    let mut pending = vec![DirectoryId::TOP];
    while let Some(directory) = pending.pop() {
        let rows = catalog.rows_in(directory, at)?;
        pending.extend(rows.iter().rev().filter_map(|row| row.entry.directory_id()));
        for row in rows {
            batch.add(row.place, row.entry, &mut encoder, outgoing)?;
        }
    }
    batch.send(&mut encoder, outgoing)?;
    if telling == Telling::All {
        let ranges = catalog.fuzzy_at(at)?;
        for part in ranges.chunks(limits::BATCH_RECORDS) {
            let places = part.iter().map(|range| range.place.clone()).collect();
            outgoing.send(encoder.encode(&Message::Fuzzy(Fuzzy { places }))?)?;
        }
    }
    outgoing.send_message(&Message::ManifestEnd(ManifestEnd {
        snapshot: cycle::told(&snapshot),
    }))?;
    Ok(snapshot)
}

struct Batch {
    entries: Vec<(Place, Entry)>,
    bytes: usize,
}

impl Batch {
    fn add(
        &mut self,
        place: Place,
        entry: Entry,
        encoder: &mut Encoder,
        outgoing: &Outgoing,
    ) -> Result<(), ReceiverError> {
        let xattrs: usize = entry
            .attributes
            .xattrs
            .iter()
            .map(|xattr| xattr.name.len() + xattr.value.len())
            .sum();
        self.bytes += 128 + place.name.as_bytes().len() + xattrs;
        self.entries.push((place, entry));
        if self.entries.len() >= limits::BATCH_RECORDS || self.bytes >= limits::BATCH_BYTES {
            self.send(encoder, outgoing)?;
        }
        Ok(())
    }

    fn send(&mut self, encoder: &mut Encoder, outgoing: &Outgoing) -> Result<(), ReceiverError> {
        if !self.entries.is_empty() {
            self.bytes = 0;
            let entries = std::mem::take(&mut self.entries);
            outgoing.send(encoder.encode(&Message::Manifest(Manifest { entries }))?)?;
        }
        Ok(())
    }
}

/// Answers `Want` until the other side hangs up.
pub(crate) fn serve(
    dataset: &Dataset,
    snapshot: &Recorded,
    incoming: &mut Incoming,
    outgoing: &Outgoing,
) -> Result<(), ReceiverError> {
    let at = snapshot.snapshot.position.number;
    let mut giver = Giver {
        dataset,
        at,
        encoder: outgoing.encoder(),
        outgoing,
        stream: 0,
    };
    loop {
        match incoming.receive_message() {
            Err(ProtocolError::Cut) => return Ok(()),
            Ok(Message::Want(want)) => giver.give(&want)?,
            Ok(other) => {
                return Err(ProtocolError::Unexpected {
                    got: other.name(),
                    wanted: "Want",
                }
                .into());
            }
            Err(error) => return Err(error.into()),
        }
    }
}

struct Giver<'a> {
    dataset: &'a Dataset,
    at: u64,
    encoder: Encoder,
    outgoing: &'a Outgoing,
    stream: u64,
}

impl Giver<'_> {
    fn give(&mut self, want: &Want) -> Result<(), ReceiverError> {
        // Opened anew for each request: a commit in between may move contents.
        let library = Library::open(self.dataset)?;
        let mut finder = library.finder();
        let (mut contents, mut bytes) = (Vec::new(), 0);
        for place in &want.places {
            let row = library.catalog.row(place, self.at)?;
            let Some((row, (size, hash))) =
                row.and_then(|row| row.entry.content().map(|content| (row, content)))
            else {
                return Err(ReceiverError::Misbehaved(format!(
                    "{place:?} is no file of snapshot {}",
                    self.at
                )));
            };
            let file = finder.find(&row)?;
            if size > limits::INLINE_BYTES as u64 {
                self.send_small(&mut contents)?;
                self.send_large(place, &file, size, hash)?;
                bytes = 0;
                continue;
            }
            let mut data = vec![0; size as usize];
            let length = content::read_at(&file, 0, &mut data)?;
            if length as u64 != size || ContentHash::of(&data) != hash {
                return Err(damaged(hash));
            }
            bytes += data.len() + 300;
            contents.push((place.clone(), Bytes(data)));
            if bytes >= limits::BATCH_BYTES {
                self.send_small(&mut contents)?;
                bytes = 0;
            }
        }
        self.send_small(&mut contents)
    }

    fn send_small(&mut self, contents: &mut Vec<(Place, Bytes)>) -> Result<(), ReceiverError> {
        if !contents.is_empty() {
            let given = Given {
                contents: std::mem::take(contents),
            };
            self.outgoing
                .send(self.encoder.encode(&Message::Given(given))?)?;
        }
        Ok(())
    }

    fn send_large(
        &mut self,
        place: &Place,
        file: &File,
        size: u64,
        hash: ContentHash,
    ) -> Result<(), ReceiverError> {
        self.stream += 1;
        let stream = self.stream;
        let announce = Message::GivenStream(GivenStream {
            place: place.clone(),
            stream,
        });
        self.outgoing.send(self.encoder.encode(&announce)?)?;
        let mut hasher = HoleyHasher::default();
        for (start, length) in content::data_extents(file, size)? {
            let mut offset = start;
            while offset < start + length {
                let wanted = (start + length - offset).min(limits::BLOCK_BYTES as u64) as usize;
                let mut data = vec![0; wanted];
                let got = content::read_at(file, offset, &mut data)?;
                if got == 0 {
                    return Err(damaged(hash));
                }
                data.truncate(got);
                hasher.update(offset, &data);
                let block = StreamBlock {
                    stream,
                    offset,
                    data: Bytes(data),
                };
                offset += got as u64;
                self.outgoing
                    .send(self.encoder.encode(&Message::StreamBlock(block))?)?;
            }
        }
        if hasher.finish(size) != hash {
            return Err(damaged(hash));
        }
        let end = Message::StreamEnd(StreamEnd { stream, size, hash });
        self.outgoing.send(self.encoder.encode(&end)?)?;
        Ok(())
    }
}

fn damaged(hash: ContentHash) -> ReceiverError {
    ReceiverError::Damaged(format!(
        "a stored file does not have the content {hash} any more and was not given out; `understudy verify` tells which"
    ))
}

/// Everything needed to find contents at one moment.
pub(crate) struct Library {
    pub(crate) catalog: Catalog,
    head: u64,
    objects: Objects,
    control: Directory,
    live: Directory,
    shadow: Option<Directory>,
}

impl Library {
    pub(crate) fn open(dataset: &Dataset) -> Result<Self, ReceiverError> {
        let gone = || {
            ReceiverError::Damaged(format!(
                "dataset `{}` has no live tree or catalog",
                dataset.name
            ))
        };
        let catalog = dataset.read_catalog()?.ok_or_else(gone)?;
        let head = catalog
            .head()?
            .map_or(0, |head| head.snapshot.position.number);
        let live = dataset.live()?.ok_or_else(gone)?;
        // The retired twin still holds what the last commit superseded.
        let shadow = dataset.shadow()?;
        let is_retired = marker::read(&shadow)?.is_some_and(|position| position.number + 1 == head);
        Ok(Self {
            catalog,
            head,
            objects: Objects::open(&dataset.control)?,
            control: dataset.control.try_clone()?,
            live,
            shadow: is_retired.then_some(shadow),
        })
    }

    pub(crate) fn finder(&self) -> Finder<'_> {
        Finder {
            library: self,
            live: Handles::new(&self.live, &self.catalog, self.head),
            retired: self
                .shadow
                .as_ref()
                .map(|shadow| Handles::new(shadow, &self.catalog, self.head - 1)),
            sound: HashSet::new(),
        }
    }
}

/// Patches that lead to one another; more are a circle.
const PATCHES: usize = 100_000;

/// Finds contents by hash: in the live tree, in history, in the retired twin.
pub(crate) struct Finder<'a> {
    library: &'a Library,
    live: Handles<'a>,
    retired: Option<Handles<'a>>,
    /// Contents that were found, or can be made.
    sound: HashSet<ContentHash>,
}

impl Finder<'_> {
    /// Opens a file with the content of a row of any snapshot.
    pub(crate) fn find(&mut self, row: &Row) -> Result<File, ReceiverError> {
        let library = self.library;
        let Some((_, hash)) = row.entry.content() else {
            return Err(ReceiverError::Worker);
        };
        // Mostly it is where the row says; only superseded contents must be looked for.
        if row.until.is_none_or(|until| until > library.head)
            && let Some(file) = open(&mut self.live, &row.place)?
        {
            return Ok(file);
        }
        let (file, patches) = self.trace(hash)?;
        if patches.is_empty() {
            return Ok(file);
        }
        let rebuilt = library.control.create_unnamed()?;
        content::copy(&file, &rebuilt, content::size(&file)?)?;
        for hash in patches.iter().rev() {
            let patch = library.objects.open_patch(*hash)?;
            patch.ok_or_else(|| missing(*hash))?.apply(&rebuilt)?;
        }
        Ok(rebuilt)
    }

    /// Fails unless a content is there, or can be made of what is.
    pub(crate) fn check(&mut self, hash: ContentHash) -> Result<(), ReceiverError> {
        let (mut wanted, mut passed) = (hash, Vec::new());
        // What was found before is not traced again: many versions lead through one another.
        while !self.sound.contains(&wanted) && passed.len() < PATCHES {
            passed.push(wanted);
            if self.whole(wanted)?.is_some() {
                break;
            }
            match self.library.objects.open_patch(wanted)? {
                Some(patch) => wanted = patch.about().base,
                None if self.retired(wanted)?.is_some() => break,
                None => return Err(missing(hash)),
            }
        }
        self.sound.extend(passed);
        Ok(())
    }

    /// A file with the content, or one with a later content and those to which patches lead back from there, the last
    /// one first.
    fn trace(&mut self, hash: ContentHash) -> Result<(File, Vec<ContentHash>), ReceiverError> {
        let (mut wanted, mut patches) = (hash, Vec::new());
        while patches.len() < PATCHES {
            if let Some(file) = self.whole(wanted)? {
                return Ok((file, patches));
            }
            // Asked before the retired twin, whose file a patch may just be changing.
            let Some(patch) = self.library.objects.open_patch(wanted)? else {
                break;
            };
            patches.push(wanted);
            wanted = patch.about().base;
        }
        match self.retired(wanted)? {
            Some(file) => Ok((file, patches)),
            None => Err(missing(hash)),
        }
    }

    /// A file with the content as it is, in the live twin or in history.
    fn whole(&mut self, hash: ContentHash) -> Result<Option<File>, ReceiverError> {
        let library = self.library;
        for row in library.catalog.rows_with(hash, library.head)? {
            if let Some(file) = open(&mut self.live, &row.place)? {
                return Ok(Some(file));
            }
        }
        library.objects.open_object(hash)
    }

    /// A file with the content in the retired twin, if that still is what it was.
    fn retired(&mut self, hash: ContentHash) -> Result<Option<File>, ReceiverError> {
        let library = self.library;
        let (Some(retired), Some(shadow)) = (&mut self.retired, &library.shadow) else {
            return Ok(None);
        };
        for row in library.catalog.rows_with(hash, library.head - 1)? {
            if let Some(file) = open(retired, &row.place)? {
                // Whoever changes the twin removes its marker first, and no file that is open.
                let shows = marker::read(shadow)?.map(|position| position.number);
                return Ok((shows == Some(library.head - 1)).then_some(file));
            }
        }
        Ok(None)
    }
}

fn missing(hash: ContentHash) -> ReceiverError {
    ReceiverError::Damaged(format!(
        "the content {hash} is neither live nor in history; `understudy verify` tells what is missing"
    ))
}

fn open(handles: &mut Handles<'_>, place: &Place) -> Result<Option<File>, ReceiverError> {
    match handles
        .get(place.parent)
        .map(|directory| directory.open_file(&place.name))
    {
        Ok(Ok(file)) => Ok(Some(file)),
        Ok(Err(error)) if error.is_gone() => Ok(None),
        Ok(Err(error)) => Err(error.into()),
        Err(ReceiverError::Tree(error)) if error.is_gone() => Ok(None),
        Err(error) => Err(error),
    }
}
