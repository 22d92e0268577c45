//! A host: a store, the state of an agent, and a tree that an application writes. Everything that is done on it is done by a process of its
//! own, which may die.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use understudy_agent::{
    AgentError, Cancel, Context, Emptied, FuzzyOf, Pace, Progress, Source, SyncReport, Unsettled,
};
use understudy_protocol::transport::Channel;
use understudy_protocol::{DatasetName, Position, Role, Snapshot, Standing};
use understudy_receiver::adopt::{self, Adoption, Origin};
use understudy_receiver::guard::{Guards, Thresholds};
use understudy_receiver::handover::{self, Turn};
use understudy_receiver::promote::{self, HeldCycle, Preserve, Request, Together};
use understudy_receiver::{Drift, ReceiverError, Reserve, SessionOptions, Store, demote, serve};
use understudy_tree::{Excludes, Mounts};

use crate::death::Process;
use crate::wire::{Trouble, wire};

/// What a process came to: it died at a crash point, or did what it could.
pub(crate) type Ended<T> = Result<T, String>;

pub(crate) fn dataset() -> DatasetName {
    DatasetName::new("site").unwrap()
}

/// One of both.
#[derive(Debug)]
pub(crate) struct Host {
    place: PathBuf,
    /// By how much its clock is wrong.
    pub(crate) skew_seconds: i64,
}

/// Troubles of one cycle.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Weather {
    pub(crate) wire: Trouble,
    /// After so many crash points the main's or the spare's process dies.
    pub(crate) main_dies: Option<u64>,
    pub(crate) spare_dies: Option<u64>,
}

impl Weather {
    pub(crate) const FINE: Self = Self {
        wire: Trouble::None,
        main_dies: None,
        spare_dies: None,
    };
}

impl Host {
    pub(crate) fn new(place: PathBuf) -> Self {
        std::fs::create_dir_all(&place).unwrap();
        Self {
            place,
            skew_seconds: 0,
        }
    }

    pub(crate) fn store(&self) -> PathBuf {
        self.place.join("store")
    }

    pub(crate) fn live(&self) -> PathBuf {
        self.store().join("site/live/files")
    }

    /// Where its application writes, once it has one: a plain directory, or a link to the live tree.
    pub(crate) fn site(&self) -> PathBuf {
        self.place.join("site")
    }

    fn state(&self) -> PathBuf {
        self.place.join("state")
    }

    /// The application of a host that begins as a spare is served from the live tree.
    pub(crate) fn serve_live(&self) {
        symlink(self.live(), self.site()).unwrap();
    }

    fn source(&self) -> Source {
        Source {
            path: self.site(),
            dataset: dataset(),
            excludes: Excludes::new::<&str>(&[]).unwrap(),
            mounts: Mounts::Stay,
            emptied: Emptied::Refuse,
            sweep: Source::SWEEP,
            unsettled: Unsettled::default(),
            databases: Vec::new(),
            stillness: None,
            snapshot: None,
            on_database_failure: Default::default(),
            sqlite: Default::default(),
        }
    }

    fn context(&self) -> Context {
        Context {
            state: self.state(),
            spare: "the-other".into(),
            progress: Arc::new(Progress::default()),
            cancel: Cancel::default(),
            pace: Arc::new(Pace::unlimited()),
            store: None,
            signer: None,
            databases: None,
            images: None,
        }
    }

    /// What it is by its own word, as a main.
    pub(crate) fn own_standing(&self) -> Standing {
        understudy_agent::standing(&self.source(), &self.state(), "the-other").unwrap()
    }

    /// What its store says; `None` if that has no such dataset.
    pub(crate) fn stored_standing(&self) -> Option<Standing> {
        let store = Store::open_existing(&self.store()).ok()?;
        store.standing(&dataset()).ok()
    }

    /// Runs something on this host in a process of its own.
    fn run<T: Send + 'static>(
        &self,
        dies: Option<u64>,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Ended<T> {
        let process = Process::new(self.skew_seconds, dies);
        let thread = process.start(work);
        process.end(thread)
    }

