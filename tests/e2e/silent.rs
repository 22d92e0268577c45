//! Writes that the kernel tells nobody of: the next comparison of everything finds them, and from then on the
//! file is looked at in every cycle. What the kernel tells late, when the file is closed, counts then.

use std::fs::{OpenOptions, Permissions};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::support::agent::{Scene, is_by_journal};
use crate::support::needs::{needs, program};
use crate::support::{Kind, judge};

/// The size of the files that are written silently.
const SIZE: u64 = 256 << 10;

/// `fio` writing into `path`, which it keeps open, until it is dropped.
struct Fio(Child);

impl Fio {
    fn start(path: &Path, options: &[&str]) -> Self {
        let child = Command::new(program("fio").unwrap())
            .args([
                "--name=silent",
                "--rw=randwrite",
                "--bs=4k",
                "--size=256k",
                "--overwrite=1",
            ])
            .args([
                "--allow_file_create=0",
                "--time_based",
                "--runtime=300",
                "--rate_iops=50",
            ])
            .arg(format!("--filename={}", path.display()))
            .args(options)
            .current_dir(std::env::temp_dir())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Self(child)
    }

    /// Lets it end by itself, so that it closes its file.
    fn end(mut self) {
        kill_process(Pid::from_child(&self.0), Signal::INT).unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Fio {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

fn names(cycle: &Value, field: &str, path: &str) -> bool {
    cycle[field].to_string().contains(path)
}

/// Has `fio` write with `options`, of which the kernel tells at once or late.
fn written_by_fio(options: &[&str], told: Told) {
    let mut scene = Scene::large_apart(Kind::Embedded);
    scene.settings = "interval = \"1s\"\nsweep = \"3s\"\n".to_owned();
    std::fs::write(
        scene.at("d1/silent"),
        vec![7; usize::try_from(SIZE).unwrap()],
    )
    .unwrap();
    let mut agent = scene.watched();
    let fio = Fio::start(&scene.at("d1/silent"), options);
    let is_read = |cycle: &Value| cycle["files_read"].as_u64() > Some(0);
    if told == Told::Late {
        let cycle = agent.until("a sweep that finds it", |cycle| {
            cycle["missed"].as_u64() > Some(0)
        });
        assert!(names(&cycle, "missed_paths", "d1/silent"), "{cycle}");
        assert!(cycle["looked_at"]["everything"].is_string(), "{cycle}");
    }
    for _ in 0..2 {
        agent.until("a cycle by the journal that looks at it", |cycle| {
            is_by_journal(cycle) && is_read(cycle)
        });
    }
    fio.end();
    let cycles = agent.settle();
    if told == Told::AtOnce {
        assert_eq!(cycles.sum("missed"), 0, "{cycles:?}");
    }
    judge::same(&scene.stage.source, &scene.stage.live());
}

/// When the kernel tells of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    AtOnce,
    /// When the file is closed.
    Late,
}

#[test]
fn asynchronous_direct_writes_are_found_by_a_sweep() {
    needs!("asynchronous_direct_writes_are_found_by_a_sweep": "root", "rsync", "mkfs.ext4", "fio");
    written_by_fio(
        &["--ioengine=libaio", "--direct=1", "--iodepth=4"],
        Told::Late,
    );
}

#[test]
fn writes_through_a_map_are_found_by_a_sweep() {
    needs!("writes_through_a_map_are_found_by_a_sweep": "root", "rsync", "mkfs.ext4", "fio");
    written_by_fio(&["--ioengine=mmap"], Told::Late);
}

#[test]
fn writes_through_a_ring_arrive() {
    needs!("writes_through_a_ring_arrive": "root", "rsync", "mkfs.ext4", "fio");
    written_by_fio(&["--ioengine=io_uring", "--iodepth=4"], Told::AtOnce);
}

/// A process that maps a file and writes into the map when it is told to.
struct Mapper {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Mapper {
    const SCRIPT: &str = "
import mmap, os, sys
file = os.open(sys.argv[1], os.O_RDWR)
view = mmap.mmap(file, 4096)
os.close(file)
for line in sys.stdin:
    word = line.strip().encode()
    if word == b'close':
        view.close()
    else:
        view[0:len(word)] = word
    print('done', flush=True)
";

    fn start(path: &Path) -> Self {
        let mut child = Command::new(program("python3").unwrap())
            .args(["-c", Self::SCRIPT])
            .arg(path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        Self {
            stdin: child.stdin.take().unwrap(),
            stdout: BufReader::new(child.stdout.take().unwrap()),
            child,
        }
    }

    /// Writes `word`, or closes the map if it is `close`.
    fn tell(&mut self, word: &str) {
        writeln!(self.stdin, "{word}").unwrap();
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        assert_eq!(line, "done\n");
    }
}

impl Drop for Mapper {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// The first write through a map makes the page dirty and sets the file's times; a second one through the same
/// page, before it is written back, sets nothing. Only the close tells.
#[test]
fn a_write_that_changes_no_time_arrives_when_the_file_is_closed() {
    needs!("a_write_that_changes_no_time_arrives_when_the_file_is_closed":
        "root", "rsync", "mkfs.ext4", "python3");
    let scene = Scene::large_apart(Kind::Embedded);
    let path = scene.at("d1/mapped");
    std::fs::write(&path, vec![b'-'; 4096]).unwrap();
    let mut agent = scene.watched();
    let mut mapper = Mapper::start(&path);
    mapper.tell("first");
    // Makes the agent look, and tells nothing of the content.
    std::fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    scene.settle(&mut agent);
    agent.until("no need to read it any more", |cycle| {
        is_by_journal(cycle) && cycle["files_read"] == 0
    });
    let live = || std::fs::read(scene.live("d1/mapped")).unwrap();
    assert!(live().starts_with(b"first-"));

    let times = || {
        let stat = path.metadata().unwrap();
        (
            stat.mtime(),
            stat.mtime_nsec(),
            stat.ctime(),
            stat.ctime_nsec(),
        )
    };
    let before = times();
    mapper.tell("other");
    if times() != before {
        // The page was written back meanwhile: the machine is too slow for what this is about.
        eprintln!("a page was written back too early: the write changed the file's times");
    }
    mapper.tell("close");
    agent.until("a cycle by the journal", |cycle| {
        assert!(is_by_journal(cycle), "{cycle}");
        cycle["committed"] == true || cycle["files_read"].as_u64() > Some(0)
    });
    scene.settle(&mut agent);
    assert!(live().starts_with(b"other-"));
}

/// The modification time being set back each time.
#[test]
fn a_descriptor_that_writes_after_it_was_captured_is_heard() {
    needs!("a_descriptor_that_writes_after_it_was_captured_is_heard": "root", "rsync", "mkfs.ext4");
    let scene = Scene::large_apart(Kind::Embedded);
    let mut agent = scene.watched();
    let path = scene.at("d1/f300");
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    for content in ["one", "two", "six"] {
        let before = path.metadata().unwrap().modified().unwrap();
        file.write_all_at(content.as_bytes(), 0).unwrap();
        file.set_modified(before).unwrap();
        scene.settle(&mut agent);
        let live = std::fs::read_to_string(scene.live("d1/f300")).unwrap();
        assert!(live.starts_with(content), "{live}");
    }
}
