//! Random runs, and what is checked after each step.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use understudy_agent::AgentError;
use understudy_protocol::{ContentHash, FailureCode, ProtocolError, Role};

use crate::host::{Ended, Host, Weather, dataset};
use crate::model::{content, files, findings, ids, kept};
use crate::random::Random;
use crate::wire::{Trouble, Way};

/// Steps of a run.
const STEPS: usize = 14;
/// More crash points than anything here passes; which of them one dies at is drawn up to that.
const POINTS: u64 = 25;
const YEARS_SECONDS: i64 = 10 * 365 * 24 * 3600;

/// What was played, so that it shows if something never is.
#[derive(Debug, Default)]
struct Count {
    runs: u64,
    cycles: u64,
    cut: u64,
    promotions: u64,
    in_flight: u64,
    failbacks: u64,
    handovers: u64,
    undone: u64,
    refused: u64,
    /// Attempts of an old main that ended with their connection.
    broken_off: u64,
    /// Writes into the live tree of a spare.
    drifts: u64,
    jumps: u64,
    writes: u64,
    /// Writes that had to be found at the end.
    found: u64,
    deaths: BTreeMap<String, u64>,
}

impl Count {
    fn add(&mut self, other: Self) {
        let pairs = [
            (&mut self.runs, other.runs),
            (&mut self.cycles, other.cycles),
            (&mut self.cut, other.cut),
            (&mut self.promotions, other.promotions),
            (&mut self.in_flight, other.in_flight),
            (&mut self.failbacks, other.failbacks),
            (&mut self.handovers, other.handovers),
            (&mut self.undone, other.undone),
            (&mut self.refused, other.refused),
            (&mut self.broken_off, other.broken_off),
            (&mut self.drifts, other.drifts),
            (&mut self.jumps, other.jumps),
            (&mut self.writes, other.writes),
            (&mut self.found, other.found),
        ];
        for (sum, more) in pairs {
            *sum += more;
        }
        for (point, times) in other.deaths {
            *self.deaths.entry(point).or_default() += times;
        }
    }
}

/// One run, as far as it was played.
struct Play {
    hosts: [Host; 2],
    main: usize,
    epoch: u64,
    /// The other host was the main, and knows nothing, or not all, of what happened: its application may write still.
    is_stray: bool,
    /// The application of the other host was stopped before.
    is_stopped: bool,
    /// Writes that counted at some moment: shipped, or there when an old main became the spare.
    must: BTreeSet<u64>,
    next: u64,
    random: Random,
    count: Count,
}

impl Play {
    fn new(place: &Path, seed: u64) -> Self {
        let hosts = ["a", "b"].map(|name| Host::new(place.join(name)));
        fs::create_dir(hosts[0].site()).unwrap();
        hosts[1].serve_live();
        let mut play = Self {
            hosts,
            main: 0,
            epoch: 1,
            is_stray: false,
            is_stopped: false,
            must: BTreeSet::new(),
            next: 1,
            random: Random::new(seed),
            count: Count::default(),
        };
        for _ in 0..4 {
            play.write_on(&play.hosts[0].site());
        }
        play.ship(Weather::FINE);
        play
    }

    fn other(&self) -> usize {
        1 - self.main
    }

    fn one_in(&mut self, times: u64) -> bool {
        self.random.below(times) == 0
    }

    fn step(&mut self) {
        match (self.random.below(20), self.is_stray) {
            (0..6, _) => self.write(),
            (6..10, false) => {
                let weather = self.weather();
                self.ship(weather);
            }
            (6..10, true) => self.come_too_late(),
            (10..12, false) => self.fail_over(),
            (10..14, true) => self.take_in(),
            (12..14, false) => self.hand_over(),
            (14..17, false) => self.drift(),
            (14, true) => self.undo(),
            (15..17, true) => self.write_on_stray(),
            (17, _) => self.jump(),
            _ => self.write(),
        }
    }

    fn weather(&mut self) -> Weather {
        let mut weather = Weather::FINE;
        match self.random.below(5) {
            0 => {
                weather.wire = Trouble::Cut {
                    way: *self.random.pick(&[Way::ToSpare, Way::ToMain]),
                    frames: self.random.below(8),
                };
                self.count.cut += 1;
            }
            1 => weather.main_dies = self.death(),
            2 | 3 => weather.spare_dies = self.death(),
            _ => {}
        }
        weather
    }

    /// When a process dies, if it does.
    fn death(&mut self) -> Option<u64> {
        let passes = self.random.below(POINTS);
        (!self.one_in(4)).then_some(passes)
    }

