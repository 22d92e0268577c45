//! What the fuzzer needs of this crate and nobody else: readers of the files that lie in a store, given any bytes.

use std::path::Path;

use understudy_protocol::message::{RestorePhase, Restoring};
use understudy_protocol::{ContentHash, DatasetName, Fingerprint, Name, Position, Snapshot};
use understudy_tree::content;
use understudy_tree::durable::{self, Durability};

use crate::catalog::Recorded;
use crate::dataset::Dataset;
use crate::error::ReceiverError;
use crate::ledger::{Entries, Former, Ledger, Record, Spot};
use crate::marker::{self, Applying};
use crate::patch::{About, Patch};
use crate::scrub::State;
use crate::space::Reserve;
use crate::store::Store;
use crate::{alert, filling, findings, guard, leftovers, names, restores, retention, sealed};

/// A store with one dataset, of which any file may be anything.
pub struct Yard {
    store: Store,
    dataset: Dataset,
}

/// Files that lie in a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lying {
    /// Which snapshot a twin is.
    Marker,
    /// What the shadow is being turned into.
    Applying,
    /// What verifications found.
    Findings,
    /// What an interrupted upload left.
    Ledger,
    /// How far the scrub is.
    Scrub,
    /// What was used of the disk.
    Space,
    /// What is held.
    Held,
    /// Which directory the source is.
    Source,
    /// The last verification.
    Verified,
    /// A restore that runs.
    Restore,
    /// A patch.
    Patch,
    /// The format of the store.
    Format,
    /// Alerts that were told.
    Alerts,
}

impl Lying {
    /// All of them.
    pub const ALL: [Self; 13] = [
        Self::Marker,
        Self::Applying,
        Self::Findings,
        Self::Ledger,
        Self::Scrub,
        Self::Space,
        Self::Held,
        Self::Source,
        Self::Verified,
        Self::Restore,
        Self::Patch,
        Self::Format,
        Self::Alerts,
    ];
}

impl Yard {
    /// Makes it in an empty directory.
    pub fn new(path: &Path) -> Result<Self, ReceiverError> {
        let store = Store::open(path)?;
        let dataset = store.ensure_dataset(&DatasetName::fit(b"site"))?;
        Ok(Self { store, dataset })
    }

    /// Puts the bytes where the file belongs, and reads it as everybody does.
    pub fn read(&self, lying: Lying, bytes: &[u8]) -> Result<(), ReceiverError> {
        let (dataset, control) = (&self.dataset, &self.dataset.control);
        let put = |name: &Name| durable::replace(control, name, bytes, Durability::Later);
        match lying {
            Lying::Marker => {
                put(&names::SNAPSHOT)?;
                marker::read(control).map(drop)
            }
            Lying::Applying => {
                put(&names::APPLYING)?;
                Applying::read(control).map(drop)
            }
            Lying::Findings => {
                put(&names::FINDINGS)?;
                let found = findings::read(control)?;
                drop(found.contents());
                Ok(())
            }
            Lying::Ledger => self.read_ledger(bytes),
            Lying::Scrub => {
                put(&names::SCRUB)?;
                State::read(dataset).map(drop)
            }
            Lying::Space => {
                let store = self.store.directory();
                durable::replace(store, &names::SPACE, bytes, Durability::Later)?;
                filling::filling(&self.store, Reserve::default()).map(drop)
            }
            Lying::Held => {
                put(&names::HELD)?;
                let held = guard::standing(dataset, Some(&pending()))?;
                if let Some(held) = held {
                    drop(guard::tell(&dataset.name, &held).to_string());
                }
                Ok(())
            }
            Lying::Source => {
                put(&names::SOURCE)?;
                guard::root::keep(dataset, 3, None)?;
                guard::root::moved(dataset, None).map(drop)
            }
            Lying::Verified => {
                put(&names::VERIFIED)?;
                retention::verified::read(control).map(drop)
            }
            Lying::Restore => {
                let mut running = restores::Running::new(dataset, 3);
                running.hear(restoring());
                let notes = control.open_directory(&names::RESTORES)?;
                for name in notes.names()? {
                    let note = notes.open_directory(&name)?;
                    durable::replace(&note, &names::RESTORE, bytes, Durability::Later)?;
                }
                restores::of_dataset(dataset, &mut Vec::new())
            }
            Lying::Patch => self.read_patch(bytes),
            Lying::Format => {
                let store = self.store.directory();
                durable::replace(store, &names::STORE_FORMAT, bytes, Durability::Later)?;
                Store::open_existing(self.store.path()).map(drop)
            }
            Lying::Alerts => {
                let store = self.store.directory();
                durable::replace(store, &names::ALERTS, bytes, Durability::Later)?;
                alert::acknowledge(&self.store, None, None).map(drop)
            }
        }
    }

    fn read_ledger(&self, bytes: &[u8]) -> Result<(), ReceiverError> {
        let generation = self
            .dataset
            .control
            .ensure_directory(&names::LEFTOVERS)?
            .ensure_directory(&names::number(1))?;
        durable::replace(&generation, &names::LEDGER, bytes, Durability::Later)?;
        if let Some(former) = Former::open(&generation)? {
            let mut offsets = Vec::new();
            former.visit(|offset, _| {
                offsets.push(offset);
                Ok(())
            })?;
            for offset in offsets {
                former.read(offset)?;
            }
        }
        let locked = self.dataset.lock()?;
        leftovers::load(&self.dataset, &locked, None).map(drop)
    }

