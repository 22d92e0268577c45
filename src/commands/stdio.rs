//! `understudy receiver --stdio`: one session with whoever has started it, mostly ssh.
//!
//! Nothing but frames may be printed on stdout. What cannot be served is told in a frame, too, for whoever is at
//! the other end to see.

use std::ffi::OsStr;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use understudy_protocol::transport;
use understudy_protocol::{Failure, FailureCode, MainName, Message, escape, limits};
use understudy_receiver::{Peer, SessionOptions, Store};

use super::{Session, receiver};
use crate::arguments::Receiver;
use crate::confinement::Prepared;
use crate::exit::{Code, CommandError};
use crate::paths;
use crate::receiver_config::{self, ReceiverConfig};
use crate::report::Report;
use crate::ssh::words;

/// How long what was said last may take to be taken.
const FAREWELL: Duration = Duration::from_secs(10);

/// What a client of ssh has asked for, where the server starts something else whatever that is.
const ASKED: &str = "SSH_ORIGINAL_COMMAND";

/// Serves until the other end is done.
pub(crate) fn run(
    arguments: &Receiver,
    prepared: Prepared,
    session: &Session,
) -> Result<Report, CommandError> {
    let served = prepared.served.ok_or_else(CommandError::panicked)?;
    let (channel, written) = transport::stdio::open(&session.runtime).map_err(|error| {
        CommandError::usage(
            format!("cannot speak over stdin and stdout: {error}"),
            "leave out --stdio; with --spare ssh://HOST/STORE an agent starts this by itself",
        )
    })?;
    let peer = arguments
        .main
        .as_ref()
        .map_or("stdin", MainName::as_str)
        .to_owned();
    let code = match served {
        Ok((store, options)) => {
            receiver::serve(store, channel, options, &peer);
            Code::Done
        }
        Err((code, failure)) => {
            tracing::info!("{}", failure.text);
            // The other end may be gone; then there is nobody to tell.
            let _ = channel.outgoing.send_message(&Message::Failure(failure));
            drop(channel);
            code
        }
    };
    written.wait(&session.runtime, FAREWELL);
    Ok(Report {
        code,
        ..Report::ended()
    })
}

/// A store, and how it is served, or why it cannot be.
pub(crate) type Served = Result<(Arc<Store>, SessionOptions), (Code, Failure)>;

/// Opens the store.
pub(crate) fn prepare(arguments: Receiver) -> Served {
    let untold = |error: CommandError| (error.code, told(&error));
    let asked = std::env::var_os(ASKED);
    let asked = asked.as_deref().map(Asked::read);
    let config = configuration(&arguments).map_err(untold)?;
    let store = arguments.store.or(config.store);
    let path = store.ok_or_else(|| untold(receiver_config::no_store()))?;
    if let Some(asked) = &asked {
        asked
            .check(&path)
            .map_err(|failure| (Code::NotAuthenticated, failure))?;
    }
    let existing = arguments.existing || asked.is_some_and(|asked| asked.existing);
    let store = if existing && !path.exists() {
        let text = format!(
            "the spare has no store at `{}`: check the address",
            shown(&path)
        );
        return Err((Code::Usage, Failure::new(FailureCode::NotFound, text)));
    } else if existing {
        Store::open_existing(&path)
    } else {
        Store::open(&path)
    };
    let store = store.map_err(|error| (Code::Failed, error.to_failure()))?;
    store.treat_new(config.specials);
    let options = SessionOptions {
        peer: arguments.main.map_or(Peer::Operator, Peer::Main),
        ..receiver::options(config.guards, config.reserve, config.quotas, config.drift)
    };
    Ok((Arc::new(store), options))
}

/// The configuration that was given, or the one at the usual place, if it is about this store.
fn configuration(arguments: &Receiver) -> Result<ReceiverConfig, CommandError> {
    if let Some(path) = &arguments.config {
        return ReceiverConfig::load(path);
    }
    usual_configuration(Path::new(receiver_config::DEFAULT), arguments)
}

