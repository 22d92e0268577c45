//! The codes with which mains pair: each good once, for one name, for some time.
//!
//! Of a code only a digest of its secret is kept, so that who reads the file cannot use it. One that was used or whose
//! time is over stays for a day, so that its use can be told from a mistake in typing.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use understudy_protocol::transport::pairing::{Code, CodeDigest, CodeSecret};
use understudy_protocol::transport::tls::{Refusal, Welcome};
use understudy_protocol::{MainName, PublicKey};
use understudy_tree::Private;
use understudy_tree::private::Locked;

use super::{Main, Trust, read, write};
use crate::error::ReceiverError;

const CODES: &str = "codes.toml";
const CODES_HEAD: &str =
    "# Codes for `understudy pair`; only digests of them. Removing one here makes it useless.\n\n";

/// How long a code is remembered that is good no more.
const REMEMBERED: SignedDuration = SignedDuration::from_hours(24);

/// So far may the clock be set back between the making of a code and its use.
const AHEAD: SignedDuration = SignedDuration::from_mins(5);

/// Most codes at once.
const CODES_MOST: usize = 1000;

/// A code that was just made.
#[derive(Debug)]
pub struct NewCode {
    /// The code; shown once.
    pub code: Code,
    /// Until when it is good.
    pub until: Timestamp,
    /// The main whose key it will replace.
    pub replaces: Option<Main>,
}

/// A code that was not used yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenCode {
    /// The main that it is for.
    pub name: MainName,
    /// Until when it is good.
    pub until: Timestamp,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct CodesFile {
    #[serde(default)]
    code: Vec<Kept>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    name: MainName,
    digest: String,
    /// When it was made; of one that does not say so it is not known how old it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    made: Option<Timestamp>,
    until: Timestamp,
    /// The key that it was used for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    used: Option<PublicKey>,
}

impl Kept {
    /// Whether it is good. One from the future was made while the clock was ahead: nobody knows how long it is good by now.
    fn is_open(&self, now: Timestamp) -> bool {
        let is_past = |made: Timestamp| made.duration_since(now) <= AHEAD;
        self.is_left(now) && self.made.is_some_and(is_past)
    }

    /// Whether it may be good some time.
    fn is_left(&self, now: Timestamp) -> bool {
        self.used.is_none() && self.until > now
    }
}

impl Trust {
    /// A new code for the main `name`, good for as long as `valid`. An earlier one for the same name is good no more.
    pub fn new_code(&self, name: &MainName, valid: Duration) -> Result<NewCode, ReceiverError> {
        let locked = self.private.lock()?;
        let replaces = self
            .read_mains()?
            .into_iter()
            .find(|main| main.name == *name);
        let refused = |reason: String| super::unusable(&self.private, CODES, &reason);
        let now = Timestamp::now();
        let until = SignedDuration::try_from(valid)
            .ok()
            .and_then(|valid| now.checked_add(valid).ok())
            .and_then(|until| Timestamp::from_second(until.as_second()).ok())
            .ok_or_else(|| refused("no code can be good for so long".to_owned()))?;
        let code =
            Code::generate(&self.key.public()).map_err(|error| refused(error.to_string()))?;
        let mut kept = remembered(&self.private)?;
        kept.retain(|one| one.name != *name || !one.is_left(now));
        if kept.len() >= CODES_MOST {
            return Err(refused(format!(
                "it has {CODES_MOST} codes already; they go a day after their time is over"
            )));
        }
        kept.push(Kept {
            name: name.clone(),
            digest: code.secret().digest().to_string(),
            made: Some(now),
            until,
            used: None,
        });
        write(&locked, CODES, CODES_HEAD, &CodesFile { code: kept })?;
        Ok(NewCode {
            code,
            until,
            replaces,
        })
    }

    /// The codes that can be used now.
    pub fn open_codes(&self) -> Result<Vec<OpenCode>, ReceiverError> {
        let now = Timestamp::now();
        let kept = remembered(&self.private)?.into_iter();
        let open = kept.filter(|one| one.is_open(now)).map(|one| OpenCode {
            name: one.name,
            until: one.until,
        });
        Ok(open.collect())
    }

    /// Uses up a code for `key`. It counts as used before the key is known, so that it is never good twice; who used it
    /// and has not heard the answer may ask again.
    pub(super) fn use_code(
        &self,
        secret: &CodeSecret,
        key: &PublicKey,
    ) -> Result<Result<Welcome, Refusal>, ReceiverError> {
        let locked = self.private.lock()?;
        let mut kept = remembered(&self.private)?;
        let wanted = secret.digest();
        let mut found = None;
        // All are compared, so that time tells nothing.
        for (number, one) in kept.iter().enumerate() {
            let digest = one.digest.parse::<CodeDigest>();
            if digest.is_ok_and(|digest| digest == wanted) {
                found = Some(number);
            }
        }
        let Some(number) = found else {
            return Ok(Err(Refusal::Unknown));
        };
        let name = kept[number].name.clone();
        let mains = self.read_mains()?;
        match kept[number].used {
            Some(used) => {
                let is_theirs = used == *key
                    && mains
                        .iter()
                        .any(|main| main.name == name && main.key == *key);
                return Ok(if is_theirs {
                    Ok(Welcome {
                        main: name,
                        replaced: false,
                    })
                } else {
                    Err(Refusal::Used)
                });
            }
            None if !kept[number].is_open(Timestamp::now()) => return Ok(Err(Refusal::Expired)),
            None => {}
        }
        if let Some(other) = mains
            .iter()
            .find(|main| main.key == *key && main.name != name)
        {
            return Ok(Err(Refusal::KnownAs(other.name.clone())));
        }
        kept[number].used = Some(*key);
        write(&locked, CODES, CODES_HEAD, &CodesFile { code: kept })?;
        let replaced = self.bind(&locked, &name, key)?;
        Ok(Ok(Welcome {
            main: name,
            replaced,
        }))
    }
}

/// Makes the open codes of a name useless; says how many there were.
pub(super) fn drop_of(
    private: &Private,
    locked: &Locked<'_>,
    name: &MainName,
) -> Result<usize, ReceiverError> {
    let now = Timestamp::now();
    let mut kept = remembered(private)?;
    let before = kept.len();
    kept.retain(|one| one.name != *name || !one.is_left(now));
    let dropped = before - kept.len();
    if dropped > 0 {
        write(locked, CODES, CODES_HEAD, &CodesFile { code: kept })?;
    }
    Ok(dropped)
}

/// The codes that are good, and those that were until a day ago.
fn remembered(private: &Private) -> Result<Vec<Kept>, ReceiverError> {
    let now = Timestamp::now();
    let mut kept = read::<CodesFile>(private, CODES)?.code;
    kept.retain(|one| now.duration_since(one.until) < REMEMBERED);
    Ok(kept)
}
