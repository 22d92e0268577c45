//! Marks in memory: what may have changed, one mark per name, bounded.

use std::collections::{BTreeMap, HashMap};

use understudy_protocol::Name;
use understudy_tree::Identity;

/// Marks of one dataset beyond which the largest directories are marked whole, and at last the dataset: about
/// 5 MB.
const MARKS: usize = 50_000;

/// How much is in doubt at a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Doubt {
    /// What stands there; its times tell.
    Entry,
    /// Its content, even if its times say that nothing changed: it was closed by a writer, and writes through a
    /// memory map to a page that is dirty already change no time.
    Content,
    /// Everything below it.
    Below,
}

/// A name that was told, with the number of the last event about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) doubt: Doubt,
    pub(super) number: u64,
}

/// A directory with marks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Marked {
    /// The directory.
    pub(crate) identity: Identity,
    /// The names in doubt.
    pub(crate) names: BTreeMap<Name, Doubt>,
    /// Whether all its names are in doubt, beside those below.
    pub(crate) is_listed: bool,
}

/// All marks of a dataset.
#[derive(Debug, Default)]
pub(super) struct Marks {
    directories: HashMap<Identity, Directory>,
    count: usize,
    /// Files of which any name may be in doubt, with the number of the last event. Not written down: a change of
    /// the number of names shows in a file's times, which a start compares.
    files: HashMap<Identity, u64>,
}

#[derive(Debug)]
pub(super) struct Directory {
    /// The number of the last event about itself or any of its names.
    pub(super) number: u64,
    /// Set when its names were too many.
    pub(super) listed: Option<u64>,
    pub(super) names: BTreeMap<Name, Mark>,
}

/// What became of a mark that was added.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Added {
    /// It is kept.
    Kept,
    /// It is part of a wider one now; narrower ones were dropped.
    Widened,
    /// Even wide marks are too many: nothing is kept, everything is in doubt.
    TooMany,
}

