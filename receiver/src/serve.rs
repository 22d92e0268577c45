//! A session: what one connection may ask for.

use std::sync::Arc;
use std::time::Duration;

use understudy_protocol::message::{DatasetStatus, Datasets, List, Noted};
use understudy_protocol::transport::{Channel, Outgoing};
use understudy_protocol::{DatasetName, Message, ProtocolError, version};

use crate::dataset::{Dataset, now_seconds};
use crate::error::ReceiverError;
use crate::give::Purpose;
use crate::guard::{self, Guards};
use crate::peer::Peer;
use crate::space::Reserve;
use crate::store::Store;
use crate::verify::Asked;
use crate::{browse, filling, fuzzy, give, retention, upload, verify};

/// What the receiver does with a change set that removes everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Deletions {
    /// Refuses it.
    #[default]
    Guard,
    /// Takes it: the person at an embedded spare said so.
    Accept,
}

/// What happens after the first snapshot of a dataset: its shadow is empty, and filling it costs a link per file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AfterFirst {
    /// The next cycle does it: a command is not kept waiting.
    #[default]
    Leave,
    /// It is done at once, after the agent was told: a daemon has the time, and the next cycle costs what changed.
    FillShadow,
}

/// How long an agent that reads a snapshot may ask for nothing before that may be removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease(pub Duration);

impl Default for Lease {
    fn default() -> Self {
        Self(Duration::from_secs(30 * 60))
    }
}

/// How sessions of a receiver behave; never set by the peer.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SessionOptions {
    /// Who is at the other end.
    pub peer: Peer,
    /// See [`Deletions`].
    pub deletions: Deletions,
    /// See [`AfterFirst`].
    pub after_first: AfterFirst,
    /// What a cycle may harm before it is held.
    pub guards: Arc<Guards>,
    /// What uploads leave free.
    pub reserve: Reserve,
    /// See [`Lease`].
    pub lease: Lease,
}

/// Serves one connection until the other side is done; blocks. A failure was told to the other side before
/// it is returned.
#[expect(
    clippy::needless_pass_by_value,
    reason = "a session owns its share of the store for its thread's life"
)]
pub fn serve(
    store: Arc<Store>,
    mut channel: Channel,
    options: SessionOptions,
) -> Result<(), ReceiverError> {
    let result = converse(&store, &mut channel, &options);
    if let Err(error) = &result {
        // The other side may be gone; then there is nobody to tell.
        let _ = channel
            .outgoing
            .send_message(&Message::Failure(error.to_failure()));
    }
    result
}

