//! Which main a dataset belongs to: one small file beside everything else that is kept of it.
//!
//! A dataset that a main makes has its owner from the first moment on: it is made aside, whole, and renamed. Only somebody on the
//! spare changes it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::io::Errno;
use understudy_protocol::{DatasetName, MainName, Name};
use understudy_tree::durable::{self, Durability};
use understudy_tree::{Directory, TreeError};

use crate::dataset::{furnish, own_name};
use crate::error::ReceiverError;
use crate::names;
use crate::store::Store;

/// What the directories begin with in which a dataset is made; no dataset can have such a name.
pub(crate) const MAKING: &str = "understudy.new-";
/// A name and a newline; anything longer is not ours.
const LIMIT_BYTES: u64 = 256;
/// Tells the sessions of a process apart.
static MADE: AtomicU64 = AtomicU64::new(0);

/// Whom a name in the store belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Owner {
    /// Nothing has this name.
    Absent,
    /// Something has it that belongs to no main.
    Nobody,
    /// A dataset of this main.
    Main(MainName),
}

impl Owner {
    /// The owner of what has this name in a store.
    pub(crate) fn of(store: &Directory, name: &DatasetName) -> Result<Self, ReceiverError> {
        let directory = match store.open_directory(&own_name(name)?) {
            Ok(directory) => directory,
            Err(error) if error.errno() == Some(Errno::NOENT) => return Ok(Self::Absent),
            // A file, or a link: a name that is taken all the same.
            Err(error) if error.is_gone() => return Ok(Self::Nobody),
            Err(error) => return Err(error.into()),
        };
        match directory.open_directory(&names::CONTROL) {
            Ok(control) => read(&control, name),
            Err(error) if error.is_gone() => Ok(Self::Nobody),
            Err(error) => Err(error.into()),
        }
    }
}

/// What the file says. One that says nothing that can be understood gives the dataset to nobody.
fn read(control: &Directory, name: &DatasetName) -> Result<Owner, ReceiverError> {
    let text = match durable::read(control, &names::MAIN, LIMIT_BYTES) {
        Ok(None) => return Ok(Owner::Nobody),
        Ok(Some(text)) => text,
        Err(error) if error.errno().is_none() => Vec::new(),
        Err(error) => return Err(error.into()),
    };
    let text = String::from_utf8(text).unwrap_or_default();
    match MainName::new(text.trim_end_matches('\n')) {
        Ok(main) => Ok(Owner::Main(main)),
        Err(error) => {
            tracing::warn!(dataset = %name, "nobody may use it but on the spare, for its file `main` cannot be understood: {error}; `understudy pair --grant NAME {name}` writes it anew");
            Ok(Owner::Nobody)
        }
    }
}

/// Writes down whom a dataset belongs to. Durable when it returns.
pub(crate) fn write(control: &Directory, main: &MainName) -> Result<(), TreeError> {
    let text = format!("{main}\n");
    durable::replace(control, &names::MAIN, text.as_bytes(), Durability::Now)
}

/// Makes a dataset that belongs to a main, unless the name is taken meanwhile. It appears whole, and durably, with its owner.
pub(crate) fn make(
    store: &Directory,
    name: &DatasetName,
    main: &MainName,
) -> Result<(), ReceiverError> {
    let number = MADE.fetch_add(1, Ordering::Relaxed);
    let text = format!("{MAKING}{}-{number}", std::process::id());
    let aside = Name::new(text).map_err(|error| ReceiverError::Misbehaved(error.to_string()))?;
    store.create_directory(&aside)?;
    let made = (|| {
        let directory = store.open_directory(&aside)?;
        let control = furnish(&directory)?;
        write(&control, main)?;
        directory.sync()?;
        match store.rename_new(&aside, store, &own_name(name)?) {
            Err(error) if error.errno() == Some(Errno::EXIST) => Ok(false),
            renamed => renamed.map(|()| true).map_err(ReceiverError::from),
        }
    })();
    if !matches!(made, Ok(true)) {
        discard(store, &aside);
    }
    made?;
    Ok(store.sync()?)
}

