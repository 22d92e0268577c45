//! Switches as they happen: two hosts, each a network namespace with both daemons, and a small web application with users who never stop.
//! What was answered is never lost, and what was never shipped is found again.
//!
//! `UNDERSTUDY_TEST_FULL=1` makes 50 rounds instead of two.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::command::tool;
use crate::support::hosts::Host;
use crate::support::needs::needs;
use crate::support::stage::directory_for_tests;
use crate::support::{Daemon, Run, full, judge, pairing};

const DATASET: &str = "site";
/// Longer than anything here takes; only failed tests wait for it.
const PATIENCE: Duration = Duration::from_secs(60);

/// A process, killed when dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// A host with both daemons and the application.
struct Site {
    name: &'static str,
    host: Host,
    place: PathBuf,
    /// Its address on the wire between both, and on the one to the users.
    address: &'static str,
    public: &'static str,
    receiver: Option<Daemon>,
    agent: Option<Running>,
    application: Option<Running>,
}

impl Site {
    fn new(
        name: &'static str,
        place: &Path,
        (address, public): (&'static str, &'static str),
    ) -> Self {
        let place = place.join(name);
        fs::create_dir_all(&place).unwrap();
        Self {
            name,
            host: Host::new(),
            place,
            address,
            public,
            receiver: None,
            agent: None,
            application: None,
        }
    }

    fn store(&self) -> PathBuf {
        self.place.join("store")
    }

    fn live(&self) -> PathBuf {
        self.store().join(DATASET).join("live/files")
    }

    fn state(&self) -> PathBuf {
        self.place.join("state")
    }

    fn enabled(&self) -> PathBuf {
        self.place.join("enabled")
    }

    fn config(&self) -> PathBuf {
        self.place.join("agent.toml")
    }

    /// Writes both configurations, and starts the receiver.
    fn start_receiver(&mut self, where_served: &Path) {
        let enabled = self.enabled();
        let script = self.place.join("on-promote");
        // Moves the address, and lets the application work.
        let text = format!(
            "#!/bin/sh\ntouch {}\necho {} > {}.new && mv {}.new {}\n",
            enabled.display(),
            self.public,
            where_served.display(),
            where_served.display(),
            where_served.display()
        );
        fs::write(&script, text).unwrap();
        let config = self.place.join("receiver.toml");
        fs::write(
            &config,
            format!(
                "store = {:?}\non_promote = [[\"/bin/sh\", {script:?}]]\n",
                self.store()
            ),
        )
        .unwrap();
        let listen = format!("{}:7433", self.address);
        let run = Run::new(["receiver", "--listen", &listen, "--config"]).arg(config);
        self.receiver = Some(Daemon::launch(&self.host.on(run)));
    }

    fn configure_agent(&self, source: &Path, other: &Self) {
        let stop = self.place.join("on-stop");
        let enabled = self.enabled();
        let text = format!(
            "#!/bin/sh\nexec flock {}.lock rm -f {}\n",
            enabled.display(),
            enabled.display()
        );
        fs::write(&stop, text).unwrap();
        let text = format!(
            "spare = \"{}:7433\"\nstate = {:?}\ninterval = \"1s\"\non_stop = [[\"/bin/sh\", {stop:?}]]\n[pace]\npressure = \"off\"\n\
             [[dataset]]\npath = {source:?}\nname = \"{DATASET}\"\n",
            other.address,
            self.state()
        );
        fs::write(self.config(), text).unwrap();
    }

    fn start_agent(&mut self) {
        let log = fs::File::options()
            .append(true)
            .create(true)
            .open(self.place.join("agent.log"))
            .unwrap();
        let run = Run::new(["agent", "--config"]).arg(self.config());
        let child = self.host.on(run).spawn(Stdio::null(), log.into());
        self.agent = Some(Running(child));
    }

