//! Putting the places of one twin right, each by itself, from what the other one and the rest of the spare have.

use rustix::io::Errno;
use understudy_protocol::{DirectoryId, Name};
use understudy_tree::attributes::set_attributes_of_new;
use understudy_tree::{Directory, Identity, content, crash_point, node};

use super::looking::{Groups, identity, stands};
use super::{Repairer, remove};
use crate::catalog::Row;
use crate::error::ReceiverError;
use crate::names;
use crate::resolve::{Changing, Handles};
use crate::standing::is_another;

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

impl Repairer<'_> {
    /// Puts places of a twin right, from what the other one has and from wherever the spare has a content. Returns what it has
    /// nowhere. Nothing is synced.
    pub(super) fn put_right(
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
}
