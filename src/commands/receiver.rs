//! `understudy receiver`: the spare's daemon.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, TryLockError};
use std::time::Duration;

use serde_json::json;
use tokio::signal::unix::{Signal, SignalKind, signal};
use understudy_protocol::transport::Channel;
use understudy_protocol::transport::tls::{Arrival, Credentials, Doorkeeper, Listener};
use understudy_protocol::{DatasetName, Failure, FailureCode, Message, ProtocolError};
use understudy_receiver::drift::DriftRules;
use understudy_receiver::guard::Guards;
use understudy_receiver::promote;
use understudy_receiver::quota::Quotas;
use understudy_receiver::retention::{self, Compressed, Expired, Policies, Pruned};
use understudy_receiver::scrub::{self, Plan};
use understudy_receiver::specials::Rules;
use understudy_receiver::trust::Trust;
use understudy_receiver::{
    AfterFirst, Deletions, Drift, Peer, ReceiverError, Reserve, SessionOptions, Store,
};

mod live;

use super::Session;
use crate::address;
use crate::alert::Alerting;
use crate::alert::voice::Voice;
use crate::arguments::{Format, Receiver};
use crate::confinement::Prepared;
use crate::exit::{Code, CommandError};
use crate::interrupt;
use crate::receiver_config::{self, Alerts, ReceiverConfig, Standby};
use crate::report::{self, Report};
use crate::{service, standby};
use live::Live;

/// Every address of this host.
const DEFAULT_LISTEN: &str = "[::]:7433";

/// How long sessions may take to end by themselves: shorter than the patience of `interrupt`. One that is cut
/// off is repaired at the next start.
const FAREWELL: Duration = Duration::from_millis(1200);

/// How often it looks whether those that are connected are still known.
const LOOKING: Duration = Duration::from_secs(1);

/// How often the receiver looks for leftovers that are too old, and prunes.
const TIDYING: Duration = Duration::from_secs(60 * 60);

/// What options and configuration come to.
#[derive(Debug)]
pub(crate) struct Settings {
    /// The directory that holds the datasets.
    pub(crate) store: PathBuf,
    /// Where to listen, at the first that can be had.
    pub(crate) listen: Vec<SocketAddr>,
    alerts: Alerts,
    guards: Guards,
    reserve: Reserve,
    retention: Policies,
    scrub: Plan,
    quotas: Quotas,
    specials: Rules,
    drift: DriftRules,
    /// Databases that are loaded on this host.
    pub(crate) standbys: Vec<Standby>,
    /// The configuration, if there is one.
    pub(crate) file: Option<PathBuf>,
}

/// The signals that it knows.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    /// SIGHUP and the file that it has read again. Without a file it ends the process, as it would anyway.
    reload: Option<(Signal, PathBuf)>,
}

impl Signals {
    /// Catches them from now on.
    fn catch(file: Option<PathBuf>) -> std::io::Result<Self> {
        let (interrupt, terminate) = interrupt::signals()?;
        let reload = match file {
            Some(file) => Some((signal(SignalKind::hangup())?, file)),
            None => None,
        };
        Ok(Self {
            interrupt,
            terminate,
            reload,
        })
    }
}

/// The file to read again, when that is asked for.
async fn hung_up(reload: &mut Option<(Signal, PathBuf)>) -> PathBuf {
    match reload {
        Some((signal, file)) => {
            signal.recv().await;
            file.clone()
        }
        None => std::future::pending().await,
    }
}

/// Serves connections until a signal comes.
pub(crate) fn run(prepared: Prepared, session: &Session) -> Result<Report, CommandError> {
    let settings = prepared.receiver.ok_or_else(CommandError::panicked)?;
    let voice = Voice::new(prepared.messenger);
    let Settings {
        store,
        listen,
        alerts,
        guards,
        reserve,
        retention,
        scrub,
        quotas,
        specials,
        drift,
        standbys,
        file,
    } = settings;
    let policies = Arc::new(retention);
    let store = Arc::new(Store::open(&store)?);
    let trust = Arc::new(Trust::open_or_create(store.path())?);
    let credentials = Credentials::new(trust.key()).map_err(|error| CommandError::from(&error))?;
    store.recover()?;
    store.treat(specials)?;
    standby::forget_others(&store, &standbys);
    if let Some(started) = prepared.standby {
        started.watch(Arc::clone(&store));
    }
    let (held, all_ended) = sync_channel(1);
    session.runtime.block_on(async {
        let signals = Signals::catch(file).map_err(|error| not_listening(&error))?;
        let keeper = Arc::clone(&trust) as Arc<dyn Doorkeeper>;
        let listener = Listener::bind(&listen, credentials, keeper)
            .await
            .map_err(|error| not_listening(&error))?;
        let bound = listener.address().to_string();
        trust.note_address(&bound)?;
        let options = SessionOptions {
            // A daemon has time after a first snapshot.
            after_first: AfterFirst::FillShadow,
            ..options(guards, reserve, quotas, drift)
        };
        let watched = (Arc::clone(&store), reserve);
        let alerting = Alerting::start(watched, alerts, voice)?;
        announce(&bound, session.output.format);
        let scrubbed = Arc::clone(&store);
        // It ends with the process: what it was at is begun again.
        std::thread::spawn(move || scrub::forever(scrubbed, scrub));
        let preserved = Arc::clone(&store);
        std::thread::spawn(move || promote::preserve::forever(preserved, reserve));
        service::ready();
        tracing::info!("the store is `{}`", store.path().display());
        let rules = (&options, &policies);
        accept(listener, &store, &trust, rules, held, signals, &alerting).await;
        Ok::<(), CommandError>(())
    })?;
    service::stopping();
    // Nothing is ever sent: the channel ends with its last holder, or time is up.
    let _: Result<(), _> = all_ended.recv_timeout(FAREWELL);
    tracing::info!("ended");
    Ok(Report::ended())
}

