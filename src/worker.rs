//! A process that does one thing for another one: it gets a request by standard input, answers it, and ends what it has started when the
//! pipe is closed. It has a session of its own, so that whatever it leaves behind can be ended.

mod strays;

use std::io::{self, BufReader};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use serde::Serialize;
use serde::de::DeserializeOwned;
use understudy_databases::run;

use crate::alert::wire;

/// How long a worker may take to end once nobody wants anything of it any more.
const GRACE: Duration = Duration::from_secs(1);
/// How long a process that was killed is waited for.
const KILLED: Duration = Duration::from_secs(5);
/// How often a worker that is to end is looked at.
const LOOK: Duration = Duration::from_millis(5);

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Silence {
    /// Time is up.
    Long,
    /// The process has gone.
    Gone,
}

/// A process that answers with an `R`.
#[derive(Debug)]
pub(crate) struct Worker<R> {
    child: Child,
    replies: Receiver<R>,
}

impl<R: DeserializeOwned + Send + 'static> Worker<R> {
    /// Starts one by a command whose standard input and output are pipes; it ends when what is returned with it is closed.
    pub(crate) fn start(
        command: &mut Command,
        request: &impl Serialize,
    ) -> io::Result<(Self, ChildStdin)> {
        // Not the first of a process group, so that it can have a session of its own.
        let mut child = command.spawn()?;
        let pipes = (child.stdin.take(), child.stdout.take());
        let worker = |replies| Self { child, replies };
        let (Some(mut to), Some(from)) = pipes else {
            worker(sync_channel(1).1).end();
            return Err(io::ErrorKind::BrokenPipe.into());
        };
        let worker = worker(listen(from));
        if let Err(error) = wire::write(&mut to, request) {
            drop(to);
            worker.end();
            return Err(error);
        }
        Ok((worker, to))
    }

    /// The next answer, if it comes within the limit.
    pub(crate) fn answer(&mut self, limit: Duration) -> Result<R, Silence> {
        match self.replies.recv_timeout(limit) {
            Ok(reply) => Ok(reply),
            Err(RecvTimeoutError::Disconnected) => Err(Silence::Gone),
            Err(RecvTimeoutError::Timeout) => Err(Silence::Long),
        }
    }

    /// It has given its last answer, and ends by itself; what it has started and is to go on running is left alone.
    pub(crate) fn finish(mut self) {
        match has_ended(Pid::from_child(&self.child), KILLED) {
            true => drop(self.child.try_wait()),
            false => drop(self.end()),
        }
    }

    /// Ends it with whatever it has started; its pipe is closed already.
    pub(crate) fn end(mut self) -> Option<ExitStatus> {
        let process = Pid::from_child(&self.child);
        if !has_ended(process, GRACE) {
            let _ = kill_process(process, Signal::KILL);
            has_ended(process, KILLED);
        }
        // As long as nobody has asked how it ended, its number is nobody else's.
        strays::end(process);
        self.child.try_wait().ok().flatten()
    }
}

fn listen<R: DeserializeOwned + Send + 'static>(from: ChildStdout) -> Receiver<R> {
    let (sender, replies) = sync_channel(1);
    std::thread::spawn(move || {
        let mut from = BufReader::new(from);
        while let Ok(Some(reply)) = wire::read(&mut from) {
            if sender.send(reply).is_err() {
                return;
            }
        }
    });
    replies
}

fn has_ended(process: Pid, patience: Duration) -> bool {
    let since = Instant::now();
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    loop {
        match waitid(WaitId::Pid(process), options) {
            Ok(None) if since.elapsed() < patience => std::thread::park_timeout(LOOK),
            Ok(None) => return false,
            Ok(Some(_)) | Err(_) => return true,
        }
    }
}

/// What a worker does first: reads its request, and from then on ends everything that it starts once nobody wants its answer any more, after
/// calling `over`. `None` if nobody asks for anything.
pub(crate) fn request<Q: DeserializeOwned>(
    over: impl FnOnce() + Send + 'static,
) -> io::Result<Option<Q>> {
    if let Err(error) = rustix::process::setsid() {
        tracing::warn!("programs that take databases could outlive this process: {error}");
    }
    let mut input = BufReader::new(io::stdin());
    let request = wire::read::<Q>(&mut input)?;
    std::thread::spawn(move || {
        let _ = io::copy(&mut input, &mut io::sink());
        over();
        run::stop_all();
    });
    Ok(request)
}
