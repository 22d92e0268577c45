//! Random histories of syncs, pins and prunes by a clock of their own, against full copies of each snapshot: what is kept stays
//! whole, and what belongs to nothing is gone.

#![allow(clippy::panic, reason = "a test that meets something else ends there")]

mod cold;
mod history;
mod patches;
mod random;
#[allow(dead_code, reason = "shared, and not all of it is used here")]
#[path = "../stage/mod.rs"]
mod stage;

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;
use std::time::Duration;

use proptest::prelude::*;
use understudy_protocol::message::{
    Change, Content, Fuzzy, FuzzyFile, List, ListFuzzy, ListRetention, ReadManifest, Retained,
    StreamBase, StreamBlock, StreamCopy, StreamEnd, Touch, Verify, Want,
};
use understudy_protocol::transport::Channel;
use understudy_protocol::{ContentHash, Entry, FailureCode, Message, Node, Place, ProtocolError};
use understudy_receiver::retention::{
    Grace, Mode, Moment, ObstacleKind, Policies, Policy, Pruned, Request, Trust, compress_all, pin,
    prune, unpin,
};
use understudy_receiver::{Lease, Reserve};

use history::{History, doubted};
use stage::{Stage, dataset, directory, entry, file, hear, place, send};

const DAY: i64 = 86_400;
/// 2026-11-26T00:00:00Z.
const START: i64 = 1_795_651_200;

fn strict() -> Policy {
    Policy {
        all: Duration::from_secs(3600),
        hourly: Duration::ZERO,
        daily: Duration::ZERO,
        monthly: Duration::ZERO,
        minimum_age: Duration::from_secs(3600),
        newest: NonZeroU32::MIN,
        grace: Duration::from_secs(3600),
        ..Policy::default()
    }
}

fn text(name: &str, content: &str) -> Change {
    file(place(1, name), content)
}

/// Five snapshots of a file, hours apart, the older ones expired.
fn aged() -> History {
    let mut history = History::new(strict());
    for content in ["one", "two", "three", "four"] {
        history.now += 3 * 3600;
        history.sync(&[text("f", content)], &[], false);
    }
    history.now += 3 * 3600;
    history
}

#[test]
fn what_expires_is_flagged_told_and_goes_when_the_grace_period_is_over() {
    let mut history = aged();
    let flagged = history.prune();
    assert_eq!(
        flagged
            .flagged
            .iter()
            .map(|one| one.number)
            .collect::<Vec<_>>(),
        [1, 2, 3, 4]
    );
    pin(&history.stage.store, &dataset(), 2, "audit").expect("pin");
    history.pins.insert(2);
    let told = history.retained();
    assert_eq!(told.len(), 4);
    assert_eq!(
        told[1].pin.as_ref().map(|pin| pin.reason.as_str()),
        Some("audit")
    );
    assert!(told[1].flag.is_none());
    assert_eq!(
        told[0].flag.expect("a flag").due_seconds,
        history.now + 3600
    );
    history.now += 3599;
    assert_eq!(history.prune().waiting.len(), 3);
    history.now += 1;
    let removed = history.prune();
    assert_eq!(
        removed
            .removed
            .iter()
            .map(|one| one.number)
            .collect::<Vec<_>>(),
        [1, 3, 4]
    );
    assert!(removed.freed.objects > 0 && removed.freed.bytes > 0);
    assert!(pin(&history.stage.store, &dataset(), 3, "late").is_err());
    unpin(&history.stage.store, &dataset(), 2).expect("unpin");
    history.pins.clear();
    assert_eq!(history.prune().flagged.len(), 1);
}

