//! Asking for contents: many small ones at once, and by themselves those of which something is here.

use std::collections::VecDeque;
use std::fs::File;

use understudy_protocol::Message;
use understudy_protocol::message::{Want, WantRest};

use super::fetch::Fetching;
use super::{changed, large};
use crate::error::AgentError;

/// Files asked for at once.
const WINDOW_FILES: usize = 2000;
/// Bytes asked for at once; one file may be larger.
const WINDOW_BYTES: u64 = 32 << 20;
/// So much of another version is read while something else is on its way. What takes longer is read when nothing is: nothing is
/// taken from the connection meanwhile, and a spare ends one that takes nothing.
const AHEAD_BYTES: u64 = if cfg!(test) { 1 << 20 } else { 256 << 20 };

/// A content that was asked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked {
    pub(super) number: usize,
    /// How much of it is here already.
    pub(super) from: u64,
    /// As what it comes.
    pub(super) form: Form,
}

/// As what a content comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// All that is not here.
    Full,
    /// What differs from another version of it.
    Changed,
}

/// Whether more may be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asking {
    /// Something was asked for.
    Goes,
    /// What was asked for must come first.
    Waits,
}

impl Fetching<'_> {
    /// Asks for as much as fits a window, or for the rest of one file.
    pub(super) fn ask(&mut self) -> Result<Asking, AgentError> {
        let (mut window, mut bytes) = (VecDeque::new(), 0);
        while let Some(&number) = self.todo.needed.get(self.todo.next) {
            if window.len() >= WINDOW_FILES || bytes >= WINDOW_BYTES {
                break;
            }
            let from = if self.todo.torn.contains(&number) {
                0
            } else {
                large::here(self.build, number)?
            };
            let other = self.other_version(number);
            if from > 0 || other.is_some() {
                if !window.is_empty() {
                    break;
                }
                let takes_long =
                    from > 0 || other.as_ref().is_some_and(|(_, size)| *size > AHEAD_BYTES);
                if takes_long && !self.asked.is_empty() {
                    return Ok(Asking::Waits);
                }
                self.todo.next += 1;
                return self.ask_alone(number, from, other.as_ref());
            }
            self.todo.next += 1;
            let form = Form::Full;
            window.push_back(Asked { number, from, form });
            let size = self.build.plan.leaves[number].entry.size_bytes();
            bytes = u64::saturating_add(bytes, size);
        }
        let places = window
            .iter()
            .map(|asked| self.build.plan.leaves[asked.number].place.clone())
            .collect();
        self.asked.push_back(window);
        self.conversation.tell(&Message::Want(Want { places }))?;
        Ok(Asking::Goes)
    }

    /// Another version of a leaf, if there is one that is worth comparing.
    fn other_version(&self, number: usize) -> Option<(File, u64)> {
        let base = self.todo.base.as_ref()?;
        if self.todo.torn.contains(&number) {
            return None;
        }
        let leaf = &self.build.plan.leaves[number];
        changed::find(self.build, base, leaf, &self.todo.gain)
    }

    /// Asks for the rest of one file, or for what differs in it. Everything that is here is read before: when it comes, it is taken
    /// as fast as it can be.
    fn ask_alone(
        &mut self,
        number: usize,
        from: u64,
        other: Option<&(File, u64)>,
    ) -> Result<Asking, AgentError> {
        let build = self.build;
        let leaf = &build.plan.leaves[number];
        let progress = &build.context.progress;
        let read = || {
            let wish = match other {
                Some(other) => changed::wish(build, other, leaf, from)?,
                None => None,
            };
            let begun = match from {
                0 => None,
                from => Some(large::go_on(build, leaf, from)?),
            };
            Ok::<_, AgentError>((wish, begun))
        };
        let (wish, begun) = self.telling.meanwhile(self.conversation, progress, read)?;
        if begun.is_some() {
            self.begun = begun;
        }
        let form = match &wish {
            Some(_) => Form::Changed,
            None => Form::Full,
        };
        self.asked
            .push_back(VecDeque::from([Asked { number, from, form }]));
        let place = leaf.place.clone();
        let message = match wish {
            Some(wish) => Message::WantRest(wish),
            None if from > 0 => Message::WantRest(WantRest {
                place,
                from,
                other: None,
            }),
            None => Message::Want(Want {
                places: vec![place],
            }),
        };
        self.conversation.tell(&message)?;
        Ok(Asking::Goes)
    }
}