    /// Does something until it succeeds: whoever is interrupted does it again.
    fn insist<T, E: std::fmt::Display>(
        &mut self,
        mut act: impl FnMut(&Self, Option<u64>) -> Ended<Result<T, E>>,
    ) -> T {
        let mut dies = self.death();
        loop {
            match act(self, dies) {
                Ok(Ok(value)) => return value,
                Ok(Err(error)) => panic!("{error}"),
                Err(point) => {
                    *self.count.deaths.entry(point).or_default() += 1;
                    dies = if self.one_in(2) { self.death() } else { None };
                }
            }
        }
    }

    fn write(&mut self) {
        self.write_on(&self.hosts[self.main].site());
    }

    fn write_on_stray(&mut self) {
        if !self.is_stopped {
            self.write_on(&self.hosts[self.other()].site());
        }
    }

    /// What an application does.
    fn write_on(&mut self, tree: &Path) {
        let id = self.next;
        self.next += 1;
        self.count.writes += 1;
        let names: Vec<String> = files(tree).into_keys().collect();
        let path = tree.join(match self.random.below(4) {
            0 | 1 => format!("d{}/f{}", self.random.below(3), self.random.below(5)),
            _ if !names.is_empty() => self.random.pick(&names).clone(),
            _ => "first".to_owned(),
        });
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        match self.random.below(5) {
            0 if names.len() > 2 && path.exists() => fs::remove_file(&path).unwrap(),
            1 => fs::write(&path, content(id)).unwrap(),
            _ => {
                let aside = tree.join("aside");
                fs::write(&aside, content(id)).unwrap();
                fs::rename(&aside, &path).unwrap();
            }
        }
    }

