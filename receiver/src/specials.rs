//! What gives rights (set-user-id and set-group-id bits of files, file capabilities) and device nodes: made in the live
//! tree, or only recorded, as the spare's configuration says for each dataset. The catalog has them in any case, and
//! so has a restore.
//!
//! What the twins of a dataset were made like stands in its file `specials`; without one everything is made. Who opens the
//! dataset goes by that file. When the configuration says something else, the receiver changes both twins before it serves.

use std::collections::{BTreeMap, HashMap, HashSet};

use rustix::fs::StatVfsMountFlags;
use understudy_protocol::{DatasetName, DirectoryId, Name, Node, Place};
use understudy_tree::attributes::{is_special, set_attributes};
use understudy_tree::durable::{self, Durability};
use understudy_tree::{Directory, Specials, node};

use crate::catalog::{Catalog, Row};
use crate::cycle;
use crate::dataset::{Dataset, Locked};
use crate::error::ReceiverError;
use crate::housekeeping::Stop;
use crate::names;
use crate::recover;
use crate::resolve::Handles;
use crate::store::Store;

const LIMIT_BYTES: u64 = 4096;
/// In the file as long as the twins are being changed.
const CHANGING: &str = "changing";

/// What becomes of specials, by dataset.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rules {
    /// In datasets that have no rule of their own.
    pub common: Specials,
    /// In the others.
    pub datasets: BTreeMap<DatasetName, Specials>,
}

impl Rules {
    /// What becomes of them in one dataset.
    pub fn of(&self, dataset: &DatasetName) -> Specials {
        self.datasets.get(dataset).copied().unwrap_or(self.common)
    }
}

/// What the twins of a dataset are like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Standing {
    specials: Specials,
    is_changing: bool,
}

fn word(specials: Specials) -> &'static str {
    match specials {
        Specials::Materialise => "materialise",
        Specials::Record => "record",
    }
}

/// What the mount of a store takes from files that give rights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mounted {
    /// Set-user-id bits count for nothing.
    pub nosuid: bool,
    /// Device nodes open nothing.
    pub nodev: bool,
}

/// How the file system of a store is mounted; the worst where that cannot be found out.
pub fn mounted(store: &Store) -> Mounted {
    let stat = rustix::fs::fstatvfs(store.directory());
    let flags = stat.map_or(StatVfsMountFlags::empty(), |stat| stat.f_flag);
    Mounted {
        nosuid: flags.contains(StatVfsMountFlags::NOSUID),
        nodev: flags.contains(StatVfsMountFlags::NODEV),
    }
}

/// Whether a dataset of a store has set-user-id bits and devices as its main has them. One that is in trouble counts as one that has.
pub fn is_any_materialised(store: &Store) -> Result<bool, ReceiverError> {
    let names = store.dataset_names()?;
    Ok(names.iter().any(|name| match store.dataset(name) {
        Ok(Some(dataset)) => !matches!(of(&dataset.control), Ok(Specials::Record)),
        Ok(None) => false,
        Err(_) => true,
    }))
}

/// What the twins of the dataset with this control directory are to be made like.
pub(crate) fn of(control: &Directory) -> Result<Specials, ReceiverError> {
    Ok(standing(control)?.specials)
}

fn standing(control: &Directory) -> Result<Standing, ReceiverError> {
    let Some(content) = durable::read(control, &names::SPECIALS, LIMIT_BYTES)? else {
        return Ok(Standing {
            specials: Specials::Materialise,
            is_changing: false,
        });
    };
    let text = String::from_utf8_lossy(&content);
    let mut words = text.split_whitespace();
    let specials = match words.next() {
        Some("materialise") => Specials::Materialise,
        Some("record") => Specials::Record,
        _ => {
            let text = "its file `specials` is unreadable; remove it, and start the receiver again";
            return Err(ReceiverError::Damaged(text.to_owned()));
        }
    };
    Ok(Standing {
        specials,
        is_changing: words.next() == Some(CHANGING),
    })
}

/// Says what the twins are like; durable when it returns.
pub(crate) fn note(control: &Directory, specials: Specials) -> Result<(), ReceiverError> {
    write(control, &format!("{}\n", word(specials)))
}

fn write(control: &Directory, text: &str) -> Result<(), ReceiverError> {
    let durability = Durability::Now;
    Ok(durable::replace(
        control,
        &names::SPECIALS,
        text.as_bytes(),
        durability,
    )?)
}

/// Changes the twins of each dataset that is not what these rules say. Trouble in one is its own.
pub(crate) fn apply(store: &Store, rules: &Rules) -> Result<(), ReceiverError> {
    recommend(store, rules);
    for name in store.dataset_names()? {
        let wanted = rules.of(&name);
        let changed = store.dataset(&name).and_then(|dataset| match dataset {
            Some(dataset) => change(dataset, wanted),
            None => Ok(()),
        });
        if let Err(error) = changed {
            tracing::error!(dataset = %name, "specials are not treated as the configuration says (`{}`); it is tried again at the next start: {error}", word(wanted));
        }
    }
    Ok(())
}

/// Recommends a mount that makes what gives rights worthless for whoever gets at the store, where there is none.
fn recommend(store: &Store, rules: &Rules) {
    let Mounted { nosuid, nodev } = mounted(store);
    let is_harmless = nosuid && nodev;
    let mut all = rules.datasets.values().chain([&rules.common]);
    if !is_harmless && all.any(|&specials| specials == Specials::Materialise) {
        tracing::info!(
            "`{}` has set-user-id bits and devices as the mains have them: mount its file system with `nosuid,nodev`, or write `specials = \"record\"` to the configuration",
            store.path().display()
        );
    }
}

