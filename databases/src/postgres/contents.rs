//! `contents.json`: which file of a dump is which, and the names of files.
//!
//! `pg_dump` names files by numbers that shift whenever a table is made or removed; here they are named by their table, and the numbers are
//! kept for the way back.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::DatabaseError;
use crate::postgres::facts::Properties;

pub(super) const CONTENTS: &str = "contents.json";
const FORMAT: u32 = 1;
/// A name that would be longer ends with a hash; 55 bytes below the limit of file systems, for whoever adds to it.
const NAME_BYTES: usize = 200;
const HASH_DIGITS: usize = 32;

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

/// Everything but letters, digits, `_` and `-` as `%` and two digits. A dot is escaped as well: it parts a schema from a name.
pub(super) fn escape(name: &[u8]) -> String {
    let mut escaped = String::with_capacity(name.len());
    for byte in name {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' => {
                escaped.push(char::from(*byte));
            }
            _ => escaped.push_str(&format!("%{byte:02X}")),
        }
    }
    escaped
}

/// A file's name for what is called `stem`: cut and told apart by a hash if it is too long.
pub(super) fn file_name(stem: &str, suffix: &str) -> String {
    if stem.len() + suffix.len() <= NAME_BYTES {
        return format!("{stem}{suffix}");
    }
    let hash = blake3::hash(stem.as_bytes()).to_hex();
    let kept = NAME_BYTES - suffix.len() - HASH_DIGITS - 1;
    let kept: String = stem.chars().take(kept).collect();
    format!("{kept}~{}{suffix}", &hash[..HASH_DIGITS])
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test")]
#[expect(clippy::disallowed_methods, reason = "a scratch directory of the test")]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_apart_whatever_they_are() {
        assert_eq!(escape(b"public"), "public");
        assert_eq!(
            escape("..w\u{e9}ird/%".as_bytes()),
            "%2E%2Ew%C3%A9ird%2F%25"
        );
        assert_eq!(escape(b"\xff\n"), "%FF%0A");
        assert_eq!(file_name("public.t", ".dat"), "public.t.dat");
        let long = |last: char| file_name(&format!("{}{last}", "%D0%B6".repeat(60)), ".dat");
        assert_eq!(long('a').len(), 200);
        assert_ne!(long('a'), long('b'));
        assert!(long('a').ends_with(".dat"));
    }

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
