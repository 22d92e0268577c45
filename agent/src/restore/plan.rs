//! What a snapshot's file tree consists of, in the order in which it is made.

use std::collections::HashMap;

use understudy_protocol::message::{Owners, ReadManifest};
use understudy_protocol::{
    DatasetName, DirectoryId, Entry, Failure, FailureCode, Message, Name, Place, ProtocolError,
    RelPath, Snapshot, StateDigest,
};

use crate::conversation::{Conversation, unexpected};
use crate::error::AgentError;
use crate::owners::{Names, Translation};
use crate::scan::ROOT_NAME;

/// A directory to make.
#[derive(Debug)]
pub(super) struct Branch {
    /// The directory it is in; the root is in itself.
    pub(super) parent: usize,
    /// Its name; meaningless for the root.
    pub(super) name: Name,
    /// Its path below the root.
    pub(super) path: RelPath,
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

/// The tree of one snapshot.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) snapshot: Snapshot,
    /// Directories, the root first, each after the one it is in.
    pub(super) branches: Vec<Branch>,
    /// Everything else, by directory and name.
    pub(super) leaves: Vec<Leaf>,
    /// Paths of files that may be torn.
    pub(super) fuzzy: Vec<RelPath>,
    /// What the main called the owners.
    owners: Owners,
}

impl Plan {
    /// Reads the manifest of a snapshot, the newest if no number is given.
    pub(super) fn read(
        conversation: &Conversation,
        dataset: &DatasetName,
        number: Option<u64>,
    ) -> Result<Self, AgentError> {
        let dataset = dataset.clone();
        conversation.tell(&Message::ReadManifest(ReadManifest { dataset, number }))?;
        let mut gathered = Gathered::default();
        let mut digest = StateDigest::empty();
        let snapshot = loop {
            match conversation.hear()? {
                Message::Manifest(manifest) => {
                    manifest
                        .entries
                        .into_iter()
                        .try_for_each(|(place, entry)| {
                            digest.add(&place, &entry);
                            gathered.add(place, entry)
                        })?;
                }
                Message::Fuzzy(fuzzy) => gathered.fuzzy.extend(fuzzy.places),
                Message::Owners(owners) => gathered.owners = owners,
                Message::ManifestEnd(end) => break end.snapshot,
                other => return Err(unexpected(&other, "Manifest")),
            }
        };
        if digest.fingerprint() != snapshot.position.fingerprint {
            return Err(damaged(&snapshot));
        }
        let Gathered {
            branches,
            numbers,
            mut leaves,
            fuzzy,
            owners,
        } = gathered;
        if branches.is_empty() {
            return Err(malformed("it has no file tree"));
        }
        leaves.sort_unstable_by(|a, b| (a.branch, &a.place.name).cmp(&(b.branch, &b.place.name)));
        let mut plan = Self {
            snapshot,
            branches,
            leaves,
            fuzzy: Vec::new(),
            owners,
        };
        for place in fuzzy {
            let branch = numbers.get(&place.parent);
            let leaf = branch.and_then(|&branch| plan.leaf(branch, &place.name));
            let leaf = leaf.filter(|leaf| leaf.entry.content().is_some());
            let path = leaf.map(|leaf| plan.path(leaf));
            plan.fuzzy
                .push(path.ok_or_else(|| malformed(&format!("{place:?} is fuzzy and no file")))?);
        }
        plan.fuzzy.sort_unstable();
        Ok(plan)
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
        self.branches[leaf.branch].path.join(&leaf.place.name)
    }
}

/// Reads a manifest that is known already, on another connection.
pub(super) fn read_again(
    conversation: &Conversation,
    dataset: &DatasetName,
    known: &Snapshot,
) -> Result<(), AgentError> {
    conversation.tell(&Message::ReadManifest(ReadManifest {
        dataset: dataset.clone(),
        number: Some(known.position.number),
    }))?;
    loop {
        match conversation.hear()? {
            Message::Manifest(_) | Message::Fuzzy(_) | Message::Owners(_) => {}
            Message::ManifestEnd(end) if end.snapshot.position == known.position => return Ok(()),
            Message::ManifestEnd(_) => {
                return Err(malformed(
                    "it is another than the one before the connection was cut",
                ));
            }
            other => return Err(unexpected(&other, "Manifest")),
        }
    }
}

/// A manifest on its way in.
#[derive(Default)]
struct Gathered {
    branches: Vec<Branch>,
    numbers: HashMap<DirectoryId, usize>,
    leaves: Vec<Leaf>,
    fuzzy: Vec<Place>,
    owners: Owners,
}

impl Gathered {
    fn add(&mut self, place: Place, entry: Entry) -> Result<(), AgentError> {
        if place.parent == DirectoryId::TOP {
            if place.name.as_bytes() == ROOT_NAME
                && entry.directory_id() == Some(DirectoryId::FILES)
            {
                self.numbers.insert(DirectoryId::FILES, 0);
                self.branches.push(Branch {
                    parent: 0,
                    name: place.name,
                    path: RelPath::root(),
                    entry,
                });
            }
            return Ok(());
        }
        let Some(&parent) = self.numbers.get(&place.parent) else {
            return Err(malformed(&format!("{place:?} comes before its directory")));
        };
        match entry.directory_id() {
            Some(id) => {
                let path = self.branches[parent].path.join(&place.name);
                if self.numbers.insert(id, self.branches.len()).is_some() {
                    return Err(malformed(&format!(
                        "directory {} stands at two places",
                        id.0
                    )));
                }
                self.branches.push(Branch {
                    parent,
                    name: place.name,
                    path,
                    entry,
                });
            }
            None => self.leaves.push(Leaf {
                branch: parent,
                place,
                entry,
            }),
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

fn malformed(reason: &str) -> AgentError {
    ProtocolError::malformed("Manifest", reason).into()
}
