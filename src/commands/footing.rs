//! What keeps the host of a spare from what mains send: how the store is mounted, and what the kernel enforces. For `status`, where
//! the store is.

use serde_json::{Value, json};
use understudy_protocol::escape;
use understudy_receiver::Store;
use understudy_receiver::specials::{self, Mounted};
use understudy_tree::confine;

use crate::confinement;
use crate::exit::CommandError;

/// What a store stands on.
pub(super) struct Footing {
    path: String,
    mounted: Mounted,
    /// Whether there is a dataset with set-user-id bits and devices as on its main.
    is_materialised: bool,
    /// What a receiver would not be kept from here, in words.
    missing: Option<String>,
}

/// Looks at it.
pub(super) fn of(store: &Store) -> Result<Footing, CommandError> {
    let confined = confine::trial().map_err(|error| CommandError::failed(error.to_string()))?;
    Ok(Footing {
        path: escape(store.path().as_os_str().as_encoded_bytes()),
        mounted: specials::mounted(store),
        is_materialised: specials::is_any_materialised(store)?,
        missing: confinement::missing(confined),
    })
}

/// For programs.
pub(super) fn value(footing: &Footing) -> Value {
    json!({
        "path": footing.path,
        "nosuid": footing.mounted.nosuid,
        "nodev": footing.mounted.nodev,
        "not_confined": footing.missing,
    })
}

/// For people: what could be better.
pub(super) fn lines(footing: &Footing) -> Vec<String> {
    let Mounted { nosuid, nodev } = footing.mounted;
    let mount = (footing.is_materialised && !(nosuid && nodev)).then(|| {
        let wanted = match (nosuid, nodev) {
            (true, _) => "nodev",
            (_, true) => "nosuid",
            _ => "nosuid,nodev",
        };
        format!(
            "set-user-id bits and devices of mains work on this host: mount the file system of `{}` with `{wanted}`, or write `specials = \"record\"` to the configuration",
            footing.path
        )
    });
    let missing = footing.missing.as_ref().map(|missing| {
        format!("a receiver on this host is less confined than it should be: {missing}")
    });
    mount.into_iter().chain(missing).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_as_it_should_be_is_not_spoken_of() {
        let mut footing = Footing {
            path: "/srv/spare".to_owned(),
            mounted: Mounted {
                nosuid: true,
                nodev: true,
            },
            is_materialised: true,
            missing: None,
        };
        assert_eq!(lines(&footing), [""; 0]);
        assert_eq!(value(&footing)["not_confined"], Value::Null);
        footing.mounted.nodev = false;
        let told = lines(&footing);
        assert!(told[0].contains("with `nodev`"), "{told:?}");
        footing.mounted.nosuid = false;
        assert!(lines(&footing)[0].contains("with `nosuid,nodev`"));
        footing.is_materialised = false;
        footing.missing = Some("NOT CONFINED".to_owned());
        let told = lines(&footing);
        assert!(
            told.len() == 1 && told[0].contains("NOT CONFINED"),
            "{told:?}"
        );
        assert_eq!(value(&footing)["not_confined"], "NOT CONFINED");
    }
}