impl Marks {
    /// Marks kept.
    pub(super) fn count(&self) -> usize {
        self.count + self.files.len()
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Adds or renews a mark; without a name it concerns the directory itself.
    pub(super) fn add(
        &mut self,
        identity: Identity,
        name: Option<(Name, Doubt)>,
        number: u64,
    ) -> Added {
        let count = &mut self.count;
        let directory = self.directories.entry(identity).or_insert_with(|| {
            *count += 1;
            Directory {
                number,
                listed: None,
                names: BTreeMap::new(),
            }
        });
        directory.number = number;
        let Some((name, doubt)) = name else {
            return self.within_limit();
        };
        if directory.listed.is_some() && doubt == Doubt::Entry {
            directory.listed = Some(number);
            return Added::Kept;
        }
        let mark = directory.names.entry(name).or_insert_with(|| {
            *count += 1;
            Mark { doubt, number }
        });
        *mark = Mark {
            doubt: mark.doubt.max(doubt),
            number,
        };
        self.within_limit()
    }

    /// Marks a file by whatever names it has.
    pub(super) fn add_file(&mut self, identity: Identity, number: u64) -> Added {
        self.files.insert(identity, number);
        self.within_limit()
    }

    /// Files with an event after `number`.
    pub(super) fn files_since(&self, number: u64) -> Vec<Identity> {
        let later = self.files.iter().filter(|(_, last)| **last > number);
        later.map(|(identity, _)| *identity).collect()
    }

    /// Whether a file has a mark of its own.
    pub(super) fn has_file(&self, identity: Identity) -> bool {
        self.files.contains_key(&identity)
    }

    fn within_limit(&mut self) -> Added {
        if self.count() <= MARKS {
            return Added::Kept;
        }
        // Half of the room is made at once, so that this is rare.
        self.shrink_to(MARKS / 2)
    }

    /// Makes marks wider, those of the largest directories first, until no more than `most` are left. Those of files
    /// by themselves cannot be wider.
    pub(super) fn shrink_to(&mut self, most: usize) -> Added {
        let mut by_size: Vec<(usize, Identity)> = self
            .directories
            .iter()
            .map(|(identity, directory)| (directory.names.len(), *identity))
            .collect();
        by_size.sort_unstable_by_key(|(size, _)| std::cmp::Reverse(*size));
        for (_, identity) in by_size {
            if self.count() <= most {
                return Added::Widened;
            }
            self.widen(identity);
        }
        if self.count() > most {
            self.clear();
            return Added::TooMany;
        }
        Added::Widened
    }

    /// Marks all names of a directory instead of each; what reaches below is kept by name.
    fn widen(&mut self, identity: Identity) {
        let Some(directory) = self.directories.get_mut(&identity) else {
            return;
        };
        let before = directory.names.len();
        directory.names.retain(|_, mark| mark.doubt == Doubt::Below);
        // Their contents are read only where their times say so: the price of a bound.
        self.count -= before - directory.names.len();
        directory.listed = Some(directory.number);
    }

    /// Everything with an event after `number`.
    pub(super) fn since(&self, number: u64) -> Vec<Marked> {
        self.directories
            .iter()
            .filter(|(_, directory)| directory.number > number)
            .map(|(identity, directory)| Marked {
                identity: *identity,
                names: directory
                    .names
                    .iter()
                    .filter(|(_, mark)| mark.number > number)
                    .map(|(name, mark)| (name.clone(), mark.doubt))
                    .collect(),
                is_listed: directory.listed.is_some_and(|listed| listed > number),
            })
            .collect()
    }

    /// Marks all names of a directory.
    pub(super) fn add_all_names(&mut self, identity: Identity, number: u64) -> Added {
        let added = self.add(identity, None, number);
        if let Some(directory) = self.directories.get_mut(&identity) {
            directory.listed = Some(number);
        }
        added
    }

    /// Drops every mark whose last event is not after `number`.
    pub(super) fn drop_until(&mut self, number: u64) {
        self.directories.retain(|_, directory| {
            if directory.number <= number {
                return false;
            }
            directory.names.retain(|_, mark| mark.number > number);
            directory.listed = directory.listed.filter(|listed| *listed > number);
            true
        });
        self.files.retain(|_, last| *last > number);
        self.count = self
            .directories
            .values()
            .map(|directory| 1 + directory.names.len())
            .sum();
    }

    /// Whether a directory, or a name in it, has a mark.
    pub(super) fn has(&self, directory: Identity, name: Option<&Name>) -> bool {
        self.directories
            .get(&directory)
            .is_some_and(|directory| match name {
                None => true,
                Some(name) => directory.listed.is_some() || directory.names.contains_key(name),
            })
    }

    /// How much is in doubt at a name that has a mark.
    pub(super) fn doubt(&self, directory: Identity, name: &Name) -> Option<Doubt> {
        let directory = self.directories.get(&directory)?;
        directory.names.get(name).map(|mark| mark.doubt)
    }

    /// A copy of everything with an event after `number`, for writing it down.
    pub(super) fn copy_since(&self, number: u64) -> Vec<(Identity, Directory)> {
        let copy = |directory: &Directory| Directory {
            names: directory
                .names
                .iter()
                .filter(|(_, mark)| mark.number > number)
                .map(|(name, mark)| (name.clone(), *mark))
                .collect(),
            ..*directory
        };
        self.directories
            .iter()
            .filter(|(_, directory)| directory.number > number)
            .map(|(identity, directory)| (*identity, copy(directory)))
            .collect()
    }

    /// Puts back what was written down.
    pub(super) fn restore(&mut self, identity: Identity, directory: Directory) {
        self.count += 1 + directory.names.len();
        self.directories.insert(identity, directory);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(inode: u64) -> Identity {
        Identity { inode, born: None }
    }

    fn name(text: &str) -> Name {
        Name::new(text).expect("name")
    }

    #[test]
    fn an_acknowledgement_removes_only_what_it_covers() {
        let mut marks = Marks::default();
        for (number, text) in [(1, "a"), (2, "b"), (3, "a")] {
            marks.add(identity(1), Some((name(text), Doubt::Entry)), number);
        }
        marks.add(identity(2), None, 2);
        marks.drop_until(2);
        let left = marks.since(0);
        assert_eq!(left.len(), 1);
        assert_eq!(left[0].names.keys().collect::<Vec<_>>(), [&name("a")]);
        assert_eq!(marks.count(), 2);
        marks.drop_until(3);
        assert!(marks.count() == 0);
    }

    #[test]
    fn files_are_marked_by_themselves_and_bounded() {
        let mut marks = Marks::default();
        for (number, inode) in [(1, 7), (2, 8), (3, 7)] {
            assert_eq!(marks.add_file(identity(inode), number), Added::Kept);
        }
        assert_eq!(marks.files_since(2), [identity(7)]);
        marks.drop_until(2);
        assert!(marks.has_file(identity(7)) && !marks.has_file(identity(8)));
        let mut inodes = 100..;
        let mut add = |number| marks.add_file(identity(inodes.next().expect("inode")), number);
        assert!(
            (4..)
                .take(2 * MARKS)
                .any(|number| add(number) == Added::TooMany)
        );
        assert_eq!(marks.count(), 0);
    }

    #[test]
    fn the_stronger_doubt_stays() {
        let mut marks = Marks::default();
        for (number, doubt) in [(1, Doubt::Content), (2, Doubt::Entry)] {
            marks.add(identity(1), Some((name("a"), doubt)), number);
        }
        assert_eq!(marks.since(0)[0].names[&name("a")], Doubt::Content);
    }

    #[test]
    fn too_many_marks_become_directories_and_too_many_of_those_everything() {
        let mut marks = Marks::default();
        let mut number = 0;
        let mut add = |marks: &mut Marks, inode, text: String| {
            number += 1;
            marks.add(identity(inode), Some((name(&text), Doubt::Entry)), number)
        };
        let last = (0..=MARKS as u64)
            .map(|n| add(&mut marks, 1, n.to_string()))
            .find(|added| *added != Added::Kept);
        assert_eq!(last, Some(Added::Widened));
        assert!(marks.since(0)[0].is_listed && marks.since(0)[0].names.is_empty());
        assert!(marks.has(identity(1), Some(&name("anything"))));
        for inode in 2..200 {
            for n in 0..1_000 {
                add(&mut marks, inode, n.to_string());
                assert!(marks.count() <= MARKS);
            }
        }
        assert!(
            (2..200).all(|inode| marks.has(identity(inode), Some(&name("999")))),
            "wider, never forgotten"
        );
        let mut last = Added::Kept;
        for inode in 1_000..1_000 + 2 * MARKS as u64 {
            last = add(&mut marks, inode, "x".to_owned());
            if last == Added::TooMany {
                break;
            }
        }
        assert_eq!(last, Added::TooMany);
        assert!(marks.count() == 0);
    }
}
