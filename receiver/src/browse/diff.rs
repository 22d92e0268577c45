//! What differs between two snapshots, from the rows that only one of them has: what is the same costs nothing.
//!
//! Directories are the same if they have the same number, else if they stand at the same name of directories that are
//! the same. Everything else is compared with what has its name in the same directory.

use std::collections::HashMap;

use understudy_protocol::message::Difference;
use understudy_protocol::{ContentHash, DirectoryId, Entry, limits};

use super::side::Side;
use crate::catalog::{Between, Catalog, Row, TWINS};
use crate::error::ReceiverError;

/// Contents of which is remembered whether they moved.
const REMEMBERED: usize = 1 << 16;

/// Tells what is to be done with snapshot `from` to get `to`.
pub(super) fn differences(
    catalog: &Catalog,
    from: u64,
    to: u64,
    mut tell: impl FnMut(Difference) -> Result<(), ReceiverError>,
) -> Result<(), ReceiverError> {
    let (earlier, later) = (from.min(to), from.max(to));
    if earlier == later {
        return Ok(());
    }
    let towards = if from < to {
        Towards::Later
    } else {
        Towards::Earlier
    };
    let mut diff = Diff::new(catalog, (earlier, later), towards)?;
    let mut tell = |difference: Option<Difference>| match (difference, towards) {
        (None, _) => Ok(()),
        (Some(difference), Towards::Later) => tell(difference),
        (Some(difference), Towards::Earlier) => tell(turned(difference)),
    };
    let mut after = None;
    loop {
        let rows = catalog.rows_gone(&diff.between, after)?;
        let Some(last) = rows.last() else { break };
        after = last.until.map(|until| (until, last.id));
        for row in rows {
            for difference in diff.gone(row)? {
                tell(Some(difference))?;
            }
        }
    }
    let mut after = None;
    loop {
        let rows = catalog.rows_come(&diff.between, after)?;
        let Some(last) = rows.last() else { break };
        after = Some(last.id);
        for row in rows {
            tell(diff.come(row)?)?;
        }
    }
    Ok(())
}

/// The same, looked at from the other end.
fn turned(difference: Difference) -> Difference {
    match difference {
        Difference::Added { path, entry } => Difference::Removed { path, entry },
        Difference::Removed { path, entry } => Difference::Added { path, entry },
        Difference::Changed {
            path,
            before,
            after,
        } => Difference::Changed {
            path,
            before: after,
            after: before,
        },
        Difference::Moved {
            from,
            path,
            before,
            after,
        } => Difference::Moved {
            from: path,
            path: from,
            before: after,
            after: before,
        },
    }
}

/// Which snapshot is to be got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Towards {
    Later,
    Earlier,
}

/// What is told of what two rows have.
type Told = Vec<Difference>;

struct Diff<'a> {
    catalog: &'a Catalog,
    between: Between,
    towards: Towards,
    earlier: Side<'a>,
    later: Side<'a>,
    /// For contents: the one row that is gone and the one that has come, if there is one of each.
    moves: HashMap<ContentHash, Option<(Row, Row)>>,
    finds_contents: bool,
}

impl<'a> Diff<'a> {
    fn new(
        catalog: &'a Catalog,
        (earlier, later): (u64, u64),
        towards: Towards,
    ) -> Result<Self, ReceiverError> {
        Ok(Self {
            catalog,
            between: catalog.between(earlier, later)?,
            towards,
            earlier: Side::new(catalog, earlier, later),
            later: Side::new(catalog, later, earlier),
            moves: HashMap::new(),
            finds_contents: catalog.finds_contents()?,
        })
    }

    /// What became of a row that only the earlier snapshot has.
    fn gone(&mut self, row: Row) -> Result<Told, ReceiverError> {
        let there = self.earlier.counterpart(self.catalog, &row.place)?;
        if let Some(id) = row.entry.directory_id() {
            if let Some(now) = self.catalog.directory_row(id, self.later.at)? {
                return if there.as_ref() == Some(&now.place) {
                    Ok(self.changed(row, now)?.into_iter().collect())
                } else {
                    self.moved(row, now)
                };
            }
            if let Some(same) = self.earlier.same(self.catalog, id)?
                && let Some(now) = self.catalog.directory_row(same, self.later.at)?
            {
                return Ok(self.changed(row, now)?.into_iter().collect());
            }
        }
        if let Some(now) = self.later.at_place(self.catalog, there)?
            && self.takes_its_place(&row, &now)?
        {
            return Ok(self.changed(row, now)?.into_iter().collect());
        }
        if let Some((gone, come)) = self.move_of(&row)?
            && gone.id == row.id
        {
            return self.moved(row, come);
        }
        Ok(vec![Difference::Removed {
            path: self.earlier.paths.of(&row.place)?,
            entry: row.entry,
        }])
    }

