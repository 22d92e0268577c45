//! Names that are one file. What was found says so only by its inode, and every file of a twin has further names in the other one.

use std::collections::{HashMap, HashSet};

use understudy_protocol::{Place, RelPath};
use understudy_tree::{Directory, Kind};

use super::examine::Now;
use crate::catalog::{Catalog, Origin, Put, Row};
use crate::error::ReceiverError;

/// A file that is put, or that has a new name.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) place: Place,
    pub(super) now: Now,
    pub(super) row: Option<Row>,
}

/// Files that may have several names.
#[derive(Debug, Default)]
pub(super) struct Linked {
    members: Vec<Member>,
}

impl Linked {
    /// Takes what may have further names; gives back what has none.
    pub(super) fn take(&mut self, member: Member, has_base: bool) -> Option<Member> {
        let group = member.row.as_ref().map_or(0, |row| row.entry.group);
        let own = 1 + u32::from(has_base && member.now.is_in_twin);
        if group == 0 && member.now.stat.links <= own {
            return Some(member);
        }
        self.members.push(member);
        None
    }

    /// Finds all names of these files; calls `put` for each that has to be put, without its number.
    pub(super) fn settle(
        self,
        live: &Directory,
        base: Option<(&Catalog, u64)>,
        groups: &HashMap<u64, u64>,
        mut put: impl FnMut(Put) -> Result<(), ReceiverError>,
    ) -> Result<(), ReceiverError> {
        if self.members.is_empty() {
            return Ok(());
        }
        let mut files: HashMap<u64, Vec<Member>> = HashMap::new();
        for member in self.members {
            let inode = member.now.stat.identity.inode;
            files.entry(inode).or_default().push(member);
        }
        let mut others = match base {
            Some((catalog, at)) => other_names(live, (catalog, at), &files)?,
            None => HashMap::new(),
        };
        let mut next_group = None;
        let mut inodes: Vec<_> = files.into_iter().collect();
        // In an order that stays, so that the numbers of groups do.
        inodes.sort_by(|(_, one), (_, other)| one[0].place.cmp(&other[0].place));
        for (inode, members) in inodes {
            let others = others.remove(&inode).unwrap_or_default();
            let new_group = || -> Result<u64, ReceiverError> {
                let next = match (next_group, base) {
                    (Some(next), _) => next,
                    (None, Some((catalog, _))) => catalog.next_group()?,
                    (None, None) => 1,
                };
                next_group = Some(next + 1);
                Ok(next)
            };
            settle_file(inode, members, others, groups, new_group, &mut put)?;
        }
        Ok(())
    }
}

/// Puts the names of one file.
fn settle_file(
    inode: u64,
    mut members: Vec<Member>,
    others: Vec<Row>,
    groups: &HashMap<u64, u64>,
    new_group: impl FnOnce() -> Result<u64, ReceiverError>,
    put: &mut impl FnMut(Put) -> Result<(), ReceiverError>,
) -> Result<(), ReceiverError> {
    members.sort_by(|one, other| one.place.cmp(&other.place));
    if members.len() == 1 && others.is_empty() {
        for mut member in members {
            member.now.entry.group = 0;
            put(Put {
                id: 0,
                place: member.place,
                entry: member.now.entry,
                origin: member.now.origin,
            })?;
        }
        return Ok(());
    }
    let rows = members.iter().filter_map(|member| member.row.as_ref());
    let former: HashSet<u64> = rows.chain(&others).map(|row| row.entry.group).collect();
    let same = former.iter().next().copied().filter(|&group| {
        former.len() == 1 && group != 0 && groups.get(&group).is_none_or(|of| *of == inode)
    });
    let group = match same {
        Some(group) => group,
        None => new_group()?,
    };
    // What is not put is as it was, and the others are names of it.
    let standing = others.first().filter(|row| row.entry.group == group);
    if let Some(standing) = standing {
        for member in members {
            let entry = standing.entry.clone();
            let origin = Origin::Kept(standing.id);
            put(Put {
                id: 0,
                place: member.place,
                entry,
                origin,
            })?;
        }
        return Ok(());
    }
    let others = others.into_iter().map(|row| {
        let entry = row.entry.clone();
        (row.place, entry, Origin::Kept(row.id))
    });
    let members = members
        .into_iter()
        .map(|member| (member.place, member.now.entry, member.now.origin));
    let mut first: Option<(Place, understudy_protocol::Entry)> = None;
    for (place, mut entry, origin) in others.chain(members) {
        entry.group = group;
        let (entry, origin) = match &first {
            // They are one file, whenever each was read.
            Some((first, entry)) => (entry.clone(), Origin::Sibling(first.clone())),
            None => {
                first = Some((place.clone(), entry.clone()));
                (entry, origin)
            }
        };
        put(Put {
            id: 0,
            place,
            entry,
            origin,
        })?;
    }
    Ok(())
}

/// Names of these files that are as they were.
fn other_names(
    live: &Directory,
    (catalog, at): (&Catalog, u64),
    files: &HashMap<u64, Vec<Member>>,
) -> Result<HashMap<u64, Vec<Row>>, ReceiverError> {
    let is_explained = |members: &Vec<Member>| {
        let in_twin = members.iter().filter(|member| member.now.is_in_twin);
        let known = members.len() + in_twin.count();
        members
            .iter()
            .all(|member| member.now.stat.links as usize <= known)
    };
    let mut found: HashMap<u64, Vec<Row>> = HashMap::new();
    if files.values().all(is_explained) {
        return Ok(found);
    }
    let mut pending = vec![(understudy_protocol::DirectoryId::TOP, RelPath::root())];
    while let Some((id, path)) = pending.pop() {
        let directory = match live.open_beneath(&path) {
            Err(error) if error.is_gone() => continue,
            directory => directory?,
        };
        let mut after = None;
        loop {
            let rows = catalog.rows_in(id, at, after.as_ref())?;
            let Some(last) = rows.last() else { break };
            after = Some(last.place.name.clone());
            for row in rows {
                let name = &row.place.name;
                if let Some(id) = row.entry.directory_id() {
                    pending.push((id, path.join(name)));
                    continue;
                }
                let stat = directory.stat_if_present(name)?;
                let Some(stat) = stat.filter(|stat| stat.kind != Kind::Directory) else {
                    continue;
                };
                let inode = stat.identity.inode;
                let Some(members) = files.get(&inode) else {
                    continue;
                };
                if members.iter().all(|member| member.place != row.place) {
                    found.entry(inode).or_default().push(row);
                }
            }
        }
    }
    Ok(found)
}
