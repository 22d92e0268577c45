//! Whose word counts in a restore, and how people are told what it was worth.

use std::path::Path;
use std::sync::Arc;

use serde_json::{Value, json};
use understudy_agent::identity::Identity;
use understudy_agent::{
    AgentError, Evidence, Freshness, Leniency, Proven, RestoreReport, RestoreRequest, Trusted,
    known_datasets, newest_known,
};
use understudy_protocol::message::DatasetStatus;
use understudy_protocol::{DatasetName, SecretKey};

use super::Session;
use crate::arguments::Trusting;
use crate::exit::CommandError;
use crate::spare::{Spare, unusable};
use crate::{paths, words};

/// The key of the main with this state directory, if it has one.
pub(super) fn signer(state: &Path) -> Result<Option<Arc<SecretKey>>, CommandError> {
    let identity = Identity::open(state).map_err(|error| CommandError::from(&unusable(&error)))?;
    let Some(identity) = identity else {
        return Ok(None);
    };
    let key = SecretKey::from_seed(identity.secret().seed());
    Ok(key.ok().map(Arc::new))
}

impl Session {
    /// Whose word counts; nothing is proved on a host without a main's key, unless one is given.
    pub(super) fn trust(
        &self,
        spare: &Spare,
        dataset: &DatasetName,
        trusting: &Trusting,
    ) -> Result<Option<Trusted>, CommandError> {
        let leniency = match trusting.unverified {
            true => Leniency::Accept,
            false => Leniency::Refuse,
        };
        let mut others = trusting.trust_key.clone();
        let state = paths::state(self.places.state.as_deref()).ok();
        let key = match &state {
            Some(state) => signer(state)?,
            None => None,
        };
        let (own, newest) = match (key, &state) {
            (Some(key), Some(state)) => {
                let newest = match newest_known(state, &spare.name(), dataset) {
                    Err(AgentError::MemoryDamaged { .. }) if trusting.unverified => None,
                    newest => newest?,
                };
                (key.public(), newest)
            }
            _ if others.is_empty() => return Ok(None),
            _ => (others.remove(0), None),
        };
        Ok(Some(Trusted {
            own,
            others,
            newest,
            leniency,
        }))
    }

    /// Datasets of which the spare has acknowledged snapshots, and which it does not show.
    pub(super) fn hidden(&self, spare: &Spare, shown: &[DatasetStatus]) -> Vec<DatasetName> {
        let Ok(state) = paths::state(self.places.state.as_deref()) else {
            return Vec::new();
        };
        // What comes back must not fail for what may be missing.
        let mut known = known_datasets(&state, &spare.name()).unwrap_or_else(|error| {
            tracing::warn!("whether the spare hides a dataset is not known: {error}");
            Vec::new()
        });
        known.retain(|known| !shown.iter().any(|shown| shown.name == *known));
        known
    }
}

/// How much memory entries may take of which nobody has signed how many they are. Who insists, or restores from a directory of this host, gets
/// them all.
pub(super) fn room_bytes(spare: &Spare, trusting: &Trusting) -> u64 {
    if trusting.unverified || spare.is_here() {
        u64::MAX
    } else {
        RestoreRequest::ROOM_BYTES
    }
}

/// Whether a dump may be loaded: to the engine it is a program. Nothing else than what the main has signed, unless somebody insists, or the
/// spare is a directory of this host.
pub(super) fn may_load(proven: &Proven, spare: &Spare, trusting: &Trusting) -> bool {
    matches!(proven, Proven::Signed(_)) || trusting.unverified || spare.is_here()
}

/// What is told of a proof.
pub(super) fn proved(proven: &Proven) -> Option<String> {
    let Proven::Signed(evidence) = proven else {
        return None;
    };
    let signed = words::time(evidence.signed_seconds);
    Some(match evidence.freshness {
        Freshness::Newest => {
            format!(
                "it is what the main sent, signed at {signed}, and the newest that the spare acknowledged"
            )
        }
        Freshness::Unasked => format!("it is what the main sent, signed at {signed}"),
        Freshness::Unknown => format!(
            "it is what the main sent, signed at {signed}; whether that was the last, this host does not know: compare the time"
        ),
    })
}

/// What must not be overlooked.
pub(super) fn warning(restored: &RestoreReport) -> Option<String> {
    let Proven::Not { reason } = &restored.proven else {
        return None;
    };
    Some(format!(
        "WARNING: NOT PROVED to be what the main has sent: {reason}. Whoever holds the spare may have put anything into {}: look at it before \
         you use it, at programs and devices first",
        super::restore::shown(&restored.target)
    ))
}

/// The same for programs; null if nothing was asked for.
pub(super) fn value(proven: &Proven) -> Value {
    match proven {
        Proven::Unasked => Value::Null,
        Proven::Not { reason } => json!({ "is_proved": false, "reason": reason }),
        Proven::Signed(Evidence {
            key,
            signed_seconds,
            freshness,
        }) => json!({
            "is_proved": true,
            "key": key.to_string(),
            "signed": words::time(*signed_seconds),
            "is_newest": match freshness {
                Freshness::Unasked => Value::Null,
                Freshness::Unknown => Value::String("unknown".to_owned()),
                Freshness::Newest => Value::Bool(true),
            },
        }),
    }
}
