//! What was found where a tree was absorbed, for people.

use std::collections::BTreeSet;

use understudy_protocol::{Entry, RelPath, Timestamp};

/// So many paths, owners and losses are told.
const TOLD: usize = 20;

/// What differs from the snapshot before.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) changed: u64,
    pub(crate) added: u64,
    pub(crate) removed: u64,
    /// What no snapshot can have, or what could not be read.
    pub(crate) lost: u64,
    /// The first paths that differ, below the live tree.
    pub(crate) paths: Vec<RelPath>,
    /// The first losses, with their reasons.
    pub(crate) losses: Vec<(RelPath, String)>,
    /// Who owns what was changed or added.
    pub(crate) owners: BTreeSet<u32>,
    /// When the last of it was changed, by its own time.
    pub(crate) last: Option<Timestamp>,
}

impl Tally {
    pub(super) fn put(&mut self, path: RelPath, entry: &Entry, is_new: bool) {
        match is_new {
            true => self.added += 1,
            false => self.changed += 1,
        }
        if self.owners.len() < TOLD {
            self.owners.insert(entry.attributes.uid);
        }
        if entry.directory_id().is_none() {
            self.last = self.last.max(Some(entry.attributes.modified));
        }
        self.path(path);
    }

    pub(super) fn gone(&mut self, path: RelPath) {
        self.removed += 1;
        self.path(path);
    }

    pub(super) fn lose(&mut self, path: RelPath, why: String) {
        self.lost += 1;
        if self.losses.len() < TOLD {
            self.losses.push((path, why));
        }
    }

    fn path(&mut self, path: RelPath) {
        if self.paths.len() < TOLD {
            self.paths.push(path);
        }
    }

    /// One line.
    pub(crate) fn text(&self) -> String {
        let counts = [
            (self.changed, "changed"),
            (self.added, "added"),
            (self.removed, "removed"),
        ];
        let counts = counts.iter().filter(|(count, _)| *count > 0);
        let counts: Vec<_> = counts
            .map(|(count, what)| format!("{count} {what}"))
            .collect();
        let mut text = match counts.is_empty() {
            true => "nothing differs".to_owned(),
            false => format!("{} in live", counts.join(", ")),
        };
        let owners: Vec<_> = self.owners.iter().take(5).map(u32::to_string).collect();
        if !owners.is_empty() {
            text.push_str(&format!("; owners {}", owners.join(", ")));
        }
        let last = self
            .last
            .map(|last| jiff::Timestamp::from_second(last.seconds));
        if let Some(Ok(last)) = last {
            text.push_str(&format!("; last written {last}"));
        }
        text
    }
}
