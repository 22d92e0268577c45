//! Every kind of entry arrives as it was, over both ways, through edits, and comes back.

use std::ffi::OsStr;
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::Path;

use rustix::fs::{AtFlags, Mode, OFlags, XattrFlags, lsetxattr, open, openat, renameat, unlinkat};

use crate::support::command::tool;
use crate::support::needs::{is_root, needs};
use crate::support::{Kind, Random, Stage, edits, judge, kinds};

#[test]
fn every_kind_arrives_changes_and_comes_back_embedded() {
    needs!("every_kind_arrives_changes_and_comes_back_embedded": "rsync", "setfacl", "setcap", "root");
    arrives_changes_and_comes_back(Kind::Embedded);
}

#[test]
fn every_kind_arrives_changes_and_comes_back_over_tcp() {
    needs!("every_kind_arrives_changes_and_comes_back_over_tcp": "rsync", "setfacl", "setcap", "root");
    arrives_changes_and_comes_back(Kind::Tcp);
}

#[test]
fn what_an_ordinary_user_can_make_arrives_changes_and_comes_back() {
    needs!("what_an_ordinary_user_can_make_arrives_changes_and_comes_back": "rsync");
    if !crate::support::needs::is_root() {
        arrives_changes_and_comes_back(Kind::Embedded);
    }
}

fn arrives_changes_and_comes_back(kind: Kind) {
    let stage = Stage::new(kind);
    kinds::make(&stage.source);
    let first = stage.sync().data();
    assert_eq!(first["committed"], true, "{first}");
    assert_eq!(first["sockets_skipped"], 1, "{first}");
    assert_eq!(first["snapshot"]["number"], 1, "{first}");
    assert_eq!(first["unreadable"], serde_json::json!([]), "{first}");
    assert_eq!(first["unsettled"], serde_json::json!([]), "{first}");
    judge_all(&stage.source, &stage.live());

    edits::random(&mut Random::new(7), &stage.source, 50);
    let second = stage.sync().data();
    assert_eq!(second["snapshot"]["number"], 2, "{second}");
    judge_all(&stage.source, &stage.live());

    let target = stage.path().join("restored");
    stage.restore(&target).ok();
    judge_all(&stage.source, &target);
    assert_sparse(&target.join("sparse"));

    let third = stage.sync().data();
    assert_eq!(third["committed"], false, "{third}");
    assert_eq!(third["snapshot"]["number"], 2, "{third}");
}

fn judge_all(original: &Path, copy: &Path) {
    judge::same_except(original, copy, &[kinds::SOCKET]);
}

/// Panics unless what the file occupies is a small part of its size.
fn assert_sparse(path: &Path) {
    if let Ok(metadata) = path.metadata() {
        let (size, used) = (metadata.len(), metadata.blocks() * 512);
        assert!(used < 16 << 20, "{size} bytes occupy {used}");
    }
}

#[test]
fn a_default_acl_around_the_store_or_the_target_is_not_given_to_files() {
    needs!("a_default_acl_around_the_store_or_the_target_is_not_given_to_files": "rsync", "setfacl");
    let stage = Stage::new(Kind::Embedded);
    std::fs::create_dir(&stage.store).unwrap();
    let around = stage.path().join("around");
    std::fs::create_dir(&around).unwrap();
    for directory in [&stage.store, &around] {
        let what = [OsStr::new("-d"), OsStr::new("-m"), OsStr::new("u:4321:rwx")];
        tool("setfacl", what.into_iter().chain([directory.as_os_str()]));
    }
    std::fs::create_dir_all(stage.source.join("below/deeper")).unwrap();
    for mode in [0o644, 0o600, 0o400, 0o777, 0o4755] {
        let path = stage.source.join(format!("below/deeper/{mode:o}"));
        std::fs::write(&path, "content").unwrap();
        set_mode(&path, mode);
    }
    std::fs::write(stage.source.join("large"), vec![7; 200_000]).unwrap();
    stage.sync_and_judge();
    std::fs::write(stage.source.join("below/deeper/644"), "changed").unwrap();
    std::fs::write(stage.source.join("large"), vec![8; 200_000]).unwrap();
    stage.sync_and_judge();
    if is_root() {
        // Nor is its group.
        std::os::unix::fs::chown(&around, None, Some(1234)).unwrap();
        set_mode(&around, 0o2775);
    }
    let target = around.join("target");
    stage.restore(&target).ok();
    judge::same(&stage.source, &target);

    // As an interrupted restore may leave it.
    let work = around.join("again.understudy-restore");
    std::fs::create_dir_all(work.join("below/deeper")).unwrap();
    for directory in [work.join("below"), work.join("below/deeper")] {
        let what = [OsStr::new("-d"), OsStr::new("-m"), OsStr::new("u:4321:rwx")];
        tool("setfacl", what.into_iter().chain([directory.as_os_str()]));
    }
    let target = around.join("again");
    stage.restore(&target).ok();
    judge::same(&stage.source, &target);
}