/// What a configuration says of every session.
pub(super) fn options(
    guards: Guards,
    reserve: Reserve,
    quotas: Quotas,
    drift: DriftRules,
) -> SessionOptions {
    SessionOptions {
        deletions: Deletions::Guard,
        drift: Drift::Keep,
        on_drift: Arc::new(drift),
        guards: Arc::new(guards),
        reserve,
        quotas: Arc::new(quotas),
        ..SessionOptions::default()
    }
}

/// Gives each connection a thread, until a signal comes. The threads hold `held` as long as they run.
async fn accept(
    mut listener: Listener,
    store: &Arc<Store>,
    trust: &Trust,
    (options, policies): (&SessionOptions, &Arc<Policies>),
    held: SyncSender<()>,
    mut signals: Signals,
    alerting: &Alerting,
) {
    let live = Live::default();
    let first = tokio::time::Instant::now() + TIDYING;
    let mut tidying = tokio::time::interval_at(first, TIDYING);
    let mut looking = tokio::time::interval(LOOKING);
    loop {
        let arrival = tokio::select! {
            arrival = listener.accept() => arrival,
            _ = signals.interrupt.recv() => return,
            _ = signals.terminate.recv() => return,
            _ = looking.tick() => {
                live.cut_off_strangers(trust);
                continue;
            }
            _ = tidying.tick() => {
                let (store, policies) = (Arc::clone(store), Arc::clone(policies));
                let reserve = options.reserve;
                std::thread::spawn(move || tidy(&store, &policies, reserve));
                continue;
            }
            file = hung_up(&mut signals.reload) => {
                reload(&file, alerting);
                continue;
            }
        };
        match arrival {
            Some(arrival) => attend(arrival, &live, store, options, &held),
            // Whoever takes connections has ended, which is a defect.
            None => return,
        }
    }
}

/// Gives a connection a thread, unless there are too many.
fn attend(
    arrival: Arrival,
    live: &Live,
    store: &Arc<Store>,
    options: &SessionOptions,
    held: &SyncSender<()>,
) {
    let served = match live.enter(&arrival) {
        Ok(served) => served,
        Err(why) => {
            tracing::warn!("{}: refused, for {why}", arrival.address);
            let failure = Failure::new(
                FailureCode::Busy,
                format!("the spare takes no further connection: {why}"),
            );
            // Nobody may be there any more.
            let _ = arrival.channel.outgoing.offer(&Message::Failure(failure));
            return;
        }
    };
    let kept = (served, held.clone());
    let store = Arc::clone(store);
    let peer = format!("{} ({})", arrival.address, arrival.main);
    let options = SessionOptions {
        peer: Peer::Main(arrival.main),
        ..options.clone()
    };
    std::thread::spawn(move || {
        serve(store, arrival.channel, options, &peer);
        drop(kept);
    });
}

/// Removes what nobody will come back for, and what the policy does not keep, and compresses what is cold.
fn tidy(store: &Store, policies: &Policies, reserve: Reserve) {
    prune(store, policies);
    let moment = retention::Moment::now();
    let rules = (policies, reserve);
    // This may take days. Each dataset is locked for it, so that the next one to come passes over it.
    if let Err(error) = retention::compress_all(store, rules, &moment, tell_compressed) {
        tracing::error!("cannot compress what is cold: {error}");
    }
}

/// Removes what is not kept. One that is still at it when the next is due is not joined by another.
fn prune(store: &Store, policies: &Policies) {
    static AT_IT: Mutex<()> = Mutex::new(());
    let _at_it = match AT_IT.try_lock() {
        Err(TryLockError::WouldBlock) => return,
        Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
        Ok(at_it) => at_it,
    };
    if let Err(error) = store.drop_old_leftovers() {
        tracing::warn!("cannot drop what interrupted uploads left: {error}");
    }
    let pruned = retention::prune_all(store, policies, tell_pruned);
    if let Err(error) = pruned {
        tracing::error!("cannot prune: {error}");
    }
}

