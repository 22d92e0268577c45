//! Drills: a restore for practice tells how long it takes, and whether what came back is of any use.

use std::process::Command;

use crate::support::needs::needs;
use crate::support::stage::DATASET;
use crate::support::{Kind, Random, Run, Stage, trees};

/// A drill on a host whose state is the stage's.
fn drill(stage: &Stage) -> Run {
    stage
        .ask("drill")
        .arg(DATASET)
        .arg("--state")
        .arg(&stage.state)
}

#[test]
fn a_drill_reads_everything_again_and_opens_databases() {
    needs!("a_drill_reads_everything_again_and_opens_databases": "python3");
    for kind in Kind::BOTH {
        let stage = Stage::new(kind);
        trees::mixed(&mut Random::new(9), &stage.source, 60);
        let database = stage.source.join("shop.db");
        let script = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute('create table t (x)'); \
                      c.executemany('insert into t values (?)', [('y' * 2000,)] * 50); c.commit()";
        let made = Command::new("python3")
            .args(["-c", script])
            .arg(&database)
            .status();
        assert!(made.unwrap().success());
        stage.sync().ok();

        let data = drill(&stage).data();
        assert_eq!(data["databases"], 1, "{data}");
        assert_eq!(data["files_wrong"], 0, "{data}");
        let left: Vec<_> = std::fs::read_dir(&stage.state)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .filter(|name| name.to_string_lossy().starts_with("understudy.drill"))
            .collect();
        assert!(left.is_empty(), "{left:?}");
        // What it took is what a restore is expected to take.
        let target = stage.path().join("target");
        let rehearsal = stage
            .restore(&target)
            .arg("--state")
            .arg(&stage.state)
            .arg("--dry-run");
        let rehearsal = rehearsal.data();
        let expected = data["seconds"].as_f64().unwrap();
        let told = rehearsal["estimated_seconds"].as_f64().unwrap();
        assert!(
            (told - expected).abs() < 0.01 * expected,
            "{told} {expected}"
        );

        // A database that was torn on the main came back as it was, and is named.
        let mut bytes = std::fs::read(&database).unwrap();
        bytes[4096..4200].fill(0xee);
        std::fs::write(&database, bytes).unwrap();
        stage.sync().ok();
        let outcome = drill(&stage).outcome();
        assert_eq!(outcome.code, Some(9), "{}", outcome.said());
        outcome.mentions(&["shop.db"]);
    }
}
