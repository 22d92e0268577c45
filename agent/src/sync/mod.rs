//! One cycle: agree with the spare where it stands, compare, send, commit, and only then record.

mod again;
mod freeze;
mod prepare;
mod reconcile;
mod report;
mod still;
mod testimony;

use std::collections::BTreeSet;

use understudy_protocol::message::{Begin, Claim, Commit, Committed, Confirm};
use understudy_protocol::transport::Channel;
use understudy_protocol::{FIRST_EPOCH, Message, Position, ProtocolError, Snapshot, version};
use understudy_tree::{Directory, Stat, crash_point};

use crate::chain::Chain;
use crate::clock::{self, Moment};
use crate::conversation::{Conversation, unexpected};
use crate::databases::CaptureFailure;
use crate::error::AgentError;
use crate::index::{Attended, Index, Meta, Reason};
use crate::journal::Covered;
use crate::leftovers::Leftovers;
use crate::progress::Phase;
use crate::role::Part;
use crate::scan::{self, Outcome, Scope, Spot, Start, Told, Trust};
use crate::{Context, Source, ask, listing, lost};

pub(crate) use again::by_itself;
pub(crate) use again::cycle_in_two_tries;
pub(crate) use again::is_fenced;
pub use again::{Again, again, sync_again};
use again::{is_out_of_step, is_refused};
use freeze::Freeze;
use prepare::prepare;
pub(crate) use prepare::{Carrying, Making, Patience, Reliance, Telling};
pub use report::{LookedAt, SyncReport};

pub use crate::scan::Problem;

/// Greets the spare and runs one cycle that looks at everything.
///
/// When it returns, the snapshot is live and durable on the spare and recorded in the index. After an error the
/// spare is unchanged, unless the connection broke while it committed: the next run finds out.
pub fn sync(
    channel: Channel,
    source: &Source,
    context: &Context,
) -> Result<SyncReport, AgentError> {
    cycle(channel, source, context, by_itself(Carrying::On))
}

/// As [`sync`], with the dataset's databases, and once more where the spare asks for another cycle; `connect` opens a new connection each time.
pub fn sync_with_databases(
    connect: &mut impl FnMut() -> Result<Channel, ProtocolError>,
    source: &Source,
    context: &Context,
) -> Result<SyncReport, AgentError> {
    cycle_in_two_tries(connect, source, context, by_itself(Carrying::On))
}

/// Databases that are configured are captured, or nothing is sent: files without them would be taken for a snapshot with them.
fn expect_captured(source: &Source, reliance: Reliance<'_>) -> Result<(), AgentError> {
    match source.databases.first() {
        Some(first) if reliance.captured.is_none() => Err(AgentError::Database {
            dataset: source.dataset.clone(),
            database: first.name.clone(),
            reason: "there is no process that captures databases, for the configuration had none when the agent was started: restart it".to_owned(),
            kind: CaptureFailure::Failed,
        }),
        _ => Ok(()),
    }
}

/// As [`sync`], with what the cycle may rely on.
pub(crate) fn cycle(
    channel: Channel,
    source: &Source,
    context: &Context,
    reliance: Reliance<'_>,
) -> Result<SyncReport, AgentError> {
    let started = Moment::now();
    context.progress.restart(Phase::Connecting);
    let prepared = expect_captured(source, reliance).and_then(|()| {
        let made = match (&source.snapshot, reliance.freeze) {
            (Some(_), None) => Some(Freeze::make(source, context, reliance)?),
            _ => None,
        };
        let freeze = reliance.freeze.or(made.as_ref());
        let prepared = prepare(source, context, reliance.patience, freeze)?;
        Ok((made, prepared))
    });
    // What is open in a snapshot is closed before that is removed.
    let (made, (root, root_stat, index, part)) = match prepared {
        Ok(prepared) => prepared,
        Err(error) => {
            let is_news = !matches!(
                error,
                AgentError::IndexLocked { .. } | AgentError::Fenced { .. }
            );
            if reliance.telling == Telling::Spare && is_news {
                ask::tell_trouble(channel, &source.dataset, &error, &context.cancel);
            }
            return Err(error);
        }
    };
    let conversation = Conversation::open(channel, &context.cancel)?;
    crash_point!("agent.connected");
    let freeze = reliance.freeze.or(made.as_ref());
    let cycle = Cycle {
        source: freeze.map_or(source, Freeze::source),
        freeze,
        context,
        index: &index,
        conversation: &conversation,
        root: &root,
        root_stat: &root_stat,
        reliance,
        part: &part,
    };
    let result = cycle
        .run(started)
        .map_err(|error| conversation.explain(error));
    if let Err(error) = &result {
        conversation.give_up(error);
    }
    if result.as_ref().is_err_and(is_out_of_step) {
        // The transaction of this cycle is dropped first: it must not be recorded with this.
        index.roll_back()?;
        index.distrust()?;
    }
    let again = result.as_ref().err().and_then(again);
    if again == Some(Again::WithoutDeltas) {
        tracing::warn!(dataset = %source.dataset, "the spare has other contents than the index says: large files that change are sent whole for once");
        index.roll_back()?;
        index.forget_signatures()?;
    }
    if again == Some(Again::WithoutHistory) {
        tracing::warn!(dataset = %source.dataset, "the spare does not have in its history what the index says: what comes back is sent for once");
        index.roll_back()?;
        index.forget_history()?;
    }
    result
}

