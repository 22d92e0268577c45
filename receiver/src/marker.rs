//! The two small files that tell recovery, without the catalog, what a twin is: `SNAPSHOT` in each whole twin,
//! and `applying` while the shadow is between two snapshots.

use std::fmt::Write;

use understudy_protocol::{Fingerprint, Position, Snapshot};
use understudy_tree::Directory;
use understudy_tree::durable::{self, Durability};

use crate::error::ReceiverError;
use crate::names;

const LIMIT_BYTES: u64 = 4096;

/// Writes which snapshot a twin is; durable with the next sync of the file system.
pub(crate) fn write(twin: &Directory, snapshot: &Snapshot) -> Result<(), ReceiverError> {
    let Position {
        epoch,
        number,
        fingerprint,
    } = snapshot.position;
    let time = jiff::Timestamp::from_second(snapshot.committed_seconds).unwrap_or_default();
    let text = format!("epoch: {epoch}\nnumber: {number}\ntime: {time}\ndigest: {fingerprint}\n");
    durable::replace(twin, &names::SNAPSHOT, text.as_bytes(), Durability::Later)?;
    // Monitoring reads it without privileges.
    let file = twin.open_file(&names::SNAPSHOT)?;
    rustix::fs::fchmod(&file, rustix::fs::Mode::from_raw_mode(0o644)).map_err(|error| {
        understudy_tree::TreeError::new("set mode of", names::SNAPSHOT.as_bytes(), error)
    })?;
    Ok(())
}

/// Which snapshot a twin is; `None` if it is not whole.
pub(crate) fn read(twin: &Directory) -> Result<Option<Position>, ReceiverError> {
    let Some(content) = durable::read(twin, &names::SNAPSHOT, LIMIT_BYTES)? else {
        return Ok(None);
    };
    let text = String::from_utf8_lossy(&content);
    let number = |key| value(&text, key)?.parse::<u64>().ok();
    let position = (|| {
        let fingerprint: Fingerprint = value(&text, "digest")?.parse().ok()?;
        Some(Position {
            epoch: number("epoch")?,
            number: number("number")?,
            fingerprint,
        })
    })();
    // A torn marker is none: after a power cut the file may be empty.
    Ok(position)
}

/// Says that a twin is not whole any more.
pub(crate) fn remove(twin: &Directory) -> Result<(), ReceiverError> {
    match twin.remove_file(&names::SNAPSHOT) {
        Err(error) if !error.is_gone() => Err(error.into()),
        _ => Ok(()),
    }
}

/// What the shadow is being turned into.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Applying {
    /// The snapshot it was; 0 for an empty directory.
    pub(crate) from: u64,
    /// The snapshot it will be.
    pub(crate) to: u64,
    /// The boot in which this began: another one means that the power may have been cut.
    boot: String,
}

impl Applying {
    /// Begins now.
    pub(crate) fn new(from: u64, to: u64) -> Self {
        Self {
            from,
            to,
            boot: boot(),
        }
    }

    /// Whether the machine has not been restarted since, so that everything done is still there.
    pub(crate) fn is_of_this_boot(&self) -> bool {
        self.boot == boot() && !self.boot.is_empty()
    }

    /// Writes it before the first change to the shadow. Durable when it returns: recovery after a power cut
    /// relies on it.
    pub(crate) fn write(&self, control: &Directory) -> Result<(), ReceiverError> {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = write!(
            text,
            "from: {}\nto: {}\nboot: {}\n",
            self.from, self.to, self.boot
        );
        Ok(durable::replace(
            control,
            &names::APPLYING,
            text.as_bytes(),
            Durability::Now,
        )?)
    }

    /// What is there; an unreadable one says that nothing is known.
    pub(crate) fn read(control: &Directory) -> Result<Option<Self>, ReceiverError> {
        let Some(content) = durable::read(control, &names::APPLYING, LIMIT_BYTES)? else {
            return Ok(None);
        };
        let text = String::from_utf8_lossy(&content);
        let number = |key| {
            value(&text, key)
                .and_then(|text| text.parse().ok())
                .unwrap_or(0)
        };
        let boot = value(&text, "boot").unwrap_or_default().to_owned();
        Ok(Some(Self {
            from: number("from"),
            to: number("to"),
            boot,
        }))
    }

    /// The shadow is whole again.
    pub(crate) fn finish(control: &Directory) -> Result<(), ReceiverError> {
        match control.remove_file(&names::APPLYING) {
            Err(error) if !error.is_gone() => Err(error.into()),
            _ => Ok(()),
        }
    }
}

fn value<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(": "))
}

/// The boot of the machine, as the kernel names it; empty if it does not.
pub(crate) fn boot() -> String {
    // Without it every interruption counts as a power cut, which costs time and is safe.
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .unwrap_or_default()
        .trim()
        .to_owned()
}
