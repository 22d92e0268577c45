//! Processes of simulated hosts: threads that know whose they are, die at crash points, and have a clock of their own.
//!
//! A thread that another one starts has its name, unless it is given one; so threads of the libraries know it as well.

use std::collections::HashMap;
use std::ffi::CString;
use std::panic::resume_unwind;
use std::path::Path;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Once, RwLock};
use std::thread::JoinHandle;

const PREFIX: &str = "switch-";

/// What a thread that dies at a crash point panics with.
struct Death;

/// A process that does one thing.
#[derive(Debug)]
pub(crate) struct Process {
    id: u64,
    /// How many crash points it passes before it dies at the next one; below zero it does not.
    left: AtomicI64,
    /// Where it died.
    died: Mutex<Option<String>>,
    skew_seconds: i64,
}

static PROCESSES: RwLock<Option<HashMap<u64, Arc<Process>>>> = RwLock::new(None);
static NEXT: AtomicU64 = AtomicU64::new(1);

impl Process {
    /// One that lives by a clock that is wrong by so much. It dies at the crash point after `passes` others.
    pub(crate) fn new(skew_seconds: i64, passes: Option<u64>) -> Arc<Self> {
        arm();
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        let process = Arc::new(Self {
            id,
            left: AtomicI64::new(passes.map_or(-1, u64::cast_signed)),
            died: Mutex::new(None),
            skew_seconds,
        });
        let mut processes = PROCESSES.write().unwrap();
        let processes = processes.get_or_insert_default();
        processes.insert(id, Arc::clone(&process));
        process
    }

    /// Starts a thread of it.
    pub(crate) fn start<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> JoinHandle<T> {
        let name = CString::new(format!("{PREFIX}{}", self.id)).unwrap();
        std::thread::spawn(move || {
            rustix::thread::set_name(&name).expect("name");
            work()
        })
    }

    /// What a thread of it came to; `Err` is the point at which the process died.
    pub(crate) fn end<T>(&self, thread: JoinHandle<T>) -> Result<T, String> {
        let result = thread.join();
        PROCESSES
            .write()
            .unwrap()
            .as_mut()
            .unwrap()
            .remove(&self.id);
        let died = self.died.lock().unwrap().clone();
        match (result, died) {
            // Whatever it made of the death of one of its threads.
            (_, Some(point)) => Err(point),
            (Ok(value), None) => Ok(value),
            (Err(panic), None) => resume_unwind(panic),
        }
    }

    fn pass(&self, point: &str) {
        if std::thread::panicking() || self.left.load(Ordering::SeqCst) < 0 {
            return;
        }
        let mut died = self.died.lock().unwrap();
        if died.is_none() && self.left.fetch_sub(1, Ordering::SeqCst) > 0 {
            return;
        }
        // Nor does any other thread of it get past one.
        self.left.store(0, Ordering::SeqCst);
        died.get_or_insert_with(|| point.to_owned());
        drop(died);
        resume_unwind(Box::new(Death));
    }
}

/// The process that the calling thread belongs to.
fn mine() -> Option<Arc<Process>> {
    let name = rustix::thread::name().ok()?;
    let id = name.to_str().ok()?.strip_prefix(PREFIX)?.parse().ok()?;
    PROCESSES.read().unwrap().as_ref()?.get(&id).cloned()
}

/// Every crash point that the crates name, and the clocks.
fn arm() {
    static ARMED: Once = Once::new();
    ARMED.call_once(|| {
        understudy_tree::crash::skew(|| mine().map_or(0, |process| process.skew_seconds));
        let points = points();
        assert!(points.len() > 40, "{points:?}");
        for point in points {
            let name = point.clone();
            let pass = move || {
                if let Some(process) = mine() {
                    process.pass(&name);
                }
            };
            fail::cfg_callback(point, pass).expect("a crash point");
        }
    });
}

/// The names of all crash points of the libraries.
fn points() -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut points = Vec::new();
    let mut open = vec![root.join("agent/src"), root.join("receiver/src")];
    while let Some(directory) = open.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
                continue;
            }
            let text = std::fs::read_to_string(path).unwrap();
            let named = text.split("crash_point!(\"").skip(1);
            points.extend(named.filter_map(|rest| Some(rest.split_once('"')?.0.to_owned())));
        }
    }
    points.sort();
    points.dedup();
    points
}
