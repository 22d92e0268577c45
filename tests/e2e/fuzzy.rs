//! What the spare tells of files that were never still while the main read them.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;

use serde_json::{Value, json};

use crate::support::busy::while_busy;
use crate::support::needs::needs;
use crate::support::{Kind, Stage, judge};

/// The fuzzy files of a snapshot, as the spare tells them.
fn fuzzy(stage: &Stage, number: &Value) -> Value {
    let listed = stage.ask("snapshots").data();
    let snapshots = listed["datasets"][0]["snapshots"].as_array().unwrap();
    let mut snapshots = snapshots.iter();
    let snapshot = snapshots.find(|snapshot| snapshot["number"] == *number);
    snapshot.unwrap_or_else(|| panic!("no snapshot {number} in {listed}"))["fuzzy"].clone()
}

/// Syncs until `site/busy` was sent although it changed; returns the snapshot.
fn sync_while_written_to(stage: &Stage) -> Value {
    let busy = OpenOptions::new()
        .write(true)
        .open(stage.source.join("site/busy"))
        .unwrap();
    let rewrite = |round: u64| {
        let page = [round.to_le_bytes()[0]; 4096];
        busy.write_all_at(&page, round * 7919 % 1024 * 4096)
            .unwrap();
    };
    while_busy(rewrite, || {
        for _ in 0..50 {
            let synced = stage.sync().data();
            if synced["fuzzy"][0]["path"] == "site/busy" {
                return synced["snapshot"]["number"].clone();
            }
        }
        panic!("it was still every time");
    })
}

#[test]
fn a_file_that_may_be_torn_is_told_by_whoever_shows_or_restores_its_snapshot() {
    needs!("a_file_that_may_be_torn_is_told_by_whoever_shows_or_restores_its_snapshot": "rsync");
    let (torn, none) = (json!([{ "path": "site/busy" }]), json!([]));
    for kind in Kind::BOTH {
        let stage = Stage::new(kind);
        std::fs::create_dir(stage.source.join("site")).unwrap();
        std::fs::write(stage.source.join("site/busy"), vec![0; 4 << 20]).unwrap();
        std::fs::write(stage.source.join("still"), "still").unwrap();
        let first = sync_while_written_to(&stage);
        assert_eq!(fuzzy(&stage, &first), torn);
        let status = stage.ask("status").data();
        assert_eq!(status["datasets"][0]["fuzzy"], torn, "{status}");
        stage
            .ask("status")
            .ok()
            .mentions(&["1 file", "may be torn"]);

        // At rest, and where its directory is called otherwise.
        std::fs::rename(stage.source.join("site"), stage.source.join("renamed")).unwrap();
        let second = stage.sync_and_judge()["snapshot"]["number"].clone();
        assert_eq!(fuzzy(&stage, &second), none);
        assert_eq!(fuzzy(&stage, &first), torn, "what was torn stays so");
        let status = stage.ask("status").data();
        assert_eq!(status["datasets"][0]["fuzzy"], none, "{status}");

        let restore = |target: &str, number: &Value| {
            let number = number.to_string();
            let target = stage.path().join(target);
            stage.restore(&target).args(["--snapshot", &number])
        };
        let text = restore("text", &first).ok();
        assert!(
            text.stderr.contains("may be torn") && text.stderr.contains("site/busy"),
            "{text:?}"
        );
        assert_eq!(restore("torn", &first).data()["fuzzy"], torn);
        assert_eq!(restore("whole", &second).data()["fuzzy"], none);
        judge::same(&stage.source, &stage.path().join("whole"));
    }
}
