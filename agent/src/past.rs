//! Looking into the past of a dataset: what a snapshot has, which versions of a file there are, what differs between two
//! snapshots, and the content of one file.
//!
//! Whatever the spare tells is passed on as it comes: nothing here grows with it.

use std::io::Write;

use understudy_protocol::message::{
    Compare, Depth, Difference, Find, Given, GivenStream, ListTree, Locate, StreamBlock, StreamEnd,
    Summarise, Summary, Version, Want,
};
use understudy_protocol::transport::Channel;
use understudy_protocol::{
    ContentHash, DatasetName, Entry, Failure, FailureCode, Message, Place, ProtocolError, RelPath,
    Snapshot, version,
};
use understudy_tree::content::HoleyHasher;

use crate::Cancel;
use crate::conversation::{Conversation, unexpected};
use crate::error::AgentError;
use crate::listing;

/// Zeros written at once where a file has a hole.
static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];

/// Which snapshot is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// The newest.
    Newest,
    /// The one with this number.
    Number(u64),
    /// The newest that was committed up to then, in seconds since 1970 by the spare's clock.
    At(i64),
}

/// A dataset on a spare, in a session of its own.
pub struct Past {
    conversation: Conversation,
    cancel: Cancel,
    dataset: DatasetName,
    snapshots: Vec<Snapshot>,
}

impl Past {
    /// Asks the spare for the snapshots of a dataset, which must have some.
    pub fn open(
        channel: Channel,
        dataset: DatasetName,
        cancel: &Cancel,
    ) -> Result<Self, AgentError> {
        let conversation = Conversation::open(channel, cancel)?;
        if conversation.version < version::BROWSE {
            return Err(AgentError::SpareTooOld {
                what: "looking into single snapshots",
                spoken: conversation.version,
                needed: version::BROWSE,
            });
        }
        let snapshots =
            snapshots(&conversation, &dataset).map_err(|error| conversation.explain(error))?;
        Ok(Self {
            conversation,
            cancel: cancel.clone(),
            dataset,
            snapshots,
        })
    }

    /// The snapshots, oldest first; at least one.
    pub fn snapshots(&self) -> &[Snapshot] {
        &self.snapshots
    }

    /// The snapshot that is meant.
    pub fn snapshot(&self, which: Which) -> Result<&Snapshot, AgentError> {
        let found = match which {
            Which::Newest => self.snapshots.last(),
            Which::Number(number) => self
                .snapshots
                .iter()
                .find(|snapshot| snapshot.position.number == number),
            Which::At(seconds) => self
                .snapshots
                .iter()
                .rev()
                .find(|snapshot| snapshot.committed_seconds <= seconds),
        };
        found.ok_or_else(|| AgentError::NoSnapshot {
            dataset: self.dataset.clone(),
            which,
        })
    }

    /// Tells what a directory of a snapshot holds, or the one entry that stands at the path.
    pub fn list(
        &self,
        number: u64,
        path: &RelPath,
        depth: Depth,
        mut tell: impl FnMut(&RelPath, &Entry) -> Result<(), AgentError>,
    ) -> Result<(), AgentError> {
        let request = Message::ListTree(ListTree {
            dataset: self.dataset.clone(),
            number,
            path: path.clone(),
            depth,
        });
        self.ask(&request, |answer| match answer {
            Message::Listed(listed) if !listed.entries.is_empty() => listed
                .entries
                .iter()
                .try_for_each(|(path, entry)| tell(path, entry)),
            other => Err(unexpected(&other, "Listed")),
        })
    }

    /// Tells every version of the files whose path matches the pattern, of those in the snapshots from `first` to `last`.
    pub fn find(
        &self,
        pattern: &str,
        first: Option<u64>,
        last: Option<u64>,
        mut tell: impl FnMut(&Version) -> Result<(), AgentError>,
    ) -> Result<(), AgentError> {
        let request = Message::Find(Find {
            dataset: self.dataset.clone(),
            pattern: pattern.to_owned(),
            first,
            last,
        });
        self.ask(&request, |answer| match answer {
            Message::Found(found) if !found.versions.is_empty() => {
                found.versions.iter().try_for_each(&mut tell)
            }
            other => Err(unexpected(&other, "Found")),
        })
    }

