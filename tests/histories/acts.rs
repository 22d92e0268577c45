//! What can be done with a spare, in this process or in one that is killed in the middle of it.

use std::process::{Command, Stdio};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use understudy_agent::{
    Action, AgentError, Cancel, Context, Emptied, Existing, Leniency, Lost, Manner, Order, OwnedBy,
    Pace, Part, Progress, RestoreRequest, Source, Trusted, Unsettled, Which, again, newest_known,
    restore, sync, sync_again,
};
use understudy_protocol::transport::{Channel, in_process};
use understudy_protocol::{FailureCode, ProtocolError, SecretKey};
use understudy_receiver::guard::{self, Guards, Thresholds};
use understudy_receiver::retention::{self, Grace, Mode, Moment, Policy, Pruned, Request, Trust};
use understudy_receiver::{ReceiverError, Reserve, SessionOptions, Store, serve};
use understudy_tree::{Excludes, Mounts};

use crate::place::{Place, name};
use crate::random::Random;

/// 2026-11-26T00:00:00Z.
pub(crate) const START: i64 = 1_795_651_200;

/// Something that is done with a spare.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Act {
    Sync,
    Prune { now: i64 },
    Release { digest: String },
    Reject { digest: String },
    Restore { number: u64, target: String },
    Recover,
}

impl Act {
    fn to_words(&self) -> String {
        match self {
            Self::Sync => "sync".into(),
            Self::Prune { now } => format!("prune {now}"),
            Self::Release { digest } => format!("release {digest}"),
            Self::Reject { digest } => format!("reject {digest}"),
            Self::Restore { number, target } => format!("restore {number} {target}"),
            Self::Recover => "recover".into(),
        }
    }

    fn of_words(words: &str) -> Self {
        let words: Vec<&str> = words.split(' ').collect();
        match *words {
            ["sync"] => Self::Sync,
            ["prune", now] => Self::Prune {
                now: now.parse().unwrap(),
            },
            ["release", digest] => Self::Release {
                digest: digest.into(),
            },
            ["reject", digest] => Self::Reject {
                digest: digest.into(),
            },
            ["restore", number, target] => Self::Restore {
                number: number.parse().unwrap(),
                target: target.into(),
            },
            ["recover"] => Self::Recover,
            _ => panic!("{words:?}"),
        }
    }

    /// Does it in this process.
    pub(crate) fn perform(&self, place: &Place, rules: &Rules) -> Result<(), Trouble> {
        let open = || Store::open_existing(&place.store()).map_err(Trouble::from);
        match self {
            Self::Sync => sync_once(place, rules),
            Self::Prune { now } => prune(&open()?, &rules.policy, *now, Mode::Act).map(drop),
            Self::Release { digest } => {
                Ok(guard::release(&open()?, &name(), digest, rules.reserve).map(drop)?)
            }
            Self::Reject { digest } => Ok(guard::reject(&open()?, &name(), digest).map(drop)?),
            Self::Restore { number, target } => restore_once(place, Some(*number), target),
            Self::Recover => Ok(Store::open(&place.store())?.recover()?),
        }
    }

    /// Does it in a process of its own that dies at `end`, unless it is done before. Says whether it died.
    pub(crate) fn perform_and_die(&self, place: &Place, rules: &Rules, end: &End) -> bool {
        let itself = std::env::current_exe().unwrap();
        let mut command = match end {
            End::Point(_) => Command::new(&itself),
            End::Call { name, number } => {
                let mut command = Command::new("strace");
                let inject = format!("inject={name}:signal=SIGKILL:when={number}");
                command.args(["-f", "-qqq", "-o", "/dev/null", "--seccomp-bpf", "-e"]);
                command
                    .arg(format!("trace={name}"))
                    .arg("-e")
                    .arg(inject)
                    .arg(&itself);
                command
            }
        };
        if let End::Point(point) = end {
            command.env("FAILPOINTS", point);
        }
        command.args([
            "--exact",
            "acts::in_a_process_that_dies",
            "--ignored",
            "--test-threads=1",
        ]);
        command
            .env("UNDERSTUDY_ACT", self.to_words())
            .env("UNDERSTUDY_SEED", rules.seed.to_string());
        command
            .env("UNDERSTUDY_PLACE", place.root())
            .stdin(Stdio::null());
        let output = command.output().unwrap();
        let signal = std::os::unix::process::ExitStatusExt::signal(&output.status);
        let shown = String::from_utf8_lossy(&output.stdout);
        assert!(
            signal == Some(9) || output.status.success(),
            "{self:?} at {end:?}: {} {shown}",
            output.status
        );
        signal == Some(9)
    }
}

