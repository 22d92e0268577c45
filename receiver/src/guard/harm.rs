//! Counting what a settled upload harms: files that are removed, emptied or turned into noise, and have no successor.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::hash::{BuildHasher, RandomState};

use understudy_protocol::{DirectoryId, Entry, Node, Place, escape};
use understudy_tree::Directory;

use super::ignored::Ignored;
use super::looks::{self, Looks};
use crate::catalog::{Catalog, Ended};
use crate::error::ReceiverError;
use crate::resolve::Handles;
use crate::shelves::{NewDirectories, Shelves};

/// Paths that are told of.
const PATHS: usize = 20;
/// Successors that are remembered, about 100 bytes each; more do not excuse anything.
const SUCCESSORS: usize = 1_000_000;

/// Names that are looked at for one that goes on after another.
const BESIDE: usize = 64;

/// A file of so many bytes counts as emptied if less than this part of it is left.
const SHRUNK: u64 = 64;
/// Smaller files may shrink as they like.
const WORTH_BYTES: u64 = 1024;

/// Files, and how many bytes they have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Count {
    pub(super) files: u64,
    pub(super) bytes: u64,
}

impl Count {
    pub(super) fn add(&mut self, bytes: u64) {
        self.files += 1;
        self.bytes = self.bytes.saturating_add(bytes);
    }

    pub(super) fn and(self, other: Self) -> Self {
        Self {
            files: self.files + other.files,
            bytes: self.bytes.saturating_add(other.bytes),
        }
    }
}

/// What an upload does to the files that count.
#[derive(Debug, Default)]
pub(super) struct Harm {
    pub(super) removed: Count,
    pub(super) emptied: Count,
    pub(super) noise: Count,
    /// The first ones, escaped.
    pub(super) paths: Vec<String>,
}

impl Harm {
    pub(super) fn all(&self) -> Count {
        self.removed.and(self.emptied).and(self.noise)
    }
}

/// An upload that is settled and not yet sealed.
pub(super) struct Subject<'a> {
    pub(super) catalog: &'a Catalog,
    pub(super) control: &'a Directory,
    pub(super) live: &'a Directory,
    /// The number that it will have; the base has the one before.
    pub(super) number: u64,
    pub(super) first_entry: u64,
}

/// A bound for the harm that costs little: every file that is not there any more, or has another content.
pub(super) fn bound(subject: &Subject<'_>) -> Result<Count, ReceiverError> {
    let mut bound = Count::default();
    subject.catalog.files_ended(subject.number, |ended| {
        if !is_same(&ended) {
            bound.add(ended.former.size_bytes());
        }
        Ok(())
    })?;
    Ok(bound)
}

/// The files of the base that count.
pub(super) fn total(
    subject: &Subject<'_>,
    ignored: &mut Ignored<'_>,
) -> Result<Count, ReceiverError> {
    let mut total = Count::default();
    let base = subject.number - 1;
    let mut add = |parent: DirectoryId, size: u64| {
        if !ignored.contains(parent)? {
            total.add(size);
        }
        Ok(())
    };
    // The rows that this upload ends are of the base as well.
    subject.catalog.files_of_base(base, &mut add)?;
    Ok(total)
}

/// The harm itself.
pub(super) fn count(
    subject: &Subject<'_>,
    ignored: &mut Ignored<'_>,
) -> Result<Harm, ReceiverError> {
    let mut samples = Samples::new(subject)?;
    let mut successors = Successors::find(subject, &mut samples)?;
    let mut harm = Harm::default();
    subject.catalog.files_ended(subject.number, |ended| {
        if is_same(&ended) || ignored.contains(ended.place.parent)? {
            return Ok(());
        }
        let size = ended.former.size_bytes();
        let counted = match &ended.now {
            Some((id, now)) if matches!(now.node, Node::File { .. }) => {
                match samples.spoilt(&ended, *id, now)? {
                    Some(Spoilt::Emptied) => &mut harm.emptied,
                    Some(Spoilt::Noise) => &mut harm.noise,
                    None => return Ok(()),
                }
            }
            _ => &mut harm.removed,
        };
        if is_elsewhere(subject, &ended.former)? || successors.take(&ended.place, size) {
            return Ok(());
        }
        counted.add(size);
        if harm.paths.len() < PATHS {
            harm.paths.push(samples.path(&ended.place)?);
        }
        Ok(())
    })?;
    Ok(harm)
}

/// Whether only its attributes change.
fn is_same(ended: &Ended) -> bool {
    let content = ended.former.content();
    let now = ended.now.as_ref().map(|(_, now)| now.content());
    now == Some(content)
}

/// Whether the new snapshot has the content under any name.
fn is_elsewhere(subject: &Subject<'_>, former: &Entry) -> Result<bool, ReceiverError> {
    match former.content() {
        Some((size, hash)) if size > 0 => {
            Ok(!subject.catalog.rows_with(hash, subject.number)?.is_empty())
        }
        _ => Ok(false),
    }
}

/// How a file is harmed that is still there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Spoilt {
    Emptied,
    Noise,
}

/// Reads samples of contents before and after.
struct Samples<'a> {
    live: Handles<'a>,
    shelves: Shelves,
    new_directories: NewDirectories<'a>,
}

impl<'a> Samples<'a> {
    fn new(subject: &Subject<'a>) -> Result<Self, ReceiverError> {
        let base = subject.number - 1;
        Ok(Self {
            live: Handles::new(subject.live, subject.catalog, base),
            shelves: Shelves::open(subject.control)?,
            new_directories: NewDirectories::new(Some((subject.catalog, base))),
        })
    }

