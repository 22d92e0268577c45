//! Whom the spare knows: its own key, the mains with theirs, and the codes with which further ones pair.
//!
//! All of it is in files of the store, which people may read and edit: commands on the spare change them under a lock,
//! and a receiver that runs looks at them whenever it must know. A list that cannot be read lets nobody in.

mod codes;
#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use understudy_protocol::transport::pairing::CodeSecret;
use understudy_protocol::transport::tls::{Doorkeeper, Refusal, Welcome};
use understudy_protocol::{MainName, PublicKey, SecretKey};
use understudy_tree::Private;
use understudy_tree::private::{Locked, Stamp};

use crate::error::ReceiverError;
use crate::names;

pub use codes::{NewCode, OpenCode};

const MAINS: &str = "mains.toml";
const MAINS_HEAD: &str = "\
# The mains that this spare knows. A receiver that runs looks at this file every second: what is removed here is cut off.
# `understudy pair` writes it, and keeps no other comments.

";
/// Where a receiver listens, for who tells people what to type.
const ADDRESS: &str = "address";

/// What a spare knows of itself and of its mains.
#[derive(Debug)]
pub struct Trust {
    private: Private,
    key: SecretKey,
    seen: Mutex<Option<Seen>>,
}

/// A main that the spare knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Main {
    /// What it is called here.
    pub name: MainName,
    /// The key with which it proves who it is.
    pub key: PublicKey,
    /// Since when that is so.
    pub since: Timestamp,
}

/// What was taken away by a revocation; never nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revoked {
    /// What was known of the main, if it was known.
    pub main: Option<Main>,
    /// How many open codes there were for it.
    pub codes: usize,
}

/// The list of mains as it was read last.
#[derive(Debug)]
struct Seen {
    stamp: Option<Stamp>,
    mains: Arc<Vec<Main>>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct MainsFile {
    #[serde(default)]
    main: Vec<Main>,
}

impl Trust {
    /// What the store at `store` knows; `None` if it was never made to know anything.
    pub fn open(store: &Path) -> Result<Option<Self>, ReceiverError> {
        let path = store.join(names::TRUST.as_os_str());
        let Some(private) = Private::open(&path)? else {
            return Ok(None);
        };
        let key = private.key()?;
        Ok(key.map(|key| Self::with(private, key)))
    }

    /// As [`Trust::open`]; the spare's key is made if there is none.
    pub fn open_or_create(store: &Path) -> Result<Self, ReceiverError> {
        let private = Private::ensure(store, &names::TRUST)?;
        let key = private.ensure_key()?;
        Ok(Self::with(private, key))
    }

    fn with(private: Private, key: SecretKey) -> Self {
        Self {
            private,
            key,
            seen: Mutex::default(),
        }
    }

    /// The spare's own key.
    pub fn key(&self) -> &SecretKey {
        &self.key
    }

    /// The mains that it knows now, by name.
    pub fn mains(&self) -> Result<Arc<Vec<Main>>, ReceiverError> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        // Before the file is read: one that is written meanwhile is read again.
        let stamp = self.private.stamp(MAINS)?;
        if let Some(seen) = &*seen
            && seen.stamp == stamp
        {
            return Ok(Arc::clone(&seen.mains));
        }
        let mains = Arc::new(self.read_mains()?);
        *seen = Some(Seen {
            stamp,
            mains: Arc::clone(&mains),
        });
        Ok(mains)
    }

    /// The main of this name, if there is one.
    pub fn main(&self, name: &MainName) -> Result<Option<Main>, ReceiverError> {
        let mains = self.mains()?;
        Ok(mains.iter().find(|main| main.name == *name).cloned())
    }

    /// Takes away that a main is known, and the codes with which it could be known again.
    pub fn revoke(&self, name: &MainName) -> Result<Revoked, ReceiverError> {
        let locked = self.private.lock()?;
        // First, so that a list of mains that cannot be read leaves no code behind.
        let codes = codes::drop_of(&self.private, &locked, name)?;
        let mut mains = self.read_mains()?;
        let Some(at) = mains.iter().position(|main| main.name == *name) else {
            if codes > 0 {
                return Ok(Revoked { main: None, codes });
            }
            let known: Vec<_> = mains.iter().map(|main| main.name.as_str()).collect();
            let known = if known.is_empty() {
                "none".to_owned()
            } else {
                known.join(", ")
            };
            return Err(ReceiverError::NotFound(format!(
                "the spare knows no main `{name}` and has no open code for it (it knows: {known})"
            )));
        };
        let gone = mains.remove(at);
        write_mains(&locked, mains)?;
        Ok(Revoked {
            main: Some(gone),
            codes,
        })
    }

