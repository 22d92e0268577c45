//! `kill -9` at every named step and at random moments, of the agent, of the receiver, and of
//! both in one process: the live tree is one snapshot, never older than the last one that was
//! acknowledged, and the next cycle succeeds without help.

use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use rustix::process::{Signal, kill_process};

use crate::support::needs::needs;
use crate::support::trees::{generation_now, set_generation};
use crate::support::{Kind, Random, Stage, full, judge};

/// Files in the trees of these tests.
const FILES: usize = 60;

const RECEIVER: [&str; 11] = [
    "receiver.begun",
    "receiver.staged",
    "receiver.caught-up",
    "receiver.sealed",
    "receiver.built",
    "receiver.synced",
    "receiver.switched",
    "receiver.switch-synced",
    "receiver.metadata-set",
    "receiver.recorded",
    "receiver.acknowledged",
];

/// Halfway through a patch: while the twin that was live before catches up, and while the next snapshot is built.
const PATCHED: [&str; 3] = ["patch.kept", "10*off->patch.step", "90*off->patch.step"];

/// Pages of the large file that each generation changes, and how far they are apart.
const PAGES: u64 = 60;
const APART: u64 = 100_000;

const AGENT: [&str; 6] = [
    "agent.connected",
    "agent.scanned",
    "agent.sent",
    "agent.commit-sent",
    "agent.acknowledged",
    "agent.index-committed",
];

/// A stage, the generation of its source, and the last one that was acknowledged.
struct Play {
    stage: Stage,
    generation: u64,
    acknowledged: u64,
}

impl Play {
    /// Three snapshots, so that the next cycle does everything that a cycle can do.
    fn new(kind: Kind) -> Self {
        let mut play = Self {
            stage: Stage::new(kind),
            generation: 0,
            acknowledged: 0,
        };
        for _ in 0..3 {
            play.edit();
            play.stage.sync().ok();
            play.acknowledged = play.generation;
        }
        play
    }

    /// Makes the next generation, some changes of metadata included.
    fn edit(&mut self) {
        self.generation += 1;
        let source = &self.stage.source;
        set_generation(source, self.generation, FILES);
        let still = source.join("never rewritten");
        if !still.exists() {
            std::fs::write(&still, "only its time and mode change").unwrap();
        }
        // What comes back is taken from history.
        let switched = [b"on".repeat(5000), b"off".repeat(5000)];
        let content = &switched[self.generation as usize % 2];
        std::fs::write(source.join("switched"), content).unwrap();
        let large = std::fs::File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(source.join("large"))
            .unwrap();
        for page in 0..PAGES {
            let number = self.generation.to_le_bytes();
            large.write_all_at(&number, page * APART).unwrap();
        }
        let mode = 0o600 + u32::try_from(self.generation % 8).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(mode);
        std::fs::set_permissions(&still, mode).unwrap();
    }

    /// Panics unless the live tree is one snapshot, acknowledged or newer.
    fn assert_whole(&self, when: &str) {
        match generation_now(&self.stage.live(), FILES) {
            Ok(found) => {
                assert!(
                    (self.acknowledged..=self.generation).contains(&found),
                    "{when}: live is of {found}, acknowledged was {}, sent {}",
                    self.acknowledged,
                    self.generation,
                );
                assert_eq!(large_is_of(&self.stage.live()), found, "{when}");
            }
            Err(mixture) => panic!("{when}: live is not whole: {mixture}"),
        }
    }

    /// Every snapshot comes back as it was, and the store is sound.
    fn assert_history(&self) {
        self.stage.ask("verify").ok();
        let listed = self.stage.ask("snapshots").data();
        let snapshots = listed["datasets"][0]["snapshots"].as_array().unwrap();
        for snapshot in snapshots.iter().step_by(3) {
            let number = snapshot["number"].to_string();
            let target = self.stage.path().join(format!("restored {number}"));
            let restore = self.stage.restore(&target);
            restore.args(["--snapshot", &number]).ok();
            let found = generation_now(&target, FILES).unwrap();
            assert_eq!(large_is_of(&target), found, "snapshot {number}");
            std::fs::remove_dir_all(target).unwrap();
        }
    }

    /// The next cycle, which must succeed without help.
    fn carry_on(&mut self, when: &str) {
        let outcome = self.stage.sync_soon();
        assert_eq!(
            outcome.code,
            Some(0),
            "{when}: the next cycle failed\n{outcome}"
        );
        self.acknowledged = self.generation;
        self.assert_whole(when);
        judge::same(&self.stage.source, &self.stage.live());
    }
}

/// The generation of the large file.
fn large_is_of(tree: &std::path::Path) -> u64 {
    let large = std::fs::File::open(tree.join("large")).unwrap();
    let mut numbers = (0..PAGES).map(|page| {
        let mut number = [0; 8];
        large.read_exact_at(&mut number, page * APART).unwrap();
        u64::from_le_bytes(number)
    });
    let first = numbers.next().unwrap();
    assert!(numbers.all(|number| number == first), "a mixture");
    first
}

