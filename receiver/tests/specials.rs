//! What gives rights, and device nodes, made or only recorded; and changed from one to the other and back.

#![allow(
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test that meets something else ends there"
)]
#![allow(dead_code, reason = "the stage has more than this test needs")]

mod stage;

use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::sync::Arc;

use stage::{Stage, dataset, directory, entry, file, hear, place, send};
use understudy_protocol::message::{Change, Content, Verify};
use understudy_protocol::{Message, Node, Xattr};
use understudy_receiver::Store;
use understudy_receiver::specials::Rules;
use understudy_tree::{Privileges, Specials};

const CAPABILITY: &str = "security.capability";

fn with(mut change: Change, mode: u16, xattr: Option<&[u8]>) -> Change {
    if let Change::Put { entry, .. } = &mut change {
        entry.attributes.mode = mode;
        entry.attributes.xattrs = xattr
            .into_iter()
            .map(|value| Xattr {
                name: CAPABILITY.as_bytes().into(),
                value: value.into(),
            })
            .collect();
    }
    change
}

fn device(name: &str) -> Change {
    Change::Put {
        place: place(2, name),
        entry: entry(Node::CharacterDevice { major: 1, minor: 3 }),
        content: Content::Inline(Vec::<u8>::new().into()),
    }
}

fn first() -> Vec<Change> {
    // cap_net_bind_service=ep, as the kernel stores it.
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let mut all = vec![
        directory(place(0, "files"), 1),
        directory(place(1, "d"), 2),
        with(file(place(2, "suid"), "suid"), 0o4755, None),
        with(file(place(2, "sgid"), "sgid"), 0o2755, None),
        with(file(place(2, "plain"), "plain"), 0o640, None),
        device("null"),
    ];
    if Privileges::current().chown {
        all.push(with(
            file(place(2, "able"), "able"),
            0o755,
            Some(&capability),
        ));
    }
    all
}

fn rules(common: Specials) -> Rules {
    Rules {
        common,
        ..Rules::default()
    }
}

/// A receiver that is started anew, with these rules.
fn restart(stage: &mut Stage, specials: Specials) {
    let store = Store::open(stage.path("..").as_path()).unwrap();
    store.recover().unwrap();
    store.treat(rules(specials)).unwrap();
    stage.store = Arc::new(store);
}

fn findings(stage: &Stage) -> Vec<String> {
    let dataset = Some(dataset());
    let mut found = Vec::new();
    stage.talk(|channel| {
        send(channel, &Message::Verify(Verify { dataset }));
        loop {
            match hear(channel).unwrap() {
                Message::Finding(finding) => found.push(format!("{finding:?}")),
                Message::Verified(_) => return,
                other => panic!("{other:?}"),
            }
        }
    });
    found
}

/// Panics unless both twins are as they are to be.
fn check(stage: &Stage, specials: Specials) {
    let is_made = specials == Specials::Materialise;
    for twin in ["live", ".understudy/shadow"] {
        let path = |name: &str| stage.path(&format!("{twin}/files/d/{name}"));
        if !path("plain").exists() {
            // Of the first snapshot there is only one.
            continue;
        }
        let mode = |name: &str| path(name).symlink_metadata().unwrap().mode() & 0o7777;
        let bits = if is_made {
            (0o4755, 0o2755)
        } else {
            (0o755, 0o755)
        };
        assert_eq!((mode("suid"), mode("sgid")), bits, "{twin}");
        assert_eq!(mode("plain"), 0o640);
        if Privileges::current().make_devices {
            let null = path("null").symlink_metadata();
            let is_there = null.is_ok_and(|null| null.file_type().is_char_device());
            assert_eq!(is_there, is_made, "{twin}");
        }
        if Privileges::current().chown {
            let mut value = [0; 64];
            let has = rustix::fs::lgetxattr(path("able"), CAPABILITY, &mut value[..]).is_ok();
            assert_eq!(has, is_made, "{twin}");
        }
        let directory = stage.path(&format!("{twin}/files/d")).metadata().unwrap();
        assert_eq!(directory.mtime(), 1, "{twin}: the time of the directory");
    }
    assert_eq!(findings(stage), Vec::<String>::new());
}

#[test]
fn what_gives_rights_is_recorded_made_and_recorded_again() {
    let mut stage = Stage::new();
    stage.store.treat(rules(Specials::Record)).unwrap();
    stage.upload(&first(), &[]);
    check(&stage, Specials::Record);
    let plain = |text: &str| with(file(place(2, "plain"), text), 0o640, None);
    for specials in [
        Specials::Record,
        Specials::Materialise,
        Specials::Record,
        Specials::Materialise,
    ] {
        restart(&mut stage, specials);
        check(&stage, specials);
        for number in 0..2 {
            stage.upload(&[plain(&format!("{specials:?} {number}"))], &[]);
            check(&stage, specials);
        }
        // The same once more, changed by the main.
        let suid = with(
            file(place(2, "suid"), &format!("{specials:?}")),
            0o4755,
            None,
        );
        stage.upload(&[suid], &[]);
        check(&stage, specials);
    }
}

#[test]
fn one_that_was_interrupted_is_changed_at_the_next_start() {
    let mut stage = Stage::new();
    stage.upload(&first(), &[]);
    stage.upload(&[with(file(place(2, "plain"), "2"), 0o640, None)], &[]);
    check(&stage, Specials::Materialise);
    restart(&mut stage, Specials::Record);
    check(&stage, Specials::Record);
    // As if it had died when it had begun to make everything again.
    let control =
        understudy_tree::Directory::open(&stage.path(".understudy"), understudy_tree::Mounts::Stay)
            .unwrap();
    let name = understudy_protocol::Name::new("specials").unwrap();
    let durability = understudy_tree::durable::Durability::Now;
    understudy_tree::durable::replace(&control, &name, b"materialise changing\n", durability)
        .unwrap();
    restart(&mut stage, Specials::Materialise);
    check(&stage, Specials::Materialise);
}
