//! Contents that former snapshots have.

use understudy_protocol::{ContentHash, Entry, Place};
use understudy_tree::attributes::set_attributes_of_new;

use super::{Stager, once};
use crate::error::ReceiverError;

impl Stager<'_> {
    /// Copies a content out of history. It is never linked: whoever writes to the live file would change history.
    pub(super) fn stage_recalled(
        &mut self,
        id: u64,
        place: &Place,
        entry: &Entry,
        content: (u64, ContentHash),
    ) -> Result<(), ReceiverError> {
        let (directory, name) = self.waiting_place(id, place)?;
        let file = once(place, directory.create_file(&name))?;
        self.recall.fill(&file, content)?;
        let lacking = set_attributes_of_new(&file, &entry.attributes, &self.privileges)?;
        self.lacking.merge(lacking);
        Ok(())
    }
}
