//! How long the rest of some work takes: a file costs time, and so does a byte.
//!
//! Both costs are fitted to what was done so far (least squares of `seconds = a * files + b * bytes`), so a thousand small files
//! say little wrong about a large one. A second fit to what was done last, which the first one is the ground of, follows a speed
//! that changes. Where such work was done here before, what it cost then is believed until what is observed says something else: the
//! first seconds of a restore are those of empty caches and of a disk that only gathers what it has to write.
//! Knows neither clocks nor what the work is.

/// Where there is nothing to tell the two costs apart they are taken to be as these: seconds for a file, and for a byte.
const USUAL: Costs = Costs {
    file: 2e-4,
    byte: 1e-8,
};
/// What is older than this counts little for the present speed.
const MEMORY_SECONDS: f64 = 10.0;
/// How much the usual costs weigh against what was observed.
const DOUBT: f64 = 1e-4;
/// How much everything that was observed weighs against what was observed last.
const RECENT_DOUBT: f64 = 0.05;
/// How much of the whole work, done at the costs that are known from before, weighs as much as what is observed.
const BELIEF: f64 = 0.7;
/// At a difference of so much (of the logarithms) the former costs are believed half as much.
const DISBELIEF: f64 = 0.5;
/// How much the share of either cost is in doubt where the whole is known.
const SHARE_DOUBT: f64 = 0.01;
/// Less is no ground for an estimate.
const LEAST_SECONDS: f64 = 0.5;

/// What work costs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Costs {
    /// Seconds for each file.
    pub file: f64,
    /// Seconds for each byte.
    pub byte: f64,
}

impl Costs {
    /// A guess for a host of which nothing is known: 5,000 files and 100 MB in a second.
    pub const fn usual() -> Self {
        USUAL
    }

    /// How long so much takes, in seconds.
    pub fn seconds(&self, files: u64, bytes: u64) -> f64 {
        self.file * files as f64 + self.byte * bytes as f64
    }
}

/// Learns from work that is being done.
#[derive(Debug, Clone, Default)]
pub(crate) struct Estimate {
    /// What was told last: seconds, files and bytes since the beginning.
    last: (f64, u64, u64),
    all: Sums,
    /// Those of late.
    recent: Sums,
}

/// Sums over observations, each weighed by the inverse of its time. `x` are files and `y` bytes, both at usual costs.
#[derive(Debug, Clone, Copy, Default)]
struct Sums {
    xx: f64,
    xy: f64,
    yy: f64,
    xt: f64,
    yt: f64,
    t: f64,
}

impl Estimate {
    /// So much was done, in so many seconds: all of it since the beginning.
    pub(crate) fn observe(&mut self, seconds: f64, files: u64, bytes: u64) {
        let (before, files_before, bytes_before) = self.last;
        let took = seconds - before;
        if took <= 0.0 {
            return;
        }
        self.last = (seconds, files, bytes);
        let x = files.saturating_sub(files_before) as f64 * USUAL.file;
        let y = bytes.saturating_sub(bytes_before) as f64 * USUAL.byte;
        self.all.add(took, x, y);
        self.recent.fade((-took / MEMORY_SECONDS).exp());
        self.recent.add(took, x, y);
    }

    /// What files and bytes cost, if there is ground to say.
    pub(crate) fn costs(&self) -> Option<Costs> {
        let usual = self.all.xt + self.all.yt;
        if self.all.t < LEAST_SECONDS || usual <= 0.0 {
            return None;
        }
        let scale = self.all.t / usual;
        // Slowness that could be the link's or the files' is taken to be the link's.
        let (file, byte) = self.all.fit((scale.min(1.0), scale), DOUBT);
        // A second of doubt keeps a single pause from meaning much.
        let expected = self.recent.xt * file + self.recent.yt * byte;
        let factor = (self.recent.t + 1.0) / (expected + 1.0);
        let (file, byte) = self
            .recent
            .fit((file * factor, byte * factor), RECENT_DOUBT);
        Some(Costs {
            file: file * USUAL.file,
            byte: byte * USUAL.byte,
        })
    }

    /// How long the rest takes, in seconds; `known` is what such work cost before.
    pub(crate) fn remaining(&self, files: u64, bytes: u64, known: Option<Costs>) -> Option<f64> {
        match known {
            Some(known) => Some(known.seconds(files, bytes) * self.factor(files, bytes, known)),
            None => self.costs().map(|costs| costs.seconds(files, bytes)),
        }
    }

