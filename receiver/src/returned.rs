//! Getting lost contents back from the main: which ones it is asked for, and mending with what it sends.
//!
//! Nothing that is sent counts before it has the hash that was asked for, so a main can give back only what it gave before.

use std::fs::File;

use understudy_protocol::message::{Returned, Wanted, WantedContent};
use understudy_protocol::transport::{Incoming, Outgoing};
use understudy_protocol::{ContentHash, Message, Place, ProtocolError, RelPath, limits, version};
use understudy_tree::TreeError;
use understudy_tree::content::{self, HoleyHasher};

use crate::catalog::Catalog;
use crate::dataset::{Dataset, Locked};
use crate::error::ReceiverError;
use crate::findings::{self, State};
use crate::repair::Repairer;
use crate::resolve::Paths;
use crate::space::Reserve;

/// What comes back is in a file of its own, is copied for the tree, and perhaps for history.
const COPIES: u64 = 3;
/// So many paths fit into a message however long they are.
const BATCH: usize = 64;

/// A file for what is received: none without room for it, or why it cannot be used.
type Copy = Result<Option<File>, TreeError>;

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
            wanted = find(dataset, catalog, reserve).unwrap_or_else(|error| {
                tracing::warn!(dataset = %dataset.name, "cannot ask for what is lost: {error}");
                Vec::new()
            });
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
        let Some(stream) = returned.stream else {
            self.miss(&one)?;
            return Ok(());
        };
        // Without room for it, it is asked for again as soon as there is.
        let mut copy = match has_room(self.dataset, self.reserve, one.size) {
            Ok(true) => self.dataset.control.create_unnamed().map(Some),
            _ => Ok(None),
        };
        if receive(stream, &one, &mut copy, incoming)? {
            self.settle(&one, copy);
        }
        Ok(())
    }

    /// The main does not have it where it was asked for it: another place is the next cycle's.
    fn miss(&self, one: &WantedContent) -> Result<(), ReceiverError> {
        let places = places_of(self.catalog, one.hash)?.len();
        let found = findings::read(&self.dataset.control)?;
        let of_it = found.list.iter().filter(|known| {
            let content = known.damage.content;
            content.is_some_and(|(_, hash)| hash == one.hash)
        });
        let sought = of_it.filter_map(|known| known.state.sought()).min();
        let sought = sought.unwrap_or(0).saturating_add(1);
        let name = &self.dataset.name;
        if (sought as usize) < places {
            tracing::info!(dataset = %name, "the main does not have the content that is lost here at `{}`: it is asked for another of its names in the next cycle", one.path);
            self.note(one.hash, State::Sought(sought));
        } else {
            tracing::warn!(dataset = %name, "the main does not have the content of `{}` any more that is lost here", one.path);
            self.note(one.hash, State::Lost);
        }
        Ok(())
    }

    /// Mends with what was received. Trouble with that ends no upload, and it is not asked for in each.
    fn settle(&self, one: &WantedContent, copy: Copy) {
        let name = &self.dataset.name;
        let mended = match copy {
            Ok(Some(file)) => self.mend(one, file),
            Ok(None) => return,
            Err(error) => Err(error.into()),
        };
        let why = match mended {
            Ok(true) => {
                tracing::info!(dataset = %name, "`{}` is mended with what the main sent", one.path);
                return;
            }
            Ok(false) => "it cannot be written".to_owned(),
            Err(error) => error.to_string(),
        };
        tracing::warn!(dataset = %name, "cannot mend `{}` with what the main sent, and does not ask for it before it is found again: {why}", one.path);
        self.note(one.hash, State::Open);
    }

    /// Writes down what became of a content that was wanted.
    fn note(&self, hash: ContentHash, state: State) {
        if let Err(error) = note(self.dataset, hash, state) {
            tracing::warn!(dataset = %self.dataset.name, "cannot record what became of what is lost: {error}");
        }
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
fn find(
    dataset: &Dataset,
    catalog: &Catalog,
    reserve: Reserve,
) -> Result<Vec<WantedContent>, ReceiverError> {
    let (mut wanted, mut lost) = (Vec::<WantedContent>::new(), Vec::new());
    let found = findings::read(&dataset.control)?;
    let sought = found.list.iter().filter_map(|one| {
        let (size, hash) = one.damage.content?;
        Some((size, hash, one.state.sought()?))
    });
    for (size, hash, sought) in sought {
        if wanted.len() >= limits::WANTED {
            break;
        }
        if wanted.iter().any(|one| one.hash == hash) {
            continue;
        }
        match path_of(catalog, hash, sought)? {
            Some(path) if !has_room(dataset, reserve, size)? => {
                tracing::warn!(dataset = %dataset.name, "the main is not asked for the content of `{path}` that is lost here: there is not enough room for its {size} bytes and the reserve");
            }
            Some(path) => wanted.push(WantedContent { path, size, hash }),
            // The main has no such directory any more.
            None => lost.push(hash),
        }
    }
    for hash in lost {
        note(dataset, hash, State::Lost)?;
    }
    Ok(wanted)
}

/// Where the main should have the content, or else had it last.
fn places_of(catalog: &Catalog, hash: ContentHash) -> Result<Vec<Place>, ReceiverError> {
    let rows = catalog.rows_with(hash, head(catalog)?)?;
    let mut places: Vec<_> = rows.into_iter().map(|row| row.place).collect();
    // In the same order in every cycle.
    places.sort();
    if places.is_empty() {
        let mut newest = None;
        catalog.rows_of(hash, |row| {
            let until = row.until.unwrap_or(u64::MAX);
            if newest.as_ref().is_none_or(|(best, _)| *best < until) {
                newest = Some((until, row.place));
            }
            Ok(())
        })?;
        places.extend(newest.map(|(_, place)| place));
    }
    Ok(places)
}

/// Where the main is asked for the content after it was at so many places, below its root; `None` if it does not have the
/// directory any more.
fn path_of(
    catalog: &Catalog,
    hash: ContentHash,
    sought: u32,
) -> Result<Option<RelPath>, ReceiverError> {
    let mut places = places_of(catalog, hash)?;
    if places.is_empty() {
        return Ok(None);
    }
    // There may be fewer by now.
    let place = places.swap_remove((sought as usize).min(places.len() - 1));
    let head = head(catalog)?;
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

fn head(catalog: &Catalog) -> Result<u64, ReceiverError> {
    let head = catalog.head()?;
    Ok(head.map_or(0, |head| head.snapshot.position.number))
}

fn has_room(dataset: &Dataset, reserve: Reserve, size: u64) -> Result<bool, ReceiverError> {
    reserve.has_room_for(&dataset.control, size.saturating_mul(COPIES))
}

fn note(dataset: &Dataset, hash: ContentHash, state: State) -> Result<(), ReceiverError> {
    findings::decide(dataset, |known| {
        let is_it = known.damage.content.is_some_and(|(_, found)| found == hash);
        let is_meant = is_it && known.state.sought().is_some();
        Some(if is_meant { state } else { known.state })
    })
}

/// Goes on with a copy that is still sound.
fn write(to: &mut Copy, work: impl FnOnce(&File) -> Result<(), TreeError>) {
    if let Ok(Some(file)) = to
        && let Err(error) = work(file)
    {
        *to = Err(error);
    }
}

/// Receives a stream to its end, into a file as long as that goes well; whether it has the content.
fn receive(
    stream: u64,
    wanted: &WantedContent,
    to: &mut Copy,
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
                write(to, |to| content::write_at(to, block.offset, &block.data));
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
                write(to, |to| content::set_size(to, wanted.size));
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
