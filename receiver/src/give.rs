//! Giving back: manifests and contents of any snapshot.

use understudy_protocol::delta::{LARGEST_SENT_GROUP, Signature};
use understudy_protocol::message::{
    Fuzzy, Given, GivenStream, Manifest, ManifestEnd, Owners, ReadManifest, StreamBlock, StreamEnd,
    Want, WantRest,
};
use understudy_protocol::transport::{Incoming, Outgoing};
use understudy_protocol::{
    Bytes, ContentHash, DirectoryId, Encoder, Entry, Message, Place, ProtocolError, limits, version,
};
use understudy_tree::content::HoleyHasher;

use crate::browse;
use crate::catalog::{Recorded, Row, Telling};
use crate::cycle;
use crate::dataset::{Dataset, Reading};
use crate::differing::Differing;
use crate::error::ReceiverError;
use crate::library::Library;
use crate::restores::Running;
use crate::serve::Lease;
use crate::stated;
use crate::stored::Stored;

/// Sends all entries of a snapshot, directories before what they hold.
pub(crate) fn manifest(
    dataset: &Dataset,
    request: &ReadManifest,
    spoken: u32,
    outgoing: &Outgoing,
) -> Result<Recorded, ReceiverError> {
    let nothing =
        || ReceiverError::NotFound(format!("dataset `{}` has no snapshot yet", dataset.name));
    let catalog = dataset.read_catalog_surely()?.ok_or_else(nothing)?;
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
    if spoken >= version::STATEMENTS {
        stated::tell(&catalog, at, outgoing)?;
    }
    let mut batch = Batch {
        entries: Vec::new(),
        bytes: 0,
    };
    let mut pending = vec![DirectoryId::TOP];
    let mut left = snapshot.snapshot.entries;
    while let Some(directory) = pending.pop() {
        let (mut after, first) = (None, pending.len());
        loop {
            let rows = catalog.rows_in(directory, at, after.as_ref())?;
            let Some(last) = rows.last() else { break };
            after = Some(last.place.name.clone());
            pending.extend(rows.iter().filter_map(|row| row.entry.directory_id()));
            left = left.checked_sub(rows.len() as u64).ok_or_else(|| {
                // A directory that is said to be in itself would have no end.
                ReceiverError::Damaged(format!(
                    "the catalog of dataset `{}` has more entries in snapshot {at} than it counts",
                    dataset.name
                ))
            })?;
            for row in rows {
                batch.add(row.place, row.entry, &mut encoder, outgoing)?;
            }
        }
        pending[first..].reverse();
    }
    batch.send(&mut encoder, outgoing)?;
    if Telling::of(spoken) == Telling::All {
        catalog.fuzzy_places(at, |places| {
            Ok(outgoing.send(encoder.encode(&Message::Fuzzy(Fuzzy { places }))?)?)
        })?;
    }
    if spoken >= version::OWNERS {
        let owners = catalog.owners(at)?;
        if owners != Owners::default() {
            outgoing.send(encoder.encode(&Message::Owners(owners))?)?;
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

/// What contents are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// To restore: others may see how far that is.
    Restore,
    /// To look at one of them.
    Look,
}

/// Answers `Want` and `WantRest` until the other side hangs up. Nothing that is read is removed as long as it goes on asking.
pub(crate) fn serve(
    (dataset, reading): (&Dataset, Reading),
    snapshot: &Recorded,
    (spoken, lease, purpose): (u32, Lease, Purpose),
    incoming: &mut Incoming,
    outgoing: &Outgoing,
) -> Result<(), ReceiverError> {
    let mut reading = Some(reading);
    let at = snapshot.snapshot.position.number;
    let mut giver = Giver {
        dataset,
        at,
        encoder: outgoing.encoder(),
        outgoing,
        stream: 0,
        place: None,
        running: (purpose == Purpose::Restore).then(|| Running::new(dataset, at)),
    };
    loop {
        let message = match &reading {
            Some(_) => match incoming.receive_message_within(lease.0) {
                Ok(None) => {
                    reading = None;
                    continue;
                }
                message => message.transpose().unwrap_or(Err(ProtocolError::Cut)),
            },
            None => incoming.receive_message(),
        };
        if reading.is_none() && message.is_ok() {
            reading = Some(read_again(dataset, snapshot)?);
        }
        match message {
            Err(ProtocolError::Cut) => return Ok(()),
            Ok(Message::Want(want)) => giver.give(&want).map_err(|error| giver.named(error))?,
            Ok(Message::WantRest(rest)) if spoken >= version::REST => {
                giver.give_rest(&rest).map_err(|error| giver.named(error))?;
            }
            Ok(Message::Restoring(told)) if spoken >= version::OVERSEE => {
                if let Some(running) = &mut giver.running {
                    running.hear(told);
                }
            }
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

/// After a silence in which the snapshot may have been removed.
fn read_again(dataset: &Dataset, snapshot: &Recorded) -> Result<Reading, ReceiverError> {
    let reading = dataset.reading()?;
    let number = snapshot.snapshot.position.number;
    let found = match dataset.read_catalog()? {
        Some(catalog) => catalog.snapshot(number)?,
        None => None,
    };
    let is_same = |found: Recorded| found.snapshot.position == snapshot.snapshot.position;
    if found.is_some_and(is_same) {
        return Ok(reading);
    }
    Err(ReceiverError::NotFound(format!(
        "snapshot {number} of dataset `{}` was removed while nothing was asked of it",
        dataset.name
    )))
}

struct Giver<'a> {
    dataset: &'a Dataset,
    at: u64,
    encoder: Encoder,
    outgoing: &'a Outgoing,
    stream: u64,
    /// The place whose content was looked for last.
    place: Option<Place>,
    running: Option<Running<'a>>,
}

impl Giver<'_> {
    fn give(&mut self, want: &Want) -> Result<(), ReceiverError> {
        // Opened anew for each request: a commit in between may move contents.
        let library = Library::open(self.dataset)?;
        let mut finder = library.finder();
        let (mut contents, mut bytes) = (Vec::new(), 0);
        for place in &want.places {
            let (row, (size, hash)) = self.row(&library, place)?;
            let mut stored = finder.find(&row)?;
            if size > limits::INLINE_BYTES as u64 {
                self.send_small(&mut contents)?;
                self.send_large(place, &mut stored, 0, (size, hash))?;
                bytes = 0;
                continue;
            }
            let mut data = vec![0; size as usize];
            let length = stored.read_all(&mut data)?;
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

    fn give_rest(&mut self, rest: &WantRest) -> Result<(), ReceiverError> {
        if let Some(signature) = &rest.other {
            return self.give_changed(rest, signature);
        }
        let library = Library::open(self.dataset)?;
        let (row, content) = self.row(&library, &rest.place)?;
        if content.0 <= limits::INLINE_BYTES as u64 || rest.from >= content.0 {
            return Err(ReceiverError::Misbehaved(format!(
                "{:?} has no rest from byte {} on that could be wanted",
                rest.place, rest.from
            )));
        }
        let mut stored = library.finder().find(&row)?;
        self.send_large(&rest.place, &mut stored, rest.from, content)
    }

    fn give_changed(&mut self, wanted: &WantRest, signature: &Bytes) -> Result<(), ReceiverError> {
        let refused = |why: &dyn std::fmt::Display| {
            ReceiverError::Misbehaved(format!(
                "{:?} cannot be compared from byte {} on: {why}",
                wanted.place, wanted.from
            ))
        };
        let base = Signature::from_bytes(&signature.0).map_err(|damaged| refused(&damaged))?;
        if base.group_size() > LARGEST_SENT_GROUP {
            return Err(refused(&"its groups are too large"));
        }
        let library = Library::open(self.dataset)?;
        let (row, content) = self.row(&library, &wanted.place)?;
        if content.0 <= limits::INLINE_BYTES as u64 || wanted.from >= content.0 {
            return Err(refused(&"there is nothing to compare"));
        }
        let mut stored = library.finder().find(&row)?;
        let mut differing = Differing {
            stream: self.announce(&wanted.place)?,
            stored: &mut stored,
            base: &base,
            from: wanted.from,
        };
        let mut hasher = HoleyHasher::default();
        let (encoder, outgoing, running) = (&mut self.encoder, self.outgoing, &mut self.running);
        differing.tell(content.0, &mut hasher, |message, given| {
            outgoing.send(encoder.encode(&message)?)?;
            if let Some(running) = running {
                running.gave(0, given);
            }
            Ok(())
        })?;
        self.end_large(differing.stream, hasher, wanted.from, content)
    }

    /// Says that the content of a place follows; returns the number of its stream.
    fn announce(&mut self, place: &Place) -> Result<u64, ReceiverError> {
        self.stream += 1;
        let announce = Message::GivenStream(GivenStream {
            place: place.clone(),
            stream: self.stream,
        });
        self.outgoing.send(self.encoder.encode(&announce)?)?;
        Ok(self.stream)
    }

    /// Ends a content of which everything from an offset on was given.
    fn end_large(
        &mut self,
        stream: u64,
        hasher: HoleyHasher,
        from: u64,
        (size, hash): (u64, ContentHash),
    ) -> Result<(), ReceiverError> {
        if from == 0 && hasher.finish(size) != hash {
            return Err(damaged(hash));
        }
        let end = Message::StreamEnd(StreamEnd { stream, size, hash });
        self.outgoing.send(self.encoder.encode(&end)?)?;
        self.gave(1, 0);
        Ok(())
    }

    /// The row of a regular file, with its content.
    fn row(
        &mut self,
        library: &Library,
        place: &Place,
    ) -> Result<(Row, (u64, ContentHash)), ReceiverError> {
        self.place = Some(place.clone());
        let row = library.catalog.row(place, self.at)?;
        row.and_then(|row| row.entry.content().map(|content| (row, content)))
            .ok_or_else(|| {
                ReceiverError::Misbehaved(format!("{place:?} is no file of snapshot {}", self.at))
            })
    }

    fn named(&self, error: ReceiverError) -> ReceiverError {
        browse::name_damage(self.dataset, (self.place.as_ref(), self.at), error)
    }

    /// Others may see that so much was given.
    fn gave(&mut self, files: u64, bytes: u64) {
        if let Some(running) = &mut self.running {
            running.gave(files, bytes);
        }
    }

    fn send_small(&mut self, contents: &mut Vec<(Place, Bytes)>) -> Result<(), ReceiverError> {
        if !contents.is_empty() {
            let bytes = contents.iter().map(|(_, bytes)| bytes.0.len() as u64);
            self.gave(contents.len() as u64, bytes.sum());
            let given = Given {
                contents: std::mem::take(contents),
            };
            self.outgoing
                .send(self.encoder.encode(&Message::Given(given))?)?;
        }
        Ok(())
    }

    /// Sends a content from an offset on. What comes before it is not looked at, so only a whole one is known to be right.
    fn send_large(
        &mut self,
        place: &Place,
        stored: &mut Stored<'_>,
        from: u64,
        (size, hash): (u64, ContentHash),
    ) -> Result<(), ReceiverError> {
        let stream = self.announce(place)?;
        let mut hasher = HoleyHasher::default();
        for (start, length) in stored.data_extents(size)? {
            let mut offset = start.max(from);
            while offset < start + length {
                let wanted = (start + length - offset).min(limits::BLOCK_BYTES as u64) as usize;
                let mut data = vec![0; wanted];
                let got = stored.read_at(offset, &mut data)?;
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
                self.gave(0, got as u64);
                self.outgoing
                    .send(self.encoder.encode(&Message::StreamBlock(block))?)?;
            }
        }
        self.end_large(stream, hasher, from, (size, hash))
    }
}

fn damaged(hash: ContentHash) -> ReceiverError {
    ReceiverError::Damaged(format!(
        "what is stored of it does not have the content {hash} any more"
    ))
}
