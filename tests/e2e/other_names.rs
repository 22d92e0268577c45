//! Files that have several names, or several ways to them: what is written by one arrives at all of them.

use serde_json::Value;

use crate::support::Kind;
use crate::support::agent::{Scene, is_by_journal};
use crate::support::command::tool;
use crate::support::disks::Mounted;
use crate::support::needs::needs;

#[test]
fn writes_by_other_ways_to_the_same_files_arrive() {
    needs!("writes_by_other_ways_to_the_same_files_arrive":
        "root", "rsync", "mkfs.ext4", "mount", "unshare");
    let scene = Scene::large_apart(Kind::Embedded);
    let elsewhere = scene.stage.path().join("elsewhere");
    std::fs::create_dir(&elsewhere).unwrap();
    let source = scene.stage.source.to_str().unwrap();
    let _mounted = Mounted::new(&["--bind"], &scene.stage.source, &elsewhere);
    std::fs::hard_link(scene.at("d1/f300"), scene.at("d2/other name")).unwrap();
    let mut agent = scene.watched();

    std::fs::write(scene.at("d2/other name"), "through the other name").unwrap();
    std::fs::write(elsewhere.join("d3/f900"), "through the bind mount").unwrap();
    std::fs::create_dir(elsewhere.join("d3/new")).unwrap();
    std::fs::write(elsewhere.join("d3/new/file"), "also").unwrap();
    let script = "cd \"$1\" && mount -t tmpfs none /mnt && echo elsewhere > d4/f1200 && mv d5 d4/ && rm d4/f1201";
    tool("unshare", ["-m", "sh", "-c", script, "sh", source]);
    scene.settle(&mut agent);
    let live = std::fs::read_to_string(scene.live("d1/f300")).unwrap();
    assert_eq!(live, "through the other name");
}

#[test]
fn writes_by_a_known_name_that_goes_arrive() {
    needs!("writes_by_a_known_name_that_goes_arrive": "root", "rsync", "mkfs.ext4");
    let scene = Scene::large_apart(Kind::Embedded);
    std::fs::hard_link(scene.at("d1/f300"), scene.at("d2/link")).unwrap();
    let mut agent = scene.watched();
    std::fs::write(scene.at("d2/link"), "by the name that goes").unwrap();
    std::fs::remove_file(scene.at("d2/link")).unwrap();
    scene.settle(&mut agent);
}

#[test]
fn writes_by_a_name_that_is_gone_again_arrive() {
    needs!("writes_by_a_name_that_is_gone_again_arrive": "root", "rsync", "mkfs.ext4");
    let scene = Scene::large_apart(Kind::Embedded);
    let mut agent = scene.watched();
    std::fs::hard_link(scene.at("d1/f300"), scene.at("d2/short-lived")).unwrap();
    std::fs::write(scene.at("d2/short-lived"), "by the name that goes").unwrap();
    std::fs::remove_file(scene.at("d2/short-lived")).unwrap();
    scene.settle(&mut agent);
}

#[test]
fn writes_by_a_name_that_leaves_with_its_directory_arrive() {
    needs!("writes_by_a_name_that_leaves_with_its_directory_arrive": "root", "rsync", "mkfs.ext4");
    let scene = Scene::large_apart(Kind::Embedded);
    std::fs::create_dir(scene.at("linked")).unwrap();
    std::fs::hard_link(scene.at("d1/f300"), scene.at("linked/name")).unwrap();
    let mut agent = scene.watched();
    std::fs::write(scene.at("linked/name"), "by the name that leaves").unwrap();
    std::fs::rename(scene.at("linked"), scene.outside("linked")).unwrap();
    scene.settle(&mut agent);
}

/// Making and removing another name changes a file's times, and nothing else.
#[test]
fn a_name_that_came_and_went_is_nothing_that_was_missed() {
    needs!("a_name_that_came_and_went_is_nothing_that_was_missed": "root", "rsync", "mkfs.ext4");
    let mut scene = Scene::large_apart(Kind::Embedded);
    scene.settings = "interval = \"1s\"\nsweep = \"2s\"\n".to_owned();
    let mut agent = scene.watched();
    for number in 0..5 {
        std::fs::hard_link(scene.at("d1/f300"), scene.at("d2/short-lived")).unwrap();
        std::fs::remove_file(scene.at("d2/short-lived")).unwrap();
        std::fs::write(scene.at("d2/f600"), format!("change {number}")).unwrap();
        let cycle = agent.until("a sweep", |cycle| !is_by_journal(cycle));
        assert_eq!(cycle["missed"], 0, "{cycle}");
    }
}

