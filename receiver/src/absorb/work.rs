//! The threads that absorb a tree: one walks, some read what it suspects, and the caller's writes the rows.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};

use understudy_protocol::{Place, RelPath, StateDigest};
use understudy_tree::{Directory, Privileges};

use super::examine::{Examined, Now, examine};
use super::linked::{Linked, Member};
use super::tally::Tally;
use super::walk::{Found, Grounds, Suspect, Walk};
use crate::catalog::{Catalog, Origin, Put, Row, Upload};
use crate::error::ReceiverError;

/// Names that wait to be read, each with two open directories at most.
const QUEUE: usize = 64;

/// What a walk goes by.
#[derive(Clone, Copy)]
pub(super) struct Ground<'a> {
    pub(super) live: &'a Directory,
    pub(super) twin: Option<&'a Directory>,
    pub(super) base: Option<(&'a Catalog, u64)>,
    pub(super) privileges: Privileges,
    pub(super) grounds: Grounds,
}

/// Puts rows and counts.
pub(super) struct Writer<'u, 'c> {
    upload: &'u mut Upload<'c>,
    next_id: u64,
    /// Whether nothing differed.
    pub(super) is_empty: bool,
}

impl<'u, 'c> Writer<'u, 'c> {
    pub(super) fn new(upload: &'u mut Upload<'c>) -> Self {
        Self {
            next_id: upload.first_entry(),
            upload,
            is_empty: true,
        }
    }

    fn put(&mut self, put: Put) -> Result<(), ReceiverError> {
        let put = Put {
            id: self.next_id,
            ..put
        };
        self.next_id += 1;
        self.is_empty = false;
        let mut digest = StateDigest::empty();
        digest.add(&put.place, &put.entry);
        self.upload.put(&put)?;
        self.upload.add_digest(&digest);
        Ok(())
    }

    fn remove(&mut self, place: &Place) -> Result<(), ReceiverError> {
        self.is_empty = false;
        self.upload.remove(place)
    }
}

/// What a thread says to the one that writes rows.
enum Said {
    Put(Box<Member>, RelPath),
    Directory(Box<Put>, RelPath, Option<Row>),
    Gone(Place, RelPath),
    Lost(RelPath, String),
}

/// What all threads know of one another. Each goes on taking what it is handed after an error, so that nobody waits for it in vain.
struct Work {
    privileges: Privileges,
    queue: Mutex<Receiver<Suspect>>,
    has_failed: AtomicBool,
}

impl Work {
    fn next(&self) -> Option<Suspect> {
        let queue = self.queue.lock();
        queue.unwrap_or_else(PoisonError::into_inner).recv().ok()
    }

    fn note<T>(&self, result: Result<T, ReceiverError>) -> Result<T, ReceiverError> {
        if result.is_err() {
            self.has_failed.store(true, Ordering::Release);
        }
        result
    }

    fn check(&self) -> Result<(), ReceiverError> {
        match self.has_failed.load(Ordering::Acquire) {
            true => Err(ReceiverError::Stopped),
            false => Ok(()),
        }
    }

    /// Reads what the walk suspects until there is no more.
    fn read(&self, said: &SyncSender<Said>) -> Result<(), ReceiverError> {
        let mut result = Ok(());
        while let Some(suspect) = self.next() {
            if result.is_ok() && self.check().is_ok() {
                result = self.note(self.read_one(suspect, said));
            }
        }
        result
    }

    fn read_one(&self, suspect: Suspect, said: &SyncSender<Said>) -> Result<(), ReceiverError> {
        let told = match examine(&suspect, &self.privileges)? {
            Examined::Gone if suspect.row.is_some() => Said::Gone(suspect.place, suspect.path),
            Examined::Gone => return Ok(()),
            Examined::Unreadable(why) => Said::Lost(suspect.path, why),
            Examined::Now(now) if self.is_same(&suspect, &now) => return Ok(()),
            Examined::Now(now) => {
                let member = Member {
                    place: suspect.place,
                    now: *now,
                    row: suspect.row,
                };
                Said::Put(Box::new(member), suspect.path)
            }
        };
        said.send(told).map_err(|_| ReceiverError::Worker)
    }

    /// Whether it is what its row says after all.
    fn is_same(&self, suspect: &Suspect, now: &Now) -> bool {
        let row = suspect.row.as_ref();
        row.is_some_and(|row| row.entry == now.entry && !suspect.is_apart)
    }

