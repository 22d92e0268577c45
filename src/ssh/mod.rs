//! Reaching a receiver through ssh: what an address means, the program that is started, and what becomes of it.
//!
//! Frames go through its standard input and output. Only it and what tells people start
//! processes. No shell of this host reads anything; the one at the other end gets every word quoted.

mod failure;
mod remote;
pub(crate) mod words;

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::io::IsTerminal;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::{Child, ChildStderr, Command};
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use understudy_protocol::error::CarrierFailure;
use understudy_protocol::transport::Channel;
use understudy_protocol::transport::stream::{self, SPARE_STALL};
use understudy_protocol::{ProtocolError, escape};

use crate::exit::CommandError;
use crate::spare::Absent;

pub(crate) use remote::{Remote, SCHEME};

/// What ssh is told after the words that were given, which come before it where both say something: no terminal, no
/// agent, no display and no port of this host for the other end, and an end where it is not heard of any more.
const OPTIONS: [&str; 7] = [
    "-T",
    "-a",
    "-x",
    "-oClearAllForwardings=yes",
    "-oConnectTimeout=10",
    "-oServerAliveInterval=30",
    "-oServerAliveCountMax=4",
];
/// How long it may take until the receiver at the other end speaks, if nobody is asked for anything.
const BEGIN: Duration = Duration::from_secs(60);
/// The same where a person may have to look for a password.
const BEGIN_ASKING: Duration = Duration::from_secs(10 * 60);
/// How long the other end may put things away after the connection was closed.
const LINGER: Duration = Duration::from_secs(30);
/// How long a program that gave its last frame may take to end, and one that has ended to have said why.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// No more of a line is shown as one.
const LINE_BYTES: u64 = 1000;
/// No more lines of one connection are shown: the other end may write what it likes.
const SHOWN: usize = 100;
/// So many of the last lines may explain an end.
const KEPT: usize = 24;
/// Enough to see whether what comes first is a frame.
const FIRST_BYTES: usize = 512;

/// Whether ssh may ask for passwords and the like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asking {
    /// There may be nobody to answer.
    Never,
    /// A person at a terminal has given a command.
    AtTerminal,
}

/// The ssh program with its options.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Client {
    /// Never empty.
    words: Vec<OsString>,
}

impl Default for Client {
    fn default() -> Self {
        Self {
            words: vec!["ssh".into()],
        }
    }
}

impl Client {
    /// What `--ssh` or UNDERSTUDY_SSH say, else the words of a configuration, else `ssh`.
    pub(crate) fn given(
        line: Option<&OsStr>,
        configured: Option<&[String]>,
    ) -> Result<Self, CommandError> {
        let words = match (line, configured) {
            (Some(line), _) => words::split(line).map_err(|why| {
                let line = escape(line.as_encoded_bytes());
                CommandError::usage(
                    format!("`{line}` is no command for ssh: {why}"),
                    "write a program with options, as in --ssh 'ssh -i /etc/understudy/ssh_key'",
                )
            })?,
            (None, Some(configured)) => configured.iter().map(OsString::from).collect(),
            (None, None) => return Ok(Self::default()),
        };
        if words.first().is_none_or(|program| program.is_empty()) {
            return Err(CommandError::usage(
                "the command for ssh is empty",
                "leave out --ssh and UNDERSTUDY_SSH, or write a program with options, as in --ssh 'ssh -i /etc/understudy/ssh_key'",
            ));
        }
        Ok(Self { words })
    }

