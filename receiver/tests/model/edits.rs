//! The model: what a tree holds, and random changes of it.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

/// What stands at a place in the model.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Thing {
    Directory { id: u64, mode: u16 },
    File { content: Vec<u8>, mode: u16 },
    Link { target: Vec<u8> },
}

pub(super) type Model = BTreeMap<(u64, Vec<u8>), Thing>;

pub(super) fn root_model() -> Model {
    BTreeMap::from([(
        (0, b"files".to_vec()),
        Thing::Directory { id: 1, mode: 0o755 },
    )])
}

#[derive(Debug, Clone)]
pub(super) enum Edit {
    AddFile {
        directory: usize,
        name: u8,
        content: u8,
    },
    AddLink {
        directory: usize,
        name: u8,
        target: u8,
    },
    AddDirectory {
        directory: usize,
        name: u8,
    },
    Rewrite {
        which: usize,
        content: u8,
    },
    /// Takes a content that some file had in some snapshot.
    RollBack {
        which: usize,
        content: usize,
    },
    Chmod {
        which: usize,
        mode: u8,
    },
    Remove {
        which: usize,
    },
    Move {
        which: usize,
        directory: usize,
        name: u8,
    },
    Swap {
        left: usize,
        right: usize,
    },
}

pub(super) fn edit() -> impl Strategy<Value = Edit> {
    let (index, small) = (0..1000usize, 0..6u8);
    prop_oneof![
        (index.clone(), small.clone(), any::<u8>()).prop_map(|(directory, name, content)| {
            Edit::AddFile {
                directory,
                name,
                content,
            }
        }),
        (index.clone(), small.clone(), any::<u8>()).prop_map(|(directory, name, target)| {
            Edit::AddLink {
                directory,
                name,
                target,
            }
        }),
        (index.clone(), small.clone())
            .prop_map(|(directory, name)| Edit::AddDirectory { directory, name }),
        (index.clone(), any::<u8>()).prop_map(|(which, content)| Edit::Rewrite { which, content }),
        (index.clone(), index.clone())
            .prop_map(|(which, content)| Edit::RollBack { which, content }),
        (index.clone(), 0..4u8).prop_map(|(which, mode)| Edit::Chmod { which, mode }),
        index.clone().prop_map(|which| Edit::Remove { which }),
        (index.clone(), index.clone(), small).prop_map(|(which, directory, name)| Edit::Move {
            which,
            directory,
            name
        }),
        (index.clone(), index).prop_map(|(left, right)| Edit::Swap { left, right }),
    ]
}

pub(super) fn directories(model: &Model) -> Vec<u64> {
    model
        .values()
        .filter_map(|thing| {
            if let Thing::Directory { id, .. } = thing {
                Some(*id)
            } else {
                None
            }
        })
        .collect()
}

fn below(model: &Model, id: u64) -> BTreeSet<u64> {
    let mut found = BTreeSet::from([id]);
    loop {
        let more: Vec<u64> = model
            .iter()
            .filter(|((parent, _), _)| found.contains(parent))
            .filter_map(|(_, thing)| {
                if let Thing::Directory { id, .. } = thing {
                    Some(*id)
                } else {
                    None
                }
            })
            .filter(|id| !found.contains(id))
            .collect();
        if more.is_empty() {
            return found;
        }
        found.extend(more);
    }
}

fn remove(model: &mut Model, key: &(u64, Vec<u8>)) {
    if let Some(Thing::Directory { id, .. }) = model.remove(key) {
        let gone = below(model, id);
        model.retain(|(parent, _), _| !gone.contains(parent));
    }
}