    /// What a row is that only the later snapshot has, unless [`Self::gone`] tells of it.
    fn come(&mut self, row: Row) -> Result<Option<Difference>, ReceiverError> {
        if let Some(id) = row.entry.directory_id()
            && (self.catalog.directory_row(id, self.earlier.at)?.is_some()
                || self.later.same(self.catalog, id)?.is_some())
        {
            return Ok(None);
        }
        let there = self.later.counterpart(self.catalog, &row.place)?;
        if let Some(before) = self.earlier.at_place(self.catalog, there)?
            && self.takes_its_place(&before, &row)?
        {
            return Ok(None);
        }
        if self
            .move_of(&row)?
            .is_some_and(|(_, come)| come.id == row.id)
        {
            return Ok(None);
        }
        Ok(Some(Difference::Added {
            path: self.later.paths.of(&row.place)?,
            entry: row.entry,
        }))
    }

    /// Whether two rows of one place, which are not the same directory, are told as one change: neither is a directory
    /// that the other snapshot has elsewhere, and not both are directories.
    fn takes_its_place(&self, before: &Row, now: &Row) -> Result<bool, ReceiverError> {
        let (old, new) = (before.entry.directory_id(), now.entry.directory_id());
        let has = |id: Option<DirectoryId>, at| match id {
            None => Ok(false),
            Some(id) => Ok::<_, ReceiverError>(self.catalog.directory_row(id, at)?.is_some()),
        };
        Ok((old.is_none() || new.is_none())
            && !has(old, self.later.at)?
            && !has(new, self.earlier.at)?)
    }

    fn changed(&mut self, before: Row, now: Row) -> Result<Option<Difference>, ReceiverError> {
        if self.is_same(&before, &now)? {
            return Ok(None);
        }
        Ok(Some(Difference::Changed {
            path: match self.towards {
                Towards::Later => self.later.paths.of(&now.place)?,
                Towards::Earlier => self.earlier.paths.of(&before.place)?,
            },
            before: before.entry,
            after: bare(now.entry),
        }))
    }

    /// Whether nothing differs that is the entry's own: neither its number as a directory nor its hard links.
    fn is_same(&self, before: &Row, now: &Row) -> Result<bool, ReceiverError> {
        let are_directories =
            before.entry.directory_id().is_some() && now.entry.directory_id().is_some();
        if !are_directories && before.entry.node != now.entry.node {
            return Ok(false);
        }
        // Pages have no extended attributes.
        let attributes = |row: &Row| {
            let whole = self.catalog.row_by_id(row.id)?;
            Ok::<_, ReceiverError>(whole.map(|row| row.entry.attributes))
        };
        Ok(attributes(before)? == attributes(now)?)
    }

    fn moved(&mut self, before: Row, now: Row) -> Result<Told, ReceiverError> {
        let from = self.earlier.paths.of(&before.place)?;
        let path = self.later.paths.of(&now.place)?;
        let (before, after) = (before.entry, bare(now.entry));
        // Both must fit one message.
        if from.as_bytes().len() + path.as_bytes().len() > limits::BODY_BYTES / 2 {
            let removed = Difference::Removed {
                path: from,
                entry: before,
            };
            return Ok(vec![removed, Difference::Added { path, entry: after }]);
        }
        Ok(vec![Difference::Moved {
            from,
            path,
            before,
            after,
        }])
    }

    /// Where the content of a file stood and where it stands now, if that is plain.
    fn move_of(&mut self, row: &Row) -> Result<Option<(Row, Row)>, ReceiverError> {
        let Some((_, hash)) = row.entry.content().filter(|(size, _)| *size > 0) else {
            return Ok(None);
        };
        if !self.finds_contents {
            return Ok(None);
        }
        if let Some(known) = self.moves.get(&hash) {
            return Ok(known.clone());
        }
        let found = self.find_move(hash)?;
        if self.moves.len() >= REMEMBERED {
            self.moves.clear();
        }
        self.moves.insert(hash, found.clone());
        Ok(found)
    }

    fn find_move(&mut self, hash: ContentHash) -> Result<Option<(Row, Row)>, ReceiverError> {
        let gone = self.catalog.twins_gone(&self.between, hash)?;
        let come = self.catalog.twins_come(&self.between, hash)?;
        if gone.len() >= TWINS || come.len() >= TWINS {
            return Ok(None);
        }
        let (mut left, mut right) = (Vec::new(), Vec::new());
        for row in gone {
            let there = self.earlier.counterpart(self.catalog, &row.place)?;
            let now = self.later.at_place(self.catalog, there)?;
            let stays = match now {
                Some(now) => self.takes_its_place(&row, &now)?,
                None => false,
            };
            left.extend((!stays).then_some(row));
        }
        for row in come {
            let there = self.later.counterpart(self.catalog, &row.place)?;
            let before = self.earlier.at_place(self.catalog, there)?;
            let stays = match before {
                Some(before) => self.takes_its_place(&before, &row)?,
                None => false,
            };
            right.extend((!stays).then_some(row));
        }
        Ok(match (left.as_slice(), right.as_slice()) {
            ([gone], [come]) => Some((gone.clone(), come.clone())),
            _ => None,
        })
    }
}

/// Without extended attributes, which lists do not have.
fn bare(mut entry: Entry) -> Entry {
    entry.attributes.xattrs = Vec::new();
    entry
}
