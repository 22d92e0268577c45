//! A repository with several packs and loose objects, and `git gc`.
//!
//! The history grows in a bare repository; the one that is synced was cloned from it early and has fetched now and then
//! since, as those of people do: its packs are what git made for the way, and small fetches left loose objects.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::run;
use crate::options::Options;
use crate::random::Random;

/// Commits that are there with the clone, and after each fetch; the last fetches are small.
const MILESTONES: [u64; 9] = [2500, 2900, 3300, 3700, 4000, 4010, 4020, 4030, 4040];
/// Files of the first commit, and the bytes that a larger one must not have.
const FILES: usize = 2000;
const LARGEST: u64 = 200_000;
/// Most files that one commit changes.
const MOST_CHANGED: u64 = 5;

pub(super) fn make(root: &Path, options: &Options) {
    let upstream = root.with_extension("upstream");
    git(Path::new("/"), &["init", "-q", "--bare"], &upstream);
    import(&upstream, options);
    // As a server has it.
    git(&upstream, &["repack", "-a", "-d", "-q"], Path::new("."));
    let url = format!("file://{}", upstream.display());
    let first = format!("m{}", MILESTONES[0]);
    let branch = ["clone", "-q", "--single-branch", "-b", &first, &url];
    std::fs::remove_dir(root).unwrap();
    git(Path::new("/"), &branch, root);
    for milestone in &MILESTONES[1..] {
        let wanted = format!("refs/heads/m{milestone}:refs/remotes/origin/m{milestone}");
        git(
            root,
            &["fetch", "-q", "--no-tags", "--no-auto-gc", "origin"],
            Path::new(&wanted),
        );
    }
    std::fs::remove_dir_all(upstream).unwrap();
}

pub(super) fn change(root: &Path) {
    git(root, &["gc"], Path::new("--quiet"));
}

fn git(directory: &Path, arguments: &[&str], last: &Path) {
    let mut command = Command::new("git");
    command.env("GIT_CONFIG_GLOBAL", "/dev/null");
    command.current_dir(directory).args(arguments).arg(last);
    run(&mut command);
}

/// Writes the whole history: a first commit of real files, and commits that change a few lines of some.
fn import(upstream: &Path, options: &Options) {
    let mut child = Command::new("git")
        .current_dir(upstream)
        .args(["fast-import", "--quiet"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stream = BufWriter::new(child.stdin.take().unwrap());
    let mut random = Random::new(options.seed);
    let mut files = texts(options, &mut random);
    let all: Vec<usize> = (0..files.len()).collect();
    commit(&mut stream, 0, &files, &all);
    for number in 1..=MILESTONES[MILESTONES.len() - 1] {
        let count = 1 + random.below(MOST_CHANGED);
        // Some files are changed often, most hardly ever.
        let mut changed: Vec<usize> = (0..count)
            .map(|_| random.index(files.len()) * random.index(1000) / 1000)
            .collect();
        changed.sort_unstable();
        changed.dedup();
        for &index in &changed {
            let donor = random.index(files.len());
            let lines = files[donor].clone();
            edit(&mut files[index], &lines, &mut random);
        }
        commit(&mut stream, number, &files, &changed);
        if MILESTONES.contains(&number) {
            writeln!(stream, "reset refs/heads/m{number}\nfrom :{}\n", number + 1).unwrap();
        }
    }
    drop(stream);
    assert!(child.wait().unwrap().success(), "git fast-import");
}

fn commit(stream: &mut impl Write, number: u64, files: &[Vec<u8>], changed: &[usize]) {
    let message = format!("Change {} files, number {number}", changed.len());
    write!(
        stream,
        "commit refs/heads/main\nmark :{}\ncommitter A <a@example.org> {} +0000\ndata {}\n{message}\n",
        number + 1,
        1_700_000_000 + number * 3000,
        message.len(),
    )
    .unwrap();
    if number > 0 {
        writeln!(stream, "from :{number}").unwrap();
    }
    for &index in changed {
        let content = &files[index];
        let directory = index / 40;
        writeln!(
            stream,
            "M 100644 inline part{:02}/d{directory}/file{index}.txt",
            directory % 8
        )
        .unwrap();
        writeln!(stream, "data {}", content.len()).unwrap();
        stream.write_all(content).unwrap();
        writeln!(stream).unwrap();
    }
    writeln!(stream).unwrap();
}

/// Replaces, inserts and removes some lines; new ones come from `donor`.
fn edit(file: &mut Vec<u8>, donor: &[u8], random: &mut Random) {
    let donor: Vec<&[u8]> = donor.split_inclusive(|&byte| byte == b'\n').collect();
    let mut lines: Vec<Vec<u8>> = file
        .split_inclusive(|&byte| byte == b'\n')
        .map(<[u8]>::to_vec)
        .collect();
    for _ in 0..1 + random.below(4) {
        let at = random.index(lines.len() + 1);
        let removed = (random.index(8)).min(lines.len() - at);
        let from = random.index(donor.len().max(1));
        let added = donor
            .iter()
            .skip(from)
            .take(random.index(8))
            .map(|line| line.to_vec());
        lines.splice(at..at + removed, added);
    }
    *file = lines.concat();
}

/// Real text files: of `--before`, else of the crates that cargo has unpacked.
fn texts(options: &Options, random: &mut Random) -> Vec<Vec<u8>> {
    let directory = options.before.clone().unwrap_or_else(|| {
        let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
        let home = home.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")));
        home.unwrap().join("registry/src")
    });
    let mut paths = Vec::new();
    list(&directory, &mut paths);
    paths.sort_unstable();
    let mut texts = Vec::new();
    while texts.len() < FILES && !paths.is_empty() {
        let content = std::fs::read(paths.swap_remove(random.index(paths.len()))).unwrap();
        if std::str::from_utf8(&content).is_ok() {
            texts.push(content);
        }
    }
    assert!(
        !texts.is_empty(),
        "no text files in {}",
        directory.display()
    );
    texts
}

fn list(directory: &Path, paths: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let entry = entry.unwrap();
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            list(&entry.path(), paths);
        } else if kind.is_file()
            && (1..=LARGEST).contains(&File::open(entry.path()).unwrap().metadata().unwrap().len())
        {
            paths.push(entry.path());
        }
    }
}
