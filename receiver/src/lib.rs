//! The spare's side: takes uploads, keeps twin trees, history and catalog, gives contents back.
//!
//! Data flows one way: session -> staging -> intent -> shadow tree -> live tree -> history. Nothing here knows
//! the agent; both meet only in the protocol. `docs/storage.md` describes what lies on disk.

// Tests of this crate's own modules share the stage of the others.
#[cfg(test)]
extern crate self as understudy_receiver;

mod absorb;
mod access;
pub mod adopt;
pub mod alert;
mod apply;
mod arriving;
mod browse;
mod catalog;
mod committing;
mod comparison;
mod crowd;
mod cycle;
mod dataset;
pub mod demote;
mod differing;
pub mod drift;
mod error;
mod filling;
mod findings;
mod flushing;
mod frozen;
#[doc(hidden)]
pub mod fuzzing;
mod fuzzy;
mod give;
pub mod guard;
pub mod handover;
pub mod health;
mod history;
mod housekeeping;
mod keeping;
mod ledger;
mod leftovers;
mod library;
mod marker;
mod names;
mod owner;
mod pace;
mod packing;
mod patch;
mod peer;
pub mod promote;
pub mod quota;
mod recall;
mod recover;
pub mod rehearsal;
mod reinstate;
mod repair;
mod rescue;
mod resolve;
mod restores;
pub mod retention;
mod returned;
mod role;
mod routing;
pub mod scrub;
mod sealed;
mod serve;
pub mod served;
mod shelves;
mod space;
pub mod specials;
mod stage;
pub mod standby;
mod standing;
mod stated;
mod store;
mod stored;
mod streams;
mod syncs;
pub mod trust;
mod upload;
mod verify;
mod waiting;
mod workers;

pub use error::ReceiverError;
pub use peer::Peer;
pub use serve::{AfterFirst, Deletions, Drift, Lease, SessionOptions, serve};
pub use space::Reserve;
pub use store::Store;
