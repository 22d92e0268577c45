//! Lies to a main that sends.

use std::fs;
use std::sync::mpsc::{Sender, channel};

use understudy_protocol::message::{LeftoverEnd, Ready, Wanted, WantedContent};
use understudy_protocol::{
    ContentHash, DirectoryId, Message, Place, RelPath, SignedStatement, StateDigest,
};

use crate::spare::{Answers, Spare, directory, file, link, manifest, place, says};
use crate::world::{World, dataset};

/// A spare that reports all that it hears, with another answer to `Begin`.
fn hearing(
    spare: Spare,
    begin: Option<fn(&Spare) -> Vec<Message>>,
    heard: Sender<Message>,
) -> Spare {
    let mut honest = Spare::new();
    honest.entries.clone_from(&spare.entries);
    honest.snapshot.clone_from(&spare.snapshot);
    honest.stated.clone_from(&spare.stated);
    spare.lying(move |asked| -> Option<Answers> {
        let _ = heard.send(asked.clone());
        match (asked, begin) {
            (Message::Begin(_), Some(begin)) => Some(says(begin(&honest))),
            _ => None,
        }
    })
}

/// The statement that was signed for the state that a spare was sent.
fn stated(heard: &std::sync::mpsc::Receiver<Message>) -> Option<SignedStatement> {
    let mut all = heard.try_iter();
    let stated = all.find_map(|message| match message {
        Message::Stated(stated) => Some(stated.statement),
        _ => None,
    });
    stated.map(|bytes| SignedStatement::from_bytes(&bytes).expect("signed"))
}

#[test]
fn manifests_that_are_no_tree_are_not_adopted() {
    let trees = [
        vec![(place(0, "databases"), directory(1))],
        vec![(place(0, "databases"), directory(2))],
        vec![(place(0, "databases"), file(b""))],
        vec![
            (place(0, "databases"), directory(9)),
            (place(0, "databases"), directory(9)),
        ],
        vec![
            (place(0, "others"), directory(9)),
            (place(9, "x"), file(b"")),
        ],
        vec![(place(8, "a"), directory(9)), (place(9, "b"), directory(8))],
        vec![(place(77, "x"), file(b""))],
        vec![(place(1, "a"), directory(2))],
        vec![(place(1, "f"), file(b"twice"))],
        vec![(place(1, "a"), directory(1 << 63))],
        std::iter::repeat_n((place(1, "evil"), file(b"")), 1 << 16).collect(),
    ];
    for tree in trees {
        let world = World::new();
        let source = world.source(&[]);
        fs::write(source.path.join("f"), "f").expect("write");
        let (sender, heard) = channel();
        let spare = hearing(Spare::new().with(tree), None, sender);
        world.sync(spare, &source).expect_err("adopted");
        assert_eq!(stated(&heard), None);
    }
}

#[test]
fn what_is_signed_is_what_the_main_has_and_nothing_that_the_spare_has_put_in() {
    let world = World::new();
    let source = world.source(&["secret"]);
    fs::write(source.path.join("f"), "f").expect("write");
    fs::write(source.path.join("secret"), "key").expect("write");
    // It claims to have files that the main has, that it does not have, and that it keeps to itself.
    let evil = [
        (place(1, "evil"), file(b"evil")),
        (place(1, "secret"), file(b"key")),
        (place(1, "way"), link("/")),
        (place(0, "databases"), directory(9)),
        (place(9, "shop"), directory(10)),
        (place(10, "evil"), file(b"evil")),
    ];
    let (sender, heard) = channel();
    let spare = hearing(Spare::new().with(evil), None, sender);
    world.sync(spare, &source).expect("synced");
    let signed = stated(&heard).expect("signed");
    // The same from nothing, by a main that never heard of this spare.
    let other = World::new();
    let (sender, heard) = channel();
    let mut empty = Spare::new();
    empty.entries.truncate(1);
    let empty = hearing(
        empty.settle(),
        Some(|_| {
            let ready = Message::Ready(Ready { position: None });
            vec![ready, Message::LeftoverEnd(LeftoverEnd {})]
        }),
        sender,
    );
    let _ = other.sync(empty, &source);
    let alone = stated(&heard).expect("signed");
    assert_eq!(
        signed.statement().fingerprint,
        alone.statement().fingerprint
    );
    assert_eq!(signed.statement().dataset, dataset());
}

