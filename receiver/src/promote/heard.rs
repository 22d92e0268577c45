//! When the main was last heard of: the time of one file, which sessions of the main touch, whatever comes of them.

use understudy_tree::durable::{self, Durability};

use crate::dataset::Dataset;
use crate::error::ReceiverError;
use crate::names;

/// It was heard of now. Nobody needs this to be durable, and it keeps no session from anything.
pub(crate) fn note(dataset: &Dataset) {
    let noted = durable::replace(&dataset.control, &names::HEARD, b"", Durability::Later);
    if let Err(error) = noted {
        tracing::debug!(dataset = %dataset.name, "cannot note that the main was heard of: {error}");
    }
}

/// When, by this host's clock, seconds since 1970; `None` if never.
pub(crate) fn seconds(dataset: &Dataset) -> Result<Option<i64>, ReceiverError> {
    let stat = dataset.control.stat_if_present(&names::HEARD)?;
    Ok(stat.map(|stat| stat.modified.seconds))
}
