//! Lies in manifests. Here nobody asks who has signed what comes: what a restore refuses by itself.

use std::fs;

use understudy_agent::{Manner, RestoreRequest};
use understudy_protocol::message::{Fuzzy, ManifestEnd, Owners};
use understudy_protocol::{
    DirectoryId, Entry, Message, Node, Place, Position, Snapshot, Timestamp, Xattr,
};

use crate::spare::{Said, Spare, directory, entry, file, forged, link, manifest, place, says};
use crate::world::World;

#[test]
fn the_honest_tree_of_these_tests_is_restored() {
    for manner in [Manner::Switch, Manner::Progressive] {
        let world = World::new();
        let request = RestoreRequest {
            manner,
            ..world.request()
        };
        let report = world.restore(Spare::new(), &request).expect("restored");
        assert_eq!(report.files, 3);
        assert_eq!(fs::read(world.target().join("d/g")).expect("read"), b"g");
        world.assert_untouched();
    }
}

#[test]
fn names_that_lead_elsewhere_are_refused() {
    let forgeries: [(&str, &[u8]); 7] = [
        ("xx", b".."),
        ("x", b"."),
        ("xxxxx", b"../ab"),
        ("xxxx", b"/abc"),
        ("xxx", b"a/b"),
        ("xxx", b"a\0b"),
        ("xxxxxxxx", b"d/../../"),
    ];
    for (honest, forged_name) in forgeries {
        for node in [file(b"evil"), directory(9), link("/")] {
            let make = || {
                let forgery = manifest(vec![(place(1, honest), node.clone())]);
                let spare = Spare::new().with([(place(1, honest), node.clone())]);
                let (honest, forged_name) = (honest.to_owned(), forged_name.to_vec());
                let snapshot = spare.snapshot.clone();
                spare.lying(move |asked| match asked {
                    Message::ReadManifest(_) => {
                        let root = Said::from(manifest(vec![(place(0, "files"), directory(1))]));
                        let forged = forged(&forgery, honest.as_bytes(), &forged_name);
                        let end = Message::ManifestEnd(ManifestEnd {
                            snapshot: snapshot.clone(),
                        });
                        Some(Box::new([root, forged, end.into()].into_iter()))
                    }
                    _ => None,
                })
            };
            World::refuse(make);
        }
    }
}

#[test]
fn a_link_and_a_directory_of_one_name_are_refused() {
    let evil = (place(9, "evil"), file(b"evil"));
    let names = [
        (place(1, "way"), link("../../outside")),
        (place(1, "way"), directory(9)),
    ];
    for order in [[0, 1], [1, 0]] {
        let error = World::refuse(|| {
            let both = order.map(|number: usize| names[number].clone());
            let mut spare = Spare::new().with(both).with([evil.clone()]);
            spare.contents.push((evil.0.clone(), b"evil".to_vec()));
            spare
        });
        assert!(error.contains("twice"), "{error}");
    }
}

#[test]
fn what_stands_below_a_link_is_refused() {
    World::refuse(|| {
        Spare::new().with([
            (place(1, "way"), link("../../outside")),
            (place(7, "evil"), file(b"evil")),
        ])
    });
}

#[test]
fn two_entries_of_one_name_are_refused() {
    let pairs = [
        [(place(1, "f"), file(b"other")), (place(1, "z"), file(b""))],
        [(place(1, "d"), directory(5)), (place(1, "z"), file(b""))],
        [(place(1, "z"), directory(5)), (place(1, "z"), directory(6))],
        [(place(1, "z"), file(b"1")), (place(1, "z"), link("f"))],
    ];
    for pair in pairs {
        World::refuse(|| Spare::new().with(pair.clone()));
    }
}

#[test]
fn directories_that_are_no_tree_are_refused() {
    let trees: [Vec<(Place, Entry)>; 8] = [
        vec![(place(8, "a"), directory(9)), (place(9, "b"), directory(8))],
        vec![(place(9, "a"), directory(9))],
        vec![(place(1, "a"), directory(2))],
        vec![(place(1, "a"), directory(1))],
        vec![(place(1, "a"), directory(0))],
        vec![
            (place(0, "others"), directory(9)),
            (place(9, "x"), file(b"")),
        ],
        vec![(place(0, "files"), directory(1))],
        vec![(place(1, "a"), directory(u64::MAX))],
    ];
    for tree in trees {
        World::refuse(|| Spare::new().with(tree.clone()));
    }
    let deep = |depth: u64| {
        let chain = (0..depth).map(|level| {
            let parent = if level == 0 { 1 } else { 1000 + level };
            (place(parent, &"n".repeat(255)), directory(1001 + level))
        });
        chain.collect::<Vec<_>>()
    };
    let error = World::refuse(|| Spare::new().with(deep(5000)));
    assert!(error.contains("deeper"), "{error}");
}

