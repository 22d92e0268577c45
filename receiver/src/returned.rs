//! Getting lost contents back from the main: which ones it is asked for, and mending with what it sends.
//!
//! Nothing that is sent counts before it has the hash that was asked for, so a main can give back only what it gave before.

use std::fs::File;

use understudy_protocol::message::{Returned, Wanted, WantedContent};
use understudy_protocol::transport::{Incoming, Outgoing};
use understudy_protocol::{ContentHash, Message, ProtocolError, RelPath, limits, version};
use understudy_tree::content::{self, HoleyHasher};

use crate::catalog::Catalog;
use crate::dataset::{Dataset, Locked};
use crate::error::ReceiverError;
use crate::findings::{self, State};
use crate::repair::Repairer;
use crate::resolve::Paths;
use crate::space::Reserve;

/// So many paths fit into a message however long they are.
const BATCH: usize = 64;

/// What the agent of an upload was asked for, and what it takes to mend with the answers.
pub(crate) struct Lost<'a> {
    dataset: &'a Dataset,
    catalog: &'a Catalog,
    locked: &'a Locked,
    reserve: Reserve,
    wanted: Vec<WantedContent>,
}

impl<'a> Lost<'a> {
    /// Asks the agent for what is lost, if it can be asked.
    pub(crate) fn ask(
        (dataset, catalog, locked): (&'a Dataset, &'a Catalog, &'a Locked),
        reserve: Reserve,
        spoken: u32,
        outgoing: &Outgoing,
    ) -> Result<Self, ReceiverError> {
        let mut wanted = Vec::new();
        if spoken >= version::HEALTH {
            wanted = find(dataset, catalog)?;
        }
        for contents in wanted.chunks(BATCH) {
            let contents = contents.to_vec();
            outgoing.send_message(&Message::Wanted(Wanted { contents }))?;
        }
        Ok(Self {
            dataset,
            catalog,
            locked,
            reserve,
            wanted,
        })
    }

    /// Takes the answer to one of them.
    pub(crate) fn take(
        &mut self,
        returned: Returned,
        incoming: &mut Incoming,
    ) -> Result<(), ReceiverError> {
        let wanted = &mut self.wanted;
        let index = wanted.iter().position(|one| one.hash == returned.hash);
        let Some(one) = index.map(|index| wanted.swap_remove(index)) else {
            let text = format!("nobody asked for the content {}", returned.hash);
            return Err(ReceiverError::Misbehaved(text));
        };
        let name = &self.dataset.name;
        let Some(stream) = returned.stream else {
            tracing::warn!(dataset = %name, "the main does not have the content of `{}` any more that is lost here", one.path);
            return note_lost(self.dataset, one.hash);
        };
        let file = self.dataset.control.create_unnamed()?;
        // Without room for it, it is asked for again next time.
        let has_room = self.reserve.check(&self.dataset.control).is_ok();
        let is_whole = receive(stream, &one, has_room.then_some(&file), incoming)?;
        if has_room && is_whole && self.mend(&one, file)? {
            tracing::info!(dataset = %name, "`{}` is mended with what the main sent", one.path);
        }
        Ok(())
    }

    /// Gives every place that should have a content that content again; whether that was possible.
    fn mend(&self, one: &WantedContent, file: File) -> Result<bool, ReceiverError> {
        let Some(repairer) = Repairer::of(self.dataset, self.catalog, self.locked)? else {
            return Ok(false);
        };
        let mended = repairer.with(file).repair_content(one.size, one.hash)?;
        if mended {
            findings::decide(self.dataset, |known| {
                let content = known.damage.content;
                let is_it = content.is_some_and(|(_, hash)| hash == one.hash);
                (!is_it).then_some(known.state)
            })?;
        }
        Ok(mended)
    }
}

/// What is lost, and where the agent may have it.
fn find(dataset: &Dataset, catalog: &Catalog) -> Result<Vec<WantedContent>, ReceiverError> {
    let (mut wanted, mut lost) = (Vec::<WantedContent>::new(), Vec::new());
    let found = findings::read(&dataset.control)?;
    let is_wanted = found.list.iter().filter(|one| one.state == State::Wanted);
    for (size, hash) in is_wanted.filter_map(|one| one.damage.content) {
        if wanted.len() >= limits::WANTED {
            break;
        }
        if wanted.iter().any(|one| one.hash == hash) {
            continue;
        }
        match place_of(catalog, hash)? {
            Some(path) => wanted.push(WantedContent { path, size, hash }),
            // The main has no such directory any more.
            None => lost.push(hash),
        }
    }
    for hash in lost {
        note_lost(dataset, hash)?;
    }
    Ok(wanted)
}

/// Where the main has the content, or had it last in a directory that it still has; below its root.
fn place_of(catalog: &Catalog, hash: ContentHash) -> Result<Option<RelPath>, ReceiverError> {
    let head = catalog
        .head()?
        .map_or(0, |head| head.snapshot.position.number);
    let mut newest = None;
    catalog.rows_of(hash, |row| {
        let until = row.until.unwrap_or(u64::MAX);
        if newest.as_ref().is_none_or(|(best, _)| *best < until) {
            newest = Some((until, row.place));
        }
        Ok(())
    })?;
    let Some((_, place)) = newest else {
        return Ok(None);
    };
    match Paths::new(catalog, head).path(place.parent) {
        Ok(above) => {
            let path = above.join(&place.name);
            let below = path.as_bytes().strip_prefix(b"files/".as_slice());
            Ok(below.and_then(|path| RelPath::new(path).ok()))
        }
        Err(ReceiverError::Damaged(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

fn note_lost(dataset: &Dataset, hash: ContentHash) -> Result<(), ReceiverError> {
    findings::decide(dataset, |known| {
        let is_it = known.damage.content.is_some_and(|(_, found)| found == hash);
        let is_lost = is_it && known.state == State::Wanted;
        Some(if is_lost { State::Lost } else { known.state })
    })
}

/// Receives a stream to its end, into a file if there is room; whether it has the content.
fn receive(
    stream: u64,
    wanted: &WantedContent,
    to: Option<&File>,
    incoming: &mut Incoming,
) -> Result<bool, ReceiverError> {
    let mut hasher = HoleyHasher::default();
    let broken = |what: &str| ReceiverError::Misbehaved(what.to_owned());
    loop {
        match incoming.receive_message()? {
            Message::StreamBlock(block) if block.stream == stream => {
                let end = block.offset + block.data.len() as u64;
                if block.offset < hasher.position() || end > wanted.size {
                    return Err(broken(
                        "a content that was given back is out of order or too long",
                    ));
                }
                hasher.update(block.offset, &block.data);
                if let Some(to) = to {
                    content::write_at(to, block.offset, &block.data)?;
                }
            }
            Message::StreamAbort(abort) if abort.stream == stream => return Ok(false),
            Message::StreamEnd(end) if end.stream == stream => {
                if end.size != wanted.size || end.hash != wanted.hash {
                    return Err(broken("another content was given back than was asked for"));
                }
                if hasher.finish(wanted.size) != wanted.hash {
                    return Err(broken(
                        "a content that was given back does not have its hash",
                    ));
                }
                if let Some(to) = to {
                    content::set_size(to, wanted.size)?;
                }
                return Ok(true);
            }
            Message::Failure(failure) => return Err(ProtocolError::Failed(failure).into()),
            other => {
                return Err(ProtocolError::Unexpected {
                    got: other.name(),
                    wanted: "StreamBlock, StreamEnd or StreamAbort",
                }
                .into());
            }
        }
    }
}
