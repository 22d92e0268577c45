//! What stands at a name of a twin against the entry that should stand there. Reads no content.

use understudy_tree::{Directory, Kind, Privileges, Stat, TreeError};

use crate::catalog::Row;
use crate::comparison::{another, deviation, lasts};

/// What is different in kind, size, target or metadata, if anything.
pub(crate) fn differs(
    privileges: &Privileges,
    directory: &Directory,
    row: &Row,
    stat: &Stat,
) -> Result<Option<String>, TreeError> {
    let deviation = deviation((directory, &row.place.name), &row.entry, stat, privileges)?;
    Ok(deviation.map(|deviation| deviation.text(&row.entry)))
}

/// Why what stands there is not what should, whatever its attributes are.
pub(crate) fn is_another(
    directory: &Directory,
    row: &Row,
    stat: &Stat,
) -> Result<Option<String>, TreeError> {
    let another = another((directory, &row.place.name), &row.entry, stat)?;
    Ok(another.map(|another| another.text(&row.entry)))
}

/// Whether somebody has written to a file since it was made what its row says. A disk that fails changes neither size nor time.
pub(crate) fn is_written(row: &Row, stat: &Stat) -> bool {
    stat.kind != Kind::File
        || row
            .entry
            .content()
            .is_none_or(|(size, _)| size != stat.size)
        || lasts(row.entry.attributes.modified) && row.entry.attributes.modified != stat.modified
}