#[test]
fn killed_in_the_middle_of_a_patch() {
    needs!("killed_in_the_middle_of_a_patch": "rsync");
    let mut play = Play::new(Kind::Embedded);
    for point in PATCHED {
        let (count, point) = point.split_once("->").unwrap_or(("", point));
        let action = match count {
            "" => "return".to_owned(),
            count => format!("{count}->return"),
        };
        for _ in 0..2 {
            play.edit();
            let failing = play.stage.sync().failing(&format!("{point}={action}"));
            let outcome = failing.outcome();
            assert!(outcome.was_killed(), "{point} is never reached: {outcome}");
            play.assert_whole(point);
            play.carry_on(point);
            play.edit();
            play.carry_on(point);
        }
    }
    play.assert_history();
}

#[test]
fn killed_at_every_step_embedded() {
    needs!("killed_at_every_step_embedded": "rsync");
    let mut play = Play::new(Kind::Embedded);
    for point in RECEIVER.iter().chain(&AGENT) {
        play.edit();
        let outcome = play
            .stage
            .sync()
            .failing(&format!("{point}=return"))
            .outcome();
        assert!(outcome.was_killed(), "{point} is never reached\n{outcome}");
        play.assert_whole(point);
        play.carry_on(point);
    }
    play.assert_history();
}

#[test]
fn killed_twice_at_the_same_step_embedded() {
    needs!("killed_twice_at_the_same_step_embedded": "rsync");
    let mut play = Play::new(Kind::Embedded);
    for point in RECEIVER {
        for round in 0..2 {
            play.edit();
            let failing = play.stage.sync().failing(&format!("{point}=return"));
            let outcome = failing.outcome();
            // What recovery has finished already, catching up for instance, is not done again.
            if outcome.code == Some(0) && round == 1 {
                play.acknowledged = play.generation;
            } else {
                assert!(outcome.was_killed(), "{point} in round {round}: {outcome}");
            }
            play.assert_whole(point);
        }
        play.carry_on(point);
    }
}

#[test]
fn receiver_killed_at_every_step() {
    needs!("receiver_killed_at_every_step": "rsync");
    let mut play = Play::new(Kind::Tcp);
    for point in RECEIVER {
        play.edit();
        play.stage.restart(Some(&format!("{point}=return")));
        let outcome = play.stage.sync().outcome();
        let (_, signal) = play.stage.daemon.as_mut().unwrap().wait();
        assert_eq!(signal, Some(9), "{point} is never reached\n{outcome}");
        // Killed after it had acknowledged, the agent may well have been content.
        assert!(
            matches!(outcome.code, Some(0 | 1 | 6)),
            "{point}: {outcome}"
        );
        if outcome.code == Some(0) {
            play.acknowledged = play.generation;
        }
        play.assert_whole(point);
        play.stage.restart(None);
        play.assert_whole(point);
        play.carry_on(point);
    }
}

#[test]
fn agent_killed_at_every_step() {
    needs!("agent_killed_at_every_step": "rsync");
    let mut play = Play::new(Kind::Tcp);
    for point in AGENT {
        play.edit();
        let outcome = play
            .stage
            .sync()
            .failing(&format!("{point}=return"))
            .outcome();
        assert!(outcome.was_killed(), "{point} is never reached\n{outcome}");
        play.assert_whole(point);
        play.carry_on(point);
    }
}

#[test]
fn killed_at_random_moments_embedded() {
    needs!("killed_at_random_moments_embedded": "rsync");
    let mut random = Random::new(300);
    let mut play = Play::new(Kind::Embedded);
    let usual = usual_time(&play);
    let mut killed = 0;
    for number in 0..runs() {
        play.edit();
        let delay = Duration::from_micros(random.below(usual));
        let outcome = play.stage.sync().signalled(delay, Signal::KILL).outcome();
        let when = format!("kill {number}, after {delay:?}");
        killed += usize::from(outcome.was_killed());
        if !outcome.was_killed() {
            assert_eq!(outcome.code, Some(0), "{when}: {outcome}");
            play.acknowledged = play.generation;
        }
        play.assert_whole(&when);
        if number % 3 == 0 {
            play.carry_on(&when);
        }
    }
    play.carry_on("after all kills");
    play.assert_history();
    assert!(killed > runs() / 3, "killed {killed} times only");
}

#[test]
fn receiver_killed_at_random_moments() {
    needs!("receiver_killed_at_random_moments": "rsync");
    let mut random = Random::new(301);
    let mut play = Play::new(Kind::Tcp);
    let usual = usual_time(&play);
    for number in 0..runs() {
        play.edit();
        let delay = Duration::from_micros(random.below(usual));
        let pid = play.stage.daemon.as_ref().unwrap().pid();
        let outcome = std::thread::scope(|scope| {
            let sync = scope.spawn(|| play.stage.sync().outcome());
            std::thread::sleep(delay);
            kill_process(pid, Signal::KILL).unwrap();
            sync.join().unwrap()
        });
        let when = format!("kill {number}, after {delay:?}");
        assert!(matches!(outcome.code, Some(0 | 1 | 6)), "{when}: {outcome}");
        if outcome.code == Some(0) {
            play.acknowledged = play.generation;
        }
        play.assert_whole(&when);
        play.stage.restart(None);
        play.assert_whole(&when);
        if number % 3 == 0 {
            play.carry_on(&when);
        }
    }
    play.carry_on("after all kills");
}

/// How many random kills.
fn runs() -> usize {
    if full() { 150 } else { 10 }
}

/// The microseconds that a cycle takes here, with a little to spare.
fn usual_time(play: &Play) -> u64 {
    let begun = Instant::now();
    play.stage.sync().ok();
    u64::try_from(begun.elapsed().as_micros()).unwrap() * 2
}
