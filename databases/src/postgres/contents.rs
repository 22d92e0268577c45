//! `contents.json`: which file of a dump is which.
//!
//! `pg_dump` names files by numbers that shift whenever a table is made or removed; here they are named by their table, and the numbers are
//! kept for the way back.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::DatabaseError;
use crate::postgres::facts::Properties;

pub(super) const CONTENTS: &str = "contents.json";
const FORMAT: u32 = 1;

/// What is in a dump.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Contents {
    format: u32,
    /// The major of the programs that wrote it.
    pub(super) client: u32,
    pub(super) properties: Properties,
    /// In order of their names.
    pub(super) files: Vec<File>,
}

/// A file of the directory that `pg_dump` has written.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    /// Its name in the dump.
    pub(super) name: String,
    /// Its name in the directory of `pg_dump`.
    pub(super) archive: String,
    /// The table that it has the rows of, as [`crate::Dump::rows`] has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) table: Option<String>,
}

impl Contents {
    pub(super) fn new(client: u32, properties: Properties, mut files: Vec<File>) -> Self {
        files.sort();
        Self {
            format: FORMAT,
            client,
            properties,
            files,
        }
    }

    pub(super) fn to_bytes(&self) -> Result<Vec<u8>, DatabaseError> {
        let json = serde_json::to_vec_pretty(self);
        let mut bytes = json.map_err(|error| DatabaseError::file("write", CONTENTS, error))?;
        bytes.push(b'\n');
        Ok(bytes)
    }

    /// Names come from elsewhere: none leads out of its directory.
    pub(super) fn read(from: &Path) -> Result<Self, DatabaseError> {
        let path = from.join(CONTENTS);
        let json =
            std::fs::read(&path).map_err(|error| DatabaseError::file("read", &path, error))?;
        let wrong = |why: String| {
            DatabaseError::Incomplete(format!(
                "`{}` is not what a dump of PostgreSQL has: {why}. Take another snapshot",
                path.display()
            ))
        };
        let contents: Self =
            serde_json::from_slice(&json).map_err(|error| wrong(error.to_string()))?;
        if contents.format != FORMAT {
            return Err(wrong(format!(
                "its format is {}, not {FORMAT}",
                contents.format
            )));
        }
        for name in contents
            .files
            .iter()
            .flat_map(|file| [&file.name, &file.archive])
        {
            if name.is_empty() || name.starts_with('.') || name.contains(['/', '\0']) {
                return Err(wrong(format!("{name:?} is no name of a file")));
            }
        }
        Ok(contents)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test")]
#[expect(clippy::disallowed_methods, reason = "a scratch directory of the test")]
mod tests {
    use super::*;

    #[test]
    fn contents_that_lead_out_of_their_directory_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let properties = r#"{"encoding":"UTF8","collate":"C","ctype":"C","provider":"c","locale":null,"owner":"o","grants":null,"settings":[]}"#;
        let read = |name: &str, format: u32| {
            let json = format!(
                r#"{{"format":{format},"client":15,"properties":{properties},"files":[{{"name":"a","archive":{name:?}}}]}}"#
            );
            std::fs::write(directory.path().join(CONTENTS), json).unwrap();
            Contents::read(directory.path())
        };
        assert_eq!(read("3366.dat", 1).unwrap().files[0].archive, "3366.dat");
        for name in ["../x", "/etc/passwd", "", "..", ".hidden"] {
            assert!(read(name, 1).is_err(), "{name}");
        }
        assert!(read("3366.dat", 2).is_err());
    }
}
