//! Contents that arrived as they are: inline, as a stream, or with an upload that was interrupted.

use std::fs::File;

use understudy_protocol::{ContentHash, Entry, Place};
use understudy_tree::attributes::{create_file_as, set_attributes, set_attributes_of_new, to_make};
use understudy_tree::{content, node};

use super::{Stager, once};
use crate::arriving::Shape;
use crate::error::ReceiverError;
use crate::leftovers::Found;
use crate::names;

impl Stager<'_> {
    pub(super) fn stage_inline(
        &mut self,
        id: u64,
        place: &Place,
        entry: &Entry,
        data: &[u8],
    ) -> Result<(), ReceiverError> {
        let privileges = self.privileges;
        let (directory, name) = self.waiting_place(id, place)?;
        let fill = |file: &File| match data {
            [] => Ok(()),
            data => content::write_at(file, 0, data),
        };
        let created = create_file_as(directory, &name, &entry.attributes, &privileges, fill);
        self.lacking.merge(once(place, created)?);
        Ok(())
    }

    /// Stages what has arrived as a stream.
    pub(super) fn stage_shape(
        &mut self,
        id: u64,
        place: &Place,
        entry: &Entry,
        stream: u64,
        shape: Shape,
    ) -> Result<(), ReceiverError> {
        match shape {
            Shape::Whole => self.stage_stream(id, place, entry, stream),
            Shape::Patch(from) if from == *place && self.may_stay_patch(place, entry)? => {
                let (patches, name) = (&self.patches, names::number(id));
                let stream = names::number(stream);
                once(place, self.stream_files.rename_new(&stream, patches, &name))
            }
            Shape::Patch(from) => self.stage_patched(id, place, entry, stream, &from),
        }
    }

    pub(super) fn stage_stream(
        &mut self,
        id: u64,
        place: &Place,
        entry: &Entry,
        stream: u64,
    ) -> Result<(), ReceiverError> {
        self.note(id, place, entry)?;
        let (privileges, stream_files) = (self.privileges, self.stream_files.try_clone()?);
        let (directory, name) = self.waiting_place(id, place)?;
        once(
            place,
            stream_files.rename_new(&names::number(stream), directory, &name),
        )?;
        let lacking = set_attributes(directory, &name, entry, &privileges)?;
        self.lacking.merge(lacking);
        Ok(())
    }

    /// Takes what an interrupted upload left.
    pub(super) fn stage_leftover(
        &mut self,
        id: u64,
        place: &Place,
        entry: &Entry,
        (size, hash): (u64, ContentHash),
    ) -> Result<(), ReceiverError> {
        let taker = self.taker.as_mut().ok_or(ReceiverError::Worker)?;
        let found = taker.find(size, hash)?;
        if found.must_stay {
            return self.share(id, place, entry, &found);
        }
        let (from, former) = (found.directory, found.name);
        self.note(id, place, entry)?;
        let privileges = self.privileges;
        let (directory, name) = self.waiting_place(id, place)?;
        once(place, from.rename_new(&former, directory, &name))?;
        let lacking = set_attributes(directory, &name, entry, &privileges)?;
        self.lacking.merge(lacking);
        Ok(())
    }

    /// Stages what is staged for a held cycle too, which needs it as it is: its inode if all of that is wanted, else a copy.
    fn share(
        &mut self,
        id: u64,
        place: &Place,
        entry: &Entry,
        found: &Found,
    ) -> Result<(), ReceiverError> {
        let (from, former) = (&found.directory, &found.name);
        let stat = from.stat(former)?;
        let privileges = self.privileges;
        let is_as_wanted =
            node::read_attributes(from, former, &stat)? == to_make(entry, &privileges);
        self.note(id, place, entry)?;
        let (directory, name) = self.waiting_place(id, place)?;
        if is_as_wanted {
            return once(place, from.link(former, directory, &name));
        }
        let (size, hash) = entry.content().ok_or(ReceiverError::Worker)?;
        let file = once(place, directory.create_file(&name))?;
        content::copy(&from.open_file(former)?, &file, size)?;
        if content::hash_file(&file, size)? != hash {
            return Err(ReceiverError::BadLeftover(format!(
                "what is staged for {place:?} is not what it was"
            )));
        }
        let lacking = set_attributes_of_new(&file, &entry.attributes, &privileges)?;
        self.lacking.merge(lacking);
        Ok(())
    }
}
