//! Questions to the spare that need no tree and no index.

use std::collections::HashMap;

use understudy_protocol::message::{
    DatasetRole, Datasets, Finding, FuzzyFile, HandOver, Inspect, ListFuzzy, ListRoles, Oversee,
    Overseen, Repair, Repaired, Repairing, Trouble, Verified, Verify,
};
use understudy_protocol::transport::Channel;
use understudy_protocol::{DatasetName, Message, Position, RelPath, version};

use crate::Cancel;
use crate::conversation::{Conversation, told, unexpected};
use crate::error::AgentError;
use crate::gathering::Gathered;
use crate::listing;

/// What the spare has, with the files that may be torn.
#[derive(Debug)]
pub struct Survey {
    /// The datasets with their snapshots.
    pub listed: Datasets,
    /// Fuzzy files of each dataset; nothing of one that the spare could not look into, and `None` if the spare is too
    /// old to know of any.
    pub fuzzy: Option<HashMap<DatasetName, Vec<FuzzyFile>>>,
}

impl Survey {
    /// The fuzzy files of one snapshot, by path; `None` if nobody knows.
    pub fn fuzzy_in(&self, dataset: &DatasetName, number: u64) -> Option<Vec<&RelPath>> {
        let files = self.fuzzy.as_ref()?.get(dataset)?;
        let files = files.iter().filter(|file| file.is_in(number));
        let mut paths: Vec<&RelPath> = files.map(|file| &file.path).collect();
        paths.sort_unstable();
        Some(paths)
    }
}

/// Whose fuzzy files are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FuzzyOf {
    /// Those of the newest snapshot.
    Newest,
    /// Those of all snapshots.
    All,
}

/// The datasets of the spare with their snapshots and fuzzy files; only `dataset` if one is named.
pub fn survey(
    channel: Channel,
    dataset: Option<DatasetName>,
    which: FuzzyOf,
) -> Result<Survey, AgentError> {
    let conversation = Conversation::open(channel, &Cancel::default())?;
    let ask = || {
        let listed = listing::datasets(&conversation, dataset)?;
        let fuzzy = if conversation.version >= version::FUZZY {
            Some(fuzzy_of(&conversation, &listed, which)?)
        } else {
            None
        };
        Ok(Survey { listed, fuzzy })
    };
    ask().map_err(|error| conversation.explain(error))
}

fn fuzzy_of(
    conversation: &Conversation,
    listed: &Datasets,
    which: FuzzyOf,
) -> Result<HashMap<DatasetName, Vec<FuzzyFile>>, AgentError> {
    let mut all = HashMap::new();
    let mut gathered = Gathered::default();
    // One that is in trouble would end the session, and hide the others.
    for one in listed.datasets.iter().filter(|one| one.trouble.is_none()) {
        let Some(newest) = one.snapshots.last() else {
            continue;
        };
        let dataset = one.name.clone();
        let number = (which == FuzzyOf::Newest).then_some(newest.position.number);
        conversation.tell(&Message::ListFuzzy(ListFuzzy { dataset, number }))?;
        let mut files = Vec::new();
        loop {
            match conversation.hear()? {
                Message::FuzzyFiles(more) => {
                    let paths = more.files.iter().map(|file| file.path.as_bytes().len());
                    gathered.add("FuzzyFiles", paths)?;
                    files.extend(more.files);
                }
                Message::FuzzyEnd(_) => break,
                other => return Err(unexpected(&other, "FuzzyFiles")),
            }
        }
        all.insert(one.name.clone(), files);
    }
    Ok(all)
}

/// Which restores run, and how the spare's disk fills; `None` if the spare is too old to tell.
pub fn oversee(channel: Channel) -> Result<Option<Overseen>, AgentError> {
    let conversation = Conversation::open(channel, &Cancel::default())?;
    if conversation.version < version::OVERSEE {
        return Ok(None);
    }
    let ask = || {
        conversation.tell(&Message::Oversee(Oversee {}))?;
        match conversation.hear()? {
            Message::Overseen(overseen) => Ok(Some(overseen)),
            other => Err(unexpected(&other, "Overseen")),
        }
    };
    ask().map_err(|error| conversation.explain(error))
}

