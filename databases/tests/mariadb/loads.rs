//! Loading a dump: all of it, in place of what was there, or not at all.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use understudy_databases::Database;
use understudy_databases::mariadb::{Mariadb, MariadbSettings};

use crate::server::{Server, limits};
use crate::{EVERYTHING, is_full, pause};

/// What `name` has: a number that tells its state from others, and how many there are of what cannot be moved.
fn state(server: &Server, name: &str) -> String {
    let text = format!(
        "SELECT IFNULL((SELECT MAX(a) FROM `{name}`.state),''), \
         (SELECT COUNT(*) FROM information_schema.triggers WHERE trigger_schema='{name}'), \
         (SELECT COUNT(*) FROM information_schema.views WHERE table_schema='{name}'), \
         (SELECT COUNT(*) FROM information_schema.routines WHERE routine_schema='{name}'), \
         (SELECT COUNT(*) FROM information_schema.events WHERE event_schema='{name}')"
    );
    server
        .try_sql(&text)
        .unwrap_or_else(|_| "none".to_owned())
        .replace('\t', " ")
}

/// Several dumps of a database, which differ in the number of their state.
fn dumps(server: &Server, numbers: impl IntoIterator<Item = u64>) -> Vec<tempfile::TempDir> {
    let dump = |number: u64| {
        server.sql(&format!(
            "DELETE FROM shop.state; INSERT INTO shop.state VALUES ({number})"
        ));
        let scratch = tempfile::tempdir().unwrap();
        server.mariadb("shop").dump(scratch.path()).unwrap();
        scratch
    };
    numbers.into_iter().map(dump).collect()
}

fn shop() -> Option<Server> {
    let server = Server::start(&[])?;
    server.sql(EVERYTHING);
    server.sql("CREATE TABLE shop.state (a INT) ENGINE=InnoDB");
    Some(server)
}

/// As the next test has it: a load, in a process that may be killed.
#[test]
fn in_a_process_of_its_own() {
    let Some(job) = std::env::var_os("UNDERSTUDY_TEST_LOAD") else {
        return;
    };
    let (settings, from): (MariadbSettings, String) =
        serde_json::from_str(job.to_str().unwrap()).unwrap();
    Mariadb::new(settings, limits())
        .load(Path::new(&from), "standby")
        .unwrap();
}

fn begin_load(server: &Server, from: &Path) -> std::process::Child {
    let job = serde_json::to_string(&(server.settings("shop", "root", ""), from)).unwrap();
    let mut load = Command::new(std::env::current_exe().unwrap());
    load.args(["--exact", "loads::in_a_process_of_its_own"])
        .env("UNDERSTUDY_TEST_LOAD", &job);
    load.stdout(Stdio::null()).stderr(Stdio::null());
    load.spawn().unwrap()
}

/// Loads are killed at moments all over their length, several in a row, with their programs going on. What is served is one of the states whose
/// load was begun, with all its rows; the last one that was whole is there until another one is; and the next load works.
#[test]
fn a_load_can_be_killed_at_any_moment_and_run_again() {
    let Some(server) = shop() else { return };
    let shop = server.mariadb("shop");
    let rounds = if is_full() { 60 } else { 5 };
    let numbers = [1, 2, 3, 4];
    let all = dumps(&server, numbers);
    let rows = {
        shop.load(all[0].path(), "standby").unwrap();
        let started = Instant::now();
        shop.load(all[0].path(), "standby").unwrap();
        (shop.count("standby").unwrap(), started.elapsed())
    };
    let (rows, length) = rows;
    let whole = |number: usize| format!("{number} 1 2 2 1");
    let mut swapped = 0;
    for round in 0..rounds {
        let good = 1 + round % 3;
        shop.load(all[good - 1].path(), "standby").unwrap();
        assert_eq!(state(&server, "standby"), whole(good));
        let tries: Vec<_> = (1..=4).filter(|number| *number != good).collect();
        for (nth, number) in tries.iter().enumerate() {
            let mut load = begin_load(&server, all[number - 1].path());
            let part = (round * 3 + nth + 1) * 7919 % 97;
            pause(length * u32::try_from(part).unwrap() / 80 + Duration::from_millis(20));
            load.kill().unwrap();
            load.wait().unwrap();
            let served = state(&server, "standby");
            let served: usize = served.split(' ').next().unwrap().parse().unwrap();
            assert!(served == good || tries[..=nth].contains(&served));
            assert_eq!(
                shop.count("standby").unwrap(),
                rows,
                "round {round}: {number}"
            );
            let kept = [
                state(&server, "standby"),
                state(&server, "standby__previous"),
            ];
            let is_finished = tries[..=nth].iter().any(|number| kept[0] == whole(*number));
            let has_good = kept.iter().any(|kept| kept.starts_with(&good.to_string()));
            swapped += u32::from(served != good);
            // A load that came to its end before it was killed has made another one good.
            if is_finished {
                break;
            }
            assert!(has_good, "round {round}: {good} is lost: {kept:?}");
        }
        shop.load(all[3].path(), "standby").unwrap();
        assert_eq!(state(&server, "standby"), whole(4), "round {round}");
        assert_eq!(shop.count("standby").unwrap(), rows);
        assert_eq!(
            server.sql("SHOW DATABASES LIKE 'standby%'"),
            "standby\nstandby__previous"
        );
        server.sql("INSERT INTO standby.numbered (b) VALUES (0)");
    }
    eprintln!(
        "{swapped} of {} loads were killed after the swap",
        rounds * 3
    );
}

