//! Change sets that are no tree, or not the tree that they say.

use understudy_protocol::message::{Change, Content};
use understudy_protocol::{DirectoryId, FailureCode, Node, Position, StateDigest, limits};

use crate::victim::{
    Victim, begin, changes, commit, digest, directory, entry, file, link, of_text, place, put,
};

/// Uploads these batches and commits; it must be refused, as this.
fn refused(victim: &Victim, base: Position, batches: &[Vec<Change>], code: FailureCode) {
    let mut messages = vec![begin()];
    messages.extend(batches.iter().cloned().map(changes));
    messages.push(commit(Some(base), &StateDigest::empty()));
    let outcome = victim.attack(&messages);
    let failure = outcome.failure.unwrap_or_else(|| panic!("{batches:?}"));
    assert_eq!(failure.code, code, "{batches:?}: {failure:?}");
}

fn remove(parent: u64, name: &str) -> Change {
    let place = place(parent, name);
    Change::Remove { place }
}

#[test]
fn links_lead_nowhere_for_what_comes_after_them() {
    let (victim, base) = Victim::new();
    let sentinel = victim.path().join("sentinel/inner");
    let target = sentinel.to_str().expect("path").to_owned();
    let breach = FailureCode::Misbehaved;
    // A link in the place of a directory, and a file in that directory.
    let through = vec![
        link(place(1, "d"), &target),
        file(place(5, "file"), "owned"),
    ];
    refused(&victim, base, &[through], breach);
    // Both at one place.
    let both = vec![link(place(1, "e"), &target), directory(place(1, "e"), 6)];
    refused(&victim, base, std::slice::from_ref(&both), breach);
    refused(
        &victim,
        base,
        &[vec![both[1].clone()], vec![both[0].clone()]],
        breach,
    );
    // Links are there, and what is read through them is not.
    let links = [
        link(place(1, "l"), &target),
        link(place(1, "m"), "../../../../../../etc"),
        link(place(5, "n"), "/"),
        link(place(1, "o"), "."),
    ];
    let all = [crate::victim::base(), links.to_vec()].concat();
    victim.still_works(base, &links, &digest(&all));
    let outcome = victim.attack(&[begin()]);
    let now = outcome.heard.iter().find_map(|message| match message {
        understudy_protocol::Message::Ready(ready) => ready.position,
        _ => None,
    });
    let now = now.expect("position");
    for content in [Content::Copy(place(1, "l")), Content::Keep(place(1, "l"))] {
        let stolen = put(place(1, "stolen"), entry(of_text("untouched")), content);
        refused(&victim, now, &[vec![stolen]], FailureCode::OutOfStep);
    }
    // What a link takes the place of, or is replaced by, is within the dataset.
    let turned = vec![
        remove(5, "c"),
        remove(5, "n"),
        link(place(1, "a"), &target),
        file(place(1, "l"), "a file now"),
    ];
    refused(&victim, now, &[turned], FailureCode::OutOfStep);
    victim.check();
}

#[test]
fn duplicates_are_refused_within_and_across_batches() {
    let (victim, base) = Victim::new();
    let breach = FailureCode::Misbehaved;
    let new = |text| file(place(1, "new"), text);
    refused(&victim, base, &[vec![new("x"), new("x")]], breach);
    refused(&victim, base, &[vec![new("x")], vec![new("y")]], breach);
    let over = |text| file(place(1, "a"), text);
    refused(&victim, base, &[vec![over("x")], vec![over("y")]], breach);
    let twice = vec![directory(place(1, "x"), 7), directory(place(1, "y"), 7)];
    refused(&victim, base, std::slice::from_ref(&twice), breach);
    refused(
        &victim,
        base,
        &[vec![twice[0].clone()], vec![twice[1].clone()]],
        breach,
    );
    let inner = |text| file(place(8, "f"), text);
    let incoming = vec![directory(place(1, "z"), 8), inner("x")];
    refused(&victim, base, &[incoming, vec![inner("y")]], breach);
    victim.check();
}

