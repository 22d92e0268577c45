//! Reaching a spare: a receiver over TCP, or one that runs in this process on a directory.

use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

use tokio::runtime::Handle;
use understudy_agent::{AgentError, Reconnect};
use understudy_protocol::ProtocolError;
use understudy_protocol::transport::{self, Channel};
use understudy_receiver::{Deletions, ReceiverError, SessionOptions, Store};

use crate::address::Address;
use crate::exit::CommandError;

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
}

/// The receiver within this process, if the spare is a directory.
#[derive(Debug)]
pub(crate) struct Embedded {
    session: Option<JoinHandle<Result<(), ReceiverError>>>,
}

impl Spare {
    /// A spare at `address`. Nothing is opened yet.
    pub(crate) fn new(address: Address, runtime: Handle, absent: Absent) -> Self {
        Self {
            address,
            runtime,
            absent,
            deletions: Deletions::Guard,
        }
    }

    /// Its store, if it is a directory of this host.
    pub(crate) fn store(&self) -> Option<&Path> {
        match &self.address {
            Address::Directory(path) => Some(path),
            Address::Host(_) => None,
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

    /// Connects, lets `talk` have the channel, and waits until an embedded receiver has put everything away.
    pub(crate) fn talk<T>(
        &self,
        talk: impl FnOnce(Channel) -> Result<T, AgentError>,
    ) -> Result<T, CommandError> {
        let (channel, embedded) = self.connect()?;
        let result = talk(channel);
        let received = embedded.finish();
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
        let Address::Host(address) = &self.address else {
            return self.talk(|channel| talk(channel, None));
        };
        let mut reconnect = || transport::tcp::connect(&self.runtime, address);
        self.talk(|channel| talk(channel, Some(&mut reconnect)))
    }

    /// Opens a channel to the receiver.
    pub(crate) fn connect(&self) -> Result<(Channel, Embedded), CommandError> {
        match &self.address {
            Address::Host(address) => {
                let channel = transport::tcp::connect(&self.runtime, address)
                    .map_err(|error| CommandError::from(&error).about(address))?;
                Ok((channel, Embedded { session: None }))
            }
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
    pub(crate) fn connect_again(&self) -> Result<(Channel, Embedded), ProtocolError> {
        match &self.address {
            Address::Host(address) => Ok((
                transport::tcp::connect(&self.runtime, address)?,
                Embedded { session: None },
            )),
            Address::Directory(path) => self.embed(path).map_err(|error| error.to_failure().into()),
        }
    }

    fn embed(&self, path: &Path) -> Result<(Channel, Embedded), ReceiverError> {
        let store = Arc::new(match self.absent {
            Absent::Create => Store::open(path)?,
            Absent::Refuse => Store::open_existing(path)?,
        });
        let options = SessionOptions {
            deletions: self.deletions,
            ..SessionOptions::default()
        };
        let (ours, theirs) = transport::in_process();
        let session =
            std::thread::spawn(move || understudy_receiver::serve(store, theirs, options));
        Ok((
            ours,
            Embedded {
                session: Some(session),
            },
        ))
    }
}

impl Embedded {
    /// Waits for the end of the session, whose channel must have been dropped.
    pub(crate) fn finish(self) -> Result<(), ReceiverError> {
        match self.session {
            None => Ok(()),
            Some(session) => session.join().unwrap_or(Err(ReceiverError::Worker)),
        }
    }
}
