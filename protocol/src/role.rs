//! Which part a host plays for a dataset, and in which epoch: what either side writes down before it takes effect.
//!
//! A dataset has one main at a time. A spare that is promoted becomes the main of the next epoch, so no two hosts are the main in the same one;
//! whoever comes with an older epoch is refused.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::digest::Fingerprint;
use crate::hash::ContentHash;
use crate::place::Position;

/// The epoch of a dataset that was never promoted.
pub const FIRST_EPOCH: u64 = 1;
/// A standing takes a few lines; anything longer is none.
pub const STANDING_BYTES: u64 = 4096;

/// The part a host plays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Role {
    /// It follows: its live tree is what the main sent last.
    Spare,
    /// Its tree is the truth.
    Main,
    /// It was the main and stopped, so that another host can take over.
    HandedOver,
    /// It was the main until another host took over.
    Fenced,
}

impl Role {
    const ALL: [Self; 4] = [Self::Spare, Self::Main, Self::HandedOver, Self::Fenced];

    /// The word for it, in files and reports.
    pub fn word(self) -> &'static str {
        match self {
            Self::Spare => "spare",
            Self::Main => "main",
            Self::HandedOver => "handed-over",
            Self::Fenced => "fenced",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// What a host knows of its part in a dataset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// Its part.
    pub role: Role,
    /// The highest epoch it has seen.
    pub epoch: u64,
    /// Since when, by this host's clock, seconds since 1970.
    pub since_seconds: i64,
    /// The snapshot it had, or had sent, at that moment; `None` if it had none or does not know.
    pub snapshot: Option<Position>,
}

impl Standing {
    /// What a host begins with in a dataset that was never promoted.
    pub fn first(role: Role) -> Self {
        Self {
            role,
            epoch: FIRST_EPOCH,
            since_seconds: 0,
            snapshot: None,
        }
    }

    fn body(&self) -> String {
        let Self {
            role,
            epoch,
            since_seconds,
            snapshot,
        } = self;
        let mut text = format!("role: {role}\nepoch: {epoch}\nsince: {since_seconds}\n");
        if let Some(at) = snapshot {
            text.push_str(&format!(
                "snapshot: {} {} {}\n",
                at.epoch, at.number, at.fingerprint
            ));
        }
        text
    }
}

/// The text of the file; what [`FromStr`] reads.
impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let body = self.body();
        writeln!(f, "{body}check: {}", ContentHash::of(body.as_bytes()))
    }
}

/// A text that says nothing certain about a host's part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it is no note of a role, or a damaged one")]
pub struct InvalidStanding;

impl FromStr for Standing {
    type Err = InvalidStanding;

    /// A bit that flips must not make a main of a spare: only the very text that was written counts.
    fn from_str(text: &str) -> Result<Self, InvalidStanding> {
        let value = |key: &str| {
            let mut lines = text.lines();
            lines.find_map(|line| line.strip_prefix(key)?.strip_prefix(": "))
        };
        let read = || {
            let word = value("role")?;
            Some(Self {
                role: Role::ALL.into_iter().find(|role| role.word() == word)?,
                epoch: value("epoch")?.parse().ok()?,
                since_seconds: value("since")?.parse().ok()?,
                snapshot: match value("snapshot") {
                    Some(text) => Some(position(text)?),
                    None => None,
                },
            })
        };
        read()
            .filter(|standing| standing.to_string() == text)
            .ok_or(InvalidStanding)
    }
}

fn position(text: &str) -> Option<Position> {
    let mut words = text.split(' ');
    Some(Position {
        epoch: words.next()?.parse().ok()?,
        number: words.next()?.parse().ok()?,
        fingerprint: words.next()?.parse::<Fingerprint>().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_standing_is_read_as_it_was_written_and_no_changed_bit_counts() {
        let promoted = Standing {
            role: Role::Main,
            epoch: 2,
            since_seconds: 1_790_000_000,
            snapshot: Some(Position {
                epoch: 1,
                number: 17,
                fingerprint: Fingerprint([7; 32]),
            }),
        };
        for role in Role::ALL {
            for standing in [Standing { role, ..promoted }, Standing::first(role)] {
                let text = standing.to_string();
                assert_eq!(text.parse(), Ok(standing));
                for at in 0..text.len() * 8 {
                    let mut bytes = text.clone().into_bytes();
                    bytes[at / 8] ^= 1 << (at % 8);
                    let changed = String::from_utf8_lossy(&bytes).into_owned();
                    assert_eq!(
                        changed.parse::<Standing>(),
                        Err(InvalidStanding),
                        "bit {at}"
                    );
                }
                assert!(text[..text.len() - 1].parse::<Standing>().is_err());
            }
        }
        assert!("".parse::<Standing>().is_err());
    }
}
