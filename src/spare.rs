//! Reaching a spare: a receiver over TLS or ssh, or one that runs in this process on a directory.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use tokio::runtime::Handle;
use understudy_agent::identity::Identity;
use understudy_agent::{AgentError, Reconnect};
use understudy_protocol::ProtocolError;
use understudy_protocol::transport::tls::{self, Credentials};
use understudy_protocol::transport::{self, Channel};
use understudy_receiver::{Deletions, Drift, ReceiverError, SessionOptions, Store};

use crate::address::Address;
use crate::exit::CommandError;
use crate::ssh::{self, Asking};

/// Whether a store may be made where there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Absent {
    /// Make it.
    Create,
    /// Say that it is not there.
    Refuse,
}

/// A spare that can be talked to, again and again.
#[derive(Debug)]
pub(crate) struct Spare {
    address: Address,
    runtime: Handle,
    absent: Absent,
    deletions: Deletions,
    ssh: ssh::Client,
    /// The state directory with the identity by which a receiver knows this host.
    identity: Option<PathBuf>,
}

/// What is still at work at the other end when a channel was dropped, as far as it can be waited for.
#[derive(Debug)]
pub(crate) enum FarEnd {
    /// A receiver that runs by itself.
    Elsewhere,
    /// A receiver within this process.
    Embedded(JoinHandle<Result<(), ReceiverError>>),
    /// A receiver that ssh has started.
    Ssh(ssh::Running),
}

impl Spare {
    /// A spare at `address`. Nothing is opened yet.
    pub(crate) fn new(address: Address, runtime: Handle, absent: Absent) -> Self {
        Self {
            address,
            runtime,
            absent,
            deletions: Deletions::Guard,
            ssh: ssh::Client::default(),
            identity: None,
        }
    }

    /// Where the identity is by which a receiver at HOST:PORT knows this host: the state directory.
    #[must_use]
    pub(crate) fn known_from(mut self, state: Option<PathBuf>) -> Self {
        self.identity = state;
        self
    }

    /// Another program than `ssh` without options, for a spare that is reached by it.
    #[must_use]
    pub(crate) fn through(mut self, ssh: ssh::Client) -> Self {
        self.ssh = ssh;
        self
    }

    /// Its store, if it is a directory of this host.
    pub(crate) fn store(&self) -> Option<&Path> {
        match &self.address {
            Address::Directory(path) => Some(path),
            Address::Host(_) | Address::Ssh(_) => None,
        }
    }

    /// Lets the guards of an embedded receiver pass.
    #[must_use]
    pub(crate) fn accepting_deletions(mut self) -> Self {
        self.deletions = Deletions::Accept;
        self
    }

    /// The address in the form that an index is kept for.
    pub(crate) fn name(&self) -> String {
        self.address.to_string()
    }

    /// Whether it is a directory of this host.
    pub(crate) fn is_here(&self) -> bool {
        matches!(self.address, Address::Directory(_))
    }

    /// Connects, lets `talk` have the channel, and waits until an embedded receiver has put everything away.
    pub(crate) fn talk<T>(
        &self,
        talk: impl FnOnce(Channel) -> Result<T, AgentError>,
    ) -> Result<T, CommandError> {
        let (channel, far_end) = self.connect()?;
        let result = talk(channel);
        self.judge(result, far_end.finish())
    }

    /// What came of talking to it, where both ends know something.
    pub(crate) fn judge<T>(
        &self,
        result: Result<T, AgentError>,
        received: Result<(), ReceiverError>,
    ) -> Result<T, CommandError> {
        match (result, received) {
            (Ok(value), _) => Ok(value),
            // What the embedded receiver died of says more than that it is gone.
            (Err(AgentError::Spare(ProtocolError::Cut)), Err(error)) => Err(error.into()),
            (Err(error), _) => Err(CommandError::from(error).about(&self.name())),
        }
    }

