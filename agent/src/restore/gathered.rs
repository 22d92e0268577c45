//! A manifest on its way in: the trees that are wanted grow, and of what is passed over only directories are remembered.

use std::collections::HashMap;
use std::mem::size_of;

use understudy_protocol::message::Owners;
use understudy_protocol::{DirectoryId, Entry, Node, Place, Snapshot, Xattr, limits};

use super::plan::{Branch, Leaf, Plan, Plans};
use crate::chain::Proven;
use crate::error::AgentError;
use crate::manifest::{Root, malformed};

/// What allocating anything takes beside its bytes.
const ALLOCATION_BYTES: usize = 16;
/// What the tables of a restore take for each entry, and for each directory: numbers, marks and names.
const TABLES_BYTES: usize = 32;
const DIRECTORY_TABLES_BYTES: usize = 160;
/// What is remembered of a directory that is passed over.
const PASSED_BYTES: u64 = 64;

/// Whether what was dumped of databases is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dumps {
    /// It is only counted.
    Count,
    /// It is held, as the files are.
    Hold,
}

/// What has come so far.
pub(super) struct Gathered {
    dumps: Dumps,
    /// What it takes in memory, about.
    pub(super) bytes: u64,
    files: Tree,
    databases: Tree,
    numbers: HashMap<DirectoryId, Stand>,
    /// The number of the root of the databases.
    root: Option<DirectoryId>,
    dumped: Dumped,
    /// What was passed over last.
    passed: Option<Place>,
    passed_leaves: usize,
    fuzzy: Vec<Place>,
    pub(super) owners: Owners,
}

/// What a snapshot has of databases, whether it is wanted or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Dumped {
    /// How many databases.
    pub databases: u64,
    /// Entries of every kind, the root included.
    pub entries: u64,
    /// Sum of the sizes of all files.
    pub bytes: u64,
}

#[derive(Default)]
struct Tree {
    branches: Vec<Branch>,
    leaves: Vec<Leaf>,
}

/// What becomes of the entries of a directory.
#[derive(Debug, Clone, Copy)]
enum Stand {
    /// They grow on this branch.
    Branch(Root, usize),
    /// They are passed over.
    Passed,
    /// All of them were passed over: no more may come.
    Closed,
}

impl Gathered {
    pub(super) fn new(dumps: Dumps) -> Self {
        Self {
            dumps,
            bytes: 0,
            files: Tree::default(),
            databases: Tree::default(),
            numbers: HashMap::new(),
            root: None,
            dumped: Dumped::default(),
            passed: None,
            passed_leaves: 0,
            fuzzy: Vec::new(),
            owners: Owners::default(),
        }
    }

    fn tree(&mut self, root: Root) -> &mut Tree {
        match root {
            Root::Files => &mut self.files,
            Root::Databases => &mut self.databases,
        }
    }

    pub(super) fn add(&mut self, place: Place, entry: Entry) -> Result<(), AgentError> {
        let Some(root) = Root::of(&place) else {
            let stand = self.numbers.get(&place.parent).copied();
            return match stand {
                Some(Stand::Branch(root, parent)) => self.grow(root, parent, place, entry),
                Some(Stand::Passed) => self.pass_over(place, &entry),
                Some(Stand::Closed) => Err(malformed(&format!(
                    "{place:?} comes apart from the others of its directory"
                ))),
                None => Err(malformed(&format!("{place:?} comes before its directory"))),
            };
        };
        if root == Root::Databases {
            self.root = entry.directory_id();
            self.dumped.entries += 1;
            if self.dumps == Dumps::Count {
                return self.enter(&entry, Stand::Passed);
            }
        }
        self.enter(&entry, Stand::Branch(root, 0))?;
        self.bytes += memory_bytes(&place, &entry);
        self.tree(root).branches.push(Branch {
            parent: 0,
            name: place.name,
            depth: 0,
            entry,
        });
        Ok(())
    }

    /// Remembers what becomes of the entries of a directory; nothing else has any.
    fn enter(&mut self, entry: &Entry, stand: Stand) -> Result<(), AgentError> {
        let Some(id) = entry.directory_id() else {
            return Ok(());
        };
        if matches!(stand, Stand::Passed) {
            self.bytes += PASSED_BYTES;
        }
        match self.numbers.insert(id, stand) {
            None => Ok(()),
            Some(_) => Err(malformed(&format!(
                "directory {} stands at two places",
                id.0
            ))),
        }
    }

