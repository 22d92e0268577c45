//! Connecting to a spare, and what it means to people when that fails.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{AlertDescription, Error};
use tokio::net::{TcpStream, lookup_host};
use tokio::runtime::Handle;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::verify::{Expected, Server};
use super::wire::Wire;
use super::{Credentials, Purpose};
use crate::error::ProtocolError;
use crate::key::PublicKey;
use crate::transport::Channel;
use crate::transport::stream::{SPARE_STALL, channel_to_host};

/// A peer that cannot be reached within this time is away.
const CONNECT: Duration = Duration::from_secs(10);
/// A peer that has not proved who it is within this time is no peer.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// What is encrypted at once, and waits for the network at most.
pub(super) const WAITING_BYTES: usize = 128 * 1024;

/// Who is asked by whom.
#[derive(Debug, Clone)]
pub(in crate::transport) struct Asked {
    /// The spare's address, as it was typed.
    pub(in crate::transport) address: String,
    ours: PublicKey,
    /// The key that the spare has shown.
    pub(in crate::transport) came: Option<PublicKey>,
}

/// Connects to the spare at `HOST:PORT`, which must have the key `expected`; blocks until connected. That the spare does
/// not know this side is told by the first call that waits for a message.
pub fn connect(
    runtime: &Handle,
    address: &str,
    credentials: &Credentials,
    expected: PublicKey,
) -> Result<Channel, ProtocolError> {
    runtime.block_on(async {
        let expected = Expected::Key(expected);
        let (stream, asked) = secure(address, credentials, expected, Purpose::Speak).await?;
        let (reading, writing) = tokio::io::split(stream);
        let explain = move |error| asked.explain(error);
        Ok(channel_to_host(reading, writing, SPARE_STALL, explain).0)
    })
}

/// A connection to `HOST:PORT`, where there is who was expected.
pub(in crate::transport) async fn secure(
    address: &str,
    credentials: &Credentials,
    expected: Expected,
    purpose: Purpose,
) -> Result<(TlsStream<Wire<TcpStream>>, Asked), ProtocolError> {
    let mut asked = Asked {
        address: address.to_owned(),
        ours: credentials.public(),
        came: None,
    };
    let (stream, reached) = reach(address).await?;
    let server = Arc::new(Server::new(expected));
    let config = credentials.to_connect(Arc::clone(&server), purpose)?;
    let name = ServerName::IpAddress(reached.ip().into());
    let handshake = TlsConnector::from(config).connect_with(name, Wire::new(stream), |session| {
        session.set_buffer_limit(Some(WAITING_BYTES));
    });
    let handshake = timeout(HANDSHAKE, handshake).await;
    asked.came = server.came();
    let mut stream = match handshake {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return Err(asked.no_handshake(error, expected)),
        Err(_) => {
            return Err(ProtocolError::Address(format!(
                "{address} answers, but not as an understudy receiver does within {} s",
                HANDSHAKE.as_secs()
            )));
        }
    };
    stream.get_mut().0.trust();
    Ok((stream, asked))
}

/// Connects to the first of the addresses of a host that answers.
async fn reach(address: &str) -> Result<(TcpStream, SocketAddr), ProtocolError> {
    let all = resolve(address).await?;
    let each = CONNECT / u32::try_from(all.len()).unwrap_or(u32::MAX);
    let mut why = String::new();
    for one in &all {
        match timeout(each, TcpStream::connect(one)).await {
            Ok(Ok(stream)) => {
                // Frames are written whole; waiting to fill packets only adds delay. A failure costs speed alone.
                let _ = stream.set_nodelay(true);
                return Ok((stream, *one));
            }
            Ok(Err(error)) => why = error.to_string(),
            Err(_) => why = format!("no answer within {} s", each.as_secs()),
        }
    }
    Err(ProtocolError::Address(format!(
        "cannot reach the spare at {address}: {why}"
    )))
}

/// All addresses of `HOST:PORT`, of which there is at least one.
pub(super) async fn resolve(address: &str) -> Result<Vec<SocketAddr>, ProtocolError> {
    let shown = address.escape_debug();
    let found = lookup_host(address).await.map_err(|error| {
        ProtocolError::Address(format!(
            "`{shown}` is not HOST:PORT or cannot be resolved: {error}"
        ))
    })?;
    let found: Vec<_> = found.collect();
    if found.is_empty() {
        return Err(ProtocolError::Address(format!("`{shown}` has no address")));
    }
    Ok(found)
}

impl Asked {
    /// What it means that the handshake failed.
    fn no_handshake(&self, error: io::Error, expected: Expected) -> ProtocolError {
        let address = &self.address;
        match (cause(&error), expected, self.came) {
            (Some(Error::InvalidCertificate(_)), Expected::Key(expected), Some(came)) => {
                ProtocolError::NotAuthenticated(format!(
                    "the spare at {address} is not the one that this host was paired with: {expected} was expected, but its key is \
                     {came}. If the spare was made anew, pair the two again; if it was not, somebody else answers in its place"
                ))
            }
            (Some(Error::InvalidCertificate(_)), Expected::Of(_), Some(_)) => {
                ProtocolError::NotAuthenticated(format!(
                    "the code is not of the spare at {address}: compare both with what the spare has printed"
                ))
            }
            (Some(Error::InvalidMessage(_)), ..) => ProtocolError::Address(format!(
                "what listens at {address} does not speak TLS: it is no understudy receiver"
            )),
            (Some(Error::PeerIncompatible(why)), ..) => ProtocolError::Address(format!(
                "what listens at {address} does not speak TLS 1.3 as an understudy receiver does ({why:?})"
            )),
            _ => self.explain(error),
        }
    }

    /// What it means that a read failed.
    pub(in crate::transport) fn explain(&self, error: io::Error) -> ProtocolError {
        let (address, ours) = (&self.address, &self.ours);
        match cause(&error) {
            Some(Error::AlertReceived(AlertDescription::AccessDenied)) => {
                ProtocolError::NotAuthenticated(format!(
                    "the spare at {address} does not know this host, or does not know it any more: its key is {ours}"
                ))
            }
            Some(Error::AlertReceived(
                AlertDescription::NoApplicationProtocol | AlertDescription::ProtocolVersion,
            )) => ProtocolError::Address(format!(
                "what listens at {address} is no understudy receiver, or one of another version"
            )),
            // Without the end that TLS has, the rest may be missing.
            None if error.kind() == io::ErrorKind::UnexpectedEof => ProtocolError::Cut,
            _ => error.into(),
        }
    }
}

/// What TLS found wrong, if it was TLS.
pub(super) fn cause(error: &io::Error) -> Option<&Error> {
    error.get_ref()?.downcast_ref()
}
