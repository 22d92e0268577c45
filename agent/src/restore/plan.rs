//! What a snapshot's file tree consists of, in the order in which it is made.

use std::collections::{HashMap, HashSet};

use understudy_protocol::message::Owners;
use understudy_protocol::{
    DatasetName, Entry, Failure, FailureCode, Name, Place, ProtocolError, RelPath, Snapshot,
    StateDigest,
};

use super::gathered::{Dumped, Dumps, Gathered};
use super::{OwnedBy, RestoreRequest};
use crate::chain::{Gate, Proven};
use crate::conversation::Conversation;
use crate::error::AgentError;
use crate::manifest::{self, DATABASES_NAME, Part, Root, malformed};
use crate::owners::{Names, Translation};
use crate::past::Which;

const ANOTHER: &str = "it is another than the one before the connection was cut";

/// A directory to make.
#[derive(Debug)]
pub(super) struct Branch {
    /// The directory it is in; the root is in itself.
    pub(super) parent: usize,
    /// Its name; meaningless for the root.
    pub(super) name: Name,
    /// How many directories are above it.
    pub(super) depth: usize,
    pub(super) entry: Entry,
}

/// Anything else to make.
#[derive(Debug)]
pub(super) struct Leaf {
    /// The number of its directory in [`Plan::branches`].
    pub(super) branch: usize,
    /// Where the spare has it.
    pub(super) place: Place,
    pub(super) entry: Entry,
}

/// The trees of one snapshot.
#[derive(Debug)]
pub(super) struct Plans {
    pub(super) files: Plan,
    /// What was dumped of databases, if it is wanted and there.
    pub(super) databases: Option<Plan>,
    /// What the snapshot has of databases in any case.
    pub(super) dumped: Dumped,
}

/// One tree of a snapshot.
#[derive(Debug)]
pub(super) struct Plan {
    /// Which one it is.
    root: Root,
    pub(super) snapshot: Snapshot,
    /// Directories, the root first, each after the one it is in.
    pub(super) branches: Vec<Branch>,
    /// Everything else, by directory and name.
    pub(super) leaves: Vec<Leaf>,
    /// Paths of files that may be torn.
    pub(super) fuzzy: Vec<RelPath>,
    /// How far it was proved.
    pub(super) proven: Proven,
    /// What the main called the owners.
    owners: Owners,
}

impl Plans {
    /// Reads the manifest of a snapshot, the newest if no number is given, as the spare gives it.
    pub(super) fn read(
        conversation: &Conversation,
        dataset: &DatasetName,
        number: Option<u64>,
        (dumps, room_bytes): (Dumps, u64),
    ) -> Result<Self, AgentError> {
        let gate = Gate::new(None, dataset, (Which::Newest, number));
        let (asked, gathered) = ((dataset, number), Gathered::new(dumps));
        let how = (OwnedBy::Number, room_bytes);
        Self::pass(conversation, asked, (gate, gathered), how)
    }

    /// As [`Self::read`]; what comes must be what the main has sent, as far as the request asks for that.
    pub(super) fn prove(
        conversation: &Conversation,
        request: &RestoreRequest,
        number: Option<u64>,
    ) -> Result<Self, AgentError> {
        let dataset = &request.dataset;
        let gate = Gate::new(request.trust.as_ref(), dataset, (request.which, number));
        let how = (request.owners, request.room_bytes);
        let gathered = Gathered::new(match request.databases {
            Some(_) => Dumps::Hold,
            None => Dumps::Count,
        });
        Self::pass(conversation, (dataset, number), (gate, gathered), how)
    }

