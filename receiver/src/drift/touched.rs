//! Whether a directory of the live tree that somebody has touched holds something else now: what adds, removes or replaces a name cannot hide
//! that from the kernel. It costs a stat of each directory, however many files they hold, and a look at what is in those that were touched.

use std::collections::HashMap;

use understudy_protocol::{DirectoryId, Name, RelPath};

use super::look::{Looking, Verdict};
use crate::catalog::{Catalog, Recorded};
use crate::comparison;
use crate::dataset::Dataset;
use crate::error::ReceiverError;

/// Looks at all directories of the newest snapshot that were touched since it was seen to be live, up to the first that is not as it was; `None`
/// if nobody knows since when.
pub(super) fn look(
    dataset: &Dataset,
    catalog: &Catalog,
    head: &Recorded,
) -> Result<Option<Verdict>, ReceiverError> {
    let grounds = super::grounds(dataset, head)?;
    let (Some(live), Some(sound_until)) = (dataset.live()?, grounds.sound_until) else {
        return Ok(None);
    };
    let (twin, at) = (dataset.shadow()?, head.snapshot.position.number);
    let mut looking = Looking::new(dataset, (&live, &twin), (catalog, at), grounds);
    let mut below: HashMap<DirectoryId, Vec<(Name, DirectoryId)>> = HashMap::new();
    for directory in catalog.directories_at(at)? {
        let inside = below.entry(directory.place.parent).or_default();
        inside.push((directory.place.name, directory.id));
    }
    // What is beside the roots is understudy's own. As many are open as they are deep.
    let mut inside = |id: DirectoryId| below.remove(&id).unwrap_or_default().into_iter();
    let mut open = vec![(live.try_clone()?, RelPath::root(), inside(DirectoryId::TOP))];
    while let Some((directory, path, names)) = open.last_mut() {
        let Some((name, id)) = names.next() else {
            open.pop();
            continue;
        };
        let opened = match directory.open_directory(&name) {
            Err(error) if error.is_gone() => return Ok(Some(Verdict::Drifted)),
            opened => opened?,
        };
        let path = path.join(&name);
        let stat = opened.stat_self()?;
        if stat.changed >= sound_until {
            let row = catalog.directory_row(id, at)?;
            let is_other = match row {
                Some(row) => {
                    let standing = (&*directory, &name);
                    comparison::deviation(standing, &row.entry, &stat, &dataset.privileges)?
                        .is_some()
                }
                None => true,
            };
            let within = looking.run(|walk, visit| walk.one(id, path.clone(), visit));
            if is_other || within? == Verdict::Drifted {
                return Ok(Some(Verdict::Drifted));
            }
        }
        // Each only once, whatever the catalog says.
        open.push((opened, path, inside(id)));
    }
    Ok(Some(Verdict::Same))
}
