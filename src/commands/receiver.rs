//! `understudy receiver`: the spare's daemon.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::Duration;

use serde_json::json;
use tokio::signal::unix::Signal;
use understudy_protocol::transport::Channel;
use understudy_protocol::transport::tcp::Listener;
use understudy_protocol::{FailureCode, ProtocolError};
use understudy_receiver::{AfterFirst, Deletions, ReceiverError, SessionOptions, Store};

use super::Session;
use crate::address;
use crate::arguments::{Format, Receiver};
use crate::exit::{Code, CommandError};
use crate::interrupt;
use crate::receiver_config::ReceiverConfig;
use crate::report::{self, Report};

const DEFAULT_CONFIG: &str = "/etc/understudy/receiver.toml";
const DEFAULT_LISTEN: &str = "127.0.0.1:7433";

/// A daemon has time after a first snapshot, and lets no main remove everything.
const OPTIONS: SessionOptions = SessionOptions {
    deletions: Deletions::Guard,
    after_first: AfterFirst::FillShadow,
};

/// More connections than any honest pair needs; each costs a thread and some buffers.
const SESSIONS: usize = 64;

/// How long sessions may take to end by themselves: shorter than the patience of `interrupt`. One that is cut
/// off is repaired at the next start.
const FAREWELL: Duration = Duration::from_millis(1200);

/// After a failed accept, which is mostly a lack of descriptors, others get time to give some back.
const PAUSE: Duration = Duration::from_millis(200);

/// Serves connections until a signal comes.
pub(crate) fn run(arguments: Receiver, session: &Session) -> Result<Report, CommandError> {
    let (path, listen) = settings(arguments)?;
    address::check_loopback(&listen)?;
    let store = Arc::new(Store::open(&path)?);
    store.recover()?;
    let (held, all_ended) = sync_channel(1);
    session.runtime.block_on(async {
        let signals = interrupt::signals().map_err(|error| not_listening(&error))?;
        let listener = Listener::bind(&listen)
            .await
            .map_err(|error| not_listening(&error))?;
        let bound = listener.address().map_err(|error| not_listening(&error))?;
        announce(&bound.to_string(), session.output.format);
        tracing::info!("the store is `{}`", path.display());
        accept(&listener, &store, held, signals).await;
        Ok::<(), CommandError>(())
    })?;
    // Nothing is ever sent: the channel ends with its last holder, or time is up.
    let _: Result<(), _> = all_ended.recv_timeout(FAREWELL);
    tracing::info!("ended");
    Ok(Report::ended())
}

/// Gives each connection a thread, until a signal comes. The threads hold `held` as long as they run.
async fn accept(
    listener: &Listener,
    store: &Arc<Store>,
    held: SyncSender<()>,
    signals: (Signal, Signal),
) {
    let (mut interrupted, mut terminated) = signals;
    let open = Arc::new(());
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = interrupted.recv() => return,
            _ = terminated.recv() => return,
        };
        match accepted {
            Ok((_, peer)) if Arc::strong_count(&open) > SESSIONS => {
                tracing::warn!("{peer}: refused, for {SESSIONS} connections are open already");
            }
            Ok((channel, peer)) => {
                let (store, kept) = (Arc::clone(store), (Arc::clone(&open), held.clone()));
                std::thread::spawn(move || {
                    serve(store, channel, &peer.to_string());
                    drop(kept);
                });
            }
            Err(error) => {
                tracing::warn!("cannot accept a connection: {error}");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// Where the store is and where to listen: options first, then the configuration, then the defaults.
fn settings(arguments: Receiver) -> Result<(PathBuf, String), CommandError> {
    let config = match (&arguments.config, &arguments.store) {
        (Some(path), _) => ReceiverConfig::load(path)?,
        (None, Some(_)) => ReceiverConfig::default(),
        (None, None) if Path::new(DEFAULT_CONFIG).exists() => {
            ReceiverConfig::load(Path::new(DEFAULT_CONFIG))?
        }
        (None, None) => ReceiverConfig::default(),
    };
    let store = arguments.store.or(config.store).ok_or_else(|| {
        CommandError::usage(
            "no store is given",
            format!("add --store DIR, or write `store = \"DIR\"` to {DEFAULT_CONFIG}"),
        )
    })?;
    let listen = arguments
        .listen
        .or(config.listen)
        .unwrap_or_else(|| DEFAULT_LISTEN.to_owned());
    Ok((store, listen))
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
fn serve(store: Arc<Store>, channel: Channel, peer: &str) {
    tracing::info!("{peer}: connected");
    match understudy_receiver::serve(store, channel, OPTIONS) {
        Ok(()) => tracing::info!("{peer}: ended"),
        Err(ReceiverError::Protocol(ProtocolError::Cut | ProtocolError::Io(_))) => {
            tracing::info!("{peer}: the connection was cut; what was not committed is dropped");
        }
        Err(error) => match error.failure_code() {
            FailureCode::Internal | FailureCode::NoSpace | FailureCode::Damaged => {
                tracing::error!("{peer}: {error}");
            }
            _ => tracing::warn!("{peer}: {error}"),
        },
    }
}