    fn pass(
        conversation: &Conversation,
        (dataset, number): (&DatasetName, Option<u64>),
        (mut gate, mut gathered): (Gate<'_>, Gathered),
        (owners, room_bytes): (OwnedBy, u64),
    ) -> Result<Self, AgentError> {
        let mut digest = StateDigest::empty();
        let snapshot = manifest::read(conversation, dataset, number, |part| match part {
            Part::Stated(stated) => gate.state(&stated),
            Part::Entries(entries) => {
                gate.open()?;
                for (place, entry) in entries {
                    digest.add(&place, &entry);
                    gathered.add(place, entry)?;
                }
                gate.admit(&digest, (gathered.bytes, room_bytes))
            }
            Part::Fuzzy(places) => gathered.add_fuzzy(places),
            Part::Owners(owners) => {
                gathered.owners = owners;
                Ok(())
            }
        })?;
        if digest.fingerprint() != snapshot.position.fingerprint {
            return Err(damaged(&snapshot));
        }
        if number.is_some_and(|number| number != snapshot.position.number) {
            return Err(malformed("it is of another snapshot than was asked for"));
        }
        let proven = gate.close(&snapshot, &digest, gathered.beside())?;
        if owners == OwnedBy::Name {
            gate.covers_owners()?;
        }
        gathered.into_plans(&snapshot, &proven)
    }
}

impl Plan {
    /// Fails if what came of it is no tree.
    pub(super) fn new(
        root: Root,
        (snapshot, proven, owners): (Snapshot, Proven, Owners),
        (branches, mut leaves): (Vec<Branch>, Vec<Leaf>),
    ) -> Result<Self, AgentError> {
        leaves.sort_unstable_by(|a, b| (a.branch, &a.place.name).cmp(&(b.branch, &b.place.name)));
        let plan = Self {
            root,
            snapshot,
            branches,
            leaves,
            fuzzy: Vec::new(),
            proven,
            owners,
        };
        plan.prove_names()?;
        plan.prove_groups()?;
        Ok(plan)
    }

    /// Takes the place of a file that may be torn, in this branch; whether it is one.
    pub(super) fn add_fuzzy(&mut self, branch: usize, place: &Place) -> bool {
        let leaf = self.leaf(branch, &place.name);
        let leaf = leaf.filter(|leaf| leaf.entry.content().is_some());
        let path = leaf.map(|leaf| self.path(leaf));
        let is_file = path.is_some();
        self.fuzzy.extend(path);
        is_file
    }

    /// Gives all entries the owners that are called here as on the main. Returns what keeps its
    /// number: names that nobody has here, and numbers that had none there.
    pub(super) fn own_by_name(&mut self) -> Result<Vec<String>, AgentError> {
        if self.owners == Owners::default() {
            return Err(AgentError::NoOwners);
        }
        let mut translation = Translation::new(&self.owners, &Names::of_this_host());
        let branches = self.branches.iter_mut().map(|branch| &mut branch.entry);
        let leaves = self.leaves.iter_mut().map(|leaf| &mut leaf.entry);
        branches
            .chain(leaves)
            .for_each(|entry| translation.apply(entry));
        Ok(translation.unknown())
    }

    /// Entries of every kind.
    pub(super) fn entries(&self) -> u64 {
        (self.branches.len() + self.leaves.len()) as u64
    }

    /// Regular files, and the sum of their sizes, each group once.
    pub(super) fn files_and_bytes(&self) -> (u64, u64) {
        let mut groups = std::collections::HashSet::new();
        let (mut files, mut bytes) = (0, 0_u64);
        for (size, group) in self
            .leaves
            .iter()
            .filter_map(|leaf| Some((leaf.entry.content()?.0, leaf.entry.group)))
        {
            files += 1;
            if group == 0 || groups.insert(group) {
                bytes = bytes.saturating_add(size);
            }
        }
        (files, bytes)
    }

    /// The leaf called `name` in a directory.
    pub(super) fn leaf(&self, branch: usize, name: &Name) -> Option<&Leaf> {
        let found = self
            .leaves
            .binary_search_by(|leaf| (leaf.branch, &leaf.place.name).cmp(&(branch, name)));
        found.ok().map(|number| &self.leaves[number])
    }

