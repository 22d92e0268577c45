//! Large files of which the tree that is replaced has another version: only what differs is fetched, the rest is copied from there.
//!
//! That version is never written to. What is taken for the same is a guess until the hash of the whole agrees.

use std::fs::File;

use understudy_protocol::delta::{GroupSummer, Signature};
use understudy_protocol::message::{StreamCopy, WantRest};
use understudy_protocol::{ProtocolError, limits};
use understudy_tree::content::{self, Extents, HoleyHasher};
use understudy_tree::{Directory, Kind};

use super::build::Build;
use super::large;
use super::plan::Leaf;
use crate::error::AgentError;

/// Smaller files come as soon as they are compared.
const LEAST_BYTES: u64 = 256 << 10;
/// After so many bytes were compared the share of what was the same decides whether more are.
const TRIED_BYTES: u64 = if cfg!(test) { 2 << 20 } else { 128 << 20 };
/// One byte in so many must have been the same: reading what is here costs time as well.
const LEAST_SHARE: u64 = 16;

/// How useful comparing was, as far as what was compared has come: what was only asked for says nothing yet.
#[derive(Debug, Default)]
pub(super) struct Gain {
    compared_bytes: u64,
    same_bytes: u64,
}

impl Gain {
    fn is_worth_while(&self) -> bool {
        self.compared_bytes < TRIED_BYTES || self.same_bytes >= self.compared_bytes / LEAST_SHARE
    }

    /// So much was the same.
    pub(super) fn found_same(&mut self, bytes: u64) {
        self.compared_bytes += bytes;
        self.same_bytes += bytes;
    }

    /// So much was not.
    pub(super) fn found_other(&mut self, bytes: u64) {
        self.compared_bytes += bytes;
    }
}

/// The other version of a leaf, and its size, if it is worth comparing.
pub(super) fn find(
    build: &Build<'_>,
    base: &Directory,
    leaf: &Leaf,
    gain: &Gain,
) -> Option<(File, u64)> {
    let is_worth_while =
        build.may_continue(leaf) && leaf.entry.size_bytes() >= LEAST_BYTES && gain.is_worth_while();
    is_worth_while.then(|| open(build, base, leaf)).flatten()
}

/// The wish for what differs of a leaf from `from` on; `None` if its other version cannot be compared.
pub(super) fn wish(
    build: &Build<'_>,
    (file, size): &(File, u64),
    leaf: &Leaf,
    from: u64,
) -> Result<Option<WantRest>, AgentError> {
    let Some(signature) = sum(build, file, *size)? else {
        return Ok(None);
    };
    Ok(Some(WantRest {
        place: leaf.place.clone(),
        from,
        other: Some(signature.to_bytes().into()),
    }))
}

/// The other version of a leaf, and its size. Whatever keeps it from being read, the spare has the leaf.
pub(super) fn open(build: &Build<'_>, base: &Directory, leaf: &Leaf) -> Option<(File, u64)> {
    let path = &build.plan.branch_path(leaf.branch);
    let there = base.open_beneath(path).ok()?;
    let stat = there.stat(&leaf.place.name).ok()?;
    if stat.kind != Kind::File || stat.size < LEAST_BYTES {
        return None;
    }
    let file = there.open_file(&leaf.place.name).ok()?;
    Some((file, stat.size))
}

/// The sums of a file; `None` if it is too large for them, or cannot be read to its end.
fn sum(build: &Build<'_>, file: &File, size: u64) -> Result<Option<Signature>, AgentError> {
    let Some(mut summer) = GroupSummer::fitting(size, limits::SIGNATURE_SUMS) else {
        return Ok(None);
    };
    let read = large::read(build, file, size, |offset, data| {
        summer.zeros(offset - summer.length());
        summer.update(data);
    });
    match read {
        Ok(()) => {}
        Err(AgentError::Tree(_)) => return Ok(None),
        Err(error) => return Err(error),
    }
    summer.zeros(size - summer.length());
    Ok(Some(summer.sum().signature))
}

/// Copies what is the same from the other version. Holes stay holes.
pub(super) fn copy(
    base: &File,
    file: &File,
    hasher: &mut HoleyHasher,
    copy: &StreamCopy,
) -> Result<(), AgentError> {
    let stretch = copy.from..copy.from + copy.length;
    content::read_stretch(base, &mut Extents::default(), stretch, |offset, data| {
        content::write_at(file, offset, data)?;
        hasher.update(offset, data);
        Ok(())
    })?;
    Ok(())
}

/// A copy must come after what came before, and be of the same place.
pub(super) fn check(copy: &StreamCopy, hasher: &HoleyHasher, size: u64) -> Result<(), AgentError> {
    let is_within = copy.length <= size.saturating_sub(copy.offset);
    if copy.offset >= hasher.position() && copy.from == copy.offset && is_within {
        return Ok(());
    }
    let why =
        "a copy before the end of what came, beyond the end of the file, or from another place";
    Err(ProtocolError::malformed("StreamCopy", why).into())
}
