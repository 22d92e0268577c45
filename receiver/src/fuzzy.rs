//! Telling which files may be mixtures of several states, by the paths that they have.

use understudy_protocol::message::{FuzzyEnd, FuzzyFile, FuzzyFiles, ListFuzzy};
use understudy_protocol::transport::Outgoing;
use understudy_protocol::{DirectoryId, Encoder, Message, Place, RelPath, limits};

use crate::access::Permitted;
use crate::catalog::{Catalog, FuzzyRange};
use crate::error::ReceiverError;

/// Bytes that a file takes in a message beside its path, at most.
const BESIDE_BYTES: usize = 32;

/// Answers a `ListFuzzy`.
pub(crate) fn serve(
    dataset: &Permitted,
    request: &ListFuzzy,
    outgoing: &Outgoing,
) -> Result<(), ReceiverError> {
    let _reading = dataset.reading()?;
    let mut batch = Batch {
        files: Vec::new(),
        bytes: 0,
        encoder: outgoing.encoder(),
        outgoing,
    };
    if let Some(catalog) = dataset.read_catalog()?
        && let Some(head) = catalog.head()?
    {
        let head = head.snapshot.position.number;
        let listed = match request.number {
            None => {
                let listed = catalog.snapshots()?;
                listed
                    .iter()
                    .map(|one| one.snapshot.position.number)
                    .collect()
            }
            Some(number) if catalog.snapshot(number)?.is_some() => vec![number],
            Some(number) => {
                return Err(ReceiverError::NotFound(format!(
                    "dataset `{}` has no snapshot {number}; `snapshots` lists them",
                    dataset.name
                )));
            }
        };
        let mut after = None;
        loop {
            let ranges = match request.number {
                None => catalog.fuzzy_up_to(head, after.as_ref())?,
                Some(number) => catalog.fuzzy_at(number, after.as_ref())?,
            };
            let Some(last) = ranges.last() else { break };
            after = Some(last.clone());
            for range in &ranges {
                for file in files(&catalog, range, &listed)? {
                    batch.add(file)?;
                }
            }
        }
    }
    batch.send()?;
    outgoing.send_message(&Message::FuzzyEnd(FuzzyEnd {}))?;
    Ok(())
}

/// The file of a range under each path that it has in the `listed` snapshots. Of others the catalog may know no paths.
fn files(
    catalog: &Catalog,
    range: &FuzzyRange,
    listed: &[u64],
) -> Result<Vec<FuzzyFile>, ReceiverError> {
    let last = listed.last().copied().unwrap_or(0);
    let end = range.until.filter(|&until| until <= last);
    let mut files: Vec<FuzzyFile> = Vec::new();
    let mut since = range.since;
    loop {
        let next = listed.get(listed.partition_point(|&number| number < since));
        let Some(&at) = next.filter(|&&at| end.is_none_or(|end| at < end)) else {
            return Ok(files);
        };
        let (path, changed) = path_at(catalog, &range.place, at)?;
        let until = changed
            .filter(|&changed| changed <= last && end.is_none_or(|end| changed < end))
            .or(end);
        match files.last_mut() {
            // Its directory has other attributes now, or moved and came back.
            Some(file) if file.path == path => file.until = until,
            _ => files.push(FuzzyFile {
                path,
                since: at,
                until,
            }),
        }
        match until {
            Some(next) if until != end => since = next,
            _ => return Ok(files),
        }
    }
}

/// The path of a place in snapshot `at`, and the first later snapshot in which it may be another.
fn path_at(
    catalog: &Catalog,
    place: &Place,
    at: u64,
) -> Result<(RelPath, Option<u64>), ReceiverError> {
    let (mut names, mut until) = (vec![place.name.clone()], None);
    let mut directory = place.parent;
    while directory != DirectoryId::FILES && directory != DirectoryId::TOP {
        let row = catalog.directory_row(directory, at)?;
        let row = row
            .filter(|_| names.len() <= limits::DEPTH)
            .ok_or_else(|| {
                ReceiverError::Damaged(format!(
                    "the catalog has no directory {} in snapshot {at}",
                    directory.0
                ))
            })?;
        until = until.into_iter().chain(row.until).min();
        names.push(row.place.name);
        directory = row.place.parent;
    }
    let path = names.iter().rev();
    Ok((
        path.fold(RelPath::root(), |path, name| path.join(name)),
        until,
    ))
}

struct Batch<'a> {
    files: Vec<FuzzyFile>,
    bytes: usize,
    encoder: Encoder,
    outgoing: &'a Outgoing,
}

impl Batch<'_> {
    fn add(&mut self, file: FuzzyFile) -> Result<(), ReceiverError> {
        let bytes = BESIDE_BYTES + file.path.as_bytes().len();
        // Before it is added: one path alone may nearly fill a frame.
        if self.bytes + bytes > limits::BATCH_BYTES || self.files.len() >= limits::BATCH_RECORDS {
            self.send()?;
        }
        self.bytes += bytes;
        self.files.push(file);
        Ok(())
    }

    fn send(&mut self) -> Result<(), ReceiverError> {
        if !self.files.is_empty() {
            self.bytes = 0;
            let files = std::mem::take(&mut self.files);
            let message = Message::FuzzyFiles(FuzzyFiles { files });
            self.outgoing.send(self.encoder.encode(&message)?)?;
        }
        Ok(())
    }
}
