//! Running a program of an engine: without a shell, in a process group of its own, with a limit of time, a secret that nobody sees, and the end
//! of what it prints to standard error.

use std::collections::{BTreeSet, VecDeque};
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};

use crate::error::DatabaseError;

/// So much of what a program prints to standard error is kept: the end.
const SAID_BYTES: usize = 8 << 10;
/// More than this is no answer to a question.
const ANSWER_BYTES: u64 = 64 << 20;
/// How often a program that runs is looked at.
const LOOK: Duration = Duration::from_millis(5);

/// What a program has of this process's environment.
pub const INHERITED: [&str; 7] = ["PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "TZ"];

static RUNNING: Mutex<Running> = Mutex::new(Running {
    groups: BTreeSet::new(),
    is_over: false,
});

/// Programs that run, by their process groups.
struct Running {
    groups: BTreeSet<i32>,
    /// None may run any more.
    is_over: bool,
}

/// Ends every program that runs or is started later, with all that it has started: whoever wanted something of it has gone.
pub fn stop_all() {
    let mut running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
    running.is_over = true;
    for group in running.groups.iter().copied().filter_map(Pid::from_raw) {
        let _ = kill_process_group(group, Signal::KILL);
    }
}

/// A process group is known as long as this is there.
struct Registered(Pid);

impl Registered {
    fn new(group: Pid) -> Self {
        let mut running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
        running.groups.insert(group.as_raw_nonzero().get());
        if running.is_over {
            let _ = kill_process_group(group, Signal::KILL);
        }
        Self(group)
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        let mut running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
        running.groups.remove(&self.0.as_raw_nonzero().get());
    }
}

/// What a program does with what it prints.
pub type Sink<'a> = Box<dyn FnOnce(&mut dyn Read) -> Result<(), DatabaseError> + Send + 'a>;

/// A program that is to be run.
#[derive(Debug)]
pub struct Program {
    words: Vec<OsString>,
    variables: Vec<(OsString, OsString)>,
    input: Input,
    limit: Duration,
    /// What it means if the limit passes.
    if_too_long: String,
    /// What to do if it cannot be started.
    if_missing: String,
}

/// What a program reads.
#[derive(Debug)]
enum Input {
    Nothing,
    Bytes(Vec<u8>),
    File(File),
    Stream(Stream),
}

/// Something that is read piece by piece.
struct Stream(Box<dyn Read + Send>);

impl std::fmt::Debug for Stream {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Stream")
    }
}

impl Program {
    /// A program with its arguments, found in PATH. It inherits PATH, HOME, USER, LOGNAME and the locale, and nothing else.
    pub fn new(words: impl IntoIterator<Item = impl Into<OsString>>, limit: Duration) -> Self {
        Self {
            words: words.into_iter().map(Into::into).collect(),
            variables: Vec::new(),
            input: Input::Nothing,
            limit,
            if_too_long: "it may wait for a lock, or the server may be too busy".to_owned(),
            if_missing: "Install it, or name another one".to_owned(),
        }
    }

    /// Sets a variable of its environment, which other users can read: never a secret.
    pub fn variable(mut self, key: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.variables.push((key.into(), value.into()));
        self
    }

    /// What it reads from standard input.
    pub fn input(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.input = Input::Bytes(bytes.into());
        self
    }

    /// The file that it reads from standard input.
    pub fn input_file(mut self, file: File) -> Self {
        self.input = Input::File(file);
        self
    }

    /// What it reads from standard input, piece by piece. An error of it is as its end: whoever gives it has to see that it was read to there.
    pub fn input_stream(mut self, stream: Box<dyn Read + Send>) -> Self {
        self.input = Input::Stream(Stream(stream));
        self
    }

    /// What it means if the limit passes, and what to do then.
    pub fn if_too_long(mut self, what: impl Into<String>) -> Self {
        self.if_too_long = what.into();
        self
    }

    /// What to do if it cannot be started.
    pub fn if_missing(mut self, remedy: impl Into<String>) -> Self {
        self.if_missing = remedy.into();
        self
    }

    /// Runs it; returns what it printed.
    pub fn answer(self) -> Result<Vec<u8>, DatabaseError> {
        let mut printed = Vec::new();
        let name = self.name();
        let sink = Box::new(|output: &mut dyn Read| {
            let read = output.take(ANSWER_BYTES + 1).read_to_end(&mut printed);
            read.map_err(|error| DatabaseError::file("read what is printed by", &name, error))?;
            match printed.len() as u64 > ANSWER_BYTES {
                true => Err(DatabaseError::Incomplete(format!(
                    "`{name}` printed more than {ANSWER_BYTES} bytes where a short answer was expected"
                ))),
                false => Ok(()),
            }
        });
        self.stream(sink)?;
        Ok(printed)
    }