    fn walk(
        &self,
        walk: &mut Walk<'_>,
        suspects: &SyncSender<Suspect>,
        said: &SyncSender<Said>,
    ) -> Result<(), ReceiverError> {
        let gone = |_| ReceiverError::Worker;
        self.note(walk.run(&mut |found| {
            self.check()?;
            match found {
                Found::Suspect(suspect) => {
                    return suspects.send(suspect).map_err(|_| ReceiverError::Worker);
                }
                Found::Directory(suspect, entry) => {
                    let put = Box::new(Put {
                        id: 0,
                        place: suspect.place,
                        entry,
                        origin: Origin::Own,
                    });
                    said.send(Said::Directory(put, suspect.path, suspect.row))
                }
                Found::Gone(place, path) => said.send(Said::Gone(place, path)),
                Found::Lost(path, why) => said.send(Said::Lost(path, why)),
            }
            .map_err(gone)
        }))
    }
}

/// Walks, reads on all cores, and writes rows; returns what was found.
pub(super) fn take(
    ground: Ground<'_>,
    catalog: &Catalog,
    rows: &mut Writer<'_, '_>,
) -> Result<Tally, ReceiverError> {
    let readers = std::thread::available_parallelism().map_or(2, usize::from);
    let beside = match ground.base {
        Some((base, at)) => Some((base.reader()?, at)),
        None => None,
    };
    let next_directory = catalog.next_directory()?.0;
    let (said, heard) = sync_channel(4 * QUEUE);
    let (suspects, queue) = sync_channel(QUEUE);
    let work = Work {
        privileges: ground.privileges,
        queue: Mutex::new(queue),
        has_failed: AtomicBool::new(false),
    };
    let (live, twin, grounds) = (ground.live, ground.twin, ground.grounds);
    let mut found = Taken::default();
    let groups = std::thread::scope(|scope| {
        let work = &work;
        let readers: Vec<_> = (0..readers.clamp(1, 8))
            .map(|_| {
                let said = said.clone();
                scope.spawn(move || work.read(&said))
            })
            .collect();
        let walker = scope.spawn(move || {
            let mut walk = Walk {
                live,
                twin,
                base: beside.as_ref().map(|(catalog, at)| (catalog, *at)),
                privileges: work.privileges,
                grounds,
                next_directory,
                groups: HashMap::new(),
            };
            let walked = work.walk(&mut walk, &suspects, &said);
            walked.map(|()| walk.groups)
        });
        let mut written = Ok(());
        for one in heard {
            if written.is_ok() {
                written = work.note(found.write(one, ground.base.is_some(), rows));
            }
        }
        let walked = walker.join().map_err(|_| ReceiverError::Worker)?;
        for reader in readers {
            let read = reader.join().map_err(|_| ReceiverError::Worker)?;
            // That somebody else has failed is no reason.
            written = written.and(read);
        }
        match (written, walked) {
            (Err(error), _) | (Ok(()), Err(error)) => Err(error),
            (Ok(()), Ok(groups)) => Ok(groups),
        }
    })?;
    found
        .linked
        .settle(ground.live, ground.base, &groups, |put| rows.put(put))?;
    Ok(found.tally)
}

/// What was taken so far.
#[derive(Default)]
struct Taken {
    tally: Tally,
    linked: Linked,
}

impl Taken {
    fn write(
        &mut self,
        said: Said,
        has_base: bool,
        rows: &mut Writer<'_, '_>,
    ) -> Result<(), ReceiverError> {
        match said {
            Said::Directory(put, path, row) => {
                self.tally.put(path, &put.entry, row.is_none());
                rows.put(*put)
            }
            Said::Put(member, path) => {
                let entry = &member.now.entry;
                self.tally.put(path.clone(), entry, member.row.is_none());
                if member.now.is_fuzzy {
                    let why = "changed whenever it was read".to_owned();
                    self.tally.lose(path, why);
                }
                let Some(member) = self.linked.take(*member, has_base) else {
                    return Ok(());
                };
                rows.put(Put {
                    id: 0,
                    place: member.place,
                    entry: member.now.entry,
                    origin: member.now.origin,
                })
            }
            Said::Gone(place, path) => {
                self.tally.gone(path);
                rows.remove(&place)
            }
            Said::Lost(path, why) => {
                self.tally.lose(path, why);
                Ok(())
            }
        }
    }
}
