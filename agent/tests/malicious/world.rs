//! A host to restore on: a target, and beside it what nobody may touch.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use understudy_agent::{
    Action, AgentError, Cancel, Context, Emptied, Existing, Leniency, Lost, Manner, Order, OwnedBy,
    Pace, Part, Progress, RestoreReport, RestoreRequest, Source, SyncReport, Trusted, Unsettled,
    Which, restore, sync,
};
use understudy_protocol::{DatasetName, SecretKey};
use understudy_tree::{Excludes, Mounts};

use crate::spare::Spare;

/// The main's key, or another.
pub(crate) fn key(seed: u8) -> SecretKey {
    SecretKey::from_seed(&[seed; 32]).expect("key")
}

pub(crate) fn dataset() -> DatasetName {
    DatasetName::new("site").expect("name")
}

/// What stands somewhere: mode, owner, time and content.
type Seen = BTreeMap<PathBuf, (u32, u32, i64, Vec<u8>)>;

pub(crate) struct World {
    scratch: tempfile::TempDir,
    before: Seen,
    pub(crate) cancel: Cancel,
}

impl World {
    pub(crate) fn new() -> Self {
        let scratch = tempfile::tempdir().expect("scratch");
        let outside = scratch.path().join("outside");
        fs::create_dir_all(outside.join("d")).expect("outside");
        fs::write(outside.join("d/secret"), "secret").expect("secret");
        fs::write(outside.join("passwd"), "root").expect("passwd");
        symlink("d", outside.join("link")).expect("link");
        fs::create_dir(scratch.path().join("in")).expect("place");
        let mut world = Self {
            before: Seen::new(),
            cancel: Cancel::default(),
            scratch,
        };
        world.before = world.seen();
        world
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    fn seen(&self) -> Seen {
        let mut seen = Seen::new();
        look(&self.path("outside"), &mut seen);
        seen
    }

    pub(crate) fn target(&self) -> PathBuf {
        self.path("in/target")
    }

    /// Nothing outside of the target has changed.
    pub(crate) fn assert_untouched(&self) {
        assert_eq!(self.seen(), self.before);
        let mut names: Vec<_> = fs::read_dir(self.scratch.path())
            .expect("list")
            .map(|entry| {
                entry
                    .expect("entry")
                    .file_name()
                    .into_string()
                    .expect("text")
            })
            .collect();
        names.retain(|name| !["source", "state"].contains(&name.as_str()));
        names.sort();
        assert_eq!(names, ["in", "outside"]);
        for entry in fs::read_dir(self.path("in")).expect("list") {
            let name = entry
                .expect("entry")
                .file_name()
                .into_string()
                .expect("text");
            assert!(name.starts_with("target"), "{name}");
        }
    }

    /// Nothing outside of the target has changed, and nothing stands there.
    pub(crate) fn assert_refused(&self) {
        self.assert_untouched();
        assert!(!self.target().exists(), "there is a target");
    }

    pub(crate) fn context(&self) -> Context {
        Context {
            state: self.path("state"),
            spare: "malicious".to_owned(),
            progress: Arc::new(Progress::default()),
            cancel: self.cancel.clone(),
            pace: Arc::new(Pace::unlimited()),
            store: None,
            signer: Some(Arc::new(key(1))),
            databases: None,
            images: None,
        }
    }

    pub(crate) fn request(&self) -> RestoreRequest {
        RestoreRequest {
            dataset: dataset(),
            target: self.target(),
            which: Which::Newest,
            databases: None,
            part: Part::Whole,
            first: Vec::new(),
            order: Order::Listed,
            existing: Existing::Refuse,
            manner: Manner::Switch,
            owners: OwnedBy::Number,
            lost: Lost::Ask,
            announced: (0, 0),
            trust: None,
            room_bytes: RestoreRequest::ROOM_BYTES,
            action: Action::Write,
        }
    }

    pub(crate) fn restore(
        &self,
        spare: Spare,
        request: &RestoreRequest,
    ) -> Result<RestoreReport, AgentError> {
        let channel = spare.serve();
        let result = restore(channel, request, &self.context(), None);
        if let Err(error) = &result {
            assert_plain(&error.to_string());
        }
        result
    }

    /// A restore by whoever does not ask who has made what comes, in either manner: it is refused, and nothing is touched.
    pub(crate) fn refuse(make: impl Fn() -> Spare) -> String {
        let mut errors = Vec::new();
        for manner in [Manner::Switch, Manner::Progressive] {
            let world = Self::new();
            let request = RestoreRequest {
                manner,
                ..world.request()
            };
            let error = world.restore(make(), &request).expect_err("it is restored");
            world.assert_untouched();
            if manner == Manner::Switch {
                assert!(!world.target().exists(), "there is a target");
            }
            errors.push(error.to_string());
        }
        crate::assert_small();
        errors.swap_remove(0)
    }

    pub(crate) fn source(&self, excludes: &[&str]) -> Source {
        let path = self.path("source");
        fs::create_dir_all(&path).expect("source");
        let excludes: Vec<String> = excludes.iter().map(ToString::to_string).collect();
        Source {
            path,
            dataset: dataset(),
            excludes: Excludes::new(&excludes).expect("patterns"),
            mounts: Mounts::Stay,
            emptied: Emptied::Refuse,
            sweep: Source::SWEEP,
            unsettled: Unsettled::default(),
            databases: Vec::new(),
            stillness: None,
            snapshot: None,
            on_database_failure: Default::default(),
            sqlite: Default::default(),
        }
    }

    pub(crate) fn sync(&self, spare: Spare, source: &Source) -> Result<SyncReport, AgentError> {
        let result = sync(spare.serve(), source, &self.context());
        self.assert_untouched();
        crate::assert_small();
        result
    }
}

/// Whose word counts: the main's, which knows nothing of what was acknowledged.
pub(crate) fn trust() -> Option<Trusted> {
    Some(Trusted {
        own: key(1).public(),
        others: Vec::new(),
        newest: None,
        leniency: Leniency::Refuse,
    })
}

/// Nothing in a text can steer a terminal.
pub(crate) fn assert_plain(text: &str) {
    assert!(!text.contains(|c: char| c.is_control()), "{text:?}");
}

fn look(path: &Path, seen: &mut Seen) {
    let about = fs::symlink_metadata(path).expect("metadata");
    let content = if about.is_file() {
        fs::read(path).expect("read")
    } else if about.is_symlink() {
        fs::read_link(path)
            .expect("link")
            .into_os_string()
            .into_encoded_bytes()
    } else {
        for entry in fs::read_dir(path).expect("list") {
            look(&entry.expect("entry").path(), seen);
        }
        Vec::new()
    };
    let (mode, owner) = (about.permissions().mode(), about.uid());
    seen.insert(path.to_owned(), (mode, owner, about.mtime(), content));
}