/// Which part the spare's host plays in each dataset, or in one; `None` if the spare is too old to tell.
pub fn roles(
    channel: Channel,
    dataset: Option<DatasetName>,
) -> Result<Option<Vec<DatasetRole>>, AgentError> {
    let conversation = Conversation::open(channel, &Cancel::default())?;
    if conversation.version < version::EPOCHS {
        return Ok(None);
    }
    let ask = || {
        conversation.tell(&Message::ListRoles(ListRoles { dataset }))?;
        let mut roles = Vec::new();
        loop {
            match conversation.hear()? {
                Message::DatasetRole(role) => roles.push(role),
                Message::Told(_) => return Ok(Some(roles)),
                other => return Err(unexpected(&other, "DatasetRole")),
            }
        }
    };
    ask().map_err(|error| conversation.explain(error))
}

/// Tells the spare that this host, the main of an epoch, has handed a dataset over, with this as its last snapshot; or, without one, that it
/// goes on. The spare refuses that if it is not as told.
pub fn hand_over(
    channel: Channel,
    dataset: DatasetName,
    epoch: u64,
    position: Option<Position>,
) -> Result<(), AgentError> {
    let conversation = Conversation::open(channel, &Cancel::default())?;
    if conversation.version < version::EPOCHS {
        return Err(AgentError::SpareTooOld {
            what: "handing over",
            spoken: conversation.version,
            needed: version::EPOCHS,
        });
    }
    let tell = || {
        conversation.tell(&Message::HandOver(HandOver {
            dataset,
            epoch,
            position,
        }))?;
        match conversation.hear()? {
            Message::Noted(_) => Ok(()),
            other => Err(unexpected(&other, "Noted")),
        }
    };
    tell().map_err(|error| conversation.explain(error))
}

/// How the spare is to verify.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verification {
    /// Whether it repairs what it can, and asks the main for the rest.
    pub repair: Repairing,
    /// How fast it reads, at most; never zero.
    pub bytes_per_second: Option<u64>,
}

/// Has the spare read everything again and compare; calls `on_finding` for each difference as it is found, and `on_repaired` for
/// each that is none any more. Returns one result per dataset.
pub fn verify(
    channel: Channel,
    dataset: Option<DatasetName>,
    manner: Verification,
    mut on_finding: impl FnMut(&Finding),
    mut on_repaired: impl FnMut(&Repaired),
) -> Result<Vec<Verified>, AgentError> {
    let conversation = Conversation::open(channel, &Cancel::default())?;
    let (what, needed) = match manner.repair {
        Repairing::Always => ("repairing", version::REPAIR),
        Repairing::Never if manner.bytes_per_second.is_some() => {
            ("verifying at a pace", version::HEALTH)
        }
        Repairing::Never => ("verifying", version::OLDEST),
    };
    if conversation.version < needed {
        return Err(AgentError::SpareTooOld {
            what,
            spoken: conversation.version,
            needed,
        });
    }
    let request = match (manner.bytes_per_second, manner.repair) {
        (Some(bytes_per_second), repair) => Message::Inspect(Inspect {
            dataset,
            repair,
            bytes_per_second,
        }),
        (None, Repairing::Always) => Message::Repair(Repair { dataset }),
        (None, Repairing::Never) => Message::Verify(Verify { dataset }),
    };
    let mut ask = || {
        conversation.tell(&request)?;
        let mut verified = Vec::new();
        let mut gathered = Gathered::default();
        loop {
            match conversation.hear()? {
                Message::Finding(finding) => on_finding(&finding),
                Message::Repaired(repaired) if manner.repair == Repairing::Always => {
                    on_repaired(&repaired);
                }
                Message::Verified(one) => {
                    gathered.add("Verified", std::iter::empty())?;
                    verified.push(one);
                }
                Message::VerifyEnd(_) => return Ok(verified),
                other => return Err(unexpected(&other, "Finding")),
            }
        }
    };
    ask().map_err(|error| conversation.explain(error))
}

/// Tells the spare that a cycle failed before it began there, so that the spare can tell people. That this fails
/// too is only logged: the lag that follows is noticed as well.
pub(crate) fn tell_trouble(
    channel: Channel,
    dataset: &DatasetName,
    error: &AgentError,
    cancel: &Cancel,
) {
    let tell = || {
        let conversation = Conversation::open(channel, cancel)?;
        if conversation.version < version::TROUBLE {
            return Ok(());
        }
        conversation.tell(&Message::Trouble(Trouble {
            dataset: dataset.clone(),
            reason: told(error),
        }))?;
        match conversation.hear()? {
            Message::Noted(_) => Ok(()),
            other => Err(unexpected(&other, "Noted")),
        }
    };
    if let Err(failed) = tell() {
        tracing::debug!("{dataset}: cannot tell the spare of a cycle that failed: {failed}");
    }
}
