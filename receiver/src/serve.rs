//! A session: what one connection may ask for.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use understudy_protocol::message::{DatasetStatus, Datasets, Noted};
use understudy_protocol::transport::{Channel, Incoming, Outgoing};
use understudy_protocol::{DatasetName, FIRST_EPOCH, Message, ProtocolError, limits};

use crate::access::{Access, Permission, Permitted, Scope};
use crate::crowd::{Matter, Questions};
use crate::dataset::now_seconds;
use crate::drift::{self, DriftRules};
use crate::error::ReceiverError;
use crate::give::Purpose;
use crate::guard::{self, Guards};
use crate::peer::Peer;
use crate::promote::heard;
use crate::quota::Quotas;
use crate::space::Reserve;
use crate::store::Store;
use crate::verify::Asked;
use crate::{browse, filling, fuzzy, give, handover, retention, role, upload, verify};

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

/// What becomes of changes of the live tree that understudy did not make, before an upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Drift {
    /// Nobody looks for them.
    #[default]
    Leave,
    /// They are looked for and kept as a snapshot; the upload undoes them.
    Keep,
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
    /// See [`Drift`].
    pub drift: Drift,
    /// What is done about them then.
    pub on_drift: Arc<DriftRules>,
    /// What a cycle may harm before it is held.
    pub guards: Arc<Guards>,
    /// What uploads leave free.
    pub reserve: Reserve,
    /// See [`Lease`].
    pub lease: Lease,
    /// What mains may take.
    pub quotas: Arc<Quotas>,
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
    let access = Access::new(store, &options.peer);
    let _admitted = store.crowd.admit(&options.peer, Matter::Session)?;
    let mut questions = Questions::default();
    loop {
        questions.answered();
        let message = match incoming.receive_message() {
            Err(ProtocolError::Cut) => return Ok(()),
            message => message?,
        };
        questions.next(&options.peer)?;
        let Some(scope) = access.scope(&message, spoken)? else {
            return Err(unexpected(&message));
        };
        if let Some(asked) = Asked::by(&message) {
            let _admitted = store.crowd.admit(&options.peer, Matter::Verification)?;
            verify::serve(store, asked, scope, outgoing)?;
            continue;
        }
        match (message, scope) {
            (message @ (Message::Begin(_) | Message::Claim(_)), Scope::Made(permission)) => {
                let epoch = match message {
                    Message::Claim(claim) => claim.epoch,
                    _ => FIRST_EPOCH,
                };
                let _admitted = store.crowd.admit(&options.peer, Matter::Upload)?;
                let served = upload::serve(
                    store,
                    &permission,
                    (spoken, epoch),
                    incoming,
                    outgoing,
                    options,
                );
                // A store without a receiver that runs all the time learns from its uploads.
                if let Err(error) = filling::note(store) {
                    tracing::debug!("cannot note how full the disk is: {error}");
                }
                return served;
            }
            (Message::Trouble(trouble), Scope::Made(permission)) => {
                heard::note(&*permission.ensure(store)?);
                store.cycles.failed(permission.name(), &trouble.reason);
                outgoing.send_message(&Message::Noted(Noted {}))?;
            }
            (Message::List(_), scope) => {
                let datasets = datasets(access, scope)?;
                outgoing.send_message(&Message::Datasets(datasets))?;
            }
            (Message::ListRoles(_), scope) => role::serve(store, scope, outgoing)?,
            (Message::Oversee(_), Scope::All(own)) => {
                let overseen = filling::oversee(access, &own, options)?;
                outgoing.send_message(&Message::Overseen(overseen))?;
            }
            (Message::HandOver(told), Scope::One(dataset)) => {
                handover::note(&dataset, &told)?;
                outgoing.send_message(&Message::Noted(Noted {}))?;
            }
            (message, Scope::One(dataset)) => {
                let how = (spoken, options.lease);
                if read(&message, &dataset, how, incoming, outgoing)?.is_break() {
                    return Ok(());
                }
            }
            (message, Scope::Made(_) | Scope::All(_)) => return Err(unexpected(&message)),
        }
    }
}

