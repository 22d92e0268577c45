//! A worker that keeps the application of a dataset still, or a snapshot of its file system. It lives as long as that, and undoes it when it is told to,
//! when nobody speaks to it any more, and when it has taken too long. Whoever finds it gone has another one undo it.

use std::ffi::OsStr;
use std::fmt::Display;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::oneshot;
use understudy_agent::config::{Config, Scheduled};
use understudy_agent::databases::{CaptureError, LetGo};
use understudy_protocol::DatasetName;

use super::note::{Note, What};
use super::{Answer, Request};
use crate::hooks::{self, Ran};

/// How long a program may take that undoes what was begun, or makes a snapshot.
const EACH: Duration = Duration::from_secs(10 * 60);
/// How often it is tried at once to undo it: what ends this process' group may have ended the programs.
const TRIES: u32 = 2;
/// What starting and ending processes takes at most.
pub(super) const SLACK: Duration = Duration::from_secs(20);

/// What is begun and undone for a dataset, and by which programs.
#[derive(Debug)]
pub(super) struct Task {
    what: What,
    dataset: DatasetName,
    path: String,
    begin: Vec<Vec<String>>,
    undo: Vec<Vec<String>>,
    /// For how long, from the first program on, if that has an end.
    most: Option<Duration>,
}

impl Task {
    /// What the configuration says of it now.
    pub(super) fn of(
        config: &Path,
        (what, dataset): (What, &DatasetName),
    ) -> Result<Self, CaptureError> {
        let config =
            Config::load(config).map_err(|error| CaptureError::failed(error.to_string()))?;
        let mut all = config.sources().into_iter().flatten();
        let is_it = |one: &Scheduled| one.source.dataset == *dataset;
        let source = all.find(is_it).map(|one| one.source);
        let found = source.and_then(|source| {
            let (begin, undo, most) = match what {
                What::Stillness => {
                    let stillness = source.stillness?;
                    (stillness.before, stillness.after, Some(stillness.most))
                }
                What::Snapshot => {
                    let programs = source.snapshot?;
                    (vec![programs.make], vec![programs.remove], None)
                }
            };
            Some(Self {
                what,
                dataset: dataset.clone(),
                path: source.path.to_string_lossy().into_owned(),
                begin,
                undo,
                most,
            })
        });
        found.ok_or_else(|| {
            CaptureError::failed(match what {
                What::Stillness => {
                    "the configuration has no `after_capture` for it any more: see whether the application works, and remove the note"
                }
                What::Snapshot => {
                    "the configuration has no `snapshot` for it any more: see whether there is one, and remove the note"
                }
            })
        })
    }

    /// After so long it has begun, or could not.
    pub(super) fn until_begun(&self) -> Duration {
        let begin = self.most.unwrap_or_else(|| times(EACH, self.begin.len()));
        begin.saturating_add(self.until_undone())
    }

    /// After so long it is over, whatever happens.
    pub(super) fn until_over(&self) -> Duration {
        match self.most {
            Some(most) => most.saturating_add(self.until_undone()),
            None => Duration::MAX,
        }
    }

    /// So long it takes to undo it.
    pub(super) fn until_undone(&self) -> Duration {
        times(EACH, self.undo.len())
            .saturating_mul(TRIES)
            .saturating_add(SLACK)
    }

    fn id(&self) -> (What, &DatasetName) {
        (self.what, &self.dataset)
    }

    fn variables(&self) -> [(&'static str, String); 2] {
        [
            ("UNDERSTUDY_DATASET", self.dataset.to_string()),
            ("UNDERSTUDY_PATH", self.path.clone()),
        ]
    }
}

fn times(one: Duration, count: usize) -> Duration {
    one.saturating_mul(u32::try_from(count).unwrap_or(u32::MAX))
}

/// Where a worker finds everything.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ground<'a> {
    pub(super) config: &'a Path,
    pub(super) state: &'a Path,
    pub(super) runtime: &'a Handle,
}