/// The configuration at the usual place `path`, if it is about this store.
fn usual_configuration(path: &Path, arguments: &Receiver) -> Result<ReceiverConfig, CommandError> {
    match std::fs::File::open(path) {
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(ReceiverConfig::default()),
        // A main that is confined would go without its quota and its guards.
        Err(error) if arguments.main.is_some() => return Err(unreadable(path, &error)),
        // Whoever serves the store that it is about can read it.
        Err(_) if arguments.store.is_some() => {
            tracing::info!("`{}` cannot be read and does not count", shown(path));
            return Ok(ReceiverConfig::default());
        }
        Err(_) => return ReceiverConfig::load(path),
    }
    let config = ReceiverConfig::load(path)?;
    let Some(store) = &arguments.store else {
        return Ok(config);
    };
    match &config.store {
        Some(configured) if !is_same(configured, store) => Ok(ReceiverConfig::default()),
        _ => Ok(config),
    }
}

fn unreadable(path: &Path, error: &io::Error) -> CommandError {
    CommandError::usage(
        format!("cannot open the configuration `{}`: {error}", shown(path)),
        "let the user that serves the store read it, or name another with --config FILE",
    )
}

/// An error of this side for the other.
fn told(error: &CommandError) -> Failure {
    let mut text = format!("{} (on the spare: {})", error.message, error.hint);
    while text.len() > limits::TEXT_BYTES {
        text.pop();
    }
    Failure::new(FailureCode::Internal, text)
}

/// What a client of ssh has asked for. It has no say, but where it is in error it is told so.
struct Asked {
    store: Option<PathBuf>,
    existing: bool,
}

impl Asked {
    fn read(line: &OsStr) -> Self {
        let words = words::split(line).unwrap_or_default();
        let mut after = words.iter().skip_while(|word| *word != "--store").skip(1);
        Self {
            store: after.next().map(PathBuf::from),
            existing: words.iter().any(|word| word == "--existing"),
        }
    }

    /// Refuses another store than the one that is served: nobody should take one for the other.
    fn check(&self, served: &Path) -> Result<(), Failure> {
        match &self.store {
            Some(asked) if !is_same(asked, served) => {
                let text = format!(
                    "this key is for the store `{}` and no other: write that into the address instead of `{}`",
                    shown(served),
                    shown(asked)
                );
                Err(Failure::new(FailureCode::Forbidden, text))
            }
            _ => Ok(()),
        }
    }
}

fn is_same(one: &Path, other: &Path) -> bool {
    let canonical = |path: &Path| paths::canonical(path).unwrap_or_else(|_| path.to_owned());
    one == other || canonical(one) == canonical(other)
}

fn shown(path: &Path) -> String {
    escape(path.as_os_str().as_encoded_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "a scratch directory of the test")]
    fn a_main_is_not_served_without_a_configuration_that_is_there() {
        let scratch = tempfile::tempdir().expect("scratch");
        let path = scratch.path().join("receiver.toml");
        let arguments = |main: Option<&str>| Receiver {
            store: Some(scratch.path().join("store")),
            listen: None,
            stdio: true,
            main: main.map(|main| main.parse().expect("name")),
            existing: false,
            config: None,
        };
        assert!(usual_configuration(&path, &arguments(Some("web"))).is_ok());
        // Not even root opens what leads to itself.
        std::os::unix::fs::symlink(&path, &path).expect("link");
        assert!(usual_configuration(&path, &arguments(None)).is_ok());
        let error = usual_configuration(&path, &arguments(Some("web"))).expect_err("unreadable");
        let name = path.display().to_string();
        assert!(error.message.contains(&name), "{}", error.message);
    }

    #[test]
    fn what_was_asked_for_is_compared_with_what_is_served() {
        let asked = |line: &str| Asked::read(OsStr::new(line));
        let served = Path::new("/srv/my spare");
        let same = asked("understudy receiver --stdio --store '/srv/my spare' --existing");
        assert!(same.existing && same.check(served).is_ok());
        for silent in ["", "ls -l", "understudy receiver --store", "what 'is this"] {
            assert!(asked(silent).check(served).is_ok(), "{silent}");
        }
        let other = asked("understudy receiver --stdio --store /srv/other");
        assert!(!other.existing);
        let failure = other.check(served).expect_err("another store");
        assert_eq!(failure.code, FailureCode::Forbidden);
        assert!(failure.text.contains("/srv/my spare"), "{}", failure.text);
    }
}