    /// Tells what is to be done with snapshot `from` to get `to`.
    pub fn compare(
        &self,
        from: u64,
        to: u64,
        mut tell: impl FnMut(&Difference) -> Result<(), AgentError>,
    ) -> Result<(), AgentError> {
        let request = Message::Compare(Compare {
            dataset: self.dataset.clone(),
            from,
            to,
        });
        self.ask(&request, |answer| match answer {
            Message::Differences(told) if !told.differences.is_empty() => {
                told.differences.iter().try_for_each(&mut tell)
            }
            other => Err(unexpected(&other, "Differences")),
        })
    }

    /// Tells how much changed with each snapshot.
    pub fn summarise(
        &self,
        mut tell: impl FnMut(&Summary) -> Result<(), AgentError>,
    ) -> Result<(), AgentError> {
        let request = Message::Summarise(Summarise {
            dataset: self.dataset.clone(),
        });
        self.ask(&request, |answer| match answer {
            Message::Summaries(told) if !told.summaries.is_empty() => {
                told.summaries.iter().try_for_each(&mut tell)
            }
            other => Err(unexpected(&other, "Summaries")),
        })
    }

    /// Writes the content of a file, the last thing in a session. What is wrong with a small one is noticed before
    /// anything is written, with a large one at its end: it counts only if this succeeds.
    pub fn read(
        self,
        number: u64,
        path: &RelPath,
        output: &mut impl Write,
    ) -> Result<(), AgentError> {
        self.give(number, path, output)
            .map_err(|error| self.conversation.explain(error))
    }

    fn ask(
        &self,
        request: &Message,
        mut take: impl FnMut(Message) -> Result<(), AgentError>,
    ) -> Result<(), AgentError> {
        let mut answers = || {
            self.conversation.tell(request)?;
            loop {
                match self.conversation.hear()? {
                    Message::Told(_) => return Ok(()),
                    answer => take(answer)?,
                }
            }
        };
        answers().map_err(|error| self.conversation.explain(error))
    }

    fn give(&self, number: u64, path: &RelPath, output: &mut impl Write) -> Result<(), AgentError> {
        let conversation = &self.conversation;
        conversation.tell(&Message::Locate(Locate {
            dataset: self.dataset.clone(),
            number: Some(number),
            path: path.clone(),
        }))?;
        let located = match conversation.hear()? {
            Message::Located(located) => located,
            other => return Err(unexpected(&other, "Located")),
        };
        let Some((size, hash)) = located.entry.content() else {
            return Err(AgentError::NoFile {
                path: path.clone(),
                kind: located.entry.kind(),
            });
        };
        let wanted = located.place;
        let places = vec![wanted.clone()];
        conversation.tell(&Message::Want(Want { places }))?;
        match conversation.hear()? {
            Message::Given(given) => {
                let content = only(given, &wanted)?;
                if content.len() as u64 != size || ContentHash::of(&content) != hash {
                    return Err(damaged(path));
                }
                output.write_all(&content).map_err(AgentError::Output)
            }
            Message::GivenStream(GivenStream { place, stream }) if place == wanted => {
                let mut content = Content {
                    output,
                    hasher: HoleyHasher::default(),
                    size,
                    cancel: &self.cancel,
                };
                loop {
                    match conversation.hear()? {
                        Message::StreamBlock(block) if block.stream == stream => {
                            content.block(&block)?;
                        }
                        Message::StreamEnd(end) if end.stream == stream => {
                            return content.end(&end, hash, path);
                        }
                        other => return Err(unexpected(&other, "StreamBlock")),
                    }
                }
            }
            other => Err(unexpected(&other, "Given")),
        }
    }
}

fn snapshots(
    conversation: &Conversation,
    dataset: &DatasetName,
) -> Result<Vec<Snapshot>, AgentError> {
    let listed = listing::datasets(conversation, Some(dataset.clone()))?;
    let found = listed
        .datasets
        .into_iter()
        .find(|listed| listed.name == *dataset);
    match found {
        // One of which a cycle is held, or that drift has halted, can be looked at as ever.
        Some(status) if !status.snapshots.is_empty() => Ok(status.snapshots),
        Some(status) => {
            let (code, text) = match status.trouble {
                Some(trouble) => (FailureCode::Internal, trouble),
                None => (
                    FailureCode::NotFound,
                    format!("dataset `{dataset}` has no snapshot yet"),
                ),
            };
            Err(ProtocolError::Failed(Failure::new(code, text)).into())
        }
        None => Err(ProtocolError::malformed("Datasets", "it is not what was asked for").into()),
    }
}

