//! What a configuration means, and what is said about one that is wrong.

use std::num::NonZeroU64;

use jiff::civil::time;
use understudy_databases::Limits;
use understudy_tree::priority::IoPriority;

use super::*;
use crate::databases::Engine;
use crate::pace::{Bandwidth, Hours, Percent, Settings};

fn refused(text: &str) -> String {
    Config::parse(text, Path::new("agent.toml"))
        .expect_err(text)
        .to_string()
}

#[test]
fn a_whole_configuration_is_read() {
    let text = "spare = \"spare:7433\"\nssh = [\"ssh\", \"-4\"]\nstate = \"/s\"\ninterval = \"1h30m\"\n\
                [[dataset]]\npath = \"/srv/docs\"\nexclude = [\"*.tmp\"]\ncross_mounts = true\n\
                [[dataset]]\nname = \"photos\"\npath = \"/srv/Fotos\"\ninterval = \"90s\"\n\
                [[dataset]]\npath = \"/var/www/*\"\n";
    let config = Config::parse(text, Path::new("agent.toml")).expect("valid");
    assert_eq!(config.spare.as_deref(), Some("spare:7433"));
    assert_eq!(
        config.ssh.as_deref(),
        Some(&["ssh", "-4"].map(String::from)[..])
    );
    assert_eq!(config.state, Some("/s".into()));
    let [docs, photos, sites] = &config.datasets[..] else {
        unreachable!("three datasets")
    };
    let name = |text: &str| DatasetName::new(text).expect("name");
    assert_eq!(docs.place, Sources::One("/srv/docs".into(), name("docs")));
    assert_eq!(
        (docs.interval, docs.mounts),
        (Duration::from_secs(5400), Mounts::Cross)
    );
    assert_eq!(
        photos.place,
        Sources::One("/srv/Fotos".into(), name("photos"))
    );
    assert_eq!(photos.interval, Duration::from_secs(90));
    assert_eq!(sites.place, Sources::Each("/var/www".into()));
}

#[test]
fn wrong_files_say_where_and_why() {
    let dataset = "[[dataset]]\npath = \"/a\"\n";
    for (text, words) in [
        (
            "intervall = \"1m\"\n",
            &[
                "agent.toml:1:1:",
                "unknown key `intervall`, did you mean `interval`?",
            ][..],
        ),
        (
            "[[dataset]]\npath = \"/a\"\n  exclud = []\n",
            &["agent.toml:3:3:", "did you mean `exclude`?"],
        ),
        ("[[dataset]]\nname = \"x\"\n", &["agent.toml:1:1:", "path"]),
        (
            "[[dataset]]\npath = \"a\"\n",
            &["agent.toml:2:8:", "absolute"],
        ),
        (
            "[[dataset]]\npath = \"/a/*/b\"\n",
            &["agent.toml:2:8:", "last part"],
        ),
        (
            "[[dataset]]\npath = \"/a/*\"\nname = \"x\"\n",
            &["agent.toml:3:8:", "several"],
        ),
        (
            "[[dataset]]\npath = \"/a\"\nname = \"A b\"\n",
            &["agent.toml:3:8:", "dataset"],
        ),
        (
            "[[dataset]]\npath = \"/a\"\nexclude = [\"ok\", \"[z-a]\"]\n",
            &["agent.toml:3:18:", "[z-a]"],
        ),
        (
            "interval = \"0m\"\n[[dataset]]\npath = \"/a\"\n",
            &["agent.toml:1:12:", "zero"],
        ),
        (
            "interval = \"15\"\n[[dataset]]\npath = \"/a\"\n",
            &["agent.toml:1:12:", "no interval"],
        ),
        (
            &dataset.repeat(2),
            &["agent.toml:4:8:", "two datasets called `a`"],
        ),
        ("spare = \"x\"\n", &["no [[dataset]]"]),
        ("ssh = []\n", &["agent.toml:1:7:", "empty"]),
        ("ssh = [\"\"]\n", &["agent.toml:1:7:", "no program"]),
        ("ssh = [\"s\\u0000\"]\n", &["agent.toml:1:7:", "NUL"]),
        ("ssh = \"ssh -4\"\n", &["agent.toml:1:7:"]),
    ] {
        let message = refused(text);
        assert!(
            words.iter().all(|word| message.contains(word)),
            "{text:?}: {message}"
        );
    }
}

