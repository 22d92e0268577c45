//! One pass over everything that a dataset has, in steps: what was read, what was found, and where the next step goes on.
//!
//! Takes no lock: commits go on meanwhile. What looks wrong is looked at again on the ground of that moment before it counts.

use std::collections::HashMap;
use std::fs::File;

use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use understudy_protocol::{ContentHash, DirectoryId, Name, Place, RelPath};
use understudy_tree::content::{self, Extents, HoleyHasher};
use understudy_tree::{Directory, Stat, TreeError, uncached};

use super::ground::Ground;
use super::orphan;
use crate::catalog::{Catalog, Row};
use crate::dataset::Dataset;
use crate::error::ReceiverError;
use crate::findings::{Damage, Part};
use crate::names;
use crate::resolve::Handles;

/// Rows, or files of history, of one step.
pub(super) const STEP: usize = 2048;
/// A step ends when it has read so much.
const STEP_BYTES: u64 = 32 << 20;
pub(super) const APART: &str = "is not hard-linked to the other names of its group";
/// A file is open for so much at a time: one that somebody has open is never changed in place.
const STRETCH_BYTES: u64 = 4 << 20;
/// What is charged for each file beside its bytes: finding it costs a disk about as much as reading this.
const FILE_BYTES: u64 = 16 << 10;

/// How far a pass is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Position {
    /// Nothing was read.
    #[default]
    Begin,
    /// In the live tree.
    Live(Cursor),
    /// In the other twin.
    Twin(Cursor),
    /// Among the files of history: the last shelf and name.
    Objects(Option<(Name, Option<Name>)>),
    /// Among the contents that snapshots need: the last row.
    History(u64),
    /// Everything was read.
    End,
    /// It cannot go on: what it goes by is damaged.
    Broken,
}

/// How far a walk through the directories of a twin is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Cursor {
    /// Those up to it, in the order of their numbers, are read; this one up to `after`. `None` is the root.
    pub(crate) directory: Option<u64>,
    pub(crate) after: Option<Name>,
}

impl Cursor {
    /// The directory that is read.
    pub(super) fn id(&self) -> DirectoryId {
        self.directory.map_or(DirectoryId::TOP, DirectoryId)
    }
}

/// What was read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Tally {
    pub(crate) entries: u64,
    pub(crate) files: u64,
    pub(crate) bytes: u64,
    /// Files and bytes of the other twin that are not those of the live tree.
    pub(crate) twin_files: u64,
    pub(crate) twin_bytes: u64,
    pub(crate) objects: u64,
    pub(crate) object_bytes: u64,
}

impl Tally {
    pub(crate) fn add(&mut self, other: Self) {
        self.entries += other.entries;
        self.files += other.files;
        self.bytes += other.bytes;
        self.twin_files += other.twin_files;
        self.twin_bytes += other.twin_bytes;
        self.objects += other.objects;
        self.object_bytes += other.object_bytes;
    }

    /// What was read of files.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes + self.twin_bytes + self.object_bytes
    }

    /// What it cost the disk.
    pub(crate) fn cost_bytes(&self) -> u64 {
        let files = self.files + self.twin_files + self.objects;
        self.bytes() + files * FILE_BYTES
    }
}

/// What a file costs the disk.
pub(crate) fn cost_bytes(files: u64, bytes: u64) -> u64 {
    bytes.saturating_add(files.saturating_mul(FILE_BYTES))
}

/// Something wrong, with what is to be mended.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) damage: Damage,
    pub(crate) subject: Subject,
}

/// What is to be mended.
#[derive(Debug)]
pub(crate) enum Subject {
    /// Nothing of a twin.
    Other,
    /// The content of a file.
    Content(Row),
    /// What stands at the place of a row, or does not.
    Name(Row),
    /// What stands where no row is.
    Extra(Place),
}

impl Found {
    pub(super) fn at(part: Part, path: &RelPath, what: impl Into<String>) -> Self {
        Self {
            damage: Damage {
                part,
                path: path.clone(),
                content: None,
                what: what.into(),
            },
            subject: Subject::Other,
        }
    }

    /// The same of something in a twin that can be put right.
    pub(super) fn about(self, subject: Subject) -> Self {
        Self { subject, ..self }
    }

