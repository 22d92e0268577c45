//! A file that takes room for the transaction that makes snapshots go, and is given up where the disk is full.

use understudy_tree::{TreeError, content};

use crate::dataset::Dataset;
use crate::error::ReceiverError;
use crate::store::Store;
use crate::{names, space};

/// Enough for that transaction.
const BYTES: u64 = 1 << 20;
/// It is made only where it is a small part of what is free.
const FREE: u64 = 16 * BYTES;

/// Whether less is free than the ballast would give, or no inode.
pub(super) fn is_full(store: &Store) -> bool {
    space::is_full(store.directory())
}

/// Whether an error is, or may come of, a full disk. SQLite does not always say so.
pub(super) fn may_help(store: &Store, error: &ReceiverError) -> bool {
    matches!(error, ReceiverError::NoSpace(_))
        || matches!(error, ReceiverError::Catalog { .. }) && is_full(store)
}

/// Makes it, unless it is there as a whole or little is free. Without it everything goes on as well.
pub(super) fn keep(store: &Store, dataset: &Dataset) {
    if store.free_bytes() < FREE {
        return;
    }
    if let Err(error) = make(dataset) {
        tracing::warn!(dataset = %dataset.name, "cannot keep room for a full disk: {error}");
    }
}

fn make(dataset: &Dataset) -> Result<(), TreeError> {
    let control = &dataset.control;
    match control.stat_if_present(&names::BALLAST)? {
        // A hole gives no room; blocks beside the content, as for its extents, may come on top.
        Some(stat) if stat.size == BYTES && stat.allocated >= BYTES => return Ok(()),
        // Written by halves, before a crash or where the disk was full.
        Some(_) => control.remove_file(&names::BALLAST)?,
        None => {}
    }
    let file = match control.create_file(&names::BALLAST) {
        // Another process made it at the same moment.
        Err(error) if error.errno() == Some(rustix::io::Errno::EXIST) => return Ok(()),
        file => file?,
    };
    // No file system makes a hole of it, or compresses it much.
    let noise: Vec<u8> = (0..BYTES / 32)
        .flat_map(|block| *blake3::hash(&block.to_le_bytes()).as_bytes())
        .collect();
    content::write_at(&file, 0, &noise)?;
    // Blocks are found when it is written back: only then it is known that there is room.
    content::sync(&file)?;
    control.sync()
}