fn converse(
    store: &Store,
    channel: &mut Channel,
    options: &SessionOptions,
) -> Result<(), ReceiverError> {
    let spoken = channel.greet()?;
    let Channel { outgoing, incoming } = channel;
    loop {
        let message = match incoming.receive_message() {
            Err(ProtocolError::Cut) => return Ok(()),
            message => message?,
        };
        if let Some(asked) = Asked::by(&message, spoken) {
            verify::serve(store, asked, outgoing)?;
            continue;
        }
        match message {
            Message::Begin(begin) => {
                let served = upload::serve(store, &begin, spoken, incoming, outgoing, options);
                // A store without a receiver that runs all the time learns from its uploads.
                if let Err(error) = filling::note(store) {
                    tracing::debug!("cannot note how full the disk is: {error}");
                }
                return served;
            }
            Message::List(list) => {
                outgoing.send_message(&Message::Datasets(datasets(store, &list)?))?;
            }
            Message::ListFuzzy(request) if spoken >= version::FUZZY => {
                fuzzy::serve(store, &request, outgoing)?;
            }
            Message::ListRetention(request) if spoken >= version::RETENTION => {
                retention::serve(store, &request, outgoing)?;
            }
            Message::Trouble(trouble) if spoken >= version::TROUBLE => {
                store.ensure_dataset(&trouble.dataset)?;
                store.cycles.failed(&trouble.dataset, &trouble.reason);
                outgoing.send_message(&Message::Noted(Noted {}))?;
            }
            Message::ReadManifest(request) => {
                let dataset = existing(store, &request.dataset)?;
                let reading = dataset.reading()?;
                let snapshot = give::manifest(&dataset, &request, spoken, outgoing)?;
                let (read, how) = (
                    (&dataset, reading),
                    (spoken, options.lease, Purpose::Restore),
                );
                return give::serve(read, &snapshot, how, incoming, outgoing);
            }
            Message::Locate(request) if spoken >= version::BROWSE => {
                let reading = existing(store, &request.dataset)?.reading()?;
                let (dataset, snapshot) = browse::locate(store, &request, outgoing)?;
                let (read, how) = ((&dataset, reading), (spoken, options.lease, Purpose::Look));
                return give::serve(read, &snapshot, how, incoming, outgoing);
            }
            Message::Oversee(_) if spoken >= version::OVERSEE => {
                let overseen = filling::oversee(store, options.reserve)?;
                outgoing.send_message(&Message::Overseen(overseen))?;
            }
            other if spoken >= version::BROWSE => browse::serve(store, &other, outgoing)?,
            other => {
                return Err(ProtocolError::Unexpected {
                    got: other.name(),
                    wanted: "a request",
                }
                .into());
            }
        }
    }
}

/// A dataset that must be there.
pub(crate) fn existing(store: &Store, name: &DatasetName) -> Result<Dataset, ReceiverError> {
    store.dataset(name)?.ok_or_else(|| {
        let known = store.dataset_names().unwrap_or_default();
        let known: Vec<&str> = known.iter().take(20).map(DatasetName::as_str).collect();
        let known = if known.is_empty() {
            "none".to_owned()
        } else {
            known.join(", ")
        };
        ReceiverError::NotFound(format!(
            "the spare has no dataset `{name}` (it has: {known})"
        ))
    })
}

fn datasets(store: &Store, list: &List) -> Result<Datasets, ReceiverError> {
    let names = match &list.dataset {
        Some(name) => vec![existing(store, name)?.name],
        None => store.dataset_names()?,
    };
    let datasets = names.iter().map(|name| status(store, name)).collect();
    Ok(Datasets {
        datasets,
        free_bytes: store.free_bytes(),
        now_seconds: now_seconds(),
    })
}

/// Trouble in one dataset is told as such, and does not hide the others.
fn status(store: &Store, name: &DatasetName) -> DatasetStatus {
    let mut status = DatasetStatus {
        name: name.clone(),
        snapshots: Vec::new(),
        as_of_seconds: None,
        uploading: false,
        trouble: None,
    };
    let result = (|| {
        let Some(dataset) = store.dataset(name)? else {
            return Ok(());
        };
        status.uploading = !store.housekeeping.is_on(name) && dataset.is_locked();
        let Some(catalog) = dataset.read_catalog()? else {
            return verify::not_orphaned(&dataset);
        };
        let held = guard::standing(&dataset, catalog.pending()?.as_ref())?;
        status.trouble = held.map(|held| guard::tell(name, &held).to_string());
        let recorded = catalog.snapshots()?;
        if recorded.is_empty() {
            verify::not_orphaned(&dataset)?;
        }
        let committed = recorded.last().map(|newest| newest.as_of_seconds);
        status.as_of_seconds = committed.max(catalog.confirmed_seconds()?);
        status.snapshots = recorded
            .into_iter()
            .map(|recorded| recorded.snapshot)
            .collect();
        Ok::<(), ReceiverError>(())
    })();
    if let Err(error) = result {
        status.trouble = Some(error.to_string());
    }
    status
}

/// Sends one message encoded on this thread.
pub(crate) fn send(outgoing: &Outgoing, message: &Message) -> Result<(), ReceiverError> {
    Ok(outgoing.send_message(message)?)
}