    /// Where a receiver of this store listened last.
    pub fn address(&self) -> Result<Option<String>, ReceiverError> {
        Ok(self.private.read(ADDRESS)?)
    }

    /// Writes down where the receiver listens.
    pub fn note_address(&self, address: &str) -> Result<(), ReceiverError> {
        Ok(self.private.lock()?.replace(ADDRESS, address)?)
    }

    /// Binds a key to a name; says whether the name had another key.
    fn bind(
        &self,
        locked: &Locked<'_>,
        name: &MainName,
        key: &PublicKey,
    ) -> Result<bool, ReceiverError> {
        let mut mains = self.read_mains()?;
        let since = Timestamp::from_second(Timestamp::now().as_second()).unwrap_or_default();
        let known = mains.iter_mut().find(|main| main.name == *name);
        let replaced = match known {
            Some(main) if main.key == *key => return Ok(false),
            Some(main) => {
                (main.key, main.since) = (*key, since);
                true
            }
            None => {
                mains.push(Main {
                    name: name.clone(),
                    key: *key,
                    since,
                });
                false
            }
        };
        write_mains(locked, mains)?;
        Ok(replaced)
    }

    fn read_mains(&self) -> Result<Vec<Main>, ReceiverError> {
        let mut mains = read::<MainsFile>(&self.private, MAINS)?.main;
        mains.sort_by(|left, right| left.name.cmp(&right.name));
        let refuse = |reason: String| Err(unusable(&self.private, MAINS, &reason));
        for (number, main) in mains.iter().enumerate() {
            let before = &mains[..number];
            if before.iter().any(|other| other.name == main.name) {
                return refuse(format!("it has two mains `{}`", main.name));
            }
            if let Some(other) = before.iter().find(|other| other.key == main.key) {
                return refuse(format!(
                    "{} and {} have the same key",
                    other.name, main.name
                ));
            }
        }
        Ok(mains)
    }
}

impl Doorkeeper for Trust {
    fn recognise(&self, key: &PublicKey) -> Option<MainName> {
        match self.mains() {
            Ok(mains) => mains
                .iter()
                .find(|main| main.key == *key)
                .map(|main| main.name.clone()),
            Err(error) => {
                tracing::error!("nobody is let in: {error}");
                None
            }
        }
    }

    fn redeem(&self, secret: &CodeSecret, key: &PublicKey) -> Result<Welcome, Refusal> {
        self.use_code(secret, key).unwrap_or_else(|error| {
            tracing::error!("cannot pair: {error}");
            Err(Refusal::Failed)
        })
    }
}

/// A file of this directory; its default if it is not there.
fn read<T: Default + DeserializeOwned>(private: &Private, name: &str) -> Result<T, ReceiverError> {
    let Some(text) = private.read(name)? else {
        return Ok(T::default());
    };
    toml::from_str(&text).map_err(|error| unusable(private, name, &error))
}

fn write(
    locked: &Locked<'_>,
    name: &str,
    head: &str,
    content: &impl Serialize,
) -> Result<(), ReceiverError> {
    let text = toml::to_string(content).map_err(|error| ReceiverError::Trust {
        path: name.into(),
        reason: error.to_string(),
    })?;
    Ok(locked.replace(name, &format!("{head}{text}"))?)
}

fn write_mains(locked: &Locked<'_>, mains: Vec<Main>) -> Result<(), ReceiverError> {
    write(locked, MAINS, MAINS_HEAD, &MainsFile { main: mains })
}

fn unusable(private: &Private, name: &str, reason: &dyn std::fmt::Display) -> ReceiverError {
    ReceiverError::Trust {
        path: private.path().join(name),
        reason: reason.to_string(),
    }
}
