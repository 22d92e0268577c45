//! The other way round than promotion: what an application wrote while this host was the main becomes the last snapshot of its epoch, and
//! this host the spare of the next one. The application must have been stopped.

use std::time::{Duration, Instant};

use understudy_protocol::{DatasetName, Role, Snapshot, Standing, limits};
use understudy_tree::crash_point;

use crate::absorb::{AbsorbOptions, AsOf, absorb};
use crate::access::existing;
use crate::catalog::Nature;
use crate::dataset::now_seconds;
use crate::error::ReceiverError;
use crate::guard;
use crate::promote::fence;
use crate::promote::preserve::{Preserved, preserve};
use crate::recover;
use crate::space::Reserve;
use crate::store::Store;

/// How long somebody else may work on the dataset.
const PATIENCE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(50);

/// This host is the spare.
#[derive(Debug)]
pub struct Demotion {
    /// The role and its epoch.
    pub standing: Standing,
    /// What was written since the promotion; `None` if nothing was, or if this host was made the spare before.
    pub written: Option<Written>,
    /// How much of the promoted snapshot could be kept apart from that; `None` if this host was made the spare before.
    pub preserved: Option<Preserved>,
}

/// The last snapshot of an epoch.
#[derive(Debug)]
pub struct Written {
    /// The snapshot.
    pub snapshot: Snapshot,
    /// How it differs from the promoted one, for people.
    pub text: String,
    /// What could not become part of it, with the reasons: the first ones.
    pub lost: Vec<(String, String)>,
}

/// Makes this host the spare of `next`, which is the epoch in which another host is the main, or, if this one was promoted by mistake, its
/// own. Durable when it returns; whoever is interrupted calls it again.
pub fn demote(
    store: &Store,
    name: &DatasetName,
    next: u64,
    reserve: Reserve,
) -> Result<Demotion, ReceiverError> {
    let dataset = existing(store, name)?;
    let _fence = fence::raise(&dataset)?.ok_or_else(|| {
        ReceiverError::Crowded(format!(
            "dataset `{name}` is being promoted by another command on this host: wait for it"
        ))
    })?;
    let standing = dataset.standing()?;
    match standing.role {
        Role::Spare if standing.epoch == next => {
            return Ok(Demotion {
                standing,
                written: None,
                preserved: None,
            });
        }
        Role::Main | Role::HandedOver if (standing.epoch..=limits::EPOCH).contains(&next) => {}
        _ => return Err(impossible(name, &standing, next)),
    }
    let preserved = keep(store, name, reserve)?;
    let locked = dataset.lock_patiently()?;
    let catalog = dataset.catalog(&locked)?;
    recover::absorbed(&dataset, &catalog)?;
    let epoch = standing.epoch;
    let options = AbsorbOptions {
        epoch,
        nature: Nature::Written,
        pin: Some(format!(
            "written while this host was the main, epoch {epoch}"
        )),
        as_of: AsOf::Now,
        least_number: 1,
        sound_until: None,
    };
    let absorbed = absorb(&dataset, &catalog, &locked, &options)?;
    crash_point!("demote.absorbed");
    let written = absorbed.map(|absorption| {
        let text = absorption.tally.text();
        let losses = absorption.tally.losses.into_iter();
        Written {
            snapshot: absorption.recorded.snapshot,
            text,
            lost: losses.map(|(path, why)| (path.to_string(), why)).collect(),
        }
    });
    let head = catalog.head()?;
    let standing = Standing {
        role: Role::Spare,
        epoch: next,
        since_seconds: now_seconds(),
        snapshot: head.map(|head| head.snapshot.position),
    };
    guard::root::forget(&dataset)?;
    dataset.stand(&standing, &locked)?;
    crash_point!("demote.standing");
    Ok(Demotion {
        standing,
        written,
        preserved,
    })
}

fn impossible(name: &DatasetName, standing: &Standing, next: u64) -> ReceiverError {
    let Standing { role, epoch, .. } = standing;
    ReceiverError::Fenced(format!(
        "this host is `{role}` of dataset `{name}`, in epoch {epoch}, and cannot become its spare in epoch {next}: the epoch is the one that \
         `understudy status` tells on the other host"
    ))
}

/// Finishes what keeps the promoted snapshot apart, as far as there is room, before the trees may change.
fn keep(
    store: &Store,
    name: &DatasetName,
    reserve: Reserve,
) -> Result<Option<Preserved>, ReceiverError> {
    let started = Instant::now();
    loop {
        match preserve(store, name, reserve) {
            // The receiver is at it, too.
            Err(ReceiverError::Busy(_)) if started.elapsed() < PATIENCE => {
                std::thread::park_timeout(PAUSE);
            }
            preserved => return preserved,
        }
    }
}
