//! What is not what the main has sent, although each part of it is true by itself.

use std::fs;

use understudy_agent::{
    AgentError, Evidence, Freshness, Known, Leniency, OwnedBy, Proven, RestoreRequest, Trusted,
    Unproven, Which,
};
use understudy_protocol::message::Owners;
use understudy_protocol::{Bytes, DatasetName, SignedStatement, Statement};

use crate::spare::{Spare, file, link, place};
use crate::world::{World, key, trust};

fn asking(world: &World, which: Which, trust: Option<Trusted>) -> RestoreRequest {
    RestoreRequest {
        which,
        trust,
        ..world.request()
    }
}

fn verdict(spare: Spare, which: Which, trust: Option<Trusted>) -> Unproven {
    let world = World::new();
    let request = asking(&world, which, trust);
    let error = world.restore(spare, &request).expect_err("it is restored");
    world.assert_refused();
    match error {
        AgentError::Unproven { verdict, .. } => *verdict,
        other => unreachable!("{other}"),
    }
}

fn evidence(spare: Spare, which: Which, trust: Option<Trusted>) -> Evidence {
    let world = World::new();
    let request = asking(&world, which, trust);
    let report = world.restore(spare, &request).expect("restored");
    world.assert_untouched();
    match report.proven {
        Proven::Signed(evidence) => evidence,
        other => unreachable!("{other:?}"),
    }
}

/// What the main knows if it has sent `statement` last.
fn knowing(signed: &SignedStatement) -> Option<Trusted> {
    let statement = signed.statement();
    Some(Trusted {
        newest: Some(Known {
            counter: statement.counter,
            hash: signed.hash(),
            epoch: statement.epoch,
            number: statement.number,
            fingerprint: statement.fingerprint,
            signed_seconds: statement.signed_seconds,
            committed_seconds: statement.signed_seconds,
        }),
        ..trust().expect("trust")
    })
}

fn sign(statement: Statement) -> SignedStatement {
    statement.sign(&key(1)).expect("sign")
}

#[test]
fn what_the_main_has_signed_is_restored_and_said_to_be() {
    let evidence_of = |which, trust| evidence(Spare::new().signed(), which, trust).freshness;
    assert_eq!(evidence_of(Which::Newest, trust()), Freshness::Unknown);
    assert_eq!(evidence_of(Which::Number(3), trust()), Freshness::Unasked);
    assert_eq!(
        evidence_of(Which::At(1_800_000_000), trust()),
        Freshness::Unasked
    );
    let signed = sign(Spare::new().statement());
    assert_eq!(
        evidence_of(Which::Newest, knowing(&signed)),
        Freshness::Newest
    );
}

#[test]
fn what_is_not_signed_or_signed_by_others_is_refused() {
    let unsigned = verdict(Spare::new(), Which::Newest, trust());
    assert!(matches!(unsigned, Unproven::Unsigned { .. }), "{unsigned}");
    let foreign = verdict(Spare::new().signed_by(&key(2)), Which::Newest, trust());
    assert_eq!(
        foreign,
        Unproven::Foreign {
            key: key(2).public()
        }
    );
    for garbage in [vec![], vec![0; 900], b"\x1b[31m".to_vec()] {
        let mut spare = Spare::new();
        spare.stated = Some(garbage);
        let verdict = verdict(spare, Which::Newest, trust());
        assert!(matches!(verdict, Unproven::Unsigned { .. }), "{verdict}");
    }
    // A former key counts where somebody says so.
    let former = Trusted {
        others: vec![key(2).public()],
        ..trust().expect("trust")
    };
    let evidence = evidence(Spare::new().signed_by(&key(2)), Which::Newest, Some(former));
    assert_eq!(evidence.key, key(2).public());
}

#[test]
fn entries_that_were_not_sent_are_refused() {
    let changed = |change: fn(&mut Spare)| {
        let mut spare = Spare::new().signed();
        change(&mut spare);
        verdict(spare.settle(), Which::Newest, trust())
    };
    let changes: [fn(&mut Spare); 6] = [
        |spare| {
            spare.entries.pop();
        },
        |spare| spare.entries.push((place(1, "x"), link("/"))),
        |spare| spare.entries[1].1.attributes.mode |= 0o4000,
        |spare| spare.entries[1].1.attributes.uid += 1,
        |spare| spare.entries[1].1 = file(b"other"),
        |spare| spare.entries[2].1.attributes.mode = 0o777,
    ];
    for change in changes {
        let verdict = changed(change);
        assert!(matches!(verdict, Unproven::Differs { .. }), "{verdict}");
    }
}

#[test]
fn so_many_copies_of_an_entry_that_the_digest_forgets_them_are_refused() {
    // The digest adds numbers of 16 bits: 65,536 times the same is nothing.
    let mut spare = Spare::new();
    let evil = (place(1, "evil"), file(b""));
    let before = spare.digest();
    spare.entries.extend(std::iter::repeat_n(evil, 1 << 16));
    assert!(spare.digest() == before);
    let world = World::new();
    let error = world.restore(spare, &world.request()).expect_err("twice");
    assert!(error.to_string().contains("twice"), "{error}");
    world.assert_refused();
}

