//! Where workers wait while the host is under pressure.
//!
//! The average of the last ten seconds says when to pause. It cannot say when to go on, for what the agent itself
//! waited for is in it: that is measured while everybody rests.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::pressure::{Percent, Readings};
use crate::Cancel;
use crate::error::AgentError;

/// Time between two looks at a host that is not under pressure.
const LOOK: Duration = Duration::from_millis(500);
/// How long the host is measured while everybody rests.
const REST: Duration = Duration::from_secs(1);
/// After a rest the average takes this long to forget what was before.
const SETTLE: Duration = Duration::from_secs(10);
/// A rest that finds the host calm from its start shows that the pressure was the agent's own: the pauses between
/// looks then double up to this, so that an otherwise idle host is used nearly all the time.
const SETTLE_AT_MOST: Duration = Duration::from_secs(40);
/// How soon a wait notices that somebody asked for the end.
const PATIENCE: Duration = Duration::from_millis(50);

/// The next look is now.
const AT_ONCE: u64 = 0;
/// There is no next look in this cycle.
const NEVER: u64 = u64::MAX;

/// Where readings come from.
pub(super) type Gauge = Box<dyn Fn() -> Option<Readings> + Send + Sync>;

/// The pauses that all workers make together.
pub(super) struct Rest {
    limit: Percent,
    at_most: Duration,
    length: Duration,
    gauge: Gauge,
    born: Instant,
    /// Nanoseconds from `born` to the next look. While somebody rests it is [`AT_ONCE`], which brings the others here.
    next_look: AtomicU64,
    state: Mutex<State>,
    /// A rest is over.
    over: Condvar,
}

#[derive(Debug)]
struct State {
    is_resting: bool,
    is_blind: bool,
    paused: Duration,
    settle: Duration,
}

/// What a rest found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    /// The host was calm as soon as the agent rested.
    Calm,
    /// The host was busy without the agent, and has become calm.
    BecameCalm,
    /// The host is still busy, and the cycle has no more time to rest.
    StillBusy,
    /// The kernel tells nothing any more.
    Nothing,
}

impl Rest {
    /// Pauses while `gauge` shows more than `limit`, in all for `at_most` in each cycle.
    pub(super) fn new(limit: Percent, at_most: Duration, gauge: Gauge) -> Self {
        Self {
            limit,
            at_most,
            length: REST,
            gauge,
            born: Instant::now(),
            next_look: AtomicU64::new(AT_ONCE),
            state: Mutex::new(State {
                is_resting: false,
                is_blind: false,
                paused: Duration::ZERO,
                settle: SETTLE,
            }),
            over: Condvar::new(),
        }
    }

    /// Returns at once, or after a pause. Costs a look at the clock unless a look at the host is due.
    pub(super) fn breathe(&self, cancel: &Cancel) -> Result<(), AgentError> {
        if self.is_due() {
            self.look(cancel)
        } else {
            Ok(())
        }
    }

    /// Gives the next cycle its own time to rest.
    pub(super) fn reset(&self) {
        let mut state = self.lock();
        state.paused = Duration::ZERO;
        state.settle = SETTLE;
        if !state.is_blind {
            self.next_look.store(AT_ONCE, Ordering::Relaxed);
        }
    }

    /// Time since the last [`Rest::reset`] in which everybody rested.
    pub(super) fn paused(&self) -> Duration {
        self.lock().paused
    }

    fn is_due(&self) -> bool {
        let next_look = self.next_look.load(Ordering::Relaxed);
        next_look != NEVER && nanoseconds(self.born.elapsed()) >= next_look
    }

    fn look(&self, cancel: &Cancel) -> Result<(), AgentError> {
        let mut state = self.lock();
        while state.is_resting {
            cancel.check()?;
            (state, _) = self
                .over
                .wait_timeout(state, PATIENCE)
                .unwrap_or_else(PoisonError::into_inner);
        }
        // Somebody else may have looked while this one waited.
        if !self.is_due() {
            return Ok(());
        }
        self.look_after(LOOK);
        let Some(readings) = (self.gauge)() else {
            tracing::debug!("the kernel does not tell how busy the host is: never pausing");
            state.is_blind = true;
            self.next_look.store(NEVER, Ordering::Relaxed);
            return Ok(());
        };
        if !readings.is_busy(self.limit) {
            return Ok(());
        }
        tracing::debug!("the host is under pressure: pausing");
        state.is_resting = true;
        self.next_look.store(AT_ONCE, Ordering::Relaxed);
        drop(state);
        let result = self.rest(readings, cancel);
        self.wake(result.as_ref().ok().copied());
        result.map(|_| ())
    }

