//! The file `held`: which intent waits for somebody's word, and why. Beside it, what that word does.

use serde::{Deserialize, Serialize};
use understudy_protocol::{ContentHash, DatasetName, Fingerprint, Position};
use understudy_tree::durable::{self, Durability};

use super::aside;
use super::judge::Verdict;
use super::root::{self, Root};
use crate::access::existing;
use crate::catalog::{Catalog, Recorded};
use crate::cycle;
use crate::dataset::{Dataset, Locked, now_seconds};
use crate::error::ReceiverError;
use crate::names;
use crate::recover;
use crate::space::Reserve;
use crate::store::Store;

/// The layout this build writes.
const FORMAT: u32 = 1;
/// Far more than a few reasons and paths take.
const LIMIT_BYTES: u64 = 1 << 20;
/// Fewer digits of a digest are no proof that it was looked at.
const LEAST_DIGITS: usize = 8;

/// A cycle that is held: staged, durable, and not applied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    format: u32,
    /// The number and epoch that the snapshot will have.
    pub number: u64,
    /// See `number`.
    pub epoch: u64,
    /// What is released is exactly this.
    #[serde(with = "digits")]
    pub digest: Fingerprint,
    /// Since when, by the receiver's clock, seconds since 1970.
    pub since_seconds: i64,
    /// Why, one sentence.
    pub reason: String,
    /// Files that are removed, and their bytes.
    pub removed: (u64, u64),
    /// Files that are emptied.
    pub emptied: (u64, u64),
    /// Files that turn into noise.
    pub noise: (u64, u64),
    /// All files that count.
    pub total: (u64, u64),
    /// The first paths, escaped.
    pub paths: Vec<String>,
    /// When this took the place of an earlier one, if it did.
    #[serde(default)]
    pub renewed_seconds: Option<i64>,
    /// Which directory the source was, if the agent told.
    #[serde(default)]
    root: Option<Root>,
    /// What is held as long as the intent of this one is not written.
    #[serde(default)]
    former: Option<Box<Self>>,
    /// Of everything else: a bit that flips must not let the intent through.
    checksum: String,
}

impl Held {
    /// The first digits of the digest, as people type them.
    pub fn short_digest(&self) -> String {
        short(self.digest)
    }

    fn position(&self) -> Position {
        Position {
            epoch: self.epoch,
            number: self.number,
            fingerprint: self.digest,
        }
    }
}

/// Says that the intent to come is held, in the place of the one that is, if there is one. Durable when it returns.
pub(crate) fn hold(
    dataset: &Dataset,
    position: Position,
    (verdict, root): (Verdict, Option<Root>),
    former: Option<&Held>,
) -> Result<Held, ReceiverError> {
    let pair = |count: super::harm::Count| (count.files, count.bytes);
    let now = now_seconds();
    let mut held = Held {
        format: FORMAT,
        number: position.number,
        epoch: position.epoch,
        digest: position.fingerprint,
        since_seconds: former.map_or(now, |former| former.since_seconds),
        reason: verdict.text(&dataset.name),
        removed: pair(verdict.harm.removed),
        emptied: pair(verdict.harm.emptied),
        noise: pair(verdict.harm.noise),
        total: pair(verdict.total),
        paths: verdict.harm.paths,
        renewed_seconds: former.map(|_| now),
        root,
        former: former.map(|former| {
            Box::new(Held {
                former: None,
                ..former.clone()
            })
        }),
        checksum: String::new(),
    };
    held.checksum = checksum(&held)?;
    let content = serde_json::to_vec_pretty(&held).map_err(|error| unwritable(&error))?;
    durable::replace(&dataset.control, &names::HELD, &content, Durability::Now)?;
    Ok(held)
}

fn checksum(held: &Held) -> Result<String, ReceiverError> {
    let unsigned = Held {
        checksum: String::new(),
        ..held.clone()
    };
    let content = serde_json::to_vec(&unsigned).map_err(|error| unwritable(&error))?;
    Ok(ContentHash::of(&content).to_string())
}

fn unwritable(error: &serde_json::Error) -> ReceiverError {
    ReceiverError::Damaged(format!("`held` cannot be written: {error}"))
}

/// What the file says of the pending intent.
enum Said {
    Nothing,
    Held(Box<Held>),
    /// It cannot be understood, for this reason.
    Unclear(String),
}