/// Begins something and undoes it once `told` is done; says both with `answer`.
pub(super) fn keep(
    ground: Ground<'_>,
    (what, request): (What, &Request),
    told: oneshot::Receiver<()>,
    mut answer: impl FnMut(Answer),
) {
    match begin(ground, (what, &request.dataset), told) {
        Err(error) => answer(Answer::Failure(error)),
        Ok((kept, begun)) => {
            answer(begun);
            answer(Answer::LetGo(kept.end(ground.runtime)));
        }
    }
}

/// Undoes what somebody has begun who has gone.
pub(super) fn undo(ground: Ground<'_>, (what, dataset): (What, &DatasetName)) -> LetGo {
    let cannot = |error: &dyn Display| {
        let place = what.place(ground.state).join(dataset.as_str());
        let text = format!("{error}; the note is `{}`", place.display());
        tell_stuck((what, dataset), &text);
        LetGo {
            stuck: Some(text),
            ..LetGo::default()
        }
    };
    let note = match Note::take(ground.state, (what, dataset)) {
        Ok(Some(note)) => note,
        Ok(None) => return LetGo::default(),
        Err(error) => return cannot(&error),
    };
    let since = note.text.trim();
    match what {
        What::Stillness => {
            tracing::warn!(%dataset, "the application was kept still ({since}) by somebody who could not let it go on: `after_capture` is run now");
        }
        What::Snapshot => {
            tracing::warn!(%dataset, "a snapshot of the file system was made ({since}) by somebody who could not remove it: `remove` is run now");
        }
    }
    match Task::of(ground.config, (what, dataset)) {
        Ok(task) => LetGo {
            early: None,
            stuck: run_undo(ground.runtime, &task, note),
        },
        Err(error) => cannot(&error),
    }
}

/// What has begun, until it is undone.
struct Kept {
    task: Task,
    note: Note,
    told: oneshot::Receiver<()>,
    until: Option<Instant>,
}

fn begin(
    ground: Ground<'_>,
    id: (What, &DatasetName),
    told: oneshot::Receiver<()>,
) -> Result<(Kept, Answer), CaptureError> {
    let task = Task::of(ground.config, id)?;
    let until = task.most.map(|most| Instant::now() + most);
    let note = Note::write(ground.state, task.id()).map_err(|error| {
        CaptureError::failed(format!("it cannot be noted what is begun: {error}"))
    })?;
    let note = note.ok_or_else(|| {
        CaptureError::failed(
            "another agent captures the dataset at this moment; the next cycle tries again",
        )
    })?;
    let mut kept = Kept {
        task,
        note,
        told,
        until,
    };
    match kept.run_begin(ground.runtime) {
        Ok(begun) => Ok((kept, begun)),
        Err(failure) => {
            let stuck = run_undo(ground.runtime, &kept.task, kept.note);
            let then = match (id.0, stuck) {
                (What::Stillness, None) => "`after_capture` was run. Run both by hand, as the agent's user, and repair what fails".to_owned(),
                (What::Snapshot, None) => "`remove` was run. Run both by hand, as the agent's user, and repair what fails".to_owned(),
                (What::Stillness, Some(stuck)) => format!("AND IT MAY STILL BE KEPT FROM WORKING: {stuck}"),
                (What::Snapshot, Some(stuck)) => format!("and something may be left of it: {stuck}"),
            };
            Err(CaptureError::failed(format!("{failure}; {then}")))
        }
    }
}

