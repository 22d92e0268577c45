//! Databases that nobody writes to at the moment, among them those of programs that crashed.

use std::time::{Duration, Instant};

use understudy_databases::sqlite::{ImageError, Way, is_database, owner_of};

use crate::support::{LONG, Other, Site, ask};

const ROWS: &str = "db.execute('create table t(n)'); db.execute('begin'); \
                    db.executemany('insert into t values(?)', ((n,) for n in range(5000))); db.execute('commit')";

#[test]
fn a_closed_database_is_copied_as_it_is_and_nothing_is_made_beside_it() {
    for mode in ["wal", "delete"] {
        let site = Site::new();
        let Some(mut other) = Other::start(&site.database()) else {
            return;
        };
        other.run(&format!("db.execute('pragma journal_mode={mode}')"));
        other.run(ROWS);
        other.close();
        let before = site.everything();
        assert_eq!(before.len(), 1, "{mode}");
        let (image, path) = site.take(LONG).unwrap();
        let way = match mode {
            "wal" => Way::Still,
            _ => Way::Held,
        };
        assert_eq!(image.way, way, "{mode}");
        assert_eq!(std::fs::read(&path).unwrap(), before[0].1, "{mode}");
        assert_eq!(ask(&path, "select count(*) from t"), 5000);
        assert_eq!(site.everything(), before, "{mode}");
    }
}

#[test]
fn what_is_committed_and_only_in_the_log_is_there() {
    let site = Site::new();
    let Some(mut other) = Other::start(&site.database()) else {
        return;
    };
    other.run("db.execute('pragma journal_mode=wal')");
    other.run(ROWS);
    other.run("db.execute('begin'); db.execute('insert into t values(1)')");
    let before = site.everything();
    let (image, path) = site.take(LONG).unwrap();
    assert_eq!(ask(&path, "select count(*) from t"), 5000);
    assert_eq!(
        (image.way, image.writers_waited),
        (Way::Held, Duration::ZERO)
    );
    let names = |all: &[(std::path::PathBuf, Vec<u8>, _)]| {
        let files = all
            .iter()
            .filter(|one| !one.0.to_string_lossy().ends_with("-shm"));
        files.cloned().collect::<Vec<_>>()
    };
    assert_eq!(names(&site.everything()), names(&before));
    // What the file is once it is closed, byte by byte.
    other.run("db.execute('rollback')");
    other.close();
    assert_eq!(
        std::fs::read(&path).unwrap(),
        std::fs::read(site.database()).unwrap()
    );
}

#[test]
fn a_crash_leaves_what_was_committed_and_the_source_as_it_is() {
    for mode in ["wal", "delete", "truncate", "persist"] {
        let site = Site::new();
        let Some(mut other) = Other::start(&site.database()) else {
            return;
        };
        other.run(&format!("db.execute('pragma journal_mode={mode}')"));
        other.run(ROWS);
        // So little memory that pages of the transaction are in the file already.
        other.run("db.execute('pragma cache_size=5'); db.execute('begin'); db.execute('update t set n=-1')");
        other.kill();
        let before = site.everything();
        let (image, path) = site.take(LONG).unwrap();
        assert_eq!(
            ask(&path, "select count(*) from t where n >= 0"),
            5000,
            "{mode}"
        );
        if mode != "wal" {
            assert_eq!(image.way, Way::Still, "{mode}: the journal is hot");
        }
        assert_eq!(site.everything(), before, "{mode}");
    }
}

#[test]
fn a_database_that_is_kept_locked_is_taken_as_far_as_that_is_safe() {
    let site = Site::new();
    let Some(mut other) = Other::start(&site.database()) else {
        return;
    };
    other.run("db.execute('pragma journal_mode=wal')");
    other.run(ROWS);
    other.close();
    let mut other = Other::start(&site.database()).unwrap();
    other.run("db.execute('pragma locking_mode=exclusive'); db.execute('insert into t values(1)')");
    let (image, path) = site.take(Duration::from_millis(300)).unwrap();
    assert_eq!(image.way, Way::Still);
    assert_eq!(ask(&path, "select count(*) from t"), 5001);
    other.run("db.execute('pragma journal_mode=memory'); db.execute('begin exclusive')");
    let begun = Instant::now();
    let refused = site.take(Duration::from_millis(300));
    assert!(matches!(refused, Err(ImageError::Busy(_))), "{refused:?}");
    assert!(begun.elapsed() < Duration::from_secs(5));
}

