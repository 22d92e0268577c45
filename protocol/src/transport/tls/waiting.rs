//! The connections of which it is not known yet who is at the other end: few in all, few of each address.
//!
//! A new one is never turned away, for it may be a main: the oldest goes instead, of the address that has the most.
//! So strangers that only wait keep nobody out, however many they are; a main needs but a moment.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// In all.
const WAITING: usize = 64;
/// From one address.
const OF_ONE: usize = 16;

/// Those that wait.
#[derive(Debug, Default, Clone)]
pub(super) struct Waiting(Arc<Mutex<Line>>);

#[derive(Debug, Default)]
struct Line {
    next: u64,
    /// The oldest first.
    places: Vec<Place>,
}

#[derive(Debug)]
struct Place {
    number: u64,
    address: IpAddr,
    /// Dropped with the place.
    _kept: oneshot::Sender<()>,
}

/// A place among those that wait, until it is dropped.
#[derive(Debug)]
pub(super) struct Ticket {
    number: u64,
    waiting: Waiting,
    lost: oneshot::Receiver<()>,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut line = self.waiting.lock();
        line.places.retain(|place| place.number != self.number);
    }
}

impl Ticket {
    /// Waits until somebody else has been given the place.
    pub(super) async fn lost(&mut self) {
        // Nothing is ever sent: it ends with the place.
        let _ = (&mut self.lost).await;
    }
}

impl Waiting {
    fn lock(&self) -> MutexGuard<'_, Line> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets a connection from `address` wait. Says from where the one was whose place it takes, if one had to go.
    pub(super) fn enter(&self, address: IpAddr) -> (Ticket, Option<IpAddr>) {
        let address = network(address);
        let (kept, lost) = oneshot::channel();
        let mut line = self.lock();
        line.next += 1;
        let number = line.next;
        line.places.push(Place {
            number,
            address,
            _kept: kept,
        });
        let gone = line.surplus(address).map(|goes| line.places.remove(goes));
        let ticket = Ticket {
            number,
            waiting: self.clone(),
            lost,
        };
        (ticket, gone.map(|gone| gone.address))
    }
}

impl Line {
    /// Which one must go, now that one of `address` has come.
    fn surplus(&self, address: IpAddr) -> Option<usize> {
        let of = |address: IpAddr| {
            let same = self.places.iter().filter(|place| place.address == address);
            same.count()
        };
        let from = if of(address) > OF_ONE {
            address
        } else if self.places.len() > WAITING {
            // The first of those that have the most, so that the oldest goes where all have one.
            let mut most = self.places.first()?.address;
            for place in &self.places {
                if of(place.address) > of(most) {
                    most = place.address;
                }
            }
            most
        } else {
            return None;
        };
        self.places.iter().position(|place| place.address == from)
    }
}

/// What one owner has: a single address, or with IPv6 what begins with the same 64 bits.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let bits = u128::from(address) >> 64 << 64;
            Ipv6Addr::from(bits).into()
        }
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lets connections from `address` wait; says whose places they take.
    fn enter(waiting: &Waiting, address: &str, times: usize) -> (Vec<Ticket>, Vec<String>) {
        let address: IpAddr = address.parse().expect("address");
        let entered = (0..times).map(|_| waiting.enter(address));
        let (tickets, gone): (_, Vec<_>) = entered.unzip();
        (
            tickets,
            gone.into_iter()
                .flatten()
                .map(|gone| gone.to_string())
                .collect(),
        )
    }

    #[tokio::test]
    async fn who_has_the_most_makes_room_and_nobody_is_turned_away() {
        let waiting = Waiting::default();
        let (mut first, gone) = enter(&waiting, "192.0.2.1", OF_ONE);
        assert!(gone.is_empty());
        let (_more, gone) = enter(&waiting, "::ffff:192.0.2.1", 1);
        assert_eq!(gone, ["192.0.2.1"], "the same address");
        first[0].lost().await;
        assert!(
            first[1]
                .lost
                .try_recv()
                .is_err_and(|error| { error == oneshot::error::TryRecvError::Empty })
        );

        let mut others = Vec::new();
        for number in 2..=WAITING - OF_ONE + 1 {
            let (tickets, gone) = enter(&waiting, &format!("192.0.2.{number}"), 1);
            assert!(gone.is_empty(), "{number}: {gone:?}");
            others.extend(tickets);
        }
        let (_new, gone) = enter(&waiting, "198.51.100.1", 2);
        assert_eq!(gone, ["192.0.2.1", "192.0.2.1"]);
        assert_eq!(waiting.lock().places.len(), WAITING);

        drop(others);
        let (_mains, gone) = enter(&waiting, "198.51.100.2", OF_ONE);
        assert!(gone.is_empty(), "those that ended have left their places");
    }

    #[tokio::test]
    async fn one_network_of_ipv6_counts_as_one_address() {
        let waiting = Waiting::default();
        let mut tickets = Vec::new();
        for number in 0..=OF_ONE {
            let (ticket, gone) = enter(&waiting, &format!("2001:db8::{number:x}"), 1);
            tickets.extend(ticket);
            assert_eq!(gone.len(), usize::from(number == OF_ONE));
        }
        let (_other, gone) = enter(&waiting, "2001:db8:0:1::1", 1);
        assert!(gone.is_empty());
    }
}
