//! Guards: what looks like the loss of a source is held, and what is everyday work is not.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::support::facts::{Facts, facts};
use crate::support::stage::DATASET;
use crate::support::{Kind, Outcome, Random, Run, Stage, full, judge};

const HELD: Option<i32> = Some(4);

/// A site: pages, programs, pictures, an old and a new release, logs, caches, and a repository.
fn make_site(stage: &Stage, random: &mut Random) {
    let root = &stage.source;
    for number in 0..60 {
        page(root, &format!("pages/{}/{number}.html", number % 4), number);
        write(
            root,
            &format!("uploads/{number}.jpg"),
            &picture(random, 3000),
        );
    }
    for release in 1..=5 {
        make_release(root, release);
    }
    for number in 0..10 {
        let program = fs::read("/proc/self/exe").unwrap();
        let start = number * 4096;
        write(
            root,
            &format!("bin/{number}"),
            &program[start..start + 20_000],
        );
    }
    write(root, "logs/access.log", &lines("GET /", 2000));
    write(root, "logs/access.log.1", &lines("GET /old", 1500));
    write(root, "logs/access.log.2.gz", &packed(random, 3000));
    for number in 0..150 {
        write(root, &format!("app/cache/{number}.tmp"), &random.noise(300));
        write(root, &format!("thumbs/{number}.bin"), &random.noise(300));
        let object = format!("repo/.git/objects/{number:02x}/{number:038x}");
        write(root, &object, &random.noise(400));
    }
    write(
        root,
        "thumbs/CACHEDIR.TAG",
        b"Signature: 8a477f597d28d172789f06886806bc55\n",
    );
    write(root, "repo/.git/HEAD", b"ref: refs/heads/main\n");
}

fn make_release(root: &Path, release: usize) {
    for number in 0..12 {
        page(
            root,
            &format!("releases/{release}/{number}.php"),
            release * 100 + number,
        );
    }
}

fn page(root: &Path, path: &str, number: usize) {
    write(
        root,
        path,
        &lines(&format!("page {number}"), 20 + number % 50),
    );
}

fn lines(text: &str, count: usize) -> Vec<u8> {
    (0..count)
        .flat_map(|line| format!("{text}, line {line}\n").into_bytes())
        .collect()
}

fn picture(random: &mut Random, length: usize) -> Vec<u8> {
    [b"\xff\xd8\xff\xe0", &random.noise(length)[..]].concat()
}

fn packed(random: &mut Random, length: usize) -> Vec<u8> {
    [b"\x1f\x8b\x08\x00", &random.noise(length)[..]].concat()
}

fn write(root: &Path, path: &str, content: &[u8]) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

/// All files below a directory that are not in a cache or a store of git.
fn files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut directories = vec![directory.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let ignored = ["cache", "thumbs", ".git"];
            let is_ignored = path
                .file_name()
                .is_some_and(|name| ignored.iter().any(|other| name == *other));
            match path.is_dir() {
                true if !is_ignored => directories.push(path),
                true => {}
                false => found.push(path),
            }
        }
    }
    found.sort();
    found
}

fn on_spare(stage: &Stage, arguments: &[&str]) -> Run {
    Run::new(arguments).arg("--store").arg(&stage.store)
}

/// The one cycle that is held.
fn held(stage: &Stage) -> Value {
    let data = on_spare(stage, &["held"]).data();
    assert_eq!(data["held"].as_array().map(Vec::len), Some(1), "{data}");
    data["held"][0].clone()
}

fn assert_held(stage: &Stage, before: &Facts, outcome: &Outcome) {
    assert_eq!(outcome.code, HELD, "{}", outcome.said());
    judge::untouched(before, &stage.live());
}

fn remove_pages(stage: &Stage) {
    fs::remove_dir_all(stage.source.join("pages")).unwrap();
    fs::remove_dir_all(stage.source.join("uploads")).unwrap();
}