/// `history` has the contents of all snapshots so far.
pub(super) fn edit_model(
    model: &mut Model,
    edit: &Edit,
    next_id: &mut u64,
    history: &BTreeSet<Vec<u8>>,
) {
    let all = directories(model);
    let pick = |index: usize| all[index % all.len()];
    let keys: Vec<_> = model
        .keys()
        .filter(|(parent, _)| *parent != 0)
        .cloned()
        .collect();
    let name = |number: u8| vec![b'a' + number];
    match *edit {
        Edit::AddFile {
            directory,
            name: number,
            content,
        } => {
            let key = (pick(directory), name(number));
            remove(model, &key);
            model.insert(
                key,
                Thing::File {
                    content: vec![content; usize::from(content) * 3],
                    mode: 0o644,
                },
            );
        }
        Edit::AddLink {
            directory,
            name: number,
            target,
        } => {
            let key = (pick(directory), name(number));
            remove(model, &key);
            model.insert(
                key,
                Thing::Link {
                    target: vec![b'x', target.max(1)],
                },
            );
        }
        Edit::AddDirectory {
            directory,
            name: number,
        } => {
            let key = (pick(directory), name(number));
            remove(model, &key);
            *next_id += 1;
            model.insert(
                key,
                Thing::Directory {
                    id: *next_id,
                    mode: 0o755,
                },
            );
        }
        _ if keys.is_empty() => {}
        Edit::Rewrite {
            which,
            content: byte,
        } => {
            if let Some(Thing::File { content, .. }) = model.get_mut(&keys[which % keys.len()]) {
                *content = vec![byte; usize::from(byte) * 5 + 1];
            }
        }
        Edit::RollBack {
            which,
            content: number,
        } => {
            let is_here = |former: &&Vec<u8>| {
                let mut things = model.values();
                things
                    .any(|thing| matches!(thing, Thing::File { content, .. } if content == *former))
            };
            let superseded: Vec<_> = history.iter().filter(|one| !is_here(one)).collect();
            let files = model.values_mut().filter_map(|thing| match thing {
                Thing::File { content, .. } => Some(content),
                _ => None,
            });
            let mut files: Vec<_> = files.collect();
            if !files.is_empty() && !superseded.is_empty() {
                let (file, former) = (which % files.len(), number % superseded.len());
                files[file].clone_from(superseded[former]);
            }
        }
        Edit::Chmod {
            which,
            mode: number,
        } => match model.get_mut(&keys[which % keys.len()]) {
            Some(Thing::File { mode, .. }) => {
                *mode = [0o644, 0o600, 0o755, 0o444][usize::from(number)];
            }
            Some(Thing::Directory { mode, .. }) => {
                *mode = [0o755, 0o700, 0o555, 0o777][usize::from(number)];
            }
            _ => {}
        },
        Edit::Remove { which } => remove(model, &keys[which % keys.len()].clone()),
        Edit::Move {
            which,
            directory,
            name: number,
        } => {
            let from = keys[which % keys.len()].clone();
            let to = (pick(directory), name(number));
            let inside = match &model[&from] {
                Thing::Directory { id, .. } => below(model, *id),
                _ => BTreeSet::new(),
            };
            if from != to && !inside.contains(&to.0) {
                let thing = model[&from].clone();
                model.remove(&from);
                // The target may be above the source: then the source went with it.
                remove(model, &to);
                if directories(model).contains(&to.0) {
                    model.insert(to, thing);
                }
                drop_unreachable(model);
            }
        }
        Edit::Swap { left, right } => {
            let (left, right) = (
                keys[left % keys.len()].clone(),
                keys[right % keys.len()].clone(),
            );
            let holds = |key: &(u64, Vec<u8>), other: &(u64, Vec<u8>)| match &model[key] {
                Thing::Directory { id, .. } => below(model, *id).contains(&other.0),
                _ => false,
            };
            if left != right && !holds(&left, &right) && !holds(&right, &left) {
                let (one, two) = (model[&left].clone(), model[&right].clone());
                model.insert(left, two);
                model.insert(right, one);
            }
        }
    }
}

fn drop_unreachable(model: &mut Model) {
    let mut reachable = below(model, 1);
    reachable.insert(0);
    model.retain(|(parent, _), _| reachable.contains(parent));
}
