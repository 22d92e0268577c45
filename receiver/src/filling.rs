//! How the disk fills: what is used of it is noted once an hour, and what that comes to is told.
//!
//! What is used is that of the whole file system, whoever uses it: it is full for all.

use understudy_protocol::message::{Filling, Overseen};
use understudy_tree::TreeError;
use understudy_tree::durable::{self, Durability};

use crate::access::{Access, Permission};
use crate::dataset::now_seconds;
use crate::error::ReceiverError;
use crate::serve::SessionOptions;
use crate::space::{Reserve, Room};
use crate::store::Store;
use crate::{names, restores};

/// How often what is used is noted.
const INTERVAL_SECONDS: i64 = 60 * 60;
/// What is older does not tell of the present.
const MEMORY_SECONDS: i64 = 14 * DAY_SECONDS;
/// Less tells of the hour of the day, and not of the days.
const LEAST_SECONDS: i64 = 2 * DAY_SECONDS;
/// Fewer may all be taken at one moment of the day.
const LEAST_SAMPLES: usize = 24;
/// Of what is farther away nobody can say anything.
const HORIZON_SECONDS: i64 = 10 * 365 * DAY_SECONDS;
const DAY_SECONDS: i64 = 24 * 60 * 60;
/// Far more than all samples take.
const LIMIT_BYTES: u64 = 1 << 20;

/// What was used at some time: seconds since 1970, bytes, inodes.
type Sample = (i64, u64, u64);

/// Notes what is used, if it is time.
pub(crate) fn note(store: &Store) -> Result<(), ReceiverError> {
    let room = Room::of(store.directory())?;
    let now = now_seconds();
    let mut samples = read(store)?;
    // What is from the future was noted by a clock that was wrong, or this one is: both say nothing of the time between.
    samples.retain(|&(seconds, ..)| (now - MEMORY_SECONDS..=now).contains(&seconds));
    let is_due = |&(seconds, ..): &Sample| now - seconds >= INTERVAL_SECONDS;
    if !samples.last().is_none_or(is_due) {
        return Ok(());
    }
    samples.push((now, room.used_bytes, room.used_inodes));
    let text = serde_json::to_vec(&samples).map_err(|error| {
        TreeError::new(
            "write",
            names::SPACE.as_bytes(),
            std::io::Error::other(error),
        )
    })?;
    Ok(durable::replace(
        store.directory(),
        &names::SPACE,
        &text,
        Durability::Later,
    )?)
}

/// What cannot be understood is nothing: it grows again.
fn read(store: &Store) -> Result<Vec<Sample>, ReceiverError> {
    let text = durable::read(store.directory(), &names::SPACE, LIMIT_BYTES)?;
    Ok(text
        .and_then(|text| serde_json::from_slice(&text).ok())
        .unwrap_or_default())
}

/// How the bytes and the inodes of the store's file system fill, and for how many seconds that was observed.
pub(crate) fn filling(
    store: &Store,
    reserve: Reserve,
) -> Result<(Filling, Filling, i64), ReceiverError> {
    let room = Room::of(store.directory())?;
    let samples = read(store)?;
    Ok(forecast(&samples, room, reserve, now_seconds()))
}

/// Answers an `Oversee`. How the disk fills is everybody's doing: who does not see everything is told how full it is.
pub(crate) fn oversee(
    access: Access<'_>,
    own: &[Permission],
    options: &SessionOptions,
) -> Result<Overseen, ReceiverError> {
    let (mut bytes, mut inodes, mut observed) = filling(access.store(), options.reserve)?;
    if !access.sees_all()? {
        for filling in [&mut bytes, &mut inodes] {
            (filling.each_day, filling.full_seconds) = (None, None);
        }
        observed = 0;
    }
    Ok(Overseen {
        restores: restores::running(access.store(), own),
        bytes,
        inodes,
        observed_seconds: observed.unsigned_abs(),
    })
}

fn forecast(samples: &[Sample], room: Room, reserve: Reserve, now: i64) -> (Filling, Filling, i64) {
    let mut known: Vec<Sample> = samples.to_vec();
    known.retain(|&(seconds, ..)| (now - MEMORY_SECONDS..=now).contains(&seconds));
    known.sort_unstable();
    let observed = match (known.first(), known.last()) {
        (Some(first), Some(last)) => last.0 - first.0,
        _ => 0,
    };
    let bytes: Vec<_> = known.iter().map(|&(at, bytes, _)| (at, bytes)).collect();
    let inodes: Vec<_> = known.iter().map(|&(at, _, inodes)| (at, inodes)).collect();
    let (kept_bytes, kept_inodes) = reserve.of(room);
    let of_bytes = fill(&bytes, (room.bytes, room.free_bytes, kept_bytes), now);
    let of_inodes = fill(&inodes, (room.inodes, room.free_inodes, kept_inodes), now);
    (of_bytes, of_inodes, observed)
}