    /// Rests until the host is calm or the time for it is spent.
    fn rest(&self, mut before: Readings, cancel: &Cancel) -> Result<Found, AgentError> {
        let mut calm = Found::Calm;
        loop {
            let left = self.at_most.saturating_sub(self.paused());
            if left.is_zero() {
                return Ok(Found::StillBusy);
            }
            let since = Instant::now();
            let waited = wait(self.length.min(left), cancel);
            let passed = since.elapsed();
            self.lock().paused += passed;
            waited?;
            let Some(now) = (self.gauge)() else {
                return Ok(Found::Nothing);
            };
            if !now.was_busy_since(&before, passed, self.limit) {
                return Ok(calm);
            }
            calm = Found::BecameCalm;
            before = now;
        }
    }

    /// Ends a rest for everybody. `found` is `None` if it was interrupted.
    fn wake(&self, found: Option<Found>) {
        let mut state = self.lock();
        state.is_resting = false;
        match found {
            Some(Found::StillBusy) => {
                tracing::warn!(
                    "the host stayed under pressure for all of the {} s for which a cycle pauses: carrying on, so that \
                     the spare does not fall behind; `pressure` and `pause_at_most` in the configuration say when and \
                     for how long to pause",
                    self.at_most.as_secs()
                );
                self.next_look.store(NEVER, Ordering::Relaxed);
            }
            Some(Found::Calm) => {
                self.look_after(state.settle);
                state.settle = (state.settle * 2).min(SETTLE_AT_MOST);
            }
            Some(Found::BecameCalm | Found::Nothing) => {
                state.settle = SETTLE;
                self.look_after(SETTLE);
            }
            None => self.look_after(LOOK),
        }
        drop(state);
        self.over.notify_all();
    }

