//! What goes before the first change of an upload: what was under way is finished, and the agent is told where the dataset stands.

use understudy_protocol::message::Ready;
use understudy_protocol::transport::{Incoming, Outgoing};
use understudy_protocol::{Frame, Message, ProtocolError, version};

use crate::catalog::Catalog;
use crate::dataset::{Dataset, Locked};
use crate::error::ReceiverError;
use crate::guard::{self, Held};
use crate::leftovers::{self, Leftovers};
use crate::promote::fence::{self, Lookout};
use crate::serve::{Deletions, Drift, SessionOptions};
use crate::{drift, recover, stated};

/// Fails while the dataset is being promoted. Finishes what was under way, and keeps what somebody wrote into the live tree before this upload undoes it; returns what is held.
pub(super) fn settle(
    (dataset, catalog, locked): (&Dataset, &Catalog, &Locked),
    options: &SessionOptions,
) -> Result<Option<Held>, ReceiverError> {
    fence::look(dataset)?;
    let mut held = recover::recover(dataset, catalog, locked)?;
    if options.deletions == Deletions::Accept && held.take().is_some() {
        guard::drop_held(dataset, catalog)?;
    }
    if options.drift == Drift::Keep {
        if drift::heed_if_due(dataset, catalog, locked)?.is_some() {
            held = None;
        }
        drift::check(dataset, catalog, options.on_drift.of(&dataset.name))?;
    }
    Ok(held)
}

/// Answers where the dataset stands, with what the main has said of that.
pub(super) fn tell_position(
    catalog: &Catalog,
    spoken: u32,
    outgoing: &Outgoing,
) -> Result<(), ReceiverError> {
    let position = catalog.head()?.map(|head| head.snapshot.position);
    outgoing.send_message(&Message::Ready(Ready { position }))?;
    match position {
        Some(position) if spoken >= version::STATEMENTS => {
            stated::tell(catalog, position.number, outgoing)
        }
        _ => Ok(()),
    }
}

/// What interrupted uploads left, once an agent that can go on with it was told.
pub(super) fn tell_leftovers(
    dataset: &Dataset,
    catalog: &Catalog,
    locked: &Locked,
    spoken: u32,
    outgoing: &Outgoing,
) -> Result<Option<Leftovers>, ReceiverError> {
    if spoken < version::RESUME {
        return Ok(None);
    }
    let aside = match catalog.pending()? {
        Some(pending) => guard::aside::directory(dataset, &pending)?,
        None => None,
    };
    let leftovers = leftovers::load(dataset, locked, aside)?;
    leftovers.tell(outgoing)?;
    Ok(Some(leftovers))
}

/// The next frame; `None` once the agent has what it wanted.
pub(super) fn next(
    lookout: &mut Lookout<'_>,
    incoming: &mut Incoming,
) -> Result<Option<Frame>, ReceiverError> {
    match lookout.receive(incoming) {
        Err(ReceiverError::Protocol(ProtocolError::Cut)) => Ok(None),
        frame => frame.map(Some),
    }
}