    /// Whether a regular file stands at the path.
    pub(super) fn has_file(&self, path: &RelPath) -> bool {
        let mut files = self
            .leaves
            .iter()
            .filter(|leaf| leaf.entry.content().is_some());
        files.any(|leaf| self.path(leaf) == *path)
    }

    /// The path of a leaf.
    pub(super) fn path(&self, leaf: &Leaf) -> RelPath {
        self.branch_path(leaf.branch).join(&leaf.place.name)
    }

    /// A path of it for people, as `ls` and `find` tell it.
    pub(super) fn told(&self, path: &RelPath) -> RelPath {
        match self.root {
            Root::Files => path.clone(),
            Root::Databases => {
                let whole = [DATABASES_NAME, b"/", path.as_bytes()].concat();
                RelPath::new(&whole).unwrap_or_else(|_| path.clone())
            }
        }
    }

    /// The path of a branch below the root. It is put together each time: all of them may be far longer than all names.
    pub(super) fn branch_path(&self, number: usize) -> RelPath {
        let mut names = Vec::with_capacity(self.branches[number].depth);
        let mut at = number;
        while at != 0 {
            names.push(&self.branches[at].name);
            at = self.branches[at].parent;
        }
        let names = names.into_iter().rev();
        names.fold(RelPath::root(), |path, name| path.join(name))
    }
}

/// Reads a manifest that is known already, on another connection.
pub(super) fn read_again(
    conversation: &Conversation,
    dataset: &DatasetName,
    known: &Snapshot,
) -> Result<(), AgentError> {
    let number = Some(known.position.number);
    let mut left = known.entries;
    let snapshot = manifest::read(conversation, dataset, number, |part| {
        let Part::Entries(entries) = part else {
            return Ok(());
        };
        let rest = left.checked_sub(entries.len() as u64);
        left = rest.ok_or_else(|| malformed(ANOTHER))?;
        Ok(())
    })?;
    if snapshot.position == known.position {
        Ok(())
    } else {
        Err(malformed(ANOTHER))
    }
}

impl Plan {
    /// Fails if two entries have one name. The digest is a sum, and so many equal entries as its lanes can count add nothing to it: without
    /// this anything could be slipped in.
    fn prove_names(&self) -> Result<(), AgentError> {
        let same = |pair: &&[Leaf]| {
            pair[0].branch == pair[1].branch && pair[0].place.name == pair[1].place.name
        };
        if let Some(pair) = self.leaves.windows(2).find(same) {
            return Err(twice(&pair[0].place));
        }
        let mut names = HashSet::with_capacity(self.branches.len());
        for branch in self.branches.iter().skip(1) {
            let is_new = names.insert((branch.parent, &branch.name));
            if !is_new || self.leaf(branch.parent, &branch.name).is_some() {
                return Err(malformed(&format!("`{}` stands there twice", branch.name)));
            }
        }
        Ok(())
    }

    /// Fails if names of one file differ: the content of the first is checked, and counts for all.
    fn prove_groups(&self) -> Result<(), AgentError> {
        let mut first: HashMap<u64, &Entry> = HashMap::new();
        for leaf in self.leaves.iter().filter(|leaf| leaf.entry.group != 0) {
            let entry = first.entry(leaf.entry.group).or_insert(&leaf.entry);
            if **entry != leaf.entry {
                return Err(malformed(&format!(
                    "{:?} differs from another name of it",
                    leaf.place
                )));
            }
        }
        Ok(())
    }
}

/// Names and attributes would be others than those that were captured.
fn damaged(snapshot: &Snapshot) -> AgentError {
    let text = format!(
        "the entries that the spare has of snapshot {} do not have its digest any more, so nothing was restored; `understudy verify` tells \
         more, other snapshots may be whole",
        snapshot.position.number
    );
    ProtocolError::Failed(Failure::new(FailureCode::Damaged, text)).into()
}

fn twice(place: &Place) -> AgentError {
    malformed(&format!("{place:?} stands there twice"))
}