#[test]
fn what_was_signed_for_something_else_is_refused() {
    let with = |change: fn(&mut Statement)| {
        let mut spare = Spare::new();
        let mut statement = spare.statement();
        change(&mut statement);
        spare.stated = Some(sign(statement).bytes().to_vec());
        verdict(spare, Which::Newest, trust())
    };
    let changes: [fn(&mut Statement); 4] = [
        |statement| statement.dataset = DatasetName::new("other").expect("name"),
        |statement| statement.number += 1,
        |statement| statement.epoch += 1,
        |statement| statement.fuzzy = understudy_protocol::ContentHash::of(b""),
    ];
    for change in changes {
        let verdict = with(change);
        assert!(matches!(verdict, Unproven::Differs { .. }), "{verdict}");
    }
}

#[test]
fn an_older_snapshot_is_not_the_newest() {
    let mut statement = Spare::new().statement();
    statement.number += 1;
    statement.counter += 1;
    let known = knowing(&sign(statement));
    let verdict_of = |which| verdict(Spare::new().signed(), which, known.clone());
    let older = verdict_of(Which::Newest);
    assert!(
        matches!(
            older,
            Unproven::Older {
                shown: 3,
                known: 4,
                ..
            }
        ),
        "{older}"
    );
    // So it is as of a time at which there was a newer one, and of no earlier time.
    let seconds = 1_800_000_000;
    let at = |committed_seconds: i64| {
        let mut trust = known.clone().expect("trust");
        if let Some(newest) = &mut trust.newest {
            newest.committed_seconds = committed_seconds;
        }
        Some(trust)
    };
    let older = verdict(
        Spare::new().signed(),
        Which::At(seconds + 60),
        at(seconds + 60),
    );
    assert!(matches!(older, Unproven::Older { .. }), "{older}");
    evidence(
        Spare::new().signed(),
        Which::At(seconds + 59),
        at(seconds + 60),
    );
    // Asked for by its number it is what it is.
    evidence(Spare::new().signed(), Which::Number(3), known.clone());
    // Another state with the number of the one that was acknowledged: an upload that the spare said had failed.
    let known = knowing(&sign(Statement {
        signed_seconds: 5,
        ..Spare::new().statement()
    }));
    let older = verdict(Spare::new().signed(), Which::Newest, known);
    assert!(matches!(older, Unproven::Older { .. }), "{older}");
}

#[test]
fn a_snapshot_of_another_time_is_not_that_of_the_time_asked_for() {
    let moved = |seconds: i64| {
        let mut spare = Spare::new().signed();
        spare.snapshot.committed_seconds = seconds;
        spare
    };
    let (asked, day) = (1_800_000_000 + 86_400, 1_800_000_000 + 86_000);
    let verdict = verdict(moved(day), Which::At(asked), trust());
    assert!(
        matches!(verdict, Unproven::Moved { number: 3, .. }),
        "{verdict}"
    );
    evidence(moved(day), Which::Number(3), trust());
    evidence(moved(1_800_000_100), Which::At(asked), trust());
}

#[test]
fn torn_files_and_owners_are_those_that_the_main_told() {
    let mut hidden = Spare::new();
    hidden.fuzzy = vec![place(1, "f")];
    let mut hidden = hidden.signed();
    hidden.fuzzy.clear();
    let hides = verdict(hidden, Which::Newest, trust());
    assert!(matches!(hides, Unproven::Differs { .. }), "{hides}");
    // Files of a user of the main become root's.
    let mut spare = Spare::new().signed();
    spare.owners = Owners {
        users: vec![(1000, Bytes(b"root".to_vec()))],
        groups: Vec::new(),
    };
    let lies = verdict(spare, Which::Newest, trust());
    assert!(matches!(lies, Unproven::Differs { .. }), "{lies}");
    // The main did not vouch for names.
    let mut spare = Spare::new();
    let statement = Statement {
        owners: None,
        ..spare.statement()
    };
    spare.stated = Some(sign(statement).bytes().to_vec());
    spare.owners = Owners {
        users: vec![(1000, Bytes(b"root".to_vec()))],
        groups: Vec::new(),
    };
    let world = World::new();
    let request = RestoreRequest {
        owners: OwnedBy::Name,
        ..asking(&world, Which::Newest, trust())
    };
    let error = world.restore(spare, &request).expect_err("unproved");
    assert!(matches!(error, AgentError::Unproven { .. }), "{error}");
    world.assert_refused();
}

#[test]
fn who_insists_gets_it_and_is_told_what_is_wrong() {
    let world = World::new();
    let trust = Trusted {
        leniency: Leniency::Accept,
        ..trust().expect("trust")
    };
    let request = asking(&world, Which::Newest, Some(trust));
    let report = world.restore(Spare::new(), &request).expect("restored");
    let Proven::Not { reason } = report.proven else {
        unreachable!("{:?}", report.proven)
    };
    assert!(reason.contains("not signed"), "{reason}");
    assert_eq!(fs::read(world.target().join("f")).expect("read"), b"f");
}