/// What is held of a dataset whose pending intent is this.
///
/// A file that cannot be understood holds every intent.
pub(crate) fn standing(
    dataset: &Dataset,
    pending: Option<&Recorded>,
) -> Result<Option<Held>, ReceiverError> {
    let Some(pending) = pending else {
        return Ok(None);
    };
    match said(dataset, pending)? {
        Said::Nothing => Ok(None),
        Said::Held(held) => Ok(Some(*held)),
        Said::Unclear(reason) => Err(unclear(dataset, pending, &reason)),
    }
}

fn said(dataset: &Dataset, pending: &Recorded) -> Result<Said, ReceiverError> {
    let content = match durable::read(&dataset.control, &names::HELD, LIMIT_BYTES) {
        Ok(Some(content)) => content,
        Ok(None) => return Ok(Said::Nothing),
        Err(error) => return Ok(Said::Unclear(error.to_string())),
    };
    let held: Held = match serde_json::from_slice(&content) {
        Ok(held) => held,
        Err(error) => return Ok(Said::Unclear(error.to_string())),
    };
    if checksum(&held)? != held.checksum {
        return Ok(Said::Unclear("it is not what was written".to_owned()));
    }
    let position = pending.snapshot.position;
    if held.position() == position {
        return Ok(Said::Held(Box::new(held)));
    }
    // One that names another intent was left by what took its place.
    let former = held.former.filter(|former| former.position() == position);
    Ok(former.map_or(Said::Nothing, Said::Held))
}

fn unclear(dataset: &Dataset, pending: &Recorded, reason: &str) -> ReceiverError {
    let name = &dataset.name;
    ReceiverError::Damaged(format!(
        "`{}` of dataset `{name}` cannot be understood ({reason}), so nobody can tell why its cycle is held: it stays held. On the \
         spare, `understudy reject {name} {}` drops it, and the main sends it again",
        names::HELD.as_os_str().display(),
        short(pending.snapshot.position.fingerprint),
    ))
}

/// The first digits of a digest, as people type them.
fn short(digest: Fingerprint) -> String {
    let mut text = digest.to_string();
    text.truncate(12);
    text
}

/// The refusal that tells an agent, and through it everybody.
pub(crate) fn tell(dataset: &DatasetName, held: &Held) -> ReceiverError {
    let Held { reason, paths, .. } = held;
    let digest = held.short_digest();
    let first = paths
        .first()
        .map_or(String::new(), |path| format!("; the first is `{path}`"));
    ReceiverError::Refused(format!(
        "{reason}{first}. It is held: nothing was changed, and nothing newer is applied until somebody decides or the source is \
         whole again. On the spare, look at it with `understudy held {dataset}`; `understudy release {dataset} {digest}` applies \
         it, `understudy reject {dataset} {digest}` drops it"
    ))
}

/// What is held of a dataset; `None` if nothing is.
pub fn held(store: &Store, name: &DatasetName) -> Result<Option<Held>, ReceiverError> {
    let dataset = existing(store, name)?;
    match dataset.read_catalog()? {
        Some(catalog) => standing(&dataset, catalog.pending()?.as_ref()),
        None => Ok(None),
    }
}

/// Applies what is held, if its digest begins with these digits; returns what was held and is live now. If that fails it stays
/// held, unless it has become live: the error says which.
pub fn release(
    store: &Store,
    name: &DatasetName,
    digest: &str,
    reserve: Reserve,
) -> Result<Held, ReceiverError> {
    let dataset = existing(store, name)?;
    let locked = dataset.lock_patiently()?;
    dataset.must_not_be_frozen()?;
    let catalog = dataset.catalog(&locked)?;
    let held = inspected(&dataset, &catalog, &locked, digest)?;
    let Some(pending) = catalog.pending()? else {
        return Err(nothing_held(name));
    };
    if !catalog.has_digest(pending.snapshot.position)? {
        drop_held(&dataset, &catalog)?;
        return Err(ReceiverError::Damaged(format!(
            "what was held of dataset `{name}` is damaged in the catalog, and is dropped: the main sends it again. Run `understudy \
             verify {name}`"
        )));
    }
    reserve.check(&dataset.control)?;
    let applied = recover::apply_held(&dataset, &catalog, &locked, &pending);
    // Only what can be seen to be live is told to be.
    let is_live =
        applied.is_ok() || recover::is_live(&dataset, &pending).is_ok_and(|is_live| is_live);
    if is_live && let Err(error) = root::keep(&dataset, held.number, held.root.as_ref()) {
        tracing::warn!(dataset = %name, "cannot note which directory the source of snapshot {} was: {error}", held.number);
    }
    applied.map_err(|error| {
        if matches!(error, ReceiverError::Drifted(_)) {
            return error;
        }
        let (what, then) = if is_live {
            (
                "is live, and could not be recorded",
                "It is told as held until the next upload, or the receiver when it starts, records it",
            )
        } else {
            (
                "could not be applied",
                "It stays held, and the live tree is as before",
            )
        };
        let told = format!("the held cycle of dataset `{name}` {what}: {error}. {then}");
        match error {
            ReceiverError::NoSpace(_) => ReceiverError::NoSpace(told),
            _ => ReceiverError::Damaged(told),
        }
    })?;
    Ok(held)
}

