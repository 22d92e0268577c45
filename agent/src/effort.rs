//! How the time of an upload is spent, and which level of compression follows from it.
//!
//! A full queue to the network cannot tell a slow link from a slow disk of the spare. So both sides have a say: the
//! link is what holds things back where the workers wait to get rid of frames while the spare waits to get them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use understudy_protocol::lane::{SendingLanes, UNCOMPRESSED};
use understudy_protocol::message::Waited;

/// Levels of zstd, from fast to small. Those above take many times as long for a few hundredths. Where the link is not
/// what holds things back, compressing costs both sides time and saves none.
const LEVELS: [i32; 6] = [UNCOMPRESSED, 1, 3, 5, 7, 9];
/// Where it starts in them.
const START: usize = 2;
/// The spare is idle if it waits for at least this share of the time.
const IDLE: Percent = 50;
/// The spare is busy if it waits for less than this share.
const BUSY: Percent = 25;
/// Workers are held up by the link if they spend at least this share of their time getting rid of frames.
const HELD_UP: Percent = 50;
/// Below this share they are what everything waits for.
const FREE: Percent = 20;
/// A slow link must show this many times in a row.
const IN_A_ROW: u32 = 2;
/// After a level turned out to be too high it is not tried again before this many reports.
const PAUSE: u32 = 20;

/// A share of some time.
type Percent = u64;

/// Where workers count how they spend their time.
#[derive(Debug, Default)]
pub(crate) struct Effort {
    working_nanoseconds: AtomicU64,
    blocked_nanoseconds: AtomicU64,
}

impl Effort {
    /// A worker took `working` to make a frame, and was `blocked` until it was gone.
    pub(crate) fn add(&self, working: Duration, blocked: Duration) {
        let nanoseconds = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.working_nanoseconds
            .fetch_add(nanoseconds(working), Ordering::Relaxed);
        self.blocked_nanoseconds
            .fetch_add(nanoseconds(blocked), Ordering::Relaxed);
    }

    /// For which share of their time workers were blocked since this was asked before, if anything was sent.
    fn take(&self) -> Option<Percent> {
        let working = self.working_nanoseconds.swap(0, Ordering::Relaxed);
        let blocked = self.blocked_nanoseconds.swap(0, Ordering::Relaxed);
        share(blocked, working.saturating_add(blocked))
    }
}

fn share(part: u64, whole: u64) -> Option<Percent> {
    let percent = u128::from(part) * 100;
    percent
        .checked_div(u128::from(whole))
        .and_then(|percent| Percent::try_from(percent).ok())
}

/// Sets the level of a connection by what the spare tells.
#[derive(Debug)]
pub(crate) struct Tuning {
    /// `None`: nothing can be set.
    lanes: Option<SendingLanes>,
    effort: Arc<Effort>,
    choice: Choice,
}

impl Tuning {
    /// For a connection that has these lanes, if any.
    pub(crate) fn new(lanes: Option<SendingLanes>, effort: Arc<Effort>) -> Self {
        Self {
            lanes,
            effort,
            choice: Choice::default(),
        }
    }

    /// Takes note of what the spare tells. False if it may not tell it in this session.
    pub(crate) fn hear(&mut self, waited: &Waited) -> bool {
        let Some(lanes) = &self.lanes else {
            return false;
        };
        let idle = share(waited.milliseconds, waited.of_milliseconds);
        if let (Some(idle), Some(blocked)) = (idle, self.effort.take()) {
            let level = self.choice.next(idle, blocked);
            if level != lanes.level() {
                tracing::debug!(level, idle, blocked, "the level of compression changes");
                lanes.set_level(level);
            }
        }
        true
    }
}

/// Which level is in use, and what led to it. Knows neither clocks nor connections.
#[derive(Debug)]
struct Choice {
    at: usize,
    /// Reports in a row in which the link was slow.
    slow: u32,
    /// Reports until it may rise again.
    pause: u32,
}

impl Default for Choice {
    fn default() -> Self {
        Self {
            at: START,
            slow: 0,
            pause: 0,
        }
    }
}

