//! Who this host is as a main: its secret key, and the spares that it is paired with.
//!
//! In `identity` below the state directory; written by `understudy pair`, read before each connection.

use std::path::Path;

use serde::{Deserialize, Serialize};
use understudy_protocol::{MainName, Name, PublicKey, SecretKey};
use understudy_tree::Private;

use crate::db::ensure_state_directory;
use crate::error::AgentError;

const DIRECTORY: &str = "identity";
const SPARES: &str = "spares.toml";
const SPARES_HEAD: &str = "\
# The spares that this host is paired with, by the addresses at which it reaches them.
# `understudy pair` writes this file, and keeps no other comments.

";

/// A main's key and what it knows.
#[derive(Debug)]
pub struct Identity {
    private: Private,
    key: SecretKey,
}

/// A spare that this host is paired with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KnownSpare {
    /// `HOST:PORT`, as it was typed.
    pub address: String,
    /// The key that it must have.
    pub key: PublicKey,
    /// What it calls this host.
    pub main: MainName,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SparesFile {
    #[serde(default)]
    spare: Vec<KnownSpare>,
}

impl Identity {
    /// The identity in the state directory; `None` if there is none yet.
    pub fn open(state: &Path) -> Result<Option<Self>, AgentError> {
        let Some(private) = Private::open(&state.join(DIRECTORY))? else {
            return Ok(None);
        };
        let key = private.key()?;
        Ok(key.map(|key| Self { private, key }))
    }

    /// As [`Identity::open`]; made if there is none.
    pub fn open_or_create(state: &Path) -> Result<Self, AgentError> {
        ensure_state_directory(state)?;
        let name =
            Name::new(DIRECTORY).map_err(|error| AgentError::state("name", state, &error))?;
        let private = Private::ensure(state, &name)?;
        let key = private.ensure_key()?;
        Ok(Self { private, key })
    }

    /// Makes a key that was another host's the one of this host, which must have none, or that one.
    pub fn adopt(state: &Path, key: &SecretKey) -> Result<Self, AgentError> {
        ensure_state_directory(state)?;
        let name =
            Name::new(DIRECTORY).map_err(|error| AgentError::state("name", state, &error))?;
        let private = Private::ensure(state, &name)?;
        let key = private.adopt_key(key)?;
        Ok(Self { private, key })
    }

    /// The secret key.
    pub fn secret(&self) -> &SecretKey {
        &self.key
    }

    /// The key by which spares know this host.
    pub fn public(&self) -> PublicKey {
        self.key.public()
    }

    /// All spares that are known, by address.
    pub fn spares(&self) -> Result<Vec<KnownSpare>, AgentError> {
        let Some(text) = self.private.read(SPARES)? else {
            return Ok(Vec::new());
        };
        let refuse = |why: &dyn std::fmt::Display| {
            AgentError::state("use", self.private.path().join(SPARES), why)
        };
        let mut spares = toml::from_str::<SparesFile>(&text)
            .map_err(|error| refuse(&error))?
            .spare;
        spares.sort_by(|left, right| left.address.cmp(&right.address));
        let twice = spares
            .windows(2)
            .find(|pair| pair[0].address == pair[1].address);
        match twice {
            Some(pair) => Err(refuse(&format!("it has `{}` twice", pair[0].address))),
            None => Ok(spares),
        }
    }

    /// The spare at an address as it is typed, if it is known.
    pub fn spare(&self, address: &str) -> Result<Option<KnownSpare>, AgentError> {
        let spares = self.spares()?;
        Ok(spares.into_iter().find(|spare| spare.address == address))
    }

    /// Knows a spare from now on. Says what was known at its address before.
    pub fn remember(&self, spare: KnownSpare) -> Result<Option<KnownSpare>, AgentError> {
        self.change(|spares| {
            let at = spares
                .iter()
                .position(|known| known.address == spare.address);
            let before = at.map(|at| spares.remove(at));
            spares.push(spare);
            before
        })
    }

    /// Knows the spare at an address no more. Says what was known of it.
    pub fn forget(&self, address: &str) -> Result<Option<KnownSpare>, AgentError> {
        self.change(|spares| {
            let at = spares.iter().position(|known| known.address == address)?;
            Some(spares.remove(at))
        })
    }

    fn change<T>(&self, change: impl FnOnce(&mut Vec<KnownSpare>) -> T) -> Result<T, AgentError> {
        let locked = self.private.lock()?;
        let mut spare = self.spares()?;
        let changed = change(&mut spare);
        let path = || self.private.path().join(SPARES);
        let text = toml::to_string(&SparesFile { spare })
            .map_err(|error| AgentError::state("write", path(), &error))?;
        locked.replace(SPARES, &format!("{SPARES_HEAD}{text}"))?;
        Ok(changed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spare(address: &str, seed: u8) -> KnownSpare {
        KnownSpare {
            address: address.to_owned(),
            key: SecretKey::from_seed(&[seed; 32]).expect("key").public(),
            main: "web".parse().expect("name"),
        }
    }

    #[test]
    fn spares_are_remembered_by_their_addresses() {
        let scratch = tempfile::tempdir().expect("scratch");
        let state = scratch.path().join("state");
        assert!(Identity::open(&state).expect("none").is_none());
        let identity = Identity::open_or_create(&state).expect("made");
        assert_eq!(identity.spares().expect("none"), []);
        let (first, second) = (spare("a:1", 1), spare("b:1", 2));
        assert_eq!(identity.remember(first.clone()).expect("kept"), None);
        assert_eq!(identity.remember(second.clone()).expect("kept"), None);
        let moved = spare("a:1", 3);
        assert_eq!(identity.remember(moved.clone()).expect("kept"), Some(first));

        let again = Identity::open(&state).expect("open").expect("there");
        assert_eq!(again.public(), identity.public());
        assert_eq!(again.spare("a:1").expect("read"), Some(moved.clone()));
        assert_eq!(again.spare("c:1").expect("read"), None);
        assert_eq!(again.forget("a:1").expect("forgotten"), Some(moved));
        assert_eq!(again.forget("a:1").expect("forgotten"), None);
        assert_eq!(identity.spares().expect("read"), [second]);
    }

    #[test]
    #[expect(
        clippy::disallowed_methods,
        reason = "people edit the file by any means"
    )]
    fn a_list_that_cannot_be_read_is_never_replaced() {
        let scratch = tempfile::tempdir().expect("scratch");
        let identity = Identity::open_or_create(scratch.path()).expect("made");
        identity.remember(spare("a:1", 1)).expect("kept");
        let file = scratch.path().join("identity/spares.toml");
        let text = std::fs::read_to_string(&file).expect("there");
        for wrong in [format!("{text}colour = 1\n"), format!("{text}{text}")] {
            std::fs::write(&file, &wrong).expect("edited");
            let error = identity.remember(spare("b:1", 2)).expect_err("unreadable");
            assert!(error.to_string().contains("spares.toml"), "{error}");
            assert_eq!(std::fs::read_to_string(&file).expect("there"), wrong);
        }
    }
}