    /// The row whose file is wrong.
    pub(super) fn content_row(&self) -> Option<&Row> {
        match &self.subject {
            Subject::Content(row) => Some(row),
            _ => None,
        }
    }
}

/// The first place seen of each hard-link group, and its row.
pub(super) type Groups = HashMap<u64, (Place, u64)>;

/// Is told of what was read, while no file is open; may wait, and may end everything.
pub(crate) type Pace<'a> = &'a mut dyn FnMut(u64) -> Result<(), ReceiverError>;

/// Reads one dataset.
pub(crate) struct Reading<'a> {
    pub(super) dataset: &'a Dataset,
    pub(super) pace: Pace<'a>,
    pub(super) tally: Tally,
    /// Of the step.
    pub(super) found: Vec<Found>,
    /// Of the live tree and of the other twin.
    pub(super) groups: Groups,
    pub(super) twin_groups: Groups,
    disk: uncached::Reader,
}

impl<'a> Reading<'a> {
    pub(crate) fn new(dataset: &'a Dataset, pace: Pace<'a>) -> Self {
        Self {
            dataset,
            pace,
            tally: Tally::default(),
            found: Vec::new(),
            groups: Groups::new(),
            twin_groups: Groups::new(),
            disk: uncached::Reader::default(),
        }
    }

    /// What was read since the last call.
    pub(crate) fn take_tally(&mut self) -> Tally {
        std::mem::take(&mut self.tally)
    }

    /// Reads on from a position for a while; returns the next one, and what is wrong.
    pub(crate) fn step(
        &mut self,
        position: Position,
    ) -> Result<(Position, Vec<Found>), ReceiverError> {
        let ended = match Ground::open(self.dataset) {
            Err(error @ ReceiverError::Tree(_)) => Err(error),
            opened => self.step_on(opened?, position),
        };
        let next = match ended {
            Err(ReceiverError::Damaged(what)) => {
                self.found
                    .push(Found::at(Part::Catalog, &RelPath::root(), what));
                Position::Broken
            }
            Err(ReceiverError::Tree(error)) if is_of_disk(&error) => {
                let what = format!("cannot be read, and nothing behind it was: {error}");
                self.found
                    .push(Found::at(Part::Catalog, &RelPath::root(), what));
                Position::Broken
            }
            ended => ended?,
        };
        Ok((next, std::mem::take(&mut self.found)))
    }

    fn step_on(
        &mut self,
        ground: Option<Ground>,
        position: Position,
    ) -> Result<Position, ReceiverError> {
        let Some(ground) = ground else {
            return orphan::without_snapshot(self.dataset, position);
        };
        match position {
            Position::Begin => self.begin(&ground),
            Position::Live(cursor) => self.live(&ground, cursor),
            Position::Twin(cursor) => self.twin(&ground, cursor),
            Position::Objects(after) => self.objects(&ground, after),
            Position::History(after) => self.history(after),
            ended @ (Position::End | Position::Broken) => Ok(ended),
        }
    }

    /// Whether a step that began with `before` should end.
    pub(super) fn is_enough(&self, before: &Tally) -> bool {
        self.tally.cost_bytes() - before.cost_bytes() > STEP_BYTES
    }

    /// The catalog by itself, and whether the live tree is what it should be.
    fn begin(&mut self, ground: &Ground) -> Result<Position, ReceiverError> {
        let mut found = |what: String| {
            self.found
                .push(Found::at(Part::Catalog, &RelPath::root(), what));
        };
        for line in ground.catalog.check()? {
            found(format!("catalog: {line}"));
        }
        let at = ground.at();
        match ground.catalog.wrong_digests() {
            Ok(wrong) => wrong.into_iter().for_each(|number| {
                found(format!(
                    "the catalog's entries of snapshot {number} do not have its digest"
                ));
            }),
            Err(ReceiverError::Damaged(what)) => found(what),
            Err(error) => return Err(error),
        }
        if ground.live.is_none() {
            found("the live tree is missing".to_owned());
            return Ok(Position::Broken);
        }
        if !ground.is_settled {
            found(format!(
                "the file SNAPSHOT does not say that this is snapshot {at}"
            ));
        }
        Ok(Position::Live(Cursor::default()))
    }