    /// Runs it while `sink` reads what it prints. It has succeeded when this returns, and `sink` as well; if `sink` fails it is killed.
    pub fn stream(self, sink: Sink<'_>) -> Result<(), DatabaseError> {
        let name = self.name();
        let started = Instant::now();
        let mut child = self.start()?;
        let group = Pid::from_child(&child);
        let registered = Registered::new(group);
        let (stdin, stdout, stderr) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let Self {
            input,
            limit,
            if_too_long,
            ..
        } = self;
        std::thread::scope(|scope| {
            scope.spawn(move || {
                // One that does not read to the end says why by its exit code.
                let _ = match (stdin, input) {
                    (Some(mut stdin), Input::Bytes(bytes)) => stdin.write_all(&bytes),
                    (Some(mut stdin), Input::Stream(mut stream)) => {
                        io::copy(&mut stream.0, &mut stdin).map(drop)
                    }
                    _ => Ok(()),
                };
            });
            let said = scope.spawn(move || stderr.map(end_of).unwrap_or_default());
            let sinking = scope.spawn(move || match stdout {
                Some(mut stdout) => sink(&mut stdout),
                None => Ok(()),
            });
            let ended = wait(&child, started, limit, &|| sinking.is_finished());
            // Whatever it has started ends with it, and what is read from it ends as well.
            let _ = kill_process_group(group, Signal::KILL);
            drop(registered);
            let reaped = child.wait();
            let status = match (ended, reaped) {
                (Ended::ByItself, Ok(status)) => Some(status),
                (Ended::Limit | Ended::Reader, _) => None,
                (Ended::Error(error), _) | (Ended::ByItself, Err(error)) => {
                    return Err(DatabaseError::file("wait for", &name, error));
                }
            };
            let sunk = sinking.join().unwrap_or_else(|_| {
                Err(DatabaseError::Incomplete(format!(
                    "what `{name}` printed could not be read"
                )))
            });
            let said = said.join().unwrap_or_default();
            match (status, sunk) {
                (Some(status), sunk) if status.success() => sunk,
                // A full disk, say: the program only met that nobody reads any more.
                (Some(_), Err(error @ DatabaseError::File { .. })) => Err(error),
                (Some(status), _) => Err(DatabaseError::Failed {
                    program: name,
                    ended: words(status),
                    said,
                    code: status.code(),
                }),
                (None, Err(error)) => Err(error),
                (None, Ok(())) => Err(DatabaseError::TooLong {
                    program: name,
                    after: limit,
                    what: if_too_long,
                }),
            }
        })
    }

    fn name(&self) -> String {
        let words = self.words.iter().map(|word| word.to_string_lossy());
        words.collect::<Vec<_>>().join(" ")
    }

    fn start(&self) -> Result<Child, DatabaseError> {
        let cannot = |error| DatabaseError::Start {
            program: self.name(),
            error,
            remedy: self.if_missing.clone(),
        };
        let mut words = self.words.iter();
        let Some(program) = words.next() else {
            return Err(cannot(io::Error::from(io::ErrorKind::InvalidInput)));
        };
        let mut command = Command::new(program);
        command.args(words).env_clear().process_group(0);
        for key in INHERITED {
            if let Some(value) = std::env::var_os(key) {
                command.env(key, value);
            }
        }
        command.envs(self.variables.iter().map(|(key, value)| (key, value)));
        command.stdin(match &self.input {
            Input::Nothing => Stdio::null(),
            Input::Bytes(_) | Input::Stream(_) => Stdio::piped(),
            Input::File(file) => Stdio::from(file.try_clone().map_err(cannot)?),
        });
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().map_err(cannot)
    }
}

/// How waiting for a program ended.
enum Ended {
    ByItself,
    Limit,
    /// Whoever reads what it prints has stopped, and it has not ended soon after.
    Reader,
    Error(io::Error),
}

fn wait(
    child: &Child,
    started: Instant,
    limit: Duration,
    has_reader_ended: &dyn Fn() -> bool,
) -> Ended {
    let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    let mut last_words = None;
    loop {
        // It is left unreaped, so that its number stays its own until its group has been killed.
        match waitid(WaitId::Pid(Pid::from_child(child)), look) {
            Ok(Some(_)) => return Ended::ByItself,
            Ok(None) | Err(Errno::INTR) => {}
            Err(error) => return Ended::Error(error.into()),
        }
        if started.elapsed() > limit {
            return Ended::Limit;
        }
        if has_reader_ended() {
            let since = *last_words.get_or_insert_with(Instant::now);
            if since.elapsed() > Duration::from_secs(10) {
                return Ended::Reader;
            }
        }
        std::thread::park_timeout(LOOK);
    }
}

fn words(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("killed by signal {signal}"),
        (None, None) => status.to_string(),
    }
}

/// Reads to the end, and keeps the end.
fn end_of(mut output: impl Read) -> String {
    let mut kept = VecDeque::with_capacity(SAID_BYTES);
    let mut part = [0; 4096];
    loop {
        match output.read(&mut part) {
            Ok(0) | Err(_) => break,
            Ok(length) => {
                kept.extend(&part[..length]);
                let too_many = kept.len().saturating_sub(SAID_BYTES);
                kept.drain(..too_many);
            }
        }
    }
    let kept: Vec<u8> = kept.into();
    String::from_utf8_lossy(&kept).trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_keeps_the_output_from_being_written_is_told_and_not_what_the_program_made_of_it() {
        let program = Program::new(["sh", "-c", "yes"], Duration::from_secs(20));
        let full = |output: &mut dyn Read| {
            let _ = output.read(&mut [0; 16]);
            Err(DatabaseError::file("write", "table", Errno::NOSPC))
        };
        let error = program.stream(Box::new(full)).expect_err("a full disk");
        assert!(matches!(error, DatabaseError::File { .. }), "{error}");
    }
}
