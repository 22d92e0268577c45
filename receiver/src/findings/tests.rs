//! How many are counted while passes begin and end.

use std::path::Path;
use std::sync::Arc;

use understudy_protocol::DatasetName;
use understudy_tree::Mounts;

use super::*;

fn dataset(path: &Path) -> Dataset {
    let store = Directory::open(path, Mounts::Cross).expect("open");
    let name = DatasetName::new("site").expect("name");
    Dataset::ensure(&store, path, &name, &Arc::default()).expect("made")
}

fn damage(number: usize) -> Damage {
    Damage {
        part: Part::Live,
        path: RelPath::new(format!("f{number}").as_bytes()).expect("path"),
        content: None,
        what: "is gone".to_owned(),
    }
}

fn counted(dataset: &Dataset) -> u64 {
    let verdict = verified::read(&dataset.control).expect("read");
    verdict.map_or(0, |verdict| verdict.findings)
}

/// A list that is full of what is accepted.
fn full(pass: u64) -> Vec<Known> {
    let known = |number| Known {
        damage: damage(number),
        state: State::Accepted,
        found_seconds: 1,
        seen_pass: pass,
    };
    (0..LISTED).map(known).collect()
}

#[test]
fn a_pass_that_only_begins_changes_no_count() {
    let scratch = tempfile::tempdir().expect("tempdir");
    let dataset = dataset(scratch.path());
    let pass = begin_pass(&dataset).expect("begin");
    change(&dataset, None, |findings| findings.list = full(pass)).expect("change");
    let more = |numbers: std::ops::Range<usize>, pass| {
        let damages: Vec<Damage> = numbers.map(|number| damage(LISTED + number)).collect();
        add(&dataset, &damages, Wish::Record, pass).expect("add");
    };
    more(0..3, pass);
    end_pass(&dataset, pass, &[]).expect("end");
    assert_eq!(counted(&dataset), 3);
    let broken = begin_pass(&dataset).expect("begin");
    assert_eq!(counted(&dataset), 3);
    more(0..1, broken);
    assert_eq!(counted(&dataset), 3, "they are the same");
    // Another one begins before it ends: only the last one has counted everything.
    let pass = begin_pass(&dataset).expect("begin");
    assert_eq!(counted(&dataset), 3);
    change(&dataset, None, |findings| findings.list = full(pass)).expect("change");
    end_pass(&dataset, broken, &[]).expect("end");
    assert_eq!(counted(&dataset), 3);
    more(0..2, pass);
    end_pass(&dataset, pass, &[]).expect("end");
    assert_eq!(counted(&dataset), 2);
}

#[test]
fn a_pass_from_before_the_list_was_lost_has_not_counted_everything() {
    let scratch = tempfile::tempdir().expect("tempdir");
    let dataset = dataset(scratch.path());
    for _ in 0..2 {
        begin_pass(&dataset).expect("begin");
    }
    add(&dataset, &[damage(1)], Wish::Record, 2).expect("add");
    dataset.control.remove_file(&names::FINDINGS).expect("lose");
    end_pass(&dataset, 2, &[]).expect("end");
    assert_eq!(counted(&dataset), 1);
}

#[test]
fn what_is_accepted_does_not_hide_what_is_found_later() {
    let mut findings = Findings {
        list: full(1),
        ..Findings::default()
    };
    let mut later = findings.list.pop().expect("one");
    later.state = State::Open;
    let path = later.damage.path.clone();
    findings.list.push(later);
    let told = told(&findings);
    assert_eq!(told.len(), LISTED, "a restore leaves out what is told");
    assert_eq!(told[0], path);
}

/// Where the findings are of which whoever asks is told.
fn told(findings: &Findings) -> Vec<RelPath> {
    use understudy_protocol::{Message, transport::in_process};
    let scratch = tempfile::tempdir().expect("tempdir");
    let dataset = dataset(scratch.path());
    change(&dataset, None, |listed| *listed = findings.clone()).expect("change");
    let (mut ours, theirs) = in_process();
    let teller = std::thread::spawn(move || crate::health::tell(&dataset, &theirs.outgoing));
    let mut told = Vec::new();
    while let Ok(Message::Health(health)) = ours.incoming.receive_message() {
        told.extend(health.findings.into_iter().map(|one| one.path));
    }
    teller.join().expect("teller").expect("told");
    told
}