fn change(mut dataset: Dataset, wanted: Specials) -> Result<(), ReceiverError> {
    let standing = standing(&dataset.control)?;
    if standing.specials == wanted && !standing.is_changing {
        return Ok(());
    }
    if !dataset.is_spare()? {
        tracing::info!(dataset = %dataset.name, "specials are not treated as the configuration says (`{}`): an application writes into the live tree; it is done once this host is the spare again", word(wanted));
        return Ok(());
    }
    let locked = dataset.lock()?;
    let catalog = dataset.catalog(&locked)?;
    if recover::recover(&dataset, &catalog, &locked)?.is_some() {
        let text = "a cycle of it is held; release or reject it first";
        return Err(ReceiverError::Damaged(text.to_owned()));
    }
    // What is staged or left over has been made as it was wanted before.
    crate::leftovers::drop_all(&dataset, &locked)?;
    let changed = turn(&mut dataset, &catalog, &locked, wanted)?;
    tracing::info!(dataset = %dataset.name, changed, "specials are treated like this now: {}", word(wanted));
    Ok(())
}

/// Makes in both twins of a dataset that was recovered what was only recorded; how many there are of it. An application is to use it.
pub(crate) fn materialise(
    dataset: &mut Dataset,
    catalog: &Catalog,
    locked: &Locked,
) -> Result<u64, ReceiverError> {
    let standing = standing(&dataset.control)?;
    if standing.specials == Specials::Materialise && !standing.is_changing {
        return Ok(0);
    }
    turn(dataset, catalog, locked, Specials::Materialise)
}

fn turn(
    dataset: &mut Dataset,
    catalog: &Catalog,
    locked: &Locked,
    wanted: Specials,
) -> Result<u64, ReceiverError> {
    cycle::catch_up(dataset, catalog, locked, &Stop::default())?;
    write(&dataset.control, &format!("{} {CHANGING}\n", word(wanted)))?;
    dataset.privileges = understudy_tree::Privileges::current().with(wanted);
    let changed = match (dataset.live()?, catalog.head()?) {
        (Some(live), Some(head)) => {
            let at = head.snapshot.position.number;
            let twins = Twins {
                dataset,
                catalog,
                at,
            };
            twins.change(&live, &dataset.shadow()?)?
        }
        _ => 0,
    };
    dataset.sync()?;
    note(&dataset.control, wanted)?;
    Ok(changed)
}

/// Both twins, each of which shows the newest snapshot.
struct Twins<'a> {
    dataset: &'a Dataset,
    catalog: &'a Catalog,
    at: u64,
}

impl Twins<'_> {
    fn change(&self, live: &Directory, shadow: &Directory) -> Result<u64, ReceiverError> {
        let mut lives = Handles::new(live, self.catalog, self.at);
        let mut shadows = Handles::new(shadow, self.catalog, self.at);
        let mut touched = HashSet::new();
        let mut groups: HashMap<u64, Place> = HashMap::new();
        let mut changed = 0;
        self.catalog.rows_at(self.at, |row| {
            if !is_special(&row.entry) {
                return Ok(());
            }
            changed += 1;
            let is_device = matches!(
                row.entry.node,
                Node::CharacterDevice { .. } | Node::BlockDevice { .. }
            );
            if !is_device {
                self.set(&mut lives, &row)?;
                return self.set(&mut shadows, &row);
            }
            touched.insert(row.place.parent);
            self.make_or_remove(&mut lives, &mut shadows, &row, &mut groups)
        })?;
        for id in touched {
            if id != DirectoryId::TOP
                && let Some(row) = self.catalog.directory_row(id, self.at)?
            {
                // Its time is another one now.
                self.set(&mut lives, &row)?;
                self.set(&mut shadows, &row)?;
            }
        }
        Ok(changed)
    }

    /// Gives what stands there, if anything does, its attributes.
    fn set(&self, handles: &mut Handles<'_>, row: &Row) -> Result<(), ReceiverError> {
        let directory = handles.get(row.place.parent)?;
        let name = &row.place.name;
        if directory.stat_if_present(name)?.is_some() {
            set_attributes(directory, name, &row.entry, &self.dataset.privileges)?;
        }
        Ok(())
    }

    fn make_or_remove(
        &self,
        lives: &mut Handles<'_>,
        shadows: &mut Handles<'_>,
        row: &Row,
        groups: &mut HashMap<u64, Place>,
    ) -> Result<(), ReceiverError> {
        let privileges = &self.dataset.privileges;
        let name = &row.place.name;
        if !node::can_exist(&row.entry, privileges) {
            remove(lives.get(row.place.parent)?, name)?;
            return remove(shadows.get(row.place.parent)?, name);
        }
        let first = groups.get(&row.entry.group).cloned();
        let live = lives.get(row.place.parent)?;
        if live.stat_if_present(name)?.is_none() {
            match first {
                Some(first) => {
                    let live = live.try_clone()?;
                    lives.get(first.parent)?.link(&first.name, &live, name)?;
                }
                None => {
                    node::create_special(live, name, &row.entry, privileges)?;
                }
            }
        }
        if row.entry.group != 0 {
            groups
                .entry(row.entry.group)
                .or_insert_with(|| row.place.clone());
        }
        let shadow = shadows.get(row.place.parent)?;
        remove(shadow, name)?;
        let live = lives.get(row.place.parent)?;
        Ok(live.link(name, shadow, name)?)
    }
}

fn remove(directory: &Directory, name: &Name) -> Result<(), ReceiverError> {
    match directory.remove_file(name) {
        Err(error) if !error.is_gone() => Err(error.into()),
        _ => Ok(()),
    }
}