#[test]
fn a_mask_of_the_process_takes_nothing_away() {
    needs!("a_mask_of_the_process_takes_nothing_away": "rsync", "root");
    let stage = Stage::new(Kind::Embedded);
    for mode in [0o644, 0o600, 0o400, 0o777, 0o000] {
        let path = stage.source.join(format!("{mode:o}"));
        std::fs::write(&path, "content").unwrap();
        set_mode(&path, mode);
    }
    let masked = ["sh", "-c", "umask 0277; exec \"$@\"", "sh"];
    stage.sync().through(&masked).ok();
    judge::same(&stage.source, &stage.live());
    let target = stage.path().join("restored");
    stage.restore(&target).through(&masked).ok();
    judge::same(&stage.source, &target);
}

#[test]
fn holes_stay_holes() {
    let stage = Stage::new(Kind::Embedded);
    kinds::make(&stage.source);
    stage.sync().ok();
    assert_sparse(&stage.live().join("sparse"));
    assert_sparse(&stage.live().join("sparse.nothing but a hole"));
}

#[test]
fn one_and_the_same_edit_of_every_kind_arrives() {
    needs!("one_and_the_same_edit_of_every_kind_arrives": "rsync");
    let stage = Stage::new(Kind::Embedded);
    let make = |name: &str| {
        let path = stage.source.join(name);
        std::fs::write(&path, name).unwrap();
        path
    };
    let names = [
        "content",
        "mode",
        "time",
        "attribute",
        "link",
        "unlink",
        "to link",
        "to fifo",
    ];
    let [
        content,
        mode,
        time,
        attribute,
        link,
        unlink,
        to_link,
        to_fifo,
    ] = names.map(make);
    symlink("before", stage.source.join("symlink")).unwrap();
    std::fs::hard_link(&unlink, stage.source.join("unlinked")).unwrap();
    lsetxattr(&attribute, "user.gone", b"value", XattrFlags::CREATE).unwrap();
    stage.sync_and_judge();

    std::fs::write(content, "other content").unwrap();
    set_mode(&mode, 0o4711);
    kinds::set_time(&time, 12_345, 678);
    lsetxattr(&attribute, "user.new", b"value", XattrFlags::CREATE).unwrap();
    rustix::fs::lremovexattr(&attribute, "user.gone").unwrap();
    std::fs::hard_link(link, stage.source.join("linked")).unwrap();
    std::fs::remove_file(&unlink).unwrap();
    std::fs::write(&unlink, "unlink").unwrap();
    std::fs::remove_file(&to_link).unwrap();
    symlink("no longer a file", &to_link).unwrap();
    std::fs::remove_file(&to_fifo).unwrap();
    let fifo = rustix::fs::FileType::Fifo;
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &to_fifo,
        fifo,
        Mode::from_raw_mode(0o600),
        0,
    )
    .unwrap();
    std::fs::remove_file(stage.source.join("symlink")).unwrap();
    symlink("after", stage.source.join("symlink")).unwrap();
    set_mode(&stage.source, 0o711);
    stage.sync_and_judge();
}

fn set_mode(path: &Path, mode: u32) {
    let mode = std::os::unix::fs::PermissionsExt::from_mode(mode);
    std::fs::set_permissions(path, mode).unwrap();
}

