//! The connections that mains have now: few of each, and none of one that the spare does not know any more.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use understudy_protocol::transport::stream::Cutter;
use understudy_protocol::transport::tls::Arrival;
use understudy_protocol::{MainName, PublicKey};
use understudy_receiver::trust::Trust;

/// More connections than any honest pairs need; each costs a thread and some buffers.
const ALL: usize = 64;
/// The same of one main.
const OF_ONE: usize = 16;

/// All of them.
#[derive(Debug, Default, Clone)]
pub(super) struct Live(Arc<Mutex<List>>);

#[derive(Debug, Default)]
struct List {
    next: u64,
    connections: Vec<Connection>,
    /// Why the mains could not be read last, as it was told.
    told: Option<String>,
}

#[derive(Debug)]
struct Connection {
    number: u64,
    main: MainName,
    key: PublicKey,
    from: String,
    cutter: Cutter,
}

/// A connection as long as it is served.
#[derive(Debug)]
pub(super) struct Served {
    number: u64,
    live: Live,
}

impl Drop for Served {
    fn drop(&mut self) {
        let mut list = self.live.lock();
        list.connections.retain(|one| one.number != self.number);
    }
}

impl Live {
    fn lock(&self) -> MutexGuard<'_, List> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts one more connection, or says why it would be one too many.
    pub(super) fn enter(&self, arrival: &Arrival) -> Result<Served, String> {
        let mut list = self.lock();
        let main = &arrival.main;
        let of_main = list.connections.iter().filter(|one| one.main == *main);
        if of_main.count() >= OF_ONE {
            return Err(format!("main {main} has {OF_ONE} connections already"));
        }
        if list.connections.len() >= ALL {
            return Err(format!("{ALL} connections are open already"));
        }
        list.next += 1;
        let number = list.next;
        list.connections.push(Connection {
            number,
            main: main.clone(),
            key: arrival.key,
            from: arrival.address.to_string(),
            cutter: arrival.cutter.clone(),
        });
        Ok(Served {
            number,
            live: self.clone(),
        })
    }

    /// Cuts off those whose key is not (any more) that of their main. While the mains cannot be read nobody else is let
    /// in, and these go on.
    pub(super) fn cut_off_strangers(&self, trust: &Trust) {
        let mut list = self.lock();
        let mains = match trust.mains() {
            Ok(mains) => mains,
            Err(error) => {
                let why = error.to_string();
                if list.told.as_ref() != Some(&why) {
                    tracing::error!("nobody is let in until this is mended: {why}");
                    list.told = Some(why);
                }
                return;
            }
        };
        list.told = None;
        for one in &list.connections {
            let is_known = mains
                .iter()
                .any(|main| main.name == one.main && main.key == one.key);
            if !is_known {
                tracing::warn!(
                    "{}: cut off, for main {} with the key {} is not known any more",
                    one.from,
                    one.main,
                    one.key
                );
                one.cutter.cut();
            }
        }
    }
}