impl Choice {
    /// The level from now on, after the spare was `idle` and the workers `blocked` for these shares of the time.
    fn next(&mut self, idle: Percent, blocked: Percent) -> i32 {
        self.pause = self.pause.saturating_sub(1);
        let link_is_slow = idle >= IDLE && blocked >= HELD_UP;
        self.slow = if link_is_slow { self.slow + 1 } else { 0 };
        if link_is_slow {
            if self.slow >= IN_A_ROW && self.pause == 0 && self.at + 1 < LEVELS.len() {
                self.at += 1;
                self.slow = 0;
            }
        } else if idle < BUSY {
            // Smaller frames would not help; how good the link is shows when the spare has caught up.
            self.at = 0;
        } else if blocked < FREE && self.at > 0 {
            self.at -= 1;
            self.pause = PAUSE;
        }
        LEVELS[self.at]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Percentages that each stand for one of the reasons why an upload is as fast as it is.
    const LINK: (Percent, Percent) = (90, 90);
    const SPARE: (Percent, Percent) = (5, 90);
    const WORKERS: (Percent, Percent) = (90, 5);
    const BALANCE: (Percent, Percent) = (60, 35);

    fn levels(choice: &mut Choice, reports: &[(Percent, Percent)]) -> Vec<i32> {
        reports
            .iter()
            .map(|&(idle, blocked)| choice.next(idle, blocked))
            .collect()
    }

    #[test]
    fn the_level_follows_what_holds_things_back() {
        for (reports, expected) in [
            // A slow link, up to the highest level.
            (vec![LINK; 12], vec![3, 5, 5, 7, 7, 9, 9, 9, 9, 9, 9, 9]),
            // Neither a slow spare nor slow workers raise it, nor a link that is slow for a moment.
            // where compressing saves no time.
            (vec![SPARE; 3], vec![0; 3]),
            (vec![WORKERS; 3], vec![1, 0, 0]),
            (vec![LINK, BALANCE, LINK, BALANCE], vec![3; 4]),
            (vec![SPARE, SPARE, LINK, LINK, BALANCE], vec![0, 0, 0, 1, 1]),
            // It stays where both work, and falls where the spare or the workers are too slow for it.
            (
                [vec![LINK; 4], vec![BALANCE; 3], vec![SPARE; 5]].concat(),
                vec![3, 5, 5, 7, 7, 7, 7, 0, 0, 0, 0, 0],
            ),
            (
                [vec![LINK; 4], vec![WORKERS; 5]].concat(),
                vec![3, 5, 5, 7, 5, 3, 1, 0, 0],
            ),
        ] {
            let found = levels(&mut Choice::default(), &reports);
            assert_eq!(found, expected, "{reports:?}");
        }
    }

    #[test]
    fn a_level_that_was_too_high_is_not_tried_again_at_once() {
        let mut choice = Choice::default();
        let before = levels(&mut choice, &[LINK, LINK, LINK, LINK, WORKERS]);
        assert_eq!(before.last(), Some(&5));
        let after = levels(&mut choice, &[LINK; 21]);
        assert_eq!(after.iter().position(|&level| level == 7), Some(19));
    }

    #[test]
    fn shares_of_no_time_say_nothing_and_of_any_time_never_overflow() {
        let effort = Effort::default();
        assert_eq!(effort.take(), None);
        effort.add(Duration::from_millis(30), Duration::from_millis(10));
        effort.add(Duration::from_millis(20), Duration::from_millis(40));
        assert_eq!(effort.take(), Some(50));
        assert_eq!(effort.take(), None);
        assert_eq!(share(u64::MAX, u64::MAX), Some(100));
        assert_eq!(share(0, 0), None);
    }

    #[test]
    fn what_is_heard_sets_the_level_of_the_lanes() {
        let effort = Arc::<Effort>::default();
        let lanes = SendingLanes::default();
        assert_eq!(lanes.level(), LEVELS[START]);
        let mut tuning = Tuning::new(Some(lanes.clone()), Arc::clone(&effort));
        let waited = Waited {
            milliseconds: 450,
            of_milliseconds: 500,
        };
        for _ in 0..2 {
            effort.add(Duration::from_millis(10), Duration::from_millis(90));
            assert!(tuning.hear(&waited));
            // Without a frame sent it proves nothing.
            assert!(tuning.hear(&waited));
        }
        assert_eq!(lanes.level(), LEVELS[START + 1]);
        assert!(!Tuning::new(None, effort).hear(&waited));
    }
}