#[test]
fn what_looks_like_a_loss_is_held_until_somebody_decides() {
    for kind in Kind::BOTH {
        let mut stage = Stage::new(kind);
        make_site(&stage, &mut Random::new(1));
        stage.sync_and_judge();
        let before = facts(&stage.live());
        remove_pages(&stage);
        assert_held(&stage, &before, &stage.sync().outcome());

        let shown = held(&stage);
        assert_eq!(shown["removed"]["files"], 120, "{shown}");
        let path = shown["paths"][0].as_str().unwrap();
        assert!(
            path.starts_with("pages/") || path.starts_with("uploads/"),
            "{shown}"
        );
        let status = stage.ask("status").data();
        let trouble = status["datasets"][0]["trouble"].as_str().unwrap();
        assert!(trouble.contains("held"), "{status}");

        // Nothing slips past it: not a later cycle, which takes its place, not a restart.
        page(&stage.source, "pages/new.html", 7);
        assert_held(&stage, &before, &stage.sync().outcome());
        let renewed = held(&stage);
        assert_eq!(renewed["since"], shown["since"]);
        assert_ne!(renewed["digest"], shown["digest"]);
        if kind == Kind::Tcp {
            stage.restart(None);
        }
        assert_held(&stage, &before, &stage.sync().outcome());
        assert_eq!(held(&stage), renewed);

        // Only what was looked at last is applied.
        let digest = renewed["digest"].as_str().unwrap();
        let former = shown["digest"].as_str().unwrap();
        for wrong in ["0123456789ab", &former[..12]] {
            let wrong = on_spare(&stage, &["release", DATASET, wrong]).outcome();
            assert_eq!(wrong.code, Some(1), "{}", wrong.said());
            assert!(wrong.said().contains(&digest[..12]), "{}", wrong.said());
            judge::untouched(&before, &stage.live());
        }
        on_spare(&stage, &["release", DATASET, &digest[..12]]).data();
        assert!(!stage.live().join("uploads").exists());
        assert!(stage.live().join("pages/new.html").exists());
        // The agent knows what it had sent.
        let next = stage.sync().data();
        assert_eq!(next["committed"], false, "{next}");
        assert_eq!(next["files_read"], 0, "{next}");
        judge::same(&stage.source, &stage.live());
        let data = on_spare(&stage, &["held"]).data();
        assert_eq!(data["held"], serde_json::json!([]));
        // What was removed is in history.
        let target = stage.path().join("target");
        stage.restore(&target).arg("--snapshot").arg("1").data();
        judge::untouched(&before, &target);
    }
}

#[test]
fn what_is_rejected_leaves_no_trace() {
    let stage = Stage::new(Kind::Tcp);
    make_site(&stage, &mut Random::new(2));
    stage.sync_and_judge();
    let before = facts(&stage.live());
    remove_pages(&stage);
    write(&stage.source, "large", &Random::new(3).noise(5 << 20));
    assert_held(&stage, &before, &stage.sync().outcome());
    let digest = held(&stage)["digest"].as_str().unwrap().to_owned();
    // Each command is told as it must be typed here.
    let place = format!("--store {}", stage.store.display());
    let typed = format!("understudy reject {DATASET} {} {place}", &digest[..12]);
    on_spare(&stage, &["held"]).ok().mentions(&[&typed]);
    let hint = format!("`understudy held {place}`");
    let other = on_spare(&stage, &["reject", DATASET, "00000000"]);
    other.expect(1).mentions(&[&hint]);
    on_spare(&stage, &["reject", DATASET, &digest[..12]]).data();
    on_spare(&stage, &["release", DATASET, &digest[..12]])
        .expect(1)
        .mentions(&["nothing is held", &hint]);
    judge::untouched(&before, &stage.live());
    let staging = stage.dataset().join(".understudy/staging");
    assert_eq!(fs::read_dir(staging).unwrap().count(), 0);
    assert!(!stage.dataset().join(".understudy/held").exists());

    // The source is as it was: held again, until it is repaired.
    assert_held(&stage, &before, &stage.sync().outcome());
    let digest = held(&stage)["digest"].as_str().unwrap().to_owned();
    on_spare(&stage, &["reject", DATASET, &digest[..12]]).data();
    make_site(&stage, &mut Random::new(2));
    stage.sync_and_judge();
    let verified = stage.ask("verify").outcome();
    assert_eq!(verified.code, Some(0), "{}", verified.said());
}

#[test]
fn whoever_is_at_an_embedded_spare_may_accept() {
    let stage = Stage::new(Kind::Embedded);
    make_site(&stage, &mut Random::new(4));
    stage.sync_and_judge();
    let before = facts(&stage.live());
    remove_pages(&stage);
    assert_held(&stage, &before, &stage.sync().outcome());
    stage.sync().arg("--accept-deletions").data();
    judge::same(&stage.source, &stage.live());
}