#[test]
fn nothing_goes_while_the_clock_cannot_be_believed() {
    let history = aged();
    let doubt = |moment: Moment| {
        for mode in [Mode::Look, Mode::Act] {
            let stopped = history.request(mode, &moment);
            assert_eq!(
                stopped.obstacle.expect("an obstacle").kind,
                ObstacleKind::Clock
            );
            assert!(stopped.flagged.is_empty() && stopped.removed.is_empty());
        }
        assert_eq!(history.retained(), []);
    };
    // Before any pass, only the snapshots tell.
    doubt(Moment {
        seconds: START,
        ..history.moment()
    });
    let keep_all = Request {
        policy: &Policy::default(),
        moment: &history.moment(),
        mode: Mode::Act,
        grace: Grace::Wait,
        trust: Trust::Check,
    };
    assert_eq!(
        prune(&history.stage.store, &dataset(), &keep_all)
            .expect("prune")
            .obstacle,
        None
    );
    doubt(Moment {
        seconds: history.now + 3650 * DAY,
        ..history.moment()
    });
    doubt(Moment {
        seconds: history.now + 3650 * DAY,
        boot: "two".to_owned(),
        boot_seconds: 5,
    });
    doubt(Moment {
        seconds: history.now - 3600,
        ..history.moment()
    });
    // Somebody looks, and says so.
    let later = Moment {
        seconds: history.now + 3650 * DAY,
        ..history.moment()
    };
    let request = Request {
        policy: &history.policy,
        moment: &later,
        mode: Mode::Act,
        grace: Grace::Wait,
        trust: Trust::Given,
    };
    let done = prune(&history.stage.store, &dataset(), &request).expect("prune");
    assert_eq!((done.obstacle, done.flagged.len()), (None, 4));
}

#[test]
fn nothing_goes_while_the_catalog_is_in_doubt_or_a_verification_had_findings() {
    let mut history = aged();
    history.prune();
    history.now += 3600;
    let stopped = |history: &History, kind| {
        let pruned = history.request(Mode::Act, &history.moment());
        let obstacle = pruned.obstacle.expect("an obstacle");
        assert_eq!(obstacle.kind, kind, "{}", obstacle.reason);
        assert!(pruned.removed.is_empty());
        assert_eq!(history.listed(), [1, 2, 3, 4, 5]);
    };
    history.change_catalog("UPDATE snapshot SET entries = entries + 1 WHERE number = 2");
    stopped(&history, ObstacleKind::Catalog);
    history.change_catalog("UPDATE snapshot SET entries = entries - 1 WHERE number = 2");
    history.change_catalog("INSERT INTO pin VALUES (77, 'gone', 0)");
    stopped(&history, ObstacleKind::Catalog);
    history.change_catalog("DELETE FROM pin");
    let live = history.stage.path("live/files/f");
    let sound = std::fs::read(&live).expect("read");
    let modified = std::fs::metadata(&live)
        .expect("stat")
        .modified()
        .expect("time");
    let write = |content: &[u8]| {
        let file = std::fs::OpenOptions::new()
            .write(true)
            .open(&live)
            .expect("open");
        std::os::unix::fs::FileExt::write_all_at(&file, content, 0).expect("write");
        file.set_modified(modified).expect("time");
    };
    write(b"FOUR");
    assert_eq!(history.verify().len(), 1);
    stopped(&history, ObstacleKind::Findings);
    write(&sound);
    assert_eq!(history.verify().len(), 0);
    assert_eq!(history.prune().removed.len(), 4);
}

#[test]
fn a_snapshot_that_is_being_read_is_not_removed() {
    let mut history = aged();
    history.prune();
    history.now += 3600;
    history.stage.talk(|channel| {
        let request = ReadManifest {
            dataset: dataset(),
            number: Some(1),
        };
        send(channel, &Message::ReadManifest(request));
        while !matches!(hear(channel).expect("manifest"), Message::ManifestEnd(_)) {}
        let stopped = history.request(Mode::Act, &history.moment());
        assert_eq!(
            stopped.obstacle.expect("an obstacle").kind,
            ObstacleKind::Reader
        );
        assert!(stopped.removed.is_empty() && stopped.freed.objects == 0);
        send(
            channel,
            &Message::Want(Want {
                places: vec![doubted()],
            }),
        );
        assert!(matches!(hear(channel), Ok(Message::Given(_))));
    });
    assert_eq!(history.prune().removed.len(), 4);
}

