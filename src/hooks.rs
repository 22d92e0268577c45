//! Programs that this host's configuration names for a moment: run one after another, without a shell, bounded in time and output.

use std::ffi::OsStr;
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};
use tokio::runtime::Handle;
use understudy_protocol::DatasetName;

use crate::report::Report;
use crate::words;

/// So much of what a program prints is kept: the beginning. The rest is read and dropped.
const OUTPUT_BYTES: usize = 64 << 10;
/// How long its output is read once a program has ended.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// How a program ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ran {
    /// With its arguments.
    pub(crate) command: Vec<String>,
    /// `None` if it was killed, or never started.
    pub(crate) code: Option<i32>,
    /// Why it failed, for people; `None` if it did not.
    pub(crate) failure: Option<String>,
    /// What it printed to stdout and stderr, in the order in which it came.
    pub(crate) output: Vec<u8>,
    /// How long it ran.
    pub(crate) took: Duration,
}

impl Ran {
    /// For programs.
    pub(crate) fn value(&self) -> Value {
        json!({
            "command": self.command,
            "code": self.code,
            "failure": self.failure,
            "output": String::from_utf8_lossy(&self.output),
            "milliseconds": self.took.as_millis() as u64,
        })
    }

    /// Tells what it printed, and how it failed, if it did.
    pub(crate) fn note_failure(&self, dataset: &DatasetName, report: &mut Report) {
        let Some(failure) = &self.failure else {
            return;
        };
        let output = String::from_utf8_lossy(&self.output);
        let heading = format!("{dataset}: `{}`: {failure}", self.command.join(" "));
        let lines: Vec<String> = output.lines().map(str::to_owned).collect();
        report.note_all(&heading, lines.into_iter());
    }
}

/// Runs all of them with these variables, and nothing else of this process's environment but PATH. Stops at the first that fails: the next
/// may rely on it.
pub(crate) fn run_all(
    runtime: &Handle,
    commands: &[Vec<String>],
    variables: &[(&str, String)],
    limit: Duration,
) -> Vec<Ran> {
    let mut never = std::future::pending();
    run_all_until(runtime, commands, variables, limit, &mut never)
}

/// The same, until `stop` is done: then what runs is killed, and has failed.
pub(crate) fn run_all_until(
    runtime: &Handle,
    commands: &[Vec<String>],
    variables: &[(&str, String)],
    limit: Duration,
    stop: &mut (impl Future<Output = ()> + Unpin),
) -> Vec<Ran> {
    let mut all = Vec::new();
    for command in commands {
        let ran = runtime.block_on(run(command, variables, limit, stop));
        let has_failed = ran.failure.is_some();
        all.push(ran);
        if has_failed {
            break;
        }
    }
    all
}

/// What the hooks printed, for the log.
pub(crate) fn log(ran: &[Ran]) -> Vec<u8> {
    let mut log = Vec::new();
    for one in ran {
        let ended = one.failure.as_deref().unwrap_or("it succeeded");
        let time = words::time(words::now_seconds());
        let head = format!("--- {time}: {}: {ended}\n", one.command.join(" "));
        log.extend_from_slice(head.as_bytes());
        log.extend_from_slice(&one.output);
        if one.output.last().is_some_and(|byte| *byte != b'\n') {
            log.push(b'\n');
        }
    }
    log
}

async fn run(
    command: &[String],
    variables: &[(&str, String)],
    limit: Duration,
    stop: &mut (impl Future<Output = ()> + Unpin),
) -> Ran {
    let started = Instant::now();
    let mut output = Vec::new();
    let (code, failure) = match start(command, variables) {
        Err(error) => (None, Some(error)),
        Ok((mut child, read)) => {
            let whole = end(&mut child, read_some(read, &mut output));
            let ended = tokio::select! {
                biased;
                () = stop => Err("it was killed, for nobody waits for it any more".to_owned()),
                ended = whole => Ok(ended),
                () = tokio::time::sleep(limit) => {
                    Err(format!("it was killed after {} s", limit.as_secs()))
                }
            };
            match ended {
                Err(text) => {
                    kill(&mut child).await;
                    (None, Some(text))
                }
                Ok(Ok(status)) if status.success() => (status.code(), None),
                Ok(Ok(status)) => (status.code(), Some(status.to_string())),
                Ok(Err(error)) => (None, Some(format!("cannot wait for it: {error}"))),
            }
        }
    };
    Ran {
        command: command.to_vec(),
        code,
        failure,
        output,
        took: started.elapsed(),
    }
}

