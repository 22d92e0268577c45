//! What an agent tells of files that never stood still: kept for each snapshot, told to whoever asks, and refused
//! where it makes no sense.

#![allow(clippy::panic, reason = "a test that meets something else ends there")]

#[allow(dead_code, reason = "shared, and not all of it is used here")]
mod stage;

use understudy_protocol::message::{Change, Fuzzy, FuzzyFile, ListFuzzy, ReadManifest};
use understudy_protocol::version::NEWEST;
use understudy_protocol::{FailureCode, Message, Place, ProtocolError, RelPath};

use stage::{Stage, dataset, directory, file, hear, place, send};

fn told(path: &str, since: u64, until: Option<u64>) -> FuzzyFile {
    FuzzyFile {
        path: RelPath::new(path.as_bytes()).expect("path"),
        since,
        until,
    }
}

/// With `d/torn`, which is fuzzy, and `still` in the first snapshot.
fn filled() -> Stage {
    let mut stage = Stage::new();
    let changes = [
        directory(place(0, "files"), 1),
        directory(place(1, "d"), 2),
        file(place(2, "torn"), "half and half"),
        file(place(1, "still"), "whole"),
    ];
    stage.upload(&changes, &fuzzy(&[place(2, "torn")]));
    stage
}

/// What tells that files are fuzzy, in messages of one.
fn fuzzy(places: &[Place]) -> Vec<Message> {
    let one = |place: &Place| {
        let places = vec![place.clone()];
        Message::Fuzzy(Fuzzy { places })
    };
    places.iter().map(one).collect()
}

impl Stage {
    fn fuzzy(&self, number: Option<u64>) -> Vec<FuzzyFile> {
        self.talk(|channel| {
            let dataset = dataset();
            send(channel, &Message::ListFuzzy(ListFuzzy { dataset, number }));
            let mut files = Vec::new();
            loop {
                match hear(channel).expect("answer") {
                    Message::FuzzyFiles(more) => files.extend(more.files),
                    Message::FuzzyEnd(_) => return files,
                    other => panic!("{other:?}"),
                }
            }
        })
    }

    fn fuzzy_in_manifest(&self, number: u64) -> Vec<Place> {
        self.talk(|channel| {
            let (dataset, number) = (dataset(), Some(number));
            send(
                channel,
                &Message::ReadManifest(ReadManifest { dataset, number }),
            );
            let mut places = Vec::new();
            loop {
                match hear(channel).expect("answer") {
                    Message::Manifest(_) => {}
                    Message::Fuzzy(fuzzy) => places.extend(fuzzy.places),
                    Message::ManifestEnd(_) => return places,
                    other => panic!("{other:?}"),
                }
            }
        })
    }
}

#[test]
fn a_file_is_fuzzy_from_snapshot_to_snapshot_until_nobody_says_so() {
    let mut stage = filled();
    let place_of_torn = place(2, "torn");
    let torn = fuzzy(std::slice::from_ref(&place_of_torn));
    stage.upload(&[file(place(1, "still"), "changed")], &torn);
    // Its directory moves, and gets other attributes where it is.
    stage.upload(&[directory(place(1, "e"), 2)], &torn);
    stage.upload(&[directory(place(1, "e"), 2)], &torn);
    assert_eq!(
        stage.fuzzy(None),
        [told("d/torn", 1, Some(3)), told("e/torn", 3, None)]
    );
    // Only that it is whole is news.
    let before = stage.position.expect("position");
    stage.upload(&[], &[]);
    let after = stage.position.expect("position");
    assert_eq!(
        (after.number, after.fingerprint),
        (before.number + 1, before.fingerprint)
    );
    stage.upload(&[file(place_of_torn.clone(), "half and half again")], &torn);
    let all = [
        told("d/torn", 1, Some(3)),
        told("e/torn", 3, Some(5)),
        told("e/torn", 6, None),
    ];
    assert_eq!(stage.fuzzy(None), all);
    for number in 1..=6 {
        let is_in = |file: &&FuzzyFile| file.is_in(number);
        let expected: Vec<FuzzyFile> = all
            .iter()
            .filter(is_in)
            .map(|file| FuzzyFile {
                since: number,
                until: None,
                ..file.clone()
            })
            .collect();
        assert_eq!(stage.fuzzy(Some(number)), expected, "snapshot {number}");
        let places = stage.fuzzy_in_manifest(number);
        let expected: Vec<Place> = expected.iter().map(|_| place_of_torn.clone()).collect();
        assert_eq!(places, expected, "snapshot {number}");
    }
}

#[test]
fn what_is_no_file_of_the_snapshot_is_not_fuzzy() {
    let stage = filled();
    let bad: [&[Place]; 4] = [
        &[place(2, "torn"), place(2, "torn")],
        &[place(1, "d")],
        &[place(1, "nowhere")],
        &[place(7, "still")],
    ];
    for places in bad {
        let refused = stage.try_upload(&[file(place(1, "new"), "new")], &fuzzy(places));
        let Err(ProtocolError::Failed(failure)) = refused else {
            panic!("{places:?}: {refused:?}")
        };
        assert_eq!(failure.code, FailureCode::Misbehaved, "{places:?}");
        assert_eq!(stage.fuzzy(None), [told("d/torn", 1, None)]);
    }
    let removed = Change::Remove {
        place: place(2, "torn"),
    };
    let refused = stage.try_upload(std::slice::from_ref(&removed), &fuzzy(&[place(2, "torn")]));
    assert!(refused.is_err(), "{refused:?}");
}

#[test]
fn an_agent_that_cannot_tell_leaves_files_fuzzy_that_it_leaves_alone() {
    let mut stage = filled();
    stage.version = 1;
    assert!(stage.try_upload(&[], &fuzzy(&[place(2, "torn")])).is_err());
    assert_eq!(stage.fuzzy_in_manifest(1), []);
    stage.upload(&[file(place(1, "still"), "changed")], &[]);
    stage.upload(&[file(place(2, "torn"), "whole")], &[]);
    stage.version = NEWEST;
    assert_eq!(stage.fuzzy(None), [told("d/torn", 1, Some(3))]);
}