/// The message for a file that begins with `text` and then names a dataset.
fn refused_before_a_dataset(text: &str) -> String {
    refused(&format!("{text}[[dataset]]\npath = \"/a\"\n"))
}

#[test]
fn wrong_settings_say_where_and_what_to_write() {
    let hours = "[[pace.hours]]\nfrom = \"22:00\"\nto = \"06:00\"\nbandwidth = \"5MB\"\n";
    for (text, place, words) in [
        ("sweep = \"0h\"\n", "1:9", "zero"),
        ("sweep = 5\n", "1:9", "expected a string"),
        ("unsettled = \"shipp\"\n", "1:13", "did you mean `ship`?"),
        ("unsettled = \"x\"\n", "1:13", "known are `ship`, `keep`"),
        ("watch = \"inotfy\"\n", "1:9", "did you mean `inotify`?"),
        ("watchh = \"auto\"\n", "1:1", "did you mean `watch`?"),
        ("[pace]\nniceness = 5\n", "2:1", "known are `nice`, `io`"),
        ("[pace]\nnice = 20\n", "2:8", "from 0 (like others) to 19"),
        ("[pace]\nnice = -1\n", "2:8", "from 0 (like others) to 19"),
        ("[pace]\nio = \"idel\"\n", "2:6", "did you mean `idle`?"),
        ("[pace]\nbandwidth = \"20\"\n", "2:13", "with their unit"),
        (
            "[pace]\nbandwidth = \"0MB\"\n",
            "2:13",
            "zero would send nothing",
        ),
        (
            "[pace]\npressure = 0\n",
            "2:12",
            "from 1 to 100, or \"off\"",
        ),
        (
            "[pace]\npressure = 101\n",
            "2:12",
            "from 1 to 100, or \"off\"",
        ),
        (
            "[pace]\npressure = \"no\"\n",
            "2:12",
            "from 1 to 100, or \"off\"",
        ),
        ("[pace]\npressure = 0.5\n", "2:12", "0.5 is no limit"),
        ("[pace]\npause_at_most = \"0s\"\n", "2:17", "zero"),
        (
            &hours.replace("22:00", "24:00"),
            "2:8",
            "midnight is \"00:00\"",
        ),
        (&hours.replace("06:00", "6"), "3:6", "time of day"),
        (
            &hours.replace("06:00", "22:00"),
            "3:6",
            "end when they begin",
        ),
        (&hours.replace("5MB", "5 MB"), "4:13", "no bandwidth"),
        (&hours.replace("to =", "til ="), "3:1", "unknown key `til`"),
        (&hours.replace("to = \"06:00\"\n", ""), "1:1", "`to`"),
    ] {
        let message = refused_before_a_dataset(text);
        let place = format!("agent.toml:{place}: ");
        assert!(
            message.starts_with(&place) && message.contains(words),
            "{text:?}: {message}"
        );
    }
    let dataset = "[[dataset]]\npath = \"/a\"\n";
    for (text, place, words) in [
        ("sweep = \"often\"\n", "3:9", "no interval"),
        ("unsettled = \"kep\"\n", "3:13", "did you mean `keep`?"),
        ("watch = \"auto\"\n", "3:1", "unknown key `watch`"),
    ] {
        let message = refused(&format!("{dataset}{text}"));
        let place = format!("agent.toml:{place}: ");
        assert!(
            message.starts_with(&place) && message.contains(words),
            "{text:?}: {message}"
        );
    }
}

#[test]
fn what_is_not_said_has_a_default() {
    let text = "[[dataset]]\npath = \"/a\"\n";
    let config = Config::parse(text, Path::new("agent.toml")).expect("valid");
    assert_eq!(config.watch, Watch::Auto);
    assert_eq!(config.pace, Settings::default());
    let default = Settings {
        nice: 10,
        io: IoPriority::Idle,
        bandwidth: Bandwidth::default(),
        pressure: Percent::new(50),
        pause_at_most: Duration::from_secs(300),
    };
    assert_eq!(config.pace, default);
    let source = config.sources().remove(0).expect("source").source;
    assert_eq!(source.sweep, Duration::from_secs(3600));
    assert_eq!(source.unsettled, Unsettled::Ship);
}

