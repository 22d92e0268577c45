//! Shipping what was captured of databases: the tree below the root `databases`, which is nobody's but the agent's, so that it needs none of the
//! doubts of a source. A file that differs is told by what stands in the dump before.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;

use understudy_protocol::message::Content;
use understudy_protocol::{
    Attributes, Bytes, ContentHash, DirectoryId, Entry, Name, Node, Place, Timestamp, limits,
};
use understudy_tree::{Directory, Kind, Stat, content};

use super::Scan;
use super::delta::Delta;
use super::findings::Findings;
use super::read::Certainty;
use super::worker::{Change, Worker};
use crate::clock::Settled;
use crate::dumps::{Captive, Dump, Stretch, difference};
use crate::error::AgentError;
use crate::index::{Known, Seen};
use crate::manifest::DATABASES_NAME;

/// Databases are nobody's business but their owner's.
const DIRECTORY_MODE: u16 = 0o700;
const FILE_MODE: u16 = 0o600;
const NO_TIME: Timestamp = Timestamp {
    seconds: 0,
    nanoseconds: 0,
};

/// Sends what differs, and what is gone.
pub(super) fn ship(
    scan: &Scan<'_>,
    databases: &[Captive],
    findings: &mut Findings,
) -> Result<(), AgentError> {
    let ((), more) = scan.alone(|worker| worker.ship_root(databases))?;
    findings.merge(more);
    Ok(())
}

/// A file of a dump on its way.
struct Sent<'a> {
    place: Place,
    known: Option<&'a Known>,
    file: File,
    size: u64,
    hash: ContentHash,
}