    /// How many times as long as at the known costs it takes, if so much is left.
    fn factor(&self, files: u64, bytes: u64, known: Costs) -> f64 {
        let (seconds, files_done, bytes_done) = self.last;
        let expected = known.seconds(files_done, bytes_done);
        if seconds <= 0.0 || expected <= 0.0 {
            return 1.0;
        }
        let apart = (seconds / expected).ln() / DISBELIEF;
        let whole = expected + known.seconds(files, bytes);
        let belief = BELIEF * whole / (1.0 + apart * apart);
        let factor = (seconds + belief) / (expected + belief);
        // What is true of everything need not be true of late.
        let recently =
            (self.recent.xt / USUAL.file) * known.file + (self.recent.yt / USUAL.byte) * known.byte;
        let belief = belief.clamp(1.0, MEMORY_SECONDS);
        factor * (self.recent.t + belief) / (recently * factor + belief)
    }

    /// What files and bytes cost when all of it, which was observed, took so many seconds with what comes before and after.
    pub(crate) fn whole(&self, seconds: f64) -> Option<Costs> {
        let usual = self.all.xt + self.all.yt;
        if self.all.t < LEAST_SECONDS || usual <= 0.0 {
            return None;
        }
        let scale = self.all.t / usual;
        let (file, byte) = self.all.fit((scale, scale), SHARE_DOUBT);
        let factor = seconds / (self.all.xt * file + self.all.yt * byte);
        Some(Costs {
            file: file * USUAL.file * factor,
            byte: byte * USUAL.byte * factor,
        })
    }
}

impl Sums {
    fn add(&mut self, took: f64, x: f64, y: f64) {
        self.xx += x * x / took;
        self.xy += x * y / took;
        self.yy += y * y / took;
        self.xt += x;
        self.yt += y;
        self.t += took;
    }

    fn fade(&mut self, by: f64) {
        for sum in [
            &mut self.xx,
            &mut self.xy,
            &mut self.yy,
            &mut self.xt,
            &mut self.yt,
            &mut self.t,
        ] {
            *sum *= by;
        }
    }