#[test]
fn settings_are_read_and_datasets_override_them() {
    let text = "sweep = \"2h\"\nunsettled = \"keep\"\nwatch = \"never\"\n\
                [pace]\nnice = 0\nio = \"best-effort\"\nbandwidth = \"20MB\"\npressure = \"off\"\n\
                pause_at_most = \"90s\"\n\
                [[pace.hours]]\nfrom = \"08:00\"\nto = \"18:00\"\nbandwidth = \"5MiB\"\n\
                [[pace.hours]]\nfrom = \"22:30\"\nto = \"06:00\"\nbandwidth = \"unlimited\"\n\
                [[dataset]]\npath = \"/a\"\n\
                [[dataset]]\npath = \"/b\"\nsweep = \"10m\"\nunsettled = \"ship\"\n";
    let config = Config::parse(text, Path::new("agent.toml")).expect("valid");
    assert_eq!(config.watch, Watch::Never);
    let hours = |from, to, limit| Hours {
        from,
        to,
        limit: NonZeroU64::new(limit),
    };
    let pace = Settings {
        nice: 0,
        io: IoPriority::BestEffort,
        bandwidth: Bandwidth {
            usual: NonZeroU64::new(20_000_000),
            hours: vec![
                hours(time(8, 0, 0, 0), time(18, 0, 0, 0), 5 * 1024 * 1024),
                hours(time(22, 30, 0, 0), time(6, 0, 0, 0), 0),
            ],
        },
        pressure: None,
        pause_at_most: Duration::from_secs(90),
    };
    assert_eq!(config.pace, pace);
    let sources: Vec<_> = config.sources().into_iter().flatten().collect();
    let [usual, other] = &sources[..] else {
        unreachable!("two sources")
    };
    let settings = |one: &Scheduled| (one.source.sweep.as_secs(), one.source.unsettled);
    assert_eq!(settings(usual), (7200, Unsettled::Keep));
    assert_eq!(settings(other), (600, Unsettled::Ship));
    let per_cent = text.replace("\"off\"", "75");
    let config = Config::parse(&per_cent, Path::new("agent.toml")).expect("valid");
    assert_eq!(config.pace.pressure.map(Percent::value), Some(75));
}

#[test]
#[expect(clippy::disallowed_methods, reason = "prepares directories")]
fn a_star_means_the_directories_there_are() {
    let scratch = tempfile::tempdir().expect("tempdir");
    for name in ["beta", "Alpha", ".hidden", "alpha"] {
        std::fs::create_dir(scratch.path().join(name)).expect("directory");
    }
    std::fs::write(scratch.path().join("file"), "").expect("file");
    std::os::unix::fs::symlink("beta", scratch.path().join("link")).expect("link");
    let text = format!("[[dataset]]\npath = \"{}/*\"\n", scratch.path().display());
    let config = Config::parse(&text, Path::new("agent.toml")).expect("valid");
    let (good, bad): (Vec<_>, Vec<_>) = config.sources().into_iter().partition(Result::is_ok);
    let names: Vec<_> = good
        .into_iter()
        .map(|one| one.expect("good").source.dataset.to_string())
        .collect();
    assert_eq!(names, ["alpha", "beta"]);
    assert!(
        bad[0]
            .as_ref()
            .expect_err("two called alpha")
            .to_string()
            .contains("alpha")
    );
    let config =
        Config::parse("[[dataset]]\npath = \"/nowhere/*\"\n", Path::new("f")).expect("valid");
    assert!(
        config.sources()[0].is_err(),
        "a parent that is not there is not an empty one"
    );
}