/// At each statement of a load, which the server is made to fail, or at which the client is killed: what was in place stays, or the former is
/// kept.
#[test]
fn a_load_that_fails_after_the_swap_keeps_the_former_until_another_one_is_whole() {
    let Some(server) = shop() else { return };
    let shop = server.mariadb("shop");
    let all = dumps(&server, [1, 2, 3]);
    shop.load(all[0].path(), "standby").unwrap();
    for number in [2, 3, 2] {
        let from = all[number - 1].path();
        // Events are not rehearsed: what is wrong with them is found after the swap.
        let events = from.join("events.sql");
        let text = std::fs::read(&events).unwrap();
        std::fs::write(&events, "NONSENSE;\n").unwrap();
        let error = shop.load(from, "standby").unwrap_err().to_string();
        assert!(error.contains("NONSENSE"), "{error}");
        std::fs::write(&events, text).unwrap();
        assert!(state(&server, "standby").starts_with(&number.to_string()));
        assert!(state(&server, "standby__previous").starts_with("1 "));
    }
    shop.load(all[2].path(), "standby").unwrap();
    assert_eq!(state(&server, "standby"), "3 1 2 2 1");
    assert!(state(&server, "standby__previous").starts_with("1 "));
    shop.load(all[1].path(), "standby").unwrap();
    assert!(state(&server, "standby__previous").starts_with("3 "));
    assert_eq!(
        server.sql("SHOW DATABASES LIKE 'standby%'"),
        "standby\nstandby__previous"
    );
    assert_eq!(
        shop.count("standby__previous").unwrap(),
        shop.count("standby").unwrap()
    );
}

/// What cannot be made is found out before anything is replaced.
#[test]
fn a_view_that_cannot_be_made_leaves_everything_as_it_was() {
    let Some(server) = shop() else { return };
    let shop = server.mariadb("shop");
    let all = dumps(&server, [1, 2]);
    shop.load(all[0].path(), "standby").unwrap();
    for file in ["view.v.sql", "triggers.child.sql", "routines.sql"] {
        let path = all[1].path().join(file);
        let text = std::fs::read(&path).unwrap();
        std::fs::write(&path, "NONSENSE;\n").unwrap();
        assert!(shop.load(all[1].path(), "standby").is_err());
        assert_eq!(state(&server, "standby"), "1 1 2 2 1", "{file}");
        std::fs::write(&path, text).unwrap();
    }
}

/// Either may end the other; what is in place is whole.
#[test]
fn two_loads_at_the_same_time_leave_one_whole_database() {
    let Some(server) = shop() else { return };
    let shop = server.mariadb("shop");
    let all = dumps(&server, [1, 2, 3]);
    shop.load(all[2].path(), "standby").unwrap();
    let rows = shop.count("standby").unwrap();
    for _ in 0..3 {
        let ended = std::thread::scope(|scope| {
            let load = |number: usize| {
                let (all, server) = (&all, &server);
                scope.spawn(move || server.mariadb("shop").load(all[number].path(), "standby"))
            };
            let loads = [load(0), load(1)];
            loads.map(|load| load.join().unwrap())
        });
        assert_eq!(shop.count("standby").unwrap(), rows);
        for error in ended.into_iter().filter_map(Result::err) {
            let error = error.to_string();
            let is_told = ["another load", "killed the session", "ended the connection"];
            assert!(is_told.iter().any(|words| error.contains(words)), "{error}");
        }
    }
    shop.load(all[1].path(), "standby").unwrap();
    assert_eq!(state(&server, "standby"), "2 1 2 2 1");
    assert_eq!(shop.count("standby").unwrap(), rows);
}

#[test]
fn names_that_cannot_be_loaded_as_are_refused() {
    let Some(server) = shop() else { return };
    let shop = server.mariadb("shop");
    let all = dumps(&server, [1]);
    for name in ["", "mysql", "SYS", "a ", &*"é".repeat(55), &*"x".repeat(55)] {
        let error = shop.load(all[0].path(), name).unwrap_err().to_string();
        assert!(error.contains("at most 54 characters"), "{error}");
        assert!(shop.drop_database(name).is_err());
    }
    for name in ["x".repeat(54), "é".repeat(40)] {
        for _ in 0..2 {
            shop.load(all[0].path(), &name).unwrap();
            assert_eq!(state(&server, &name), "1 1 2 2 1");
        }
        shop.drop_database(&name).unwrap();
    }
}
