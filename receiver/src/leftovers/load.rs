//! Reading the ledgers of interrupted uploads: what of them is still there.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32};

use understudy_protocol::{ContentHash, Name, limits};
use understudy_tree::{Directory, Kind};

use super::take::Spots;
use super::{
    GENERATIONS, Generation, Item, LEAST_PARTIAL, Leftovers, MOST_READ, Partial, drop_old,
    drop_one, is_sound, key, numbers, pool,
};
use crate::dataset::{Dataset, Locked};
use crate::error::ReceiverError;
use crate::ledger::{Former, Fortune, Record, Spot};
use crate::names;

impl Leftovers {
    /// Reads all ledgers. Generations that are too old, too many, or of which nothing is left are removed.
    ///
    /// Every file is looked at: what an upload took and then lost again is not told.
    pub(super) fn load(
        dataset: &Dataset,
        locked: &Locked,
        aside: Option<Directory>,
    ) -> Result<Self, ReceiverError> {
        let mut found = Found::default();
        drop_old(dataset, locked)?;
        if let Some(pool) = pool(dataset)? {
            let mut weighed = Vec::new();
            for number in numbers(&pool)? {
                let name = names::number(number);
                let bytes = found.read(&pool, &name)?;
                weighed.push((bytes, name));
            }
            weighed.sort_unstable_by_key(|(bytes, _)| *bytes);
            // One more is about to come.
            let too_many = (weighed.len() + 1).saturating_sub(GENERATIONS);
            for (number, (bytes, name)) in weighed.into_iter().enumerate() {
                if bytes == 0 || number < too_many {
                    found.forget(&name);
                    drop_one(dataset, &pool, &name)?;
                }
            }
        }
        if let Some(aside) = aside {
            found.read_aside(aside)?;
        }
        Ok(found.finish())
    }
}

#[derive(Default)]
struct Found {
    generations: Vec<Generation>,
    items: Vec<Item>,
    partials: Vec<Partial>,
}

/// What the ledger said last of a stream.
enum Stream {
    Begun(u64, ContentHash),
    /// With the offset of the record.
    Ended(u64, ContentHash, u64),
}

impl Found {
    /// Reads one generation; returns how many bytes are left of it.
    fn read(&mut self, pool: &Directory, name: &Name) -> Result<u64, ReceiverError> {
        let directory = pool.open_directory(name)?;
        let Some(ledger) = Former::open(&directory)? else {
            return Ok(0);
        };
        let generation = self.generations.len();
        let most = match ledger.fortune {
            Fortune::Kept => u64::MAX,
            Fortune::Unknown | Fortune::Lost => MOST_READ,
        };
        let (mut bytes, mut streams) = (0, HashMap::new());
        let mut spots = Spots::default();
        ledger.visit(|offset, record| {
            match record {
                Record::Staged { hash, size, spot } if size <= most => {
                    let stat = spots.stat(&directory, &spot)?;
                    if stat.is_some_and(|stat| is_sound(&stat) && stat.size == size) {
                        bytes += size;
                        self.add(&hash, size, offset);
                    }
                }
                Record::Begun { stream } => drop(streams.remove(&stream)),
                Record::Position {
                    stream,
                    length,
                    hash,
                } => drop(streams.insert(stream, Stream::Begun(length, hash))),
                Record::Ended { stream, hash, size } => {
                    streams.insert(stream, Stream::Ended(size, hash, offset));
                }
                Record::Staged { .. } | Record::Opened { .. } | Record::Synced { .. } => {}
            }
            Ok(())
        })?;
        for (stream, state) in streams {
            let stat = spots.stat(&directory, &Spot::Stream(stream))?;
            let Some(stat) = stat.filter(is_sound) else {
                continue;
            };
            match state {
                Stream::Ended(size, hash, offset) if stat.size == size && size <= most => {
                    bytes += size;
                    self.add(&hash, size, offset);
                }
                Stream::Begun(length, hash) if (LEAST_PARTIAL..=MOST_READ).contains(&length) => {
                    bytes += length;
                    self.partials.push(Partial {
                        length,
                        hash,
                        generation,
                        stream,
                    });
                }
                _ => {}
            }
        }
        self.generations.push(Generation {
            name: Some(name.clone()),
            directory,
            ledger,
        });
        Ok(bytes)
    }

    /// Reads what is staged for a held cycle: all of it was on the disk before its intent was.
    fn read_aside(&mut self, directory: Directory) -> Result<(), ReceiverError> {
        let Some(mut ledger) = Former::open(&directory)? else {
            return Ok(());
        };
        if ledger.fortune == Fortune::Lost {
            ledger.fortune = Fortune::Unknown;
        }
        let mut spots = Spots::default();
        ledger.visit(|offset, record| {
            let Record::Staged { hash, size, spot } = record else {
                return Ok(());
            };
            let stat = spots.stat(&directory, &spot)?;
            if stat.is_some_and(|stat| stat.kind == Kind::File && stat.size == size) {
                self.add(&hash, size, offset);
            }
            Ok(())
        })?;
        self.generations.push(Generation {
            name: None,
            directory,
            ledger,
        });
        Ok(())
    }

    /// Adds a content of the generation that is being read; keeps the largest ones where there are too many.
    fn add(&mut self, hash: &ContentHash, size: u64, offset: u64) {
        self.items.push(Item {
            key: key(hash),
            size,
            offset,
            generation: self.generations.len(),
        });
        if self.items.len() >= 2 * limits::LEFTOVERS {
            self.shorten();
        }
    }

    fn shorten(&mut self) {
        if self.items.len() > limits::LEFTOVERS {
            let larger = |item: &Item| std::cmp::Reverse(item.size);
            self.items
                .select_nth_unstable_by_key(limits::LEFTOVERS, larger);
            self.items.truncate(limits::LEFTOVERS);
        }
    }

    /// Counts nothing of a generation.
    fn forget(&mut self, name: &Name) {
        let index = self
            .generations
            .iter()
            .position(|generation| generation.name.as_ref() == Some(name));
        self.items.retain(|item| Some(item.generation) != index);
        self.partials
            .retain(|partial| Some(partial.generation) != index);
    }

    fn finish(mut self) -> Leftovers {
        self.shorten();
        self.items.sort_unstable_by_key(|item| item.key);
        self.partials
            .sort_unstable_by_key(|partial| std::cmp::Reverse(partial.length));
        self.partials.truncate(limits::PARTIALS);
        let mut given = Vec::new();
        given.resize_with(self.items.len(), AtomicU32::default);
        Leftovers {
            generations: self.generations,
            items: self.items,
            given,
            partials: Mutex::new(self.partials),
            are_used: AtomicBool::new(false),
        }
    }
}
