//! What a program is told, and what its answers mean.

use std::collections::BTreeMap;
use std::time::Duration;

use understudy_databases::command::CommandDatabase;
use understudy_databases::{Database, DatabaseError, Limits, Probe};

use crate::{command, limits};

fn shell(script: &str) -> CommandDatabase {
    command(&["sh", "-c", script], limits())
}

#[test]
fn a_program_is_told_what_to_do_and_nothing_else() {
    let scratch = tempfile::tempdir().unwrap();
    let out = scratch.path().join("out");
    std::fs::create_dir(&out).unwrap();
    let said = scratch.path().join("said");
    let script = format!(
        "env | grep ^UNDERSTUDY_ | sort >> {0}; env | grep -c CARGO >> {0}; echo x 1 | tr ' ' '\\t'",
        said.display()
    );
    let database = shell(&script);
    let told = |phase: &str, database: &str, directory: &str| {
        let words = std::fs::read_to_string(&said).unwrap();
        std::fs::remove_file(&said).unwrap();
        let expected = format!(
            "UNDERSTUDY_DATABASE={database}\nUNDERSTUDY_DATASET=site\n{directory}UNDERSTUDY_PHASE={phase}\n0\n"
        );
        assert_eq!(words, expected);
    };
    database.probe().unwrap();
    told("probe", "sessions", "");
    database.check().unwrap();
    told("check", "sessions", "");
    database.dump(&out).unwrap();
    told(
        "dump",
        "sessions",
        &format!("UNDERSTUDY_OUT={}\n", out.display()),
    );
    database.load(&out, "standby").unwrap();
    told(
        "load",
        "standby",
        &format!("UNDERSTUDY_IN={}\n", out.display()),
    );
    database.drop_database("standby").unwrap();
    told("drop", "standby", "");
    database.count("standby").unwrap();
    told("count", "standby", "");
}

#[test]
fn a_token_is_what_is_printed_and_nothing_is_none() {
    let probe = |script: &str| shell(script).probe();
    let settled = Probe {
        token: "a b".to_owned(),
        is_settled: true,
    };
    assert_eq!(probe("echo a b").unwrap(), settled);
    for none in ["true", "echo", "exit 64"] {
        assert_eq!(
            probe(none).unwrap(),
            Probe {
                token: String::new(),
                is_settled: false
            },
            "{none}"
        );
    }
    for wrong in ["printf '\\377'", "head -c 70000 /dev/zero | tr '\\0' x"] {
        assert!(
            matches!(probe(wrong), Err(DatabaseError::Incomplete(_))),
            "{wrong}"
        );
    }
}

#[test]
fn a_dump_is_what_is_printed_and_what_is_made() {
    let dump = |script: &str| {
        let scratch = tempfile::tempdir().unwrap();
        shell(script).dump(scratch.path())?;
        let entries = std::fs::read_dir(scratch.path())
            .unwrap()
            .map(Result::unwrap);
        let file = |entry: std::fs::DirEntry| {
            let text = std::fs::read_to_string(entry.path()).unwrap();
            (entry.file_name().into_string().unwrap(), text)
        };
        Ok::<BTreeMap<_, _>, DatabaseError>(entries.map(file).collect())
    };
    let files = |files: &[(&str, &str)]| -> BTreeMap<String, String> {
        files
            .iter()
            .map(|(name, text)| ((*name).to_owned(), (*text).to_owned()))
            .collect()
    };
    assert_eq!(dump("printf data").unwrap(), files(&[("output", "data")]));
    assert_eq!(
        dump("printf data > $UNDERSTUDY_OUT/a").unwrap(),
        files(&[("a", "data")])
    );
    assert_eq!(
        dump("printf 1 > $UNDERSTUDY_OUT/a; printf 2").unwrap(),
        files(&[("a", "1"), ("output", "2")])
    );
    assert!(matches!(dump("true"), Err(DatabaseError::Incomplete(_))));
    assert!(dump("echo > $UNDERSTUDY_OUT/output; echo 2").is_err());
    let error = dump("echo half; echo it went wrong >&2; exit 3")
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("exit code 3") && error.contains("it went wrong"),
        "{error}"
    );
}

