//! When what interrupted uploads left makes room.

use crate::error::ReceiverError;
use crate::peer::Peer;
use crate::space::{self, Reserve};
use crate::store::Store;

/// After a failed upload nothing left over is kept of any dataset if the disk is full, of the main that has used up its own or met
/// another limit of the file system, or that the disk may have lost. The agent is not told before, so that its next try finds the space.
pub(crate) fn give_way(store: &Store, (peer, reserve): (&Peer, Reserve), error: &ReceiverError) {
    let dropped = match error {
        ReceiverError::NoSpace(_) if is_short(store, reserve) => {
            store.drop_all_leftovers(&Peer::Operator)
        }
        ReceiverError::NoSpace(_) | ReceiverError::Quota(_) => store.drop_all_leftovers(peer),
        _ if store.syncs.failures() > 0 => store.drop_old_leftovers(),
        _ => Ok(()),
    };
    if let Err(error) = dropped {
        tracing::warn!("cannot drop what interrupted uploads left: {error}");
    }
}

fn is_short(store: &Store, reserve: Reserve) -> bool {
    space::is_full(store.directory()) || reserve.check(store.directory()).is_err()
}
