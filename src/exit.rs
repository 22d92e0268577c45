//! Exit codes, and how each error becomes one, with a hint for what to do next.
//!
//! The only place that knows either: the libraries say what happened, never what to type.

use std::process::ExitCode;

use understudy_agent::{AgentError, Unproven};
use understudy_protocol::error::CarrierKind;
use understudy_protocol::{Failure, FailureCode, ProtocolError};
use understudy_receiver::ReceiverError;

/// What the process ends with; the table in `README.md`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Code {
    /// Done.
    Done = 0,
    /// Failed, for a reason without a code of its own.
    Failed = 1,
    /// The command line or a configuration is wrong.
    Usage = 2,
    /// Done, but some files could not be read or never stood still.
    Partial = 3,
    /// A guard refused the change.
    Held = 4,
    /// This host is not the main, or not any more, or not the spare.
    Fenced = 5,
    /// The spare cannot be reached, or was lost.
    Unreachable = 6,
    /// One side does not know the other, or may not do what was asked for.
    NotAuthenticated = 7,
    /// No space on the spare.
    NoSpace = 8,
    /// Verification found damage.
    Damage = 9,
    /// Ended by Ctrl-C or SIGTERM.
    Interrupted = 130,
}

impl From<Code> for ExitCode {
    fn from(code: Code) -> Self {
        Self::from(code as u8)
    }
}

/// Why a command failed: for the exit code, for people, and what they can do.
#[derive(Debug, Clone)]
pub(crate) struct CommandError {
    /// What the process ends with.
    pub(crate) code: Code,
    /// What happened, to which file, what it means.
    pub(crate) message: String,
    /// What to do next.
    pub(crate) hint: String,
}

impl CommandError {
    /// An error with its hint.
    pub(crate) fn new(code: Code, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            hint: hint.into(),
        }
    }

    /// The command line or a configuration is wrong.
    pub(crate) fn usage(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::new(Code::Usage, message, hint)
    }

    /// Failed without a better code.
    pub(crate) fn failed(message: impl Into<String>) -> Self {
        Self::new(
            Code::Failed,
            message,
            "run it again with -v to see more of what happened before",
        )
    }

    /// Ended by a signal.
    pub(crate) fn interrupted() -> Self {
        Self::new(
            Code::Interrupted,
            "interrupted; the spare keeps its last whole snapshot",
            "run the same command again: it carries on without harm",
        )
    }

    /// A defect of this program.
    pub(crate) fn panicked() -> Self {
        Self::new(
            Code::Failed,
            "a defect in understudy ended the command; the spare keeps its last whole snapshot",
            "please report it with the lines above; the command can be run again without harm",
        )
    }

    /// Says which spare was meant, where that is the question.
    pub(crate) fn about(mut self, spare: &str) -> Self {
        if self.code == Code::Unreachable && !self.message.contains(spare) {
            self.message = format!("the spare {spare} was lost: {}", self.message);
        }
        self
    }
}

impl From<&ProtocolError> for CommandError {
    fn from(error: &ProtocolError) -> Self {
        let message = error.to_string();
        let (code, hint) = match error {
            ProtocolError::Failed(failure) => return told(failure),
            ProtocolError::Carrier(failure) => {
                let code = match failure.kind {
                    CarrierKind::Away => Code::Unreachable,
                    CarrierKind::Refused => Code::NotAuthenticated,
                };
                return Self::new(code, message, &failure.advice);
            }
            ProtocolError::Address(_) => (
                Code::Unreachable,
                "check that the receiver runs there: understudy receiver --store DIR --listen HOST:PORT",
            ),
            ProtocolError::NotAuthenticated(_) => (
                Code::NotAuthenticated,
                "pair the two: `understudy pair --new NAME` on the spare prints what to type on the main",
            ),
            ProtocolError::Cut | ProtocolError::Io(_) => (
                Code::Unreachable,
                "check the receiver and its log, then run the same command again: it carries on",
            ),
            ProtocolError::NotUnderstudy => (
                Code::Unreachable,
                "check the address: something else listens there",
            ),
            ProtocolError::Versions { .. } => (
                Code::Failed,
                "install the same version of understudy on both hosts",
            ),
            _ => (
                Code::Failed,
                "check that the address is that of an understudy receiver, and that both hosts run the same version",
            ),
        };
        Self::new(code, message, hint)
    }
}

/// What the other side told before it gave up.
fn told(failure: &Failure) -> CommandError {
    // The other side's text goes to a terminal: what could steer it is shown, not obeyed.
    let message = understudy_protocol::escape(failure.text.as_bytes());
    let (code, hint) = hint_for(failure.code);
    CommandError::new(code, message, hint)
}

/// What a host does that is not the main.
const FENCED: &str = "`understudy status` on both hosts tells which of them is the main; to make this host the spare of the other one, `understudy failback` here; if the promotion was a mistake, `understudy demote` there and `understudy resume` here undo it";

