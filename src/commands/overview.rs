//! What `understudy status` tells of the spare as a whole: restores that run, and how its disk fills.

use serde_json::{Value, json};
use understudy_protocol::escape;
use understudy_protocol::message::{Filling, Overseen, RestorePhase, Restoring, RunningRestore};

use crate::words;

/// What an agent said longer ago is told with its age.
const STALE_SECONDS: i64 = 10;
/// What takes longer to fill is told in programs' fields alone.
const FAR_SECONDS: i64 = 2 * 365 * 24 * 60 * 60;

/// The running restores, for programs.
pub(super) fn restores(overseen: &Overseen, now_seconds: i64) -> Vec<Value> {
    let value = |restore: &RunningRestore| {
        let told = restore.told.as_ref();
        let mut value = json!({
            "dataset": restore.dataset.as_str(),
            "snapshot": restore.number,
            "since": words::time(restore.since_seconds),
            "files_given": restore.files_given,
            "bytes_given": restore.bytes_given,
            "told_seconds_ago": told.map(|(at, _)| now_seconds.saturating_sub(*at).max(0)),
        });
        if let Some((_, told)) = told {
            value["who"] = told.who.as_str().into();
            value["phase"] = word(told.phase).into();
            value["files_total"] = told.files_total.into();
            value["files_done"] = told.files_done.into();
            value["files_found"] = told.files_found.into();
            value["bytes_total"] = told.bytes_total.into();
            value["bytes_done"] = told.bytes_done.into();
            value["bytes_found"] = told.bytes_found.into();
            value["bytes_per_second"] = told.bytes_per_second.into();
            value["remaining_seconds"] = told.remaining_seconds.into();
        }
        value
    };
    overseen.restores.iter().map(value).collect()
}

/// The disk, for programs.
pub(super) fn disk(overseen: &Overseen) -> Value {
    let value = |filling: &Filling| {
        json!({
            "total": filling.total,
            "free": filling.free,
            "reserve": filling.reserve,
            "each_day": filling.each_day,
            "full": filling.full_seconds.map(words::time),
        })
    };
    json!({
        "bytes": value(&overseen.bytes),
        "inodes": value(&overseen.inodes),
        "observed_seconds": overseen.observed_seconds,
    })
}

/// Both, for people.
pub(super) fn lines(overseen: &Overseen, now_seconds: i64) -> Vec<String> {
    let sorts = [
        (&overseen.bytes, words::size as fn(u64) -> String),
        (&overseen.inodes, |inodes| words::counted(inodes, "inode")),
    ];
    let mut lines: Vec<String> = sorts
        .into_iter()
        .filter_map(|(filling, amount)| forecast(filling, amount, now_seconds))
        .collect();
    lines.extend(
        overseen
            .restores
            .iter()
            .map(|running| restore(running, now_seconds)),
    );
    lines
}

fn forecast(filling: &Filling, amount: fn(u64) -> String, now_seconds: i64) -> Option<String> {
    let left = filling.full_seconds?.saturating_sub(now_seconds);
    if left <= 0 {
        return Some(format!(
            "the spare's disk is full: {} are free, and {} are kept in reserve",
            amount(filling.free),
            amount(filling.reserve)
        ));
    }
    let each_day = u64::try_from(filling.each_day?).ok()?;
    (left < FAR_SECONDS).then(|| {
        format!(
            "the spare's disk takes nothing more in {}, if {} more are used each day as of late",
            words::span(left),
            amount(each_day)
        )
    })
}

fn restore(running: &RunningRestore, now_seconds: i64) -> String {
    let what = format!(
        "{}: snapshot {} is being restored",
        running.dataset, running.number
    );
    let Some((at, told)) = &running.told else {
        let age = words::span(now_seconds.saturating_sub(running.since_seconds).max(0));
        return format!(
            "{what}: {} with {} given in {age}",
            words::counted(running.files_given, "file"),
            words::size(running.bytes_given)
        );
    };
    let age = now_seconds.saturating_sub(*at);
    let said = if age > STALE_SECONDS {
        format!(" (said {} ago)", words::span(age))
    } else {
        String::new()
    };
    format!(
        "{what} as {}: {}{said}",
        escape(told.who.as_bytes()),
        far(told)
    )
}

fn far(told: &Restoring) -> String {
    match told.phase {
        RestorePhase::Checking => return "looking at what is there".to_owned(),
        RestorePhase::Finishing => return "putting it on disk".to_owned(),
        RestorePhase::Restoring => {}
    }
    let mut text = format!(
        "{} of {} files, {} of {}",
        words::count(told.files_done),
        words::count(told.files_total),
        words::size(told.bytes_done),
        words::size(told.bytes_total)
    );
    if told.files_found > 0 {
        let found = words::size(told.bytes_found);
        text += &format!(" ({found} were there before)");
    }
    if let Some(rate) = told.bytes_per_second {
        text += &format!(", {}/s", words::size(rate));
    }
    if let Some(seconds) = told.remaining_seconds {
        let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
        text += &format!(", about {} left", words::span(seconds));
    }
    text
}

fn word(phase: RestorePhase) -> &'static str {
    match phase {
        RestorePhase::Checking => "checking",
        RestorePhase::Restoring => "restoring",
        RestorePhase::Finishing => "finishing",
    }
}

#[cfg(test)]
mod tests {
    use understudy_protocol::DatasetName;

    use super::*;

    fn filling(each_day: Option<i64>, full_seconds: Option<i64>) -> Filling {
        Filling {
            total: 1000,
            free: 100,
            reserve: 20,
            each_day,
            full_seconds,
        }
    }

    #[test]
    fn a_disk_is_spoken_of_when_it_will_be_full() {
        let mut overseen = Overseen {
            restores: vec![],
            bytes: filling(None, None),
            inodes: filling(Some(-5), None),
            observed_seconds: 0,
        };
        assert_eq!(lines(&overseen, 1000), [""; 0]);
        overseen.bytes = filling(Some(10), Some(1000 + 86_400 * 8));
        overseen.inodes = filling(Some(1), Some(1000));
        let told = lines(&overseen, 1000);
        assert!(
            told[0].contains("in 8 d") && told[0].contains("10 B"),
            "{told:?}"
        );
        assert!(told[1].contains("100 inodes are free"), "{told:?}");
        assert_eq!(disk(&overseen)["bytes"]["each_day"], 10);
    }

    #[test]
    fn what_a_peer_says_of_itself_is_escaped_and_has_its_age() {
        let running = RunningRestore {
            dataset: DatasetName::fit(b"site"),
            number: 3,
            since_seconds: 100,
            files_given: 2,
            bytes_given: 500,
            told: None,
        };
        let told = restore(&running, 160);
        assert!(told.contains("2 files with 500 B given in 1 min"), "{told}");
        let said = Restoring {
            who: "host\u{1b}:/srv".to_owned(),
            phase: RestorePhase::Restoring,
            files_total: 10,
            files_done: 4,
            files_found: 1,
            bytes_total: 1000,
            bytes_done: 600,
            bytes_found: 100,
            bytes_per_second: Some(50),
            remaining_seconds: Some(8),
        };
        let running = RunningRestore {
            told: Some((150, said)),
            ..running
        };
        let told = restore(&running, 151);
        assert!(!told.contains('\u{1b}') && !told.contains("ago"), "{told}");
        assert!(
            told.contains("4 of 10 files") && told.contains("8 s left"),
            "{told}"
        );
        assert!(restore(&running, 190).contains("said 40 s ago"));
    }
}