    fn grow(
        &mut self,
        root: Root,
        parent: usize,
        place: Place,
        entry: Entry,
    ) -> Result<(), AgentError> {
        if root == Root::Databases {
            self.count(&place, &entry);
        }
        self.bytes += memory_bytes(&place, &entry);
        if entry.directory_id().is_none() {
            self.tree(root).leaves.push(Leaf {
                branch: parent,
                place,
                entry,
            });
            return Ok(());
        }
        let tree = self.tree(root);
        let (number, depth) = (tree.branches.len(), tree.branches[parent].depth + 1);
        if depth > limits::DEPTH {
            return Err(malformed("it is deeper than any tree"));
        }
        self.enter(&entry, Stand::Branch(root, number))?;
        self.tree(root).branches.push(Branch {
            parent,
            name: place.name,
            depth,
            entry,
        });
        Ok(())
    }

    /// Takes note of an entry that is not held. That no two of them have one name must be seen as they come: the digest is a sum, and equal
    /// entries in it could make up for anything that is held.
    fn pass_over(&mut self, place: Place, entry: &Entry) -> Result<(), AgentError> {
        self.count(&place, entry);
        match &self.passed {
            Some(before) if before.parent != place.parent => {
                self.numbers.insert(before.parent, Stand::Closed);
            }
            Some(before) if before.name >= place.name => {
                return Err(malformed(&format!(
                    "{place:?} comes twice, or not in the order of names"
                )));
            }
            _ => {}
        }
        self.passed = Some(place);
        if entry.directory_id().is_none() {
            self.passed_leaves += 1;
        }
        self.enter(entry, Stand::Passed)
    }

    fn count(&mut self, place: &Place, entry: &Entry) {
        let is_database = Some(place.parent) == self.root && entry.directory_id().is_some();
        self.dumped.databases += u64::from(is_database);
        self.dumped.entries += 1;
        self.dumped.bytes = self.dumped.bytes.saturating_add(entry.size_bytes());
    }

    /// Each file may be told to be fuzzy once.
    pub(super) fn add_fuzzy(&mut self, places: Vec<Place>) -> Result<(), AgentError> {
        self.fuzzy.extend(places);
        let held = self.files.leaves.len() + self.databases.leaves.len();
        if self.fuzzy.len() > held + self.passed_leaves {
            return Err(malformed("more files are fuzzy than there are"));
        }
        Ok(())
    }

    /// What a proof covers beside the entries.
    pub(super) fn beside(&mut self) -> (&mut Vec<Place>, &Owners) {
        (&mut self.fuzzy, &self.owners)
    }

    pub(super) fn into_plans(
        self,
        snapshot: &Snapshot,
        proven: &Proven,
    ) -> Result<Plans, AgentError> {
        if self.files.branches.is_empty() {
            return Err(malformed("it has no file tree"));
        }
        let plan = |root, tree: Tree| {
            Plan::new(
                root,
                (snapshot.clone(), proven.clone(), self.owners.clone()),
                (tree.branches, tree.leaves),
            )
        };
        let has_databases = !self.databases.branches.is_empty();
        let mut files = plan(Root::Files, self.files)?;
        let mut databases = match has_databases {
            true => Some(plan(Root::Databases, self.databases)?),
            false => None,
        };
        for place in self.fuzzy {
            let is_file = match (self.numbers.get(&place.parent), &mut databases) {
                (Some(&Stand::Branch(Root::Files, branch)), _) => files.add_fuzzy(branch, &place),
                (Some(&Stand::Branch(Root::Databases, branch)), Some(databases)) => {
                    databases.add_fuzzy(branch, &place)
                }
                (Some(Stand::Passed | Stand::Closed), _) => true,
                _ => false,
            };
            if !is_file {
                return Err(malformed(&format!("{place:?} is fuzzy and no file")));
            }
        }
        for plan in [&mut files].into_iter().chain(databases.as_mut()) {
            plan.fuzzy.sort_unstable();
        }
        Ok(Plans {
            files,
            databases,
            dumped: self.dumped,
        })
    }
}

/// What an entry takes as long as a restore knows it, about; rather too much.
fn memory_bytes(place: &Place, entry: &Entry) -> u64 {
    let xattrs = entry.attributes.xattrs.iter().map(|xattr| {
        let bytes = xattr.name.0.len() + xattr.value.0.len();
        size_of::<Xattr>() + bytes + 2 * ALLOCATION_BYTES
    });
    let node = match &entry.node {
        Node::Directory { .. } => DIRECTORY_TABLES_BYTES,
        Node::Symlink { target } => target.0.len() + ALLOCATION_BYTES,
        _ => 0,
    };
    let name = place.name.as_bytes().len() + ALLOCATION_BYTES;
    let itself = size_of::<Leaf>().max(size_of::<Branch>()) + TABLES_BYTES;
    (itself + name + node + xattrs.sum::<usize>()) as u64
}