fn hint_for(code: FailureCode) -> (Code, &'static str) {
    match code {
        FailureCode::Busy => (
            Code::Failed,
            "wait until the other upload has ended (see `understudy status`), then run it again",
        ),
        FailureCode::NotFound => (
            Code::Failed,
            "`understudy snapshots` lists what the spare has",
        ),
        FailureCode::NoSpace => (
            Code::NoSpace,
            "make space on the spare, on its disk or within the quota, then run it again; the last snapshot is whole",
        ),
        FailureCode::Incompatible => (
            Code::Failed,
            "upgrade understudy on the older side, so that both are of the same version",
        ),
        FailureCode::Damaged => (
            Code::Failed,
            "`understudy status` lists what is known to be damaged, accepted as lost or not, and `understudy verify` looks for more; what is whole comes back with `understudy restore --skip-lost` or `--path PATTERN`",
        ),
        FailureCode::OutOfStep => (
            Code::Failed,
            "run it again: both sides compare everything anew",
        ),
        FailureCode::Misbehaved => (
            Code::Failed,
            "install the same version of understudy on both hosts; if they are, please report this",
        ),
        FailureCode::Refused => (
            Code::Held,
            "look at the source; if the change is meant, say so on the spare (`understudy held` tells how), or, with the spare as a directory, run `understudy sync SRC --accept-deletions`",
        ),
        FailureCode::BadDelta => (
            Code::Failed,
            "run it again: large files are sent whole then; if it comes again, run `understudy verify`",
        ),
        FailureCode::BadLeftover => (
            Code::Failed,
            "run it again: everything is sent then, as if nothing had been interrupted",
        ),
        FailureCode::NotInHistory => (
            Code::Failed,
            "run it again: everything is sent then, whatever history has; `understudy verify` tells what is wrong there",
        ),
        FailureCode::Forbidden => (
            Code::NotAuthenticated,
            "a main may see and change its own datasets alone; on the spare, `understudy pair --list` tells whose is whose",
        ),
        FailureCode::Fenced => (Code::Fenced, FENCED),
        FailureCode::Interrupted => (Code::Unreachable, "run it again when the receiver is back"),
        FailureCode::Internal => (
            Code::Failed,
            "the message names the place; the receiver's log may say more",
        ),
    }
}

impl From<AgentError> for CommandError {
    fn from(error: AgentError) -> Self {
        Self::from(&error)
    }
}

impl From<&AgentError> for CommandError {
    fn from(error: &AgentError) -> Self {
        let message = error.to_string();
        match error {
            AgentError::Spare(error) => return error.into(),
            AgentError::Unproven { verdict, .. } => return unproven(message, verdict),
            AgentError::Interrupted => return Self::interrupted(),
            _ => {}
        }
        let advice = advice_for_sending(error).or_else(|| advice_for_restoring(error));
        match advice {
            Some((code, hint)) => Self::new(code, message, hint),
            None => Self::failed(message),
        }
    }
}

/// What a cycle and the agent's state may fail for.
fn advice_for_sending(error: &AgentError) -> Option<(Code, &'static str)> {
    Some(match error {
        AgentError::Fenced { .. } => (Code::Fenced, FENCED),
        AgentError::NotFailedBack { .. } => (
            Code::Failed,
            "type `understudy failback` there, with --main and the name of this host; if its disks are new, make a first copy by hand: \
             `understudy sync` of the live tree with --dataset",
        ),
        AgentError::Freeze { .. } => (
            Code::Failed,
            "run `make` and `remove` of its `snapshot` by hand, as the agent's user",
        ),
        AgentError::NotStill { .. } => (
            Code::Failed,
            "run `before_capture` and `after_capture` by hand, as the agent's user",
        ),
        AgentError::Stuck { .. } | AgentError::Deserted { .. } => (
            Code::Failed,
            "see whether the application works; if it does not, run what `after_capture` names by hand",
        ),
        AgentError::SourceMissing { .. }
        | AgentError::SourceNotDirectory { .. }
        | AgentError::SourceVanished { .. } => {
            (Code::Failed, "check the path, and whether it is mounted")
        }
        AgentError::SourceUnreadable { .. } => (
            Code::Failed,
            "run it as a user who may read the source, root for instance",
        ),
        AgentError::BecameEmpty { .. } => (
            Code::Held,
            "mount what is missing and run it again; if it is meant to be empty, leave one file in it, or, \
             where the spare is a directory, add --accept-deletions",
        ),
        AgentError::IndexLocked { .. } => (
            Code::Failed,
            "wait until the other run has ended, or give this one another --state DIR",
        ),
        AgentError::AgentRunning { .. } => (
            Code::Failed,
            "`systemctl status understudy-agent` may tell of it; for a single cycle beside it add --once, for \
             another daemon another --state DIR",
        ),
        AgentError::IndexDamaged { .. } => (
            Code::Failed,
            "delete that file and run it again: only what differs is sent",
        ),
        AgentError::IndexNewer { .. } => (
            Code::Failed,
            "upgrade understudy on this host, or delete that file and run it again",
        ),
        AgentError::State { .. } => (
            Code::Failed,
            "check the permissions and the space there, or choose another place with --state DIR",
        ),
        AgentError::OutOfStep { .. } => (
            Code::Failed,
            "run it again: both sides compare everything anew",
        ),
        AgentError::Tree(error) if error.is_no_space() => (
            Code::NoSpace,
            "make space on this disk, or choose another place, and run it again: it carries on",
        ),
        AgentError::Tree(_) => (
            Code::Failed,
            "check the permissions there; the command can be run again without harm",
        ),
        AgentError::Configuration(_) => (
            Code::Usage,
            "correct the configuration; `understudy agent --help` shows one",
        ),
        _ => return None,
    })
}