    /// What a file lost that has another content now.
    fn spoilt(
        &mut self,
        ended: &Ended,
        id: u64,
        now: &Entry,
    ) -> Result<Option<Spoilt>, ReceiverError> {
        let (size, size_now) = (ended.former.size_bytes(), now.size_bytes());
        if size == 0 {
            return Ok(None);
        }
        if size_now == 0 || size >= WORTH_BYTES && size_now < size / SHRUNK {
            return Ok(Some(Spoilt::Emptied));
        }
        let looks_now = match self.staged(id, &ended.place, now)? {
            None | Some(Looks::Plain) => return Ok(None),
            Some(looks) => looks,
        };
        let file = match self.live.get(ended.place.parent) {
            Ok(directory) => directory.open_file(&ended.place.name).ok(),
            Err(_) => None,
        };
        // What cannot be read tells nothing; that is the business of `verify`.
        let former = file.and_then(|file| looks::of_file(&file, size).ok());
        Ok(match (former, looks_now) {
            (Some(Looks::Plain | Looks::Packed), Looks::Noise)
            // Nobody packs a file under its own name.
            | (Some(Looks::Plain), Looks::Packed) => Some(Spoilt::Noise),
            (Some(Looks::Plain | Looks::Packed | Looks::Noise), Looks::Blank) => {
                Some(Spoilt::Emptied)
            }
            _ => None,
        })
    }

    /// What a staged file looks like; `None` if it is none: a further name of another one, or a patch, which leaves most as it was.
    fn staged(
        &mut self,
        id: u64,
        place: &Place,
        entry: &Entry,
    ) -> Result<Option<Looks>, ReceiverError> {
        let file: Option<File> = if self.new_directories.contains(place.parent)? {
            self.shelves
                .incoming(place.parent)?
                .open_file(&place.name)
                .ok()
        } else {
            let (shelf, name) = self.shelves.get(id)?;
            shelf.open_file(&name).ok()
        };
        let looks = file.map(|file| looks::of_file(&file, entry.size_bytes()));
        Ok(looks.transpose()?)
    }

    /// A path of the base for people.
    fn path(&mut self, place: &Place) -> Result<String, ReceiverError> {
        let path = self.live.paths.path(place.parent)?.join(&place.name);
        let shown = path.to_string();
        Ok(escape(
            shown.strip_prefix("files/").unwrap_or(&shown).as_bytes(),
        ))
    }
}

/// New files that stand in for others: of the same name in another directory, as in the next release of an application, or
/// of a name that goes on after the old one in the same directory, as rotated logs have.
struct Successors {
    hasher: RandomState,
    /// By name: how many, and the size of the largest.
    elsewhere: HashMap<u64, (u32, u64)>,
    /// By directory and name: the size.
    beside: HashMap<DirectoryId, BTreeMap<Vec<u8>, u64>>,
    remembered: usize,
}

impl Successors {
    fn find(subject: &Subject<'_>, samples: &mut Samples<'_>) -> Result<Self, ReceiverError> {
        let mut found = Self {
            hasher: RandomState::new(),
            elsewhere: HashMap::new(),
            beside: HashMap::new(),
            remembered: 0,
        };
        let catalog = subject.catalog;
        catalog.files_put(subject.number, subject.first_entry, |put| {
            let size = put.entry.size_bytes();
            // What was there before is no news: its content is found where it is.
            if size == 0 || !put.is_staged || found.remembered >= SUCCESSORS {
                return Ok(());
            }
            let looks = samples.staged(put.id, &put.place, &put.entry)?;
            if !matches!(looks, Some(Looks::Noise | Looks::Blank)) {
                let is_new = catalog.row(&put.place, subject.number - 1)?.is_none();
                found.remember(&put.place, size, is_new);
            }
            Ok(())
        })?;
        Ok(found)
    }

    fn remember(&mut self, place: &Place, size: u64, is_new: bool) {
        self.remembered += 1;
        let name = place.name.as_bytes();
        if is_new {
            let hash = self.hasher.hash_one(name);
            let (count, largest) = self.elsewhere.entry(hash).or_default();
            *count += 1;
            *largest = size.max(*largest);
        }
        let beside = self.beside.entry(place.parent).or_default();
        beside.insert(name.to_vec(), size);
    }

    /// Whether there is one for a file of `size` bytes that stood at `place`; each stands in for one file.
    fn take(&mut self, place: &Place, size: u64) -> bool {
        let least = size / SHRUNK;
        let name = place.name.as_bytes();
        let hash = self.hasher.hash_one(name);
        if let Some((left, largest)) = self.elsewhere.get_mut(&hash)
            && *left > 0
            && *largest >= least
        {
            *left -= 1;
            return true;
        }
        let Some(beside) = self.beside.get_mut(&place.parent) else {
            return false;
        };
        let mut after = beside.range(name.to_vec()..).take(BESIDE);
        let goes_on = |(other, size): &(&Vec<u8>, &u64)| {
            let rest = other.strip_prefix(name).and_then(|rest| rest.first());
            let is_separated = rest.is_some_and(|next| matches!(next, b'.' | b'-' | b'_' | b'~'));
            is_separated && **size >= least
        };
        let Some((found, _)) = after.find(goes_on) else {
            return false;
        };
        let found = found.clone();
        beside.remove(&found).is_some()
    }
}
