//! A machine that goes down in the middle of a commit and comes up again: recovery may trust less than after
//! a kill, and must lose nothing all the same.

use std::path::Path;

use crate::support::needs::needs;
use crate::support::{Kind, Stage, facts, judge};

/// Steps at which the machine goes down; more than one commit of this tree has.
const STEPS: usize = 40;

#[test]
fn a_restart_of_the_machine_at_any_step_loses_neither_tree_nor_history() {
    needs!("a_restart_of_the_machine_at_any_step_loses_neither_tree_nor_history": "rsync");
    for step in (0..STEPS).step_by(3) {
        let stage = Stage::new(Kind::Embedded);
        let mut former = Vec::new();
        for edit in [first, second] {
            edit(&stage.source);
            stage.sync().ok();
            former.push(facts::facts(&stage.source));
        }
        third(&stage.source);
        let killed = format!("apply.step={step}*off->return");
        let outcome = stage.sync().failing(&killed).outcome();
        let applying = stage.dataset().join(".understudy/applying");
        if let Ok(text) = std::fs::read_to_string(&applying) {
            // What a restart changes: the boot in which this began is another one.
            let boot = text
                .lines()
                .find(|line| line.starts_with("boot: "))
                .expect("boot");
            std::fs::write(&applying, text.replace(boot, "boot: another")).expect("write");
        }
        stage.sync().ok();
        judge::same(&stage.source, &stage.live());
        stage.ask("verify").ok();
        for (index, was) in former.iter().enumerate() {
            let number = (index + 1).to_string();
            let target = stage.path().join(format!("step {step} snapshot {number}"));
            stage.restore(&target).arg("--snapshot").arg(&number).ok();
            judge::untouched(was, &target);
        }
        if outcome.code == Some(0) {
            return;
        }
    }
}

fn write(root: &Path, name: &str, content: &str) {
    let path = root.join(name);
    std::fs::create_dir_all(path.parent().expect("parent")).expect("directory");
    std::fs::write(path, content).expect("write");
}

fn first(root: &Path) {
    for number in 0..6 {
        write(root, &format!("a/f{number}"), &format!("one {number}"));
        write(root, &format!("b/f{number}"), &format!("two {number}"));
    }
    write(root, "c/x", "x");
}

fn second(root: &Path) {
    std::fs::remove_file(root.join("a/f1")).expect("remove");
    write(root, "a/f2", "new");
    std::fs::rename(root.join("b"), root.join("bb")).expect("rename");
}

fn third(root: &Path) {
    write(root, "n/1", "n1");
    write(root, "n/2", "n2");
    std::fs::remove_dir_all(root.join("c")).expect("remove");
    std::fs::rename(root.join("a/f3"), root.join("n/f3")).expect("rename");
    write(root, "a/f2", "newer");
    std::fs::rename(root.join("a"), root.join("q")).expect("rename");
    write(root, "a/k", "k");
}