/// Answers what is asked of one dataset. Contents are wanted of a snapshot until the other side is done: nothing comes after that.
fn read(
    message: &Message,
    dataset: &Permitted,
    (spoken, lease): (u32, Lease),
    incoming: &mut Incoming,
    outgoing: &Outgoing,
) -> Result<ControlFlow<()>, ReceiverError> {
    let (reading, snapshot, purpose) = match message {
        Message::ListFuzzy(request) => {
            return fuzzy::serve(dataset, request, outgoing).map(ControlFlow::Continue);
        }
        Message::ListRetention(_) => {
            return retention::serve(dataset, outgoing).map(ControlFlow::Continue);
        }
        Message::ReadManifest(request) => {
            let reading = dataset.reading()?;
            let snapshot = give::manifest(dataset, request, spoken, outgoing)?;
            (reading, snapshot, Purpose::Restore)
        }
        Message::Locate(request) => {
            let reading = dataset.reading()?;
            let snapshot = browse::locate(dataset, request, outgoing)?;
            (reading, snapshot, Purpose::Look)
        }
        other => return browse::serve(dataset, other, outgoing).map(ControlFlow::Continue),
    };
    let how = (spoken, lease, purpose);
    give::serve((dataset, reading), &snapshot, how, incoming, outgoing).map(ControlFlow::Break)
}

fn unexpected(message: &Message) -> ReceiverError {
    let (got, wanted) = (message.name(), "a request");
    ProtocolError::Unexpected { got, wanted }.into()
}

fn datasets(access: Access<'_>, scope: Scope) -> Result<Datasets, ReceiverError> {
    let mut datasets = match scope {
        Scope::One(dataset) => {
            let name = dataset.name.clone();
            vec![status(access.store(), &name, || Ok(Some(dataset)))]
        }
        Scope::Made(_) => Vec::new(),
        Scope::All(own) => {
            let opened = |one: &Permission| one.open(access.store());
            own.iter()
                .map(|one| status(access.store(), one.name(), || opened(one)))
                .collect()
        }
    };
    fit(&mut datasets);
    Ok(Datasets {
        datasets,
        free_bytes: access.store().free_bytes(),
        now_seconds: now_seconds(),
    })
}

/// One dataset with endless snapshots or troubles must not keep anybody from seeing the others: the newest of each are told.
fn fit(datasets: &mut [DatasetStatus]) {
    let snapshots = limits::listed_snapshots(datasets.len());
    let text = (limits::LISTED_TEXT_BYTES / datasets.len().max(1)).max(1);
    for dataset in datasets {
        let first = dataset.snapshots.len().saturating_sub(snapshots);
        dataset.snapshots.drain(..first);
        if let Some(trouble) = &mut dataset.trouble {
            crate::error::shorten(trouble, text);
        }
    }
}

/// Trouble in one dataset is told as such, and does not hide the others.
fn status(
    store: &Store,
    name: &DatasetName,
    open: impl FnOnce() -> Result<Option<Permitted>, ReceiverError>,
) -> DatasetStatus {
    let mut status = DatasetStatus {
        name: name.clone(),
        snapshots: Vec::new(),
        as_of_seconds: None,
        uploading: false,
        trouble: None,
    };
    let result = (|| {
        let Some(dataset) = open()? else {
            return Ok(());
        };
        status.uploading = !store.housekeeping.is_on(name) && dataset.is_locked();
        let Some(catalog) = dataset.read_catalog()? else {
            return verify::not_orphaned(&dataset);
        };
        let held = guard::standing(&dataset, catalog.pending()?.as_ref())?;
        status.trouble = match held {
            Some(held) => Some(guard::tell(name, &held).to_string()),
            None => drift::standing(&dataset, &catalog)?,
        };
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