impl Kept {
    /// Returns what has begun, or what failed.
    fn run_begin(&mut self, runtime: &Handle) -> Result<Answer, String> {
        let Self {
            task, told, until, ..
        } = self;
        let deadline = until.map(tokio::time::Instant::from_std);
        let stop = async {
            let late = async {
                match deadline {
                    Some(deadline) => tokio::time::sleep_until(deadline).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                _ = told => {}
                () = late => {}
            }
        };
        let ran = hooks::run_all_until(
            runtime,
            &task.begin,
            &task.variables(),
            task.most.unwrap_or(EACH),
            &mut std::pin::pin!(stop),
        );
        log(&task.dataset, &ran);
        let is_late = until.is_some_and(|until| Instant::now() >= until);
        match (failure_of(&ran), task.most.filter(|_| is_late)) {
            (Some(failure), Some(most)) => Err(format!(
                "{failure}, for `max_capture` ({} s) was over: see what it waits for, or set that higher",
                most.as_secs()
            )),
            (Some(failure), None) => Err(failure),
            (None, _) => match task.what {
                What::Stillness => Ok(Answer::Still),
                What::Snapshot => printed(&ran).map(Answer::Snapshot).ok_or_else(|| {
                    "`make` has not printed an absolute path in its last line, where the source is in the snapshot".to_owned()
                }),
            },
        }
    }

    /// Waits until it may be undone, and undoes it.
    fn end(mut self, runtime: &Handle) -> LetGo {
        let told = &mut self.told;
        let in_time = match self.until {
            None => {
                let _ = runtime.block_on(told);
                true
            }
            Some(until) => {
                let left = until.saturating_duration_since(Instant::now());
                runtime.block_on(async { tokio::time::timeout(left, told).await.is_ok() })
            }
        };
        let seconds = self.task.most.unwrap_or_default().as_secs();
        LetGo {
            early: (!in_time).then(|| format!(
                "it took longer than `max_capture` ({seconds} s), and `after_capture` was run: what is left goes faster the next time, for what has arrived stays on the spare; if that comes again, set it higher"
            )),
            stuck: run_undo(runtime, &self.task, self.note),
        }
    }
}

/// Undoes what was begun; returns why it may not be undone.
fn run_undo(runtime: &Handle, task: &Task, note: Note) -> Option<String> {
    let mut failed = None;
    for _ in 0..TRIES {
        let ran = hooks::run_all(runtime, &task.undo, &task.variables(), EACH);
        log(&task.dataset, &ran);
        failed = failure_of(&ran);
        if failed.is_none() {
            break;
        }
    }
    let stuck = match (failed, task.what) {
        (None, _) => note.remove().err().map(|error| {
            format!("it is undone, and will be once more, for that cannot be noted: {error}")
        }),
        (Some(failure), What::Stillness) => Some(format!(
            "{failure}; it is tried again in the next cycle: let the application go on by hand, and repair the program"
        )),
        (Some(failure), What::Snapshot) => Some(format!(
            "{failure}; it is tried again when the agent is started, and `make` removes it before it makes another"
        )),
    };
    if let Some(stuck) = &stuck {
        tell_stuck(task.id(), stuck);
    }
    stuck
}

fn tell_stuck((what, dataset): (What, &DatasetName), text: &str) {
    match what {
        What::Stillness => {
            tracing::error!(%dataset, "THE APPLICATION MAY STILL BE KEPT FROM WORKING: {text}");
        }
        What::Snapshot => {
            tracing::error!(%dataset, "a snapshot of the file system is left, which grows: {text}");
        }
    }
}

/// The absolute path in the last line that a program has printed.
fn printed(ran: &[Ran]) -> Option<PathBuf> {
    let output = &ran.last()?.output;
    let mut lines = output.split(|byte| *byte == b'\n').rev();
    let last = lines.find(|line| !line.is_empty())?;
    let path = PathBuf::from(OsStr::from_bytes(last));
    (path.is_absolute() && path.to_str().is_some()).then_some(path)
}

fn failure_of(ran: &[Ran]) -> Option<String> {
    let mut failed = ran.iter().filter_map(|one| {
        let failure = one.failure.as_ref()?;
        let output = String::from_utf8_lossy(&one.output);
        let last = output.lines().rev().find(|line| !line.trim().is_empty());
        let said = last.map_or(String::new(), |line| format!(" (it said: {})", line.trim()));
        Some(format!(
            "`{}` failed: {failure}{said}",
            one.command.join(" ")
        ))
    });
    failed.next()
}

/// Says what ran, and all that it printed.
fn log(dataset: &DatasetName, ran: &[Ran]) {
    let has_failed = ran.iter().any(|one| one.failure.is_some());
    for line in String::from_utf8_lossy(&hooks::log(ran)).lines() {
        match has_failed {
            true => tracing::error!(%dataset, "{line}"),
            false => tracing::info!(%dataset, "{line}"),
        }
    }
}
