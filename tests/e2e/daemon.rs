//! The agent's daemon as people and service managers treat it: hung up on, stopped, killed, run beside by hand,
//! asked, and left without its spare.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use crate::support::agent::{Scene, is_by_journal, is_quiet};
use crate::support::needs::needs;
use crate::support::{Kind, Random, Run, Stage, edits, judge, trees};

/// A scene with a small source that has something in it.
fn small(kind: Kind) -> Scene {
    let scene = Scene::on(Stage::new(kind));
    trees::mixed(&mut Random::new(7), &scene.stage.source, 50);
    scene
}

/// Another dataset's part of the configuration.
fn other(scene: &Scene, settings: &str) -> String {
    let path = scene.outside("other source");
    std::fs::create_dir_all(&path).unwrap();
    std::fs::write(path.join("file"), "of the other").unwrap();
    format!("[[dataset]]\npath = {path:?}\nname = \"other\"\n{settings}\n")
}

fn is_of(dataset: &'static str) -> impl Fn(&Value) -> bool {
    move |cycle| cycle["dataset"] == dataset
}

/// What `status --json` says.
fn status(scene: &Scene) -> Value {
    let run = scene.stage.ask("status").arg("--state");
    run.arg(&scene.stage.state).data()
}

/// Waits until the agent has written down what `holds` of its first dataset.
fn await_status(scene: &Scene, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
    let begun = Instant::now();
    loop {
        let status = status(scene);
        if holds(&status["agent"]["datasets"][0]) {
            return status;
        }
        assert!(
            begun.elapsed() < Duration::from_secs(30),
            "not {what}: {status}"
        );
        std::thread::park_timeout(Duration::from_millis(50));
    }
}

#[test]
fn hung_up_on_it_takes_a_new_configuration_and_keeps_the_old_for_a_wrong_one() {
    needs!("hung_up_on_it_takes_a_new_configuration_and_keeps_the_old_for_a_wrong_one": "rsync");
    let mut scene = small(Kind::Embedded);
    let mut agent = scene.start();
    agent.until("the first snapshot", |cycle| cycle["committed"] == true);
    scene.others = other(&scene, "intervall = \"1s\"");
    let file = scene.configure();
    agent.signal(Signal::HUP);
    let begun = Instant::now();
    while !agent.reported().contains("intervall") {
        assert!(
            begun.elapsed() < Duration::from_secs(30),
            "{}",
            agent.reported()
        );
        let cycle = agent.next();
        assert!(cycle["error"].is_null() && is_of("site")(&cycle), "{cycle}");
    }
    assert!(
        agent.reported().contains(file.to_str().unwrap()),
        "{}",
        agent.reported()
    );
    agent.until("another cycle of the old one", is_of("site"));

    scene.others = other(&scene, "");
    scene.configure();
    agent.signal(Signal::HUP);
    let cycle = agent.until("the new dataset", is_of("other"));
    assert_eq!(cycle["committed"], true, "{cycle}");
    judge::same(
        &scene.outside("other source"),
        &scene.stage.store.join("other/live/files"),
    );
    agent.until("the one before", is_of("site"));
    assert_eq!(agent.end(Signal::TERM).0, Some(0));
}

#[test]
fn stopped_in_a_large_first_sync_it_ends_soon_and_carries_on_later() {
    needs!("stopped_in_a_large_first_sync_it_ends_soon_and_carries_on_later": "rsync");
    let mut scene = Scene::large(Kind::Tcp);
    let mut random = Random::new(8);
    for number in 0..30 {
        let noise = random.noise(400_000);
        std::fs::write(scene.at(&format!("large{number}")), noise).unwrap();
    }
    scene.settings += "[pace]\nbandwidth = \"1MB\"\n";
    let mut agent = scene.start();
    // It sends: the receiver has made the dataset's directory.
    let begun = Instant::now();
    while !scene.stage.dataset().exists() {
        assert!(begun.elapsed() < Duration::from_secs(30), "nothing is sent");
        std::thread::park_timeout(Duration::from_millis(20));
    }
    assert!(
        agent.next_within(Duration::from_secs(1)).is_none(),
        "it was not large enough"
    );
    let (code, took) = agent.end(Signal::TERM);
    assert_eq!(code, Some(0), "{}", agent.reported());
    assert!(took < Duration::from_secs(3), "it took {took:?}");
    assert!(!scene.stage.live().exists(), "half a snapshot");

    scene.settings = scene.settings.replace("1MB", "1GB");
    let mut agent = scene.start();
    agent.until("a cycle by the journal", is_quiet);
    judge::same(&scene.stage.source, &scene.stage.live());
    assert_eq!(agent.end(Signal::TERM).0, Some(0));
}