    /// What starts a receiver at the other end.
    fn command(&self, remote: &Remote, absent: Absent, asking: Asking) -> Command {
        let mut command = Command::new(&self.words[0]);
        command.args(&self.words[1..]).args(OPTIONS);
        if asking == Asking::Never {
            // A group of its own, too: Ctrl-C is told to understudy alone.
            command.arg("-oBatchMode=yes").process_group(0);
        }
        if let Some(port) = remote.port {
            command.arg("-p").arg(port.to_string());
        }
        command
            .args(["--", &remote.destination()])
            .arg(receiver(remote, absent))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    /// What a person types to see whether ssh works.
    fn by_hand(&self, remote: &Remote) -> String {
        let mut all: Vec<OsString> = self.words.clone();
        if let Some(port) = remote.port {
            all.extend(["-p".into(), port.to_string().into()]);
        }
        all.extend([remote.destination().into(), "true".into()]);
        let line = words::join(all.iter().map(OsString::as_os_str));
        escape(line.as_encoded_bytes())
    }
}

/// The command line for the other end's shell.
fn receiver(remote: &Remote, absent: Absent) -> OsString {
    let mut line: Vec<&OsStr> = ["understudy", "receiver", "--stdio", "--store"]
        .map(OsStr::new)
        .to_vec();
    line.push(remote.store.as_os_str());
    if absent == Absent::Refuse {
        line.push(OsStr::new("--existing"));
    }
    words::join(line)
}

/// A connection's ssh; it ends when the channel was dropped.
#[derive(Debug)]
pub(crate) struct Running {
    tending: JoinHandle<()>,
    runtime: Handle,
}

impl Running {
    /// Waits until the other end has put everything away; the channel must have been dropped.
    pub(crate) fn finish(self) {
        // A task that failed has told so itself.
        let _ = self.runtime.block_on(self.tending);
    }
}

/// Connects; blocks until the receiver at the other end speaks.
pub(crate) fn connect(
    client: &Client,
    remote: &Remote,
    (absent, asking): (Absent, Asking),
    runtime: &Handle,
) -> Result<(Channel, Running), ProtocolError> {
    let asking = match asking {
        Asking::AtTerminal if std::io::stderr().is_terminal() => asking,
        _ => Asking::Never,
    };
    let command = client.command(remote, absent, asking);
    let (channel, tending) = runtime.block_on(start(client, remote, command, asking))?;
    let runtime = runtime.clone();
    Ok((channel, Running { tending, runtime }))
}

async fn start(
    client: &Client,
    remote: &Remote,
    mut command: Command,
    asking: Asking,
) -> Result<(Channel, JoinHandle<()>), ProtocolError> {
    let mut child = keep_privileges()
        .and_then(|()| command.spawn())
        .map_err(|error| failure::not_started(&client.words[0], remote, &error))?;
    let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let (Some(stdin), Some(stdout), Some(stderr)) = pipes else {
        return Err(std::io::Error::other("a program was started without its pipes").into());
    };
    let said = Arc::<Said>::default();
    let listening = tokio::spawn(listen(stderr, Arc::clone(&said)));
    let limit = match asking {
        Asking::Never => BEGIN,
        Asking::AtTerminal => BEGIN_ASKING,
    };
    let mut reading = BufReader::with_capacity(FIRST_BYTES, stdout);
    let noise = match timeout(limit, reading.fill_buf()).await {
        // No frame is so long that its length would begin with another byte.
        Ok(Ok([0, ..])) => None,
        Ok(Ok(noise @ [_, ..])) => Some(noise.to_vec()),
        Ok(_) => {
            let status = end(&mut child, listening).await;
            return Err(failure::at_first(client, remote, status, &said.last()).into());
        }
        Err(_) => return Err(failure::late(client, remote, limit).into()),
    };
    if let Some(noise) = noise {
        return Err(failure::noise(remote, &noise).into());
    }
    let (report, why) = oneshot::channel();
    let (client, remote) = (client.clone(), remote.clone());
    let tending = tokio::spawn(async move {
        let (mut child, mut report) = (child, report);
        let status = tend(&mut child, &mut report, listening).await;
        let failed = status.filter(|status| !status.success());
        let why = failed.map(|status| failure::later(&client, &remote, status, &said.last()));
        // Nobody asks where the connection ended otherwise.
        let _ = report.send(why);
    });
    let farewell = async move {
        let why = timeout(2 * LAST_WORDS, why).await.ok()?.ok()?;
        why.map(ProtocolError::from)
    };
    let (channel, _) = stream::channel_to_program(reading, stdin, SPARE_STALL, farewell);
    Ok((channel, tending))
}

/// Sees to it that what this thread starts does not inherit what an unprivileged agent was given to read everything.
fn keep_privileges() -> std::io::Result<()> {
    caps::clear(None, caps::CapSet::Ambient).map_err(std::io::Error::other)
}

/// Waits for the end of ssh, and sees to it where nobody wants the connection any more.
async fn tend(
    child: &mut Child,
    report: &mut oneshot::Sender<Option<CarrierFailure>>,
    listening: JoinHandle<()>,
) -> Option<ExitStatus> {
    let is_over = tokio::select! {
        _ = child.wait() => true,
        () = report.closed() => timeout(LINGER, child.wait()).await.is_ok(),
    };
    if !is_over {
        tracing::warn!(
            "the other end of ssh is still busy after {} s and is left alone",
            LINGER.as_secs()
        );
    }
    end(child, listening).await
}

/// Waits for the end of a program that should be over, kills it if it is not, and lets everything it said be heard.
async fn end(child: &mut Child, listening: JoinHandle<()>) -> Option<ExitStatus> {
    let status = match timeout(LAST_WORDS, child.wait()).await {
        Ok(status) => status.ok(),
        Err(_) => {
            // One that cannot be killed is over.
            let _ = child.kill().await;
            None
        }
    };
    // Another program that it left behind may hold the pipe open.
    let _ = timeout(LAST_WORDS, listening).await;
    status
}

/// What ssh, and the receiver at the other end, say to people.
#[derive(Debug, Default)]
struct Said(Mutex<Lines>);

#[derive(Debug, Default)]
struct Lines {
    count: usize,
    last: VecDeque<String>,
}

impl Said {
    fn hear(&self, line: &[u8]) {
        let line = escape(line.trim_ascii());
        if line.is_empty() {
            return;
        }
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lines.count += 1;
        match lines.count {
            ..=SHOWN => tracing::warn!("ssh: {line}"),
            count if count == SHOWN + 1 => tracing::warn!("ssh: more lines, which are not shown"),
            _ => {}
        }
        if lines.last.len() == KEPT {
            lines.last.pop_front();
        }
        lines.last.push_back(line);
    }

