//! Which part this host plays in a dataset: one small file, durable before it takes effect, and who may upload because of it.
//!
//! A dataset without the file is one that was never promoted: this host is its spare, in the first epoch.

use understudy_protocol::message::{DatasetRole, Told};
use understudy_protocol::role::STANDING_BYTES;
use understudy_protocol::transport::Outgoing;
use understudy_protocol::{DatasetName, Message, Role, Standing};
use understudy_tree::Directory;
use understudy_tree::durable::{self, Durability};

use crate::access::Scope;
use crate::dataset::{Dataset, Locked, now_seconds};
use crate::error::ReceiverError;
use crate::names;
use crate::serve::send;
use crate::store::Store;

/// What the file of a dataset says; `None` if there is none.
fn read(control: &Directory, name: &DatasetName) -> Result<Option<Standing>, ReceiverError> {
    let Some(content) = durable::read(control, &names::ROLE, STANDING_BYTES)? else {
        return Ok(None);
    };
    let standing = std::str::from_utf8(&content)
        .ok()
        .and_then(|text| text.parse().ok());
    standing.map(Some).ok_or_else(|| {
        ReceiverError::Damaged(format!(
            "nobody can tell whether this host is the main or the spare of dataset `{name}`, for its file `.understudy/role` is damaged; \
             nothing is taken from a main until it is right again"
        ))
    })
}

impl Dataset {
    /// Which part this host plays. A file that cannot be understood is an error: it may have said that this is the main.
    pub(crate) fn standing(&self) -> Result<Standing, ReceiverError> {
        let standing = read(&self.control, &self.name)?;
        Ok(standing.unwrap_or(Standing::first(Role::Spare)))
    }

    /// Writes down which part this host plays from now on. Durable when it returns.
    pub(crate) fn stand(&self, standing: &Standing, _locked: &Locked) -> Result<(), ReceiverError> {
        let text = standing.to_string();
        let written = durable::replace(
            &self.control,
            &names::ROLE,
            text.as_bytes(),
            Durability::Now,
        );
        Ok(written?)
    }

    /// Refuses whoever is not the main of the present epoch; returns that epoch. A dataset that has no snapshot yet takes the epoch of
    /// whoever comes first.
    pub(crate) fn admit(
        &self,
        claimed: u64,
        is_new: bool,
        locked: &Locked,
    ) -> Result<u64, ReceiverError> {
        let known = read(&self.control, &self.name)?;
        let standing = known.unwrap_or(Standing::first(Role::Spare));
        if known.is_none() && is_new && claimed > standing.epoch {
            let standing = Standing {
                epoch: claimed,
                since_seconds: now_seconds(),
                ..standing
            };
            self.stand(&standing, locked)?;
            return Ok(claimed);
        }
        match standing.role {
            Role::Spare if standing.epoch == claimed => Ok(claimed),
            Role::Spare if claimed > standing.epoch => Err(newer(&self.name, &standing, claimed)),
            _ => Err(fenced(&self.name, &standing, claimed)),
        }
    }
}

/// Tells which part this host plays in what the peer asks for. Trouble in one dataset does not hide the others.
pub(crate) fn serve(store: &Store, scope: Scope, outgoing: &Outgoing) -> Result<(), ReceiverError> {
    let tell = |dataset: &Dataset| {
        let standing = dataset.standing();
        if let Err(error) = &standing {
            tracing::error!(dataset = %dataset.name, "{error}");
        }
        let told = Message::DatasetRole(DatasetRole {
            dataset: dataset.name.clone(),
            standing: standing.ok(),
        });
        send(outgoing, &told)
    };
    match scope {
        Scope::One(dataset) => tell(&dataset)?,
        Scope::Made(_) => {}
        Scope::All(own) => {
            for permission in &own {
                match permission.open(store) {
                    Ok(Some(dataset)) => tell(&dataset)?,
                    Ok(None) => {}
                    Err(error) => tracing::error!(dataset = %permission.name(), "{error}"),
                }
            }
        }
    }
    send(outgoing, &Message::Told(Told {}))
}

impl Store {
    /// Which part this host plays in a dataset, and in which epoch. Fails if there is no such dataset, or if that cannot be known.
    pub fn standing(&self, name: &DatasetName) -> Result<Standing, ReceiverError> {
        crate::access::existing(self, name)?.standing()
    }
}

/// Somebody comes who was the main before this host, or another one, was promoted.
pub(crate) fn fenced(name: &DatasetName, standing: &Standing, claimed: u64) -> ReceiverError {
    let epoch = standing.epoch;
    ReceiverError::Fenced(match standing.role {
        Role::Main | Role::HandedOver | Role::Fenced => format!(
            "this host was the main of dataset `{name}` until its spare was promoted to epoch {epoch}: nothing is taken from epoch {claimed} any more"
        ),
        Role::Spare => format!(
            "dataset `{name}` is in epoch {epoch}, and this host was its main in epoch {claimed}: another host was promoted since"
        ),
    })
}

/// Somebody comes from a promotion that this store does not know.
fn newer(name: &DatasetName, standing: &Standing, claimed: u64) -> ReceiverError {
    let epoch = standing.epoch;
    ReceiverError::Fenced(format!(
        "this host is the main of dataset `{name}` in epoch {claimed}, and the spare knows epoch {epoch} only: its store is older than the last promotion, or \
         it is not the spare of this main"
    ))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use understudy_tree::Mounts;

    use super::*;

    fn refused(result: &Result<u64, ReceiverError>) -> bool {
        matches!(result, Err(ReceiverError::Fenced(_)))
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "a scratch directory of the test")]
    fn only_the_main_of_the_present_epoch_is_admitted_and_only_by_a_spare() {
        let place = tempfile::tempdir().expect("directory");
        let store = Directory::open(place.path(), Mounts::Stay).expect("store");
        let name = DatasetName::new("site").expect("name");
        let dataset =
            Dataset::ensure(&store, place.path(), &name, &Arc::default()).expect("dataset");
        let locked = dataset.lock().expect("lock");
        assert_eq!(dataset.admit(1, true, &locked).expect("first"), 1);
        assert_eq!(dataset.admit(1, false, &locked).expect("as ever"), 1);
        // What has snapshots was in the first epoch.
        assert!(refused(&dataset.admit(2, false, &locked)));
        assert_eq!(dataset.admit(3, true, &locked).expect("failed back"), 3);
        for claimed in [0, 1, 2, 4, u64::MAX] {
            assert!(refused(&dataset.admit(claimed, true, &locked)), "{claimed}");
        }
        for role in [Role::Main, Role::HandedOver, Role::Fenced] {
            let standing = Standing {
                role,
                ..dataset.standing().expect("standing")
            };
            dataset.stand(&standing, &locked).expect("stand");
            for claimed in [1, 3, 4] {
                assert!(
                    refused(&dataset.admit(claimed, true, &locked)),
                    "{role} {claimed}"
                );
            }
        }
        std::fs::write(place.path().join("site/.understudy/role"), b"role: spare\n")
            .expect("write");
        let damaged = dataset.admit(3, false, &locked);
        assert!(matches!(damaged, Err(ReceiverError::Damaged(_))));
    }
}
