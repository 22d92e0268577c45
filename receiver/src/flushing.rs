//! Making what was staged durable while more arrives, and watching that it leaves enough room.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::dataset::Dataset;
use crate::error::ReceiverError;
use crate::keeping::Keeping;
use crate::quota::{Budget, Used};
use crate::space::Reserve;
use crate::stage::Staged;
use crate::streams::Streams;
use crate::workers::Trouble;
use crate::{names, quota};

/// Writing back starts after this much was staged, so that the disk works while contents still arrive.
const FLUSH_BYTES: u64 = 64 * 1024 * 1024;
/// How often the flusher looks.
const FLUSH_PAUSE: Duration = Duration::from_millis(20);
/// How often the free space is looked at: at 1 GB/s a tenth of the default reserve goes meanwhile.
const LOOK_PAUSE: Duration = Duration::from_secs(1);

/// How much more is staged before the quota is looked at again.
const COUNT_BYTES: u64 = 16 * 1024 * 1024;
const COUNT_FILES: u64 = 10_000;

/// How much was staged, for the flusher.
#[derive(Default)]
pub(crate) struct StagedBytes {
    pub(crate) sum: AtomicU64,
    /// Bytes of files that came into being, of those that were left over, and rows.
    pub(crate) fresh: AtomicU64,
    pub(crate) taken: AtomicU64,
    pub(crate) rows: AtomicU64,
    /// What the rows take that are written already.
    pub(crate) row_bytes: AtomicU64,
    pub(crate) ended: AtomicBool,
}

impl StagedBytes {
    /// Bytes of a stream came.
    pub(crate) fn add_bytes(&self, bytes: u64) {
        self.sum.fetch_add(bytes, Ordering::Relaxed);
        self.fresh.fetch_add(bytes, Ordering::Relaxed);
    }

    /// The files of a message were staged.
    pub(crate) fn add(&self, staged: &Staged) {
        let (fresh, taken) = staged.bytes;
        self.fresh.fetch_add(fresh, Ordering::Relaxed);
        self.taken.fetch_add(taken, Ordering::Relaxed);
        let rows = staged.puts.len() as u64;
        self.rows.fetch_add(rows, Ordering::Relaxed);
    }
}

/// Makes what was staged durable now and then. The last sync before the intent then finds little to do. Ends the upload when it
/// takes what must stay free.
pub(crate) fn flush(
    dataset: &Dataset,
    (reserve, budget): (Reserve, Option<&Budget<'_>>),
    staged_bytes: &StagedBytes,
    keeping: &Keeping<'_>,
    streams: &Streams,
    trouble: &Trouble,
) {
    let mut flushed = 0;
    let mut looked_at = Instant::now();
    let mut counted = Used::default();
    while !staged_bytes.ended.load(Ordering::Acquire) {
        if looked_at.elapsed() >= LOOK_PAUSE {
            if let Err(error) = reserve.check(&dataset.control) {
                return trouble.report(error, streams);
            }
            looked_at = Instant::now();
        }
        if let Some(budget) = budget
            && let Err(error) = count(budget, dataset, staged_bytes, &mut counted)
        {
            return trouble.report(error, streams);
        }
        let sum = staged_bytes.sum.load(Ordering::Relaxed);
        if sum - flushed < FLUSH_BYTES {
            std::thread::park_timeout(FLUSH_PAUSE);
            continue;
        }
        flushed = sum;
        if let Err(error) = keeping.sync(dataset) {
            return trouble.report(error, streams);
        }
    }
}

/// Looks whether the main may have what is staged, whenever that got more by a good deal.
fn count(
    budget: &Budget<'_>,
    dataset: &Dataset,
    staged: &StagedBytes,
    counted: &mut Used,
) -> Result<(), ReceiverError> {
    let fresh = Used {
        bytes: (staged.fresh.load(Ordering::Relaxed))
            .saturating_add(staged.row_bytes.load(Ordering::Relaxed)),
        files: staged.rows.load(Ordering::Relaxed),
    };
    let is_more = |now: u64, before: u64, step: u64| {
        now > before && (before == 0 || now.saturating_sub(before) >= step)
    };
    if !is_more(fresh.bytes, counted.bytes, COUNT_BYTES)
        && !is_more(fresh.files, counted.files, COUNT_FILES)
    {
        return Ok(());
    }
    *counted = fresh;
    let taken = staged.taken.load(Ordering::Relaxed);
    let staged = fresh.and(Used {
        bytes: taken,
        files: 0,
    });
    budget.check_staged(staged)?;
    let staging = dataset.control.ensure_directory(&names::STAGING)?;
    quota::weigh(&staging, staged)
}
