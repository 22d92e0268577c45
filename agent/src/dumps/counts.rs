//! `counts.json`: how many rows each table of a dump has, beside its files. The same rows make the same bytes.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use understudy_protocol::Name;
use understudy_tree::durable::{self, Durability};
use understudy_tree::{Directory, TreeError};

const FILE: &str = "counts.json";
const FORMAT: u32 = 1;
/// Far more than the names of all tables take.
const LIMIT_BYTES: u64 = 64 << 20;

#[derive(Serialize, Deserialize)]
struct Counts {
    format: u32,
    rows: BTreeMap<String, u64>,
}

/// Writes it into the directory of a dump.
pub(crate) fn write(dump: &Directory, rows: &BTreeMap<String, u64>) -> Result<(), TreeError> {
    let counts = Counts {
        format: FORMAT,
        rows: rows.clone(),
    };
    let failed = |error: serde_json::Error| {
        TreeError::new("write", FILE.as_bytes(), std::io::Error::from(error))
    };
    let mut bytes = serde_json::to_vec_pretty(&counts).map_err(failed)?;
    bytes.push(b'\n');
    durable::replace(dump, &name()?, &bytes, Durability::Later)
}

/// Rows of each table when the dump was taken; `None` if that was not noted, or is not understood.
pub fn rows_of(dump: &Directory) -> Result<Option<BTreeMap<String, u64>>, TreeError> {
    let content = durable::read(dump, &name()?, LIMIT_BYTES)?;
    let counts = content.and_then(|content| serde_json::from_slice::<Counts>(&content).ok());
    Ok(counts
        .filter(|counts| counts.format == FORMAT)
        .map(|counts| counts.rows))
}

fn name() -> Result<Name, TreeError> {
    Name::new(FILE)
        .map_err(|error| TreeError::new("name", FILE.as_bytes(), std::io::Error::other(error)))
}
