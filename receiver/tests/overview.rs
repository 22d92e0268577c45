//! Whoever asks sees the restores that run, in whichever session, and nothing of those that have ended.

#![allow(clippy::panic, reason = "a test that meets something else ends there")]
#![expect(clippy::disallowed_methods, reason = "makes what a dead process left")]

#[allow(dead_code, reason = "shared, and not all of it is used here")]
mod stage;

use understudy_protocol::message::{
    Locate, Oversee, Overseen, ReadManifest, RestorePhase, Restoring, Want,
};
use understudy_protocol::transport::Channel;
use understudy_protocol::{Message, RelPath};

use stage::{Stage, dataset, directory, file, hear, place, send};

fn filled() -> Stage {
    let mut stage = Stage::new();
    let changes = [
        directory(place(0, "files"), 1),
        file(place(1, "small"), "content"),
    ];
    stage.upload(&changes, &[]);
    stage
}

fn overseen(stage: &Stage) -> Overseen {
    stage.talk(|channel| {
        send(channel, &Message::Oversee(Oversee {}));
        match hear(channel).expect("an answer") {
            Message::Overseen(overseen) => overseen,
            other => panic!("{other:?}"),
        }
    })
}

fn restoring() -> Restoring {
    Restoring {
        who: "main:/srv/www".to_owned(),
        phase: RestorePhase::Restoring,
        files_total: 10,
        files_done: 4,
        files_found: 3,
        bytes_total: 1000,
        bytes_done: 400,
        bytes_found: 300,
        bytes_per_second: Some(10),
        remaining_seconds: None,
    }
}

fn read_manifest(channel: &mut Channel) {
    let request = ReadManifest {
        dataset: dataset(),
        number: None,
    };
    send(channel, &Message::ReadManifest(request));
    while !matches!(hear(channel).expect("manifest"), Message::ManifestEnd(_)) {}
}

/// Asks for the file; when it has come, all that was sent before was heard.
fn want(channel: &mut Channel) {
    let places = vec![place(1, "small")];
    send(channel, &Message::Want(Want { places }));
    assert!(matches!(hear(channel), Ok(Message::Given(_))));
}

#[test]
fn a_restore_is_seen_while_it_runs() {
    let stage = filled();
    assert_eq!(overseen(&stage).restores, []);
    stage.talk(|channel| {
        read_manifest(channel);
        assert_eq!(overseen(&stage).restores, [], "nothing is asked for yet");
        want(channel);
        let seen = overseen(&stage).restores;
        let [one] = seen.as_slice() else {
            panic!("{seen:?}");
        };
        assert_eq!((&one.dataset, one.number), (&dataset(), 1));
        assert_eq!((one.files_given, one.bytes_given), (1, 7));
        assert_eq!(one.told, None, "an agent may say nothing");
        send(channel, &Message::Restoring(restoring()));
        want(channel);
        let told = overseen(&stage).restores.remove(0).told.expect("told");
        assert_eq!(told.1, restoring());
    });
    assert_eq!(overseen(&stage).restores, []);
}

#[test]
fn what_a_dead_process_left_is_no_restore_and_goes() {
    let stage = filled();
    let left = stage.path(".understudy/restores/7-0");
    std::fs::create_dir_all(&left).expect("made");
    std::fs::write(left.join("restore"), "{}").expect("written");
    assert_eq!(overseen(&stage).restores, []);
    assert!(!left.exists());
}

#[test]
fn a_look_at_one_file_is_no_restore() {
    let stage = filled();
    stage.talk(|channel| {
        let request = Locate {
            dataset: dataset(),
            number: None,
            path: RelPath::new(b"small").expect("path"),
        };
        send(channel, &Message::Locate(request));
        assert!(matches!(hear(channel), Ok(Message::Located(_))));
        want(channel);
        assert_eq!(overseen(&stage).restores, []);
    });
}

#[test]
fn the_disk_is_told_of_and_what_is_used_is_noted_once_an_hour() {
    let stage = filled();
    let seen = overseen(&stage);
    assert!(seen.bytes.total > 0 && seen.bytes.free <= seen.bytes.total);
    assert_eq!((seen.bytes.each_day, seen.observed_seconds), (None, 0));
    let file = stage.path("../understudy.space");
    let noted = std::fs::read_to_string(&file).expect("noted by the upload");
    let samples: Vec<(i64, u64, u64)> = serde_json::from_str(&noted).expect("samples");
    assert_eq!(samples.len(), 1);
    let mut stage = stage;
    stage.upload(&[stage::file(place(1, "small"), "other")], &[]);
    assert_eq!(std::fs::read_to_string(&file).expect("read"), noted);
}
