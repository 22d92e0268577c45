//! Contents of history that no snapshot needs: which ones, and in which order they go.
//!
//! A content is needed if a row of a needed snapshot has it, or if a patch leads from it to a content that is needed. Also
//! where that content is whole somewhere: one that comes back into the live tree and leaves it again is not kept a second time.
//! For the same reason a patch goes before what it is applied to: a patch that leads nowhere must never be there.

use std::collections::{HashMap, HashSet};

use understudy_protocol::{ContentHash, Position};

use super::{Freed, Obstacle, ObstacleKind};
use crate::catalog::{Catalog, Needed, Recorded};
use crate::dataset::Dataset;
use crate::error::ReceiverError;
use crate::history::{Form, Objects};
use crate::patch::Patch;

/// An object that nothing needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Garbage {
    pub(super) hash: ContentHash,
    pub(super) form: Form,
    /// What is gained by removing it.
    pub(super) freed: Freed,
}

/// Objects that nothing needs, in the order in which they go. It holds as long as no snapshot is committed, or becomes pending:
/// only that adds rows or patches that lead to anything but the newest snapshots.
#[derive(Debug)]
pub(super) struct Sweep {
    pub(super) newest: Newest,
    pub(super) garbage: Vec<Garbage>,
}

/// The newest snapshot, and the one that is to be the next one: a held cycle stays pending for long.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Newest {
    head: Option<Position>,
    pending: Option<Position>,
}

impl Newest {
    pub(super) fn read(catalog: &Catalog) -> Result<Self, ReceiverError> {
        let position = |recorded: Recorded| recorded.snapshot.position;
        Ok(Self {
            head: catalog.head()?.map(position),
            pending: catalog.pending()?.map(position),
        })
    }
}

/// One content in history: the forms it has, and what its patch is applied to.
#[derive(Debug, Default)]
struct Object {
    forms: Vec<(Form, Freed)>,
    base: Option<ContentHash>,
    has_lost_base: bool,
}

/// Finds them. Contents that somebody needs and cannot be traced are an obstacle: nothing is proved then.
pub(super) fn plan(
    dataset: &Dataset,
    catalog: &Catalog,
    needed: &Needed,
) -> Result<Result<Sweep, Obstacle>, ReceiverError> {
    let newest = Newest::read(catalog)?;
    let objects = read(dataset)?;
    let mut pending = Vec::new();
    for &hash in objects.keys() {
        if catalog.needs_content(hash, needed)? {
            pending.push(hash);
        }
    }
    let mut wanted = HashSet::new();
    while let Some(hash) = pending.pop() {
        if !wanted.insert(hash) {
            continue;
        }
        let Some(object) = objects.get(&hash) else {
            continue;
        };
        if object.has_lost_base {
            let reason = format!(
                "the patch that leads to the content {hash} is damaged: `understudy verify` tells more"
            );
            return Ok(Err(Obstacle::new(ObstacleKind::Findings, reason)));
        }
        pending.extend(object.base);
    }
    let unwanted = objects
        .into_iter()
        .filter(|(hash, _)| !wanted.contains(hash));
    Ok(Ok(Sweep {
        newest,
        garbage: in_order(&unwanted.collect()),
    }))
}

/// Everything that is in history.
fn read(dataset: &Dataset) -> Result<HashMap<ContentHash, Object>, ReceiverError> {
    let mut objects: HashMap<ContentHash, Object> = HashMap::new();
    Objects::open(&dataset.control)?.each(|promised, shelf, name| {
        // What is no object is reported by a verification, and left alone.
        let Some((hash, form)) = promised else {
            return Ok(());
        };
        let Some(stat) = shelf.stat_if_present(name)? else {
            return Ok(());
        };
        let object = objects.entry(hash).or_default();
        // Further names of the file keep its space.
        let allocated = if stat.links == 1 { stat.allocated } else { 0 };
        let freed = Freed {
            objects: 1,
            bytes: stat.size,
            allocated_bytes: allocated,
        };
        object.forms.push((form, freed));
        if form == Form::Patch {
            object.base = Patch::base_in(&shelf.open_file(name)?)?;
            object.has_lost_base = object.base.is_none();
        }
        Ok(())
    })?;
    Ok(objects)
}

/// Each before what its patch is applied to. Patches in a circle, which nobody makes, are left alone.
fn in_order(unwanted: &HashMap<ContentHash, Object>) -> Vec<Garbage> {
    let mut leading: HashMap<ContentHash, usize> = HashMap::new();
    for base in unwanted.values().filter_map(|object| object.base) {
        *leading.entry(base).or_default() += 1;
    }
    let mut free: Vec<ContentHash> = unwanted
        .keys()
        .filter(|hash| !leading.contains_key(hash))
        .copied()
        .collect();
    let mut garbage = Vec::new();
    while let Some(hash) = free.pop() {
        let Some(object) = unwanted.get(&hash) else {
            continue;
        };
        let forms = object.forms.iter();
        garbage.extend(forms.map(|&(form, freed)| Garbage { hash, form, freed }));
        if let Some(base) = object.base
            && let Some(count) = leading.get_mut(&base)
        {
            *count -= 1;
            if *count == 0 {
                free.push(base);
            }
        }
    }
    garbage
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(text: &str) -> ContentHash {
        ContentHash::of(text.as_bytes())
    }

    fn object(form: Form, base: Option<&str>) -> Object {
        Object {
            forms: vec![(form, Freed::default())],
            base: base.map(hash),
            has_lost_base: false,
        }
    }

    #[test]
    fn a_patch_goes_before_what_it_is_applied_to_and_a_circle_stays() {
        let unwanted = HashMap::from([
            (hash("whole"), object(Form::Whole, None)),
            (hash("b"), object(Form::Patch, Some("whole"))),
            (hash("a"), object(Form::Patch, Some("b"))),
            (hash("other"), object(Form::Patch, Some("b"))),
            (
                hash("of what is needed"),
                object(Form::Patch, Some("needed")),
            ),
            (hash("x"), object(Form::Patch, Some("y"))),
            (hash("y"), object(Form::Patch, Some("x"))),
        ]);
        let order: Vec<ContentHash> = in_order(&unwanted).iter().map(|one| one.hash).collect();
        let at = |text| order.iter().position(|found| *found == hash(text));
        assert_eq!(order.len(), 5);
        assert!(at("a") < at("b") && at("other") < at("b") && at("b") < at("whole"));
        assert!(at("x").is_none() && at("of what is needed").is_some());
    }
}