/// Waits for a program, and a moment longer for what it has printed: whatever it has left running may hold the pipe open.
async fn end(child: &mut Child, reading: impl Future<Output = ()>) -> std::io::Result<ExitStatus> {
    tokio::pin!(reading);
    tokio::select! {
        () = &mut reading => child.wait().await,
        status = child.wait() => {
            let _ = tokio::time::timeout(LAST_WORDS, reading).await;
            status
        }
    }
}

/// Starts a program whose stdout and stderr are one pipe.
fn start(
    command: &[String],
    variables: &[(&str, String)],
) -> Result<(Child, tokio::net::unix::pipe::Receiver), String> {
    let failed = |error: std::io::Error| cannot_start(command, &error);
    let (read, write) = std::io::pipe().map_err(failed)?;
    let read = tokio::net::unix::pipe::Receiver::from_owned_fd(read.into()).map_err(failed)?;
    let child = program(command, variables.iter().map(|(key, value)| (key, value)))?
        .stdin(Stdio::null())
        .stdout(Stdio::from(write.try_clone().map_err(failed)?))
        .stderr(Stdio::from(write))
        .spawn()
        .map_err(failed)?;
    Ok((child, read))
}

/// A program with its arguments, without a shell: with these variables and nothing else of this process's environment but PATH, and as
/// the leader of a process group.
pub(crate) fn program(
    command: &[String],
    variables: impl IntoIterator<Item = (impl AsRef<OsStr>, impl AsRef<OsStr>)>,
) -> Result<Command, String> {
    let (program, arguments) = command.split_first().ok_or("the command is empty")?;
    let mut program = Command::new(program);
    program
        .args(arguments)
        .env_clear()
        .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
        .envs(variables)
        .process_group(0);
    Ok(program)
}

/// What is told of a program that did not start.
pub(crate) fn cannot_start(command: &[String], error: &std::io::Error) -> String {
    let program = command.first().map_or("", String::as_str);
    format!("cannot start `{program}`: {error}")
}

/// Reads to the end, and keeps the beginning.
async fn read_some(mut from: impl AsyncRead + Unpin, to: &mut Vec<u8>) {
    let mut buffer = vec![0; 16 << 10];
    while let Ok(got @ 1..) = from.read(&mut buffer).await {
        let room = OUTPUT_BYTES.saturating_sub(to.len());
        to.extend_from_slice(&buffer[..got.min(room)]);
    }
}

/// Kills a [`program`] and all that it has started and that did not leave its group.
pub(crate) async fn kill(child: &mut Child) {
    let id = child.id().and_then(|id| i32::try_from(id).ok());
    if let Some(group) = id.and_then(Pid::from_raw)
        && let Err(error) = kill_process_group(group, Signal::KILL)
    {
        tracing::warn!("cannot kill what was started, and all that it has started: {error}");
    }
    let _ = child.wait().await;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, limit: Duration) -> Ran {
        let command = ["/bin/sh", "-c", script].map(str::to_owned).to_vec();
        let runtime = tokio::runtime::Runtime::new().expect("runtime");
        let variables = [("UNDERSTUDY_DATASET", "site".to_owned())];
        run_all(runtime.handle(), &[command], &variables, limit).remove(0)
    }

    const LONG: Duration = Duration::from_secs(30);

    #[test]
    fn a_hook_gets_the_facts_and_its_output_is_kept() {
        let ran = shell(
            "echo $UNDERSTUDY_DATASET; echo wrong >&2; env | grep -c CARGO; true",
            LONG,
        );
        assert_eq!((ran.code, ran.failure.as_deref()), (Some(0), None));
        assert_eq!(ran.output, b"site\nwrong\n0\n");
        let ran = shell("sleep 100 & echo left", LONG);
        assert_eq!((ran.code, ran.output), (Some(0), b"left\n".to_vec()));
        let ran = shell("head -c 1000000 /dev/zero; exit 7", LONG);
        assert_eq!((ran.code, ran.output.len()), (Some(7), OUTPUT_BYTES));
        assert!(ran.failure.expect("failed").contains('7'));
    }

    #[test]
    fn a_hook_that_hangs_is_killed_with_what_it_started_and_the_next_does_not_run() {
        let ran = shell("echo begun; sleep 100 & wait", Duration::from_secs(1));
        assert_eq!(ran.code, None);
        assert_eq!(ran.output, b"begun\n");
        let runtime = tokio::runtime::Runtime::new().expect("runtime");
        let commands = [
            vec!["/no/such/program".to_owned()],
            vec!["/bin/true".to_owned()],
        ];
        let all = run_all(runtime.handle(), &commands, &[], LONG);
        assert_eq!(all.len(), 1);
        assert!(
            all[0]
                .failure
                .as_deref()
                .expect("failed")
                .contains("/no/such")
        );
    }
}
