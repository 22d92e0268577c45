//! Which part a host plays, as each of both hosts tells it.

use std::fs;

use crate::support::stage::DATASET;
use crate::support::{Kind, Run, Stage};

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
    refused.mentions(&["spare", DATASET, "failback"]);
}
