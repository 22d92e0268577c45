//! The process that copies SQLite databases: SQLite's locks go with any close of the file in the same process, and a scan opens and closes files
//! all the time. It is started when the first database in use is met, from a process that has confined itself, confines itself further, and
//! ends when nothing was asked of it for a while.

mod worker;

use std::io::BufReader;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use understudy_agent::Cancel;
use understudy_agent::images::{Imaged, Images, Which};
use understudy_databases::sqlite::{Image, ImageError};

use crate::alert::voice::again;
use crate::alert::wire;
use crate::arguments::Output;

pub(crate) use worker::run;

/// How often whoever waits for an answer looks whether the command is to end.
const LOOK: Duration = Duration::from_millis(200);

/// Which database is to be copied. What it names may be read by whoever asks as well.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    root: Vec<u8>,
    directory: Vec<u8>,
    name: Vec<u8>,
    max_lock: Duration,
}

/// What came of it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum Reply {
    /// The copy, below the directory for copies.
    Taken { file: PathBuf, image: Image },
    /// There is none.
    Refused(ImageError),
}

/// Copies go below this directory of the state.
pub(crate) fn directory(state: &Path) -> PathBuf {
    state.join("images")
}

/// Has the process copy databases, and starts it when it is not there.
#[derive(Debug)]
pub(crate) struct Imager {
    directory: PathBuf,
    output: Output,
    cancel: Cancel,
    /// One database after another.
    process: Mutex<Option<Process>>,
}

#[derive(Debug)]
struct Process {
    child: Child,
    to: ChildStdin,
    replies: Receiver<Reply>,
}

/// Why there is no answer.
enum Silence {
    /// It ended.
    Gone(String),
    /// Nobody waits for it any more.
    Cancelled,
}

impl Imager {
    /// Copies go to the state; nothing is started yet.
    pub(crate) fn for_state(state: &Path, output: Output, cancel: &Cancel) -> Arc<dyn Images> {
        Arc::new(Self {
            directory: directory(state),
            output,
            cancel: cancel.clone(),
            process: Mutex::new(None),
        })
    }

    fn start(&self) -> Result<Process, ImageError> {
        let mut command = again("imager", &self.directory, self.output);
        command.env_clear().process_group(0);
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let failed = |error: &dyn std::fmt::Display| {
            ImageError::Failed(format!(
                "cannot start the process that copies databases: {error}"
            ))
        };
        let mut child = child.map_err(|error| failed(&error))?;
        let (Some(to), Some(from)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(failed(&"it has no pipes"));
        };
        let (sender, replies) = sync_channel(1);
        std::thread::spawn(move || listen(BufReader::new(from), &sender));
        Ok(Process { child, to, replies })
    }

    fn ask(&self, process: &mut Process, request: &Request) -> Result<Reply, Silence> {
        if let Err(error) = wire::write(&mut process.to, request) {
            return Err(Silence::Gone(error.to_string()));
        }
        loop {
            match process.replies.recv_timeout(LOOK) {
                Ok(reply) => return Ok(reply),
                Err(RecvTimeoutError::Timeout) if self.cancel.check().is_err() => {
                    return Err(Silence::Cancelled);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    let ended = process.child.wait();
                    let ended =
                        ended.map_or_else(|error| error.to_string(), |status| status.to_string());
                    return Err(Silence::Gone(ended));
                }
            }
        }
    }
}

fn listen(mut from: BufReader<std::process::ChildStdout>, to: &SyncSender<Reply>) {
    while let Ok(Some(reply)) = wire::read(&mut from) {
        if to.send(reply).is_err() {
            break;
        }
    }
}

impl Images for Imager {
    fn take(&self, which: Which<'_>, max_lock: Duration) -> Result<Imaged, ImageError> {
        use std::os::unix::ffi::OsStrExt;
        let request = Request {
            root: which.root.as_os_str().as_bytes().to_owned(),
            directory: which.directory.as_bytes().to_owned(),
            name: which.name.as_bytes().to_owned(),
            max_lock,
        };
        let mut place = self.process.lock().unwrap_or_else(PoisonError::into_inner);
        let mut tries = 0;
        let reply = loop {
            let mut process = match place.take() {
                Some(process) => process,
                None => self.start()?,
            };
            tries += 1;
            match self.ask(&mut process, &request) {
                Ok(reply) => {
                    *place = Some(process);
                    break reply;
                }
                // It may have ended, for nothing was asked of it for long, in this very moment.
                Err(Silence::Gone(_)) if tries == 1 => process.end(),
                Err(Silence::Gone(ended)) => {
                    process.end();
                    return Err(ImageError::Failed(format!(
                        "the process that copies databases has ended ({ended}): look at what it logged"
                    )));
                }
                Err(Silence::Cancelled) => {
                    process.end();
                    return Err(ImageError::Failed("interrupted".to_owned()));
                }
            }
        };
        match reply {
            Reply::Taken { file, image } => Ok(Imaged::new(self.directory.join(file), image)),
            Reply::Refused(error) => Err(error),
        }
    }
}

impl Process {
    fn end(mut self) {
        // What it copied goes when the next one begins.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Imager {
    fn drop(&mut self) {
        let place = self
            .process
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(process) = place.take() {
            process.end();
        }
    }
}