    fn last(&self) -> Vec<String> {
        let lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lines.last.iter().cloned().collect()
    }
}

async fn listen(stderr: ChildStderr, said: Arc<Said>) {
    let mut reading = BufReader::new(stderr);
    let mut line = Vec::new();
    loop {
        line.clear();
        let mut start = (&mut reading).take(LINE_BYTES);
        match start.read_until(b'\n', &mut line).await {
            Ok(0) | Err(_) => return,
            Ok(_) => said.hear(&line),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(command: &Command) -> Vec<String> {
        let command = command.as_std();
        let words = std::iter::once(command.get_program()).chain(command.get_args());
        words
            .map(|word| word.to_string_lossy().into_owned())
            .collect()
    }

    #[test]
    fn ssh_gets_each_word_as_it_is_and_the_other_shell_gets_them_quoted() {
        let remote = Remote::parse(OsStr::new("ssh://root@spare:2222/srv/it's")).expect("address");
        let client = Client::given(Some(OsStr::new("ssh -i '/a key'")), None).expect("words");
        let words = shown(&client.command(&remote, Absent::Refuse, Asking::Never));
        assert_eq!(words[..3], ["ssh", "-i", "/a key"]);
        let end = [
            "-oBatchMode=yes",
            "-p",
            "2222",
            "--",
            "root@spare",
            "understudy receiver --stdio --store '/srv/it'\\''s' --existing",
        ];
        assert_eq!(words[words.len() - end.len()..], end);
        let words = shown(&client.command(&remote, Absent::Create, Asking::AtTerminal));
        assert!(words.iter().all(|word| !word.contains("BatchMode")));
        assert!(words.iter().all(|word| !word.contains("--existing")));
        assert_eq!(
            client.by_hand(&remote),
            "ssh -i '/a key' -p 2222 root@spare true"
        );
    }

    #[test]
    fn the_command_line_comes_before_the_configuration() {
        let configured = ["/usr/bin/ssh".to_owned(), "-4".to_owned()];
        let client = |line| Client::given(line, Some(&configured)).expect("words");
        assert_eq!(client(None).words, ["/usr/bin/ssh", "-4"]);
        assert_eq!(client(Some(OsStr::new("ssh -6"))).words, ["ssh", "-6"]);
        assert_eq!(Client::given(None, None).expect("words").words, ["ssh"]);
        for line in ["", "  ", "''", "ssh 'x"] {
            assert!(
                Client::given(Some(OsStr::new(line)), None).is_err(),
                "{line}"
            );
        }
    }

    #[test]
    fn a_flood_of_lines_is_cut_off_and_the_last_are_kept() {
        let said = Said::default();
        for number in 0..1000 {
            said.hear(format!("line \x1b[31m{number}\n").as_bytes());
        }
        let last = said.last();
        assert_eq!(last.len(), KEPT);
        assert!(last.iter().all(|line| !line.contains('\x1b')), "{last:?}");
        assert!(last[KEPT - 1].ends_with("999"));
    }
}