#[test]
fn a_reader_that_asks_for_nothing_does_not_keep_what_expires_for_ever() {
    let mut history = aged();
    history.prune();
    history.now += 3600;
    history.stage.options.lease = Lease(Duration::ZERO);
    let read = |channel: &mut Channel, number| {
        let request = ReadManifest {
            dataset: dataset(),
            number: Some(number),
        };
        send(channel, &Message::ReadManifest(request));
        while !matches!(hear(channel).expect("manifest"), Message::ManifestEnd(_)) {}
    };
    let want = |channel: &mut Channel| {
        let places = vec![doubted()];
        send(channel, &Message::Want(Want { places }));
        hear(channel)
    };
    let head = history.head();
    history.stage.talk(|idle| {
        read(idle, 1);
        history.stage.talk(|other| {
            read(other, head);
            // Until both have been silent for long enough.
            while history
                .request(Mode::Act, &history.moment())
                .obstacle
                .is_some_and(|obstacle| obstacle.kind == ObstacleKind::Reader)
            {
                std::thread::yield_now();
            }
            // What is still there is given.
            assert!(matches!(want(other), Ok(Message::Given(_))));
        });
        match want(idle) {
            Err(ProtocolError::Failed(failure)) => assert_eq!(failure.code, FailureCode::NotFound),
            other => panic!("{other:?}"),
        }
    });
}

#[test]
fn the_ballast_is_whole_or_made_anew() {
    let mut history = aged();
    let ballast = history.stage.path(".understudy/ballast");
    history.prune();
    assert_eq!(ballast.metadata().expect("there").len(), 1 << 20);
    let file = std::fs::File::options()
        .write(true)
        .open(&ballast)
        .expect("open");
    file.set_len(1000).expect("cut");
    history.now += 3600;
    history.prune();
    assert_eq!(ballast.metadata().expect("there").len(), 1 << 20);
}

#[test]
fn the_twins_go_on_when_the_snapshot_before_the_newest_is_gone() {
    let mut history = aged();
    // Much of each is of that snapshot only.
    let moved = |name: &str| directory(place(1, name), 10);
    history.sync(&[moved("d2")], &[], true);
    let short = place(1, "short");
    history.sync(
        &[moved("d1"), text("short", "lived"), text("kept", "kept")],
        &[],
        true,
    );
    let kept = place(1, "kept");
    let mut attributes = history.stage.entries[&kept].attributes.clone();
    attributes.mode = 0o700;
    let changes = [
        moved("d3"),
        Change::Remove { place: short },
        Change::Touch {
            place: kept,
            attributes,
            touch: Touch::Kept,
        },
    ];
    history.sync(&changes, &[], true);
    for _ in 0..2 {
        history.now += 3 * 3600;
        history.prune();
    }
    // The newest healthy one, and the newest one.
    assert_eq!(history.listed(), [5, 8]);
    for content in ["newer", "newest"] {
        history.sync(&[text("g", content)], &[], false);
        history.check_verify();
    }
    history.now += 3 * 3600;
    history.prune();
}

#[test]
fn reading_needs_no_right_to_change() {
    let history = aged();
    let foretold = history.request(Mode::Look, &history.moment());
    assert_eq!(foretold.flagged.len(), 4);
    assert_eq!(history.retained(), []);
    assert_eq!(history.request(Mode::Look, &history.moment()), foretold);
}

#[test]
fn a_peer_of_an_older_version_is_not_answered() {
    let mut history = aged();
    history.stage.version = 4;
    history.stage.talk(|channel| {
        send(
            channel,
            &Message::ListRetention(ListRetention { dataset: dataset() }),
        );
        let refused = hear(channel).expect_err("a failure").to_string();
        assert!(refused.contains("ListRetention"), "{refused}");
    });
    assert_eq!(history.listed(), [1, 2, 3, 4, 5]);
}