#[test]
fn names_of_one_file_that_differ_are_refused() {
    let grouped = |content: &[u8]| Entry {
        group: 4,
        ..file(content)
    };
    let error = World::refuse(|| {
        let names = [
            (place(1, "x"), grouped(b"1")),
            (place(1, "y"), grouped(b"2")),
        ];
        Spare::new().with(names)
    });
    assert!(error.contains("differs from another name"), "{error}");
    World::refuse(|| {
        let directory = Entry {
            group: 4,
            ..directory(9)
        };
        Spare::new().with([(place(1, "x"), directory)])
    });
}

#[test]
fn sizes_that_no_file_can_have_are_refused() {
    World::refuse(|| {
        let node = Node::File {
            size: u64::MAX,
            hash: understudy_protocol::ContentHash::of(b""),
        };
        Spare::new().with([(place(1, "x"), entry(node))])
    });
}

#[test]
fn a_manifest_that_never_ends_is_ended() {
    let endless: [fn() -> Message; 3] = [
        || manifest(Vec::new()),
        || Message::Fuzzy(Fuzzy { places: Vec::new() }),
        || Message::Owners(Owners::default()),
    ];
    for message in endless {
        World::refuse(|| {
            Spare::new().lying(move |asked| match asked {
                Message::ReadManifest(_) => Some(says(std::iter::repeat_with(message))),
                _ => None,
            })
        });
    }
    // The same places again and again.
    World::refuse(|| {
        let spare = Spare::new();
        let entries = spare.entries.clone();
        spare.lying(move |asked| match asked {
            Message::ReadManifest(_) => {
                let fuzzy = || {
                    Message::Fuzzy(Fuzzy {
                        places: vec![place(1, "f"); 4096],
                    })
                };
                let first = [manifest(entries.clone())].into_iter();
                Some(says(first.chain(std::iter::repeat_with(fuzzy))))
            }
            _ => None,
        })
    });
}

#[test]
fn another_snapshot_than_was_asked_for_is_refused() {
    let world = World::new();
    let request = RestoreRequest {
        which: understudy_agent::Which::Number(2),
        ..world.request()
    };
    let error = world.restore(Spare::new(), &request).expect_err("another");
    assert!(error.to_string().contains("another snapshot"), "{error}");
    world.assert_refused();
}

#[test]
fn numbers_and_times_out_of_all_bounds_are_harmless() {
    for seconds in [i64::MIN, i64::MAX] {
        let mut odd = file(b"odd");
        odd.attributes.modified = Timestamp {
            seconds,
            nanoseconds: 999_999_999,
        };
        let mut spare = Spare::new();
        spare.add_file(place(1, "odd"), b"odd");
        spare.entries.last_mut().expect("entry").1 = odd;
        let mut spare = spare.settle();
        spare.snapshot = Snapshot {
            position: Position {
                epoch: u64::MAX,
                number: u64::MAX,
                ..spare.snapshot.position
            },
            committed_seconds: seconds,
            bytes: u64::MAX,
            ..spare.snapshot
        };
        let world = World::new();
        let report = world.restore(spare, &world.request()).expect("restored");
        assert_eq!(report.snapshot.committed_seconds, seconds);
        world.assert_untouched();
    }
}

#[test]
fn names_that_steer_a_terminal_are_told_without_steering_it() {
    let evil = "\u{1b}]0;evil\u{7}\n";
    let mut spare = Spare::new();
    spare.entries.push((place(1, evil), file(b"evil")));
    spare.contents.push((place(1, evil), b"other".to_vec()));
    let world = World::new();
    let error = world
        .restore(spare.settle(), &world.request())
        .expect_err("damaged");
    // The text was looked at by `restore`.
    assert!(error.to_string().contains("evil"), "{error}");
    world.assert_refused();
}

#[test]
fn what_is_no_content_of_an_entry_takes_no_more_memory_than_was_signed() {
    // Ten million entries, with attributes, to somebody who knows that they cannot be so many.
    let heavy = |number: u64| {
        let mut heavy = file(b"");
        heavy.attributes.xattrs = vec![Xattr {
            name: b"user.x"[..].into(),
            value: vec![0; 50].into(),
        }];
        (place(1, &format!("n{number}")), heavy)
    };
    let world = World::new();
    let mut request = world.request();
    request.trust = crate::world::trust();
    let spare = Spare::new().signed();
    let stated = spare.stated.clone().expect("stated");
    let spare = spare.lying(move |asked| match asked {
        Message::ReadManifest(_) => {
            let statement = understudy_protocol::Bytes(stated.clone());
            let stated = Message::Stated(understudy_protocol::message::Stated { statement });
            let root = manifest(vec![(place(0, "files"), directory(1))]);
            let parts = (0..10_000_u64).map(move |part| {
                let numbers = part * 1000..(part + 1) * 1000;
                manifest(numbers.map(heavy).collect())
            });
            Some(says([stated, root].into_iter().chain(parts)))
        }
        _ => None,
    });
    let error = world.restore(spare, &request).expect_err("too many");
    assert!(error.to_string().contains("more entries"), "{error}");
    world.assert_refused();
    crate::assert_small();
}

