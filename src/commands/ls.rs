//! `understudy ls`: what a snapshot holds.

use serde_json::{Map, Value};
use understudy_protocol::message::Depth;
use understudy_protocol::{Entry, Node, RelPath, escape};

use super::{Session, past};
use crate::arguments::Ls;
use crate::exit::CommandError;
use crate::listing::Listing;
use crate::report::Report;
use crate::words;

/// Lists a directory of a snapshot.
pub(crate) fn run(arguments: &Ls, session: &Session) -> Result<Report, CommandError> {
    let which = past::which(&arguments.selection)?;
    let path = past::path(&arguments.path)?;
    let depth = if arguments.recursive {
        Depth::All
    } else {
        Depth::Children
    };
    let mut listing = Listing::new(session.output, "entries");
    let told = session.look(&arguments.dataset, |past| {
        let snapshot = past.snapshot(which)?;
        past.list(snapshot.position.number, &path, depth, |found, entry| {
            let line = || {
                let name = below(&path, found);
                if arguments.long {
                    long(&name, entry)
                } else {
                    name
                }
            };
            listing.tell(line, || past::placed_value(found, entry))
        })?;
        Ok(words::snapshot(snapshot))
    });
    listing.end(told.map(|snapshot| {
        let dataset = Value::from(arguments.dataset.as_str());
        let data = [("dataset", dataset), ("snapshot", snapshot)];
        let data = data.map(|(key, value)| (key.to_owned(), value));
        (Map::from_iter(data), Vec::new())
    }))
}

/// A path as seen from the directory that is listed; that of a file which is listed alone is whole.
fn below(directory: &RelPath, path: &RelPath) -> String {
    let bytes = path.as_bytes();
    let rest = bytes.strip_prefix(directory.as_bytes());
    let rest = rest.map(|rest| rest.strip_prefix(b"/").unwrap_or(rest));
    escape(rest.filter(|rest| !rest.is_empty()).unwrap_or(bytes))
}

/// The line of `ls -l`, owner and group as numbers: the names are those of the main.
fn long(name: &str, entry: &Entry) -> String {
    let attributes = &entry.attributes;
    let size = match &entry.node {
        Node::CharacterDevice { major, minor } | Node::BlockDevice { major, minor } => {
            format!("{major}, {minor}")
        }
        _ => entry.size_bytes().to_string(),
    };
    let target = match &entry.node {
        Node::Symlink { target } => format!(" -> {}", escape(target)),
        _ => String::new(),
    };
    format!(
        "{}{} {:>5} {:>5} {size:>12} {} {name}{target}",
        letter(entry),
        mode(attributes.mode),
        attributes.uid,
        attributes.gid,
        words::time(attributes.modified.seconds),
    )
}

fn letter(entry: &Entry) -> char {
    match entry.node {
        Node::Directory { .. } => 'd',
        Node::File { .. } => '-',
        Node::Symlink { .. } => 'l',
        Node::Fifo => 'p',
        Node::CharacterDevice { .. } => 'c',
        Node::BlockDevice { .. } => 'b',
    }
}

/// `rwxr-xr-x`, with set-user-id, set-group-id and sticky in their places.
fn mode(mode: u16) -> String {
    let mut text = String::with_capacity(9);
    for (shift, special, letter) in [(6, 0o4000, 's'), (3, 0o2000, 's'), (0, 0o1000, 't')] {
        let bits = mode >> shift;
        text.push(if bits & 4 == 0 { '-' } else { 'r' });
        text.push(if bits & 2 == 0 { '-' } else { 'w' });
        text.push(match (mode & special != 0, bits & 1 != 0) {
            (false, false) => '-',
            (false, true) => 'x',
            (true, false) => letter.to_ascii_uppercase(),
            (true, true) => letter,
        });
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_written_as_ls_writes_them() {
        for (bits, text) in [
            (0o755, "rwxr-xr-x"),
            (0o640, "rw-r-----"),
            (0o4755, "rwsr-xr-x"),
            (0o2644, "rw-r-Sr--"),
            (0o1777, "rwxrwxrwt"),
            (0o1000, "--------T"),
        ] {
            assert_eq!(mode(bits), text);
        }
    }

    #[test]
    fn paths_are_shown_from_the_directory_that_is_listed() {
        let path = |text: &str| RelPath::new(text.as_bytes()).expect("path");
        assert_eq!(below(&path(""), &path("a/b")), "a/b");
        assert_eq!(below(&path("a"), &path("a/b\n")), "b\\u{a}");
        assert_eq!(below(&path("a/b"), &path("a/b")), "a/b");
    }
}