/// What cannot be removed now goes when the store is opened after an hour.
fn discard(store: &Directory, aside: &Name) {
    let removed = store.open_directory(aside).and_then(|directory| {
        understudy_tree::remove::empty(&directory)?;
        store.remove_directory(aside)
    });
    if let Err(error) = removed {
        tracing::debug!("cannot remove what was to become a dataset: {error}");
    }
}

impl Store {
    /// The main that a dataset belongs to; `None` if it is nobody's. Fails if there is no such dataset.
    pub fn owner(&self, name: &DatasetName) -> Result<Option<MainName>, ReceiverError> {
        crate::access::existing(self, name)?;
        Ok(match Owner::of(self.directory(), name)? {
            Owner::Main(main) => Some(main),
            Owner::Absent | Owner::Nobody => None,
        })
    }

    /// All datasets, each with the main that it belongs to.
    pub fn owners(&self) -> Result<BTreeMap<DatasetName, Option<MainName>>, ReceiverError> {
        let mut owners = BTreeMap::new();
        for name in self.dataset_names()? {
            let main = match Owner::of(self.directory(), &name)? {
                Owner::Main(main) => Some(main),
                Owner::Absent | Owner::Nobody => None,
            };
            owners.insert(name, main);
        }
        Ok(owners)
    }

    /// Gives a dataset to a main; returns whose it was. Durable when it returns. Waits for no upload, and refuses while one runs; who is
    /// reading goes on to the end of the session.
    pub fn grant(
        &self,
        main: &MainName,
        name: &DatasetName,
    ) -> Result<Option<MainName>, ReceiverError> {
        let dataset = crate::access::existing(self, name)?;
        let _locked = dataset.lock_patiently()?;
        let former = self.owner(name)?;
        write(&dataset.control, main)?;
        Ok(former)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn main(name: &str) -> MainName {
        MainName::new(name).expect("name")
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "a scratch directory of the test")]
    fn a_dataset_has_the_owner_it_was_made_with_until_it_is_given_to_another() {
        let scratch = tempfile::tempdir().expect("scratch");
        let path = scratch.path().join("store");
        let store = Store::open(&path).expect("store");
        let site = DatasetName::fit(b"site");
        let of = || Owner::of(store.directory(), &site).expect("owner");
        assert_eq!(of(), Owner::Absent);
        make(store.directory(), &site, &main("alpha")).expect("make");
        // Whoever comes second changes nothing.
        make(store.directory(), &site, &main("beta")).expect("make");
        assert_eq!(of(), Owner::Main(main("alpha")));
        assert_eq!(store.dataset_names().expect("names").len(), 1);
        let left = fs::read_dir(&path).expect("list");
        assert_eq!(left.count(), 2, "the store's own file and the dataset");
        let was = store.grant(&main("beta"), &site).expect("grant");
        assert_eq!(was, Some(main("alpha")));
        assert_eq!(store.owner(&site).expect("owner"), Some(main("beta")));
        let dataset = store.dataset(&site).expect("open").expect("there");
        let locked = dataset.lock().expect("lock");
        assert!(matches!(
            store.grant(&main("alpha"), &site),
            Err(ReceiverError::Busy(_))
        ));
        drop(locked);
        let file = path.join("site/.understudy/main");
        for text in [&b""[..], b"Alpha\n", b"a/b", &[b'a'; 1000], b"\xff\xfe"] {
            fs::write(&file, text).expect("write");
            assert_eq!(of(), Owner::Nobody, "{text:?}");
        }
        store.grant(&main("alpha"), &site).expect("grant");
        assert_eq!(of(), Owner::Main(main("alpha")));
        // A dataset as it was before there were owners, something else, and what a dead process left.
        fs::remove_file(&file).expect("remove");
        assert_eq!(of(), Owner::Nobody);
        fs::write(path.join("plain"), b"").expect("write");
        let plain = DatasetName::fit(b"plain");
        let found = Owner::of(store.directory(), &plain).expect("owner");
        assert_eq!(found, Owner::Nobody);
    }
}
