//! Which retention policies hold for a store that a command works on.

use std::path::Path;

use understudy_receiver::Store;
use understudy_receiver::retention::Policies;

use crate::exit::CommandError;
use crate::receiver_config::{self, ReceiverConfig};

/// Those of the configuration that was given, or of the usual one if it is that of this store. A store that no configuration
/// is for has the defaults.
pub(super) fn policies(store: &Store, config: Option<&Path>) -> Result<Policies, CommandError> {
    let Some(path) = receiver_config::chosen(config, None) else {
        return Ok(Policies::default());
    };
    let found = ReceiverConfig::load(&path)?;
    let is_of_store = found
        .store
        .as_deref()
        .is_some_and(|path| is_same(path, store.path()));
    if config.is_some() || is_of_store {
        return Ok(found.retention);
    }
    Ok(Policies::default())
}

fn is_same(one: &Path, other: &Path) -> bool {
    match (one.canonicalize(), other.canonicalize()) {
        (Ok(one), Ok(other)) => one == other,
        _ => one == other,
    }
}
