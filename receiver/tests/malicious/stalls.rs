//! A main that begins and never ends: it keeps its own dataset, and nobody else from anything.

use std::sync::Arc;
use std::time::Duration;

use understudy_protocol::message::{Begin, Content, List, ReadManifest, StreamBlock, Verify, Want};
use understudy_protocol::transport::{Channel, in_process};
use understudy_protocol::version::Hello;
use understudy_protocol::{DatasetName, FailureCode, Message, limits};
use understudy_receiver::{Lease, SessionOptions, serve};

use crate::victim::{
    Victim, base, begin, changes, commit, digest, directory, entry, file, of_text, peer, place, put,
};

fn options(main: &str) -> SessionOptions {
    SessionOptions {
        peer: peer(main),
        lease: Lease(Duration::from_secs(3600)),
        ..SessionOptions::default()
    }
}

/// A session of the attacker in which this was said and nothing else will be. What it was answered has been heard.
fn held_open(victim: &Victim, messages: &[Message], answers: usize) -> Channel {
    let (mut ours, theirs) = in_process();
    let (store, options) = (Arc::clone(&victim.store), options("alpha"));
    std::thread::spawn(move || serve(store, theirs, options));
    let hello = Message::Hello(Hello::ours());
    for message in [&[hello], messages].concat() {
        ours.outgoing.send_message(&message).expect("send");
    }
    for _ in 0..=answers {
        ours.incoming.receive_message().expect("answer");
    }
    ours
}

fn evil(number: usize) -> Message {
    let dataset = DatasetName::fit(format!("evil{number}").as_bytes());
    Message::Begin(Begin { dataset })
}

/// Everything that an honest main and the people on the spare do.
fn others_go_on(victim: &Victim) {
    let honest = DatasetName::fit(b"honest");
    let heard = |messages: &[Message]| {
        let outcome = victim.tell(&peer("beta"), messages);
        assert!(outcome.failure.is_none(), "{outcome:?}");
        outcome
    };
    let listed = heard(&[Message::List(List { dataset: None })]);
    assert!(matches!(listed.heard.last(), Some(Message::Datasets(_))));
    let manifest = Message::ReadManifest(ReadManifest {
        dataset: honest.clone(),
        number: None,
    });
    let want = Message::Want(Want {
        places: vec![place(1, "a")],
    });
    let given = heard(&[manifest, want]);
    assert!(matches!(given.heard.last(), Some(Message::Given(_))));
    let verify = Message::Verify(Verify {
        dataset: Some(honest.clone()),
    });
    let verified = heard(&[verify]);
    let is_verified =
        |message: &Message| matches!(message, Message::Verified(one) if one.findings == 0);
    assert!(verified.heard.iter().any(is_verified), "{verified:?}");
    // Another dataset of its own: `honest` must stay as it was.
    let records = [directory(place(0, "files"), 1), file(place(1, "x"), "new")];
    let dataset = DatasetName::fit(b"second");
    let uploaded = heard(&[
        Message::Begin(Begin { dataset }),
        changes(records.to_vec()),
        commit(None, &digest(&records)),
    ]);
    assert!(uploaded.committed().is_some(), "{uploaded:?}");
}

#[test]
fn cycles_that_are_held_open_for_ever_disturb_nobody_else() {
    let (victim, base_position) = Victim::new();
    let block = Message::StreamBlock(StreamBlock {
        stream: 1,
        offset: 0,
        data: vec![7; 1000].into(),
    });
    let half = put(place(1, "x"), entry(of_text("x")), Content::Stream(1));
    // As many as it may, each in the midst of a stream, with changes that name what will never come.
    let first = [begin(), block.clone(), changes(vec![half])];
    let mut held = vec![held_open(&victim, &first, 2)];
    for number in 1..limits::UPLOADS_OF_MAIN {
        held.push(held_open(&victim, &[evil(number), block.clone()], 2));
    }
    let one_more = victim.attack(&[evil(limits::UPLOADS_OF_MAIN)]);
    let failure = one_more.failure.expect("one too many");
    assert_eq!(failure.code, FailureCode::Busy, "{failure:?}");
    let again = victim.attack(&[begin()]).failure.expect("in use");
    assert_eq!(again.code, FailureCode::Busy, "{again:?}");
    others_go_on(&victim);
    drop(held);
    // What was begun is worth nothing, and keeps nobody from the next.
    let records = [file(place(1, "new"), "new")];
    let all = [base(), records.to_vec()].concat();
    let again = loop {
        let again = [
            begin(),
            changes(records.to_vec()),
            commit(Some(base_position), &digest(&all)),
        ];
        let outcome = victim.attack(&again);
        match &outcome.failure {
            // The sessions end on threads of their own.
            Some(failure) if failure.code == FailureCode::Busy => {}
            _ => break outcome,
        }
    };
    assert!(again.committed().is_some(), "{again:?}");
}
