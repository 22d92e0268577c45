//! Small records of a dataset that outlive the process: postcard behind a BLAKE3 of it, replaced as a whole.

use serde::Serialize;
use serde::de::DeserializeOwned;
use understudy_protocol::Name;
use understudy_tree::Directory;
use understudy_tree::durable::{self, Durability};

use crate::error::ReceiverError;

const HASH_BYTES: usize = 32;

/// Writes a record; durable when it returns.
pub(crate) fn write(
    control: &Directory,
    name: &Name,
    record: &impl Serialize,
) -> Result<(), ReceiverError> {
    let body = postcard::to_stdvec(record)
        .map_err(|error| ReceiverError::Damaged(format!("`{name}` cannot be written: {error}")))?;
    let content = [blake3::hash(&body).as_bytes().as_slice(), &body].concat();
    Ok(durable::replace(control, name, &content, Durability::Now)?)
}

/// Reads a record; `None` if there is none. One that is damaged, or of another format, is [`ReceiverError::Damaged`].
pub(crate) fn read<T: DeserializeOwned>(
    control: &Directory,
    name: &Name,
    limit_bytes: u64,
) -> Result<Option<T>, ReceiverError> {
    let Some(content) = durable::read(control, name, limit_bytes)? else {
        return Ok(None);
    };
    let whole = content
        .split_at_checked(HASH_BYTES)
        .filter(|(hash, body)| *hash == blake3::hash(body).as_bytes());
    let record = whole.and_then(|(_, body)| postcard::from_bytes(body).ok());
    let damaged = || ReceiverError::Damaged(format!("the file `{name}` cannot be understood"));
    record.map(Some).ok_or_else(damaged)
}