    /// What is wrong with the content of a file, if anything.
    pub(super) fn content_of(
        &mut self,
        directory: &Directory,
        name: &Name,
        (size, hash): (u64, ContentHash),
    ) -> Result<Option<String>, ReceiverError> {
        match self.hash(|| Ok(directory.open_file(name)?), size) {
            Ok(found) if found == hash => Ok(None),
            Ok(_) => Ok(Some(
                "its content is not what the main sent (hash differs)".to_owned(),
            )),
            Err(error @ (ReceiverError::Tree(_) | ReceiverError::Damaged(_))) => {
                Ok(Some(format!("cannot be read: {error}")))
            }
            Err(error) => Err(error),
        }
    }

    /// Hashes `size` bytes of a file past the page cache. It is not open while the pace makes this wait.
    fn hash(
        &mut self,
        open: impl Fn() -> Result<File, ReceiverError>,
        size: u64,
    ) -> Result<ContentHash, ReceiverError> {
        let mut hasher = HoleyHasher::default();
        let mut start = 0;
        (self.pace)(FILE_BYTES)?;
        while start < size {
            let end = size.min(start + STRETCH_BYTES);
            let file = open()?;
            if content::size(&file)? < size {
                let what = "the file became shorter while it was read";
                return Err(ReceiverError::Damaged(what.to_owned()));
            }
            let stretch = start..end;
            self.disk
                .read_stretch(&file, &mut Extents::default(), stretch, |offset, data| {
                    hasher.update(offset, data);
                    Ok(())
                })?;
            drop(file);
            (self.pace)(end - start)?;
            start = end;
        }
        Ok(hasher.finish(size))
    }
}

/// Whether a name of a hard-link group has another inode than the first one seen in a twin, which shows snapshot `at`.
pub(super) fn is_apart(
    groups: &mut Groups,
    (catalog, at): (&Catalog, u64),
    handles: &mut Handles<'_>,
    (row, stat): (&Row, &Stat),
) -> Result<bool, ReceiverError> {
    if row.entry.group == 0 {
        return Ok(false);
    }
    let own = (row.place.clone(), row.id);
    let first = groups.entry(row.entry.group).or_insert(own.clone());
    if *first == own {
        return Ok(false);
    }
    let place = first.0.clone();
    let now = catalog.row(&place, at)?;
    if now.is_none_or(|now| now.entry.group != row.entry.group) {
        *first = own;
        return Ok(false);
    }
    let first = handles
        .get(place.parent)
        .and_then(|directory| Ok(directory.stat_if_present(&place.name)?));
    Ok(first?.is_some_and(|first| first.identity.inode != stat.identity.inode))
}

/// What a directory has that no row is about; `last` are its rows that were read last, in the order of the names.
pub(super) fn without_row(
    catalog: &Catalog,
    (id, at): (DirectoryId, u64),
    names: Vec<Name>,
    last: &[Row],
) -> Result<Vec<Place>, ReceiverError> {
    let mut extra = Vec::new();
    for name in names {
        let is_marker = id == DirectoryId::TOP && name == *names::SNAPSHOT;
        let is_known = last
            .binary_search_by(|row| row.place.name.cmp(&name))
            .is_ok();
        let place = Place::new(id, name);
        if !is_marker && !is_known && catalog.row(&place, at)?.is_none() {
            extra.push(place);
        }
    }
    extra.sort_unstable();
    Ok(extra)
}

/// Whether an error says something of what is on the disk: not of this process, nor that something has gone meanwhile.
pub(super) fn is_of_disk(error: &TreeError) -> bool {
    let of_process = [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::INTR];
    let is_of_process = error
        .errno()
        .is_none_or(|errno| of_process.contains(&errno));
    !is_of_process && !error.is_gone()
}

/// Below the root `files`, paths are told as on the main.
pub(super) fn shown(path: &RelPath) -> RelPath {
    let below = path.as_bytes().strip_prefix(b"files/".as_slice());
    below
        .and_then(|path| RelPath::new(path).ok())
        .unwrap_or_else(|| path.clone())
}
