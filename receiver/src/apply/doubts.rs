//! Contents that leave the shadow after somebody else wrote into the live tree. The twins share their files, so what was changed in place
//! there has changed here as well: it goes into history only if it still has its hash, and is asked for if nothing has it.

use std::cell::RefCell;

use understudy_protocol::RelPath;
use understudy_tree::{Directory, Kind, Stat, content};

use super::{Transformation, Trust};
use crate::catalog::Row;
use crate::comparison;
use crate::error::ReceiverError;
use crate::findings::{self, Damage, Part, Wish};
use crate::history::Objects;
use crate::resolve::{Handles, Paths};

/// What is doubted in one transformation.
pub(super) struct Doubts<'a> {
    of: &'a Transformation<'a>,
    /// Whether the files of the shadow may have changed.
    are_files_doubted: bool,
    /// The live tree, which need not have what its snapshot says: nobody may have looked yet.
    live: Option<Handles<'a>>,
    lost: RefCell<Vec<Row>>,
}

impl<'a> Doubts<'a> {
    pub(super) fn new(of: &'a Transformation<'a>) -> Result<Self, ReceiverError> {
        let is_absorbed = of.catalog.is_absorbed(of.to)?;
        Ok(Self {
            of,
            are_files_doubted: is_absorbed || of.trust == Trust::Nothing,
            live: of.live.map(|live| Handles::new(live, of.catalog, of.to)),
            lost: RefCell::default(),
        })
    }

    /// Whether a content that the snapshot has elsewhere is in the live tree at none of these places, but still here.
    pub(super) fn is_only_here(
        &mut self,
        shadow: &mut Handles<'_>,
        row: &Row,
        present: &[Row],
    ) -> Result<bool, ReceiverError> {
        let Some(live) = &mut self.live else {
            return Ok(false);
        };
        let here = match shadow.get(row.place.parent) {
            Err(ReceiverError::Tree(error)) if error.is_gone() => None,
            here => here?.stat_if_present(&row.place.name)?,
        };
        let Some(here) = here else {
            return Ok(false);
        };
        for other in present {
            let Ok(directory) = live.get(other.place.parent) else {
                continue;
            };
            let name = &other.place.name;
            let Some(stat) = directory.stat_if_present(name)? else {
                continue;
            };
            if stat.identity == here.identity {
                return Ok(false);
            }
            let privileges = &self.of.dataset.privileges;
            let deviation =
                comparison::deviation((directory, name), &other.entry, &stat, privileges)?;
            if deviation.is_none() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether a file of the shadow may go into history: it has its content, or there is no reason to doubt it.
    pub(super) fn let_pass(&self, directory: &Directory, row: &Row) -> Result<bool, ReceiverError> {
        let Some((size, hash)) = row.entry.content() else {
            return Ok(true);
        };
        let name = &row.place.name;
        let stat = directory.stat_if_present(name)?;
        if !self.are_files_doubted {
            let modified = row.entry.attributes.modified;
            // Nothing there was moved before an interruption.
            let is_as_it_was = |stat: &Stat| stat.size == size && stat.modified == modified;
            if stat.as_ref().is_none_or(is_as_it_was) {
                return Ok(true);
            }
        }
        let is_right = stat.is_some_and(|stat| stat.kind == Kind::File && stat.size == size)
            && directory
                .open_file(name)
                .and_then(|file| content::hash_file(&file, size))
                .is_ok_and(|found| found == hash);
        if !is_right {
            self.lost.borrow_mut().push(row.clone());
        }
        Ok(is_right)
    }

    /// Notes a file that the shadow does not have.
    pub(super) fn miss(&self, row: &Row) {
        if self.are_files_doubted {
            self.lost.borrow_mut().push(row.clone());
        }
    }

    /// Tells what is nowhere any more.
    pub(super) fn tell(self, objects: &Objects) -> Result<(), ReceiverError> {
        let Transformation {
            dataset, catalog, ..
        } = self.of;
        let mut damages: Vec<Damage> = Vec::new();
        let mut paths = Paths::new(catalog, self.of.from);
        for row in self.lost.into_inner() {
            let Some(content) = row.entry.content() else {
                continue;
            };
            if objects.has(content.1)? || damages.iter().any(|one| one.content == Some(content)) {
                continue;
            }
            let path = paths.path(row.place.parent)?.join(&row.place.name);
            let below = path.as_bytes().strip_prefix(b"files/".as_slice());
            let path = below
                .and_then(|path| RelPath::new(path).ok())
                .unwrap_or(path.clone());
            tracing::warn!(dataset = %dataset.name, "somebody changed `{path}` in the live tree, and nothing has the content that it had in snapshot {}: the main is asked for it", row.since);
            damages.push(Damage {
                part: Part::History,
                path,
                content: Some(content),
                what:
                    "was changed in the live tree before it was superseded, and nothing else has it"
                        .to_owned(),
            });
        }
        findings::add(dataset, &damages, Wish::Ask, 0)
    }
}