fn tell_compressed(dataset: &DatasetName, compressed: Result<Compressed, ReceiverError>) {
    match compressed {
        Ok(done) if done.objects > 0 => {
            let (before, after) = (done.bytes_before, done.bytes_after);
            tracing::info!(%dataset, objects = done.objects, before, after, "compressed what has gone cold in history");
        }
        Ok(_) => {}
        Err(ReceiverError::Busy(_)) => {
            tracing::info!(%dataset, "compressing what is cold is not finished: somebody is working on the dataset");
        }
        Err(error) => {
            tracing::error!(%dataset, "cannot compress what has gone cold in history: {error}");
        }
    }
}

fn tell_pruned(dataset: &DatasetName, pruned: Result<Pruned, ReceiverError>) {
    let pruned = match pruned {
        Ok(pruned) => pruned,
        Err(error) => {
            tracing::error!(%dataset, "cannot prune: {error}");
            return;
        }
    };
    let numbers = |all: &[Expired]| -> Vec<u64> { all.iter().map(|one| one.number).collect() };
    if !pruned.flagged.is_empty() {
        tracing::info!(%dataset, "snapshots {:?} are expired; they go after the grace period", numbers(&pruned.flagged));
    }
    if !pruned.removed.is_empty() {
        let (bytes, objects) = (pruned.freed.bytes, pruned.freed.objects);
        tracing::info!(%dataset, bytes, objects, "removed the snapshots {:?}", numbers(&pruned.removed));
    }
    match pruned.obstacle {
        Some(obstacle) if obstacle.kind.passes() => {
            tracing::info!(%dataset, "pruning is not finished: {}", obstacle.reason);
        }
        Some(obstacle) => tracing::warn!(%dataset, "nothing is pruned: {}", obstacle.reason),
        None => {}
    }
}

impl Settings {
    /// Options first, then the configuration, then the defaults.
    pub(crate) fn of(arguments: &Receiver) -> Result<Self, CommandError> {
        let given = (arguments.config.as_deref(), arguments.store.as_deref());
        let file = receiver_config::chosen(given.0, given.1);
        let config = match &file {
            Some(path) => ReceiverConfig::load(path)?,
            None => ReceiverConfig::default(),
        };
        let store = arguments.store.clone().or(config.store);
        let store = store.ok_or_else(receiver_config::no_store)?;
        let listen = arguments.listen.clone().or(config.listen);
        let listen = listen.as_deref().unwrap_or(DEFAULT_LISTEN);
        Ok(Self {
            store: std::path::absolute(&store).unwrap_or(store),
            listen: address::to_listen_on(listen)?,
            alerts: config.alerts,
            guards: config.guards,
            reserve: config.reserve,
            retention: config.retention,
            scrub: config.scrub,
            quotas: config.quotas,
            specials: config.specials,
            drift: config.drift,
            standbys: config.standbys,
            file,
        })
    }
}

/// Reads the alerts' part of the configuration again. A file that is wrong changes nothing.
fn reload(file: &Path, alerting: &Alerting) {
    service::reloading();
    match alerting.reload(&file.display().to_string()) {
        Ok(()) => {
            tracing::info!(
                "`{}`: alerts are as it says now; the rest counts from the next start",
                file.display()
            );
        }
        Err(reason) => tracing::error!("everything stays as it was: {reason}"),
    }
    service::ready();
}

fn announce(address: &str, format: Format) {
    let printed = match format {
        Format::Text => report::print_line(&format!("listening on {address}")),
        Format::Json => report::print_json(Some(&json!({ "listening": address })), None),
    };
    if let Err(error) = printed {
        tracing::warn!("cannot say that it listens on {address}: {error}");
    }
}

fn not_listening(error: &impl std::fmt::Display) -> CommandError {
    CommandError::new(
        Code::Failed,
        error.to_string(),
        "stop what listens there, or choose another port with --listen",
    )
}

/// One connection, to its end.
pub(super) fn serve(store: Arc<Store>, channel: Channel, options: SessionOptions, peer: &str) {
    tracing::info!("{peer}: connected");
    match understudy_receiver::serve(store, channel, options) {
        Ok(()) => tracing::info!("{peer}: ended"),
        Err(ReceiverError::Protocol(ProtocolError::Cut | ProtocolError::Io(_))) => {
            tracing::info!(
                "{peer}: the connection was cut; what has arrived is kept for the next upload"
            );
        }
        Err(error) => match error.failure_code() {
            FailureCode::Internal | FailureCode::NoSpace | FailureCode::Damaged => {
                tracing::error!("{peer}: {error}");
            }
            _ => tracing::warn!("{peer}: {error}"),
        },
    }
}