    /// As [`Self::talk`], for who can carry on by another connection; there is none to a receiver within this process.
    pub(crate) fn talk_on<T>(
        &self,
        talk: impl FnOnce(Channel, Reconnect<'_>) -> Result<T, AgentError>,
    ) -> Result<T, CommandError> {
        if let Address::Directory(_) = &self.address {
            return self.talk(|channel| talk(channel, None));
        }
        // What is at the other end of one that was cut ends by itself.
        let mut reconnect = || self.connect_again().map(|(channel, _)| channel);
        self.talk(|channel| talk(channel, Some(&mut reconnect)))
    }

    /// Opens a channel to the receiver.
    pub(crate) fn connect(&self) -> Result<(Channel, FarEnd), CommandError> {
        match &self.address {
            Address::Host(address) => {
                let channel = self
                    .reach(address)
                    .map_err(|error| CommandError::from(&error).about(address))?;
                Ok((channel, FarEnd::Elsewhere))
            }
            Address::Ssh(remote) => self
                .start(remote, Asking::AtTerminal)
                .map_err(|error| CommandError::from(&error)),
            Address::Directory(path) if self.absent == Absent::Refuse && !path.exists() => {
                Err(CommandError::usage(
                    format!("there is no store at `{}`", path.display()),
                    "check the path: it is what was given to `sync --spare` or `receiver --store`",
                ))
            }
            Address::Directory(path) => Ok(self.embed(path)?),
        }
    }

    /// As [`Self::connect`], for a caller that is no command: what an embedded receiver cannot do is told as a
    /// receiver at the other end of a connection would tell it.
    pub(crate) fn connect_again(&self) -> Result<(Channel, FarEnd), ProtocolError> {
        match &self.address {
            Address::Host(address) => Ok((self.reach(address)?, FarEnd::Elsewhere)),
            Address::Ssh(remote) => self.start(remote, Asking::Never),
            Address::Directory(path) => self.embed(path).map_err(|error| error.to_failure().into()),
        }
    }

    /// Connects to a receiver that knows this host. What is known is read each time: a pairing counts at once.
    fn reach(&self, address: &str) -> Result<Channel, ProtocolError> {
        let state = self.identity.as_deref().unwrap_or(Path::new(""));
        let identity = Identity::open(state).map_err(|error| unusable(&error))?;
        let Some(identity) = identity else {
            return Err(not_paired(address, &[]));
        };
        let spares = identity.spares().map_err(|error| unusable(&error))?;
        let Some(known) = spares.iter().find(|spare| spare.address == address) else {
            let others: Vec<_> = spares.iter().map(|spare| spare.address.as_str()).collect();
            return Err(not_paired(address, &others));
        };
        let credentials = Credentials::new(identity.secret())?;
        tls::connect(&self.runtime, address, &credentials, known.key)
    }

    fn start(
        &self,
        remote: &ssh::Remote,
        asking: Asking,
    ) -> Result<(Channel, FarEnd), ProtocolError> {
        let manner = (self.absent, asking);
        let (channel, running) = ssh::connect(&self.ssh, remote, manner, &self.runtime)?;
        Ok((channel, FarEnd::Ssh(running)))
    }

    fn embed(&self, path: &Path) -> Result<(Channel, FarEnd), ReceiverError> {
        let store = Arc::new(match self.absent {
            Absent::Create => Store::open(path)?,
            Absent::Refuse => Store::open_existing(path)?,
        });
        let options = SessionOptions {
            deletions: self.deletions,
            drift: Drift::Keep,
            ..SessionOptions::default()
        };
        let (ours, theirs) = transport::in_process();
        let session =
            std::thread::spawn(move || understudy_receiver::serve(store, theirs, options));
        Ok((ours, FarEnd::Embedded(session)))
    }
}

/// What it means that the identity of this host cannot be read.
pub(crate) fn unusable(error: &AgentError) -> ProtocolError {
    ProtocolError::NotAuthenticated(format!("the identity of this host cannot be used: {error}"))
}

/// This host does not know which key the spare at `address` must have.
fn not_paired(address: &str, others: &[&str]) -> ProtocolError {
    let mut text = format!("this host is not paired with the spare at {address}");
    if let [first, ..] = others {
        let first = understudy_protocol::escape(first.as_bytes());
        text.push_str(&format!(
            "; if that is the one that is known at {first}, type `understudy pair --address {address} {first}`"
        ));
    }
    ProtocolError::NotAuthenticated(text)
}

impl FarEnd {
    /// Waits until everything is put away there; the channel must have been dropped.
    pub(crate) fn finish(self) -> Result<(), ReceiverError> {
        match self {
            Self::Elsewhere => Ok(()),
            Self::Embedded(session) => session.join().unwrap_or(Err(ReceiverError::Worker)),
            Self::Ssh(running) => {
                running.finish();
                Ok(())
            }
        }
    }
}
