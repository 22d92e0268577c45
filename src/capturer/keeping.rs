//! What the process that an agent speaks to knows of the application of a dataset, or of a snapshot of its file system: whether it is kept, by which
//! worker, and how that has ended.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};

use understudy_agent::databases::{CaptureError, LetGo};
use understudy_protocol::DatasetName;

use super::keeper::{Keeper, Kind};
use super::note::What;
use super::task::{SLACK, Task};
use super::{Answer, Phase, Reply, Request};
use crate::worker::{Silence, Worker};

/// Something that is kept until it is undone, if there is any.
#[derive(Debug)]
pub(super) struct Keeping {
    what: What,
    ended: Option<Receiver<LetGo>>,
}

impl Keeping {
    /// Nothing yet.
    pub(super) fn of(what: What) -> Self {
        Self { what, ended: None }
    }

    /// Begins it. Whoever does so is watched until it has undone it.
    pub(super) fn begin(
        &mut self,
        keeper: &Arc<Keeper>,
        request: &Request,
    ) -> Result<Answer, CaptureError> {
        let id = (self.what, request.dataset.clone());
        keeper.let_go(&id);
        self.await_end();
        let task = Task::of(&keeper.config, (id.0, &id.1))?;
        let number = request.number;
        let mut worker = keeper.start(request, Kind::Keeping(self.what))?;
        let begun = match worker.reply(number, task.until_begun()) {
            Ok(begun @ (Answer::Still | Answer::Snapshot(_))) => begun,
            Ok(answer) => {
                keeper.let_go(&id);
                worker.finish();
                return Ok(answer);
            }
            Err(silence) => {
                let LetGo { early, stuck } = recover(keeper, &id, worker, &silence);
                let texts = [early, stuck].into_iter().flatten();
                let text = texts.collect::<Vec<_>>().join("; ");
                return Err(CaptureError::failed(text));
            }
        };
        let (sender, ended) = sync_channel(1);
        let keeper = Arc::clone(keeper);
        std::thread::spawn(move || {
            let ended = match worker.reply(number, task.until_over()) {
                Ok(Answer::LetGo(ended)) => {
                    keeper.let_go(&id);
                    worker.finish();
                    ended
                }
                Ok(_) => recover(&keeper, &id, worker, &Silence::Gone),
                Err(silence) => recover(&keeper, &id, worker, &silence),
            };
            let _ = sender.send(ended);
        });
        self.ended = Some(ended);
        Ok(begun)
    }

    /// Has it undone, which somebody has told its worker already; also where an earlier process has left it behind.
    pub(super) fn end(&mut self, keeper: &Keeper, dataset: &DatasetName) -> Answer {
        Answer::LetGo(match self.await_end() {
            Some(ended) => ended,
            None => undo(keeper, &(self.what, dataset.clone())),
        })
    }

    /// Waits until it is undone, if it has begun.
    pub(super) fn await_end(&mut self) -> Option<LetGo> {
        self.ended.take().and_then(|ended| ended.recv().ok())
    }
}

/// Has undone what its worker does not undo.
fn recover(
    keeper: &Keeper,
    id: &(What, DatasetName),
    worker: Worker<Reply>,
    why: &Silence,
) -> LetGo {
    keeper.let_go(id);
    let how = worker.end();
    let early = match why {
        Silence::Long => "the process that keeps it still did not answer, and was ended".to_owned(),
        Silence::Gone => format!(
            "the process that keeps it still has gone ({}): somebody has ended it, or there was no memory left",
            how.map_or("and cannot be ended".to_owned(), |how| how.to_string())
        ),
    };
    LetGo {
        early: Some(early),
        ..undo(keeper, id)
    }
}

/// Has what is noted undone by another process.
fn undo(keeper: &Keeper, (what, dataset): &(What, DatasetName)) -> LetGo {
    let stuck = |text: &str| LetGo {
        stuck: Some(text.to_owned()),
        ..LetGo::default()
    };
    let request = Request::undo(*what, dataset.clone());
    let task = Task::of(&keeper.config, (*what, dataset));
    let longest = task.map_or(SLACK, |task| task.until_undone());
    let mut worker = match keeper.start(&request, Kind::Undoing) {
        Ok(worker) => worker,
        Err(error) => return stuck(&error.text),
    };
    match worker.reply(request.number, longest) {
        Ok(Answer::LetGo(ended)) => {
            worker.finish();
            ended
        }
        _ => {
            worker.end();
            let text = "the process that undoes what was begun for a capture has gone before it was done; the next cycle, or the next start, tries again";
            tracing::error!(%dataset, "{text}");
            stuck(text)
        }
    }
}

impl Request {
    /// Asks for what is noted to be undone; nobody waits for an answer by this number.
    pub(super) fn undo(what: What, dataset: DatasetName) -> Self {
        Self {
            number: 0,
            dataset,
            database: String::new(),
            phase: match what {
                What::Stillness => Phase::LetGo,
                What::Snapshot => Phase::DropSnapshot,
            },
        }
    }
}
