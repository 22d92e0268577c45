//! Reading a file that may be changing: what is taken is one state that the file really had, or is marked.

use std::fs::File;
use std::thread;
use std::time::Duration;

use understudy_databases::sqlite::ImageError;
use understudy_protocol::delta::{Signature, SmallSignature, Summer};
use understudy_protocol::randomness::looks_random;
use understudy_protocol::{Attributes, ContentHash, Entry, Name, Node, limits};
use understudy_tree::content;
use understudy_tree::{Kind, Stat, TreeError, node};

use super::comparison::Comparison;
use super::delta::Former;
use super::is_about_entry;
use super::pass::Sink;
use super::sqlite::{Manner, Prepared, is_locked};
use super::visit::Open;
use super::worker::Worker;
use crate::Unsettled;
use crate::clock::{self, Settled};
use crate::error::AgentError;
use crate::images::Imaged;
use crate::index::Seen;

/// How often a file that changes is read before it is given up for this cycle.
const ATTEMPTS: u32 = 3;
/// Time to let a writer finish, times the attempt.
const PAUSE: Duration = Duration::from_millis(40);

/// When a large content is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sending {
    /// While it is read: it is new for sure.
    AtOnce,
    /// Later, if its hash turns out to be new.
    IfNeeded,
}

/// What came of reading a file.
pub(super) enum Reading {
    /// One state of it.
    Stable(Box<Contents>),
    /// It changed during every attempt.
    Unsettled,
    /// It is not there any more, or is no file.
    Gone,
    /// It cannot be read.
    Unreadable(TreeError),
}

/// One state of a file.
pub(super) struct Contents {
    pub(super) stat: Stat,
    pub(super) seen: Seen,
    pub(super) size: u64,
    pub(super) hash: ContentHash,
    pub(super) body: Body,
    /// Whether it may be a mixture of several states.
    pub(super) certainty: Certainty,
    /// What a later version can be compared with; none of contents that always travel whole.
    pub(super) signature: Option<Signature>,
    /// The same of one that travels inline.
    pub(super) small: Option<SmallSignature>,
    /// Of a database: the state that was taken, which is read instead of the file.
    pub(super) imaged: Option<Imaged>,
    /// Why it may be a mixture, if it is not that it changed.
    pub(super) doubt: Option<String>,
    attributes: Attributes,
}

/// Whether contents are one state that the file really had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Certainty {
    /// They are.
    Whole,
    /// They may be a mixture: the file never stood still.
    Fuzzy,
}

impl Contents {
    /// The entry with these contents.
    pub(super) fn entry(&self, group: u64) -> Entry {
        let node = Node::File {
            size: self.size,
            hash: self.hash,
        };
        Entry {
            attributes: self.attributes.clone(),
            node,
            group,
        }
    }
}

/// Where a content is now.
pub(super) enum Body {
    /// Here.
    Inline(Vec<u8>),
    /// At the spare, as this stream.
    Streamed(u64),
    /// Only in the file.
    Unsent,
}

/// What one pass over a file gave.
enum Pass {
    Whole(ContentHash, Option<Signature>, Body),
    /// It became shorter on the way.
    Short(Body),
}

/// What was read in one attempt.
struct Taken {
    stat: Stat,
    size: u64,
    hash: ContentHash,
    signature: Option<Signature>,
    body: Body,
    settled: Settled,
    certainty: Certainty,
}