    fn start_application(&mut self, tree: &Path) {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/e2e/switching/app.py");
        let child = Command::new("nsenter")
            .args(["--net", "--target", &self.host.process(), "--", "python3"])
            .args([&script, tree, &self.enabled()])
            .arg("0.0.0.0")
            .spawn()
            .unwrap();
        self.application = Some(Running(child));
    }

    /// A command that works on the store of this host.
    fn on_spare(&self, words: &[&str]) -> Run {
        self.host
            .on(Run::new(words))
            .arg("--config")
            .arg(self.place.join("receiver.toml"))
    }

    /// A command that works by the agent's configuration.
    fn on_main(&self, words: &[&str]) -> Run {
        self.host
            .on(Run::new(words))
            .arg("--config")
            .arg(self.config())
    }

    fn snapshots(&self) -> Vec<Value> {
        let listed = Run::new(["snapshots", DATASET, "--spare"])
            .arg(self.store())
            .data();
        listed["datasets"][0]["snapshots"]
            .as_array()
            .unwrap()
            .clone()
    }

    /// Cuts its wires, or joins them again.
    fn link(&self, state: &str) {
        for device in ["pair", "public"] {
            self.host.network(&["link", "set", device, state]);
        }
    }

    fn stop_application(&self) {
        let stop = self.place.join("on-stop");
        tool("sh", [stop]);
    }
}

/// Everything, and what the users remember.
struct World {
    _place: tempfile::TempDir,
    place: PathBuf,
    a: Site,
    b: Site,
    users: Host,
    clients: Vec<Running>,
}

impl World {
    fn new() -> Self {
        let directory = tempfile::tempdir_in(directory_for_tests()).unwrap();
        let place = directory.path().to_owned();
        let mut a = Site::new("a", &place, ("192.0.2.1", "198.51.100.1"));
        let mut b = Site::new("b", &place, ("192.0.2.2", "203.0.113.1"));
        let users = Host::new();
        wire((&a.host, "pair"), (&b.host, "pair"));
        wire((&a.host, "public"), (&users, "to-a"));
        wire((&b.host, "public"), (&users, "to-b"));
        for site in [&a, &b] {
            site.host.connect("pair", site.address);
            site.host.connect("public", site.public);
        }
        users.connect("to-a", "198.51.100.2");
        users.connect("to-b", "203.0.113.2");
        let active = place.join("active");
        for site in [&mut a, &mut b] {
            site.start_receiver(&active);
        }
        let source = a.place.join("www");
        fs::create_dir(&source).unwrap();
        a.configure_agent(&source, &b);
        b.configure_agent(&b.live(), &a);
        for (main, spare) in [(&a, &b), (&b, &a)] {
            let code = pairing::code(&spare.store(), main.name);
            let address = format!("{}:7433", spare.address);
            let pair = Run::new(["pair", &address, &code, "--state"]).arg(main.state());
            main.host.on(pair).ok();
        }
        a.start_application(&source);
        let b_live = b.live();
        b.start_application(&b_live);
        fs::write(a.enabled(), "").unwrap();
        fs::write(&active, a.public).unwrap();
        a.start_agent();
        b.start_agent();
        Self {
            _place: directory,
            place,
            a,
            b,
            users,
            clients: Vec::new(),
        }
    }

    /// Starts users who go where the service is, or, with an address, only there, from the host itself.
    fn start_users(&mut self, prefix: &str, seed: usize, only: Option<&str>) {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/e2e/switching/client.py");
        let mut place = self.place.join("active");
        let host = match only {
            Some(address) => {
                place = self.place.join("only");
                fs::write(&place, address).unwrap();
                &self.a.host
            }
            None => &self.users,
        };
        let child = Command::new("nsenter")
            .args(["--net", "--target", &host.process(), "--", "python3"])
            .arg(script)
            .arg(prefix)
            .arg(place)
            .arg(self.log())
            .arg(seed.to_string())
            .spawn()
            .unwrap();
        self.clients.push(Running(child));
    }

    fn log(&self) -> PathBuf {
        self.place.join("users.log")
    }

