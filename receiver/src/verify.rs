//! Verification: reads the live tree, its twin, history and the catalog again and reports every difference. What is found is
//! recorded, and keeps retention from removing anything.

mod again;
mod ground;
mod history;
mod live;
mod made;
mod mend;
mod orphan;
mod reading;
#[cfg(test)]
mod tests;
mod twin;

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::time::Duration;

use understudy_protocol::message::{Finding, Repaired, Repairing, Verified, VerifyEnd};
use understudy_protocol::transport::Outgoing;
use understudy_protocol::{Message, RelPath};

use crate::access::Scope;
use crate::dataset::Dataset;
use crate::error::ReceiverError;
use crate::findings::{self, Damage, Wish};
use crate::pace::Pacer;
use crate::serve::send;
use crate::store::Store;

use again::MOVED;
pub(crate) use again::{Doubtful, look_again};
pub(crate) use mend::{Fate, Mending, mend, mend_names};
pub(crate) use orphan::not_orphaned;
use reading::Subject;
pub(crate) use reading::{Found, Position, Reading, Tally, cost_bytes};

/// On a full disk others get a chance between two steps: they look for it more often than this.
const WAY: Duration = Duration::from_millis(100);

/// What is asked for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asked {
    pub(crate) mending: Mending,
    /// How fast it reads; `None` for as fast as it can.
    pub(crate) bytes_per_second: Option<u64>,
}

impl Asked {
    /// What a message asks for; `None` if it is about something else.
    pub(crate) fn by(message: &Message) -> Option<Self> {
        let (mending, bytes_per_second) = match message {
            Message::Verify(_) => (Mending::None, None),
            Message::Repair(_) => (Mending::All, None),
            Message::Inspect(inspect) => {
                let mending = match inspect.repair {
                    Repairing::Never => Mending::None,
                    Repairing::Always => Mending::All,
                };
                (mending, Some(inspect.bytes_per_second))
            }
            _ => return None,
        };
        Some(Self {
            mending,
            bytes_per_second,
        })
    }
}

/// Verifies one dataset or all that the peer has, and tells what it finds as it goes.
pub(crate) fn serve(
    store: &Store,
    asked: Asked,
    scope: Scope,
    outgoing: &Outgoing,
) -> Result<(), ReceiverError> {
    let datasets = match scope {
        Scope::One(dataset) => vec![dataset],
        Scope::Made(_) => Vec::new(),
        Scope::All(own) => {
            let opened: Result<Vec<_>, _> = own.iter().map(|one| one.open(store)).collect();
            opened?.into_iter().flatten().collect()
        }
    };
    for dataset in &datasets {
        let verified = verify(store, dataset, asked, outgoing)?;
        send(outgoing, &Message::Verified(verified))?;
    }
    send(
        outgoing,
        &Message::VerifyEnd(VerifyEnd {
            datasets: datasets.len() as u64,
        }),
    )
}

fn verify(
    store: &Store,
    dataset: &Dataset,
    asked: Asked,
    outgoing: &Outgoing,
) -> Result<Verified, ReceiverError> {
    if asked.mending == Mending::All {
        reinstate(store, dataset, outgoing)?;
    }
    // The catalog is not kept: on a full disk it is read as it stands, and keeps out whoever makes room.
    let head = match dataset.read_catalog() {
        Ok(Some(catalog)) => catalog.head().ok().flatten(),
        _ => None,
    };
    // Whoever may only read is told all the same.
    let noted = findings::begin_pass(dataset);
    if let Err(error) = &noted {
        tracing::warn!(dataset = %dataset.name, "cannot record what is found: {error}");
    }
    let pass = noted.ok();
    let pacer = RefCell::new(asked.bytes_per_second.map(Pacer::new));
    let spend = |bytes| {
        pacer
            .borrow_mut()
            .iter_mut()
            .for_each(|pacer| pacer.spend(bytes));
    };
    // What is waited for when nothing is open.
    let owed = Cell::new(0_u64);
    let mut pace = |bytes: u64| {
        match dataset.is_full() {
            true => owed.set(owed.get().saturating_add(bytes)),
            false => spend(bytes),
        }
        Ok(())
    };
    let mut reading = Reading::new(dataset, &mut pace);
    let mut told = 0;
    let mut position = Position::Begin;
    while !matches!(position, Position::End | Position::Broken) {
        let (next, found) = reading.step(position)?;
        let (more, _) = tell(store, dataset, (asked.mending, pass), found, outgoing)?;
        told += more;
        position = next;
        spend(owed.take());
        if dataset.is_full() {
            std::thread::park_timeout(WAY);
        }
    }
    // What had no part in a pass that broke off is not proved to be right.
    if let (Position::End, Some(pass)) = (&position, pass) {
        let Doubtful { found, mut unread } = look_again(dataset, pass)?;
        let (more, moved) = tell(store, dataset, (asked.mending, Some(pass)), found, outgoing)?;
        told += more;
        unread.extend(moved);
        findings::end_pass(dataset, pass, &unread)?;
        told += send_findings(dataset, news(dataset, unread)?, outgoing)?;
    }
    let tally = reading.take_tally();
    Ok(Verified {
        dataset: dataset.name.clone(),
        snapshot: head.map(|head| head.snapshot),
        entries: tally.entries,
        files: tally.files,
        bytes: tally.bytes,
        objects: tally.objects,
        object_bytes: tally.object_bytes,
        findings: told,
    })
}

