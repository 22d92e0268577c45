//! One test's own source, state and spare.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use super::command::{Outcome, Run};
use super::judge;
use super::pairing;
use super::spare::{Daemon, Kind};

/// The dataset's name in every test that does not test names.
pub(crate) const DATASET: &str = "site";

/// A source directory, a state directory and a spare, in one temporary directory.
#[derive(Debug)]
pub(crate) struct Stage {
    /// The receiver, where there is one. Dropped, and so killed, before its store goes.
    pub(crate) daemon: Option<Daemon>,
    /// The source, an empty directory at first.
    pub(crate) source: PathBuf,
    /// The agent's state.
    pub(crate) state: PathBuf,
    /// The spare's store.
    pub(crate) store: PathBuf,
    directory: TempDir,
}

impl Stage {
    /// A new stage with an empty source, its receiver running.
    pub(crate) fn new(kind: Kind) -> Self {
        Self::below(kind, &directory_for_tests())
    }

    /// As `new`, with the store (only) in `place`, a disk of its own for instance.
    pub(crate) fn with_store_at(kind: Kind, place: &Path) -> Self {
        let mut stage = Self::new(Kind::Embedded);
        stage.store = place.join("store");
        stage.listen(kind);
        stage
    }

    /// As `new`, everything below `place`.
    pub(crate) fn below(kind: Kind, place: &Path) -> Self {
        let directory = tempfile::Builder::new()
            .prefix("understudy-")
            .tempdir_in(place)
            .unwrap();
        let source = directory.path().join("source");
        std::fs::create_dir(&source).unwrap();
        let mut stage = Self {
            daemon: None,
            source,
            state: directory.path().join("state"),
            store: directory.path().join("store"),
            directory,
        };
        stage.listen(kind);
        stage
    }

    fn listen(&mut self, kind: Kind) {
        if kind == Kind::Tcp {
            self.daemon = Some(Daemon::start(&self.store));
            self.spare();
        }
    }

    /// The temporary directory that holds everything.
    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    /// What goes after `--spare`. A receiver there and the agent with this stage's state know each other.
    pub(crate) fn spare(&self) -> String {
        match &self.daemon {
            Some(daemon) => {
                pairing::ensure(&self.state, &self.store, &daemon.address);
                daemon.address.clone()
            }
            None => self.store.to_str().unwrap().to_owned(),
        }
    }

    /// Starts the receiver again where it listened before; `points` are its kill points.
    pub(crate) fn restart(&mut self, points: Option<&str>) {
        let mut daemon = self.daemon.take().unwrap();
        daemon.kill();
        let address = daemon.address.clone();
        drop(daemon);
        self.daemon = Some(Daemon::start_with(
            &self.store,
            &address,
            |run| match points {
                Some(points) => run.failing(points),
                None => run,
            },
        ));
    }

    /// `understudy sync` of the source.
    pub(crate) fn sync(&self) -> Run {
        Run::new(["sync"])
            .arg(&self.source)
            .arg("--spare")
            .arg(self.spare())
            .arg("--state")
            .arg(&self.state)
            .arg("--dataset")
            .arg(DATASET)
    }

    /// Syncs as soon as the receiver lets it.
    pub(crate) fn sync_soon(&self) -> Outcome {
        self.soon(&self.sync().arg("--json"))
    }

    /// Runs an upload as soon as the receiver lets it: one whose agent was killed or cut off in the midst
    /// of a commit finishes that first, and refuses other uploads meanwhile.
    pub(crate) fn soon(&self, upload: &Run) -> Outcome {
        let begun = Instant::now();
        loop {
            let outcome = upload.outcome();
            let busy = outcome.code == Some(1) && outcome.said().contains("another upload");
            if !busy || begun.elapsed() > Duration::from_secs(10) {
                return outcome;
            }
        }
    }

    /// `understudy NAME --spare ...` for the commands that ask the spare.
    pub(crate) fn ask(&self, command: &str) -> Run {
        let run = Run::new([command]).arg("--spare").arg(self.spare());
        match &self.daemon {
            // With the identity by which the receiver knows this host.
            Some(_) => run.env("UNDERSTUDY_STATE_DIR", &self.state),
            None => run,
        }
    }

    /// `understudy restore` of the dataset into `target`.
    pub(crate) fn restore(&self, target: &Path) -> Run {
        self.ask("restore").arg(DATASET).arg(target)
    }

    /// The dataset's directory in the store.
    pub(crate) fn dataset(&self) -> PathBuf {
        self.store.join(DATASET)
    }

    /// The live tree's files.
    pub(crate) fn live(&self) -> PathBuf {
        self.dataset().join("live/files")
    }

    /// Syncs a change that a guard holds, and releases it.
    pub(crate) fn sync_and_release(&self) {
        let outcome = self.sync().outcome();
        assert_eq!(outcome.code, Some(4), "{}", outcome.said());
        let on_spare = |arguments: &[&str]| Run::new(arguments).arg("--store").arg(&self.store);
        let held = on_spare(&["held", DATASET]).data();
        let digest = held["held"][0]["digest"].as_str().unwrap();
        on_spare(&["release", DATASET, digest]).ok();
    }

    /// Syncs, which must succeed, has the live tree judged, and returns sync's data.
    pub(crate) fn sync_and_judge(&self) -> Value {
        let data = self.sync().data();
        judge::same(&self.source, &self.live());
        data
    }
}

/// Where the tests make their trees: on the disk that the target directory is on, or where
/// `UNDERSTUDY_TEST_DIR` says.
pub(crate) fn directory_for_tests() -> PathBuf {
    let place = std::env::var_os("UNDERSTUDY_TEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_TARGET_TMPDIR")), PathBuf::from);
    std::fs::create_dir_all(&place).unwrap();
    place
}