    /// Its agent talks with the receiver of `spare`; `meanwhile` happens while the connection is held up, if it is.
    pub(crate) fn talk<T: Send + 'static>(
        &self,
        spare: &Self,
        weather: Weather,
        talk: impl FnOnce(Channel) -> T + Send + 'static,
        meanwhile: impl FnOnce(),
    ) -> Ended<T> {
        let mut wire = wire(weather.wire);
        let store = spare.store();
        let theirs = wire.spare;
        let receiver = Process::new(spare.skew_seconds, weather.spare_dies);
        let receiving = receiver.start(move || {
            let store = Store::open(&store)?;
            serve(Arc::new(store), theirs, options())
        });
        // Of an agent the clock is that of its files.
        let agent = Process::new(0, weather.main_dies);
        let ours = wire.main;
        let talking = agent.start(move || talk(ours));
        if matches!(weather.wire, Trouble::Hold { .. }) {
            let reached = wire.between.reached.take().unwrap();
            // Nothing comes if it ends before.
            let _ = reached.recv_timeout(Duration::from_secs(10));
            meanwhile();
            wire.between.hold = None;
        }
        let talked = agent.end(talking);
        let received = receiver.end(receiving);
        wire.between.end();
        match (talked, received) {
            (Err(point), _) => Err(format!("main at {point}")),
            (Ok(_), Err(point)) => Err(format!("spare at {point}")),
            (Ok(value), Ok(_)) => Ok(value),
        }
    }

    /// A cycle.
    pub(crate) fn sync(
        &self,
        spare: &Self,
        weather: Weather,
        meanwhile: impl FnOnce(),
    ) -> Ended<Result<SyncReport, AgentError>> {
        let (source, context) = (self.source(), self.context());
        let talk = move |channel: Channel| understudy_agent::sync(channel, &source, &context);
        self.talk(spare, weather, talk, meanwhile)
    }

    /// The newest snapshot that the other host has.
    pub(crate) fn newest_of(&self, spare: &Self) -> Option<Snapshot> {
        let talk =
            |channel| understudy_agent::survey(channel, Some(dataset()), FuzzyOf::Newest).unwrap();
        let survey = self.talk(spare, Weather::FINE, talk, || {}).unwrap();
        let datasets = survey.listed.datasets.into_iter();
        datasets
            .filter_map(|one| one.snapshots.last().cloned())
            .next()
    }

    pub(crate) fn promote(&self, dies: Option<u64>) -> Ended<Result<u64, ReceiverError>> {
        let store = self.store();
        self.run(dies, move || {
            let store = Store::open_existing(&store)?;
            let request = Request {
                databases: None,
                held: HeldCycle::Refuse,
                // What an application changes in place is lost to history otherwise.
                preserve: Preserve::Before,
                reserve: Reserve::default(),
                patience: Duration::from_secs(20),
                together: &Together::default(),
            };
            let promotion = promote::promote(&store, &dataset(), &request, &|_| {})?;
            Ok(promotion.standing.epoch)
        })
    }

    pub(crate) fn demote(&self, epoch: u64, dies: Option<u64>) -> Ended<Result<(), ReceiverError>> {
        let store = self.store();
        self.run(dies, move || {
            let store = Store::open_existing(&store)?;
            demote::demote(&store, &dataset(), epoch, Reserve::default()).map(drop)
        })
    }

    /// As `understudy failback`: moves a plain source into the store, and puts a link where it was.
    pub(crate) fn fail_back(
        &self,
        other: &Self,
        dies: Option<u64>,
    ) -> Ended<Result<(), ReceiverError>> {
        let promoted = other.stored_standing().unwrap();
        let least_number = self
            .newest_of(other)
            .map_or(1, |newest| newest.position.number + 1);
        let (store, site, live) = (self.store(), self.site(), self.live());
        self.run(dies, move || {
            let store = Store::open(&store)?;
            let adoption = Adoption {
                directory: &site,
                dataset: &dataset(),
                main: None,
                origin: Origin::FormerMain {
                    epoch: promoted.snapshot.map_or(1, |at| at.epoch),
                    next: promoted.epoch,
                    least_number,
                },
            };
            adopt::adopt(&store, &adoption)?;
            link(&site, &live);
            Ok(())
        })
    }

    /// Writes down that it has handed over.
    pub(crate) fn retire(&self, last: Position, dies: Option<u64>) -> Ended<Result<(), String>> {
        let (source, state, epoch) = (self.source(), self.state(), self.own_standing().epoch);
        self.run(dies, move || {
            match understudy_agent::store_of(&source.path) {
                Some((store, name)) => {
                    let store = Store::open_existing(&store).map_err(|error| error.to_string())?;
                    let turn = handover::turn(&store, &name, epoch, Turn::HandOver(last));
                    turn.map(drop).map_err(|error| error.to_string())
                }
                None => understudy_agent::retire(&source, &state, "the-other", last)
                    .map(drop)
                    .map_err(|error| error.to_string()),
            }
        })
    }

    /// Goes on as the main, in an epoch that its spare knows.
    pub(crate) fn resume(&self, epoch: u64) -> Result<(), String> {
        let source = self.source();
        match understudy_agent::store_of(&source.path) {
            Some((store, name)) => {
                let store = Store::open_existing(&store).map_err(|error| error.to_string())?;
                let turn = handover::turn(&store, &name, epoch, Turn::TakeBack);
                turn.map(drop).map_err(|error| error.to_string())
            }
            None => understudy_agent::resume(&source, &self.state(), "the-other", epoch)
                .map(drop)
                .map_err(|error| error.to_string()),
        }
    }

    /// Breaks the fence on purpose: the role of this host becomes what it was, as if a promotion had not been durable.
    pub(crate) fn forget_promotion(&self, epoch: u64) {
        let standing = Standing {
            epoch,
            ..Standing::first(Role::Spare)
        };
        let file = self.store().join("site/.understudy/role");
        std::fs::write(file, standing.to_string()).unwrap();
    }
}

fn link(from: &Path, to: &Path) {
    if std::fs::read_link(from).is_err() {
        symlink(to, from).unwrap();
    }
}

/// Guards are tried elsewhere: these trees are so small that any change is much of them.
fn options() -> SessionOptions {
    let usual = Thresholds {
        files_least: u64::MAX,
        bytes_least: u64::MAX,
        ..Thresholds::default()
    };
    SessionOptions {
        drift: Drift::Keep,
        guards: Arc::new(Guards {
            usual,
            ..Guards::default()
        }),
        ..SessionOptions::default()
    }
}