/// Files that lose a name with its directory are told of by that.
#[test]
fn names_that_leave_with_their_directory_are_nothing_that_was_missed() {
    needs!("names_that_leave_with_their_directory_are_nothing_that_was_missed":
        "root", "rsync", "mkfs.ext4");
    let mut scene = Scene::large_apart(Kind::Embedded);
    scene.settings = "interval = \"1s\"\nsweep = \"2s\"\n".to_owned();
    let mut agent = scene.watched();
    let is_change = |cycle: &Value| {
        assert_eq!(cycle["missed"], 0, "{cycle}");
        cycle["committed"] == true
    };
    for number in 0..6 {
        std::fs::create_dir(scene.at("linked")).unwrap();
        std::fs::hard_link(scene.at("d1/f300"), scene.at("linked/name")).unwrap();
        agent.until("the links", is_change);
        let place = scene.outside(&format!("linked {number}"));
        std::fs::rename(scene.at("linked"), place).unwrap();
        agent.until("that they are gone", is_change);
    }
}

/// The way back in tells of all that is below.
#[test]
fn what_changed_in_a_directory_while_it_was_outside_is_nothing_that_was_missed() {
    needs!("what_changed_in_a_directory_while_it_was_outside_is_nothing_that_was_missed":
        "root", "rsync", "mkfs.ext4");
    let mut scene = Scene::large_apart(Kind::Embedded);
    scene.settings = "interval = \"1s\"\nsweep = \"2s\"\n".to_owned();
    let mut agent = scene.watched();
    for number in 0..6 {
        std::fs::rename(scene.at("d1"), scene.outside("d1")).unwrap();
        std::fs::write(scene.outside("d1/f300"), format!("outside {number}")).unwrap();
        std::fs::rename(scene.outside("d1"), scene.at("d1")).unwrap();
        agent.until("the change", |cycle| {
            assert_eq!(cycle["missed"], 0, "{cycle}");
            std::fs::read(scene.live("d1/f300")).unwrap()
                == std::fs::read(scene.at("d1/f300")).unwrap()
        });
    }
}

#[test]
fn a_name_that_is_removed_leaves_nothing_to_settle() {
    needs!("a_name_that_is_removed_leaves_nothing_to_settle": "root", "rsync", "mkfs.ext4");
    let scene = Scene::large_apart(Kind::Embedded);
    std::fs::create_dir(scene.at("linked")).unwrap();
    std::fs::hard_link(scene.at("d1/f300"), scene.at("linked/name")).unwrap();
    let mut agent = scene.watched();
    std::fs::remove_file(scene.at("linked/name")).unwrap();
    scene.settle(&mut agent);
    drop(agent);
    let cycle = scene.start().next();
    assert_eq!(cycle["committed"], false, "{cycle}");
}

#[test]
fn a_name_that_leaves_with_its_directory_leaves_nothing_to_settle() {
    needs!("a_name_that_leaves_with_its_directory_leaves_nothing_to_settle": "root", "rsync", "mkfs.ext4");
    let scene = Scene::large_apart(Kind::Embedded);
    std::fs::create_dir(scene.at("linked")).unwrap();
    std::fs::hard_link(scene.at("d1/f300"), scene.at("linked/name")).unwrap();
    let mut agent = scene.watched();
    std::fs::rename(scene.at("linked"), scene.outside("linked")).unwrap();
    scene.settle(&mut agent);
    drop(agent);
    let cycle = scene.start().next();
    assert_eq!(cycle["committed"], false, "{cycle}");
}

#[test]
fn a_name_that_is_written_over_leaves_nothing_to_settle() {
    needs!("a_name_that_is_written_over_leaves_nothing_to_settle": "root", "rsync", "mkfs.ext4");
    let scene = Scene::large_apart(Kind::Embedded);
    std::fs::create_dir(scene.at("linked")).unwrap();
    std::fs::hard_link(scene.at("d1/f300"), scene.at("linked/name")).unwrap();
    let mut agent = scene.watched();
    std::fs::write(scene.at("d2/new"), "new").unwrap();
    std::fs::rename(scene.at("d2/new"), scene.at("linked/name")).unwrap();
    scene.settle(&mut agent);
    drop(agent);
    let cycle = scene.start().next();
    assert_eq!(cycle["committed"], false, "{cycle}");
}
