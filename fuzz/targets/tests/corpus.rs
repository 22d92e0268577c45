//! Runs every target over what honest peers send, what the fuzzer found and was kept, and both a little changed.

use std::path::Path;

use understudy_fuzz_targets::{Mutation, TARGETS, Target};

macro_rules! targets {
    ($($name:ident)+) => {
        const TESTED: &[&str] = &[$(stringify!($name)),+];

        $(#[test]
        fn $name() {
            run(stringify!($name));
        })+
    };
}

targets! { frames messages compression paths signatures deltas stored catalogs changes restores adoptions configurations trust }

#[test]
fn every_target_is_tested_and_has_a_program() {
    let names: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
    assert_eq!(names, TESTED);
    let programs = fuzz().join("fuzz_targets");
    let mut found: Vec<String> = std::fs::read_dir(programs)
        .expect("programs")
        .map(|entry| {
            entry
                .expect("entry")
                .file_name()
                .to_string_lossy()
                .replace(".rs", "")
        })
        .collect();
    found.sort();
    let mut names = names;
    names.sort_unstable();
    assert_eq!(found, names);
}

fn run(name: &str) {
    let target = TARGETS.iter().find(|target| target.name == name);
    let target = target.expect("a target");
    let mut inputs = (target.seeds)();
    inputs.extend(kept(target));
    inputs.iter().for_each(|input| (target.run)(input));
    (target.run)(&[]);
    let mut mutation = Mutation::new(6);
    for _ in 0..target.changed {
        (target.run)(&mutation.next(&inputs));
    }
}

/// What the fuzzer found once.
fn kept(target: &Target) -> Vec<Vec<u8>> {
    let Ok(entries) = std::fs::read_dir(fuzz().join("corpus").join(target.name)) else {
        return Vec::new();
    };
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("entry").path()).collect();
    paths.sort();
    let read = |path: &std::path::PathBuf| std::fs::read(path).expect("an input");
    paths.iter().map(read).collect()
}

fn fuzz() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}
