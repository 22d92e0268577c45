//! Which part a host plays, as each of both hosts tells it.

use std::fs;

use crate::support::command::tool;
use crate::support::stage::DATASET;
use crate::support::{Kind, Run, Stage, judge};

#[test]
fn a_monitor_hears_from_both_hosts_what_they_are() {
    let stage = Stage::new(Kind::Embedded);
    fs::write(stage.source.join("page"), "1").unwrap();
    stage.sync().ok();
    let status = Run::new(["status", "--spare"]).arg(&stage.store).data();
    let standing = &status["datasets"][0]["standing"];
    assert_eq!(standing["role"], "spare", "{status}");
    assert_eq!(standing["epoch"], 1, "{status}");
    let config = stage.path().join("agent.toml");
    let text = format!(
        "spare = {:?}\nstate = {:?}\n[[dataset]]\npath = {:?}\nname = \"{DATASET}\"\n",
        stage.store, stage.state, stage.source
    );
    fs::write(&config, text).unwrap();
    let check = |expected: &str| Run::new(["check", "role", "--expect", expected]);
    let on_spare = |expected: &str| check(expected).arg("--store").arg(&stage.store);
    let on_main = |expected: &str| check(expected).arg("--agent").arg(&config);
    on_spare("spare").ok();
    on_main("main").ok();
    on_spare("main").expect(5).mentions(&[DATASET, "spare"]);
    on_main("spare").expect(5).mentions(&[DATASET, "main"]);
    on_spare("spare")
        .arg("other")
        .expect(1)
        .mentions(&["other"]);
    // Nothing is mounted: whoever serves from there could write.
    let served = stage.store.join(DATASET).join("live");
    let written = on_spare("spare").arg("--served").arg(&served).expect(5);
    written.mentions(&["written to"]);
    let gone = on_spare("spare").args(["--served", "/nowhere"]).expect(5);
    gone.mentions(&["/nowhere", "not there"]);
    fs::remove_dir_all(&stage.source).unwrap();
    on_main("main").expect(5).mentions(&["not there"]);
}

#[test]
fn the_live_tree_of_a_spare_is_nobodys_source() {
    let stage = Stage::new(Kind::Embedded);
    fs::write(stage.source.join("page"), "1").unwrap();
    stage.sync().ok();
    let sync = Run::new(["sync"])
        .arg(stage.store.join(DATASET).join("live/files"))
        .args(["--dataset", DATASET, "--state"])
        .arg(&stage.state)
        .arg("--spare")
        .arg(stage.path().join("other"));
    let refused = sync.expect(5);
    refused.mentions(&["spare", DATASET, "status"]);
}

/// The main is alive: somebody promotes by mistake, an application writes, and all of it is undone.
#[test]
fn a_promotion_by_mistake_is_undone_without_losing_what_was_written() {
    let stage = Stage::new(Kind::Embedded);
    for name in ["page", "other", "gone"] {
        fs::write(stage.source.join(name), format!("{name} of the main\n")).unwrap();
    }
    stage.sync().ok();
    stage.sync().ok();
    let on_spare = |words: &[&str]| Run::new(words).arg("--store").arg(&stage.store);
    on_spare(&["promote", DATASET, "--yes"]).ok();
    let live = stage.live();
    fs::write(live.join("page"), "in place, by the application\n").unwrap();
    fs::write(live.join("new"), "by the application\n").unwrap();
    fs::remove_file(live.join("gone")).unwrap();
    let application = stage.path().join("application");
    tool(
        "cp",
        ["-a", live.to_str().unwrap(), application.to_str().unwrap()],
    );
    // The main is refused, however often it comes, and nothing of what was written is touched.
    for _ in 0..2 {
        stage.sync().expect(5).mentions(&[DATASET, "epoch 2"]);
    }
    assert_eq!(judge::rsync(&application, &live, &[]), "");
    let config = stage.path().join("agent.toml");
    let text = format!(
        "spare = {:?}\nstate = {:?}\n[[dataset]]\npath = {:?}\nname = \"{DATASET}\"\n",
        stage.store, stage.state, stage.source
    );
    fs::write(&config, text).unwrap();
    let resume = Run::new(["resume", DATASET, "--config"]).arg(&config);
    resume.expect(5).mentions(&["demote", DATASET]);
    on_spare(&["demote", DATASET])
        .expect(2)
        .mentions(&["--yes"]);
    for point in [
        "absorb.sealed",
        "absorb.marked",
        "absorb.recorded",
        "demote.absorbed",
        "demote.standing",
    ] {
        on_spare(&["demote", DATASET, "--yes"])
            .failing(&format!("{point}=1*return"))
            .outcome();
    }
    on_spare(&["demote", DATASET, "--yes"]).ok();
    // Fenced once, it does not go on by itself.
    stage.sync().expect(5);
    resume.ok();
    stage.sync().ok();
    assert_eq!(judge::rsync(&stage.source, &live, &[]), "");
    let listed = Run::new(["snapshots", DATASET, "--spare"])
        .arg(&stage.store)
        .data();
    let snapshots = listed["datasets"][0]["snapshots"].as_array().unwrap();
    let written = snapshots.iter().find(|one| {
        one["pin"]["reason"]
            .as_str()
            .is_some_and(|pin| pin.starts_with("written"))
    });
    let number = written.unwrap()["number"].to_string();
    assert_eq!(snapshots.last().unwrap()["epoch"], 2, "{listed}");
    let restored = stage.path().join("restored");
    Run::new(["restore", DATASET])
        .arg(&restored)
        .args(["--unverified", "--snapshot", &number, "--spare"])
        .arg(&stage.store)
        .arg("--state")
        .arg(stage.path().join("other-state"))
        .ok();
    assert_eq!(judge::rsync(&application, &restored, &[]), "");
    on_spare(&["check", "role", "--expect", "spare"]).ok();
    // What it changed in place before that was kept is told, and the main has it.
    stage.sync().ok();
    Run::new(["verify", "--spare"]).arg(&stage.store).ok();
}
