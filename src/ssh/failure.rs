//! Why ssh gave up, told so that somebody can do something about it.
//!
//! What ssh says is English whatever the locale is. Of a receiver at the other end only the exit code is believed.

use std::ffi::OsStr;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Duration;

use understudy_protocol::error::{CarrierFailure, CarrierKind};
use understudy_protocol::escape;

use super::{Client, Remote};

/// How much of what is no frame is shown.
const SHOWN_BYTES: usize = 60;

/// Exit codes of ssh itself, and of a shell that cannot start a program.
const SSH_FAILED: i32 = 255;
const NOT_FOUND: i32 = 127;
const NOT_EXECUTABLE: i32 = 126;

fn unreachable(remote: &Remote, why: &str, advice: impl Into<String>) -> CarrierFailure {
    CarrierFailure {
        kind: CarrierKind::Away,
        text: format!("cannot reach the spare {remote}: {why}"),
        advice: advice.into(),
    }
}

fn refused(remote: &Remote, why: &str, advice: impl Into<String>) -> CarrierFailure {
    CarrierFailure {
        kind: CarrierKind::Refused,
        ..unreachable(remote, why, advice)
    }
}

/// There is no such program here.
pub(super) fn not_started(
    program: &OsStr,
    remote: &Remote,
    error: &std::io::Error,
) -> CarrierFailure {
    let program = escape(program.as_encoded_bytes());
    unreachable(
        remote,
        &format!("`{program}` cannot be started: {error}"),
        "install the client of OpenSSH, or name another program with --ssh",
    )
}

/// Nothing came.
pub(super) fn late(client: &Client, remote: &Remote, limit: Duration) -> CarrierFailure {
    unreachable(
        remote,
        &format!("the receiver there said nothing for {} s", limit.as_secs()),
        format!("see whether this ends: `{}`", client.by_hand(remote)),
    )
}

/// Something came that is no frame.
pub(super) fn noise(remote: &Remote, bytes: &[u8]) -> CarrierFailure {
    let shown = escape(&bytes[..bytes.len().min(SHOWN_BYTES)]);
    unreachable(
        remote,
        &format!("instead of a receiver something there says `{shown}`"),
        "see to it that the login there prints nothing for a command (.bashrc, /etc/profile.d, a forced command)",
    )
}

/// It ended before anything came; `None` if it had to be killed.
pub(super) fn at_first(
    client: &Client,
    remote: &Remote,
    status: Option<ExitStatus>,
    said: &[String],
) -> CarrierFailure {
    let host = remote.host();
    let told = said
        .last()
        .map_or_else(String::new, |last| format!(": {last}"));
    match status.map(|status| (status.code(), status.signal())) {
        Some((Some(SSH_FAILED), _)) => ssh_failed(client, remote, said),
        Some((Some(NOT_FOUND), _)) => unreachable(
            remote,
            &format!("{host} has no `understudy` where its shell looks for commands{told}"),
            "install it there, for instance as /usr/local/bin/understudy",
        ),
        Some((Some(NOT_EXECUTABLE), _)) => unreachable(
            remote,
            &format!("`understudy` cannot be run on {host}{told}"),
            "check its permissions there, and that it was built for that machine",
        ),
        Some((Some(code), _)) => unreachable(
            remote,
            &format!("the receiver on {host} ended with exit code {code}{told}"),
            "install the same version of understudy on both hosts; what it said is above",
        ),
        Some((None, signal)) => {
            let signal = signal.unwrap_or_default();
            let why = format!("ssh was ended by signal {signal}");
            unreachable(remote, &why, "run the same command again")
        }
        None => {
            let why = format!("ssh has hung up{told}");
            unreachable(remote, &why, "run the same command again")
        }
    }
}