#[test]
fn databases_are_read_with_what_their_engines_know() {
    let text = "[[dataset]]\npath = \"/a\"\non_database_failure = \"ship-files\"\n\
                [[dataset.database]]\nengine = \"postgres\"\ndatabase = \"shop\"\nport = 5433\n\
                force_dump = \"1h\"\nmax_probe = \"2s\"\nmax_dump = \"3m\"\nmax_lock = \"4s\"\nmax_load = \"5h\"\n\
                [[dataset.database]]\nname = \"queue\"\nengine = \"command\"\ncommand = [\"/bin/dump\", \"q\"]\n\
                [[dataset]]\npath = \"/b\"\n";
    let config = Config::parse(text, Path::new("agent.toml")).expect("valid");
    let sources: Vec<Source> = config
        .sources()
        .into_iter()
        .map(|one| one.expect("a source").source)
        .collect();
    let [shop, queue] = &sources[0].databases[..] else {
        unreachable!("two databases")
    };
    assert_eq!((&*shop.name, &*queue.name), ("shop", "queue"));
    let Engine::Postgres(settings) = &shop.engine else {
        unreachable!("PostgreSQL")
    };
    assert_eq!((&*settings.database, settings.port), ("shop", Some(5433)));
    let seconds = Duration::from_secs;
    assert_eq!(shop.force_dump, seconds(3600));
    assert_eq!(
        shop.limits,
        Limits {
            probe: seconds(2),
            dump: seconds(180),
            lock: seconds(4),
            load: seconds(5 * 3600),
        }
    );
    let Engine::Command(settings) = &queue.engine else {
        unreachable!("a program")
    };
    assert_eq!(settings.command, ["/bin/dump", "q"]);
    assert_eq!(queue.force_dump, seconds(6 * 3600));
    assert_eq!(queue.limits, Limits::default());
    assert_eq!(
        sources[0].on_database_failure,
        OnFailure::ShipFiles { after: 3 }
    );
    assert!(sources[1].databases.is_empty());
    assert_eq!(sources[1].on_database_failure, OnFailure::Fail);
}

#[test]
fn wrong_databases_say_where_and_what_to_write() {
    let long = format!("engine = \"postgres\"\ndatabase = \"{}\"\n", "x".repeat(65));
    for (text, place, words) in [
        ("name = \"a\"\n", "3:1", "write `engine = \"mariadb\"`"),
        (
            "engine = \"postgress\"\n",
            "4:10",
            "did you mean `postgres`?",
        ),
        ("engine = 5\n", "4:10", "expected"),
        ("engine = \"postgres\"\n", "3:1", "write `name = \"shop\"`"),
        (
            "engine = \"postgres\"\nname = \"a\"\n",
            "3:1",
            "missing field `database`",
        ),
        (
            "engine = \"postgres\"\ndatabase = \"a\"\nhots = \"b\"\n",
            "6:1",
            "did you mean `host`?",
        ),
        (
            "engine = \"postgres\"\ndatabase = \"a\"\nport = \"b\"\n",
            "6:8",
            "expected u16",
        ),
        (
            "engine = \"postgres\"\ndatabase = \"a\"\ncommand = [\"b\"]\n",
            "6:1",
            "unknown key `command`",
        ),
        (
            "engine = \"postgres\"\ndatabase = \"a b\"\n",
            "5:12",
            "no name for a database in a snapshot",
        ),
        (&long, "5:12", "at most 64"),
        (
            "engine = \"postgres\"\ndatabase = \"a\"\nname = \".a\"\n",
            "6:8",
            "not `.` first",
        ),
        (
            "engine = \"postgres\"\ndatabase = \"a\"\nname = 5\n",
            "6:8",
            "5 is no name",
        ),
        (
            "engine = \"postgres\"\ndatabase = \"a\"\nmax_dump = \"5\"\n",
            "6:12",
            "no interval",
        ),
        (
            "engine = \"postgres\"\ndatabase = \"a\"\nforce_dump = 5\n",
            "6:14",
            "write for instance `force_dump = \"90s\"`",
        ),
        (
            "engine = \"command\"\nname = \"a\"\ncommand = []\n",
            "6:11",
            "run without a shell",
        ),
        (
            "engine = \"command\"\nname = \"a\"\ncommand = [\"/b\\u0000\"]\n",
            "6:11",
            "run without a shell",
        ),
        (
            "engine = \"command\"\ncommand = [\"b\"]\n",
            "3:1",
            "write `name = \"shop\"`",
        ),
    ] {
        let message = refused(&format!(
            "[[dataset]]\npath = \"/a\"\n[[dataset.database]]\n{text}"
        ));
        assert!(
            message.contains(&format!("agent.toml:{place}:")),
            "{text:?}: {message}"
        );
        assert!(message.contains(words), "{text:?}: {message}");
    }
}

