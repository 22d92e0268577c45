//! Whether what stands in a twin is what rows say, all names of a hard-link group included.

use std::collections::HashMap;

use understudy_protocol::Place;
use understudy_tree::{Directory, Identity, node};

use super::{Repairer, is_sound};
use crate::catalog::Row;
use crate::error::ReceiverError;
use crate::resolve::Handles;
use crate::standing::is_another;

/// The rows of each hard-link group, once they are needed.
pub(super) type Groups = HashMap<u64, Vec<u64>>;

impl Repairer<'_> {
    /// Whether something else than a row says stands at its place, or nothing.
    pub(super) fn is_misplaced(
        &self,
        twin: &Directory,
        row: &Row,
        groups: &mut Option<Groups>,
    ) -> Result<bool, ReceiverError> {
        let mut handles = self.handles(twin);
        let directory = match handles.get(row.place.parent) {
            Err(ReceiverError::Tree(error)) if error.is_gone() => return Ok(true),
            directory => directory?,
        };
        let Some(stat) = directory.stat_if_present(&row.place.name)? else {
            return Ok(node::can_exist(&row.entry, &self.dataset.privileges));
        };
        Ok(is_another(directory, row, &stat)?.is_some() || self.is_apart(twin, row, groups)?)
    }

    /// Whether a name of a hard-link group is another file than the first of them that is there.
    fn is_apart(
        &self,
        twin: &Directory,
        row: &Row,
        groups: &mut Option<Groups>,
    ) -> Result<bool, ReceiverError> {
        if row.entry.group == 0 {
            return Ok(false);
        }
        let mut handles = self.handles(twin);
        let mut first = None;
        for one in self.group_of(row, groups)? {
            let found = identity(&mut handles, &one.place)?;
            first = first.or(found);
            if one.id == row.id {
                return Ok(found != first);
            }
        }
        Ok(false)
    }

    /// All names of a row's hard-link group, in the order of their places.
    pub(super) fn group_of(
        &self,
        row: &Row,
        groups: &mut Option<Groups>,
    ) -> Result<Vec<Row>, ReceiverError> {
        let catalog = &self.library.catalog;
        if groups.is_none() {
            let mut all = Groups::new();
            catalog.rows_at(self.at, |row| {
                if row.entry.group != 0 {
                    all.entry(row.entry.group).or_default().push(row.id);
                }
                Ok(())
            })?;
            *groups = Some(all);
        }
        let ids = groups
            .as_ref()
            .and_then(|groups| groups.get(&row.entry.group));
        let mut rows = Vec::new();
        for id in ids.into_iter().flatten() {
            rows.extend(catalog.row_by_id(*id)?);
        }
        rows.sort_by(|one, other| one.place.cmp(&other.place));
        Ok(rows)
    }
}

/// Whether a twin has there what a row says; a content is read for it.
pub(super) fn stands(directory: &Directory, row: &Row) -> bool {
    let name = &row.place.name;
    if row.entry.content().is_some() {
        return is_sound(directory, name, row);
    }
    matches!(directory.stat_if_present(name), Ok(Some(stat))
        if is_another(directory, row, &stat).is_ok_and(|another| another.is_none()))
}

pub(super) fn identity(
    handles: &mut Handles<'_>,
    place: &Place,
) -> Result<Option<Identity>, ReceiverError> {
    let stat = handles
        .get(place.parent)
        .and_then(|directory| Ok(directory.stat_if_present(&place.name)?));
    match stat {
        Err(ReceiverError::Tree(error)) if error.is_gone() => Ok(None),
        stat => Ok(stat?.map(|stat| stat.identity)),
    }
}
