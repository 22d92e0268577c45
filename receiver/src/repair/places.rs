//! Names of the twins that are missing, or at which something else stands than should: put right in the shadow first, which then
//! changes places with the live tree, so that readers see all of them at once, or none yet.
//!
//! Both twins show the same snapshot, before and after. Each step puts one place right, and takes nothing away that is
//! right or that somebody has put there: so whatever is interrupted, the next repair finds the rest.

use std::collections::{HashMap, HashSet};

use rustix::io::Errno;
use understudy_protocol::{DirectoryId, Name, Node, Place, RelPath};
use understudy_tree::attributes::{set_attributes, set_attributes_of_new};
use understudy_tree::{Directory, Identity, Kind, content, crash_point, node};

use super::{Repairer, is_sound, remove};
use crate::apply::finish_directories;
use crate::catalog::Row;
use crate::cycle;
use crate::error::ReceiverError;
use crate::library::Library;
use crate::names;
use crate::resolve::{Changing, Handles, Paths};
use crate::standing::{differs, is_another, is_written};

/// What is still to be done in a twin.
enum Waiting {
    /// What stands at the place of a row.
    Row(Row),
    /// What a directory has after a name.
    Below(DirectoryId, Option<Name>),
}

/// What became of a place in one twin.
enum Put {
    Right,
    /// A directory was made; nothing is in it.
    Made(DirectoryId),
    /// The spare does not have the content.
    Lost,
}

/// The rows of each hard-link group, once they are needed.
type Groups = HashMap<u64, Vec<u64>>;

