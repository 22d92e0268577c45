//! What the commands share that look into the past: which snapshot is meant, and how entries are told.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use jiff::Zoned;
use serde_json::{Value, json};
use understudy_agent::{AgentError, Past, Which};
use understudy_protocol::{DatasetName, Entry, Node, RelPath, Timestamp, escape};

use super::Session;
use crate::arguments::Selection;
use crate::exit::CommandError;
use crate::moment;
use crate::words;

impl Session {
    /// Lets `look` look into a dataset of the spare.
    pub(super) fn look<T>(
        &self,
        dataset: &DatasetName,
        look: impl FnOnce(Past) -> Result<T, AgentError>,
    ) -> Result<T, CommandError> {
        self.existing_spare()?
            .talk(|channel| look(Past::open(channel, dataset.clone(), &self.cancel)?))
    }
}

/// The snapshot that is meant.
pub(super) fn which(selection: &Selection) -> Result<Which, CommandError> {
    Ok(match (selection.snapshot, &selection.at) {
        (Some(number), _) => Which::Number(number),
        (None, Some(text)) => Which::At(seconds(text)?),
        (None, None) => Which::Newest,
    })
}

/// A point in time of the command line, in seconds since 1970.
pub(super) fn seconds(text: &str) -> Result<i64, CommandError> {
    Ok(moment::parse(text, &Zoned::now())?.as_second())
}

/// A path within a dataset, as a person writes one: a `/` at its begin or end means nothing.
pub(super) fn path(text: &OsStr) -> Result<RelPath, CommandError> {
    let mut bytes = text.as_bytes();
    bytes = bytes.strip_prefix(b"./").unwrap_or(bytes);
    while let Some(rest) = bytes.strip_prefix(b"/") {
        bytes = rest;
    }
    while let Some(rest) = bytes.strip_suffix(b"/") {
        bytes = rest;
    }
    if bytes == b"." {
        bytes = b"";
    }
    RelPath::new(bytes).map_err(|error| {
        CommandError::usage(
            format!(
                "`{}` is no path in a dataset: {error}",
                escape(text.as_bytes())
            ),
            "write it as `understudy ls DATASET -R` shows it",
        )
    })
}

/// An entry for programs.
pub(super) fn entry_value(entry: &Entry) -> Value {
    let attributes = &entry.attributes;
    let mut value = json!({
        "kind": entry.kind(),
        "mode": format!("{:04o}", attributes.mode),
        "uid": attributes.uid,
        "gid": attributes.gid,
        "modified": precise(attributes.modified),
    });
    match &entry.node {
        Node::File { size, hash } => {
            value["size"] = (*size).into();
            value["hash"] = hash.to_string().into();
        }
        Node::Symlink { target } => words::put_bytes(&mut value, "target", target),
        Node::CharacterDevice { major, minor } | Node::BlockDevice { major, minor } => {
            value["device"] = json!([major, minor]);
        }
        Node::Directory { .. } | Node::Fifo => {}
    }
    value
}

/// An entry with its path for programs.
pub(super) fn placed_value(path: &RelPath, entry: &Entry) -> Value {
    let mut value = words::path_value(path);
    if let (Value::Object(value), Value::Object(entry)) = (&mut value, entry_value(entry)) {
        value.extend(entry);
    }
    value
}

/// With nanoseconds, in UTC.
fn precise(time: Timestamp) -> String {
    let nanoseconds = i32::try_from(time.nanoseconds).unwrap_or(0);
    // A file may have any time; what no calendar has is shown as it is.
    jiff::Timestamp::new(time.seconds, nanoseconds)
        .map_or_else(|_| time.seconds.to_string(), |time| time.to_string())
}
