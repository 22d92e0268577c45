//! What watching costs.

use super::*;

/// Processor time that the watcher's thread has used, in nanoseconds.
fn thread_nanoseconds() -> u64 {
    for task in fs::read_dir("/proc/self/task").expect("tasks") {
        let task = task.expect("task").path();
        if fs::read_to_string(task.join("comm")).is_ok_and(|name| name.trim() == "watcher") {
            let statistics = fs::read_to_string(task.join("schedstat")).expect("schedstat");
            let used = statistics.split(' ').next().expect("a number");
            return used.parse().expect("a number");
        }
    }
    unreachable!("the watcher has a thread");
}

/// Writes 5,000 times a second to files in `directory` for ten seconds; what share of one core the watcher took.
fn share_of_a_core(directory: &Path, watcher: &Watcher) -> f64 {
    const FILES: usize = 1000;
    const A_TICK: usize = 5;
    let mut files = Vec::new();
    for number in 0..FILES {
        let parent = directory.join((number % 50).to_string());
        fs::create_dir_all(&parent).expect("mkdir");
        files.push(fs::File::create(parent.join(number.to_string())).expect("create"));
    }
    watcher.drain();
    let (start, before) = (Instant::now(), thread_nanoseconds());
    for tick in 0..10_000 {
        for number in 0..A_TICK {
            let file = &mut files[(tick * A_TICK + number) % FILES];
            io::Write::write_all(file, b"x").expect("write");
        }
        let next = start + Duration::from_millis(tick as u64 + 1);
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    let used = Duration::from_nanos(thread_nanoseconds() - before);
    used.as_secs_f64() / start.elapsed().as_secs_f64()
}

#[test]
#[ignore = "a measurement, for a quiet machine: run it alone, optimised, with --nocapture"]
fn cost_of_watching() {
    let Some(scene) = Scene::new(Mounts::Stay) else {
        return;
    };
    let inside = share_of_a_core(&scene.root, &scene.watcher);
    let told = scene.drained().len();
    let outside = share_of_a_core(&scene.outside, &scene.watcher);
    let idle = thread_nanoseconds();
    std::thread::sleep(Duration::from_secs(5));
    let idle = Duration::from_nanos(thread_nanoseconds() - idle).as_secs_f64() / 5.0;
    println!(
        "share of a core at 5,000 events/s: inside {:.2} % ({told} told), outside {:.2} %; at rest {:.3} %",
        inside * 100.0,
        outside * 100.0,
        idle * 100.0
    );
}
