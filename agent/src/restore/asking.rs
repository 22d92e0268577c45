//! Asking for contents: many small ones at once, and by themselves those of which something is here.

use std::collections::VecDeque;

use understudy_protocol::Message;
use understudy_protocol::message::{Want, WantRest};

use super::fetch::Fetching;
use super::{changed, large};
use crate::error::AgentError;

/// Files asked for at once.
const WINDOW_FILES: usize = 2000;
/// Bytes asked for at once; one file may be larger.
const WINDOW_BYTES: u64 = 32 << 20;
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

impl Fetching<'_> {
    /// Asks for as much as fits a window, or for the rest of one file.
    pub(super) fn ask(&mut self) -> Result<(), AgentError> {
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
            let is_alone = from > 0 || self.may_be_changed(number);
            if is_alone && !window.is_empty() {
                break;
            }
            self.todo.next += 1;
            if is_alone {
                return self.ask_alone(number, from);
            }
            let form = Form::Full;
            window.push_back(Asked { number, from, form });
            bytes += self.build.plan.leaves[number].entry.size_bytes();
        }
        let places = window
            .iter()
            .map(|asked| self.build.plan.leaves[asked.number].place.clone())
            .collect();
        self.asked.push_back(window);
        self.conversation.tell(&Message::Want(Want { places }))
    }

    /// Whether there may be another version of a leaf.
    fn may_be_changed(&self, number: usize) -> bool {
        let leaf = &self.build.plan.leaves[number];
        let base = self.todo.base.as_ref();
        !self.todo.torn.contains(&number)
            && base.is_some_and(|base| changed::is_there(self.build, base, leaf, &self.todo.gain))
    }

    /// Asks for the rest of one file, or for what differs in it.
    fn ask_alone(&mut self, number: usize, from: u64) -> Result<(), AgentError> {
        let leaf = &self.build.plan.leaves[number];
        let wish = match &self.todo.base {
            Some(base) if self.may_be_changed(number) => {
                changed::wish(self.build, base, leaf, from)?
            }
            _ => None,
        };
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
        self.conversation.tell(&message)
    }
}
