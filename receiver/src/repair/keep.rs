//! What somebody has put into a twin, and a repair takes from there: it is moved to where nothing ever removes it.

use rustix::io::Errno;
use understudy_protocol::Name;
use understudy_tree::{Directory, Identity, Kind};

use super::Repairer;
use crate::catalog::Row;
use crate::dataset::Dataset;
use crate::error::ReceiverError;
use crate::names;
use crate::standing::is_written;

impl Repairer<'_> {
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
        let (to, told) = room_to_keep(self.dataset, name, self.kept.get())?;
        self.kept.set(told.number);
        Ok((to, told.place))
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

/// Where something is kept.
pub(crate) struct Kept {
    number: u64,
    /// Below the dataset.
    pub(crate) place: String,
}

/// A new directory to keep something of that name in; all numbers up to `last` are taken.
pub(crate) fn room_to_keep(
    dataset: &Dataset,
    name: &Name,
    last: u64,
) -> Result<(Directory, Kept), ReceiverError> {
    let kept = dataset.control.ensure_directory(&names::KEPT)?;
    let mut number = last;
    loop {
        number += 1;
        match kept.create_directory(&names::number(number)) {
            Err(error) if error.errno() == Some(Errno::EXIST) => {}
            made => break made?,
        }
    }
    kept.sync()?;
    let to = kept.open_directory(&names::number(number))?;
    let (control, kept) = (&*names::CONTROL, &*names::KEPT);
    let place = format!("{control}/{kept}/{number}/{name}");
    Ok((to, Kept { number, place }))
}
