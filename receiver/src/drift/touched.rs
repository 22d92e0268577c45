//! Whether anybody has touched a directory of the live tree since it was seen to be sound: what adds, removes or replaces a name cannot hide
//! that from the kernel. It costs a stat of each directory, however many files they hold.

use std::collections::HashMap;

use understudy_protocol::{DirectoryId, Name, Timestamp};

use crate::catalog::{Catalog, Recorded};
use crate::dataset::Dataset;
use crate::error::ReceiverError;

/// Looks at all directories of the newest snapshot, up to the first that was touched after that moment, or is not there.
pub(super) fn is_touched(
    dataset: &Dataset,
    catalog: &Catalog,
    head: &Recorded,
    sound_until: Timestamp,
) -> Result<bool, ReceiverError> {
    let Some(live) = dataset.live()? else {
        return Ok(false);
    };
    let mut below: HashMap<DirectoryId, Vec<(Name, DirectoryId)>> = HashMap::new();
    for directory in catalog.directories_at(head.snapshot.position.number)? {
        let inside = below.entry(directory.place.parent).or_default();
        inside.push((directory.place.name, directory.id));
    }
    // What is beside the roots is understudy's own. As many are open as they are deep.
    let mut inside = |id: DirectoryId| below.remove(&id).unwrap_or_default().into_iter();
    let mut open = vec![(live, inside(DirectoryId::TOP))];
    while let Some((directory, names)) = open.last_mut() {
        let Some((name, id)) = names.next() else {
            open.pop();
            continue;
        };
        let opened = match directory.open_directory(&name) {
            Err(error) if error.is_gone() => return Ok(true),
            opened => opened?,
        };
        if opened.stat_self()?.changed > sound_until {
            return Ok(true);
        }
        // Each only once, whatever the catalog says.
        open.push((opened, inside(id)));
    }
    Ok(false)
}