struct Cycle<'a> {
    source: &'a Source,
    freeze: Option<&'a Freeze<'a>>,
    context: &'a Context,
    index: &'a Index,
    conversation: &'a Conversation,
    root: &'a Directory,
    root_stat: &'a Stat,
    reliance: Reliance<'a>,
    part: &'a Part,
}

impl Cycle<'_> {
    fn run(&self, started: Moment) -> Result<SyncReport, AgentError> {
        self.expect_dataset()?;
        let position = self.begin()?;
        let heard = Leftovers::hear(self.conversation)?;
        let wanted = heard.wanted;
        let leftovers = self.reliance.carrying.of(heard.leftovers);
        let spoken = self.conversation.version;
        let stands = (position, heard.stated.as_ref());
        let epoch = self.part.standing().epoch;
        let dataset = &self.source.dataset;
        let mut chain = Chain::open(self.context, (dataset, epoch), spoken, stands)?;
        let (meta, anew) = self.reconcile(position, chain.as_mut())?;
        if let Some(chain) = &mut chain {
            self.learn_owners(&meta, chain)?;
        }
        let (place, root) = ((self.source, self.context), self.root);
        lost::give_back(&wanted, place, root, self.index, self.conversation)?;
        self.tell_root()?;
        let capture = Moment::now();
        self.context.progress.enter(Phase::Scanning);
        let base_is_empty = self.index.is_empty()?;
        if !base_is_empty {
            self.index.ensure_lookups()?;
        }
        let (scope, looked_at, up_to) = self.scope(anew);
        self.index.begin()?;
        let start = Start {
            root: self.root,
            root_stat: self.root_stat,
            source: self.source,
            context: self.context,
            index: self.index,
            base_is_empty,
            next_directory: meta.next_directory,
            trust: self.reliance.trust,
            spoken: self.conversation.version,
            effort: &self.conversation.effort,
            leftovers: &leftovers,
            scope,
            captured: self.reliance.captured,
            turn: self.reliance.turn,
            frozen: self.freeze.map(Freeze::frozen),
        };
        let outcome = scan::run(start, &self.conversation.outgoing)?;
        if let Some(still) = self.reliance.still {
            still.let_go()?;
        }
        self.context.progress.enter(Phase::Committing);
        let is_signed = chain.as_ref().is_none_or(Chain::has_signed_base);
        let is_unchanged = outcome.records == 0 && is_signed && !self.is_fuzzy_news(&outcome)?;
        let Committed { snapshot, timings } = match position {
            Some(position) if is_unchanged => self.confirm(position, capture, chain.as_mut())?,
            _ => {
                let at = (position, capture);
                self.commit(at, &meta, &outcome, chain.as_mut())?
            }
        };
        self.record(&meta, &outcome, &snapshot)?;
        if base_is_empty {
            self.index.ensure_lookups()?;
        }
        self.acknowledge(up_to, &looked_at, &outcome);
        let dataset = self.source.dataset.clone();
        let mut report = SyncReport::of(dataset, snapshot, looked_at, outcome);
        report.committed = position.is_none() || !is_unchanged;
        report.bytes_sent = self.conversation.outgoing.bytes();
        report.timings = timings;
        report.seconds = started.elapsed().as_secs_f64();
        report.troubled_since_seconds = self.troubled_since_seconds(&report)?;
        Ok(report)
    }

    /// Since when the oldest name cannot be captured as it should.
    fn troubled_since_seconds(&self, report: &SyncReport) -> Result<Option<i64>, AgentError> {
        let attended = self.index.attention()?;
        let is_trouble =
            |one: &&Attended| matches!(one.reason, Reason::Unreadable | Reason::Unsettled);
        let troubled = attended.iter().filter(is_trouble);
        let oldest = troubled.map(|one| one.since).min();
        // A database that cannot be taken is attended to as one, whatever the trouble: since when is not known.
        let now = || report.has_trouble().then(|| clock::now().seconds);
        Ok(oldest.or_else(now))
    }

    /// A host that was promoted ships to its old main only once that has failed back.
    fn expect_dataset(&self) -> Result<(), AgentError> {
        let may_be_missing = self.reliance.making == Making::UnlessPromoted
            && self.part.is_promoted()
            && self.conversation.version >= version::EPOCHS
            && self.index.meta()?.position.is_none();
        if !may_be_missing {
            return Ok(());
        }
        let listed = listing::datasets(self.conversation, None)?.datasets;
        let dataset = &self.source.dataset;
        let mut followed = listed.iter().filter(|one| !one.snapshots.is_empty());
        match followed.any(|one| one.name == *dataset) {
            true => Ok(()),
            false => Err(AgentError::NotFailedBack {
                dataset: dataset.clone(),
            }),
        }
    }

    /// Begins as the main of an epoch; returns where the spare stands.
    fn begin(&self) -> Result<Option<Position>, AgentError> {
        let (dataset, epoch) = (self.source.dataset.clone(), self.part.claim()?);
        let begin = match epoch {
            FIRST_EPOCH => Message::Begin(Begin { dataset }),
            _ if self.conversation.version < version::EPOCHS => {
                return Err(AgentError::SpareTooOld {
                    what: "a main that was promoted",
                    spoken: self.conversation.version,
                    needed: version::EPOCHS,
                });
            }
            epoch => Message::Claim(Claim { dataset, epoch }),
        };
        let heard = self
            .conversation
            .tell(&begin)
            .and_then(|()| self.conversation.hear());
        match heard.map_err(|error| self.conversation.explain(error)) {
            Ok(Message::Ready(ready)) => {
                self.part.check_welcome()?;
                Ok(ready.position)
            }
            Ok(other) => Err(unexpected(&other, "Ready")),
            Err(error) => {
                if is_fenced(&error) {
                    self.part.fence()?;
                }
                Err(error)
            }
        }
    }

    /// What this cycle looks at; `anew` says why the index proves little.
    fn scope(&self, anew: Option<&str>) -> (Scope<'_>, LookedAt, u64) {
        let because = |reason: &str| LookedAt::Everything {
            because: reason.to_owned(),
        };
        let Some(journal) = self.reliance.journal else {
            return (Scope::Everything, because("nobody watched"), 0);
        };
        let before = self.freeze.and_then(Freeze::taken);
        let taken = before.unwrap_or_else(|| journal.take_since(0));
        let up_to = taken.up_to;
        let is_content = self.reliance.trust == Trust::Content;
        let reason = anew
            .or(taken.gap.as_deref())
            .or(is_content.then_some("every byte is read again"))
            .or(self.reliance.sweep)
            .map(because);
        match reason {
            Some(reason) => (Scope::Sweep(Told { journal, taken }), reason, up_to),
            None => {
                let directories = taken.marked.len() as u64;
                let looked_at = LookedAt::Journal { directories };
                (Scope::Marks(Told { journal, taken }), looked_at, up_to)
            }
        }
    }

    /// What the spare has now is no longer in doubt.
    fn acknowledge(&self, up_to: u64, looked_at: &LookedAt, outcome: &Outcome) {
        let Some(journal) = self.reliance.journal else {
            return;
        };
        let covered = match looked_at {
            LookedAt::Everything { .. } => Covered::Everything,
            LookedAt::Journal { .. } => Covered::Marks,
        };
        journal.acknowledge(up_to, covered);
        if outcome.is_lost {
            journal.gap("directories moved while they were looked at, or too much is in doubt");
        }
        journal.keep_in_doubt(&outcome.in_doubt, &outcome.nowhere);
    }

    fn confirm(
        &self,
        position: Position,
        capture: Moment,
        chain: Option<&mut Chain>,
    ) -> Result<Committed, AgentError> {
        let elapsed_milliseconds = capture.elapsed_milliseconds();
        self.conversation.tell(&Message::Confirm(Confirm {
            position,
            elapsed_milliseconds,
        }))?;
        match self.conversation.hear()? {
            Message::Confirmed(confirmed) => {
                if let Some(chain) = chain {
                    chain.confirm(&confirmed.snapshot)?;
                }
                Ok(Committed {
                    snapshot: confirmed.snapshot,
                    timings: Vec::new(),
                })
            }
            other => Err(unexpected(&other, "Confirmed")),
        }
    }

    fn commit(
        &self,
        (base, capture): (Option<Position>, Moment),
        meta: &Meta,
        outcome: &Outcome,
        mut chain: Option<&mut Chain>,
    ) -> Result<Committed, AgentError> {
        let mut digest = meta.digest.clone();
        digest.merge(&outcome.digest);
        #[cfg(test)]
        crate::testing::assert_digest(self.index, &digest);
        let fingerprint = digest.fingerprint();
        self.tell_fuzzy(outcome)?;
        let owners = self.tell_owners(outcome, chain.as_deref())?;
        let signing = chain
            .as_mut()
            .map(|chain| chain.sign(self.conversation, &digest, &outcome.fuzzy_places, &owners));
        let pending = signing.transpose()?;
        let elapsed_milliseconds = capture.elapsed_milliseconds();
        self.conversation.tell(&Message::Commit(Commit {
            base,
            fingerprint,
            elapsed_milliseconds,
        }))?;
        crash_point!("agent.commit-sent");
        let heard = self.conversation.hear().inspect_err(|error| {
            if let (true, Some(base)) = (is_refused(error), base) {
                self.remember_shipped(base, meta, &digest, outcome);
            }
        });
        match heard? {
            Message::Committed(committed)
                if committed.snapshot.position.fingerprint == fingerprint =>
            {
                crash_point!("agent.acknowledged");
                if let (Some(chain), Some(pending)) = (chain, pending) {
                    chain.acknowledge(pending, &committed.snapshot)?;
                }
                Ok(committed)
            }
            Message::Committed(_) => Err(AgentError::OutOfStep {
                reason: "it acknowledged another state than was sent".to_owned(),
            }),
            other => Err(unexpected(&other, "Committed")),
        }
    }

    /// The index becomes what the spare acknowledged.
    fn record(
        &self,
        meta: &Meta,
        outcome: &Outcome,
        snapshot: &Snapshot,
    ) -> Result<(), AgentError> {
        let mut digest = meta.digest.clone();
        digest.merge(&outcome.digest);
        let recorded = Meta {
            position: Some(snapshot.position),
            digest,
            next_directory: outcome.next_directory,
            root: Some(self.root_stat.identity),
        };
        let is_attention_changed = self.attend(outcome)?;
        let is_fuzzy_changed = self.index.set_fuzzy(&outcome.fuzzy_places)?;
        let is_known = meta.position == recorded.position
            && meta.next_directory == recorded.next_directory
            && !is_attention_changed
            && !is_fuzzy_changed;
        if is_known && outcome.tally.rows == 0 && outcome.records == 0 {
            return self.index.roll_back();
        }
        self.index.commit(&recorded)?;
        self.index.forget_shipped();
        crash_point!("agent.index-committed");
        Ok(())
    }

    /// Makes the next cycles look at what this one could not capture as it should, or was not told about.
    fn attend(&self, outcome: &Outcome) -> Result<bool, AgentError> {
        let mut wanted = Vec::new();
        let since = clock::now().seconds;
        let attended = |spot: &Spot, reason| Attended {
            directory: spot.directory,
            name: spot.name.clone(),
            reason,
            since,
        };
        let mut databases = BTreeSet::new();
        for spot in &outcome.sqlite {
            let database = attended(spot, Reason::Sqlite);
            if self.index.is_there(&database)? {
                databases.insert(spot.clone());
                wanted.push(database);
            }
        }
        // What is looked at as a database in any case is there for no other reason.
        let is_other = |spot: &Spot| !databases.contains(spot);
        for former in self.index.attention()? {
            let spot = Spot {
                directory: former.directory,
                name: former.name.clone(),
            };
            if former.reason == Reason::Missed && is_other(&spot) && self.index.is_there(&former)? {
                wanted.push(former);
            }
        }
        let mut add = |spot: &Spot, reason| {
            if is_other(spot) {
                wanted.push(attended(spot, reason));
            }
        };
        for spot in &outcome.kept {
            add(spot, Reason::Kept);
        }
        for (_, spot) in &outcome.missed.named {
            add(spot, Reason::Missed);
        }
        for problem in &outcome.unreadable {
            add(&problem.spot, Reason::Unreadable);
        }
        for problem in outcome.unsettled.iter().chain(&outcome.fuzzy) {
            add(&problem.spot, Reason::Unsettled);
        }
        self.index.attend(wanted)
    }
}
