//! What `pg_restore --list` says is in an archive. Names are ambiguous there, so only numbers are used.

use std::collections::{BTreeMap, BTreeSet};

/// The catalogue of tables and their kin, as a number that is the same in every server.
const CATALOGUE_OF_TABLES: u32 = 1259;

/// What an archive has.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Listing {
    /// As it is printed, with the time zone of this host.
    pub(super) created: String,
    /// Tables, views and sequences, by the numbers that the server has for them.
    pub(super) relations: BTreeSet<u32>,
    /// The table whose rows are in the file of this number.
    pub(super) rows: BTreeMap<u32, u32>,
}

pub(super) fn parse(printed: &[u8]) -> Listing {
    let mut listing = Listing::default();
    for line in String::from_utf8_lossy(printed).lines() {
        if let Some(created) = line.strip_prefix("; Archive created at ") {
            listing.created = created.to_owned();
        } else if let Some((entry, catalogue, oid, what)) = entry(line) {
            if catalogue == CATALOGUE_OF_TABLES {
                listing.relations.insert(oid);
            } else if catalogue == 0 && oid != 0 && what.starts_with("TABLE DATA ") {
                listing.rows.insert(entry, oid);
            }
        }
    }
    listing
}

/// Of `3366; 0 16386 TABLE DATA public t postgres`.
fn entry(line: &str) -> Option<(u32, u32, u32, &str)> {
    let (number, rest) = line.split_once("; ")?;
    let (catalogue, rest) = rest.split_once(' ')?;
    let (oid, what) = rest.split_once(' ')?;
    Some((
        number.parse().ok()?,
        catalogue.parse().ok()?,
        oid.parse().ok()?,
        what,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_and_their_rows_are_found_by_number() {
        let listing = parse(
            b";\n; Archive created at 2026-11-27 15:21:02 UTC\n;     dbname: a\n;\n\
              216; 1259 16386 TABLE public t postgres\n\
              217; 1259 16395 TABLE DATA DATA x postgres\n\
              3218; 0 0 TABLE ATTACH public part1 postgres\n\
              3371; 2613 16398 BLOB - 16398 postgres\n\
              3366; 0 16386 TABLE DATA public t postgres\n\
              3369; 0 16406 MATERIALIZED VIEW DATA public mv postgres\n\
              3373; 0 0 BLOBS - BLOBS \n",
        );
        assert_eq!(listing.created, "2026-11-27 15:21:02 UTC");
        assert_eq!(listing.relations, BTreeSet::from([16386, 16395]));
        assert_eq!(listing.rows, BTreeMap::from([(3366, 16386)]));
    }
}