    fn look_after(&self, wait: Duration) {
        let next_look = nanoseconds(self.born.elapsed() + wait);
        self.next_look.store(next_look, Ordering::Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Rest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Rest")
            .field("limit", &self.limit)
            .field("at_most", &self.at_most)
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX - 1)
}

fn wait(duration: Duration, cancel: &Cancel) -> Result<(), AgentError> {
    let start = Instant::now();
    loop {
        cancel.check()?;
        let left = duration.saturating_sub(start.elapsed());
        if left.is_zero() {
            return Ok(());
        }
        thread::park_timeout(left.min(PATIENCE));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::Arc;
    use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};

    use super::*;
    use crate::pace::pressure::tests::reading;
    use crate::pace::tests::until;

    const HOUR: Duration = Duration::from_secs(3600);

    /// Rests of a millisecond, which see these averages and totals one after another, and then nothing.
    fn rest(at_most: Duration, script: impl IntoIterator<Item = (f64, Duration)>) -> Rest {
        let script: VecDeque<_> = script.into_iter().collect();
        let script = Mutex::new(script);
        let gauge = move || {
            let next = script.lock().expect("script").pop_front();
            next.map(|(average, total)| reading(average, total))
        };
        let limit = Percent::new(50).expect("percent");
        let mut rest = Rest::new(limit, at_most, Box::new(gauge));
        rest.length = Duration::from_millis(1);
        rest
    }

    fn breathe(rest: &Rest) {
        rest.breathe(&Cancel::default()).expect("not interrupted");
    }

    fn next_look(rest: &Rest) -> u64 {
        rest.next_look.load(Ordering::Relaxed)
    }

    /// When the next look is, counted from now.
    fn next_look_in(rest: &Rest) -> Duration {
        Duration::from_nanos(next_look(rest)).saturating_sub(rest.born.elapsed())
    }

    #[test]
    fn a_calm_host_is_looked_at_and_not_paused_for() {
        let rest = rest(HOUR, [(50.0, HOUR), (99.0, HOUR)]);
        breathe(&rest);
        assert_eq!(rest.paused(), Duration::ZERO);
        assert!(next_look_in(&rest) <= LOOK);
        let due = next_look(&rest);
        rest.next_look.store(NEVER - 1, Ordering::Relaxed);
        breathe(&rest);
        assert_eq!(
            next_look(&rest),
            NEVER - 1,
            "no look before it is due: {due}"
        );
    }

    #[test]
    fn a_pause_lasts_until_a_rest_is_calm_whatever_the_average_says() {
        let grown = |hours| (90.0, hours * HOUR);
        let rest = rest(HOUR, [grown(1), grown(2), grown(3), grown(3), grown(9)]);
        breathe(&rest);
        assert!(rest.paused() >= 3 * rest.length, "{:?}", rest.paused());
        let settles = next_look_in(&rest);
        assert!(settles > LOOK && settles <= SETTLE, "{settles:?}");
        assert!((rest.gauge)().is_some() && (rest.gauge)().is_none());
    }

    #[test]
    fn pressure_that_is_the_agents_own_is_looked_at_less_and_less() {
        let rest = rest(HOUR, [(90.0, HOUR); 8]);
        for settle in [10, 20, 40, 40] {
            rest.next_look.store(AT_ONCE, Ordering::Relaxed);
            breathe(&rest);
            let settles = next_look_in(&rest).as_secs_f64();
            let settle = f64::from(settle);
            assert!(settles <= settle && settles > settle / 2.0, "{settles}");
        }
        rest.reset();
        assert_eq!(rest.lock().settle, SETTLE);
        assert_eq!(next_look(&rest), AT_ONCE);
    }

    #[test]
    fn a_host_that_stays_busy_gets_its_spare_all_the_same() {
        let busy = (1..).map(|hours| (90.0, hours * HOUR));
        let rest = rest(Duration::from_millis(5), busy.take(1000));
        breathe(&rest);
        assert!(rest.paused() >= Duration::from_millis(5));
        assert_eq!(next_look(&rest), NEVER);
        breathe(&rest);
        rest.reset();
        assert_eq!(rest.paused(), Duration::ZERO);
        breathe(&rest);
        assert!(rest.paused() >= Duration::from_millis(5), "the next cycle");
    }

    #[test]
    fn a_kernel_that_tells_nothing_is_asked_once() {
        let rest = rest(HOUR, []);
        breathe(&rest);
        assert_eq!(next_look(&rest), NEVER);
        rest.reset();
        assert_eq!(next_look(&rest), NEVER);
        assert_eq!(rest.paused(), Duration::ZERO);
    }

    #[test]
    fn a_rest_ends_when_cancelled_and_so_do_those_who_wait_with_it() {
        let rest = Arc::new(Rest {
            length: HOUR,
            ..rest(HOUR, [(90.0, HOUR); 2])
        });
        let cancel = Cancel::default();
        let workers: Vec<_> = (0..3)
            .map(|_| {
                let (rest, cancel) = (Arc::clone(&rest), cancel.clone());
                thread::spawn(move || rest.breathe(&cancel))
            })
            .collect();
        until(|| rest.lock().is_resting);
        cancel.cancel();
        let results: Vec<_> = workers
            .into_iter()
            .map(|worker| worker.join().expect("thread"))
            .collect();
        assert!(
            results
                .iter()
                .any(|result| matches!(result, Err(AgentError::Interrupted)))
        );
        assert!(!rest.lock().is_resting, "the next cycle is not held up");
    }

    /// A gauge that says when it is read at the end of the first rest, and answers then when it is told to.
    fn held_gauge() -> (Gauge, std::sync::mpsc::Receiver<()>, SyncSender<()>) {
        let (asked, was_asked) = sync_channel(0);
        let (answer, answers) = sync_channel::<()>(0);
        let (looks, answers) = (AtomicU64::new(0), Mutex::new(answers));
        let gauge = move || {
            if looks.fetch_add(1, Ordering::Relaxed) == 1 {
                asked.send(()).expect("the test listens");
                let answers = answers.lock().expect("answers");
                answers.recv().expect("the test answers");
            }
            Some(reading(90.0, HOUR))
        };
        (Box::new(gauge), was_asked, answer)
    }

    #[test]
    fn all_workers_rest_together() {
        let (gauge, was_asked, answer) = held_gauge();
        let limit = Percent::new(50).expect("percent");
        let mut rest = Rest::new(limit, HOUR, gauge);
        rest.length = Duration::from_millis(1);
        let rest = Arc::new(rest);
        let breathing = |rest: &Arc<Rest>, done: Option<SyncSender<()>>| {
            let rest = Arc::clone(rest);
            thread::spawn(move || {
                breathe(&rest);
                if let Some(done) = done {
                    done.send(()).expect("the test listens");
                }
            })
        };
        let first = breathing(&rest, None);
        was_asked.recv().expect("the first one rests");
        let (done, is_done) = sync_channel(1);
        let second = breathing(&rest, Some(done));
        // One that does not rest is done in no time; one that does never is, so this cannot fail by chance.
        let early = is_done.recv_timeout(Duration::from_millis(100));
        assert_eq!(early, Err(RecvTimeoutError::Timeout));
        answer.send(()).expect("the first one waits");
        is_done.recv().expect("the second one goes on as well");
        first.join().expect("thread");
        second.join().expect("thread");
    }
}
