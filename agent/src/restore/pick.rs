//! Which part of a snapshot is wanted, and what of it comes first.

use std::cmp::Reverse;
use std::collections::HashMap;

use understudy_protocol::{Node, RelPath, limits};
use understudy_tree::{Glob, Kind};

use super::Part;
use super::plan::{Leaf, Plan};
use crate::error::AgentError;

/// Which part of the small files comes first to show what they cost.
const SHOWN_PART: usize = 20;
/// At most so many of them.
const SHOWN: usize = 10_000;

/// In which order files come that no pattern puts before others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Order {
    /// By directory and name; a few come earlier, to learn from.
    #[default]
    Listed,
    /// Those that were changed last.
    Newest,
    /// The smallest.
    Smallest,
}

/// Leaves in the plan only the part, and the directories on the way there.
pub(super) fn restrict(plan: &mut Plan, part: &Part) -> Result<(), AgentError> {
    let is_match = |path: &RelPath, kind: Kind| match part {
        Part::Whole => true,
        Part::Matching(globs) => globs.iter().any(|glob| glob.matches(path, kind)),
        Part::At(paths) => paths.contains(path),
    };
    if matches!(part, Part::Whole) {
        return Ok(());
    }
    let mut is_whole = vec![false; plan.branches.len()];
    for (number, branch) in plan.branches.iter().enumerate().skip(1) {
        is_whole[number] =
            is_whole[branch.parent] || is_match(&plan.branch_path(number), Kind::Directory);
    }
    let mut is_wanted = is_whole.clone();
    let leaves: Vec<Leaf> = std::mem::take(&mut plan.leaves)
        .into_iter()
        .filter(|leaf| {
            let path = plan.path(leaf);
            is_whole[leaf.branch] || is_match(&path, kind_of(leaf))
        })
        .collect();
    for leaf in &leaves {
        is_wanted[leaf.branch] = true;
    }
    // Each branch comes after the one it is in.
    for number in (1..plan.branches.len()).rev() {
        if is_wanted[number] {
            is_wanted[plan.branches[number].parent] = true;
        }
    }
    if !is_wanted[0] {
        return Err(AgentError::NothingMatches {
            number: plan.snapshot.position.number,
        });
    }
    plan.leaves = leaves;
    renumber(plan, &is_wanted);
    plan.fuzzy = std::mem::take(&mut plan.fuzzy)
        .into_iter()
        .filter(|path| plan.has_file(path))
        .collect();
    Ok(())
}

/// Drops the branches that are not wanted; those that are keep their order.
fn renumber(plan: &mut Plan, is_wanted: &[bool]) {
    let mut numbers = vec![0; is_wanted.len()];
    let mut next = 0;
    for (number, &is_wanted) in is_wanted.iter().enumerate() {
        numbers[number] = next;
        next += usize::from(is_wanted);
    }
    let mut wanted = is_wanted.iter();
    plan.branches.retain(|_| wanted.next() == Some(&true));
    for branch in &mut plan.branches {
        branch.parent = numbers[branch.parent];
    }
    for leaf in &mut plan.leaves {
        leaf.branch = numbers[leaf.branch];
    }
}

fn kind_of(leaf: &Leaf) -> Kind {
    match leaf.entry.node {
        Node::Directory { .. } => Kind::Directory,
        Node::File { .. } => Kind::File,
        Node::Symlink { .. } => Kind::Symlink,
        Node::Fifo => Kind::Fifo,
        Node::CharacterDevice { .. } => Kind::CharacterDevice,
        Node::BlockDevice { .. } => Kind::BlockDevice,
    }
}

/// Sorts files of the plan: those that the first of the globs matches, or that are below such a directory, then those of the
/// second, and so on, each part by `order`.
pub(super) fn arrange(plan: &Plan, files: &mut [usize], first: &[Glob], order: Order) {
    let ranks = Ranks::new(plan, first);
    let rank = |number: usize| ranks.of(plan, number);
    let entry = |number: usize| &plan.leaves[number].entry;
    match order {
        Order::Listed if first.is_empty() => show_both_kinds(plan, files),
        Order::Listed => files.sort_by_cached_key(|&number| (rank(number), number)),
        Order::Newest => files.sort_by_cached_key(|&number| {
            let modified = entry(number).attributes.modified;
            (
                rank(number),
                Reverse((modified.seconds, modified.nanoseconds)),
                number,
            )
        }),
        Order::Smallest => {
            files.sort_by_cached_key(|&number| (rank(number), entry(number).size_bytes(), number));
        }
    }
}

/// Brings some small files and one large one to the front, where nobody cares about the order: what either kind costs is
/// then soon known, and with it how long the rest takes.
fn show_both_kinds(plan: &Plan, files: &mut [usize]) {
    let is_large =
        |number: usize| plan.leaves[number].entry.size_bytes() > limits::INLINE_BYTES as u64;
    let small = files.iter().filter(|&&number| !is_large(number)).count();
    let wanted = (small / SHOWN_PART).min(SHOWN);
    let Some(large) = files.iter().copied().find(|&number| is_large(number)) else {
        return;
    };
    let mut seen = 0;
    files.sort_by_cached_key(|&number| {
        if is_large(number) {
            return (if number == large { 1 } else { 2 }, number);
        }
        // Evenly from all of them, for those of one directory may be alike.
        let is_shown = seen * wanted / small.max(1) != (seen + 1) * wanted / small.max(1);
        seen += 1;
        (if is_shown { 0 } else { 2 }, number)
    });
}

/// Which glob is the first to match, for directories and for groups of names of one file.
struct Ranks<'a> {
    first: &'a [Glob],
    branches: Vec<usize>,
    groups: HashMap<u64, usize>,
}

impl<'a> Ranks<'a> {
    fn new(plan: &Plan, first: &'a [Glob]) -> Self {
        let mut ranks = Self {
            first,
            branches: vec![first.len(); plan.branches.len()],
            groups: HashMap::new(),
        };
        if first.is_empty() {
            return ranks;
        }
        for (number, branch) in plan.branches.iter().enumerate().skip(1) {
            ranks.branches[number] = ranks.branches[branch.parent]
                .min(ranks.match_of(&plan.branch_path(number), Kind::Directory));
        }
        for leaf in plan.leaves.iter().filter(|leaf| leaf.entry.group != 0) {
            let rank = ranks.of_name(plan, leaf);
            let known = ranks.groups.entry(leaf.entry.group).or_insert(rank);
            *known = rank.min(*known);
        }
        ranks
    }

    fn match_of(&self, path: &RelPath, kind: Kind) -> usize {
        let mut first = self.first.iter();
        first
            .position(|glob| glob.matches(path, kind))
            .unwrap_or(self.first.len())
    }

    fn of_name(&self, plan: &Plan, leaf: &Leaf) -> usize {
        self.branches[leaf.branch].min(self.match_of(&plan.path(leaf), kind_of(leaf)))
    }

    fn of(&self, plan: &Plan, number: usize) -> usize {
        if self.first.is_empty() {
            return 0;
        }
        let leaf = &plan.leaves[number];
        let of_group = self.groups.get(&leaf.entry.group).copied();
        of_group.unwrap_or_else(|| self.of_name(plan, leaf))
    }
}