#[test]
fn what_is_said_of_databases_belongs_together() {
    let database = "[[dataset.database]]\nengine = \"postgres\"\ndatabase = \"a\"\n";
    let named = format!("{database}name = \"a\"\n");
    for (text, place, words) in [
        (
            format!("path = \"/a\"\n{database}{named}"),
            "9:8",
            "two databases called `a`",
        ),
        (
            format!("path = \"/a\"\n{database}{database}"),
            "6:1",
            "two databases called `a`",
        ),
        (
            format!("path = \"/a/*\"\n{database}"),
            "3:1",
            "a [[dataset]] of its own",
        ),
        (
            "path = \"/a\"\non_database_failure = \"fail\"\n".to_owned(),
            "3:23",
            "has no database",
        ),
        (
            "path = \"/a\"\nship_files_after = 2\n".to_owned(),
            "3:20",
            "has no database",
        ),
        (
            format!("path = \"/a\"\nship_files_after = 2\n{database}"),
            "3:20",
            "says nothing without",
        ),
        (
            format!(
                "path = \"/a\"\non_database_failure = \"ship-files\"\nship_files_after = 0\n{database}"
            ),
            "4:20",
            "nonzero",
        ),
        (
            format!("path = \"/a\"\non_database_failure = \"ship\"\n{database}"),
            "3:23",
            "known are `fail`, `ship-files`",
        ),
    ] {
        let message = refused(&format!("[[dataset]]\n{text}"));
        assert!(
            message.contains(&format!("agent.toml:{place}:")),
            "{text:?}: {message}"
        );
        assert!(message.contains(words), "{text:?}: {message}");
    }
}

#[test]
fn an_application_is_kept_still_by_programs_for_a_limited_time() {
    let text = "[[dataset]]\npath = \"/a\"\nbefore_capture = [[\"/bin/stop\", \"it\"], [\"/bin/wait\"]]\n\
                after_capture = [[\"/bin/start\"]]\n\
                [[dataset]]\npath = \"/b\"\nafter_capture = [[\"/bin/start\"]]\nmax_capture = \"90s\"\n\
                [[dataset]]\npath = \"/c\"\n";
    let config = Config::parse(text, Path::new("agent.toml")).expect("valid");
    let of = |place: usize| config.datasets[place].stillness.as_ref();
    let both = of(0).expect("kept still");
    assert_eq!(both.before, [vec!["/bin/stop", "it"], vec!["/bin/wait"]]);
    assert_eq!(both.after, [["/bin/start"]]);
    assert_eq!(both.most, Stillness::MOST);
    let one = of(1).expect("kept still");
    assert_eq!((one.before.len(), one.most.as_secs()), (0, 90));
    assert_eq!(of(2), None);
    for (text, place, words) in [
        (
            "before_capture = [[\"/bin/stop\"]]\n",
            "3:19",
            "nothing would let the application go on",
        ),
        ("max_capture = \"5m\"\n", "3:15", "says nothing without"),
        (
            "after_capture = [[\"start\"]]\n",
            "3:18",
            "must begin with an absolute path",
        ),
        (
            "after_capture = [[\"/bin/start\"]]\nmax_capture = \"0s\"\n",
            "4:15",
            "zero",
        ),
    ] {
        let message = refused(&format!("[[dataset]]\npath = \"/a\"\n{text}"));
        assert!(
            message.contains(&format!("agent.toml:{place}:")),
            "{text:?}: {message}"
        );
        assert!(message.contains(words), "{text:?}: {message}");
    }
}

#[test]
fn a_snapshot_is_made_and_removed_by_programs() {
    let text = "[[dataset]]\npath = \"/a\"\n[dataset.snapshot]\nmake = [\"/bin/make\", \"it\"]\nremove = [\"/bin/remove\"]\n";
    let config = Config::parse(text, Path::new("agent.toml")).expect("valid");
    let programs = config.datasets[0].snapshot.as_ref().expect("programs");
    assert_eq!(programs.make, ["/bin/make", "it"]);
    assert_eq!(programs.remove, ["/bin/remove"]);
    for (from, to, place, words) in [
        (
            "\"/bin/remove\"",
            "\"remove\"",
            "5:10",
            "must begin with an absolute path",
        ),
        ("\"/bin/make\", \"it\"", "", "4:8", "absolute path"),
        ("remove =", "removal =", "5:1", "did you mean `remove`?"),
        ("remove = [\"/bin/remove\"]\n", "", "3:1", "missing field"),
        (
            "[dataset.snapshot]",
            "cross_mounts = true\n[dataset.snapshot]",
            "4:1",
            "nothing of other file systems",
        ),
    ] {
        let message = refused(&text.replace(from, to));
        assert!(
            message.contains(&format!("agent.toml:{place}:")),
            "{to:?}: {message}"
        );
        assert!(message.contains(words), "{to:?}: {message}");
    }
}
