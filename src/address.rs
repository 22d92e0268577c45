//! What a spare's address means. Reads the file system to tell a directory from a host, and looks up what is to
//! be listened on, and nothing else.

use std::ffi::OsStr;
use std::fmt;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use understudy_protocol::escape;

use crate::exit::{Code, CommandError};
use crate::paths;
use crate::ssh::{self, Remote};

/// Where a spare is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Address {
    /// A store that this process opens itself; a canonical path.
    Directory(PathBuf),
    /// A receiver at `HOST:PORT`.
    Host(String),
    /// A store on another host, whose receiver is started through ssh.
    Ssh(Remote),
}

impl Address {
    /// Reads what was given as `--spare`, if anything was.
    pub(crate) fn given(text: Option<&OsStr>) -> Result<Self, CommandError> {
        match text {
            Some(text) => Self::parse(text),
            None => Err(CommandError::usage(
                "no spare is given",
                "add --spare ADDRESS (a directory, HOST:PORT or ssh://[USER@]HOST/STORE), or set UNDERSTUDY_SPARE",
            )),
        }
    }

    /// Reads an address.
    pub(crate) fn parse(text: &OsStr) -> Result<Self, CommandError> {
        let bytes = text.as_bytes();
        if bytes.is_empty() {
            return Err(CommandError::usage(
                "the spare's address is empty",
                "give a directory, HOST:PORT or ssh://[USER@]HOST/STORE",
            ));
        }
        if bytes.starts_with(ssh::SCHEME) {
            return Ok(Self::Ssh(Remote::parse(text)?));
        }
        let path = Path::new(text);
        let is_directory = bytes.contains(&b'/')
            || bytes.starts_with(b".")
            || !bytes.contains(&b':')
            || path.is_dir();
        if is_directory {
            let canonical = paths::canonical(path).map_err(|error| {
                let message = format!(
                    "the spare `{}` cannot be used as a directory: {error}",
                    escape(bytes)
                );
                CommandError::new(
                    Code::Usage,
                    message,
                    "check the path, and that you may enter every directory in it",
                )
            })?;
            return Ok(Self::Directory(canonical));
        }
        let host = text.to_str().ok_or_else(|| {
            let message = format!(
                "the spare's address `{}` is neither a directory nor HOST:PORT",
                escape(bytes)
            );
            CommandError::usage(message, "give a directory or HOST:PORT")
        })?;
        check_host(host)?;
        Ok(Self::Host(host.to_owned()))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory(path) => f.write_str(&escape(path.as_os_str().as_bytes())),
            Self::Host(host) => f.write_str(host),
            Self::Ssh(remote) => write!(f, "{remote}"),
        }
    }
}

/// Refuses what is no `HOST:PORT`. Whether there is such a host is found out when it is needed.
pub(crate) fn check_host(address: &str) -> Result<(), CommandError> {
    let port = address.rsplit_once(':').and_then(|(host, port)| {
        let is_name = !host.is_empty() && (!host.contains(':') || host.starts_with('['));
        port.parse::<u16>().ok().filter(|_| is_name)
    });
    let is_plain = !address.chars().any(|c| c.is_control() || c.is_whitespace());
    if port.is_some() && is_plain {
        return Ok(());
    }
    let shown = escape(address.as_bytes());
    Err(CommandError::usage(
        format!("`{shown}` is not HOST:PORT"),
        "write the port after the host, as in spare.example.org:7433 or [2001:db8::1]:7433; a directory that is not there yet is written with a `/`",
    ))
}

/// The addresses to listen on, of which there is at least one.
pub(crate) fn to_listen_on(address: &str) -> Result<Vec<SocketAddr>, CommandError> {
    check_host(address)?;
    let failed = |why: &dyn std::fmt::Display| {
        let shown = escape(address.as_bytes());
        CommandError::failed(format!("cannot listen on `{shown}`: {why}"))
    };
    let found = address.to_socket_addrs().map_err(|error| failed(&error))?;
    let found: Vec<_> = found.collect();
    if found.is_empty() {
        return Err(failed(&"it has no address"));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Address, CommandError> {
        Address::parse(OsStr::new(text))
    }

    #[test]
    fn directories_and_hosts_are_told_apart() {
        let directory = std::fs::canonicalize(".").expect("current directory");
        for (text, path) in [
            (".", directory.clone()),
            ("./no:1", directory.join("no:1")),
            ("spare", directory.join("spare")),
        ] {
            assert_eq!(parse(text).expect(text), Address::Directory(path));
        }
        assert_eq!(
            parse("/no/such:1").expect("path"),
            Address::Directory("/no/such:1".into())
        );
        for text in ["127.0.0.1:7433", "[::1]:7433", "spare.example.org:7433"] {
            assert_eq!(parse(text).expect(text), Address::Host(text.to_owned()));
        }
        for text in ["ssh://host/store", "ssh://root@[::1]:22/a store"] {
            let address = parse(text).expect(text);
            assert!(matches!(address, Address::Ssh(_)));
            assert_eq!(address.to_string(), text);
        }
    }

    #[test]
    fn what_is_neither_says_why() {
        for (text, word) in [
            ("", "empty"),
            ("ssh://host", "no store"),
            ("host:", "HOST:PORT"),
            ("host:seven", "HOST:PORT"),
            ("::1:7433", "HOST:PORT"),
            ("a host:7433", "HOST:PORT"),
        ] {
            let error = parse(text).expect_err(text);
            assert_eq!(error.code, Code::Usage);
            assert!(error.message.contains(word), "{}", error.message);
        }
    }
}
