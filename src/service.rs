//! What a daemon tells its service manager (systemd). Without one, that is without `NOTIFY_SOCKET`, nothing happens.

use std::ffi::OsStr;
use std::fmt::Display;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::OnceLock;

use rustix::time::{ClockId, clock_gettime};

/// Opens the way to it, where one cannot be opened later.
pub(crate) fn connect() {
    manager();
}

/// It is ready to work.
pub(crate) fn ready() {
    tell("READY=1");
}

/// It reads its configuration again; [`ready`] ends that.
pub(crate) fn reloading() {
    let now = clock_gettime(ClockId::Monotonic);
    let microseconds = now.tv_sec * 1_000_000 + now.tv_nsec / 1000;
    tell(format_args!("RELOADING=1\nMONOTONIC_USEC={microseconds}"));
}

/// What `systemctl status` shows.
pub(crate) fn status(text: &str) {
    // A line break would begin another assignment.
    let line = understudy_protocol::escape(text.as_bytes());
    tell(format_args!("STATUS={line}"));
}

/// It still does its work: call it from the loop whose end would be noticed last, never from a thread of its own.
pub(crate) fn alive() {
    tell("WATCHDOG=1");
}

/// It is about to end.
pub(crate) fn stopping() {
    tell("STOPPING=1");
}

fn tell(what: impl Display) {
    let Some(manager) = manager() else { return };
    // Each assignment is a line.
    if let Err(error) = manager.send(format!("{what}\n").as_bytes()) {
        tracing::debug!("cannot reach the service manager: {error}");
    }
}

/// The way to it, opened once.
fn manager() -> Option<&'static UnixDatagram> {
    static MANAGER: OnceLock<Option<UnixDatagram>> = OnceLock::new();
    let open = || {
        let place = std::env::var_os("NOTIFY_SOCKET")?;
        let opened = open(&place);
        opened
            .inspect_err(|error| tracing::warn!("cannot reach the service manager: {error}"))
            .ok()
    };
    MANAGER.get_or_init(open).as_ref()
}

/// Connects to a path, or to a name without a file if it begins with `@`.
fn open(place: &OsStr) -> std::io::Result<UnixDatagram> {
    let address = match place.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(place)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.connect_addr(&address)?;
    Ok(socket)
}