#[test]
fn a_load_reads_what_a_dump_has_printed() {
    let scratch = tempfile::tempdir().unwrap();
    let database = shell(
        "[ $UNDERSTUDY_PHASE = dump ] && seq 1 100000 && exit; [ \"$(tail -n 1)\" = 100000 ]",
    );
    database.dump(scratch.path()).unwrap();
    database.load(scratch.path(), "standby").unwrap();
    std::fs::write(scratch.path().join("output"), "less\n").unwrap();
    assert!(database.load(scratch.path(), "standby").is_err());
}

#[test]
fn not_now_is_no_failure_and_not_known_is_said() {
    let scratch = tempfile::tempdir().unwrap();
    let busy = shell("echo a backup runs >&2; exit 75");
    let errors = [
        busy.probe().map(drop),
        busy.dump(scratch.path()).map(drop),
        busy.load(scratch.path(), "x"),
    ];
    for error in errors {
        assert!(matches!(error, Err(DatabaseError::NotNow(said)) if said == "a backup runs"));
    }
    let unknown = shell("exit 64");
    let errors = [
        unknown.dump(scratch.path()).map(drop),
        unknown.load(scratch.path(), "x"),
        unknown.drop_database("x"),
    ];
    for error in errors {
        assert!(
            matches!(error, Err(DatabaseError::Unsupported(said)) if said.contains("exit code 64"))
        );
    }
    assert_eq!(unknown.check().unwrap(), [""; 0]);
    assert_eq!(unknown.count("x").unwrap(), BTreeMap::new());
}

#[test]
fn lines_are_taken_apart() {
    let lines = shell("echo one thing; echo; echo ' another'")
        .check()
        .unwrap();
    assert_eq!(lines, ["one thing", "another"]);
    let failed = shell("echo no right >&2; exit 1").check().unwrap();
    assert!(
        failed.len() == 1 && failed[0].contains("no right"),
        "{failed:?}"
    );
    let counted = shell("printf 'a\\tb\\t3\\nc\\t0\\n'").count("x").unwrap();
    assert_eq!(
        counted,
        BTreeMap::from([("a\tb".to_owned(), 3), ("c".to_owned(), 0)])
    );
    assert!(matches!(
        shell("echo 3").count("x"),
        Err(DatabaseError::Incomplete(_))
    ));
}

#[test]
fn what_takes_too_long_is_killed_with_what_it_started() {
    let scratch = tempfile::tempdir().unwrap();
    let limits = Limits {
        dump: Duration::from_millis(200),
        ..limits()
    };
    let script = "sleep 1000 & echo $! > $UNDERSTUDY_OUT/../child; wait";
    let out = scratch.path().join("out");
    std::fs::create_dir(&out).unwrap();
    let error = command(&["sh", "-c", script], limits)
        .dump(&out)
        .unwrap_err()
        .to_string();
    assert!(error.contains("the phase `dump` did not end"), "{error}");
    let child = std::fs::read_to_string(scratch.path().join("child")).unwrap();
    let stat = format!("/proc/{}/stat", child.trim());
    // Killed; who has inherited it may not have looked yet.
    let state = || {
        std::fs::read_to_string(&stat).map_or('-', |stat| {
            stat.rsplit_once(") ").unwrap().1.chars().next().unwrap()
        })
    };
    while !matches!(state(), '-' | 'Z' | 'X') {
        std::thread::yield_now();
    }
}

#[test]
fn a_program_that_is_not_there_is_named() {
    let error = command(&["/nowhere/at/all"], limits())
        .probe()
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("/nowhere/at/all") && error.contains("Correct `command`"),
        "{error}"
    );
    let error = command(&[], limits()).probe().unwrap_err().to_string();
    assert!(error.contains("has no words"), "{error}");
}
