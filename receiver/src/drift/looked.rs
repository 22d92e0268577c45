//! When the live tree was last seen to be its snapshot: the file `looked`. What is lost of it costs one look at everything.

use serde::{Deserialize, Serialize};
use understudy_protocol::{Position, Timestamp};
use understudy_tree::durable::{self, Durability};
use understudy_tree::{Directory, Stat};

use crate::dataset::{Dataset, now_seconds};
use crate::error::ReceiverError;
use crate::names;

/// The layout this build writes.
const FORMAT: u32 = 2;
/// Far more than a few numbers take.
const LIMIT_BYTES: u64 = 4096;

/// What was seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Looked {
    format: u32,
    epoch: u64,
    number: u64,
    /// By the clock of the file system: a directory that was touched then or later is looked at.
    until: (i64, u32),
    /// When everything was compared, by the receiver's clock.
    pub(super) everything_seconds: Option<i64>,
    /// When the other twin was last made anew from this one, by the clock of the file system.
    rebuilt: Option<(i64, u32)>,
}

impl Looked {
    /// Everything was compared from this moment on.
    pub(super) fn new(position: Position, begun: Timestamp) -> Self {
        Self {
            everything_seconds: Some(now_seconds()),
            ..Self::switched(position, begun)
        }
    }

    /// A commit has built the tree up to this moment.
    pub(super) fn switched(position: Position, built: Timestamp) -> Self {
        Self {
            format: FORMAT,
            epoch: position.epoch,
            number: position.number,
            until: (built.seconds, built.nanoseconds),
            everything_seconds: None,
            rebuilt: None,
        }
    }

    /// The other twin is about to be made anew. What is known of the live tree stays known.
    pub(super) fn rebuilding(known: Option<Self>, now: Timestamp) -> Self {
        // No snapshot has the number 0.
        let none = Self {
            format: FORMAT,
            epoch: 0,
            number: 0,
            until: (0, 0),
            everything_seconds: None,
            rebuilt: None,
        };
        Self {
            rebuilt: Some((now.seconds, now.nanoseconds)),
            ..known.unwrap_or(none)
        }
    }

    /// What was touched after this moment is proved by the other twin, where that still has the same file.
    pub(super) fn rebuilt(&self) -> Option<Timestamp> {
        self.rebuilt.map(|(seconds, nanoseconds)| Timestamp {
            seconds,
            nanoseconds,
        })
    }

    pub(super) fn sound_until(&self) -> Timestamp {
        Timestamp {
            seconds: self.until.0,
            nanoseconds: self.until.1,
        }
    }

    /// What is known of the tree that shows this snapshot.
    pub(super) fn read(
        dataset: &Dataset,
        position: Position,
    ) -> Result<Option<Self>, ReceiverError> {
        let known = Self::read_any(dataset)?;
        let is_of_it =
            |known: &Self| (known.epoch, known.number) == (position.epoch, position.number);
        Ok(known.filter(is_of_it))
    }

    /// What is there, of whichever snapshot. One that cannot be understood is none.
    pub(super) fn read_any(dataset: &Dataset) -> Result<Option<Self>, ReceiverError> {
        let content = durable::read(&dataset.control, &names::LOOKED, LIMIT_BYTES)?;
        let known: Option<Self> = content.and_then(|content| {
            let (hash, body) = content.split_at_checked(32)?;
            let is_whole = hash == blake3::hash(body).as_bytes();
            postcard::from_bytes(body).ok().filter(|_| is_whole)
        });
        Ok(known.filter(|known| known.format == FORMAT))
    }

    /// Writes it, without waiting for the disk. When the other twin was made anew stays known.
    pub(super) fn write(mut self, dataset: &Dataset) -> Result<(), ReceiverError> {
        if self.rebuilt.is_none() {
            self.rebuilt = Self::read_any(dataset)?.and_then(|known| known.rebuilt);
        }
        let body = postcard::to_stdvec(&self).map_err(|error| {
            ReceiverError::Damaged(format!("`looked` cannot be written: {error}"))
        })?;
        let content = [blake3::hash(&body).as_bytes().as_slice(), &body].concat();
        let control = &dataset.control;
        Ok(durable::replace(
            control,
            &names::LOOKED,
            &content,
            Durability::Later,
        )?)
    }
}

/// This moment, by the clock of the file system.
pub(super) fn now(control: &Directory) -> Result<Timestamp, ReceiverError> {
    let file = control.create_unnamed()?;
    Ok(Stat::of(&file)?.changed)
}