#[test]
fn killed_at_random_moments_it_is_right_after_the_next_start() {
    needs!("killed_at_random_moments_it_is_right_after_the_next_start": "rsync");
    let scene = Scene::large(Kind::Tcp);
    let mut random = Random::new(9);
    let mut agent = scene.watched();
    std::fs::create_dir(scene.at("edited")).unwrap();
    trees::mixed(&mut random, &scene.at("edited"), 60);
    for _ in 0..4 {
        let until = Instant::now() + Duration::from_millis(random.below(2_500));
        while Instant::now() < until {
            edits::random(&mut random, &scene.at("edited"), 3);
            std::thread::park_timeout(Duration::from_millis(30));
        }
        agent.end(Signal::KILL);
        edits::random(&mut random, &scene.at("edited"), 3);
        agent = scene.start();
    }
    agent.until("a cycle by the journal", is_quiet);
    judge::same(&scene.stage.source, &scene.stage.live());
    assert!(agent.is_alive());
}

#[test]
fn one_cycle_by_hand_beside_the_daemon_disturbs_nobody() {
    needs!("one_cycle_by_hand_beside_the_daemon_disturbs_nobody": "rsync");
    let scene = Scene::large(Kind::Tcp);
    let mut agent = scene.watched();
    let config = scene.configure();
    for round in 0..3 {
        std::fs::write(scene.at("d1/f300"), format!("round {round}")).unwrap();
        let once = Run::new(["agent", "--once", "--config"])
            .arg(&config)
            .data();
        let cycle = &once["datasets"][0];
        assert!(cycle["error"].is_null(), "{cycle}");
        let live = std::fs::read_to_string(scene.live("d1/f300")).unwrap();
        assert_eq!(live, format!("round {round}"));
    }
    std::fs::write(scene.at("d1/f301"), "by the daemon again").unwrap();
    agent.until("its own", |cycle| {
        assert!(cycle["error"].is_null(), "{cycle}");
        std::fs::read(scene.live("d1/f301")).unwrap() == b"by the daemon again"
    });
    agent.settle();
    judge::same(&scene.stage.source, &scene.stage.live());
}

#[test]
fn a_spare_that_was_away_is_caught_up_with_by_the_journal() {
    needs!("a_spare_that_was_away_is_caught_up_with_by_the_journal": "rsync");
    let mut scene = Scene::large(Kind::Tcp);
    let mut agent = scene.watched();
    scene.stage.daemon.as_mut().unwrap().kill();
    let is_failure = |cycle: &Value| cycle["error"].is_object();
    for round in 0..3 {
        std::fs::write(scene.at(&format!("d{round}/new")), "new").unwrap();
        let cycle = agent.until("a failure", is_failure);
        assert_eq!(cycle["dataset"], "site", "{cycle}");
    }
    std::fs::rename(scene.at("d5"), scene.at("moved")).unwrap();
    scene.stage.restart(None);
    let cycle = agent.until("one that catches up", |cycle| !is_failure(cycle));
    assert!(is_by_journal(&cycle), "{cycle}");
    assert_eq!(
        (&cycle["added"], &cycle["moved"]),
        (&3.into(), &1.into()),
        "{cycle}"
    );
    scene.settle(&mut agent);
}

#[test]
fn each_dataset_has_its_own_interval() {
    let mut scene = small(Kind::Embedded);
    scene.others = other(&scene, "interval = \"4s\"");
    let mut agent = scene.start();
    let (mut often, mut seldom) = (0, 0);
    while seldom < 3 {
        let cycle = agent.next();
        if is_of("site")(&cycle) {
            often += 1;
        } else {
            seldom += 1;
        }
    }
    assert!(often > seldom + 1, "{often} and {seldom} cycles");
}

#[test]
fn status_says_how_each_dataset_is_watched_and_why_not_better() {
    needs!("status_says_how_each_dataset_is_watched_and_why_not_better": "root");
    let mut scene = small(Kind::Embedded);
    let expected = [
        ("auto", "fanotify", ""),
        ("inotify", "inotify", "configuration"),
        ("never", "nothing", "configuration"),
    ];
    let before = scene.settings.clone();
    for (watch, by, because) in expected {
        scene.settings = format!("{before}watch = \"{watch}\"\n");
        let mut agent = scene.start();
        agent.next();
        let process = agent.pid().as_raw_nonzero().get();
        let status = await_status(&scene, by, |dataset| dataset["watched_by"] == by);
        let begun = Instant::now();
        while self::status(&scene)["agent"]["process"] != process {
            assert!(
                begun.elapsed() < Duration::from_secs(30),
                "an old status: {status}"
            );
        }
        let dataset = &status["agent"]["datasets"][0];
        assert_eq!(dataset["name"], "site", "{status}");
        assert!(dataset["because"].to_string().contains(because), "{status}");
        let text = scene
            .stage
            .ask("status")
            .arg("--state")
            .arg(&scene.stage.state)
            .ok();
        text.mentions(&["WATCHED BY", by, because]);
        agent.end(Signal::TERM);
    }
}

#[test]
fn the_lag_stays_small_although_nothing_changes() {
    let scene = small(Kind::Tcp);
    let mut agent = scene.start();
    agent.until("the first snapshot", |cycle| cycle["committed"] == true);
    for _ in 0..8 {
        agent.until("a confirmation", |cycle| cycle["committed"] == false);
    }
    let status = status(&scene);
    let dataset = &status["datasets"][0];
    assert_eq!(dataset["snapshot"]["number"], 1, "{status}");
    let lag = dataset["lag_seconds"].as_i64().unwrap();
    assert!((0..=4).contains(&lag), "{status}");
}