impl Worker<'_> {
    /// Reads `name`, whose stat was just taken. What is sent at once is compared with `former`.
    pub(super) fn read(
        &mut self,
        open: &Open<'_>,
        name: &Name,
        stat: &Stat,
        sending: Sending,
        former: Option<&Former>,
    ) -> Result<Reading, AgentError> {
        let progress = &self.scan.context.progress;
        progress.expect(1, stat.size);
        let reading = self.read_as_it_is(open, name, stat, sending, former);
        progress.done(1, stat.size);
        match reading {
            Ok(reading) => Ok(reading),
            Err(AgentError::Tree(error)) if error.is_gone() => Ok(Reading::Gone),
            Err(AgentError::Tree(error)) if is_about_entry(&error) => {
                Ok(Reading::Unreadable(error))
            }
            Err(error) => Err(error),
        }
    }

    fn read_as_it_is(
        &mut self,
        open: &Open<'_>,
        name: &Name,
        stat: &Stat,
        sending: Sending,
        former: Option<&Former>,
    ) -> Result<Reading, AgentError> {
        self.scan.context.pace.breathe(&self.scan.context.cancel)?;
        let file = open.directory.open_file(name)?;
        let prepared = match self.manner(open, name, (&file, stat))? {
            Manner::Plain => return self.read_patiently(open, name, stat, sending, former),
            Manner::Taken(prepared) => prepared,
            Manner::Resting(whole) => {
                let looked = self.scan.now();
                let own = Stat::of(&file)?;
                let read = match own.kind {
                    Kind::File => self.read_once(&file, &own, sending, former)?,
                    _ => return Ok(Reading::Gone),
                };
                let after = self.seen_after(open, name, Stat::of(&file)?)?;
                match read {
                    Pass::Whole(hash, signature, body)
                        if is_same(&whole, &after) && !is_locked(&file) =>
                    {
                        let taken = Taken {
                            size: own.size,
                            stat: whole,
                            hash,
                            signature,
                            body,
                            settled: clock::settled(after.changed, looked),
                            certainty: Certainty::Whole,
                        };
                        return self.stable(&file, taken);
                    }
                    Pass::Whole(_, _, body) | Pass::Short(body) => self.abort(&body)?,
                }
                let looked = self.scan.now();
                let now = self.seen_after(open, name, Stat::of(&file)?)?;
                self.take_database(open, name, (now, looked))?
            }
        };
        self.read_database(open, name, &file, prepared, (sending, former))
    }

    /// Reads the state that was taken of a database; the file itself if there is none.
    fn read_database(
        &mut self,
        open: &Open<'_>,
        name: &Name,
        file: &File,
        prepared: Prepared,
        (sending, former): (Sending, Option<&Former>),
    ) -> Result<Reading, AgentError> {
        let Prepared {
            stat,
            looked,
            imaged,
        } = prepared;
        let imaged = match imaged {
            Ok(imaged) => imaged,
            Err(ImageError::Gone) => return Ok(Reading::Gone),
            Err(ImageError::Busy(_)) if self.scan.source.unsettled == Unsettled::Keep => {
                return Ok(Reading::Unsettled);
            }
            Err(error @ ImageError::Failed(_)) => {
                let error = std::io::Error::other(error.to_string());
                return Ok(Reading::Unreadable(TreeError::new(
                    "take",
                    name.as_bytes(),
                    error,
                )));
            }
            Err(error) => {
                let mut reading = self.read_patiently(open, name, &stat, sending, former)?;
                if let Reading::Stable(contents) = &mut reading {
                    contents.certainty = Certainty::Fuzzy;
                    contents.seen = contents.seen.unproven();
                    contents.doubt = Some(error.to_string());
                }
                return Ok(reading);
            }
        };
        // The copy, not the file: that it is gone says nothing of that.
        let content = match imaged.open_for(name) {
            Ok(content) => content,
            Err(error) => return Ok(Reading::Unreadable(error)),
        };
        let here = Stat::of(&content)?;
        let Pass::Whole(hash, signature, body) =
            self.read_once(&content, &here, sending, former)?
        else {
            return Ok(Reading::Unsettled);
        };
        let taken = Taken {
            settled: clock::settled(stat.changed, looked),
            stat,
            size: here.size,
            hash,
            signature,
            body,
            certainty: Certainty::Whole,
        };
        let mut reading = self.stable(file, taken)?;
        if let Reading::Stable(contents) = &mut reading {
            contents.imaged = Some(imaged);
        }
        Ok(reading)
    }

    fn read_once(
        &mut self,
        file: &File,
        stat: &Stat,
        sending: Sending,
        former: Option<&Former>,
    ) -> Result<Pass, AgentError> {
        self.scan.context.cancel.check()?;
        self.pass(file, stat, sending, former)
    }

    fn stable(&mut self, file: &File, taken: Taken) -> Result<Reading, AgentError> {
        let contents = self.take(file, taken)?;
        Ok(Reading::Stable(Box::new(contents)))
    }

    fn read_patiently(
        &mut self,
        open: &Open<'_>,
        name: &Name,
        stat: &Stat,
        sending: Sending,
        former: Option<&Former>,
    ) -> Result<Reading, AgentError> {
        for attempt in 0..ATTEMPTS {
            self.scan.context.cancel.check()?;
            if attempt > 0 {
                thread::park_timeout(PAUSE * attempt);
            }
            let looked = self.scan.now();
            let file = open.directory.open_file(name)?;
            let before = if attempt == 0 {
                stat.clone()
            } else {
                Stat::of(&file)?
            };
            if before.kind != Kind::File {
                return Ok(Reading::Gone);
            }
            let is_last = attempt + 1 == ATTEMPTS;
            let is_fuzzy_welcome = is_last && self.scan.source.unsettled == Unsettled::Ship;
            // What is read a second time is another content by then.
            let sending = if is_fuzzy_welcome {
                Sending::AtOnce
            } else {
                sending
            };
            let pass = self.pass(&file, &before, sending, former)?;
            let after = Stat::of(&file)?;
            let (hash, signature, body) = match pass {
                Pass::Whole(hash, signature, body) => (hash, signature, body),
                Pass::Short(body) => {
                    self.abort(&body)?;
                    continue;
                }
            };
            let (settled, certainty) = if is_same(&before, &after) {
                (clock::settled(after.changed, looked), Certainty::Whole)
            } else if is_last && only_grew(&file, &before, &after, hash)? {
                (Settled::No, Certainty::Whole)
            } else if is_fuzzy_welcome && before.identity == after.identity {
                (Settled::No, Certainty::Fuzzy)
            } else {
                self.abort(&body)?;
                continue;
            };
            let taken = Taken {
                size: before.size,
                stat: before,
                hash,
                signature,
                body,
                settled,
                certainty,
            };
            return self.stable(&file, taken);
        }
        Ok(Reading::Unsettled)
    }

    fn take(&mut self, file: &File, taken: Taken) -> Result<Contents, AgentError> {
        let Taken {
            stat,
            size,
            hash,
            signature,
            body,
            settled,
            certainty,
        } = taken;
        let attributes = match node::read_attributes_of(file, &stat) {
            Ok(attributes) => attributes,
            Err(error) => {
                self.abort(&body)?;
                return Err(error.into());
            }
        };
        if let Body::Streamed(stream) = body {
            self.outbox.end(stream, size, hash)?;
        }
        let tally = &mut self.findings.tally;
        tally.files_read += 1;
        tally.bytes_read += size;
        let small = match &body {
            // Of what is compressed or encrypted nothing stays the same.
            Body::Inline(bytes) if !looks_random(bytes) => SmallSignature::of(bytes),
            Body::Inline(_) | Body::Streamed(_) | Body::Unsent => None,
        };
        Ok(Contents {
            seen: Seen::of(&stat, settled),
            size,
            hash,
            body,
            certainty,
            signature,
            small,
            attributes,
            stat,
            imaged: None,
            doubt: None,
        })
    }

    fn abort(&mut self, body: &Body) -> Result<(), AgentError> {
        if let Body::Streamed(stream) = body {
            self.outbox.abort(*stream)
        } else {
            Ok(())
        }
    }

    fn pass(
        &mut self,
        file: &File,
        stat: &Stat,
        sending: Sending,
        former: Option<&Former>,
    ) -> Result<Pass, AgentError> {
        if stat.size <= limits::INLINE_BYTES as u64 && !has_holes(file, stat)? {
            // What was appended meanwhile is seen by its size and time afterwards.
            let mut bytes = vec![0; stat.size as usize];
            let length = content::read_at(file, 0, &mut bytes)?;
            bytes.truncate(length);
            let body = Body::Inline(bytes);
            return Ok(match &body {
                Body::Inline(bytes) if length as u64 == stat.size => {
                    Pass::Whole(ContentHash::of(bytes), None, body)
                }
                _ => Pass::Short(body),
            });
        }
        let mut summer = Summer::new(stat.size);
        let (mut sink, body) = match (sending, former) {
            (Sending::IfNeeded, _) => (Sink::Nowhere, Body::Unsent),
            (Sending::AtOnce, Some(former)) => {
                let comparison = Comparison::begin(&mut self.outbox, former, self.scan.spoken)?;
                let body = Body::Streamed(comparison.delta().stream());
                (Sink::Delta(Box::new(comparison)), body)
            }
            (Sending::AtOnce, None) => {
                let (stream, begun) = self.begin_stream(file, stat.size)?;
                summer = begun;
                (Sink::Stream(stream), Body::Streamed(stream))
            }
        };
        match self.read_extents(file, stat.size, summer, &mut sink) {
            Ok(Some(summed)) => {
                if let Sink::Delta(comparison) = &sink {
                    self.note_delta(comparison.delta());
                }
                Ok(Pass::Whole(summed.hash, Some(summed.signature), body))
            }
            Ok(None) => Ok(Pass::Short(body)),
            Err(error) => {
                // After an error of the connection this fails as well, with the same words.
                self.abort(&body)?;
                Err(error)
            }
        }
    }
}

/// Few allocated bytes can also mean that a file system packs small files tightly.
fn has_holes(file: &File, stat: &Stat) -> Result<bool, TreeError> {
    Ok(stat.has_holes() && content::data_extents(file, stat.size)? != [(0, stat.size)])
}

fn is_same(before: &Stat, after: &Stat) -> bool {
    before.identity == after.identity
        && before.size == after.size
        && before.modified == after.modified
        && before.changed == after.changed
}

/// Whether the stretch that was read still reads the same in a file that is now longer.
fn only_grew(
    file: &File,
    before: &Stat,
    after: &Stat,
    hash: ContentHash,
) -> Result<bool, TreeError> {
    let grew = before.identity == after.identity && after.size > before.size;
    Ok(grew && content::hash_file(file, before.size)? == hash)
}