#[test]
fn what_is_left_out_of_the_dataset_is_given_to_nobody() {
    let world = World::new();
    let source = world.source(&["secret", "private/"]);
    fs::create_dir(source.path.join("private")).expect("directory");
    for (path, content) in [("f", "f"), ("secret", "key"), ("private/key", "key")] {
        fs::write(source.path.join(path), content).expect("write");
    }
    // The index becomes what the spare says, the paths that are left out with it; then the spare asks whether it guessed right.
    let evil = [
        (place(1, "secret"), file(b"key")),
        (place(1, "private"), directory(9)),
        (place(9, "key"), file(b"key")),
    ];
    let (sender, heard) = channel();
    let asking = |spare: &Spare| {
        let wanted = ["secret", "private/key", "../outside/passwd", "f"];
        let contents = wanted.iter().filter_map(|path| {
            let content: &[u8] = match *path {
                "f" => b"f",
                "../outside/passwd" => b"root",
                _ => b"key",
            };
            Some(WantedContent {
                path: RelPath::new(path.as_bytes()).ok()?,
                size: content.len() as u64,
                hash: ContentHash::of(content),
            })
        });
        vec![
            Message::Ready(Ready {
                position: Some(spare.snapshot.position),
            }),
            Message::Wanted(Wanted {
                contents: contents.collect(),
            }),
            Message::LeftoverEnd(LeftoverEnd {}),
        ]
    };
    let spare = hearing(Spare::new().with(evil), Some(asking), sender);
    world.sync(spare, &source).expect("synced");
    let returned: Vec<(ContentHash, bool)> = heard
        .try_iter()
        .filter_map(|message| match message {
            Message::Returned(returned) => Some((returned.hash, returned.stream.is_some())),
            _ => None,
        })
        .collect();
    let key = ContentHash::of(b"key");
    assert_eq!(
        returned,
        [(key, false), (key, false), (ContentHash::of(b"f"), true)]
    );
}

#[test]
fn numbers_that_wrap_are_refused() {
    let world = World::new();
    let source = world.source(&[]);
    fs::write(source.path.join("f"), "f").expect("write");
    let mut spare = Spare::new();
    spare.snapshot.position.number = u64::MAX;
    let error = world.sync(spare, &source).expect_err("refused");
    assert!(error.to_string().contains("follow"), "{error}");
}

#[test]
fn ten_million_entries_to_adopt_take_no_more_than_the_main_has_signed() {
    let world = World::new();
    let source = world.source(&[]);
    fs::write(source.path.join("f"), "f").expect("write");
    let spare = Spare::new().signed();
    let stated = spare.stated.clone().expect("stated");
    let spare = spare.lying(move |asked| match asked {
        Message::ReadManifest(_) => {
            let statement = understudy_protocol::Bytes(stated.clone());
            let stated = Message::Stated(understudy_protocol::message::Stated { statement });
            let root = manifest(vec![(place(0, "files"), directory(1))]);
            let parts = (0..10_000_u64).map(|part| {
                let numbers = part * 1000..(part + 1) * 1000;
                manifest(
                    numbers
                        .map(|n| (place(1, &format!("n{n}")), file(b"")))
                        .collect(),
                )
            });
            Some(says([stated, root].into_iter().chain(parts)))
        }
        _ => None,
    });
    let error = world.sync(spare, &source).expect_err("too many");
    assert!(error.to_string().contains("more entries"), "{error}");
}

#[test]
fn directories_come_from_the_top() {
    // What the helpers of these tests take for granted.
    let place = Place::new(DirectoryId::TOP, crate::spare::name("files"));
    assert_eq!(Spare::new().entries[0].0, place);
    assert!(Spare::new().digest() != StateDigest::empty());
}
