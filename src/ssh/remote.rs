//! `ssh://[USER@]HOST[:PORT]/STORE`, in which nothing can be taken for an option.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use understudy_protocol::escape;

use crate::exit::CommandError;

/// What these addresses begin with.
pub(crate) const SCHEME: &[u8] = b"ssh://";

/// A store on another host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Remote {
    user: Option<String>,
    /// A name, or an IP address without brackets.
    host: String,
    pub(super) port: Option<u16>,
    /// Absolute; as it is called there.
    pub(crate) store: PathBuf,
}

impl Remote {
    /// Reads an address that begins with [`SCHEME`].
    pub(crate) fn parse(text: &OsStr) -> Result<Self, CommandError> {
        Self::read(text.as_bytes()).map_err(|why| {
            CommandError::usage(
                format!("the spare `{}` cannot be used: {why}", escape(text.as_bytes())),
                "write ssh://[USER@]HOST[:PORT]/STORE, as in ssh://root@spare.example.org/srv/spare",
            )
        })
    }

    fn read(address: &[u8]) -> Result<Self, String> {
        let rest = address.strip_prefix(SCHEME).unwrap_or(address);
        let slash = rest.iter().position(|&byte| byte == b'/');
        let (authority, store) = rest.split_at(slash.unwrap_or(rest.len()));
        let authority =
            std::str::from_utf8(authority).map_err(|_| "its host is no text".to_owned())?;
        let (user, place) = match authority.rsplit_once('@') {
            Some((user, place)) => (Some(user), place),
            None => (None, authority),
        };
        if let Some(user) = user {
            check("user", user, "._-+@")?;
        }
        let (host, port) = host_and_port(place)?;
        let end = store.iter().rposition(|&byte| byte != b'/');
        let Some(end) = end else {
            return Err("it names no store".to_owned());
        };
        Ok(Self {
            user: user.map(ToOwned::to_owned),
            host: host.to_owned(),
            port,
            store: OsString::from_vec(store[..=end].to_vec()).into(),
        })
    }

    /// What ssh is told.
    pub(super) fn destination(&self) -> String {
        match &self.user {
            Some(user) => format!("{user}@{}", self.host),
            None => self.host.clone(),
        }
    }

    /// The host, for people.
    pub(super) fn host(&self) -> &str {
        &self.host
    }

    /// As its keys are called in `known_hosts`.
    pub(super) fn known_as(&self) -> String {
        match self.port {
            Some(port) if port != 22 => format!("[{}]:{port}", self.host),
            _ => self.host.clone(),
        }
    }
}

fn host_and_port(place: &str) -> Result<(&str, Option<u16>), String> {
    let (host, port) = match place.strip_prefix('[') {
        Some(rest) => {
            let (host, after) = rest.split_once(']').ok_or("a `[` is not closed")?;
            check("host", host, ".:%-_")?;
            (host, (!after.is_empty()).then_some(after))
        }
        None => {
            let colon = place.find(':').unwrap_or(place.len());
            let (host, after) = place.split_at(colon);
            check("host", host, "._-")?;
            (host, (!after.is_empty()).then_some(after))
        }
    };
    let port = port.map(|port| {
        let number = port.strip_prefix(':').and_then(|port| port.parse().ok());
        number.filter(|&number| number > 0).ok_or_else(|| {
            let port = escape(port.trim_start_matches(':').as_bytes());
            format!("`{port}` is no port (an IPv6 address is written in brackets, as in ssh://[::1]/STORE)")
        })
    });
    Ok((host, port.transpose()?))
}

/// Lets through what neither ssh nor any shell can take for something else.
fn check(what: &str, text: &str, also: &str) -> Result<(), String> {
    let odd = text
        .chars()
        .find(|&one| !one.is_ascii_alphanumeric() && !also.contains(one));
    match odd {
        _ if text.is_empty() => Err(format!("its {what} is empty")),
        _ if text.starts_with('-') => {
            Err(format!("its {what} begins with `-`, as only an option may"))
        }
        Some(odd) => Err(format!("its {what} holds {odd:?}")),
        None => Ok(()),
    }
}

impl fmt::Display for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ssh://")?;
        if let Some(user) = &self.user {
            write!(f, "{user}@")?;
        }
        if self.host.contains(':') {
            write!(f, "[{}]", self.host)?;
        } else {
            f.write_str(&self.host)?;
        }
        if let Some(port) = self.port {
            write!(f, ":{port}")?;
        }
        f.write_str(&escape(self.store.as_os_str().as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_they_are_written() {
        for (text, destination, port, store) in [
            ("ssh://spare/srv", "spare", None, "/srv"),
            (
                "ssh://root@spare:2222/srv/a b",
                "root@spare",
                Some(2222),
                "/srv/a b",
            ),
            ("ssh://a@example.org@h/s", "a@example.org@h", None, "/s"),
            (
                "ssh://me@[fe80::1%eth0]:22/s:1/@x",
                "me@fe80::1%eth0",
                Some(22),
                "/s:1/@x",
            ),
        ] {
            let remote = Remote::parse(OsStr::new(text)).expect(text);
            assert_eq!(remote.destination(), destination);
            assert_eq!(remote.port, port);
            assert_eq!(remote.store, PathBuf::from(store));
            assert_eq!(remote.to_string(), text);
        }
        let slashes = Remote::parse(OsStr::new("ssh://spare/srv//")).expect("address");
        assert_eq!(slashes.to_string(), "ssh://spare/srv");
    }

    #[test]
    fn what_could_be_an_option_or_do_harm_is_refused() {
        for (text, word) in [
            ("ssh://", "host is empty"),
            ("ssh:///srv", "host is empty"),
            ("ssh://spare", "no store"),
            ("ssh://spare/", "no store"),
            ("ssh://spare///", "no store"),
            ("ssh://-oProxyCommand=id/srv", "`-`"),
            ("ssh://-oProxyCommand=id@spare/srv", "`-`"),
            ("ssh://[-oProxyCommand=id]/srv", "`-`"),
            ("ssh://root@-v/srv", "`-`"),
            ("ssh://@spare/srv", "user is empty"),
            ("ssh://a;id@spare/srv", "';'"),
            ("ssh://$(id)/srv", "'$'"),
            ("ssh://a b/srv", "' '"),
            ("ssh://user:word@spare/srv", "':'"),
            ("ssh://spare\n/srv", "'\\n'"),
            ("ssh://spare:/srv", "no port"),
            ("ssh://spare:0/srv", "no port"),
            ("ssh://spare:-22/srv", "no port"),
            ("ssh://spare:99999/srv", "no port"),
            ("ssh://::1/srv", "host is empty"),
            ("ssh://fe80::1/srv", "brackets"),
            ("ssh://[::1/srv", "not closed"),
            ("ssh://[::1]22/srv", "no port"),
        ] {
            let error = Remote::parse(OsStr::new(text)).expect_err(text).message;
            assert!(error.contains(word), "{text}: {error}");
        }
    }
}