/// Where a process dies.
#[derive(Debug, Clone)]
pub(crate) enum End {
    /// At a named point, as the `fail` crate writes it.
    Point(String),
    /// When a thread makes a system call for the so manieth time.
    Call { name: &'static str, number: u64 },
}

/// The points at which the process can die, and how often some are passed at most, roughly.
const POINTS: [(&str, u64); 25] = [
    ("agent.connected", 1),
    ("agent.scanned", 1),
    ("agent.sent", 1),
    ("agent.commit-sent", 1),
    ("agent.acknowledged", 1),
    ("agent.index-committed", 1),
    ("receiver.begun", 1),
    ("receiver.staged", 1),
    ("receiver.held", 1),
    ("receiver.caught-up", 1),
    ("receiver.sealed", 1),
    ("receiver.built", 1),
    ("receiver.synced", 1),
    ("receiver.switched", 1),
    ("receiver.switch-synced", 1),
    ("receiver.metadata-set", 1),
    ("receiver.recorded", 1),
    ("receiver.acknowledged", 1),
    ("apply.marked", 2),
    ("apply.step", 60),
    ("patch.kept", 2),
    ("patch.step", 30),
    ("prune.recorded", 3),
    ("prune.object", 10),
    ("prune.rows", 4),
];

/// System calls that change something on the disk, and how often one thread makes them at most, roughly.
const CALLS: [(&str, u64); 12] = [
    ("pwrite64", 80),
    ("renameat2", 12),
    ("renameat", 12),
    ("linkat", 25),
    ("unlinkat", 30),
    ("mkdirat", 8),
    ("openat", 150),
    ("fsync", 6),
    ("fdatasync", 20),
    ("syncfs", 3),
    ("fchmod", 8),
    ("ftruncate", 4),
];

impl End {
    /// A random one that can come while `act` is done.
    pub(crate) fn random(act: &Act, random: &mut Random) -> Self {
        let is_point = random.below(3) > 0 || !can_trace();
        let has_points = !matches!(act, Act::Restore { .. });
        if is_point && has_points {
            let of_prune = |point: &str| point.starts_with("prune.");
            let fits = |point: &&(&str, u64)| match act {
                Act::Sync => !of_prune(point.0),
                Act::Prune { .. } => of_prune(point.0),
                _ => !of_prune(point.0) && !point.0.starts_with("agent."),
            };
            let points: Vec<_> = POINTS.iter().filter(fits).collect();
            let (point, most) = *random.pick(&points);
            return Self::Point(
                format!("{point}={}*off->return", random.below(*most)).replace("=0*off->", "="),
            );
        }
        let (name, most) = *random.pick(&CALLS);
        Self::Call {
            name,
            number: 1 + random.below(most),
        }
    }
}

/// Whether processes can be killed at a system call here.
pub(crate) fn can_trace() -> bool {
    static CAN: OnceLock<bool> = OnceLock::new();
    *CAN.get_or_init(try_trace)
}

fn try_trace() -> bool {
    let traced = Command::new("strace")
        .args(["-qqq", "-o", "/dev/null", "--seccomp-bpf", "-f", "true"])
        .output();
    let can = traced.as_ref().is_ok_and(|output| output.status.success());
    if !can {
        eprintln!("skipped: deaths at system calls need strace, and the right to trace");
        let is_there = !traced.is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound);
        assert!(
            is_there || std::env::var_os("CI").is_none_or(|ci| ci != "true"),
            "strace is missing"
        );
    }
    can
}

/// Why something was not done.
#[derive(Debug)]
pub(crate) struct Trouble {
    pub(crate) code: FailureCode,
    pub(crate) text: String,
}

impl From<ReceiverError> for Trouble {
    fn from(error: ReceiverError) -> Self {
        Self {
            code: error.failure_code(),
            text: error.to_string(),
        }
    }
}

impl From<AgentError> for Trouble {
    fn from(error: AgentError) -> Self {
        let code = match &error {
            AgentError::Spare(ProtocolError::Failed(failure)) => failure.code,
            _ => FailureCode::Internal,
        };
        Self {
            code,
            text: error.to_string(),
        }
    }
}

/// What the spare goes by.
#[derive(Debug, Clone)]
pub(crate) struct Rules {
    seed: u64,
    pub(crate) guards: Guards,
    pub(crate) policy: Policy,
    pub(crate) reserve: Reserve,
}

impl Rules {
    /// Those of a history.
    pub(crate) fn of(seed: u64) -> Self {
        let mut random = Random::new(seed ^ 0x5eed);
        let mut hours = |most: u64| Duration::from_secs(random.below(most) * 3600);
        let policy = Policy {
            all: hours(20),
            hourly: hours(50),
            daily: hours(200),
            monthly: hours(2000),
            minimum_age: hours(10) + Duration::from_secs(3600),
            newest: std::num::NonZeroU32::new(random.below(3) as u32 + 1).unwrap(),
            compress_after: Duration::from_secs(3600),
            grace: Duration::from_secs(random.below(20) * 3600 + 1),
        };
        let mut guards = Guards::default();
        if seed.is_multiple_of(2) {
            // Many of the small cycles are held.
            guards.usual = Thresholds {
                files_percent: 30,
                files_least: 1,
                bytes_percent: 40,
                bytes_least: 1,
                caches: Vec::new(),
            };
        }
        Self {
            seed,
            guards,
            policy,
            reserve: Reserve::default(),
        }
    }
}

