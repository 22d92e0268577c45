//! Telling the spare how far a restore is, for those who watch there.

use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::thread;
use std::time::Duration;

use understudy_protocol::message::{RestorePhase, Restoring};
use understudy_protocol::{Message, limits, version};

use crate::clock::Moment;
use crate::conversation::Conversation;
use crate::error::AgentError;
use crate::estimate::Costs;
use crate::outlook::Outlook;
use crate::progress::{Phase, Progress};

/// How often the spare is told.
const INTERVAL: Duration = Duration::from_secs(1);
/// How often the counters are looked at.
const LOOK: Duration = Duration::from_millis(100);

/// Tells about one restore; outlives a connection.
#[derive(Debug)]
pub(super) struct Telling {
    who: String,
    outlook: Outlook,
    looked: Option<Moment>,
    told: Option<(Moment, Phase)>,
    interval: Duration,
}

impl Telling {
    /// About a restore as `target` on this host.
    pub(super) fn new(target: &std::path::Path) -> Self {
        let host = rustix::system::uname();
        let host = host.nodename().to_string_lossy().into_owned();
        let mut who = format!("{host}:{}", target.display());
        while who.len() > limits::TEXT_BYTES {
            who.pop();
        }
        Self {
            who,
            outlook: Outlook::default(),
            looked: None,
            told: None,
            interval: INTERVAL,
        }
    }

    /// Tells, if it is time or something else is being done than before. A spare that gives a content reads nothing meanwhile: what
    /// it cannot take now it is told later.
    pub(super) fn tell(
        &mut self,
        conversation: &Conversation,
        progress: &Progress,
    ) -> Result<(), AgentError> {
        let phase = progress.phase();
        let is_other = self.told.is_none_or(|(_, told)| told != phase);
        let is_early =
            |since: Option<Moment>, pause| since.is_some_and(|since| since.elapsed() < pause);
        if is_early(self.looked, LOOK.min(self.interval)) && !is_other {
            return Ok(());
        }
        let now = Moment::now();
        self.looked = Some(now);
        self.outlook.look(progress);
        if conversation.version < version::OVERSEE
            || (is_early(self.told.map(|(told, _)| told), self.interval) && !is_other)
        {
            return Ok(());
        }
        if conversation.offer(&Message::Restoring(self.report(progress)))? {
            self.told = Some((now, phase));
        }
        Ok(())
    }

    /// Does something that needs no connection and may take long. A spare that hears nothing for half an hour may remove what is being
    /// restored; so it is told meanwhile. If the connection is cut, whoever needs it next finds out.
    pub(super) fn meanwhile<T: Send>(
        &mut self,
        conversation: &Conversation,
        progress: &Progress,
        work: impl FnOnce() -> T + Send,
    ) -> T {
        let (working, ended) = sync_channel::<()>(1);
        thread::scope(|scope| {
            let worker = scope.spawn(move || {
                // Dropped when the work ends, however that comes about.
                let _working = working;
                work()
            });
            let mut is_heard = true;
            while ended.recv_timeout(LOOK) == Err(RecvTimeoutError::Timeout) {
                if is_heard && let Err(error) = self.tell(conversation, progress) {
                    tracing::debug!("the spare is not told how far the restore is: {error}");
                    is_heard = false;
                }
            }
            worker
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// What files and bytes cost when the whole took so many seconds.
    pub(super) fn costs(&self, seconds: f64) -> Option<Costs> {
        self.outlook.costs(seconds)
    }

    fn report(&self, progress: &Progress) -> Restoring {
        let remaining = self.outlook.seconds(progress);
        Restoring {
            who: self.who.clone(),
            phase: match progress.phase() {
                Phase::Restoring => RestorePhase::Restoring,
                Phase::Finishing => RestorePhase::Finishing,
                _ => RestorePhase::Checking,
            },
            files_total: progress.files_total(),
            files_done: progress.files_done(),
            files_found: progress.files_found(),
            bytes_total: progress.bytes_total(),
            bytes_done: progress.bytes_done(),
            bytes_found: progress.bytes_found(),
            bytes_per_second: self.outlook.bytes_per_second(),
            remaining_seconds: remaining.map(|seconds| seconds.round() as u64),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use understudy_protocol::message::Want;
    use understudy_protocol::transport::in_process;
    use understudy_protocol::version::Hello;

    use super::*;
    use crate::Cancel;

    #[test]
    fn while_something_takes_long_the_spare_is_told_again_and_again() {
        let (ours, mut theirs) = in_process();
        let (heard_twice, wait) = sync_channel(1);
        let spare = thread::spawn(move || {
            theirs.greet().expect("greet");
            for _ in 0..2 {
                let message = theirs.incoming.receive_message().expect("a message");
                assert!(matches!(message, Message::Restoring(_)), "{message:?}");
            }
            heard_twice.send(()).expect("send");
        });
        let conversation = Conversation::open(ours, &Cancel::default()).expect("open");
        let progress = Progress::default();
        let mut telling = Telling::new(Path::new("/target"));
        let heard = telling.meanwhile(&conversation, &progress, move || {
            wait.recv_timeout(Duration::from_secs(300))
        });
        assert_eq!(heard, Ok(()));
        spare.join().expect("the spare");
        // One that has gone is no obstacle.
        assert_eq!(telling.meanwhile(&conversation, &progress, || 7), 7);
    }
    #[test]
    fn a_spare_that_gives_and_does_not_read_is_asked_for_more_all_the_same() {
        let (ours, mut theirs) = in_process();
        theirs
            .outgoing
            .send_message(&Message::Hello(Hello::ours()))
            .expect("send");
        let (asked, wait) = sync_channel(1);
        thread::spawn(move || {
            let conversation = Conversation::open(ours, &Cancel::default()).expect("open");
            let mut telling = Telling::new(Path::new("/target"));
            telling.interval = Duration::ZERO;
            let progress = Progress::default();
            let want = Message::Want(Want { places: Vec::new() });
            for _ in 0..2 {
                for _ in 0..100 {
                    telling.tell(&conversation, &progress).expect("tell");
                }
                conversation.tell(&want).expect("ask");
            }
            asked.send(conversation).expect("send");
        });
        // Nothing was read of what came after the greeting.
        let conversation = wait.recv_timeout(Duration::from_secs(60));
        assert!(conversation.is_ok(), "it hangs");
        drop(conversation);
        let heard = std::iter::from_fn(|| theirs.incoming.receive_message().ok());
        let wants = heard.filter(|message| matches!(message, Message::Want(_)));
        assert_eq!(wants.count(), 2);
    }
}
