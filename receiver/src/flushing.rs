//! Making what was staged durable while more arrives, and watching that it leaves enough room.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::dataset::Dataset;
use crate::keeping::Keeping;
use crate::space::Reserve;
use crate::streams::Streams;
use crate::workers::Trouble;

/// Writing back starts after this much was staged, so that the disk works while contents still arrive.
const FLUSH_BYTES: u64 = 64 * 1024 * 1024;
/// How often the flusher looks.
const FLUSH_PAUSE: Duration = Duration::from_millis(20);
/// How often the free space is looked at: at 1 GB/s a tenth of the default reserve goes meanwhile.
const LOOK_PAUSE: Duration = Duration::from_secs(1);

/// How much was staged, for the flusher.
#[derive(Default)]
pub(crate) struct StagedBytes {
    pub(crate) sum: AtomicU64,
    pub(crate) ended: AtomicBool,
}

/// Makes what was staged durable now and then. The last sync before the intent then finds little to do. Ends the upload when it
/// takes what must stay free.
pub(crate) fn flush(
    dataset: &Dataset,
    reserve: Reserve,
    staged_bytes: &StagedBytes,
    keeping: &Keeping<'_>,
    streams: &Streams,
    trouble: &Trouble,
) {
    let mut flushed = 0;
    let mut looked_at = Instant::now();
    while !staged_bytes.ended.load(Ordering::Acquire) {
        if looked_at.elapsed() >= LOOK_PAUSE {
            if let Err(error) = reserve.check(&dataset.control) {
                return trouble.report(error, streams);
            }
            looked_at = Instant::now();
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
