//! Programs that a worker which was killed has left behind: they are of its session, whoever is their parent now.

use rustix::process::{Pid, Signal, kill_process};

/// More often nobody starts others faster than they are ended.
const ROUNDS: usize = 100;

/// Kills every process of a session but its leader.
pub(super) fn end(session: Pid) {
    for _ in 0..ROUNDS {
        let left = of(session);
        if left.is_empty() {
            return;
        }
        for process in left {
            let _ = kill_process(process, Signal::KILL);
        }
        std::thread::yield_now();
    }
}

fn of(session: Pid) -> Vec<Pid> {
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let numbers = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let others = numbers
        .filter_map(Pid::from_raw)
        .filter(|one| *one != session);
    others
        .filter(|process| {
            let path = format!("/proc/{}/stat", process.as_raw_nonzero());
            let stat = std::fs::read_to_string(path).unwrap_or_default();
            is_of(&stat, session)
        })
        .collect()
}

/// Whether a line of `/proc/PID/stat` is about a process of the session that has not ended.
fn is_of(stat: &str, session: Pid) -> bool {
    // The name of the program, in parentheses, may have anything in it.
    let Some((_, rest)) = stat.rsplit_once(')') else {
        return false;
    };
    let fields: Vec<&str> = rest.split_ascii_whitespace().take(4).collect();
    match fields[..] {
        [state, _parent, _group, of] => {
            state != "Z" && state != "X" && of.parse() == Ok(session.as_raw_nonzero().get())
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_of_its_session_whatever_its_program_is_called() {
        let session = Pid::from_raw(12).expect("a number");
        for (stat, is) in [
            ("34 (pg_dump) S 1 33 12 0 -1", true),
            ("34 (a) S 1 1 99) R 1 33 12 0 -1", true),
            ("34 (a) S 1 33 12) R 1 33 13 0 -1", false),
            ("34 (pg_dump) Z 1 33 12 0 -1", false),
            ("34 (pg_dump) S 12 12 1 0 -1", false),
            ("34 (pg_dump) S 12", false),
            ("", false),
        ] {
            assert_eq!(is_of(stat, session), is, "{stat}");
        }
    }
}