    /// Somebody writes into the live tree of the spare. What only that tree has is spared: nobody could bring it back.
    fn drift(&mut self) {
        let live = self.hosts[self.other()].live();
        let is_elsewhere = |path: &Path| {
            fs::symlink_metadata(path).is_ok_and(|found| found.is_file() && found.nlink() > 1)
        };
        let id = self.next;
        self.next += 1;
        let names: Vec<String> = files(&live).into_keys().collect();
        match self.random.below(6) {
            0 => {
                let directory = live.join(format!("d{}", self.random.below(3)));
                let inside: Vec<String> = files(&directory).into_keys().collect();
                // A main whose tree is empty ships nothing.
                if inside.is_empty()
                    || inside.len() == names.len()
                    || !inside
                        .iter()
                        .all(|name| is_elsewhere(&directory.join(name)))
                {
                    return;
                }
                fs::remove_dir_all(directory).unwrap();
            }
            1 if names.len() > 1 => {
                let path = live.join(self.random.pick(&names));
                if !is_elsewhere(&path) {
                    return;
                }
                fs::remove_file(path).unwrap();
            }
            2 | 3 if !names.is_empty() => {
                let path = live.join(self.random.pick(&names));
                if !is_elsewhere(&path) {
                    return;
                }
                let aside = live.join("aside");
                fs::write(&aside, content(id)).unwrap();
                fs::rename(&aside, &path).unwrap();
            }
            _ => {
                let path = live.join(format!("d{}/drift{id}", self.random.below(3)));
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, content(id)).unwrap();
            }
        }
        self.count.drifts += 1;
    }

    fn jump(&mut self) {
        self.count.jumps += 1;
        let host = self.random.index(2);
        let skew = [0, 3600, -3600, YEARS_SECONDS, -YEARS_SECONDS];
        self.hosts[host].skew_seconds = *self.random.pick(&skew);
    }

    /// A cycle; whether it came to its end.
    fn ship(&mut self, weather: Weather) -> bool {
        let (main, spare) = (&self.hosts[self.main], &self.hosts[self.other()]);
        let (shown, drifted) = (ids(&main.site()), ids(&spare.live()));
        self.count.cycles += 1;
        let ended = main.sync(spare, weather, || {});
        match ended {
            Err(point) => {
                *self.count.deaths.entry(point).or_default() += 1;
                false
            }
            Ok(Err(error)) => {
                assert!(weather.wire != Trouble::None, "{error}");
                false
            }
            Ok(Ok(_)) => {
                assert_eq!(
                    files(&main.site()),
                    files(&spare.live()),
                    "the spare is like its main"
                );
                self.must.extend(shown);
                self.must.extend(drifted);
                true
            }
        }
    }

    /// The spare is promoted, sometimes with a cycle in flight.
    fn fail_over(&mut self) {
        let (main, spare) = (self.main, self.other());
        if self.one_in(3) {
            self.fail_over_in_flight();
        } else {
            let epoch = self.insist(|play, dies| play.hosts[spare].promote(dies));
            assert_eq!(epoch, self.epoch + 1);
        }
        self.count.promotions += 1;
        self.epoch += 1;
        (self.main, self.is_stray, self.is_stopped) = (spare, true, false);
        assert_eq!(self.other(), main);
    }

    fn fail_over_in_flight(&mut self) {
        self.count.in_flight += 1;
        let weather = Weather {
            wire: Trouble::Hold {
                way: *self.random.pick(&[Way::ToSpare, Way::ToMain]),
                frames: self.random.below(7),
            },
            ..Weather::FINE
        };
        let (main, spare) = (&self.hosts[self.main], &self.hosts[self.other()]);
        let shown = ids(&main.site());
        let mut promoted = None;
        let ended = main.sync(spare, weather, || promoted = Some(spare.promote(None)));
        let epoch = promoted.expect("held up").expect("nobody dies").unwrap();
        assert_eq!(epoch, self.epoch + 1);
        if let Ok(Ok(report)) = ended {
            // It came to its end before the promotion, which is of it then.
            let promoted = spare.stored_standing().unwrap().snapshot;
            let shipped = report.snapshot.map(|snapshot| snapshot.position);
            assert_eq!(promoted, shipped, "a cycle was applied after the promotion");
            self.must.extend(shown);
        }
    }

    /// The old main tries once more: never anything but refused.
    fn come_too_late(&mut self) {
        let weather = self.weather();
        let (main, stray) = (&self.hosts[self.main], &self.hosts[self.other()]);
        let before = files(&main.live());
        match stray.sync(main, weather, || {}) {
            Ok(Ok(report)) => panic!("a main of before was taken in: {:?}", report.snapshot),
            Ok(Err(error)) if is_fenced(&error) => self.count.refused += 1,
            Ok(Err(error)) => {
                assert!(
                    weather.wire != Trouble::None,
                    "not refused as an old main: {error}"
                );
                self.count.broken_off += 1;
            }
            Err(point) => *self.count.deaths.entry(point).or_default() += 1,
        }
        assert_eq!(
            before,
            files(&main.live()),
            "what the new main has was changed"
        );
    }

    /// The old main becomes the spare.
    fn take_in(&mut self) {
        let stray = self.other();
        self.must.extend(ids(&self.hosts[stray].site()));
        let is_plain = !self.hosts[stray].site().is_symlink();
        if is_plain {
            self.insist(|play, dies| play.hosts[stray].fail_back(&play.hosts[play.main], dies));
            self.count.failbacks += 1;
        } else {
            self.insist(|play, dies| play.hosts[stray].demote(play.epoch, dies));
        }
        self.is_stray = false;
        let standing = self.hosts[stray].stored_standing().unwrap();
        assert_eq!((standing.role, standing.epoch), (Role::Spare, self.epoch));
    }

    /// The main stops, and its spare takes over.
    fn hand_over(&mut self) {
        let (main, spare) = (self.main, self.other());
        loop {
            let weather = self.weather();
            if self.ship(weather) {
                break;
            }
        }
        let last = self.hosts[main]
            .newest_of(&self.hosts[spare])
            .unwrap()
            .position;
        self.insist(|play, dies| match play.hosts[main].own_standing().role {
            // It was written down before it died.
            Role::HandedOver => Ok(Ok(())),
            _ => play.hosts[main].retire(last, dies),
        });
        let refused = self.hosts[main].sync(&self.hosts[spare], Weather::FINE, || {});
        assert!(matches!(refused, Ok(Err(_))), "it ships nothing any more");
        let epoch = self.epoch;
        let tell =
            move |channel| understudy_agent::hand_over(channel, dataset(), epoch, Some(last));
        let told = self.hosts[main].talk(&self.hosts[spare], Weather::FINE, tell, || {});
        told.unwrap().unwrap();
        self.count.handovers += 1;
        if self.one_in(5) {
            // On second thoughts.
            self.hosts[main].resume(epoch).unwrap();
            return;
        }
        let shown = files(&self.hosts[main].site());
        let risen = self.insist(|play, dies| play.hosts[spare].promote(dies));
        assert_eq!(risen, epoch + 1);
        assert_eq!(
            shown,
            files(&self.hosts[spare].live()),
            "something was lost"
        );
        self.epoch += 1;
        (self.main, self.is_stray, self.is_stopped) = (spare, true, true);
    }

    /// The promotion was a mistake: the old main goes on.
    fn undo(&mut self) {
        let (main, stray) = (self.main, self.other());
        self.must.extend(ids(&self.hosts[main].site()));
        self.insist(|play, dies| play.hosts[main].demote(play.epoch, dies));
        self.hosts[stray].resume(self.epoch).unwrap();
        self.count.undone += 1;
        (self.main, self.is_stray) = (stray, false);
    }

    /// Everything comes to rest, and everything that counted is somewhere.
    fn settle(&mut self) {
        if self.is_stray {
            self.take_in();
        }
        assert!(self.ship(Weather::FINE));
        assert!(self.ship(Weather::FINE));
        let kept: Vec<_> = self.hosts.iter().map(kept).collect();
        for (host, kept) in self.hosts.iter().zip(&kept) {
            let names: Vec<&(u64, u64)> = kept.keys().collect();
            let rises = |one: &&(u64, u64), next: &&(u64, u64)| one.0 <= next.0 && one.1 < next.1;
            assert!(names.is_sorted_by(rises), "{names:?}");
            assert_eq!(findings(host), Vec::<String>::new(), "{host:?}");
        }
        let main = ids(&self.hosts[self.main].site());
        let contents: BTreeSet<ContentHash> = kept
            .into_iter()
            .flat_map(BTreeMap::into_values)
            .flatten()
            .collect();
        let is_found = |id: &u64| {
            main.contains(id) || contents.contains(&ContentHash::of(content(*id).as_bytes()))
        };
        let lost: Vec<&u64> = self.must.iter().filter(|id| !is_found(id)).collect();
        assert!(lost.is_empty(), "writes {lost:?} are lost");
        self.count.found += self.must.len() as u64;
        self.count.runs += 1;
    }
}