#[test]
fn what_is_no_database_is_told() {
    let site = Site::new();
    std::fs::write(site.database(), "").unwrap();
    let shorter = Err(ImageError::Damaged("it became shorter".to_owned()));
    assert_eq!(site.take(LONG), shorter);
    let Some(mut other) = Other::start(&site.database()) else {
        return;
    };
    other.run(ROWS);
    other.close();
    let whole = std::fs::read(site.database()).unwrap();
    assert!(is_database(&whole) && !is_database(&whole[..20]));
    let mut wrong = whole.clone();
    wrong[16..18].copy_from_slice(&[0, 77]);
    assert!(!is_database(&wrong));
    // As of an encryption that leaves the first bytes.
    let mut wrong = whole.clone();
    wrong[24..4096].fill(0xa5);
    std::fs::write(site.database(), &wrong).unwrap();
    let refused = site.take(LONG);
    let said = refused.as_ref().map_err(ToString::to_string);
    assert!(matches!(refused, Err(ImageError::Damaged(_))), "{said:?}");
    std::fs::remove_file(site.database()).unwrap();
    assert_eq!(site.take(LONG), Err(ImageError::Gone));
    let secret = site.companion("-secret");
    std::fs::write(&secret, &whole).unwrap();
    std::os::unix::fs::symlink(&secret, site.database()).unwrap();
    assert_eq!(site.take(LONG), Err(ImageError::Gone), "through a link");
}

#[test]
fn companions_are_known_by_their_names() {
    assert_eq!(owner_of(b"a.db-wal"), Some(&b"a.db"[..]));
    assert_eq!(owner_of(b"a.db-journal-shm"), Some(&b"a.db-journal"[..]));
    assert_eq!(owner_of(b"-wal"), None);
    assert_eq!(owner_of(b"a.db"), None);
}

#[test]
fn what_is_no_file_is_not_waited_for() {
    let site = Site::new();
    let Some(mut other) = Other::start(&site.database()) else {
        return;
    };
    other.run(ROWS);
    other.close();
    let made = std::process::Command::new("mkfifo")
        .arg(site.companion("-journal"))
        .status();
    assert!(made.unwrap().success());
    let refused = site.take(LONG);
    assert!(matches!(refused, Err(ImageError::Failed(_))), "{refused:?}");
}

#[test]
fn holes_stay_holes() {
    use std::os::unix::fs::MetadataExt;
    let site = Site::new();
    let Some(mut other) = Other::start(&site.database()) else {
        return;
    };
    other.run(ROWS);
    other.close();
    let file = std::fs::OpenOptions::new()
        .write(true)
        .open(site.database());
    file.unwrap().set_len(1 << 30).unwrap();
    let (_, path) = site.take(LONG).unwrap();
    let copied = path.metadata().unwrap();
    assert_eq!(copied.len(), 1 << 30);
    assert!(copied.blocks() * 512 < 8 << 20, "{}", copied.blocks());
}

/// A transaction whose former pages are in memory alone, by somebody who pauses for long.
#[test]
fn half_of_a_transaction_is_never_taken() {
    let site = Site::new();
    let Some(mut other) = Other::start(&site.database()) else {
        return;
    };
    other.run("db.execute('pragma journal_mode=memory')");
    other.run(ROWS);
    other.run(
        "db.execute('pragma cache_size=5'); db.execute('begin'); db.execute('update t set n=-1')",
    );
    let refused = site.take(Duration::from_millis(200));
    assert!(matches!(refused, Err(ImageError::Busy(_))), "{refused:?}");
    let file = std::fs::File::open(site.database()).unwrap();
    assert!(understudy_databases::sqlite::is_locked(&file).unwrap());
    other.run("db.execute('commit')");
    assert!(!understudy_databases::sqlite::is_locked(&file).unwrap());
    let (_, path) = site.take(LONG).unwrap();
    assert_eq!(ask(&path, "select count(*) from t where n = -1"), 5000);
}
