//! Contents of history that no snapshot needs: which ones, and in which order they go.
//!
//! A content is needed if a row of a needed snapshot has it, or if a patch leads from it to a content that is needed. Also
//! where that content is whole somewhere: one that comes back into the live tree and leaves it again is not kept a second time.
//! For the same reason a patch goes before what it is applied to: a patch that leads nowhere must never be there.

use std::collections::{HashMap, HashSet};

use understudy_protocol::{ContentHash, Name, Position};
use understudy_tree::Directory;

use super::{Freed, Obstacle, ObstacleKind};
use crate::catalog::{Catalog, Needed, Recorded};
use crate::dataset::Dataset;
use crate::error::ReceiverError;
use crate::findings;
use crate::history::{Form, Objects};
use crate::patch::Patch;

/// An object that nothing needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Garbage {
    pub(super) hash: ContentHash,
    pub(super) form: Form,
    /// What a patch is applied to.
    pub(super) base: Option<ContentHash>,
    /// What is gained by removing it.
    pub(super) freed: Freed,
}

/// Objects that nothing needs, in the order in which they go. All of it holds as long as no snapshot is committed, or becomes
/// pending: only that adds rows or patches that lead to anything but the newest snapshots. After that a content may be back; what its
/// patch leads to is then needed as well.
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

/// What of a sweep is needed after all, once snapshots were committed since it was planned.
#[derive(Debug, Default)]
pub(super) struct Back(HashSet<ContentHash>);

impl Back {
    /// Whether an object is; those before it in the sweep must have been asked for.
    ///
    /// What a patch that was made since leads to has a row, for it is the content that took the place of another.
    pub(super) fn has(
        &mut self,
        catalog: &Catalog,
        needed: &Needed,
        garbage: &Garbage,
    ) -> Result<bool, ReceiverError> {
        let is_back =
            self.0.contains(&garbage.hash) || catalog.needs_content(garbage.hash, needed)?;
        if is_back {
            self.0.insert(garbage.hash);
            self.0.extend(garbage.base);
        }
        Ok(is_back)
    }
}

/// One content in history: the forms that might go, and what its patch is applied to.
#[derive(Debug, Default)]
struct Object {
    whole: Option<Freed>,
    compressed: Option<Freed>,
    patch: Option<Freed>,
    base: Option<ContentHash>,
}

/// History as far as something in it may go: contents that no row has, and all patches.
#[derive(Debug, Default)]
struct Found {
    objects: HashMap<ContentHash, Object>,
    /// Contents that a row has.
    needed: Vec<ContentHash>,
}

/// Finds them. Contents that somebody needs and cannot be traced are an obstacle: nothing is proved then.
pub(super) fn plan(
    dataset: &Dataset,
    catalog: &Catalog,
    needed: &Needed,
) -> Result<Result<Sweep, Obstacle>, ReceiverError> {
    let newest = Newest::read(catalog)?;
    let Found {
        objects,
        needed: mut pending,
    } = read(dataset, catalog, needed)?;
    // What is known to be lost may lead nowhere, and that stops nothing.
    let found = findings::read(&dataset.control)?;
    let lost = found.accepted().filter_map(|one| one.damage.content);
    let lost: HashSet<ContentHash> = lost.map(|(_, hash)| hash).collect();
    let (mut wanted, mut of_lost) = (HashSet::new(), Vec::new());
    while let Some(hash) = pending.pop() {
        if lost.contains(&hash) {
            of_lost.push(hash);
            continue;
        }
        if !wanted.insert(hash) {
            continue;
        }
        let Some(object) = objects.get(&hash) else {
            continue;
        };
        if object.patch.is_some() && object.base.is_none() {
            let reason = format!(
                "the patch that leads to the content {hash} is damaged: `understudy verify` tells more"
            );
            return Ok(Err(Obstacle::new(ObstacleKind::Findings, reason)));
        }
        pending.extend(object.base);
    }
    // What is there of the way to it stays, for it may be mended yet; what is not there is no obstacle.
    while let Some(hash) = of_lost.pop() {
        if wanted.insert(hash) {
            of_lost.extend(objects.get(&hash).and_then(|object| object.base));
        }
    }
    let unwanted = objects
        .into_iter()
        .filter(|(hash, _)| !wanted.contains(hash));
    Ok(Ok(Sweep {
        newest,
        garbage: in_order(&unwanted.collect()),
    }))
}

/// What is whole and needed is most of it, and is not remembered.
fn read(dataset: &Dataset, catalog: &Catalog, needed: &Needed) -> Result<Found, ReceiverError> {
    let mut found = Found::default();
    Objects::open(&dataset.control)?.each(|promised, shelf, name| {
        // What is no object is reported by a verification, and left alone.
        let Some((hash, form)) = promised else {
            return Ok(());
        };
        let is_needed = catalog.needs_content(hash, needed)?;
        if is_needed && form != Form::Patch {
            return Ok(());
        }
        let Some(stat) = shelf.stat_if_present(name)? else {
            return Ok(());
        };
        if is_needed {
            found.needed.push(hash);
        }
        let object = found.objects.entry(hash).or_default();
        let freed = Some(Freed {
            objects: 1,
            bytes: stat.size,
            // Further names of the file keep its space.
            allocated_bytes: if stat.links == 1 { stat.allocated } else { 0 },
        });
        match form {
            Form::Whole => object.whole = freed,
            Form::Compressed => object.compressed = freed,
            Form::Patch => {
                object.patch = freed;
                object.base = base_of(shelf, name)?;
            }
        }
        Ok(())
    })?;
    Ok(found)
}

/// What a patch is applied to; `None` if it is damaged, or was removed meanwhile.
fn base_of(shelf: &Directory, name: &Name) -> Result<Option<ContentHash>, ReceiverError> {
    match shelf.open_file(name) {
        Ok(file) => Patch::base_in(&file),
        Err(error) if error.is_gone() => Ok(None),
        Err(error) => Err(error.into()),
    }
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
        let forms = [
            (Form::Whole, object.whole),
            (Form::Compressed, object.compressed),
            (Form::Patch, object.patch),
        ];
        let forms = forms
            .into_iter()
            .filter_map(|(form, freed)| Some((form, freed?)));
        let base = object.base;
        garbage.extend(forms.map(|(form, freed)| Garbage {
            hash,
            form,
            base: base.filter(|_| form == Form::Patch),
            freed,
        }));
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
        let freed = |of| (form == of).then(Freed::default);
        Object {
            whole: freed(Form::Whole),
            compressed: freed(Form::Compressed),
            patch: freed(Form::Patch),
            base: base.map(hash),
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
