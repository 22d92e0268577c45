//! What the spare still has of interrupted uploads, and what of it is not spoken for yet.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use understudy_protocol::message::WantedContent;
use understudy_protocol::{Bytes, ContentHash, Message, ProtocolError, limits, version};

use crate::conversation::{Conversation, unexpected};
use crate::error::AgentError;

/// The first half of a hash.
type Key = [u8; 16];

/// The beginning of a content: how many bytes, and their hash.
pub(crate) type Partial = (u64, ContentHash);

/// Shared by all workers of a scan; each leftover is taken once.
#[derive(Debug, Default)]
pub(crate) struct Leftovers {
    /// In order, each once.
    keys: Vec<Key>,
    /// For each key, how many files of the spare have that content and are not taken.
    left: Vec<AtomicU32>,
    /// The sizes of contents that do not travel inline, in order.
    large: Vec<u64>,
    /// Shortest first.
    partials: Mutex<Vec<Partial>>,
}

/// What a spare tells before an upload.
#[derive(Debug, Default)]
pub(crate) struct Heard {
    pub(crate) leftovers: Leftovers,
    pub(crate) wanted: Vec<WantedContent>,
    /// What the main has said of the base.
    pub(crate) stated: Option<Bytes>,
}

impl Leftovers {
    /// Hears of them, after `Ready`; a spare of a former version has none.
    ///
    /// Before them it is told what the main has said of the base, and what the spare has lost and would like to have again.
    pub(crate) fn hear(conversation: &Conversation) -> Result<Heard, AgentError> {
        if conversation.version < version::RESUME {
            return Ok(Heard::default());
        }
        let (mut contents, mut partials, mut wanted) = (Vec::new(), Vec::new(), Vec::new());
        let mut stated = None;
        loop {
            match conversation.hear()? {
                // Each is bounded by what it has, so that there is an end.
                Message::Leftover(told) if told.contents.is_empty() && told.partials.is_empty() => {
                    return Err(ProtocolError::Unexpected {
                        got: "a Leftover of nothing",
                        wanted: "LeftoverEnd",
                    }
                    .into());
                }
                Message::Leftover(told) => {
                    contents.extend(told.contents);
                    partials.extend(told.partials);
                    check("leftovers", contents.len(), limits::LEFTOVERS)?;
                    check("partial leftovers", partials.len(), limits::PARTIALS)?;
                }
                Message::Wanted(told)
                    if conversation.version >= version::HEALTH && !told.contents.is_empty() =>
                {
                    wanted.extend(told.contents);
                    check("wanted contents", wanted.len(), limits::WANTED)?;
                }
                Message::Stated(told)
                    if conversation.version >= version::STATEMENTS && stated.is_none() =>
                {
                    stated = Some(told.statement);
                }
                Message::LeftoverEnd(_) => {
                    return Ok(Heard {
                        leftovers: Self::new(contents, partials),
                        wanted,
                        stated,
                    });
                }
                other => return Err(unexpected(&other, "Leftover")),
            }
        }
    }

    fn new(mut contents: Vec<(u64, Key)>, mut partials: Vec<Partial>) -> Self {
        let inline = limits::INLINE_BYTES as u64;
        let sizes = contents.iter().map(|(size, _)| *size);
        let mut large: Vec<u64> = sizes.filter(|size| *size > inline).collect();
        large.sort_unstable();
        large.dedup();
        contents.sort_unstable_by_key(|(_, key)| *key);
        let (mut keys, mut left) = (Vec::new(), Vec::new());
        for same in contents.chunk_by(|a, b| a.1 == b.1) {
            keys.push(same[0].1);
            left.push(AtomicU32::new(same.len() as u32));
        }
        partials.sort_unstable_by_key(|(length, _)| *length);
        Self {
            keys,
            left,
            large,
            partials: Mutex::new(partials),
        }
    }

    /// Whether some content that does not travel inline has this size: then it is worth hashing a file before it is sent.
    pub(crate) fn have_large(&self, size: u64) -> bool {
        self.large.binary_search(&size).is_ok()
    }

    /// Takes a file with this content; `false` if there is none.
    pub(crate) fn take(&self, hash: &ContentHash) -> bool {
        let key = &hash.0[..16];
        let Ok(index) = self.keys.binary_search_by(|known| known[..].cmp(key)) else {
            return false;
        };
        let taken = self.left[index].fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
            left.checked_sub(1)
        });
        taken.is_ok()
    }

    /// The partials that may be the beginning of a content of `size` bytes, shortest first.
    pub(crate) fn partials_within(&self, size: u64) -> Vec<Partial> {
        let partials = self.partials();
        let within = partials.partition_point(|(length, _)| *length <= size);
        partials[..within].to_vec()
    }

    /// Takes a partial; `false` if somebody else has.
    pub(crate) fn take_partial(&self, partial: &Partial) -> bool {
        let mut partials = self.partials();
        let index = partials.iter().position(|known| known == partial);
        index.map(|index| partials.remove(index)).is_some()
    }

    fn partials(&self) -> MutexGuard<'_, Vec<Partial>> {
        // A list is whole after any panic.
        self.partials.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn check(what: &'static str, length: usize, limit: usize) -> Result<(), AgentError> {
    if length > limit {
        return Err(ProtocolError::TooLong {
            what,
            length,
            limit,
        }
        .into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use understudy_protocol::message::Leftover;
    use understudy_protocol::transport::in_process;

    use super::*;
    use crate::Cancel;

    fn content(number: u8, size: u64) -> (u64, Key) {
        let mut key = [0; 16];
        key.copy_from_slice(&ContentHash::of(&[number]).0[..16]);
        (size, key)
    }

    #[test]
    fn each_is_taken_as_often_as_it_was_told() {
        let large = limits::INLINE_BYTES as u64 + 1;
        let contents = vec![content(1, 5), content(2, large), content(1, 5)];
        let leftovers = Leftovers::new(contents, Vec::new());
        assert!(leftovers.have_large(large) && !leftovers.have_large(5));
        let takes = [1, 2, 1, 2, 1, 3].map(|number| leftovers.take(&ContentHash::of(&[number])));
        assert_eq!(takes, [true, true, true, false, false, false]);
    }

    #[test]
    fn partials_are_taken_once_and_never_for_a_shorter_content() {
        let (short, long) = ((10, ContentHash::of(b"a")), (20, ContentHash::of(b"b")));
        let leftovers = Leftovers::new(Vec::new(), vec![long, short]);
        assert_eq!(leftovers.partials_within(9), []);
        assert_eq!(leftovers.partials_within(20), [short, long]);
        assert!(leftovers.take_partial(&long) && !leftovers.take_partial(&long));
        assert_eq!(leftovers.partials_within(u64::MAX), [short]);
    }

    #[test]
    fn a_spare_that_never_ends_to_tell_of_nothing_is_not_listened_to() {
        let (ours, mut theirs) = in_process();
        let spare = std::thread::spawn(move || {
            theirs.greet().expect("greeting");
            let nothing = Message::Leftover(Leftover {
                contents: Vec::new(),
                partials: Vec::new(),
            });
            while theirs.outgoing.send_message(&nothing).is_ok() {}
        });
        let conversation = Conversation::open(ours, &Cancel::default()).expect("greeting");
        let heard = Leftovers::hear(&conversation);
        let expected = ProtocolError::Unexpected {
            got: "a Leftover of nothing",
            wanted: "LeftoverEnd",
        };
        let error = heard.expect_err("an endless list").to_string();
        assert!(error.contains(&expected.to_string()), "{error}");
        drop(conversation);
        spare.join().expect("spare");
    }
}