/// Puts a live tree that is none any more back, and tells of it. If that fails, the pass finds what is missing.
fn reinstate(store: &Store, dataset: &Dataset, outgoing: &Outgoing) -> Result<(), ReceiverError> {
    match mend::reinstate(store, dataset) {
        Ok(None) => Ok(()),
        Ok(Some(what)) => {
            let repaired = Repaired {
                dataset: dataset.name.clone(),
                path: RelPath::root(),
                what,
            };
            send(outgoing, &Message::Repaired(repaired))
        }
        Err(error) => {
            tracing::error!(dataset = %dataset.name, "cannot put the live tree back: {error}");
            Ok(())
        }
    }
}

/// Mends what it is to, records the rest and tells of both; returns how many count, and what is history by now.
fn tell(
    store: &Store,
    dataset: &Dataset,
    (mending, pass): (Mending, Option<u64>),
    found: Vec<Found>,
    outgoing: &Outgoing,
) -> Result<(u64, Vec<Damage>), ReceiverError> {
    let Settled {
        repaired,
        left,
        moved,
    } = settle(store, dataset, (mending, pass), Wish::AskAgain, found)?;
    for damage in repaired {
        let repaired = Repaired {
            dataset: dataset.name.clone(),
            path: damage.path,
            what: damage.what,
        };
        send(outgoing, &Message::Repaired(repaired))?;
    }
    Ok((send_findings(dataset, left, outgoing)?, moved))
}

/// Tells of findings; returns how many.
fn send_findings(
    dataset: &Dataset,
    damages: Vec<Damage>,
    outgoing: &Outgoing,
) -> Result<u64, ReceiverError> {
    let told = damages.len() as u64;
    for damage in damages {
        let finding = Finding {
            dataset: dataset.name.clone(),
            path: damage.path,
            what: damage.what,
        };
        send(outgoing, &Message::Finding(finding))?;
    }
    Ok(told)
}

/// What became of damage.
#[derive(Debug, Default)]
pub(crate) struct Settled {
    pub(crate) repaired: Vec<Damage>,
    /// It is recorded, and nobody has accepted it.
    pub(crate) left: Vec<Damage>,
    /// It is history by now, and wrong there. It is not recorded: a pass that has history before it finds it there.
    pub(crate) moved: Vec<Damage>,
}

/// Mends what it is to, and records the rest, with a wish if it is to be mended.
pub(crate) fn settle(
    store: &Store,
    dataset: &Dataset,
    (mending, pass): (Mending, Option<u64>),
    wish: Wish,
    found: Vec<Found>,
) -> Result<Settled, ReceiverError> {
    let mut settled = Settled::default();
    let mut stuck = Vec::new();
    let (fates, below) = fates(store, dataset, mending, found);
    settled.left.extend(below);
    for (mut one, fate) in fates {
        match fate {
            Fate::Repaired => settled.repaired.push(one.damage),
            Fate::Kept(whereabouts) => {
                one.damage.what.push_str(&whereabouts);
                settled.repaired.push(one.damage);
            }
            Fate::Moved => {
                one.damage.what.push_str(MOVED);
                settled.moved.push(one.damage);
            }
            Fate::Not(why) => {
                one.damage.what.push_str(&why);
                settled.left.push(one.damage);
            }
            Fate::Stuck(why) => {
                one.damage.what.push_str(&why);
                stuck.push(one.damage);
            }
        }
    }
    let mending_wish = match mending {
        Mending::None => Wish::Record,
        Mending::Damage | Mending::All => wish,
    };
    if let Some(pass) = pass {
        findings::close(dataset, &settled.repaired)?;
        findings::add(dataset, &settled.left, mending_wish, pass)?;
        findings::add(dataset, &stuck, Wish::Record, pass)?;
    }
    settled.left.append(&mut stuck);
    settled.left = news(dataset, settled.left)?;
    Ok(settled)
}

/// Mends what is found; returns what became of each, and of what is below that.
fn fates(
    store: &Store,
    dataset: &Dataset,
    mending: Mending,
    found: Vec<Found>,
) -> (Vec<(Found, Fate)>, Vec<Damage>) {
    if mending == Mending::None {
        let told = |one| (one, Fate::Not(String::new()));
        return (found.into_iter().map(told).collect(), Vec::new());
    }
    let is_name = |one: &Found| matches!(one.subject, Subject::Name(_) | Subject::Extra(_));
    let (names, others): (Vec<_>, Vec<_>) = found.into_iter().partition(is_name);
    let (mut settled, mut below) = (Vec::new(), Vec::new());
    if !names.is_empty() {
        let (fates, lost) = mend_names(store, dataset, mending, &names);
        settled.extend(names.into_iter().zip(fates));
        below = lost;
    }
    let mut groups = HashSet::new();
    for one in others {
        let group = one.content_row().map_or(0, |row| row.entry.group);
        if groups.contains(&group) {
            // It was repaired with the other names of its file.
            continue;
        }
        let fate = mend(store, dataset, &one);
        if fate == Fate::Repaired {
            groups.extend((group != 0).then_some(group));
        }
        settled.push((one, fate));
    }
    (settled, below)
}

/// Without what somebody has accepted.
pub(crate) fn news(
    dataset: &Dataset,
    mut damages: Vec<Damage>,
) -> Result<Vec<Damage>, ReceiverError> {
    let known = findings::read(&dataset.control)?;
    damages.retain(|damage| !known.is_accepted(damage));
    Ok(damages)
}
