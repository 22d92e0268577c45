//! Telling what the main has said of a snapshot, as it came.

use understudy_protocol::Message;
use understudy_protocol::message::Stated;
use understudy_protocol::transport::Outgoing;

use crate::catalog::Catalog;
use crate::error::ReceiverError;

/// Tells what was said of snapshot `at`, if anything was.
pub(crate) fn tell(catalog: &Catalog, at: u64, outgoing: &Outgoing) -> Result<(), ReceiverError> {
    if let Some(statement) = catalog.statement(at)? {
        outgoing.send_message(&Message::Stated(Stated { statement }))?;
    }
    Ok(())
}
