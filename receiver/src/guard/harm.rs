//! Counting what a settled upload harms: files that are removed, emptied or turned into noise, and have no successor.

use std::fs::File;

use understudy_protocol::{DirectoryId, Entry, Node, Place, escape};
use understudy_tree::Directory;

use super::ignored::Ignored;
use super::looks::{self, Looks};
use super::successors::Successors;
use crate::catalog::{Catalog, Ended};
use crate::error::ReceiverError;
use crate::names;
use crate::patch::Patch;
use crate::resolve::Handles;
use crate::shelves::{NewDirectories, Shelves};

/// Stretches of a patch that are looked at.
const STRETCHES: usize = 4;
/// Paths that are told of.
const PATHS: usize = 20;
/// Characters of each, escaped, that are told: as many as a name may have four times over.
const PATH_CHARACTERS: usize = 1000;

/// A file of so many bytes counts as emptied if less than this part of it is left.
pub(super) const SHRUNK: u64 = 64;
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
    /// The newest snapshot before it that is no drift, which mostly is the base: what somebody wrote into the live tree is neither harmed
    /// by going, nor does it make less of what goes with it.
    pub(super) meant: u64,
    pub(super) first_entry: u64,
}

/// A bound for the harm that costs little: every file that is not there any more, or has another content.
pub(super) fn bound(subject: &Subject<'_>) -> Result<Count, ReceiverError> {
    let mut bound = Count::default();
    let both = (subject.meant, subject.number);
    subject.catalog.files_ended(both, |ended| {
        if !is_same(&ended) {
            bound.add(ended.former.size_bytes());
        }
        Ok(())
    })?;
    Ok(bound)
}

/// The files that count of the snapshot that is harmed.
pub(super) fn total(
    subject: &Subject<'_>,
    ignored: &mut Ignored<'_>,
) -> Result<Count, ReceiverError> {
    let mut total = Count::default();
    let mut add = |parent: DirectoryId, size: u64| {
        if !ignored.contains(parent)? {
            total.add(size);
        }
        Ok(())
    };
    // The rows that this upload ends are of it as well.
    subject.catalog.files_of(subject.meant, &mut add)?;
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
    let both = (subject.meant, subject.number);
    subject.catalog.files_ended(both, |ended| {
        if is_same(&ended) || ignored.passes(&ended)? {
            return Ok(());
        }
        let size = ended.former.size_bytes();
        let (counted, bytes) = match &ended.now {
            Some((id, now)) if matches!(now.node, Node::File { .. }) => {
                match samples.spoilt(&ended, *id, now)? {
                    Some(Spoilt::Emptied) => (&mut harm.emptied, size),
                    Some(Spoilt::Noise(bytes)) => (&mut harm.noise, bytes),
                    None => return Ok(()),
                }
            }
            _ => (&mut harm.removed, size),
        };
        if is_elsewhere(subject, &ended.former)?
            || successors.take(&mut samples, &ended.place, size)?
        {
            return Ok(());
        }
        counted.add(bytes);
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
    /// With how many bytes.
    Noise(u64),
}

/// Reads samples of contents before and after.
pub(super) struct Samples<'a> {
    live: Handles<'a>,
    shelves: Shelves,
    patches: Directory,
    new_directories: NewDirectories<'a>,
}

impl<'a> Samples<'a> {
    fn new(subject: &Subject<'a>) -> Result<Self, ReceiverError> {
        let base = subject.number - 1;
        Ok(Self {
            live: Handles::new(subject.live, subject.catalog, base),
            shelves: Shelves::open(subject.control)?,
            patches: subject.control.ensure_directory(&names::PATCHES)?,
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
            None => return self.patched(id, &ended.place),
            Some(Looks::Plain) => return Ok(None),
            Some(looks) => looks,
        };
        let file = self.live_file(&ended.place);
        // What cannot be read tells nothing; that is the business of `verify`.
        let former = file.and_then(|file| looks::of_file(&file, size).ok());
        Ok(match (former, looks_now) {
            (Some(Looks::Plain | Looks::Packed), Looks::Noise)
            // Nobody packs a file under its own name.
            | (Some(Looks::Plain), Looks::Packed) => Some(Spoilt::Noise(size)),
            (Some(Looks::Plain | Looks::Packed | Looks::Noise), Looks::Blank) => {
                Some(Spoilt::Emptied)
            }
            _ => None,
        })
    }

    fn live_file(&mut self, place: &Place) -> Option<File> {
        let directory = self.live.get(place.parent).ok()?;
        directory.open_file(&place.name).ok()
    }

    /// Whether a patch writes noise over what had structure, wherever that can be compared. It leaves most of the file as it was; so
    /// only what it writes counts as bytes, and many such files tell more than one.
    fn patched(&mut self, id: u64, place: &Place) -> Result<Option<Spoilt>, ReceiverError> {
        let Ok(patch) = self.patches.open_file(&names::number(id)) else {
            return Ok(None);
        };
        let (Some(stretches), Some(former)) = (Patch::stretches_in(&patch)?, self.live_file(place))
        else {
            return Ok(None);
        };
        let mut is_noise = false;
        for &(start, end) in stretches
            .iter()
            .step_by(stretches.len().div_ceil(STRETCHES))
        {
            let now = looks::of_stretch(&patch, start, end)?;
            // What cannot be read tells nothing.
            match (looks::of_stretch(&former, start, end).ok().flatten(), now) {
                (Some(Looks::Plain | Looks::Packed), Some(Looks::Noise)) => is_noise = true,
                (Some(Looks::Plain), Some(_)) => return Ok(None),
                _ => {}
            }
        }
        let bytes = stretches.iter().map(|(start, end)| end - start).sum();
        Ok(is_noise.then_some(Spoilt::Noise(bytes)))
    }

    /// What a staged file looks like; `None` if it is none: a further name of another one, or a patch.
    pub(super) fn staged(
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
        let path = path.as_bytes();
        Ok(cut(escape(path.strip_prefix(b"files/").unwrap_or(path))))
    }
}

/// What is held is read as a whole by whoever decides, so a main must not make it as long as it likes.
fn cut(mut path: String) -> String {
    if let Some((end, _)) = path.char_indices().nth(PATH_CHARACTERS) {
        path.truncate(end);
        path.push('…');
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_is_told_is_cut_between_characters() {
        let short = "ä".repeat(PATH_CHARACTERS);
        assert_eq!(cut(short.clone()), short);
        let long = cut("ä".repeat(5000));
        assert_eq!(long.chars().count(), PATH_CHARACTERS + 1);
        assert!(long.starts_with(&short) && long.ends_with('…'));
    }
}
