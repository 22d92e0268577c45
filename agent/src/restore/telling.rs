//! Telling the spare how far a restore is, for those who watch there.

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
        }
    }

    /// Tells, if it is time or something else is being done than before.
    pub(super) fn tell(
        &mut self,
        conversation: &Conversation,
        progress: &Progress,
    ) -> Result<(), AgentError> {
        let phase = progress.phase();
        let is_other = self.told.is_none_or(|(_, told)| told != phase);
        let is_early =
            |since: Option<Moment>, pause| since.is_some_and(|since| since.elapsed() < pause);
        if is_early(self.looked, LOOK) && !is_other {
            return Ok(());
        }
        let now = Moment::now();
        self.looked = Some(now);
        self.outlook.look(progress);
        if conversation.version < version::OVERSEE
            || (is_early(self.told.map(|(told, _)| told), INTERVAL) && !is_other)
        {
            return Ok(());
        }
        self.told = Some((now, phase));
        conversation.tell(&Message::Restoring(self.report(progress)))
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
