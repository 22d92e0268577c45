//! Reading a restored tree again: what is on the disk, not what the page cache holds.

use std::fs::File;

use understudy_protocol::transport::Channel;
use understudy_protocol::{ContentHash, DatasetName, RelPath};
use understudy_tree::content::{Extents, HoleyHasher};
use understudy_tree::{Directory, Kind, uncached};

use super::gathered::Dumps;
use super::line::{Line, Reconnect};
use super::plan::{Leaf, Plan, Plans};
use crate::error::AgentError;
use crate::{Cancel, Context};

/// So much is read before the next look at whether to end.
const STRETCH_BYTES: u64 = 8 << 20;

/// Reads every file of the trees that should be those of the snapshot with this number, whose entries may take so many bytes of memory: that of the
/// files, and that of what was dumped of databases, if it was restored. Returns the paths at which there is no file with the
/// content that the spare says it has; whatever keeps one from being read counts as well.
pub fn compare(
    channel: Channel,
    (dataset, number, room_bytes): (&DatasetName, u64, u64),
    (files, databases): (&Directory, Option<&Directory>),
    context: &Context,
    reconnect: Reconnect<'_>,
) -> Result<Vec<RelPath>, AgentError> {
    let mut line = Line::open(channel, reconnect, context)?;
    let dumps = databases.map_or(Dumps::Count, |_| Dumps::Hold);
    let how = (dumps, room_bytes);
    let plans =
        line.persist(|conversation| Plans::read(conversation, dataset, Some(number), how))?;
    // Nothing more is asked for.
    drop(line);
    let trees = [
        (Some(&plans.files), Some(files)),
        (plans.databases.as_ref(), databases),
    ];
    let mut reader = uncached::Reader::default();
    let mut wrong = Vec::new();
    for (plan, tree) in trees {
        if let (Some(plan), Some(tree)) = (plan, tree) {
            wrong.extend(wrong_in(plan, tree, &mut reader, &context.cancel)?);
        }
    }
    Ok(wrong)
}

/// The paths of one tree.
fn wrong_in(
    plan: &Plan,
    tree: &Directory,
    reader: &mut uncached::Reader,
    cancel: &Cancel,
) -> Result<Vec<RelPath>, AgentError> {
    let mut wrong = Vec::new();
    for leaf in plan.leaves.iter() {
        if let Some(content) = leaf.entry.content()
            && !has_content(reader, opened(plan, tree, leaf), content, cancel)?
        {
            wrong.push(plan.told(&plan.path(leaf)));
        }
    }
    Ok(wrong)
}

/// The file of a leaf, if one of its size can be opened.
fn opened(plan: &Plan, tree: &Directory, leaf: &Leaf) -> Option<File> {
    let directory = tree.open_beneath(&plan.branch_path(leaf.branch)).ok()?;
    let stat = directory.stat(&leaf.place.name).ok()?;
    let is_it = stat.kind == Kind::File && stat.size == leaf.entry.size_bytes();
    is_it
        .then(|| directory.open_file(&leaf.place.name).ok())
        .flatten()
}

fn has_content(
    reader: &mut uncached::Reader,
    file: Option<File>,
    (size, hash): (u64, ContentHash),
    cancel: &Cancel,
) -> Result<bool, AgentError> {
    cancel.check()?;
    let Some(file) = file else { return Ok(false) };
    let (mut hasher, mut extents) = (HoleyHasher::default(), Extents::default());
    let mut start = 0;
    while start < size {
        let end = size.min(start + STRETCH_BYTES);
        let read = reader.read_stretch(&file, &mut extents, start..end, |offset, data| {
            hasher.update(offset, data);
            Ok(())
        });
        if read.is_err() {
            return Ok(false);
        }
        cancel.check()?;
        start = end;
    }
    Ok(hasher.finish(size) == hash)
}
