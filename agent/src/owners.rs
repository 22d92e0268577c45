//! What this host calls users and groups, by `/etc/passwd` and `/etc/group`. Names that only a directory service knows are not found.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;

use understudy_protocol::message::Owners;
use understudy_protocol::{Bytes, Entry, escape, limits};

/// Numbers of users and of groups.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Numbers {
    pub(crate) users: BTreeSet<u32>,
    pub(crate) groups: BTreeSet<u32>,
}

/// Names and numbers of one host.
#[derive(Debug, Default)]
pub(crate) struct Names {
    users: Vec<(u32, Vec<u8>)>,
    groups: Vec<(u32, Vec<u8>)>,
}

impl Names {
    /// Those of this host. What cannot be read has no names.
    pub(crate) fn of_this_host() -> Self {
        let read = |path: &str| std::fs::read(Path::new(path)).unwrap_or_default();
        Self::parse(&read("/etc/passwd"), &read("/etc/group"))
    }

    fn parse(users: &[u8], groups: &[u8]) -> Self {
        Self {
            users: lines(users),
            groups: lines(groups),
        }
    }

    /// The number of a user.
    #[cfg(test)]
    pub(crate) fn number_of_user(&self, name: &[u8]) -> Option<u32> {
        let found = self.users.iter().find(|(_, known)| *known == name)?;
        Some(found.0)
    }

    /// Whether nobody has a name here: as where the files cannot be read.
    pub(crate) fn is_empty(&self) -> bool {
        self.users.is_empty()
    }

    /// What somebody who was told these names has to be told to know what the same numbers are called here. An empty name stands for none.
    pub(crate) fn corrections(&self, told: &Owners) -> Owners {
        Owners {
            users: corrections(&self.users, &told.users),
            groups: corrections(&self.groups, &told.groups),
        }
    }

    /// What these are called; the first name of each counts.
    pub(crate) fn called(&self, numbers: &Numbers) -> Owners {
        Owners {
            users: called(&self.users, &numbers.users),
            groups: called(&self.groups, &numbers.groups),
        }
    }
}

/// Names and numbers of either file: `name:password:number:...`.
fn lines(text: &[u8]) -> Vec<(u32, Vec<u8>)> {
    let line = |line: &[u8]| {
        let mut fields = line.split(|&byte| byte == b':');
        let name = fields.next()?;
        let number = std::str::from_utf8(fields.nth(1)?).ok()?.parse().ok()?;
        let is_name = !name.is_empty() && name.len() <= limits::OWNER_BYTES;
        is_name.then(|| (number, name.to_vec()))
    };
    text.split(|&byte| byte == b'\n').filter_map(line).collect()
}

fn called(known: &[(u32, Vec<u8>)], numbers: &BTreeSet<u32>) -> Vec<(u32, Bytes)> {
    let name = |&number: &u32| {
        let found = known.iter().find(|(known, _)| *known == number)?;
        Some((number, Bytes(found.1.clone())))
    };
    let called = numbers.iter().filter_map(name);
    called.take(limits::RECORDS).collect()
}

fn corrections(known: &[(u32, Vec<u8>)], told: &[(u32, Bytes)]) -> Vec<(u32, Bytes)> {
    let correction = |(number, name): &(u32, Bytes)| {
        let found = known.iter().find(|(known, _)| known == number);
        let here = found.map_or(&[][..], |(_, name)| name);
        (here != name.0).then(|| (*number, Bytes::from(here)))
    };
    told.iter().filter_map(correction).collect()
}

/// For numbers of another host the number here, or the name that nobody has here.
type Numbered = HashMap<u32, Result<u32, String>>;

/// Which numbers here go by the names of another host.
#[derive(Debug, Default)]
pub(crate) struct Translation {
    users: Numbered,
    groups: Numbered,
    /// Names that nobody has here, and numbers that had none there.
    unknown: BTreeSet<String>,
}

