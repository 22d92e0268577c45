//! Databases that others write to all the time.

use std::time::{Duration, Instant};

use understudy_databases::sqlite::{ImageError, Way};

use crate::support::{LONG, Other, Site, ask};

/// Moves money between two rows and counts it, about 500 times a second, with tables of ballast; prints the longest time that one took.
fn writer(seconds: f64) -> String {
    format!(
        "a=[0]; exec(\"e=time.time()+{seconds}\\nwhile time.time()<e:\\n b=time.time(); db.execute('begin immediate'); \
         db.execute('update t set n=n-1 where id=1'); db.execute('insert into log select randomblob(200)'); \
         db.execute('update t set n=n+1 where id=2'); db.execute('update t set n=n+1 where id=3'); db.execute('commit'); \
         a.append(time.time()-b); time.sleep(0.0015)\"); print(max(a), len(a))"
    )
}

fn tables(megabytes: u64) -> String {
    format!(
        "db.execute('create table t(id integer primary key, n)'); db.executemany('insert into t values(?,0)', ((n,) for n in (1,2,3))); \
         db.execute('create table log(b)'); db.execute('create table ballast(b)'); db.execute('begin'); \
         db.executemany('insert into ballast values(randomblob(?))', ((100000,) for n in range({megabytes}*10))); db.execute('commit')"
    )
}

struct Seen {
    images: u64,
    longest_lock: Duration,
    longest_write: Duration,
    writes: u64,
}

/// Takes images as long as somebody writes; each must be one state, and none older than one before.
fn run(mode: &str, megabytes: u64, seconds: f64) -> Option<Seen> {
    let site = Site::new();
    let mut other = Other::start(&site.database())?;
    other.run(&format!(
        "db.execute('pragma journal_mode={mode}'); db.execute('pragma synchronous=normal')"
    ));
    other.run(&tables(megabytes));
    other.begin(&writer(seconds));
    let begun = Instant::now();
    let (mut images, mut last, mut longest_lock) = (0, 0, Duration::ZERO);
    while begun.elapsed().as_secs_f64() < seconds - 0.5 {
        let (image, path) = site.take(LONG).unwrap();
        longest_lock = longest_lock.max(image.writers_waited);
        assert_eq!(image.way, Way::Held);
        assert_eq!(
            ask(&path, "select sum(n) from t where id < 3"),
            0,
            "half of a transaction"
        );
        let now = ask(&path, "select n from t where id = 3");
        assert!(now >= last, "{now} after {last}");
        assert_eq!(ask(&path, "select count(*) from log"), now);
        (images, last) = (images + 1, now);
    }
    let told = other.heard();
    let (longest, writes) = told.split_once(' ').unwrap();
    assert_eq!(other.heard(), "done");
    other.close();
    Some(Seen {
        images,
        longest_lock,
        longest_write: Duration::from_secs_f64(longest.parse().unwrap()),
        writes: writes.parse().unwrap(),
    })
}

/// Of a gigabyte with `UNDERSTUDY_TEST_FULL=1`, for longer.
fn size() -> (u64, f64) {
    match std::env::var_os("UNDERSTUDY_TEST_FULL") {
        Some(_) => (1000, 60.0),
        None => (20, 3.0),
    }
}

#[test]
fn with_a_log_each_image_is_one_state_and_nobody_waits() {
    let (megabytes, seconds) = size();
    let Some(seen) = run("wal", megabytes, seconds) else {
        return;
    };
    eprintln!(
        "{} images, {} writes, the longest {:?}",
        seen.images, seen.writes, seen.longest_write
    );
    assert!(seen.images >= 3 && seen.last_is_late(), "{}", seen.images);
    assert_eq!(seen.longest_lock, Duration::ZERO);
}

#[test]
fn with_a_journal_each_image_is_one_state_and_the_wait_is_told() {
    for mode in ["delete", "truncate", "persist", "memory"] {
        let (megabytes, seconds) = size();
        let Some(seen) = run(mode, megabytes, seconds) else {
            return;
        };
        eprintln!(
            "{mode}: {} images, {} writes, the longest {:?}, told {:?}",
            seen.images, seen.writes, seen.longest_write, seen.longest_lock
        );
        assert!(seen.images >= 2, "{mode}: {}", seen.images);
        assert!(seen.longest_lock > Duration::ZERO, "{mode}");
    }
}

#[test]
fn those_who_write_wait_for_no_longer_than_the_limit() {
    let site = Site::new();
    let Some(mut other) = Other::start(&site.database()) else {
        return;
    };
    other.run("db.execute('pragma journal_mode=delete')");
    other.run(&tables(40));
    let begun = Instant::now();
    let refused = site.take(Duration::ZERO);
    assert!(matches!(refused, Err(ImageError::Busy(_))), "{refused:?}");
    assert!(begun.elapsed() < Duration::from_secs(1));
    // And let go.
    other.run("db.execute('pragma busy_timeout=0'); db.execute('insert into log values(1)')");
}

impl Seen {
    fn last_is_late(&self) -> bool {
        self.writes > 100
    }
}
