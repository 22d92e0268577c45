//! One file tree on disk and nothing else: opening beneath a root, walking in order, watching, reading and
//! writing entries with all their metadata, durable replacement.
//!
//! Knows no network and no database. Everything below a root goes through held descriptors and `*at` calls;
//! no path that somebody else could redirect is ever resolved twice. This crate is also the only one that
//! writes to disk (`clippy.toml` holds the others to it).

pub mod attributes;
pub mod confine;
pub mod content;
pub mod crash;
pub mod directory;
pub mod durable;
pub mod error;
pub mod exclude;
pub mod node;
pub mod priority;
pub mod private;
pub mod privileges;
mod raw;
pub mod remove;
pub mod select;
pub mod stat;
pub mod uncached;
pub mod walk;
pub mod watch;

pub use attributes::{Lacking, read_xattrs, set_attributes};
pub use directory::{Directory, Mounts};
pub use error::TreeError;
pub use exclude::Excludes;
pub use priority::{IoPriority, set_io_priority};
pub use private::Private;
pub use privileges::{Privileges, Specials};
pub use select::{Glob, InvalidGlob};
pub use stat::{Identity, Kind, Stat};
