//! The process that copies SQLite databases: SQLite's locks go with any close of the file in the same process, and a scan opens and closes files
//! all the time. It is started when the first database in use is met, from a process that has confined itself, confines itself further, and
//! ends when nothing was asked of it for a while.

mod place;
mod worker;

use std::io::BufReader;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use understudy_agent::Cancel;
use understudy_agent::images::{Imaged, Images, Which};
use understudy_databases::sqlite::{Image, ImageError};

use crate::alert::voice::again;
use crate::alert::wire;
use crate::arguments::Output;

use place::Place;
pub(crate) use worker::run;

/// How often whoever waits for an answer looks whether the command is to end.
const LOOK: Duration = Duration::from_millis(200);

/// Which database is to be copied. What it names may be read by whoever asks as well.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    /// The copy is called so.
    number: u64,
    root: Vec<u8>,
    directory: Vec<u8>,
    name: Vec<u8>,
    max_lock: Duration,
}

/// What came of it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum Reply {
    /// The copy is there.
    Taken(Image),
    /// There is none.
    Refused(ImageError),
}

/// A copy that does not grow, and is not written to, for so long is given up.
const STUCK: Duration = Duration::from_secs(120);

/// Has the process copy databases, and starts it when it is not there.
#[derive(Debug)]
pub(crate) struct Imager {
    directory: PathBuf,
    output: Output,
    cancel: Cancel,
    /// One database after another.
    work: Mutex<Work>,
}

#[derive(Debug, Default)]
struct Work {
    /// Where copies go; theirs alone as long as this command runs, whatever becomes of the process.
    place: Option<Place>,
    process: Option<Process>,
    /// Copies so far.
    number: u64,
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
    /// Nothing goes on.
    Stuck,
}

impl Imager {
    /// Copies go to the state; nothing is started yet.
    pub(crate) fn for_state(state: &Path, output: Output, cancel: &Cancel) -> Arc<dyn Images> {
        Arc::new(Self {
            directory: state.join("images"),
            output,
            cancel: cancel.clone(),
            work: Mutex::default(),
        })
    }

    fn start(&self, place: &Place) -> Result<Process, ImageError> {
        let mut command = again("imager", place.path(), self.output);
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

    fn ask(&self, process: &mut Process, request: &Request, copy: &Path) -> Result<Reply, Silence> {
        let (mut seen, mut since) = (None, Instant::now());
        if let Err(error) = wire::write(&mut process.to, request) {
            return Err(Silence::Gone(error.to_string()));
        }
        loop {
            match process.replies.recv_timeout(LOOK) {
                Ok(reply) => return Ok(reply),
                Err(RecvTimeoutError::Timeout) if self.cancel.check().is_err() => {
                    return Err(Silence::Cancelled);
                }
                Err(RecvTimeoutError::Timeout) => {
                    let now = std::fs::metadata(copy).ok();
                    let now = now.map(|copy| (copy.len(), copy.modified().ok()));
                    if now != seen {
                        (seen, since) = (now, Instant::now());
                    }
                    if since.elapsed() > STUCK + request.max_lock {
                        return Err(Silence::Stuck);
                    }
                }
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
        let mut work = self.work.lock().unwrap_or_else(PoisonError::into_inner);
        let Work {
            place,
            process,
            number,
        } = &mut *work;
        let place = match place {
            Some(place) => place,
            None => {
                let made = Place::make(&self.directory).map_err(|error| {
                    ImageError::Failed(format!(
                        "there is no place for copies of databases: {error}"
                    ))
                })?;
                place.insert(made)
            }
        };
        *number += 1;
        let request = Request {
            number: *number,
            root: which.root.as_os_str().as_bytes().to_owned(),
            directory: which.directory.as_bytes().to_owned(),
            name: which.name.as_bytes().to_owned(),
            max_lock,
        };
        let copy = place.path().join(number.to_string());
        let mut tries = 0;
        loop {
            let mut asked = match process.take() {
                Some(process) => process,
                None => self.start(place)?,
            };
            tries += 1;
            let failed = |text: String| Err(ImageError::Failed(text));
            match self.ask(&mut asked, &request, &copy) {
                Ok(reply) => {
                    *process = Some(asked);
                    return match reply {
                        Reply::Taken(image) => Ok(Imaged::new(copy, image)),
                        Reply::Refused(error) => Err(error),
                    };
                }
                // It may have ended, for nothing was asked of it for long, in this very moment.
                Err(Silence::Gone(_)) if tries == 1 => asked.end(&copy),
                Err(Silence::Gone(ended)) => {
                    asked.end(&copy);
                    return failed(format!(
                        "the process that copies databases has ended ({ended}): look at what it logged"
                    ));
                }
                Err(Silence::Stuck) => {
                    asked.end(&copy);
                    return failed(format!(
                        "nothing was copied for {} s: look whether the disk answers, and what works with the database",
                        (STUCK + max_lock).as_secs()
                    ));
                }
                Err(Silence::Cancelled) => {
                    asked.end(&copy);
                    return failed("interrupted".to_owned());
                }
            }
        }
    }
}

impl Process {
    /// Ends it, and removes what it has copied so far.
    fn end(mut self, copy: &Path) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        worker::clear(copy);
    }
}

impl Drop for Imager {
    fn drop(&mut self) {
        let work = self.work.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(mut process) = work.process.take() {
            let _ = process.child.kill();
            let _ = process.child.wait();
        }
    }
}