fn fill(used: &[(i64, u64)], (total, free, reserve): (u64, u64, u64), now: i64) -> Filling {
    let rate = rate(used).filter(|_| total > 0);
    let left = free.saturating_sub(reserve) as f64;
    let full_seconds = if total > 0 && free < reserve {
        Some(now)
    } else {
        let seconds = rate.filter(|&rate| rate > 0.0).map(|rate| left / rate);
        let seconds = seconds.filter(|&seconds| seconds < HORIZON_SECONDS as f64);
        seconds.map(|seconds| now.saturating_add(seconds as i64))
    };
    Filling {
        total,
        free,
        reserve,
        each_day: rate.map(|rate| (rate * DAY_SECONDS as f64) as i64),
        full_seconds,
    }
}

/// How much more is used in a second: the median of what any two samples say that are far enough apart (Theil and Sen), so that
/// neither a single upload or removal nor the hours of the day say much. `None` if too little was seen.
fn rate(used: &[(i64, u64)]) -> Option<f64> {
    let span = used.last()?.0 - used.first()?.0;
    if used.len() < LEAST_SAMPLES || span < LEAST_SECONDS {
        return None;
    }
    let mut slopes = Vec::new();
    for (number, &(later, more)) in used.iter().enumerate() {
        let before = used[..number].iter();
        let far = before.take_while(|&&(earlier, _)| later - earlier >= span / 4);
        slopes.extend(
            far.map(|&(earlier, less)| (more as f64 - less as f64) / (later - earlier) as f64),
        );
    }
    let middle = slopes.len() / 2;
    (!slopes.is_empty()).then(|| *slopes.select_nth_unstable_by(middle, f64::total_cmp).1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 60 * 60;
    const GB: u64 = 1_000_000_000;

    /// A disk of 1,000 GB on which `used` is what is used each hour.
    fn told(hours: i64, used: impl Fn(i64) -> u64) -> Filling {
        let samples: Vec<Sample> = (0..hours)
            .map(|hour| (hour * HOUR, used(hour), 7))
            .collect();
        let free = 1000 * GB - used(hours - 1);
        let room = Room::new((1000 * GB, free), (1000, 993));
        let reserve = Reserve {
            percent: 2,
            enough_bytes: u64::MAX,
        };
        let (bytes, inodes, _) = forecast(&samples, room, reserve, hours * HOUR);
        assert_eq!(inodes.full_seconds, None, "inodes are not used up");
        bytes
    }

    fn days_left(filling: &Filling, hours: i64) -> f64 {
        let full = filling.full_seconds.expect("it fills");
        (full - hours * HOUR) as f64 / DAY_SECONDS as f64
    }

    #[test]
    fn steady_growth_is_carried_on_to_the_reserve() {
        // 24 GB each day, 980 GB of room.
        let filling = told(240, |hour| 240 * GB + hour as u64 * GB);
        assert_eq!(filling.reserve, 20 * GB);
        let grows = filling.each_day.expect("known") as f64 / GB as f64;
        assert!((grows - 24.0).abs() < 0.1, "{grows}");
        let days = days_left(&filling, 240);
        assert!((days - 501.0 / 24.0).abs() < 0.2, "{days}");
    }

    #[test]
    fn few_samples_say_nothing() {
        assert_eq!(told(23, |hour| hour as u64 * GB).full_seconds, None);
        assert_eq!(told(48, |hour| hour as u64 * GB).each_day, None);
        assert!(told(50, |hour| hour as u64 * GB).each_day.is_some());
        assert_eq!(rate(&[]), None);
        let same = vec![(5, 7); 100];
        assert_eq!(rate(&same), None);
    }

    #[test]
    fn a_single_upload_and_the_hours_of_the_day_are_no_growth() {
        let once = told(240, |hour| if hour < 200 { 100 * GB } else { 500 * GB });
        assert_eq!((once.each_day, once.full_seconds), (Some(0), None));
        // 12 GB in each day, of which 10 go at night.
        let saw = told(240, |hour| {
            let (day, hour) = (hour as u64 / 24, hour as u64 % 24);
            100 * GB + day * 2 * GB + hour * GB / 2
        });
        let days = days_left(&saw, 240);
        assert!((350.0..520.0).contains(&days), "{days}");
    }

    #[test]
    fn what_shrinks_or_hardly_grows_is_never_full() {
        let shrinks = told(240, |hour| 500 * GB - hour as u64 * GB);
        assert!(shrinks.each_day.expect("known") < 0);
        assert_eq!(shrinks.full_seconds, None);
        let crawls = told(240, |hour| 500 * GB + hour as u64 * 1000);
        assert_eq!(crawls.full_seconds, None);
    }

    #[test]
    fn a_disk_below_its_reserve_is_full_whatever_was_seen() {
        let filling = told(1, |_| 990 * GB);
        assert_eq!(filling.full_seconds, Some(HOUR));
    }
}