/// The one content that was asked for.
fn only(given: Given, wanted: &Place) -> Result<Vec<u8>, AgentError> {
    match <[_; 1]>::try_from(given.contents) {
        Ok([(place, content)]) if place == *wanted => Ok(content.0),
        _ => Err(ProtocolError::malformed("Given", "it is not what was asked for").into()),
    }
}

fn damaged(path: &RelPath) -> AgentError {
    let text = format!("the content of `{path}` that the spare gave is not what the main had");
    ProtocolError::Failed(Failure::new(FailureCode::Damaged, text)).into()
}

/// A large content on its way out.
struct Content<'a, W> {
    output: &'a mut W,
    hasher: HoleyHasher,
    size: u64,
    cancel: &'a Cancel,
}

impl<W: Write> Content<'_, W> {
    fn block(&mut self, block: &StreamBlock) -> Result<(), AgentError> {
        let end = block.offset.saturating_add(block.data.len() as u64);
        if block.offset < self.hasher.position() || end > self.size {
            let why = "a block before the end of the one before it, or beyond that of the file";
            return Err(ProtocolError::malformed("StreamBlock", why).into());
        }
        self.zeros(block.offset - self.hasher.position())?;
        self.hasher.update(block.offset, &block.data);
        self.write(&block.data)
    }

    fn end(mut self, end: &StreamEnd, hash: ContentHash, path: &RelPath) -> Result<(), AgentError> {
        if end.size != self.size {
            return Err(damaged(path));
        }
        self.zeros(self.size - self.hasher.position())?;
        if self.hasher.finish(self.size) == hash {
            Ok(())
        } else {
            Err(damaged(path))
        }
    }

    fn zeros(&mut self, mut length: u64) -> Result<(), AgentError> {
        while length > 0 {
            self.cancel.check()?;
            let now = length.min(ZEROS.len() as u64);
            self.write(&ZEROS[..now as usize])?;
            length -= now;
        }
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), AgentError> {
        self.output.write_all(bytes).map_err(AgentError::Output)
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use understudy_protocol::message::{DatasetStatus, Datasets, Located};
    use understudy_protocol::transport::in_process;
    use understudy_protocol::version::Hello;
    use understudy_protocol::{
        Attributes, Bytes, DirectoryId, Fingerprint, Name, Node, Position, Timestamp,
    };

    use super::*;

    fn snapshot() -> Snapshot {
        Snapshot {
            position: Position {
                epoch: 1,
                number: 1,
                fingerprint: Fingerprint([0; 32]),
            },
            committed_seconds: 100,
            entries: 2,
            bytes: 3,
        }
    }

    fn place() -> Place {
        Place::new(DirectoryId::FILES, Name::new("x").expect("name"))
    }

    /// A spare of this version that says one file has the content `told` and gives it by `answers`.
    fn spare(newest: u32, told: Vec<u8>, answers: Vec<Message>) -> Channel {
        let (ours, mut theirs) = in_process();
        thread::spawn(move || {
            let hello = Hello {
                newest,
                ..Hello::ours()
            };
            let say = |message: &Message| theirs.outgoing.send_message(message).is_ok();
            say(&Message::Hello(hello));
            while let Ok(message) = theirs.incoming.receive_message() {
                match message {
                    Message::List(list) => say(&Message::Datasets(Datasets {
                        datasets: vec![DatasetStatus {
                            name: list.dataset.expect("a dataset"),
                            snapshots: vec![snapshot()],
                            as_of_seconds: None,
                            uploading: false,
                            trouble: None,
                        }],
                        free_bytes: 0,
                        now_seconds: 0,
                    })),
                    Message::Locate(_) => say(&Message::Located(Located {
                        snapshot: snapshot(),
                        place: place(),
                        entry: entry(&told),
                    })),
                    Message::Want(_) => answers.iter().all(say),
                    _ => true,
                };
            }
        });
        ours
    }

    fn entry(content: &[u8]) -> Entry {
        Entry {
            attributes: Attributes {
                mode: 0o644,
                uid: 0,
                gid: 0,
                modified: Timestamp {
                    seconds: 0,
                    nanoseconds: 0,
                },
                xattrs: Vec::new(),
            },
            node: Node::File {
                size: content.len() as u64,
                hash: ContentHash::of(content),
            },
            group: 0,
        }
    }

    fn open(channel: Channel) -> Result<Past, AgentError> {
        Past::open(channel, DatasetName::fit(b"site"), &Cancel::default())
    }

    fn read(told: &[u8], answers: Vec<Message>) -> (Result<(), AgentError>, Vec<u8>) {
        let past = open(spare(version::NEWEST, told.to_vec(), answers)).expect("open");
        let mut written = Vec::new();
        let path = RelPath::new(b"x").expect("path");
        (past.read(1, &path, &mut written), written)
    }

    fn given(content: &[u8]) -> Vec<Message> {
        vec![Message::Given(Given {
            contents: vec![(place(), Bytes(content.to_vec()))],
        })]
    }

    fn streamed(blocks: &[(u64, &[u8])], size: u64, hash: ContentHash) -> Vec<Message> {
        let announced = Message::GivenStream(GivenStream {
            place: place(),
            stream: 1,
        });
        let blocks = blocks.iter().map(|&(offset, data)| {
            Message::StreamBlock(StreamBlock {
                stream: 1,
                offset,
                data: data.into(),
            })
        });
        let end = Message::StreamEnd(StreamEnd {
            stream: 1,
            size,
            hash,
        });
        [announced].into_iter().chain(blocks).chain([end]).collect()
    }

    fn is_damage(result: &Result<(), AgentError>) -> bool {
        matches!(
            result,
            Err(AgentError::Spare(ProtocolError::Failed(failure))) if failure.code == FailureCode::Damaged
        )
    }

    #[test]
    fn a_spare_that_is_too_old_is_named() {
        let refused = open(spare(4, Vec::new(), Vec::new())).map(drop);
        let message = refused.expect_err("too old").to_string();
        assert!(
            message.contains("the spare is too old") && message.contains("version 4"),
            "{message}"
        );
    }

    #[test]
    fn contents_are_written_whole_with_their_holes() {
        let (read_small, written) = read(b"abc", given(b"abc"));
        assert!(read_small.is_ok());
        assert_eq!(written, b"abc");
        let whole = b"ab\0\0\0cd\0";
        let blocks: [(u64, &[u8]); 2] = [(0, b"ab"), (5, b"cd")];
        let (read_large, written) = read(whole, streamed(&blocks, 8, ContentHash::of(whole)));
        assert!(read_large.is_ok());
        assert_eq!(written, whole);
    }

    #[test]
    fn what_a_spare_gives_instead_is_an_error() {
        let (result, written) = read(b"abc", given(b"abd"));
        assert!(is_damage(&result) && written.is_empty(), "{result:?}");
        // That it claims the hash at the end proves nothing.
        let claimed = ContentHash::of(b"abc");
        let (result, _) = read(b"abc", streamed(&[(0, b"abd")], 3, claimed));
        assert!(is_damage(&result), "{result:?}");
        let (result, _) = read(b"abc", streamed(&[(0, b"ab")], 2, claimed));
        assert!(is_damage(&result), "{result:?}");
        for blocks in [&[(0, &b"abcd"[..])][..], &[(2, b"c"), (0, b"ab")]] {
            let (result, _) = read(b"abc", streamed(blocks, 3, claimed));
            let is_refused = matches!(
                result,
                Err(AgentError::Spare(ProtocolError::Malformed { .. }))
            );
            assert!(is_refused, "{result:?}");
        }
    }

    #[test]
    fn the_snapshot_of_a_time_is_there_by_then() {
        let past = open(spare(version::NEWEST, Vec::new(), Vec::new())).expect("open");
        assert!(past.snapshot(Which::At(100)).is_ok());
        for which in [Which::At(99), Which::Number(2)] {
            let error = past.snapshot(which).expect_err("none");
            assert!(matches!(error, AgentError::NoSnapshot { .. }), "{error}");
        }
    }
}