/// Has a session with a receiver that takes uploads.
fn talk<T>(place: &Place, rules: &Rules, talk: impl FnOnce(Channel) -> T) -> Result<T, Trouble> {
    let options = SessionOptions {
        guards: Arc::new(rules.guards.clone()),
        reserve: rules.reserve,
        ..SessionOptions::default()
    };
    Ok(session(Store::open(&place.store())?, options, talk))
}

/// Has a session with a receiver that is there.
pub(crate) fn ask<T>(place: &Place, ask: impl FnOnce(Channel) -> T) -> Result<T, Trouble> {
    let store = Store::open_existing(&place.store())?;
    Ok(session(store, SessionOptions::default(), ask))
}

fn session<T>(store: Store, options: SessionOptions, talk: impl FnOnce(Channel) -> T) -> T {
    let (ours, theirs) = in_process();
    let session = std::thread::spawn(move || serve(Arc::new(store), theirs, options));
    let result = talk(ours);
    // How it ended was told to this side as well; a panic is none of it.
    let _ = session.join().expect("the receiver panicked");
    result
}

/// The key of every main in these histories.
fn signer() -> Arc<SecretKey> {
    Arc::new(SecretKey::from_seed(&[7; 32]).expect("key"))
}

fn context(place: &Place) -> Context {
    Context {
        state: place.state(),
        spare: "here".into(),
        progress: Arc::new(Progress::default()),
        cancel: Cancel::default(),
        pace: Arc::new(Pace::unlimited()),
        store: Some(place.store()),
        signer: Some(signer()),
        databases: None,
        images: None,
    }
}

/// What `understudy sync` does.
fn sync_once(place: &Place, rules: &Rules) -> Result<(), Trouble> {
    let source = Source {
        path: place.source(),
        dataset: name(),
        excludes: Excludes::none(),
        mounts: Mounts::Stay,
        emptied: Emptied::Refuse,
        sweep: Source::SWEEP,
        unsettled: Unsettled::default(),
        databases: Vec::new(),
        stillness: None,
        snapshot: None,
        on_database_failure: Default::default(),
        sqlite: Default::default(),
    };
    let context = context(place);
    std::fs::create_dir_all(place.state()).unwrap();
    let mut result = talk(place, rules, |channel| sync(channel, &source, &context))?;
    if let Some(again) = result.as_ref().err().and_then(again) {
        result = talk(place, rules, |channel| {
            sync_again(channel, &source, &context, again)
        })?;
    }
    let report = result?;
    assert!(
        report.unreadable.is_empty() && report.unsettled.is_empty() && report.fuzzy.is_empty(),
        "{report:?}"
    );
    Ok(())
}

/// Restores a snapshot, the newest if none is named, into a directory of the place.
pub(crate) fn restore_once(
    place: &Place,
    number: Option<u64>,
    target: &str,
) -> Result<(), Trouble> {
    let newest = newest_known(&place.state(), "here", &name()).expect("memory");
    let trust = Trusted {
        own: signer().public(),
        others: Vec::new(),
        newest,
        leniency: Leniency::Refuse,
    };
    let request = RestoreRequest {
        dataset: name(),
        target: place.root().join(target),
        which: number.map_or(Which::Newest, Which::Number),
        databases: None,
        part: Part::Whole,
        first: Vec::new(),
        order: Order::Newest,
        existing: Existing::Refuse,
        manner: Manner::Switch,
        owners: OwnedBy::Number,
        lost: Lost::Ask,
        announced: (0, 0),
        trust: Some(trust),
        room_bytes: RestoreRequest::ROOM_BYTES,
        action: Action::Write,
    };
    let restored = ask(place, |channel| {
        restore(channel, &request, &context(place), None)
    })?;
    Ok(restored.map(drop)?)
}

/// Prunes, or looks what that would do, at a moment of a clock that only runs.
pub(crate) fn prune(
    store: &Store,
    policy: &Policy,
    now: i64,
    mode: Mode,
) -> Result<Pruned, Trouble> {
    let moment = Moment {
        seconds: now,
        boot: "one".into(),
        boot_seconds: now - START,
    };
    let request = Request {
        policy,
        moment: &moment,
        mode,
        grace: Grace::Wait,
        trust: Trust::Check,
    };
    Ok(retention::prune(store, &name(), &request)?)
}

#[test]
#[ignore = "is run by other tests, in a process that dies"]
fn in_a_process_that_dies() {
    let _armed = understudy_tree::crash::arm();
    let told = |name: &str| std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set"));
    let place = Place::at(told("UNDERSTUDY_PLACE").as_ref());
    let rules = Rules::of(told("UNDERSTUDY_SEED").parse().unwrap());
    match Act::of_words(&told("UNDERSTUDY_ACT")).perform(&place, &rules) {
        Ok(()) => {}
        Err(trouble) if trouble.code == FailureCode::Refused => {}
        Err(trouble) => panic!("{trouble:?}"),
    }
}