#[test]
fn what_stands_in_no_directory_is_refused() {
    let (victim, base) = Victim::new();
    let breach = FailureCode::Misbehaved;
    // Below a file, below nothing, in a directory that goes, in one that is replaced.
    for parent in [2, 77, u64::MAX, i64::MAX as u64, 1 << 63] {
        refused(
            &victim,
            base,
            &[vec![file(place(parent, "x"), "x")]],
            breach,
        );
    }
    let gone = vec![remove(1, "d"), file(place(5, "x"), "x")];
    refused(&victim, base, std::slice::from_ref(&gone), breach);
    refused(
        &victim,
        base,
        &[vec![gone[1].clone()], vec![gone[0].clone()]],
        breach,
    );
    let replaced = vec![file(place(1, "d"), "a file"), file(place(5, "x"), "x")];
    refused(&victim, base, &[replaced], breach);
    // In itself, in each other, in what is in it.
    refused(&victim, base, &[vec![directory(place(5, "d"), 5)]], breach);
    refused(&victim, base, &[vec![directory(place(6, "x"), 6)]], breach);
    let round = vec![
        directory(place(7, "x"), 6),
        directory(place(8, "y"), 7),
        directory(place(6, "z"), 8),
    ];
    refused(&victim, base, &[round], breach);
    let below = vec![directory(place(6, "d"), 5), directory(place(5, "e"), 6)];
    refused(&victim, base, &[below], breach);
    // At the top there are two roots, and no more.
    for name in ["SNAPSHOT", ".understudy", "x", "live"] {
        refused(&victim, base, &[vec![file(place(0, name), "x")]], breach);
        refused(&victim, base, &[vec![directory(place(0, name), 9)]], breach);
    }
    let roots = [
        vec![file(place(0, "files"), "x")],
        vec![link(place(0, "files"), "/")],
        vec![directory(place(0, "files"), 9)],
        vec![directory(place(1, "x"), 1)],
        vec![directory(place(1, "x"), 0)],
        vec![remove(0, "files")],
    ];
    for records in roots {
        refused(&victim, base, &[records], breach);
    }
    victim.check();
}

#[test]
fn names_of_one_file_are_names_of_one_file() {
    let (victim, base) = Victim::new();
    let breach = FailureCode::Misbehaved;
    let named = |name: &str, group, text: &str, content| {
        let mut entry = entry(of_text(text));
        entry.group = group;
        put(place(1, name), entry, content)
    };
    let keep = |name: &str| Content::Keep(place(1, name));
    // Two places that keep one file without being one, or in groups of their own.
    for (one, other) in [(0, 0), (3, 0), (3, 4)] {
        let records = vec![
            named("x", one, "first", keep("a")),
            named("y", other, "first", keep("a")),
        ];
        refused(&victim, base, &[records], breach);
    }
    // One that stays and one that keeps it.
    let records = vec![named("x", 3, "first", keep("a"))];
    refused(&victim, base, &[records], breach);
    // Further names of nothing, of another group, of themselves, with another content.
    let inline = |text: &str| Content::Inline(text.as_bytes().to_vec().into());
    let first = named("x", 3, "same", inline("same"));
    for other in [
        named("y", 3, "same", Content::Sibling(place(1, "nothing"))),
        named("y", 4, "same", Content::Sibling(place(1, "x"))),
        named("y", 0, "same", Content::Sibling(place(1, "x"))),
        named("y", 3, "same", Content::Sibling(place(1, "y"))),
        named("y", 3, "other", Content::Sibling(place(1, "x"))),
        named("y", 3, "first", Content::Sibling(place(1, "a"))),
        named("y", 3, "same", Content::Sibling(place(1, "d"))),
    ] {
        refused(&victim, base, &[vec![first.clone(), other]], breach);
    }
    // Directories have no further names.
    let mut shared = entry(Node::Directory { id: DirectoryId(9) });
    shared.group = 3;
    let shared = put(place(1, "x"), shared, Content::Directory);
    refused(&victim, base, &[vec![shared]], breach);
    victim.check();
}

#[test]
fn a_tree_cannot_be_moved_deeper_than_it_may_be() {
    let (victim, base) = Victim::new();
    let half = limits::DEPTH as u64 / 2 + 10;
    // Two chains of directories beside each other, which are allowed.
    let chain = |first: u64, name: &'static str| {
        (0..half).map(move |number| {
            let parent = if number == 0 { 1 } else { first + number - 1 };
            directory(place(parent, name), first + number)
        })
    };
    let records: Vec<Change> = chain(10_000, "x").chain(chain(20_000, "y")).collect();
    let mut messages = vec![begin()];
    messages.extend(records.chunks(1000).map(|part| changes(part.to_vec())));
    let all = [crate::victim::base(), records].concat();
    messages.push(commit(Some(base), &digest(&all)));
    let outcome = victim.attack(&messages);
    let now = outcome.committed().unwrap_or_else(|| panic!("{outcome:?}"));
    // One of them below the other: only its first directory is told.
    let below = vec![directory(place(10_000 + half - 1, "y"), 20_000)];
    refused(&victim, now, &[below], FailureCode::Misbehaved);
    // With another directory in between, which is new.
    let between = vec![
        directory(place(10_000 + half - 1, "new"), 30_000),
        directory(place(30_000, "y"), 20_000),
    ];
    refused(&victim, now, &[between], FailureCode::Misbehaved);
    victim.check();
}
