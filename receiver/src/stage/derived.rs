//! Contents that the base has, all of them or a part: references, differences and patches.

use understudy_protocol::message::{Content, Piece, Touch};
use understudy_protocol::{Attributes, ContentHash, Entry, Node, Place, delta, limits};
use understudy_tree::attributes::set_attributes_of_new;
use understudy_tree::content;

use super::{Stager, once};
use crate::catalog::Row;
use crate::error::ReceiverError;
use crate::names;
use crate::patch::Patch;

impl Stager<'_> {
    /// The `Put` that a `Touch` is short for.
    pub(super) fn in_full(
        &self,
        place: Place,
        attributes: Attributes,
        touch: Touch,
    ) -> Result<(Place, Entry, Content), ReceiverError> {
        let base = self.base.as_ref().ok_or_else(|| {
            ReceiverError::OutOfStep("a touch needs a snapshot, and there is none".to_owned())
        })?;
        let Entry { node, group, .. } = base.row(&place)?.entry;
        let (group, content) = match touch {
            Touch::Kept => (group, Content::Keep(place.clone())),
            Touch::Copied => (0, Content::Copy(place.clone())),
        };
        let entry = Entry {
            attributes,
            node,
            group,
        };
        Ok((place, entry, content))
    }

    /// Makes a small content of what the base has and what came.
    pub(super) fn assemble(
        &mut self,
        place: &Place,
        from: &Place,
        pieces: &[Piece],
        (size, hash): (u64, ContentHash),
    ) -> Result<Vec<u8>, ReceiverError> {
        let base = self.base.as_mut().ok_or_else(|| {
            ReceiverError::OutOfStep("a delta needs a snapshot, and there is none".to_owned())
        })?;
        let former = base.row(from)?.entry.content().map(|(size, _)| size);
        let former = former.filter(|size| *size <= limits::INLINE_BYTES as u64);
        // What the agent remembers may be wrong, and it has another way.
        let bad = || ReceiverError::BadDelta {
            of: format!("{place:?}"),
        };
        let former = former.ok_or_else(bad)?;
        let file = match base.open_file(from) {
            // Somebody removed it from the live tree: the whole file heals that.
            Err(ReceiverError::Tree(error)) if error.is_gone() => {
                return Err(bad());
            }
            opened => opened?,
        };
        let mut bytes = vec![0; former as usize];
        let length = content::read_at(&file, 0, &mut bytes)?;
        let data = delta::assemble(&bytes, pieces).ok_or_else(bad)?;
        // The base may be damaged, or the two versions alike in a way that the agent's short sums do not tell.
        let found = (data.len() as u64, ContentHash::of(&data));
        if length as u64 == former && found == (size, hash) {
            Ok(data)
        } else {
            Err(bad())
        }
    }

    /// Copies within the store; what is copied is verified as if it had been sent.
    pub(super) fn stage_copy(
        &mut self,
        id: u64,
        place: &Place,
        entry: &Entry,
        from: &Place,
    ) -> Result<(), ReceiverError> {
        self.kept_row(from, &entry.node)?;
        let (size, hash) = entry.content().ok_or(ReceiverError::Worker)?;
        let base = self.base.as_mut().ok_or(ReceiverError::Worker)?;
        let source = base.open_file(from)?;
        let (directory, name) = self.waiting_place(id, place)?;
        let file = once(place, directory.create_file(&name))?;
        content::copy(&source, &file, size)?;
        if content::hash_file(&file, size)? != hash {
            return Err(ReceiverError::Damaged(format!(
                "the live file at {from:?} does not have the content the catalog says; run `understudy verify`"
            )));
        }
        let lacking = set_attributes_of_new(&file, &entry.attributes, &self.privileges)?;
        self.lacking.merge(lacking);
        Ok(())
    }

    /// Makes the whole file of a patch.
    pub(super) fn stage_patched(
        &mut self,
        id: u64,
        place: &Place,
        entry: &Entry,
        stream: u64,
        from: &Place,
    ) -> Result<(), ReceiverError> {
        let stream = names::number(stream);
        let patch = Patch::open(self.stream_files.open_file(&stream)?)?;
        let patch = patch.ok_or(ReceiverError::Worker)?;
        let base = self.base.as_mut().ok_or(ReceiverError::Worker)?;
        let size = base.row(from)?.entry.size_bytes();
        let former = base.open_file(from)?;
        let (directory, name) = self.waiting_place(id, place)?;
        let file = once(place, directory.create_file(&name))?;
        content::copy(&former, &file, size)?;
        patch.apply(&file)?;
        let lacking = set_attributes_of_new(&file, &entry.attributes, &self.privileges)?;
        self.lacking.merge(lacking);
        Ok(self.stream_files.remove_file(&stream)?)
    }

    /// Whether a patch is all that is staged of a file: each twin has it under one name only, and then as a file of its own.
    pub(super) fn may_stay_patch(
        &mut self,
        place: &Place,
        entry: &Entry,
    ) -> Result<bool, ReceiverError> {
        if entry.group != 0 || self.new_directories.contains(place.parent)? {
            return Ok(false);
        }
        let base = self.base.as_ref().ok_or(ReceiverError::Worker)?;
        Ok(base.row(place)?.entry.group == 0)
    }

    /// The base row at a place, which must be the same thing as what is put.
    pub(super) fn kept_row(&self, from: &Place, node: &Node) -> Result<Row, ReceiverError> {
        match self.base.as_ref().map(|base| base.row(from)) {
            Some(Ok(row)) if row.entry.node == *node => Ok(row),
            Some(Err(error)) => Err(error),
            _ => Err(ReceiverError::OutOfStep(format!(
                "the spare has something else than what the agent refers to at {from:?}"
            ))),
        }
    }
}
