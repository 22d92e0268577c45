//! Which retention policies, which reserve and which quotas hold for a store that a command works on.

use std::path::Path;

use understudy_receiver::quota::Quotas;
use understudy_receiver::retention::Policies;
use understudy_receiver::{Reserve, Store};

use crate::exit::CommandError;
use crate::receiver_config::{self, ReceiverConfig};

/// Those of the configuration that was given, or of the usual one if it is that of this store. A store that no configuration
/// is for has the defaults.
pub(super) fn policies(store: &Store, config: Option<&Path>) -> Result<Policies, CommandError> {
    Ok(configuration(store, config)?.map_or_else(Policies::default, |found| found.retention))
}

/// What must stay free of the store's disk, by the same configuration.
pub(super) fn reserve(store: &Store, config: Option<&Path>) -> Result<Reserve, CommandError> {
    Ok(configuration(store, config)?.map_or_else(Reserve::default, |found| found.reserve))
}

/// What mains may take, by the same configuration.
pub(super) fn quotas(store: &Store) -> Result<Quotas, CommandError> {
    Ok(configuration(store, None)?.map_or_else(Quotas::default, |found| found.quotas))
}

/// The configuration that was given, or the usual one if it is that of this store.
pub(super) fn configuration(
    store: &Store,
    config: Option<&Path>,
) -> Result<Option<ReceiverConfig>, CommandError> {
    let Some(path) = receiver_config::chosen(config, None) else {
        return Ok(None);
    };
    let found = ReceiverConfig::load(&path)?;
    let is_of_store = found
        .store
        .as_deref()
        .is_some_and(|path| is_same(path, store.path()));
    Ok((config.is_some() || is_of_store).then_some(found))
}

fn is_same(one: &Path, other: &Path) -> bool {
    match (one.canonicalize(), other.canonicalize()) {
        (Ok(one), Ok(other)) => one == other,
        _ => one == other,
    }
}