/// Drops what is held, if its digest begins with these digits; returns what it was, or `None` if nobody can tell any more.
pub fn reject(
    store: &Store,
    name: &DatasetName,
    digest: &str,
) -> Result<Option<Held>, ReceiverError> {
    let dataset = existing(store, name)?;
    let locked = dataset.lock_patiently()?;
    dataset.must_not_be_frozen()?;
    let catalog = dataset.catalog(&locked)?;
    let pending = catalog.pending()?.ok_or_else(|| nothing_held(name))?;
    let held = match said(&dataset, &pending)? {
        Said::Unclear(reason) if is_digest(digest, pending.snapshot.position.fingerprint) => {
            tracing::warn!(dataset = %name, "dropping what is held: `held` cannot be understood ({reason})");
            if recover::is_live(&dataset, &pending)? {
                // A release came as far as the switch: the file holds nothing any more.
                forget(&dataset)?;
                recover::recover(&dataset, &catalog, &locked)?;
                return Err(nothing_held(name));
            }
            None
        }
        Said::Unclear(reason) => return Err(unclear(&dataset, &pending, &reason)),
        Said::Nothing | Said::Held(_) => Some(inspected(&dataset, &catalog, &locked, digest)?),
    };
    drop_held(&dataset, &catalog)?;
    Ok(held)
}

fn is_digest(typed: &str, digest: Fingerprint) -> bool {
    typed.len() >= LEAST_DIGITS && digest.to_string().starts_with(typed)
}

/// Drops the intent that is held, and everything that was staged for it; hold the lock.
pub(crate) fn drop_held(dataset: &Dataset, catalog: &Catalog) -> Result<(), ReceiverError> {
    if let Some(pending) = catalog.pending()? {
        cycle::abandon(dataset, catalog, &pending)?;
    }
    forget(dataset)?;
    aside::drop_all(dataset)?;
    dataset.clean_patches(|id| Ok(catalog.row_by_id(id)?.is_some()))?;
    dataset.clean()
}

fn nothing_held(name: &DatasetName) -> ReceiverError {
    ReceiverError::NotFound(format!("nothing is held of dataset `{name}`"))
}

/// What is held, if it is what somebody looked at.
fn inspected(
    dataset: &Dataset,
    catalog: &Catalog,
    locked: &Locked,
    digest: &str,
) -> Result<Held, ReceiverError> {
    let name = &dataset.name;
    // Tells what is there before anything is changed.
    standing(dataset, catalog.pending()?.as_ref())?.ok_or_else(|| nothing_held(name))?;
    let held = recover::recover(dataset, catalog, locked)?.ok_or_else(|| nothing_held(name))?;
    if is_digest(digest, held.digest) {
        return Ok(held);
    }
    Err(ReceiverError::NotFound(format!(
        "what is held of dataset `{name}` has the digest {} by now, not `{}`: {}. Look at it again with `understudy held {name}`",
        held.short_digest(),
        digest.escape_debug(),
        held.reason
    )))
}

/// Removes a file that belongs to no intent: its process died before that was written, or after it was dropped.
pub(crate) fn forget_stale(dataset: &Dataset) -> Result<(), ReceiverError> {
    match dataset.control.stat_if_present(&names::HELD)? {
        Some(_) => forget(dataset),
        None => Ok(()),
    }
}

/// Removes the file. Durable when it returns.
pub(crate) fn forget(dataset: &Dataset) -> Result<(), ReceiverError> {
    match dataset.control.remove_file(&names::HELD) {
        Err(error) if !error.is_gone() => return Err(error.into()),
        _ => {}
    }
    Ok(dataset.control.sync()?)
}

/// A digest as people see it.
mod digits {
    use serde::{Deserialize, Deserializer, Serializer};
    use understudy_protocol::Fingerprint;

    pub(super) fn serialize<S: Serializer>(
        digest: &Fingerprint,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_str(digest)
    }

    pub(super) fn deserialize<'a, D: Deserializer<'a>>(
        deserializer: D,
    ) -> Result<Fingerprint, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}