#[test]
fn a_receiver_that_dies_around_the_decision_holds_or_has_nothing() {
    for point in ["receiver.held", "receiver.sealed"] {
        let mut stage = Stage::new(Kind::Tcp);
        make_site(&stage, &mut Random::new(5));
        stage.sync_and_judge();
        let before = facts(&stage.live());
        remove_pages(&stage);
        stage.restart(Some(&format!("{point}=return")));
        assert_ne!(stage.sync().outcome().code, Some(0));
        stage.restart(None);
        judge::untouched(&before, &stage.live());
        // Dropped with the process, or held by it: the same comes again, or is still there.
        let outcome = stage.sync_soon();
        assert_held(&stage, &before, &outcome);
        assert_eq!(held(&stage)["removed"]["files"], 120);

        // So it is with one that takes its place.
        page(&stage.source, "pages/new.html", 1007);
        fs::remove_file(stage.source.join("bin/0")).unwrap();
        let first = held(&stage)["digest"].clone();
        stage.restart(Some(&format!("{point}=return")));
        assert_ne!(stage.sync().outcome().code, Some(0));
        stage.restart(None);
        judge::untouched(&before, &stage.live());
        assert_eq!(held(&stage)["digest"] == first, point == "receiver.held");
        assert_held(&stage, &before, &stage.sync_soon());
        let shown = held(&stage);
        assert_eq!(shown["removed"]["files"], 121);
        let digest = shown["digest"].as_str().unwrap().to_owned();
        on_spare(&stage, &["release", DATASET, &digest[..12]]).data();
        judge::same(&stage.source, &stage.live());
    }
}

#[test]
fn a_release_that_dies_leaves_it_held_or_has_applied_it() {
    let stage = Stage::new(Kind::Tcp);
    make_site(&stage, &mut Random::new(8));
    stage.sync_and_judge();
    let before = facts(&stage.live());
    remove_pages(&stage);
    page(&stage.source, "pages/new.html", 1007);
    assert_held(&stage, &before, &stage.sync().outcome());
    let shown = held(&stage);
    let release = |shown: &Value, point: &str| {
        let digest = shown["digest"].as_str().unwrap();
        let run = on_spare(&stage, &["release", DATASET, &digest[..12]]);
        let outcome = run.failing(&format!("{point}=return")).outcome();
        assert_ne!(outcome.code, Some(0), "{point}");
    };
    for point in ["receiver.built", "receiver.synced"] {
        release(&shown, point);
        judge::untouched(&before, &stage.live());
        assert_eq!(held(&stage), shown, "{point}");
        // Nor does the next cycle make it more or less.
        assert_held(&stage, &before, &stage.sync().outcome());
        assert_eq!(held(&stage), shown, "{point}");
    }
    release(&shown, "receiver.switched");
    judge::same(&stage.source, &stage.live());
    assert_eq!(stage.sync().data()["committed"], false);
    assert_eq!(
        on_spare(&stage, &["held"]).data()["held"],
        serde_json::json!([])
    );

    fs::remove_dir_all(stage.source.join("releases")).unwrap();
    assert_eq!(stage.sync().outcome().code, HELD);
    release(&held(&stage), "receiver.released");
    judge::same(&stage.source, &stage.live());
    write(&stage.source, "pages/other.html", b"one more\n");
    stage.sync_and_judge();
    assert!(!stage.dataset().join(".understudy/held.staged").exists());
    let verified = stage.ask("verify").outcome();
    assert_eq!(verified.code, Some(0), "{}", verified.said());
}