/// What a restore, or a look at what the spare has, may fail for.
fn advice_for_restoring(error: &AgentError) -> Option<(Code, &'static str)> {
    Some(match error {
        AgentError::MemoryDamaged { .. } => (
            Code::Failed,
            "delete that file; add --unverified to restore without it",
        ),
        AgentError::TargetExists { .. } => (
            Code::Usage,
            "name a directory that is empty or not there yet, or add --replace: what stands there is kept beside it",
        ),
        AgentError::Target { .. } => (Code::Usage, "name another target"),
        AgentError::NothingMatches { .. } => (
            Code::Usage,
            "patterns are paths from the dataset's root: `a/b`, `a/*.jpg`, or `**/*.jpg` for any directory",
        ),
        AgentError::NoneThatOld { .. } => (
            Code::Failed,
            "`understudy snapshots` lists what the spare has",
        ),
        AgentError::Crowded { .. } => (
            Code::NotAuthenticated,
            "`understudy snapshots` tells how many the spare says there are; if there may be so many, add --unverified",
        ),
        AgentError::SpareTooOld { .. } => (Code::Failed, "upgrade understudy on the spare"),
        AgentError::NoOwners => (Code::Failed, "restore with --owners number"),
        AgentError::NoSnapshot { .. } => (
            Code::Failed,
            "`understudy snapshots` lists what the spare has",
        ),
        AgentError::NoFile { .. } => (
            Code::Failed,
            "`understudy ls DATASET -R` lists what there is",
        ),
        AgentError::Output(_) => (Code::Failed, "check where stdout leads to"),
        _ => return None,
    })
}

/// What can be done about a snapshot that is not proved. Where it is not known who has made it the code is another than where it is known
/// not to be what was sent.
fn unproven(message: String, verdict: &Unproven) -> CommandError {
    let (code, hint) = match verdict {
        Unproven::Unsigned { .. } => (
            Code::NotAuthenticated,
            "restore another snapshot (`understudy snapshots` lists them), or this one, whoever has made it, with --unverified".to_owned(),
        ),
        Unproven::Foreign { key } => (
            Code::NotAuthenticated,
            format!(
                "if it is a former key of this main, which its recovery kit tells, add `--trust-key {key}`; if nobody knows it, somebody \
                 else has made the snapshot, and --unverified restores it all the same"
            ),
        ),
        Unproven::Differs { .. } => (
            Code::Damage,
            "restore another snapshot (`understudy snapshots` lists them) or from another spare; what this one gives, whatever that is, is \
             restored with --unverified"
                .to_owned(),
        ),
        Unproven::Older { shown, .. } => (
            Code::Damage,
            format!(
                "`--snapshot {shown}` restores the older one, which is proved then; ask whoever runs the spare where the newer one is"
            ),
        ),
        Unproven::Moved { number, .. } => (
            Code::Damage,
            format!("`--snapshot {number}` restores that one, which is proved then"),
        ),
    };
    CommandError::new(code, message, hint)
}

impl From<ReceiverError> for CommandError {
    fn from(error: ReceiverError) -> Self {
        let message = error.to_string();
        match error {
            ReceiverError::Protocol(error) => Self::from(&error),
            ReceiverError::Store { .. } => Self::usage(
                message,
                "name an empty directory, one that is not there yet, or one that understudy has made, on a disk that \
                 may be written",
            ),
            ReceiverError::Newer { .. } => Self::new(
                Code::Failed,
                message,
                "install the newer version of understudy on this host",
            ),
            ReceiverError::Adoption(_) => Self::new(
                Code::Failed,
                message,
                "nothing was changed; once it is right, the same command can be run again",
            ),
            error => {
                let (code, hint) = hint_for(error.failure_code());
                Self::new(code, message, hint)
            }
        }
    }
}
