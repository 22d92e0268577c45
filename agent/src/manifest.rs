//! Reading a manifest from a spare that may not mean well: it comes in its order, and it ends.

use understudy_protocol::message::{Owners, ReadManifest, Stated};
use understudy_protocol::{
    DatasetName, DirectoryId, Entry, Message, Place, ProtocolError, Snapshot, limits,
};

use crate::conversation::{Conversation, unexpected};
use crate::error::AgentError;
use crate::scan::ROOT_NAME;

/// Messages of a manifest that bring nothing, at most; those that bring something are bounded by what they bring.
const EMPTY: usize = 16;
/// How the root of the databases is called, in a manifest and for people.
pub(crate) const DATABASES_NAME: &[u8] = b"databases";
/// Directories are numbered one by one from 2 on: no honest main gets there.
const DIRECTORIES: u64 = 1 << 62;

/// What a manifest consists of, in the order in which it comes.
pub(crate) enum Part {
    Stated(Stated),
    Entries(Vec<(Place, Entry)>),
    Fuzzy(Vec<Place>),
    Owners(Owners),
}

/// The two trees of a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Root {
    /// What the source has.
    Files,
    /// What was dumped of databases, each in a directory of its name; a snapshot need not have it.
    Databases,
}

impl Root {
    /// Which root stands at a place, if one does.
    pub(crate) fn of(place: &Place) -> Option<Self> {
        match place.name.as_bytes() {
            _ if place.parent != DirectoryId::TOP => None,
            ROOT_NAME => Some(Self::Files),
            DATABASES_NAME => Some(Self::Databases),
            _ => None,
        }
    }
}

/// Asks for a manifest and hands on what comes; returns what it is of.
pub(crate) fn read(
    conversation: &Conversation,
    dataset: &DatasetName,
    number: Option<u64>,
    mut take: impl FnMut(Part) -> Result<(), AgentError>,
) -> Result<Snapshot, AgentError> {
    let dataset = dataset.clone();
    conversation.tell(&Message::ReadManifest(ReadManifest { dataset, number }))?;
    let (mut is_first, mut empty, mut directories) = (true, 0, 0);
    let mut roots = Roots::default();
    loop {
        let (part, is_empty) = match conversation.hear()? {
            Message::Stated(stated) if is_first => (Part::Stated(stated), false),
            Message::Manifest(manifest) => {
                let is_empty = manifest.entries.is_empty();
                let mut entries = manifest.entries.iter();
                entries.try_for_each(|entry| roots.check(entry))?;
                let here = manifest.entries.iter().map(|(_, entry)| entry);
                directories += here.filter(|entry| entry.directory_id().is_some()).count() as u64;
                if directories > limits::DIRECTORIES {
                    return Err(malformed("it has more directories than any tree"));
                }
                (Part::Entries(manifest.entries), is_empty)
            }
            Message::Fuzzy(fuzzy) => {
                let is_empty = fuzzy.places.is_empty();
                (Part::Fuzzy(fuzzy.places), is_empty)
            }
            // They are told once; all of them together are no more than one message can tell.
            Message::Owners(owners) => (Part::Owners(owners), true),
            Message::ManifestEnd(end) => return Ok(end.snapshot),
            other => return Err(unexpected(&other, "Manifest")),
        };
        is_first = false;
        empty += usize::from(is_empty);
        if empty > EMPTY {
            return Err(malformed("it does not end"));
        }
        take(part)?;
    }
}

/// The roots that have come: each comes once.
#[derive(Default)]
struct Roots(Vec<Root>);

impl Roots {
    /// Refuses what no entry of an honest main can be.
    fn check(&mut self, (place, entry): &(Place, Entry)) -> Result<(), AgentError> {
        let (root, id) = (Root::of(place), entry.directory_id());
        let may_stand = match root {
            Some(Root::Files) => id == Some(DirectoryId::FILES),
            Some(Root::Databases) => id.is_some_and(|id| id != DirectoryId::FILES),
            None => place.parent != DirectoryId::TOP && id != Some(DirectoryId::FILES),
        };
        if !may_stand {
            return Err(malformed(&format!("{place:?} cannot stand there")));
        }
        if let Some(root) = root {
            if self.0.contains(&root) {
                return Err(malformed(&format!("{place:?} stands there twice")));
            }
            self.0.push(root);
        }
        check(place, entry)
    }
}

/// Refuses numbers, sizes and links that no entry has, wherever it stands.
fn check(place: &Place, entry: &Entry) -> Result<(), AgentError> {
    let id = entry.directory_id();
    let numbers = [Some(place.parent), id];
    if numbers.iter().flatten().any(|id| id.0 >= DIRECTORIES) || id == Some(DirectoryId::TOP) {
        return Err(malformed("no directory has such a number"));
    }
    if entry.size_bytes() > limits::FILE_BYTES {
        return Err(malformed(&format!("{place:?} is larger than any file")));
    }
    if entry.group != 0 && id.is_some() {
        return Err(malformed(&format!(
            "the directory {place:?} has hard links"
        )));
    }
    Ok(())
}

pub(crate) fn malformed(reason: &str) -> AgentError {
    ProtocolError::malformed("Manifest", reason).into()
}