/// Whether an agent was told, or knows, that another host took over.
fn is_fenced(error: &AgentError) -> bool {
    match error {
        AgentError::Spare(ProtocolError::Failed(failure)) => failure.code == FailureCode::Fenced,
        error => matches!(error, AgentError::Fenced { .. }),
    }
}

/// Where runs are played.
fn scratch() -> PathBuf {
    let given = std::env::var_os("UNDERSTUDY_TEST_DIR").map(PathBuf::from);
    given.unwrap_or_else(|| match Path::new("/dev/shm") {
        memory if memory.is_dir() => memory.to_owned(),
        _ => std::env::temp_dir(),
    })
}

/// The seeds that are asked for.
fn seeds() -> std::ops::Range<u64> {
    let given = std::env::var("SEEDS").ok();
    let given = given.as_deref().and_then(|text| {
        let (from, to) = text.split_once("..")?;
        Some(from.parse().ok()?..to.parse().ok()?)
    });
    let is_full = std::env::var_os("UNDERSTUDY_TEST_FULL").is_some_and(|full| full == "1");
    given.unwrap_or(0..if is_full { 10_000 } else { 60 })
}

/// Plays a run; what was played of it, and whether all was as it must be.
fn run(seed: u64) -> (Count, bool) {
    let place = tempfile::tempdir_in(scratch()).unwrap();
    let mut play = Play::new(place.path(), seed);
    let played = catch_unwind(AssertUnwindSafe(|| {
        for _ in 0..STEPS {
            play.step();
        }
        play.settle();
    }));
    (play.count, played.is_ok())
}

#[test]
fn whatever_happens_nobody_applies_beside_the_main_and_nothing_that_counted_is_lost() {
    let (seeds, total) = (seeds(), Mutex::new(Count::default()));
    let next = AtomicU64::new(seeds.start);
    let failed = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        break;
                    }
                    match run(seed) {
                        (count, true) => total.lock().unwrap().add(count),
                        (count, false) => {
                            println!("seed {seed} failed: {count:?}");
                            failed.lock().unwrap().push(seed);
                        }
                    }
                }
            });
        }
    });
    println!("{:#?}", total.lock().unwrap());
    let failed = failed.into_inner().unwrap();
    assert!(failed.is_empty(), "seeds {failed:?}");
}

/// If a promotion could be forgotten, the check would see it.
#[test]
fn a_broken_fence_is_seen() {
    let place = tempfile::tempdir_in(scratch()).unwrap();
    let mut play = Play::new(place.path(), 1);
    play.fail_over();
    play.write_on_stray();
    play.hosts[play.main].forget_promotion(1);
    let stray = &play.hosts[play.other()];
    let taken = stray.sync(&play.hosts[play.main], Weather::FINE, || {});
    assert!(matches!(taken, Ok(Ok(_))), "nothing fences any more");
    play.write_on_stray();
    let seen = catch_unwind(AssertUnwindSafe(|| {
        for _ in 0..20 {
            play.come_too_late();
        }
    }));
    assert!(seen.is_err());
}