    /// Waits until users get answers from this address.
    fn await_answer(&self, from: &str, since: f64) -> f64 {
        let begun = Instant::now();
        loop {
            let log = fs::read_to_string(self.log()).unwrap_or_default();
            let answer = requests(&log)
                .find(|one| one.is_done && one.address == from && one.seconds > since);
            if let Some(answer) = answer {
                return answer.seconds;
            }
            assert!(begun.elapsed() < PATIENCE, "nobody answers at {from}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

fn wire((one, near): (&Host, &str), (other, far): (&Host, &str)) {
    let begin = ["link", "add", near, "netns", &one.process(), "type", "veth"];
    let peer = ["peer", "name", far, "netns", &other.process()];
    tool("ip", begin.iter().chain(&peer));
}

/// A line of the users' log.
struct Request<'a> {
    is_done: bool,
    seconds: f64,
    address: &'a str,
    words: Vec<&'a str>,
}

fn requests(log: &str) -> impl Iterator<Item = Request<'_>> {
    log.lines().filter_map(|line| {
        let words: Vec<&str> = line.split(' ').collect();
        let [what, seconds, address, path] = words.as_slice() else {
            return None;
        };
        Some(Request {
            is_done: *what == "done",
            seconds: seconds.parse().ok()?,
            address,
            words: path.split('/').collect(),
        })
    })
}

fn now() -> f64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.unwrap().as_secs_f64()
}

/// What a tree holds of the application.
struct Held {
    uploads: HashSet<String>,
    rows: HashSet<String>,
    slots: HashSet<String>,
}

impl Held {
    fn of(tree: &Path) -> Self {
        let names = |directory: &str| -> HashSet<String> {
            let Ok(entries) = fs::read_dir(tree.join(directory)) else {
                return HashSet::new();
            };
            let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
            names.filter(|name| !name.starts_with('.')).collect()
        };
        let slots = fs::read(tree.join("slots")).unwrap_or_default();
        let slots = slots.chunks(16).map(|slot| {
            let text = String::from_utf8_lossy(slot);
            text.trim_matches(|c: char| c == '\0' || c == ' ')
                .to_owned()
        });
        let held = Self {
            uploads: names("uploads"),
            rows: names("rows"),
            slots: slots.filter(|slot| !slot.is_empty()).collect(),
        };
        for name in &held.uploads {
            let content = fs::read_to_string(tree.join("uploads").join(name)).unwrap();
            assert_eq!(content, name.repeat(50), "{name} in {}", tree.display());
        }
        held
    }
}

/// One switch there and back; returns how long users got no answer at the promotion, by failure and as planned.
fn round(world: &mut World, number: usize) -> (f64, f64) {
    world.start_users(&format!("u{number}x"), number, None);
    world.await_answer(world.a.public, now());
    // Until something is shipped; a first cycle may be under way.
    std::thread::sleep(Duration::from_secs(3));
    let failure = fail_over(world, number);
    let restored = come_back(world, number, failure.epoch);
    let switched = hand_back(world, failure.epoch);
    std::thread::sleep(Duration::from_secs(1));
    // The users rest, and everything must be somewhere.
    world.clients.clear();
    world.a.stop_application();
    world.a.on_main(&["agent", "--once"]).ok();
    assert_eq!(judge::rsync(&world.a.live(), &world.b.live(), &[]), "");
    check(world, number, (&restored, failure.shipped_until));
    for site in [&world.a, &world.b] {
        Run::new(["verify", "--spare"]).arg(site.store()).ok();
        check_epochs(site);
    }
    fs::remove_dir_all(restored).unwrap();
    fs::write(world.a.enabled(), "").unwrap();
    (failure.took, switched)
}

/// A main that was cut off, and its spare that took over.
struct Failure {
    /// From the command to the first answer.
    took: f64,
    /// Until when everything had been shipped.
    shipped_until: f64,
    epoch: u64,
}

/// The main is cut off, and goes on for those who are on it; the spare is promoted.
fn fail_over(world: &mut World, number: usize) -> Failure {
    world.a.link("down");
    world.start_users(&format!("l{number}x"), number, Some("127.0.0.1"));
    std::thread::sleep(Duration::from_millis(700));
    let began = now();
    let promote = world
        .b
        .on_spare(&["promote", DATASET, "--yes", "--preserve", "before"]);
    let promoted = promote.data();
    let took = world.await_answer(world.b.public, began) - began;
    let as_of = promoted["facts"][0]["as_of"].as_str().unwrap();
    let as_of: jiff::Timestamp = as_of.parse().unwrap();
    Failure {
        took,
        shipped_until: as_of.as_second() as f64,
        epoch: promoted["datasets"][0]["epoch"].as_u64().unwrap(),
    }
}

/// The old main is there again: refused as often as it tries, until it is the spare. Returns what it had, restored.
fn come_back(world: &mut World, number: usize, epoch: u64) -> PathBuf {
    world.a.link("up");
    for _ in 0..2 {
        let refused = world.a.on_main(&["agent", "--once"]).expect(5);
        refused.mentions(&[&format!("epoch {epoch}")]);
    }
    std::thread::sleep(Duration::from_millis(500));
    world.clients.pop();
    world.a.stop_application();
    // The new main sends nothing before that.
    if !world.a.live().exists() {
        let agent = world.b.on_main(&["agent", "--once"]);
        agent.expect(1).mentions(&["not failed back", "failback"]);
    }
    let had = world.place.join(format!("had-{number}"));
    let kept = fail_back(&mut world.a, &world.b, epoch, &had);
    let restored = world.place.join(format!("restored-{number}"));
    let restore = Run::new(["restore", DATASET]).arg(&restored);
    restore
        .args(["--snapshot", &kept.to_string(), "--unverified", "--spare"])
        .arg(world.a.store())
        .arg("--state")
        .arg(world.place.join("other-state"))
        .ok();
    assert_eq!(judge::rsync(&had, &restored, &[]), "");
    fs::remove_dir_all(had).unwrap();
    restored
}

/// The spare of now follows while users go on, and is handed the service back. Returns how long users got no answer.
fn hand_back(world: &mut World, epoch: u64) -> f64 {
    await_following(&world.a, epoch);
    let began = now();
    world.b.agent = None;
    world.b.on_main(&["handover", DATASET, "--yes"]).ok();
    let promote = world
        .a
        .on_spare(&["promote", DATASET, "--yes", "--preserve", "before"]);
    let facts = promote.data();
    assert!(facts["facts"][0]["handed_over"].is_string(), "{facts}");
    let switched = world.await_answer(world.a.public, began) - began;
    let next = (epoch + 1).to_string();
    let demote = world
        .b
        .on_spare(&["demote", DATASET, "--epoch", &next, "--yes"]);
    demote.ok();
    world.b.start_agent();
    switched
}

/// Makes the old main the spare; returns the number of the snapshot that has what it never shipped, of which `had` becomes a copy.
fn fail_back(a: &mut Site, b: &Site, epoch: u64, had: &Path) -> u64 {
    let is_first = !a.live().exists();
    let tree = if is_first {
        a.place.join("www")
    } else {
        a.live()
    };
    let (from, to) = (tree.join(""), had.join(""));
    tool(
        "rsync",
        ["-aHAX", from.to_str().unwrap(), to.to_str().unwrap()],
    );
    if is_first {
        a.on_main(&["failback", DATASET, "--yes"])
            .expect(1)
            .mentions(&["stop understudy-agent"]);
        a.agent = None;
        let failback = a.on_main(&["failback", DATASET, "--yes", "--main", b.name]);
        let done = failback.arg("--store").arg(a.store()).data();
        a.start_agent();
        let number = &done["adopted"]["snapshot"]["number"];
        return number.as_u64().unwrap_or_else(|| panic!("{done}"));
    }
    let text = epoch.to_string();
    let demoted = a
        .on_spare(&["demote", DATASET, "--epoch", &text, "--yes"])
        .data();
    demoted["written"]["snapshot"]["number"].as_u64().unwrap()
}

/// Waits for a snapshot of this epoch.
fn await_following(site: &Site, epoch: u64) {
    let begun = Instant::now();
    while site.snapshots().last().unwrap()["epoch"].as_u64() != Some(epoch) {
        assert!(begun.elapsed() < PATIENCE, "{:?}", site.snapshots().last());
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Epochs and numbers rise together: nobody who was not the main any more has added anything.
fn check_epochs(site: &Site) {
    let snapshots = site.snapshots();
    let name = |one: &Value| {
        (
            one["epoch"].as_u64().unwrap(),
            one["number"].as_u64().unwrap(),
        )
    };
    let names: Vec<(u64, u64)> = snapshots.iter().map(name).collect();
    let rises = |one: &(u64, u64), next: &(u64, u64)| one.0 <= next.0 && one.1 < next.1;
    assert!(names.is_sorted_by(rises), "{}: {names:?}", site.name);
}

/// Everything that was answered in this round is where it belongs. `kept` is what the old main had when it failed back, and until when all of
/// it had been shipped.
fn check(world: &World, number: usize, (kept, shipped_until): (&Path, f64)) {
    let log = fs::read_to_string(world.log()).unwrap();
    let (newest, kept) = (Held::of(&world.a.live()), Held::of(kept));
    let mut deleted: HashSet<&str> = HashSet::new();
    let mut slots: HashMap<&str, &str> = HashMap::new();
    for one in requests(&log) {
        match one.words.as_slice() {
            ["delete", name] => drop(deleted.insert(name)),
            ["slot", slot, name] => drop(slots.insert(slot, name)),
            _ => {}
        }
    }
    let (mut answered, mut only_kept) = (0, 0);
    let of_round = |name: &str| name[1..].starts_with(&format!("{number}x"));
    for one in requests(&log).filter(|one| one.is_done) {
        // By whom it must be found in the newest tree: the new main, or the old one before it was cut off.
        let is_shipped = one.address == world.b.public || one.seconds < shipped_until;
        match one.words.as_slice() {
            ["put", name] if of_round(name) && !deleted.contains(name) => {
                answered += 1;
                let is_newest = newest.uploads.contains(*name) && newest.rows.contains(*name);
                let is_kept = kept.uploads.contains(*name) && kept.rows.contains(*name);
                assert!(is_newest || is_kept, "{name} is lost");
                let is_local = one.address == "127.0.0.1";
                assert!(
                    is_newest || !is_shipped || is_local,
                    "{name} was shipped, and is not in the newest tree"
                );
                only_kept += usize::from(!is_newest);
            }
            ["slot", slot, name] if of_round(name) && slots[slot] == *name => {
                // The last one that was tried there, and it was answered.
                answered += 1;
                let is_there = newest.slots.contains(*name) || kept.slots.contains(*name);
                assert!(is_there, "slot {slot} does not have {name}");
            }
            _ => {}
        }
    }
    assert!(answered > 20, "{answered} requests were answered");
    println!(
        "round {number}: {answered} writes that must be somewhere; {only_kept} of them were never shipped, and kept"
    );
}

#[test]
fn whatever_is_answered_survives_a_failure_and_a_switch_back() {
    needs!("whatever_is_answered_survives_a_failure_and_a_switch_back": "root", "rsync", "ip", "nsenter", "unshare", "python3", "flock");
    let mut world = World::new();
    let (mut failed_over, mut switched) = (Vec::new(), Vec::new());
    for number in 0..if full() { 50 } else { 2 } {
        let (one, other) = round(&mut world, number);
        failed_over.push(one);
        switched.push(other);
    }
    for (what, times) in [("promote", &mut failed_over), ("handover", &mut switched)] {
        times.sort_by(f64::total_cmp);
        println!(
            "{what}: {} times, from the command to the first answer {:.2} s in the median, {:.2} s at most",
            times.len(),
            times[times.len() / 2],
            times[times.len() - 1]
        );
    }
}