impl Worker<'_> {
    fn ship_root(&mut self, databases: &[Captive]) -> Result<(), AgentError> {
        #[expect(clippy::unwrap_used, reason = "it is a name")]
        let place = Place::new(DirectoryId::TOP, Name::new(DATABASES_NAME).unwrap());
        let known = self.base.at(&place)?;
        if databases.is_empty() {
            return match known {
                Some(known) => self.remove_missing(place, known.entry.directory_id()),
                None => Ok(()),
            };
        }
        if known.is_none() && databases.iter().all(|one| one.dump.is_none()) {
            return Ok(());
        }
        let id = self.ship_directory(place, known.as_ref(), None)?;
        let mut rows = self.rows_in(id)?;
        for captive in databases {
            let row = rows.remove(&captive.name);
            if let Some(dump) = &captive.dump {
                let place = Place::new(id, captive.name.clone());
                self.ship_tree(place, row.as_ref(), dump, limits::DEPTH - 2)?;
            }
        }
        self.remove_all(id, rows)
    }

    fn rows_in(&self, id: DirectoryId) -> Result<BTreeMap<Name, Known>, AgentError> {
        let rows = self.scan.index.pending_children(id)?.into_iter();
        Ok(rows.map(|(place, known)| (place.name, known)).collect())
    }

    fn remove_all(
        &mut self,
        id: DirectoryId,
        rows: BTreeMap<Name, Known>,
    ) -> Result<(), AgentError> {
        for (name, known) in rows {
            self.remove_missing(Place::new(id, name), known.entry.directory_id())?;
        }
        Ok(())
    }

    /// Puts a directory unless it is there; returns its number. Its times say nothing, so that they never differ.
    fn ship_directory(
        &mut self,
        place: Place,
        known: Option<&Known>,
        stat: Option<&Stat>,
    ) -> Result<DirectoryId, AgentError> {
        let here = known.and_then(|known| known.entry.directory_id());
        let id = here.unwrap_or_else(|| self.new_directory());
        let seen = stat.map(|stat| Seen::of(stat, Settled::Yes));
        let entry = Entry {
            attributes: attributes(DIRECTORY_MODE, NO_TIME),
            node: Node::Directory { id },
            group: 0,
        };
        let base = known.map(|known| &known.entry);
        if base == Some(&entry) {
            return Ok(id);
        }
        self.put(Change {
            place,
            base,
            entry,
            seen,
            content: Content::Directory,
            certainty: Certainty::Whole,
            is_move: false,
        })?;
        Ok(id)
    }

    fn ship_tree(
        &mut self,
        place: Place,
        known: Option<&Known>,
        dump: &Dump,
        depth: usize,
    ) -> Result<(), AgentError> {
        self.scan.context.cancel.check()?;
        let id = self.ship_directory(place, known, Some(&dump.files.stat_self()?))?;
        let mut rows = self.rows_in(id)?;
        let mut names = dump.files.names()?;
        names.sort_unstable();
        for name in names {
            let Some(stat) = dump.files.stat_if_present(&name)? else {
                continue;
            };
            let place = Place::new(id, name.clone());
            match stat.kind {
                Kind::Directory if depth > 0 => {
                    let below = Dump {
                        files: dump.files.open_directory(&name)?,
                        former: opened(dump.former.as_ref(), &name),
                    };
                    let row = rows.remove(&name);
                    self.ship_tree(place, row.as_ref(), &below, depth - 1)?;
                }
                Kind::File => {
                    let row = rows.remove(&name);
                    self.ship_file(place, row.as_ref(), dump, &stat)?;
                }
                // A dump has neither links nor devices; what a program left beside it is not part of it.
                _ => {}
            }
        }
        self.remove_all(id, rows)
    }

    fn ship_file(
        &mut self,
        place: Place,
        known: Option<&Known>,
        dump: &Dump,
        stat: &Stat,
    ) -> Result<(), AgentError> {
        let seen = seen_in_dump(stat);
        if known.is_some_and(|known| known.seen == Some(seen)) {
            return Ok(());
        }
        let file = dump.files.open_file(&place.name)?;
        let hash = content::hash_file(&file, stat.size)?;
        self.findings.tally.files_read += 1;
        self.findings.tally.bytes_read += stat.size;
        if let Some(known) = known
            && known.entry.content() == Some((stat.size, hash))
        {
            return self.refresh(place, known.entry.clone(), known.seen, seen);
        }
        let entry = Entry {
            attributes: attributes(FILE_MODE, stat.modified),
            node: Node::File {
                size: stat.size,
                hash,
            },
            group: 0,
        };
        let sent = Sent {
            place: place.clone(),
            known,
            file,
            size: stat.size,
            hash,
        };
        let content = self.send(&sent, dump.former.as_ref())?;
        self.put(Change {
            place,
            base: known.map(|known| &known.entry),
            entry,
            seen: Some(seen),
            content,
            certainty: Certainty::Whole,
            is_move: false,
        })
    }

    fn send(&mut self, sent: &Sent<'_>, former: Option<&Directory>) -> Result<Content, AgentError> {
        if sent.size <= limits::INLINE_BYTES as u64 {
            let mut bytes = vec![0; sent.size as usize];
            let read = sent.file.read_exact_at(&mut bytes, 0);
            read.map_err(|error| DifferenceError::Read(error).told(&sent.place))?;
            return Ok(Content::Inline(Bytes(bytes)));
        }
        let stream = match self.former_dump(sent, former)? {
            Some((base, size)) => self.send_difference(sent, (&base, size))?,
            None => self.send_anew(sent)?,
        };
        Ok(Content::Stream(stream))
    }

    /// The file of the dump before, if the spare has that.
    fn former_dump(
        &self,
        sent: &Sent<'_>,
        former: Option<&Directory>,
    ) -> Result<Option<(File, u64)>, AgentError> {
        let had = sent.known.and_then(|known| known.entry.content());
        let (Some(former), Some((size, hash))) = (former, had) else {
            return Ok(None);
        };
        if self.scan.index.sends_whole()? {
            return Ok(None);
        }
        let file = match former.open_file(&sent.place.name) {
            Err(error) if error.is_gone() => return Ok(None),
            file => file?,
        };
        let is_it = content::size(&file)? == size && content::hash_file(&file, size)? == hash;
        Ok(is_it.then_some((file, size)))
    }

    fn send_difference(
        &mut self,
        sent: &Sent<'_>,
        former: (&File, u64),
    ) -> Result<u64, AgentError> {
        let spoken = self.scan.spoken;
        let mut delta = Delta::begin(&mut self.outbox, &sent.place, spoken)?;
        let outbox = &mut self.outbox;
        difference::<DifferenceError>(former, (&sent.file, sent.size), &mut |stretch| {
            match stretch {
                Stretch::New(bytes) => delta.literal(outbox, bytes)?,
                Stretch::Former { from, length } => delta.copy(outbox, from, length)?,
            }
            Ok(())
        })
        .map_err(|error| error.told(&sent.place))?;
        delta.flush(outbox)?;
        outbox.end(delta.stream(), sent.size, sent.hash)?;
        self.note_delta(&delta);
        Ok(delta.stream())
    }

    fn send_anew(&mut self, sent: &Sent<'_>) -> Result<u64, AgentError> {
        let stream = self.outbox.new_stream();
        let outbox = &mut self.outbox;
        let mut failed = Ok(());
        content::read_stretch(
            &sent.file,
            &mut content::Extents::default(),
            0..sent.size,
            |offset, data| {
                for (number, piece) in data.chunks(limits::BLOCK_BYTES).enumerate() {
                    let at = offset + (number * limits::BLOCK_BYTES) as u64;
                    if failed.is_ok() {
                        failed = outbox.block(stream, at, piece.to_vec()).map(drop);
                    }
                }
                Ok(())
            },
        )?;
        failed?;
        self.outbox.end(stream, sent.size, sent.hash)?;
        Ok(stream)
    }
}

/// What may go wrong while a difference is told.
enum DifferenceError {
    Read(std::io::Error),
    Send(AgentError),
}

impl From<std::io::Error> for DifferenceError {
    fn from(error: std::io::Error) -> Self {
        Self::Read(error)
    }
}

impl From<AgentError> for DifferenceError {
    fn from(error: AgentError) -> Self {
        Self::Send(error)
    }
}

impl DifferenceError {
    fn told(self, place: &Place) -> AgentError {
        match self {
            Self::Read(error) => {
                understudy_tree::TreeError::new("read", place.name.as_bytes(), error).into()
            }
            Self::Send(error) => error,
        }
    }
}

/// A file of a dump is written once, and gets further names: what the kernel says of its last change is no news.
fn seen_in_dump(stat: &Stat) -> Seen {
    let stat = Stat {
        changed: stat.modified,
        ..stat.clone()
    };
    Seen::of(&stat, Settled::Yes)
}

fn opened(directory: Option<&Directory>, name: &Name) -> Option<Directory> {
    directory.and_then(|directory| directory.open_directory(name).ok())
}

fn attributes(mode: u16, modified: Timestamp) -> Attributes {
    Attributes {
        mode,
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
        modified,
        xattrs: Vec::new(),
    }
}