    fn read_patch(&self, bytes: &[u8]) -> Result<(), ReceiverError> {
        let control = &self.dataset.control;
        let file = control.create_unnamed()?;
        content::write_at(&file, 0, bytes)?;
        Patch::base_in(&file)?;
        Patch::stretches_in(&file)?;
        let Some(patch) = Patch::open(file)? else {
            return Ok(());
        };
        // A patch of no fuzzer changes more than the largest file may have here.
        let within = |&(_, end): &(u64, u64)| end <= 1 << 30;
        if patch.about().size > 1 << 30 || !patch.stretches().iter().all(within) {
            return Ok(());
        }
        let target = control.create_unnamed()?;
        content::write_at(&target, 0, &[7; 5000])?;
        let back = patch.reverse(&target, 5000, control.create_unnamed()?, (0, 0))?;
        patch.apply(&target)?;
        back.apply(&target)
    }

    /// What honest writers write.
    pub fn honest(&self, lying: Lying) -> Result<Vec<u8>, ReceiverError> {
        let control = &self.dataset.control;
        let snapshot = pending().snapshot;
        let read = |name: &Name| -> Result<Vec<u8>, ReceiverError> {
            Ok(durable::read(control, name, 1 << 20)?.unwrap_or_default())
        };
        match lying {
            Lying::Marker => {
                marker::write(control, &snapshot)?;
                read(&names::SNAPSHOT)
            }
            Lying::Applying => {
                Applying::new(2, 3).write(control)?;
                read(&names::APPLYING)
            }
            Lying::Findings => {
                findings::begin_pass(&self.dataset)?;
                read(&names::FINDINGS)
            }
            Lying::Ledger => self.honest_ledger(),
            Lying::Scrub => {
                sealed::write(control, &names::SCRUB, &State::default())?;
                read(&names::SCRUB)
            }
            Lying::Space => Ok(b"[[1790000000,5000000,300],[1790000600,6000000,301]]".to_vec()),
            Lying::Patch => self.honest_patch(),
            Lying::Verified => Ok(b"seconds: 1790000000\nfindings: 2\n".to_vec()),
            Lying::Restore => Ok(br#"{"dataset":"site","number":3,"since_seconds":1790000000,"files_given":1,"bytes_given":2,"told":null}"#.to_vec()),
            Lying::Source => Ok(br#"{"format":1,"since":3,"root":{"file_system":9,"inode":2,"born":[1790000000,5]}}"#.to_vec()),
            Lying::Held => Ok(format!(
                r#"{{"format":1,"number":3,"epoch":1,"digest":"{}","since_seconds":1790000000,"reason":"all","removed":[1,2],"emptied":[0,0],"noise":[0,0],"total":[1,2],"paths":["a"],"former":null,"checksum":""}}"#,
                snapshot.position.fingerprint
            )
            .into_bytes()),
            Lying::Format => {
                let store = self.store.directory();
                Ok(durable::read(store, &names::STORE_FORMAT, 1 << 20)?.unwrap_or_default())
            }
            Lying::Alerts => Ok(br#"{"format":1,"datasets":{},"store":{"alerts":{}}}"#.to_vec()),
        }
    }

    fn honest_ledger(&self) -> Result<Vec<u8>, ReceiverError> {
        let (stream, hash) = (1, ContentHash::of(b"content"));
        let ledger = Ledger::new(&self.dataset.control);
        let mut entries = Entries::default();
        entries.add(&Record::Staged {
            hash,
            size: 7,
            spot: Spot::Incoming(5, names::LINK.clone()),
        })?;
        entries.add(&Record::Begun { stream })?;
        let length = 1 << 20;
        entries.add(&Record::Position {
            stream,
            length,
            hash,
        })?;
        ledger.append(&mut entries)?;
        ledger.note(&Record::Ended {
            stream,
            hash,
            size: 7,
        })?;
        ledger.note(&Record::Synced {
            end: ledger.end().unwrap_or(0),
        })?;
        let staging = self.dataset.control.open_directory(&names::STAGING)?;
        let bytes = durable::read(&staging, &names::LEDGER, 1 << 20)?.unwrap_or_default();
        staging.remove_file(&names::LEDGER)?;
        Ok(bytes)
    }

    fn honest_patch(&self) -> Result<Vec<u8>, ReceiverError> {
        let file = self.dataset.control.create_unnamed()?;
        content::write_at(&file, 100, &[9; 50])?;
        let about = About {
            size: 6000,
            hash: ContentHash::of(b"new"),
            base: ContentHash::of(b"old"),
            run: 1,
            run_bytes: 50,
        };
        let patch = Patch::finish(file, about, vec![(100, 150), (200, 5000)])?;
        let mut bytes = vec![0; content::size(patch.file())? as usize];
        content::read_at(patch.file(), 0, &mut bytes)?;
        Ok(bytes)
    }
}

fn pending() -> Recorded {
    Recorded {
        snapshot: Snapshot {
            position: Position {
                epoch: 1,
                number: 3,
                fingerprint: Fingerprint([7; 32]),
            },
            committed_seconds: 1_790_000_000,
            entries: 4,
            bytes: 300,
        },
        as_of_seconds: 1_790_000_000,
        first_entry: 9,
    }
}

fn restoring() -> Restoring {
    Restoring {
        who: "host".to_owned(),
        phase: RestorePhase::Restoring,
        files_total: 1,
        files_done: 1,
        files_found: 0,
        bytes_total: 1,
        bytes_done: 1,
        bytes_found: 0,
        bytes_per_second: None,
        remaining_seconds: None,
    }
}