impl Repairer<'_> {
    /// Puts right what stands at the places of some rows, with all that is below them. It is durable when this returns. Returns the
    /// files whose contents the spare does not have.
    pub(crate) fn repair_names(&mut self, rows: &[Row]) -> Result<Vec<Row>, ReceiverError> {
        self.dataset.wait_for_readers(&self.shadow)?;
        let mut groups = None;
        let lost = self.put_right((&self.shadow, &self.live), rows, &mut groups)?;
        let mut is_built = false;
        for row in rows {
            is_built = is_built
                || self.is_misplaced(&self.live, row, &mut groups)?
                    && !self.is_misplaced(&self.shadow, row, &mut groups)?;
        }
        self.dataset.sync()?;
        crash_point!("receiver.names-built");
        if is_built {
            cycle::switch(self.dataset)?;
            std::mem::swap(&mut self.live, &mut self.shadow);
            self.library = Library::open(self.dataset)?;
            self.dataset.wait_for_readers(&self.shadow)?;
            self.put_right((&self.shadow, &self.live), rows, &mut groups)?;
        } else {
            // Readers see attributes change, and nothing else.
            let mut standing = Vec::new();
            for row in rows {
                if !self.is_misplaced(&self.live, row, &mut groups)? {
                    standing.push(row.clone());
                }
            }
            self.set_attributes_of(&self.live, &standing)?;
        }
        self.dataset.sync()?;
        Ok(lost)
    }

    /// The row that is to be put right for another one, which may have been read before commits that have ended it since.
    pub(crate) fn name_now(&self, row: &Row) -> Result<Option<Row>, ReceiverError> {
        self.library.catalog.row(&row.place, self.at)
    }

    /// What is still wrong at the place of a row in a twin, if anything.
    pub(crate) fn is_wrong(&self, row: &Row) -> Result<bool, ReceiverError> {
        let mut groups = None;
        for twin in [&self.shadow, &self.live] {
            if self.is_misplaced(twin, row, &mut groups)? {
                return Ok(true);
            }
            let mut handles = self.handles(twin);
            let directory = handles.get(row.place.parent)?;
            if let Some(stat) = directory.stat_if_present(&row.place.name)?
                && differs(&self.dataset.privileges, directory, row, &stat)?.is_some()
            {
                return Ok(true);
            }
            if let Node::Directory { id } = row.entry.node {
                handles.get(id)?;
            }
        }
        Ok(false)
    }

    /// The path of a row, below its twin.
    pub(crate) fn path_of(&self, row: &Row) -> Result<RelPath, ReceiverError> {
        let mut paths = Paths::new(&self.library.catalog, self.at);
        Ok(paths.path(row.place.parent)?.join(&row.place.name))
    }

    /// Moves what stands where no row is to where it is kept; returns where that is, `None` if nothing stands there.
    pub(crate) fn take_away(&self, place: &Place) -> Result<Option<String>, ReceiverError> {
        let catalog = &self.library.catalog;
        if catalog.row(place, self.at)?.is_some()
            || place.parent != DirectoryId::TOP
                && catalog.directory_row(place.parent, self.at)?.is_none()
        {
            return Ok(None);
        }
        let mut kept = None;
        for twin in [&self.shadow, &self.live] {
            let mut handles = self.handles(twin);
            let directory = match handles.get(place.parent) {
                Err(ReceiverError::Tree(error)) if error.is_gone() => continue,
                directory => directory?,
            };
            if directory.stat_if_present(&place.name)?.is_none() {
                continue;
            }
            kept = Some(self.keep(directory, &place.name)?);
            let touched = HashSet::from([place.parent]);
            self.finish(twin, touched)?;
        }
        self.dataset.sync()?;
        Ok(kept)
    }

    /// Moves something to where it is kept; returns where that is, below the dataset. Durable with the next sync.
    pub(super) fn keep(&self, directory: &Directory, name: &Name) -> Result<String, ReceiverError> {
        let (to, told) = self.place_to_keep(name)?;
        directory.rename_new(name, &to, name)?;
        Ok(told)
    }

    /// Keeps a file that is about to lose its name, as [`Self::keep`] does.
    pub(super) fn keep_file(
        &self,
        directory: &Directory,
        name: &Name,
    ) -> Result<String, ReceiverError> {
        let (to, told) = self.place_to_keep(name)?;
        directory.link(name, &to, name)?;
        to.sync()?;
        Ok(told)
    }

    fn place_to_keep(&self, name: &Name) -> Result<(Directory, String), ReceiverError> {
        let kept = self.dataset.control.ensure_directory(&names::KEPT)?;
        let mut number = self.kept.get();
        loop {
            number += 1;
            match kept.create_directory(&names::number(number)) {
                Err(error) if error.errno() == Some(Errno::EXIST) => {}
                made => break made?,
            }
        }
        self.kept.set(number);
        kept.sync()?;
        let to = kept.open_directory(&names::number(number))?;
        let (control, kept) = (&*names::CONTROL, &*names::KEPT);
        Ok((to, format!("{control}/{kept}/{number}/{name}")))
    }

    fn handles<'h>(&'h self, twin: &'h Directory) -> Handles<'h> {
        Handles::new(twin, &self.library.catalog, self.at)
    }

    /// Whether something else than a row says stands at its place, or nothing.
    fn is_misplaced(
        &self,
        twin: &Directory,
        row: &Row,
        groups: &mut Option<Groups>,
    ) -> Result<bool, ReceiverError> {
        let mut handles = self.handles(twin);
        let directory = match handles.get(row.place.parent) {
            Err(ReceiverError::Tree(error)) if error.is_gone() => return Ok(true),
            directory => directory?,
        };
        let Some(stat) = directory.stat_if_present(&row.place.name)? else {
            return Ok(node::can_exist(&row.entry, &self.dataset.privileges));
        };
        Ok(is_another(directory, row, &stat)?.is_some() || self.is_apart(twin, row, groups)?)
    }

    /// Whether a name of a hard-link group is another file than the first of them that is there.
    fn is_apart(
        &self,
        twin: &Directory,
        row: &Row,
        groups: &mut Option<Groups>,
    ) -> Result<bool, ReceiverError> {
        if row.entry.group == 0 {
            return Ok(false);
        }
        let mut handles = self.handles(twin);
        let mut first = None;
        for one in self.group_of(row, groups)? {
            let found = identity(&mut handles, &one.place)?;
            first = first.or(found);
            if one.id == row.id {
                return Ok(found != first);
            }
        }
        Ok(false)
    }

    /// All names of a row's hard-link group, in the order of their places.
    fn group_of(&self, row: &Row, groups: &mut Option<Groups>) -> Result<Vec<Row>, ReceiverError> {
        let catalog = &self.library.catalog;
        if groups.is_none() {
            let mut all = Groups::new();
            catalog.rows_at(self.at, |row| {
                if row.entry.group != 0 {
                    all.entry(row.entry.group).or_default().push(row.id);
                }
                Ok(())
            })?;
            *groups = Some(all);
        }
        let ids = groups
            .as_ref()
            .and_then(|groups| groups.get(&row.entry.group));
        let mut rows = Vec::new();
        for id in ids.into_iter().flatten() {
            rows.extend(catalog.row_by_id(*id)?);
        }
        rows.sort_by(|one, other| one.place.cmp(&other.place));
        Ok(rows)
    }

    /// Puts places of a twin right, from what the other one has and from wherever the spare has a content. Returns what it has
    /// nowhere. Nothing is synced.
    fn put_right(
        &self,
        (twin, other): (&Directory, &Directory),
        rows: &[Row],
        groups: &mut Option<Groups>,
    ) -> Result<Vec<Row>, ReceiverError> {
        let catalog = &self.library.catalog;
        let mut new = Changing::new(twin, catalog, self.at, self.dataset.privileges);
        let mut theirs = self.handles(other);
        let mut lost = Vec::new();
        for row in rows {
            let mut waiting = vec![Waiting::Row(self.topmost(twin, row)?)];
            while let Some(next) = waiting.pop() {
                match next {
                    Waiting::Below(id, after) => {
                        let rows = catalog.rows_in(id, self.at, after.as_ref())?;
                        if let Some(last) = rows.last() {
                            waiting.push(Waiting::Below(id, Some(last.place.name.clone())));
                        }
                        waiting.extend(rows.into_iter().map(Waiting::Row));
                    }
                    Waiting::Row(row) => {
                        crash_point!("receiver.repaired-name");
                        match self.put((twin, &mut new), &mut theirs, &row)? {
                            Put::Made(id) => waiting.push(Waiting::Below(id, None)),
                            Put::Right if row.entry.group != 0 => {
                                self.unite(twin, &mut new, &self.group_of(&row, groups)?)?;
                            }
                            Put::Right => {}
                            Put::Lost => lost.push(row),
                        }
                    }
                }
            }
        }
        let touched = new.into_touched();
        self.finish(twin, touched)?;
        self.set_attributes_of(twin, rows)?;
        Ok(lost)
    }

    /// The row itself, or the topmost of the directories above it that a twin does not have.
    fn topmost(&self, twin: &Directory, row: &Row) -> Result<Row, ReceiverError> {
        let catalog = &self.library.catalog;
        let mut topmost = row.clone();
        let mut above = row.place.parent;
        while above != DirectoryId::TOP {
            match self.handles(twin).get(above) {
                Err(ReceiverError::Tree(error)) if error.is_gone() => {}
                opened => return opened.map(|_| topmost),
            }
            let directory = catalog.directory_row(above, self.at)?;
            let directory = directory.ok_or_else(|| {
                let text = format!("the catalog has no directory {}", above.0);
                ReceiverError::Damaged(text)
            })?;
            above = directory.place.parent;
            topmost = directory;
        }
        Ok(topmost)
    }

    /// Puts one place right. What stood there instead is kept.
    fn put(
        &self,
        (twin, new): (&Directory, &mut Changing<'_>),
        theirs: &mut Handles<'_>,
        row: &Row,
    ) -> Result<Put, ReceiverError> {
        let (name, privileges) = (&row.place.name, &self.dataset.privileges);
        let mut handles = self.handles(twin);
        let directory = handles.get(row.place.parent)?;
        let stat = directory.stat_if_present(name)?;
        let is_right = match &stat {
            Some(stat) => is_another(directory, row, stat)?.is_none(),
            None => !node::can_exist(&row.entry, privileges),
        };
        if is_right {
            return Ok(Put::Right);
        }
        let trash = self.dataset.control.ensure_directory(&names::TRASH)?;
        let id = row.entry.directory_id();
        if id.is_none() && !self.prepare(&trash, theirs, row)? {
            return Ok(Put::Lost);
        }
        let directory = new.get(row.place.parent)?;
        if stat.is_some() {
            let kept = self.keep(directory, name)?;
            tracing::warn!(dataset = %self.dataset.name, "what stood in the place of {:?} is kept as `{kept}`", row.place);
        }
        match id {
            Some(id) => {
                directory.create_directory(name)?;
                new.get(id)?;
                Ok(Put::Made(id))
            }
            None => {
                trash.rename(&names::REPAIRED_LINK, directory, name)?;
                Ok(Put::Right)
            }
        }
    }

    /// Makes `repaired.link` what is to stand at the place of a row: what the other twin has there, or a new one. `false` if the
    /// spare does not have its content.
    fn prepare(
        &self,
        trash: &Directory,
        theirs: &mut Handles<'_>,
        row: &Row,
    ) -> Result<bool, ReceiverError> {
        let name = &row.place.name;
        remove(trash, &names::REPAIRED_LINK)?;
        let there = theirs.get(row.place.parent);
        let there = there.ok().filter(|directory| stands(directory, row));
        if let Some(directory) = there {
            match directory.link(name, trash, &names::REPAIRED_LINK) {
                // It has as many names as it can have.
                Err(error) if error.errno() == Some(Errno::MLINK) => {}
                linked => return Ok(linked.map(|()| true)?),
            }
        }
        let Some(content) = row.entry.content() else {
            let privileges = &self.dataset.privileges;
            node::create_special(trash, &names::REPAIRED_LINK, &row.entry, privileges)?;
            return Ok(true);
        };
        let (trash, file) = self.empty_file()?;
        let is_filled = self.fill(content, &file)?;
        if is_filled {
            set_attributes_of_new(&file, &row.entry.attributes, &self.dataset.privileges)?;
            content::sync(&file)?;
            trash.rename(&names::REPAIRED, &trash, &names::REPAIRED_LINK)?;
        }
        remove(&trash, &names::REPAIRED)?;
        Ok(is_filled)
    }

    /// Makes the names of a hard-link group that are there one file of a twin.
    fn unite(
        &self,
        twin: &Directory,
        new: &mut Changing<'_>,
        group: &[Row],
    ) -> Result<(), ReceiverError> {
        let mut handles = self.handles(twin);
        let mut first: Option<(&Row, Identity)> = None;
        for row in group {
            let Some(found) = identity(&mut handles, &row.place)? else {
                continue;
            };
            let directory = handles.get(row.place.parent)?;
            if !stands(directory, row) {
                continue;
            }
            match first {
                None => first = Some((row, found)),
                Some((_, identity)) if identity == found => {}
                Some((leader, _)) => {
                    let trash = self.dataset.control.ensure_directory(&names::TRASH)?;
                    remove(&trash, &names::REPAIRED_LINK)?;
                    let from = handles.get(leader.place.parent)?;
                    match from.link(&leader.place.name, &trash, &names::REPAIRED_LINK) {
                        // The rest goes by other files.
                        Err(error) if error.errno() == Some(Errno::MLINK) => return Ok(()),
                        linked => linked?,
                    }
                    let directory = new.get(row.place.parent)?;
                    trash.rename(&names::REPAIRED_LINK, directory, &row.place.name)?;
                }
            }
        }
        Ok(())
    }

    fn finish(&self, twin: &Directory, touched: HashSet<DirectoryId>) -> Result<(), ReceiverError> {
        let of = (&self.library.catalog, self.at, &self.dataset.privileges);
        finish_directories(self.handles(twin), touched, of)?;
        Ok(())
    }

    /// Sets the attributes of what stands at the places of rows where they are others.
    fn set_attributes_of(&self, twin: &Directory, rows: &[Row]) -> Result<(), ReceiverError> {
        let privileges = &self.dataset.privileges;
        let mut handles = self.handles(twin);
        for row in rows {
            let (directory, name) = match handles.get(row.place.parent) {
                Err(ReceiverError::Tree(error)) if error.is_gone() => continue,
                directory => (directory?, &row.place.name),
            };
            if let Some(stat) = directory.stat_if_present(name)?
                && is_another(directory, row, &stat)?.is_none()
                && differs(privileges, directory, row, &stat)?.is_some()
            {
                set_attributes(directory, name, &row.entry, privileges)?;
            }
        }
        Ok(())
    }

    /// Keeps what a repair is about to replace, if somebody has written it; `kept` is what was kept last.
    pub(super) fn keep_written(
        &self,
        directory: &Directory,
        (name, row): (&Name, &Row),
        kept: &mut Option<Identity>,
    ) -> Result<(), ReceiverError> {
        let Some(stat) = directory.stat_if_present(name)? else {
            return Ok(());
        };
        if !is_written(row, &stat) || *kept == Some(stat.identity) {
            return Ok(());
        }
        *kept = Some(stat.identity);
        let place = match stat.kind {
            // Its name is replaced in one step.
            Kind::File => self.keep_file(directory, name)?,
            _ => self.keep(directory, name)?,
        };
        tracing::warn!(dataset = %self.dataset.name, "what was written to {:?} is kept as `{place}`", row.place);
        Ok(())
    }
}

/// Whether a twin has there what a row says; a content is read for it.
fn stands(directory: &Directory, row: &Row) -> bool {
    let name = &row.place.name;
    if row.entry.content().is_some() {
        return is_sound(directory, name, row);
    }
    matches!(directory.stat_if_present(name), Ok(Some(stat))
        if is_another(directory, row, &stat).is_ok_and(|another| another.is_none()))
}

fn identity(handles: &mut Handles<'_>, place: &Place) -> Result<Option<Identity>, ReceiverError> {
    let stat = handles
        .get(place.parent)
        .and_then(|directory| Ok(directory.stat_if_present(&place.name)?));
    match stat {
        Err(ReceiverError::Tree(error)) if error.is_gone() => Ok(None),
        stat => Ok(stat?.map(|stat| stat.identity)),
    }
}
