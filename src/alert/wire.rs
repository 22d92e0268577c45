//! What the receiver and its messenger say to each other: one JSON object in a line, bounded, and nothing that either
//! would run, open or fetch because the other said so.

use std::io::{self, BufRead, Read, Write};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The longest line: a configuration of a mebibyte, each byte escaped.
const LINE_BYTES: u64 = 8 << 20;
/// The longest configuration.
pub(super) const CONFIG_BYTES: u64 = 1 << 20;

/// What the receiver asks for. The messenger answers each that has a number, once.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Request {
    /// Tell people these facts, in the ways that are configured.
    Tell {
        /// Comes back in the answer.
        number: u64,
        /// The facts of a `Document`.
        facts: Map<String, Value>,
    },
    /// Fetch the heartbeat of the receiver.
    Beat {
        /// Comes back in the answer.
        number: u64,
    },
    /// Fetch the heartbeat of a dataset, if it has one.
    Ping {
        /// Which.
        dataset: String,
        /// How it is.
        state: State,
    },
    /// Read the configuration again, and count on it from now on.
    Reload,
}

/// How a dataset is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum State {
    /// A good cycle has ended.
    Fresh,
    /// There is an alert.
    Failed,
}

/// What the messenger answers.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Reply {
    /// What this number asked for is done, or was tried in vain.
    Ended {
        /// Of the request.
        number: u64,
        /// Whether it worked.
        worked: bool,
    },
    /// The configuration, read again and right.
    Config {
        /// All of it.
        text: String,
    },
    /// The configuration is wrong, or cannot be read; the former one counts.
    Refused {
        /// Why.
        reason: String,
    },
}

/// Writes one message.
pub(crate) fn write(to: &mut impl Write, message: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    if line.len() as u64 > LINE_BYTES {
        return Err(io::Error::other("it is too long to be passed on"));
    }
    to.write_all(&line)?;
    to.flush()
}

/// Reads one message; `None` at the end.
pub(crate) fn read<T: DeserializeOwned>(from: &mut impl BufRead) -> io::Result<Option<T>> {
    let mut line = Vec::new();
    from.take(LINE_BYTES).read_until(b'\n', &mut line)?;
    match line.last() {
        None => Ok(None),
        Some(b'\n') => Ok(Some(serde_json::from_slice(&line)?)),
        Some(_) => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_nothing_else() {
        let requests = [
            Request::Tell {
                number: 7,
                facts: Map::from_iter([("reason".to_owned(), Value::from("a\nb"))]),
            },
            Request::Ping {
                dataset: "site".to_owned(),
                state: State::Failed,
            },
            Request::Reload,
        ];
        let mut bytes = Vec::new();
        for request in &requests {
            write(&mut bytes, request).expect("write");
        }
        let mut rest = &bytes[..];
        for request in requests {
            assert_eq!(read(&mut rest).expect("read"), Some(request));
        }
        assert_eq!(read::<Request>(&mut rest).expect("the end"), None);
        for bad in [
            "{\"run\":{\"command\":[\"/bin/sh\"]}}\n",
            "{\"beat\":{\"number\":1,\"url\":\"http://host\"}}\n",
            "{\"beat\":{\"number\":1}}",
            "\n",
        ] {
            assert!(read::<Request>(&mut bad.as_bytes()).is_err(), "{bad}");
        }
        let endless = io::BufReader::new(io::repeat(b'a'));
        assert!(read::<Request>(&mut { endless }).is_err());
    }
}