#[test]
fn a_rewrite_of_the_same_size_and_time_is_found() {
    needs!("a_rewrite_of_the_same_size_and_time_is_found": "rsync");
    for kind in Kind::BOTH {
        let stage = Stage::new(kind);
        let path = stage.source.join("file");
        std::fs::write(&path, "the same size").unwrap();
        kinds::set_time(&path, 1_600_000_000, 0);
        stage.sync_and_judge();
        let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
        file.write_all_at(b"THE", 0).unwrap();
        drop(file);
        kinds::set_time(&path, 1_600_000_000, 0);
        let data = stage.sync_and_judge();
        assert_eq!(data["changed"], 1, "{data}");
        assert_eq!(
            std::fs::read(stage.live().join("file")).unwrap(),
            b"THE same size"
        );
    }
}

#[test]
fn a_path_beyond_path_max_arrives_changes_and_comes_back() {
    for kind in Kind::BOTH {
        let stage = Stage::new(kind);
        kinds::make_deep(&stage.source);
        stage.sync().ok();
        judge::same_facts(&stage.source, &stage.live());

        edit_the_deep_end(&stage.source);
        stage.sync().ok();
        judge::same_facts(&stage.source, &stage.live());

        let target = stage.path().join("restored");
        stage.restore(&target).ok();
        judge::same_facts(&stage.source, &target);

        let top = std::fs::read_dir(&stage.source).unwrap();
        let top = top
            .map(|entry| entry.unwrap().path())
            .find(|path| path.is_dir())
            .unwrap();
        std::fs::rename(&top, stage.source.join("renamed")).unwrap();
        stage.sync().ok();
        judge::same_facts(&stage.source, &stage.live());

        std::fs::rename(stage.source.join("renamed"), stage.path().join("gone")).unwrap();
        std::fs::write(stage.source.join("left"), "left").unwrap();
        stage.sync_and_release();
        judge::same_facts(&stage.source, &stage.live());
    }
}

fn edit_the_deep_end(root: &Path) {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    let mut directory = open(root, flags, Mode::empty()).unwrap();
    let deeper = |directory: &_| {
        let mut entries = rustix::fs::Dir::read_from(directory).unwrap();
        entries.find_map(|entry| {
            let entry = entry.unwrap();
            let name = entry.file_name();
            (name.to_bytes()[0] != b'.' && entry.file_type().is_dir()).then(|| name.to_owned())
        })
    };
    while let Some(name) = deeper(&directory) {
        directory = openat(&directory, &*name, flags, Mode::empty()).unwrap();
    }
    kinds::write_at(&directory, "file", b"changed at the deep end");
    kinds::write_at(&directory, "new", b"new at the deep end");
    renameat(&directory, "beside", &directory, "beside no more").unwrap();
    unlinkat(&directory, "new", AtFlags::empty()).unwrap();
    kinds::write_at(&directory, "newer", b"newer");
}

#[test]
fn more_hard_links_than_the_file_system_allows_twice_arrive() {
    needs!("more_hard_links_than_the_file_system_allows_twice_arrive": "rsync");
    let stage = Stage::new(Kind::Embedded);
    let first = stage.source.join("first");
    std::fs::write(&first, "linked very often").unwrap();
    let mut made = 1;
    // ext4 allows 65,000; the twins together would need more.
    while made < 33_000 && std::fs::hard_link(&first, stage.source.join(format!("l{made}"))).is_ok()
    {
        made += 1;
    }
    stage.sync_and_judge();
    std::fs::write(&first, "changed").unwrap();
    stage.sync_and_judge();
    std::fs::remove_file(stage.source.join("l7")).unwrap();
    stage.sync_and_judge();
}

#[test]
fn what_is_excluded_stays_away() {
    let stage = Stage::new(Kind::Embedded);
    for name in [
        "keep",
        "a.tmp",
        "cache/x",
        "sub/cache/y",
        "sub/b.tmp",
        "sub/keep.tmp",
    ] {
        let path = stage.source.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, name).unwrap();
    }
    let exclude = [
        "--exclude",
        "*.tmp",
        "--exclude",
        "/cache/",
        "--exclude",
        "!keep.tmp",
    ];
    stage.sync().args(exclude).ok();
    let live = crate::support::facts::facts(&stage.live());
    let names: Vec<_> = live
        .keys()
        .map(|path| path.escape_ascii().to_string())
        .collect();
    assert_eq!(
        names,
        [
            ".",
            "keep",
            "sub",
            "sub/cache",
            "sub/cache/y",
            "sub/keep.tmp"
        ]
    );
}