type Change = (&'static str, fn(&Path, &mut Random));

const ATTACKS: [Change; 14] = [
    ("every file is overwritten with zeros", |root, _| {
        for file in files(root) {
            let length = fs::metadata(&file).unwrap().len() as usize;
            fs::write(file, vec![0; length]).unwrap();
        }
    }),
    ("one byte is left of every file", |root, _| {
        for file in files(root) {
            fs::write(file, b"x").unwrap();
        }
    }),
    ("a byte beside takes the place of every file", |root, _| {
        for file in files(root) {
            let mut name = file.clone().into_os_string();
            name.push(".bak");
            fs::write(name, b"x").unwrap();
            fs::remove_file(file).unwrap();
        }
    }),
    ("everything but one file is removed", |root, _| {
        for file in files(root).iter().skip(1) {
            fs::remove_file(file).unwrap();
        }
    }),
    ("a third of the files is removed", |root, _| {
        for file in files(root).iter().step_by(3) {
            fs::remove_file(file).unwrap();
        }
    }),
    ("all files are emptied", |root, _| {
        for file in files(root) {
            fs::write(file, b"").unwrap();
        }
    }),
    ("all pictures are encrypted in place", |root, random| {
        for file in files(&root.join("uploads")) {
            fs::write(file, random.noise(3004)).unwrap();
        }
    }),
    ("all files are encrypted in place", |root, random| {
        for file in files(root) {
            let length = fs::metadata(&file).unwrap().len() as usize;
            fs::write(file, random.noise(length)).unwrap();
        }
    }),
    (
        "all files are encrypted under another name",
        |root, random| {
            for file in files(root) {
                let length = fs::metadata(&file).unwrap().len() as usize;
                let mut name = file.clone().into_os_string();
                name.push(".locked");
                fs::write(name, random.noise(length)).unwrap();
                fs::remove_file(file).unwrap();
            }
        },
    ),
    (
        "all files are encrypted elsewhere under their names",
        |root, random| {
            for (number, file) in files(root).into_iter().enumerate() {
                let length = fs::metadata(&file).unwrap().len() as usize;
                let name = file.file_name().unwrap().to_str().unwrap();
                write(
                    root,
                    &format!("ransom/{number}/{name}"),
                    &random.noise(length),
                );
                fs::remove_file(file).unwrap();
            }
        },
    ),
    (
        "the begin of each file is left as it was",
        |root, random| {
            for file in files(root) {
                let mut content = fs::read(&file).unwrap();
                let keep = (content.len() / 4).min(64);
                let noise = random.noise(content.len() - keep);
                content[keep..].copy_from_slice(&noise);
                fs::write(file, content).unwrap();
            }
        },
    ),
    ("files become links to nowhere", |root, _| {
        for file in files(root) {
            fs::remove_file(&file).unwrap();
            std::os::unix::fs::symlink("/nowhere", file).unwrap();
        }
    }),
    ("another file system is mounted there", |root, _| {
        for entry in fs::read_dir(root).unwrap() {
            fs::remove_dir_all(entry.unwrap().path()).unwrap();
        }
        for number in 0..400 {
            page(root, &format!("other/place/{number}.txt"), number);
        }
    }),
    ("most bytes are removed with one file", |root, _| {
        fs::remove_file(root.join("database.img")).unwrap();
    }),
];

#[test]
fn attacks_are_held() {
    for (what, attack) in ATTACKS {
        let stage = Stage::new(Kind::Embedded);
        let mut random = Random::new(6);
        make_site(&stage, &mut random);
        if what.contains("bytes") {
            write(&stage.source, "database.img", &lines("row", 2_000_000));
        }
        stage.sync_and_judge();
        let before = facts(&stage.live());
        attack(&stage.source, &mut random);
        let outcome = stage.sync().outcome();
        assert_eq!(outcome.code, HELD, "{what}: {}", outcome.said());
        judge::untouched(&before, &stage.live());
    }
}

const WORK: [Change; 20] = [
    ("a package is upgraded", |root, random| {
        let program = fs::read("/proc/self/exe").unwrap();
        for number in 0..10 {
            let start = random.below(1 << 20) as usize;
            write(
                root,
                &format!("bin/{number}"),
                &program[start..start + 21_000],
            );
        }
    }),
    ("every page is written anew", |root, random| {
        for number in 0..60 {
            page(
                root,
                &format!("pages/{}/{number}.html", number % 4),
                random.below(1000) as usize,
            );
        }
    }),
    ("git packs its objects", |root, random| {
        let objects = root.join("repo/.git/objects");
        fs::remove_dir_all(&objects).unwrap();
        write(
            &objects,
            "pack/pack-1.pack",
            &[b"PACK", &random.noise(30_000)[..]].concat(),
        );
        write(&objects, "pack/pack-1.idx", &random.noise(5000));
    }),
    ("git has new objects", |root, random| {
        for number in 0..120 {
            write(
                root,
                &format!("repo/.git/objects/{number:02x}/{number:038x}"),
                &random.noise(400),
            );
        }
    }),
    ("logs are rotated by renaming", |root, random| {
        let logs = root.join("logs");
        fs::remove_file(logs.join("access.log.1")).ok();
        fs::rename(logs.join("access.log"), logs.join("access.log.1")).unwrap();
        write(
            &logs,
            "access.log",
            &lines("GET /today", random.below(10) as usize),
        );
        write(&logs, "access.log.2.gz", &packed(random, 3000));
    }),
    ("logs are copied and truncated", |root, _| {
        let logs = root.join("logs");
        let mut content = fs::read(logs.join("access.log")).unwrap();
        content.extend(lines("GET /between", 20));
        fs::write(logs.join("access.log.1"), content).unwrap();
        fs::write(logs.join("access.log"), b"").unwrap();
    }),
    ("logs grow", |root, _| {
        write(root, "logs/access.log", &lines("GET /", 4000));
    }),
    ("a log is packed", |root, random| {
        fs::remove_file(root.join("logs/access.log.1")).ok();
        write(root, "logs/access.log.1.gz", &packed(random, 4000));
    }),
    ("a new release comes, the oldest goes", |root, random| {
        make_release(root, 6 + random.below(1000) as usize);
        let releases = root.join("releases");
        let oldest = fs::read_dir(&releases)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .min();
        fs::remove_dir_all(oldest.unwrap()).unwrap();
    }),
    ("old releases go", |root, _| {
        let releases = root.join("releases");
        let mut all: Vec<_> = fs::read_dir(&releases)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        all.sort();
        for release in all.iter().rev().skip(3) {
            fs::remove_dir_all(release).unwrap();
        }
    }),
    ("a cache is cleared", |root, _| {
        fs::remove_dir_all(root.join("app/cache")).unwrap();
    }),
    ("a tagged cache is cleared", |root, _| {
        for number in 0..150 {
            fs::remove_file(root.join(format!("thumbs/{number}.bin"))).ok();
        }
    }),
    ("caches fill", |root, random| {
        for number in 0..150 {
            write(root, &format!("app/cache/{number}.tmp"), &random.noise(300));
            write(root, &format!("thumbs/{number}.bin"), &random.noise(300));
        }
    }),
    ("a fifth of the pictures is removed", |root, _| {
        for number in (0..60).step_by(5) {
            fs::remove_file(root.join(format!("uploads/{number}.jpg"))).ok();
        }
    }),
    ("pictures are uploaded and replaced", |root, random| {
        for number in 0..60 {
            write(
                root,
                &format!("uploads/{number}.jpg"),
                &picture(random, 2500),
            );
        }
    }),
    ("directories move", |root, random| {
        fs::rename(
            root.join("pages"),
            root.join(format!("pages{}", random.below(1000))),
        )
        .unwrap();
        for number in 0..60 {
            page(root, &format!("pages/{}/{number}.html", number % 4), number);
        }
    }),
    ("every file moves elsewhere", |root, random| {
        let to = root.join(format!("moved{}", random.below(1000)));
        fs::create_dir(&to).unwrap();
        for (number, file) in files(&root.join("pages")).into_iter().enumerate() {
            fs::rename(file, to.join(number.to_string())).unwrap();
        }
        for number in 0..60 {
            page(root, &format!("pages/{}/{number}.html", number % 4), number);
        }
    }),
    ("owners and times change everywhere", |root, random| {
        let time = std::time::UNIX_EPOCH
            + std::time::Duration::from_secs(1_600_000_000 + random.below(1000));
        for file in files(root) {
            fs::File::open(file).unwrap().set_modified(time).unwrap();
        }
    }),
    ("a few files are emptied", |root, _| {
        for number in 0..5 {
            write(root, &format!("pages/{}/{number}.html", number % 4), b"");
        }
    }),
    ("some pages become packed", |root, random| {
        for number in 0..60 {
            write(
                root,
                &format!("pages/{}/{number}.html.gz", number % 4),
                &packed(random, 800),
            );
            fs::remove_file(root.join(format!("pages/{}/{number}.html", number % 4))).unwrap();
        }
        for number in 0..60 {
            page(root, &format!("pages/{}/{number}.html", number % 4), number);
        }
    }),
];

#[test]
fn everyday_work_is_not_held() {
    let rounds = if full() { 5 } else { 1 };
    let stage = Stage::new(Kind::Tcp);
    let mut random = Random::new(7);
    make_site(&stage, &mut random);
    stage.sync_and_judge();
    for _ in 0..rounds {
        for (what, work) in WORK {
            work(&stage.source, &mut random);
            let outcome = stage.sync().outcome();
            assert_eq!(outcome.code, Some(0), "{what}: {}", outcome.said());
        }
        judge::same(&stage.source, &stage.live());
    }
}