/// It ended in the midst of things, by another code than 0.
pub(super) fn later(
    client: &Client,
    remote: &Remote,
    status: ExitStatus,
    said: &[String],
) -> CarrierFailure {
    let told = said
        .last()
        .map_or_else(String::new, |last| format!(": {last}"));
    let who = match status.code() {
        Some(SSH_FAILED) => "ssh failed".to_owned(),
        Some(code) => format!("the receiver there ended with exit code {code}"),
        None => "ssh was killed".to_owned(),
    };
    CarrierFailure {
        kind: CarrierKind::Away,
        text: format!("the spare {remote} was lost: {who}{told}"),
        advice: format!(
            "run the same command again: it carries on; `{}` shows whether the host is back",
            client.by_hand(remote)
        ),
    }
}

/// ssh itself failed, before there was a receiver.
fn ssh_failed(client: &Client, remote: &Remote, said: &[String]) -> CarrierFailure {
    let (host, by_hand) = (remote.host(), client.by_hand(remote));
    let all = said.join("\n").to_ascii_lowercase();
    let has = |words: &[&str]| words.iter().any(|word| all.contains(word));
    if has(&[
        "host identification has changed",
        "has changed and you have requested strict checking",
    ]) {
        let why = format!("the host key of {host} is not the one that ssh knows");
        let advice = format!(
            "it may be another host: find out before anything else; if it is meant, `ssh-keygen -R '{}'` forgets the old key",
            remote.known_as()
        );
        return refused(remote, &why, advice);
    }
    if has(&["host key verification failed", "host key is known"]) {
        let why = format!("ssh does not know the host key of {host}");
        let advice = format!(
            "as the user who runs understudy, connect once by hand and compare the fingerprint: `{by_hand}`"
        );
        return refused(remote, &why, advice);
    }
    if has(&["permission denied", "too many authentication failures"]) {
        let why =
            format!("{host} does not let ssh in: it knows none of the keys that it was shown");
        let advice = format!(
            "put the public key into ~/.ssh/authorized_keys there, or name another key with --ssh 'ssh -i FILE' (where nobody can be asked, one without a passphrase); `{by_hand}` must work without a question"
        );
        return refused(remote, &why, advice);
    }
    let told = said.last().map_or("it does not say why", String::as_str);
    unreachable(
        remote,
        &format!("ssh failed: {told}"),
        format!("check the name, the port, and that sshd runs there; `{by_hand}` must work"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(code: i32, said: &str) -> CarrierFailure {
        let remote = Remote::parse(OsStr::new("ssh://me@spare:2222/srv")).expect("address");
        let said: Vec<String> = said.lines().map(ToOwned::to_owned).collect();
        let status = ExitStatus::from_raw(code << 8);
        at_first(&Client::default(), &remote, Some(status), &said)
    }

    #[test]
    fn each_end_says_what_to_do() {
        use CarrierKind::{Away, Refused};
        let by_hand = "`ssh -p 2222 me@spare true`";
        for (code, said, kind, why, advice) in [
            (
                255,
                "Host key verification failed.",
                Refused,
                "host key of spare",
                by_hand,
            ),
            (
                255,
                "No ED25519 host key is known for [spare]:2222 and you have requested strict checking.\nHost key verification failed.",
                Refused,
                "does not know",
                by_hand,
            ),
            (
                255,
                "@    WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!     @\nHost key verification failed.",
                Refused,
                "not the one",
                "`ssh-keygen -R '[spare]:2222'`",
            ),
            (
                255,
                "me@spare: Permission denied (publickey).",
                Refused,
                "let ssh in",
                by_hand,
            ),
            (
                255,
                "ssh: connect to host spare port 2222: Connection refused",
                Away,
                "Connection refused",
                by_hand,
            ),
            (
                127,
                "sh: 1: understudy: not found",
                Away,
                "no `understudy`",
                "install it",
            ),
            (126, "", Away, "cannot be run", "permissions"),
            // A receiver that fails may say anything.
            (2, "Permission denied", Away, "exit code 2", "same version"),
        ] {
            let failure = told(code, said);
            assert_eq!(failure.kind, kind, "{failure:?}");
            assert!(failure.text.contains(why), "{failure:?}");
            assert!(
                failure.text.contains("ssh://me@spare:2222/srv"),
                "{failure:?}"
            );
            assert!(failure.advice.contains(advice), "{failure:?}");
        }
    }
}