    /// The two costs, as multiples of the usual ones. Where the observations leave it open they are near `ground`.
    fn fit(&self, ground: (f64, f64), doubt: f64) -> (f64, f64) {
        let doubt = doubt * (self.xx + self.yy);
        if doubt <= 0.0 {
            return ground;
        }
        let (xx, yy) = (self.xx + doubt, self.yy + doubt);
        let (xt, yt) = (self.xt + doubt * ground.0, self.yt + doubt * ground.1);
        let determinant = xx * yy - self.xy * self.xy;
        let file = (xt * yy - yt * self.xy) / determinant;
        let byte = (yt * xx - xt * self.xy) / determinant;
        // Neither can be had for nothing.
        if file <= 0.0 {
            return (0.0, yt / yy);
        }
        if byte <= 0.0 {
            return (xt / xx, 0.0);
        }
        (file, byte)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How a piece of work goes: files of these sizes, one after another, at costs that may change with time.
    struct Trace {
        sizes: Vec<u64>,
        costs: Speed,
    }

    /// What work costs at some time.
    type Speed = fn(f64) -> Costs;

    impl Trace {
        /// The work done by each tenth of a second: files and bytes, a large file byte by byte.
        fn ticks(&self) -> Vec<(u64, u64)> {
            let (mut now, mut files, mut bytes) = (0.0, 0, 0);
            let mut ticks = Vec::new();
            let mut tick = |now: f64, files, bytes| {
                while (ticks.len() + 1) as f64 * 0.1 <= now {
                    ticks.push((files, bytes));
                }
            };
            for &size in &self.sizes {
                let mut left = size;
                while left > 0 {
                    let block = left.min(512 << 10);
                    now += (self.costs)(now).byte * block as f64;
                    bytes += block;
                    left -= block;
                    tick(now, files, bytes);
                }
                now += (self.costs)(now).file;
                files += 1;
                tick(now, files, bytes);
            }
            ticks
        }

        /// By how much the estimate is wrong when this part of the time has passed, as a part of what remains.
        fn error_at(&self, part: f64, known: Option<Costs>) -> f64 {
            let ticks = self.ticks();
            let at = (ticks.len() as f64 * part) as usize;
            let mut estimate = Estimate::default();
            for (number, &(files, bytes)) in ticks[..at].iter().enumerate() {
                estimate.observe((number + 1) as f64 * 0.1, files, bytes);
            }
            let (files, bytes) = ticks[at - 1];
            let total: u64 = self.sizes.iter().sum();
            let left = (self.sizes.len() as u64 - files, total - bytes);
            let told = estimate.remaining(left.0, left.1, known);
            let remains = (ticks.len() - at) as f64 * 0.1;
            (told.expect("an estimate") - remains).abs() / remains
        }

        fn assert_near(&self, what: &str, known: Option<Costs>) {
            for (part, allowed) in [(0.1, 0.25), (0.25, 0.15), (0.5, 0.1)] {
                let error = self.error_at(part, known);
                assert!(error <= allowed, "{what}: {error:.3} at {part}");
            }
        }
    }

    /// Sizes as of photos and their thumbnails, the same ones each time.
    fn small(count: u64) -> Vec<u64> {
        let mut state = 7_u64;
        let mut next = move || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 40) as f64 / (1 << 24) as f64
        };
        (0..count)
            .map(|_| (-(1.0 - next()).ln() * 12_000.0) as u64)
            .collect()
    }

    fn with_one_huge(at: usize) -> Vec<u64> {
        let mut sizes = small(60_000);
        sizes.insert(at, 2_000_000_000);
        sizes
    }

    #[test]
    fn steady_work_is_foreseen() {
        let speeds: [(&str, Speed); 3] = [
            ("usual", |_| USUAL),
            ("a slow link", |_| Costs {
                file: 1e-4,
                byte: 1e-7,
            }),
            ("slow files", |_| Costs {
                file: 2e-3,
                byte: 2e-9,
            }),
        ];
        for (speed, costs) in speeds {
            for at in [0, 20_000, 40_000, 60_000] {
                let sizes = with_one_huge(at);
                Trace { sizes, costs }
                    .assert_near(&format!("{speed}, the huge file at {at}"), None);
            }
            let mut sorted = small(60_000);
            sorted.sort_unstable();
            let trace = Trace {
                sizes: sorted,
                costs,
            };
            trace.assert_near(&format!("{speed}, sorted"), None);
        }
    }

    #[test]
    fn speed_that_changes_is_followed() {
        let trace = Trace {
            sizes: with_one_huge(30_000),
            // The link becomes a third as fast.
            costs: |now| {
                if now < 20.0 {
                    USUAL
                } else {
                    Costs {
                        file: 6e-4,
                        byte: 3e-8,
                    }
                }
            },
        };
        let duration = trace.ticks().len() as f64 * 0.1;
        assert!(duration > 60.0, "{duration}");
        let error = trace.error_at(0.75, None);
        assert!(error < 0.2, "{error}");
    }

    /// Large files are fast as long as the disk only gathers what it has to write, and small ones slow while caches are empty.
    fn uneven(now: f64) -> Costs {
        if now < 3.0 {
            Costs {
                file: 4e-4,
                byte: 6e-9,
            }
        } else {
            USUAL
        }
    }

    #[test]
    fn what_such_work_cost_before_tells_of_what_is_to_come() {
        let listed = Trace {
            sizes: with_one_huge(0),
            costs: uneven,
        };
        let mut estimate = Estimate::default();
        let ticks = listed.ticks();
        for (number, &(files, bytes)) in ticks.iter().enumerate() {
            estimate.observe((number + 1) as f64 * 0.1, files, bytes);
        }
        let known = estimate.whole(ticks.len() as f64 * 0.1);
        let mut smallest = with_one_huge(0);
        smallest.sort_unstable();
        for (order, sizes) in [("listed", listed.sizes), ("smallest", smallest)] {
            let trace = Trace {
                sizes,
                costs: uneven,
            };
            trace.assert_near(order, known);
        }
    }

    #[test]
    fn what_is_observed_wins_over_what_was_known() {
        let trace = Trace {
            sizes: with_one_huge(20_000),
            costs: |_| USUAL,
        };
        for factor in [0.25, 4.0] {
            let known = Costs {
                file: USUAL.file * factor,
                byte: USUAL.byte * factor,
            };
            let error = trace.error_at(0.5, Some(known));
            assert!(error < 0.2, "{factor}: {error}");
        }
    }

    #[test]
    fn what_was_not_seen_gives_no_estimate() {
        let mut estimate = Estimate::default();
        assert_eq!(estimate.remaining(1, 1, None), None);
        assert_eq!(estimate.remaining(2, 0, Some(USUAL)), Some(4e-4));
        estimate.observe(10.0, 0, 0);
        assert_eq!(estimate.remaining(1, 1, None), None);
        estimate.observe(11.0, 0, 100_000_000);
        // Only bytes were seen: files cost something all the same.
        let costs = estimate.costs().expect("costs");
        assert!(costs.file > 0.0 && costs.byte > 0.0, "{costs:?}");
        // A clock that stands still changes nothing.
        estimate.observe(11.0, 5, 200_000_000);
        assert_eq!(estimate.costs(), Some(costs));
    }
}