impl Translation {
    /// From the names of the other host to those of this one.
    pub(crate) fn new(theirs: &Owners, ours: &Names) -> Self {
        let translate = |theirs: &[(u32, Bytes)], ours: &[(u32, Vec<u8>)]| {
            let here = |name: &Bytes| ours.iter().find(|(_, known)| *known == name.0);
            let named = theirs.iter().filter(|(_, name)| !name.0.is_empty());
            named
                .map(|(number, name)| {
                    (
                        *number,
                        here(name)
                            .map(|found| found.0)
                            .ok_or_else(|| escape(&name.0)),
                    )
                })
                .collect()
        };
        Self {
            users: translate(&theirs.users, &ours.users),
            groups: translate(&theirs.groups, &ours.groups),
            unknown: BTreeSet::new(),
        }
    }

    /// Gives an entry the numbers of this host; what has no name here keeps its own.
    pub(crate) fn apply(&mut self, entry: &mut Entry) {
        let attributes = &mut entry.attributes;
        for (kind, numbers, number) in [
            ("user", &self.users, &mut attributes.uid),
            ("group", &self.groups, &mut attributes.gid),
        ] {
            match numbers.get(number) {
                Some(Ok(here)) => *number = *here,
                Some(Err(name)) => {
                    self.unknown.insert(format!("{kind} {name}"));
                }
                None => {
                    self.unknown.insert(format!("{kind} number {number}"));
                }
            }
        }
    }

    /// What kept its number: names that nobody has here, and numbers that had none there.
    pub(crate) fn unknown(self) -> Vec<String> {
        self.unknown.into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use understudy_protocol::{Attributes, Node, Timestamp};

    use super::*;

    const PASSWD: &[u8] = b"root:x:0:0:root:/root:/bin/sh\nwww:x:33:33::/:\nagain:x:33:33::/:\n\nbroken:x\n:x:7:7::\nno:x:number:1::\n";

    #[test]
    fn names_are_found_and_nonsense_is_passed_over() {
        let names = Names::parse(PASSWD, b"adm:x:4:a,b\nroot:x:0:");
        let numbers = Numbers {
            users: BTreeSet::from([0, 7, 33, 99]),
            groups: BTreeSet::from([4, 5]),
        };
        let called = names.called(&numbers);
        let user = |number, name: &[u8]| (number, Bytes::from(name));
        assert_eq!(called.users, [user(0, b"root"), user(33, b"www")]);
        assert_eq!(called.groups, [user(4, b"adm")]);
    }

    #[test]
    fn what_is_called_otherwise_is_told_anew_and_what_has_no_name_gets_none() {
        let names = Names::parse(PASSWD, b"adm:x:4:");
        let told = Owners {
            users: [(0, "root"), (33, "toor"), (99, "gone")]
                .map(|(number, name)| (number, Bytes::from(name.as_bytes())))
                .to_vec(),
            groups: vec![(4, Bytes::from(&b"adm"[..]))],
        };
        let corrections = names.corrections(&told);
        let user = |number, name: &[u8]| (number, Bytes::from(name));
        assert_eq!(corrections.users, [user(33, b"www"), user(99, b"")]);
        assert!(corrections.groups.is_empty());
        // Who has no name keeps the number.
        let mut translation = Translation::new(&corrections, &names);
        let mut entry = entry();
        (entry.attributes.uid, entry.attributes.gid) = (99, 99);
        translation.apply(&mut entry);
        assert_eq!(entry.attributes.uid, 99);
        assert_eq!(translation.unknown(), ["group number 99", "user number 99"]);
    }

    fn entry() -> Entry {
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
            node: Node::Fifo,
            group: 0,
        }
    }

    #[test]
    fn owners_get_the_numbers_of_their_names_here() {
        let theirs = Owners {
            users: vec![
                (1, Bytes::from(&b"www"[..])),
                (2, Bytes::from(&b"gone"[..])),
            ],
            groups: vec![(2, Bytes::from(&b"adm"[..]))],
        };
        let ours = Names::parse(PASSWD, b"adm:x:4:");
        let mut translation = Translation::new(&theirs, &ours);
        let mut entry = entry();
        (entry.attributes.uid, entry.attributes.gid) = (1, 2);
        translation.apply(&mut entry);
        assert_eq!((entry.attributes.uid, entry.attributes.gid), (33, 4));
        (entry.attributes.uid, entry.attributes.gid) = (2, 1);
        translation.apply(&mut entry);
        assert_eq!((entry.attributes.uid, entry.attributes.gid), (2, 1));
        assert_eq!(translation.unknown(), ["group number 1", "user gone"]);
    }
}
