//! `contents.json`: the files of a dump in their order, and which is which.

#![expect(
    clippy::disallowed_methods,
    reason = "owns writing into the directory of a dump"
)]

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::DatabaseError;
use crate::names::{escape, file_name};

const CONTENTS: &str = "contents.json";
const FORMAT: u32 = 1;

/// What a part of a dump is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Kind {
    /// Settings of the session.
    Head,
    Sequences,
    Table,
    Triggers,
    /// A stand-in for a view, so that other views can be made.
    ViewStandIn,
    View,
    Events,
    Routines,
    /// Settings put back, and the proof that it is whole.
    Tail,
}

/// One file of a dump.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Part {
    pub(super) file: String,
    pub(super) kind: Kind,
    /// The table or view.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(super) name: String,
}

/// What is in a dump: its parts, one after another, are byte for byte what the client printed.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Contents {
    format: u32,
    /// Its name, which the engine writes into what it says of defaults and views.
    pub(super) database: String,
    /// Of the database itself.
    pub(super) character_set: String,
    pub(super) collation: String,
    pub(super) parts: Vec<Part>,
}

impl Contents {
    pub(super) fn new(
        database: String,
        character_set: String,
        collation: String,
        parts: Vec<Part>,
    ) -> Self {
        Self {
            format: FORMAT,
            database,
            character_set,
            collation,
            parts,
        }
    }

    pub(super) fn write(&self, into: &Path) -> Result<(), DatabaseError> {
        let path = into.join(CONTENTS);
        let bytes = serde_json::to_vec_pretty(self)
            .map_err(|error| DatabaseError::file("write", &path, error))?;
        std::fs::write(&path, bytes).map_err(|error| DatabaseError::file("write", &path, error))
    }

    /// Refuses names that lead out of the directory.
    pub(super) fn read(from: &Path) -> Result<Self, DatabaseError> {
        let path = from.join(CONTENTS);
        let bytes =
            std::fs::read(&path).map_err(|error| DatabaseError::file("read", &path, error))?;
        let contents: Self = serde_json::from_slice(&bytes)
            .map_err(|error| DatabaseError::file("understand", &path, error))?;
        let is_plain = |part: &Part| !part.file.contains('/') && !part.file.starts_with('.');
        match contents.format == FORMAT && contents.parts.iter().all(is_plain) {
            true => Ok(contents),
            false => Err(DatabaseError::Incomplete(format!(
                "`{}` is of another format, or names a file that is not beside it: the dump is of a newer version, or damaged",
                path.display()
            ))),
        }
    }
}

/// The file of a part.
pub(super) fn file(kind: Kind, name: &str) -> String {
    let prefix = match kind {
        Kind::Head => return "head.sql".to_owned(),
        Kind::Sequences => return "sequences.sql".to_owned(),
        Kind::Tail => return "tail.sql".to_owned(),
        Kind::Events => return "events.sql".to_owned(),
        Kind::Routines => return "routines.sql".to_owned(),
        Kind::Table => "table",
        Kind::Triggers => "triggers",
        Kind::ViewStandIn => "stand-in",
        Kind::View => "view",
    };
    file_name(&format!("{prefix}.{}", escape(name.as_bytes())), ".sql")
}
