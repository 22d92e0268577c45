//! Frames over TCP. Until peers are authenticated, on the loopback interface only.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream, lookup_host};
use tokio::runtime::Handle;
use tokio::time::timeout;

use super::Channel;
use super::stream::{AGENT_STALL, SPARE_STALL, channel};
use crate::error::ProtocolError;

/// A peer that cannot be reached within this time is away.
const CONNECT: Duration = Duration::from_secs(10);

/// Connects to `HOST:PORT`; blocks until connected.
pub fn connect(runtime: &Handle, address: &str) -> Result<Channel, ProtocolError> {
    runtime.block_on(async {
        let address = resolve(address).await?;
        let unreachable = |why: String| {
            ProtocolError::Address(format!("cannot reach the spare at {address}: {why}"))
        };
        match timeout(CONNECT, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => Ok(over(stream, SPARE_STALL)),
            Ok(Err(error)) => Err(unreachable(error.to_string())),
            Err(_) => Err(unreachable(format!(
                "no answer within {} s",
                CONNECT.as_secs()
            ))),
        }
    })
}

/// A bound listener.
#[derive(Debug)]
pub struct Listener {
    listener: TcpListener,
}

impl Listener {
    /// Binds to `HOST:PORT`; port 0 lets the system choose.
    pub async fn bind(address: &str) -> Result<Self, ProtocolError> {
        let address = resolve(address).await?;
        let listener = TcpListener::bind(address).await.map_err(|error| {
            ProtocolError::Address(format!("cannot listen on {address}: {error}"))
        })?;
        Ok(Self { listener })
    }

    /// The address it listens on.
    pub fn address(&self) -> Result<SocketAddr, ProtocolError> {
        Ok(self.listener.local_addr()?)
    }

    /// Waits for the next connection.
    pub async fn accept(&self) -> Result<(Channel, SocketAddr), ProtocolError> {
        let (stream, peer) = self.listener.accept().await?;
        Ok((over(stream, AGENT_STALL), peer))
    }
}

async fn resolve(address: &str) -> Result<SocketAddr, ProtocolError> {
    let shown = address.escape_debug();
    let found = lookup_host(address)
        .await
        .map_err(|error| {
            ProtocolError::Address(format!(
                "`{shown}` is not HOST:PORT or cannot be resolved: {error}"
            ))
        })?
        .next();
    match found {
        Some(address) if address.ip().is_loopback() => Ok(address),
        Some(_) => Err(ProtocolError::Address(format!(
            "`{shown}` is not a loopback address: connections are not encrypted and authenticated yet, so only \
             127.0.0.1 and [::1] are allowed; to reach another host, forward a port, for instance with \
             `ssh -L 7433:127.0.0.1:7433 HOST`"
        ))),
        None => Err(ProtocolError::Address(format!("`{shown}` has no address"))),
    }
}

fn over(stream: TcpStream, stall: Duration) -> Channel {
    // Frames are written whole; waiting to fill packets only adds delay. A failure costs speed alone.
    let _ = stream.set_nodelay(true);
    let (reading, writing) = stream.into_split();
    channel(reading, writing, stall)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_addresses_are_allowed() {
        let runtime = tokio::runtime::Runtime::new().expect("runtime");
        for address in ["10.0.0.1:7433", "0.0.0.0:7433", "[2001:db8::1]:7433"] {
            let error = connect(runtime.handle(), address)
                .expect_err("refused")
                .to_string();
            assert!(error.contains("loopback"), "{error}");
            assert!(runtime.block_on(Listener::bind(address)).is_err());
        }
        assert!(connect(runtime.handle(), "nonsense").is_err());
    }

    #[test]
    fn two_sides_greet_over_tcp() {
        let runtime = tokio::runtime::Runtime::new().expect("runtime");
        let listener = runtime
            .block_on(Listener::bind("127.0.0.1:0"))
            .expect("bind");
        let address = listener.address().expect("address").to_string();
        let mut client = connect(runtime.handle(), &address).expect("connect");
        let (mut server, _) = runtime.block_on(listener.accept()).expect("accept");
        let other = std::thread::spawn(move || server.greet());
        assert_eq!(client.greet().expect("greeting"), crate::version::NEWEST);
        assert_eq!(
            other.join().expect("thread").expect("greeting"),
            crate::version::NEWEST
        );
    }
}
