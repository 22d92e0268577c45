//! Connections that are cut, runs that are told to end, and two uploads that meet.

use std::time::Duration;

use rustix::process::Signal;

use super::{FILES, refused, with_a_snapshot};
use crate::support::needs::needs;
use crate::support::trees::{generation_now, set_generation};
use crate::support::{Kind, Random, Run, Stage, judge, pairing};

#[test]
fn a_second_upload_at_the_same_time() {
    for kind in Kind::BOTH {
        let (stage, _) = with_a_snapshot(kind);
        set_generation(&stage.source, 2, FILES);
        std::thread::scope(|scope| {
            let slow = || stage.sync().failing("agent.scanned=sleep(4000)").outcome();
            let first = scope.spawn(slow);
            std::thread::sleep(Duration::from_millis(1500));
            // With a state of its own: it is the spare that refuses.
            let other = stage.path().join("other state");
            if kind == Kind::Tcp {
                pairing::share(&stage.state, &other);
            }
            let second = || {
                Run::new(["sync"])
                    .arg(&stage.source)
                    .arg("--spare")
                    .arg(stage.spare())
                    .arg("--state")
                    .arg(&other)
                    .args(["--dataset", "site"])
            };
            refused(second, 1, &["site", "another upload"]);
            assert_eq!(first.join().unwrap().code, Some(0));
        });
        judge::same(&stage.source, &stage.live());
    }
}

#[test]
fn a_defect_ends_its_session_and_nothing_else() {
    let (mut stage, _) = with_a_snapshot(Kind::Tcp);
    let points = ["receiver.begun", "receiver.staged", "receiver.built"];
    for (point, generation) in points.into_iter().zip(2..) {
        stage.restart(Some(&format!("{point}=1*panic")));
        set_generation(&stage.source, generation, FILES);
        let outcome = stage.sync().outcome();
        assert_ne!(outcome.code, Some(0), "{point}: {}", outcome.said());
        assert!(stage.daemon.as_mut().unwrap().is_alive(), "{point}");
        // Neither the lock nor anything else is left behind.
        stage.sync_and_judge();
    }
}

#[test]
fn interrupted_at_any_time() {
    for kind in Kind::BOTH {
        let mut random = Random::new(130);
        let (stage, _) = with_a_snapshot(kind);
        let begun = std::time::Instant::now();
        stage.sync().ok();
        let usual = u64::try_from(begun.elapsed().as_micros()).unwrap() * 2;
        let mut acknowledged = 1;
        let mut interrupted = 0;
        for generation in 2..14 {
            set_generation(&stage.source, generation, FILES);
            let signal = *random.pick(&[Signal::INT, Signal::TERM]);
            let delay = Duration::from_micros(2_000 + random.below(usual));
            let outcome = stage.sync().signalled(delay, signal).outcome();
            match (outcome.code, outcome.signal) {
                (Some(0), None) => acknowledged = generation,
                (Some(130), None) => interrupted += 1,
                // Before the process could know what to do about it, on a machine that has much else to do.
                (None, Some(_)) if delay < Duration::from_millis(250) => {}
                _ => panic!("{signal:?} after {delay:?}: {outcome}"),
            }
            let live = generation_now(&stage.live(), FILES).unwrap();
            assert!(
                (acknowledged..=generation).contains(&live),
                "{signal:?} after {delay:?}"
            );
        }
        assert!(
            interrupted > 0,
            "never interrupted within {usual} microseconds"
        );
        assert_eq!(stage.sync_soon().code, Some(0));
        judge::same(&stage.source, &stage.live());
        stage.ask("verify").ok();
    }
}

#[test]
fn interrupted_while_much_is_sent() {
    for kind in Kind::BOTH {
        let (stage, was) = with_a_snapshot(kind);
        let mut random = Random::new(131);
        for number in 0..40 {
            let content = random.noise(2_000_000);
            std::fs::write(stage.source.join(format!("large {number}")), content).unwrap();
        }
        let outcome = stage
            .sync()
            .signalled(Duration::from_millis(150), Signal::TERM)
            .outcome();
        assert_eq!(outcome.code, Some(130), "{outcome}");
        judge::untouched(&was, &stage.live());
        let outcome = stage.sync_soon();
        assert_eq!(outcome.code, Some(0), "{outcome}");
        judge::same(&stage.source, &stage.live());
    }
}

#[test]
fn a_connection_that_is_cut_at_any_byte() {
    needs!("a_connection_that_is_cut_at_any_byte": "rsync");
    let mut stage = Stage::new(Kind::Tcp);
    let proxy = crate::support::proxy::Proxy::to(&stage.spare());
    stage
        .daemon
        .as_mut()
        .unwrap()
        .address
        .clone_from(&proxy.address);
    for generation in 1..4 {
        set_generation(&stage.source, generation, FILES);
        proxy.cut_after(u64::MAX, u64::MAX);
        stage.sync().ok();
    }
    let (up, down) = proxy.passed();
    let spread = |total: u64| {
        let first = (0..12).chain([20, 40, 80]);
        let all = first.chain((1..12).map(move |part| total * part / 12));
        all.chain((0..8).map(move |back| total - 1 - back))
            .collect::<Vec<_>>()
    };
    let cuts = spread(up).into_iter().map(|cut| (cut, u64::MAX));
    let cuts = cuts.chain(spread(down).into_iter().map(|cut| (u64::MAX, cut)));
    let (mut generation, mut acknowledged) = (3, 3);
    for (up, down) in cuts {
        generation += 1;
        set_generation(&stage.source, generation, FILES);
        proxy.cut_after(up, down);
        let outcome = stage.sync().outcome();
        let when = format!("cut after {up} up or {down} down");
        match outcome.code {
            Some(0) => acknowledged = generation,
            Some(6) => outcome.mentions(&[&proxy.address]),
            _ => panic!("{when}: {outcome}"),
        }
        let live = generation_now(&stage.live(), FILES).unwrap();
        assert!(
            (acknowledged..=generation).contains(&live),
            "{when}: live is of {live}"
        );
        if generation % 5 == 0 {
            proxy.cut_after(u64::MAX, u64::MAX);
            let outcome = stage.sync_soon();
            assert_eq!(outcome.code, Some(0), "{when}: {outcome}");
            judge::same(&stage.source, &stage.live());
            acknowledged = generation;
        }
    }
    proxy.cut_after(u64::MAX, u64::MAX);
    assert_eq!(stage.sync_soon().code, Some(0));
    judge::same(&stage.source, &stage.live());
    assert!(stage.daemon.as_mut().unwrap().is_alive());
}
