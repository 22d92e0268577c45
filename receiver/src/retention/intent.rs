//! What retention is about to do to a dataset: the policy's decision, compared with the flags that there are.

use std::collections::{BTreeMap, BTreeSet};

use super::policy::{self, Candidate, Fate, Health, Pin};
use super::{Expired, Grace, Obstacle, ObstacleKind, Pruned, Request, Trust};
use crate::catalog::{Catalog, FlagRow, Needed, PinRow, Recorded, RetentionChange, Swept};
use crate::dataset::Dataset;
use crate::error::ReceiverError;
use crate::findings;

/// Everything that the decision is made of.
pub(super) struct State {
    snapshots: Vec<Recorded>,
    pins: Vec<PinRow>,
    flags: Vec<FlagRow>,
    /// Snapshots with files that may be torn, or are damaged.
    doubtful: BTreeSet<u64>,
    last: Option<super::Moment>,
    pub(super) swept: Swept,
}

impl State {
    /// Of one moment.
    pub(super) fn read(dataset: &Dataset, catalog: &Catalog) -> Result<Self, ReceiverError> {
        let found = findings::read(&dataset.control)?;
        catalog.at_one_moment(|| {
            let snapshots = catalog.snapshots()?;
            let numbers: Vec<u64> = snapshots.iter().map(number).collect();
            // What is damaged is not healthy either, accepted or not.
            let mut doubtful = found.damaged_snapshots(catalog, &numbers)?;
            let head = snapshots.last().map_or(0, number);
            let mut after = None;
            loop {
                let ranges = catalog.fuzzy_up_to(head, after.as_ref())?;
                let Some(last) = ranges.last() else { break };
                after = Some(last.clone());
                for range in &ranges {
                    let first = snapshots.partition_point(|one| number(one) < range.since);
                    let in_range = snapshots[first..].iter().map(number);
                    let is_before_end = |at: &u64| range.until.is_none_or(|until| *at < until);
                    doubtful.extend(in_range.take_while(is_before_end));
                }
            }
            Ok(Self {
                doubtful,
                pins: catalog.pins()?,
                flags: catalog.flags()?,
                last: catalog.last_moment()?,
                swept: catalog.swept()?,
                snapshots,
            })
        })
    }

    /// Why the clock cannot be believed, if so.
    pub(super) fn clock_obstacle(&self, request: &Request<'_>) -> Option<Obstacle> {
        if request.trust == Trust::Given {
            return None;
        }
        let commits = self
            .snapshots
            .iter()
            .map(|one| (number(one), one.snapshot.committed_seconds));
        let doubt = request.moment.doubt(self.last.as_ref(), commits)?;
        Some(Obstacle::new(ObstacleKind::Clock, doubt))
    }

    fn candidates(&self) -> Vec<Candidate> {
        let pinned: BTreeSet<u64> = self.pins.iter().map(|pin| pin.snapshot).collect();
        let candidate = |one: &Recorded| {
            let number = number(one);
            Candidate {
                number,
                committed_seconds: one.snapshot.committed_seconds,
                health: if self.doubtful.contains(&number) {
                    Health::Doubtful
                } else {
                    Health::Healthy
                },
                pin: if pinned.contains(&number) {
                    Pin::Pinned
                } else {
                    Pin::Free
                },
            }
        };
        self.snapshots.iter().map(candidate).collect()
    }
}

/// What is about to be done.
pub(super) struct Intent {
    pub(super) change: RetentionChange,
    pub(super) pruned: Pruned,
    /// Once it is done.
    pub(super) needed: Needed,
}

impl Intent {
    pub(super) fn new(dataset: &Dataset, state: &State, request: &Request<'_>) -> Self {
        let now = request.moment.seconds;
        let flags: BTreeMap<u64, FlagRow> = state
            .flags
            .iter()
            .map(|flag| (flag.snapshot, *flag))
            .collect();
        let mut pruned = Pruned::nothing(&dataset.name);
        let mut change = RetentionChange::default();
        let candidates = state.candidates();
        let fates = policy::decide(request.policy, &candidates, now);
        for (candidate, fate) in candidates.iter().zip(fates) {
            let flag = flags.get(&candidate.number);
            let expired = match fate {
                Fate::Kept(reason) => {
                    change.unflag.extend(flag.map(|flag| flag.snapshot));
                    pruned.kept.push((candidate.number, reason));
                    continue;
                }
                Fate::Expired => expired(candidate, flag, request),
            };
            if expired.due_seconds <= now {
                change.remove.push(candidate.number);
                pruned.removed.push(expired);
                continue;
            }
            if flag.is_none_or(|flag| flag.due_seconds != expired.due_seconds) {
                change.flag.push(FlagRow {
                    snapshot: candidate.number,
                    flagged_seconds: flag.map_or(now, |flag| flag.flagged_seconds),
                    due_seconds: expired.due_seconds,
                });
            }
            if flag.is_some() {
                pruned.waiting.push(expired);
            } else {
                pruned.flagged.push(expired);
            }
        }
        let removed: BTreeSet<u64> = change.remove.iter().copied().collect();
        let left = candidates
            .iter()
            .map(|one| one.number)
            .filter(|number| !removed.contains(number));
        let needed = Needed::new(left, state.snapshots.last().map_or(0, number));
        Self {
            change,
            pruned,
            needed,
        }
    }

    /// Removes nothing; what is to be flagged is flagged all the same.
    pub(super) fn keep_all(&mut self) {
        self.change.remove.clear();
        self.pruned.removed.clear();
    }
}

fn expired(candidate: &Candidate, flag: Option<&FlagRow>, request: &Request<'_>) -> Expired {
    let now = request.moment.seconds;
    let grace = i64::try_from(request.policy.grace.as_secs()).unwrap_or(i64::MAX);
    let flagged = flag.map_or(now, |flag| flag.flagged_seconds);
    Expired {
        number: candidate.number,
        committed_seconds: candidate.committed_seconds,
        due_seconds: match request.grace {
            Grace::Wait => flagged.saturating_add(grace),
            Grace::Skip => now,
        },
    }
}

fn number(recorded: &Recorded) -> u64 {
    recorded.snapshot.position.number
}