#[test]
fn entries_that_nobody_has_signed_take_little_memory() {
    crowd(16 << 20);
}

#[test]
#[ignore = "a minute, and by itself: what the whole process takes is told"]
fn entries_that_nobody_has_signed_take_little_memory_in_full() {
    crowd(RestoreRequest::ROOM_BYTES);
}

/// Makes the entry of a number.
type Making = fn(u64) -> (Place, Entry);

/// Ten million entries to somebody who has no way to know that they are not so many.
fn crowd(room_bytes: u64) {
    let plain = |number: u64| (place(1, &format!("n{number}")), file(b""));
    let many = |number: u64| {
        let mut entry = file(b"");
        let names = (0..2000).map(|name| Xattr {
            name: format!("{name:04}").as_bytes().into(),
            value: Vec::new().into(),
        });
        entry.attributes.xattrs = names.collect();
        (place(1, &format!("n{number}")), entry)
    };
    let directories = |number: u64| (place(1, &format!("n{number}")), directory(number + 2));
    let kinds: [(u64, Making); 3] = [(1000, plain), (10, many), (1000, directories)];
    for (each, make) in kinds {
        let world = World::new();
        let parts = move || {
            let parts = (0..10_000_000 / each).map(move |part| {
                let first = part * each;
                manifest((first..first + each).map(make).collect())
            });
            let root = manifest(vec![(place(0, "files"), directory(1))]);
            [root].into_iter().chain(parts)
        };
        let spare = Spare::new().lying(move |asked| match asked {
            Message::ReadManifest(_) => Some(says(parts())),
            _ => None,
        });
        let request = RestoreRequest {
            room_bytes,
            ..world.request()
        };
        let error = world.restore(spare, &request).expect_err("too many");
        assert!(error.to_string().contains("of memory here"), "{error}");
        println!("peak {} KiB", crate::peak_kib());
        world.assert_refused();
        crate::assert_small();
    }
}

#[test]
fn a_place_above_the_tree_is_no_place() {
    for parent in [DirectoryId::TOP, DirectoryId(77)] {
        World::refuse(|| {
            let place = Place::new(parent, crate::spare::name("evil"));
            Spare::new().with([(place, file(b"evil"))])
        });
    }
}

#[test]
fn databases_stand_where_they_may_and_once() {
    let root = |id: u64| (place(0, "databases"), directory(id));
    let refused: [(&str, Vec<(Place, Entry)>); 7] = [
        ("that of the files", vec![root(1)]),
        ("that of the top", vec![root(0)]),
        ("one that something else has", vec![root(2)]),
        ("a file", vec![(place(0, "databases"), file(b"evil"))]),
        ("a link", vec![(place(0, "databases"), link("/"))]),
        ("twice", vec![root(9), root(9)]),
        ("twice with other numbers", vec![root(9), root(10)]),
    ];
    for (what, entries) in refused {
        let told = World::refuse(|| Spare::new().with(entries.clone()));
        println!("{what}: {told}");
    }
}

/// What is passed over cannot make up in the digest for what is held.
#[test]
fn what_is_passed_over_is_a_tree_with_each_name_once() {
    let root = || (place(0, "databases"), directory(90));
    let evil = |parent: u64, name: &str| (place(parent, name), file(b"evil"));
    let refused = [
        vec![root(), evil(90, "a"), evil(90, "a")],
        vec![root(), evil(90, "b"), evil(90, "a")],
        vec![
            root(),
            (place(90, "a"), directory(91)),
            evil(91, "x"),
            evil(90, "a"),
        ],
        vec![root(), (place(90, "a"), directory(90))],
        vec![root(), (place(90, "a"), directory(2))],
        vec![root(), (place(90, "a"), directory(91)), evil(92, "x")],
        vec![
            root(),
            (place(90, "a"), directory(91)),
            (place(90, "b"), directory(92)),
            evil(91, "x"),
            evil(92, "x"),
            evil(91, "y"),
        ],
    ];
    for entries in refused {
        World::refuse(|| Spare::new().with(entries.clone()));
    }
    // An honest one is.
    let world = World::new();
    let honest = [
        root(),
        (place(90, "a"), directory(91)),
        evil(91, "x"),
        evil(91, "y"),
    ];
    let report = world.restore(Spare::new().with(honest), &world.request());
    assert_eq!(report.expect("restored").dumped.databases, 1);
}
