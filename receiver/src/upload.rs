//! One upload: frames in, staged files and an intent out, then the commit.

mod guarded;
mod opening;

use std::time::Instant;

use understudy_protocol::message::{Commit, Committed, Confirm, Confirmed};
use understudy_protocol::transport::{Incoming, Outgoing};
use understudy_protocol::{Frame, Message, Position, ProtocolError, Snapshot, limits, version};
use understudy_tree::crash_point;

use crate::access::{Permission, Permitted};
use crate::alert::Observed;
use crate::catalog::{Catalog, Fate, Recorded, Telling, Upload};
use crate::cycle::{self, Stopwatch};
use crate::dataset::now_seconds;
use crate::drift;
use crate::error::ReceiverError;
use crate::guard::root::Root;
use crate::guard::{self, Held};
use crate::housekeeping::Tidying;
use crate::leftovers::{self, Leftovers};
use crate::promote::fence::{self, Lookout};
use crate::promote::heard;
use crate::quota::Budget;
use crate::returned::Lost;
use crate::routing;
use crate::serve::{AfterFirst, SessionOptions};
use crate::store::Store;
use crate::workers::{self, Ground};
use crate::{give, recover};
use opening::{next, settle, tell_leftovers, tell_position};

/// Serves a session that began with `Begin` or `Claim`, in a version of the protocol and by the main of an epoch; what becomes of it is counted for the alerts.
pub(crate) fn serve(
    store: &Store,
    permission: &Permission,
    (spoken, epoch): (u32, u64),
    incoming: &mut Incoming,
    outgoing: &Outgoing,
    options: &SessionOptions,
) -> Result<(), ReceiverError> {
    let observed = store.cycles.begin(permission.name());
    let opened = permission.ensure(store);
    let result = opened.and_then(|dataset| {
        heard::note(&dataset);
        let session = (store, &dataset, &observed);
        let result = converse(session, (spoken, epoch), incoming, outgoing, options);
        result.map_err(|error| fence::outcome(&dataset, epoch, error))
    });
    observed.end(&result);
    if let Err(error) = &result {
        leftovers::give_way(store, (&options.peer, options.reserve), error);
    }
    result
}

fn converse(
    (store, dataset, observed): (&Store, &Permitted, &Observed<'_>),
    (spoken, claimed): (u32, u64),
    incoming: &mut Incoming,
    outgoing: &Outgoing,
    options: &SessionOptions,
) -> Result<(), ReceiverError> {
    store.housekeeping.interrupt(&dataset.name);
    // Declared before the lock, so that it ends after the lock is released.
    let mut tidying = None;
    let locked = dataset.lock_patiently()?;
    observed.runs();
    let catalog = dataset.catalog(&locked)?;
    let epoch = dataset.admit(claimed, catalog.head()?.is_none(), &locked)?;
    let ground = (&**dataset, &catalog, &locked);
    let held = settle(ground, options)?;
    tell_position(&catalog, spoken, outgoing)?;
    let mut lost = Lost::ask(ground, options.reserve, spoken, outgoing)?;
    let leftovers = tell_leftovers(dataset, &catalog, &locked, spoken, outgoing)?;
    let who = (store, &options.peer, &*options.quotas);
    let budget = Budget::of(who, (dataset, &catalog), leftovers.as_ref())?;
    crash_point!("receiver.begun");
    let mut session = Session {
        store,
        ground: Ground {
            dataset,
            catalog: &catalog,
            locked: &locked,
            leftovers: leftovers.as_ref(),
            reserve: options.reserve,
            budget: budget.as_ref(),
            spoken,
            outgoing,
        },
        options,
        observed,
        held: held.as_ref(),
        root: None,
        epoch,
    };
    let (mut lookout, mut adoptions) = (Lookout::new(dataset), 0);
    while let Some(frame) = next(&mut lookout, incoming)? {
        if routing::is_change(&frame, spoken) {
            let committed = session.receive(frame, incoming)?;
            return session.acknowledge(committed, outgoing, &mut tidying);
        }
        match frame.decode()? {
            Message::Returned(returned) if spoken >= version::HEALTH => {
                lost.take(returned, incoming)?;
            }
            Message::ReadManifest(request) if adoptions < limits::ADOPTIONS => {
                adoptions += 1;
                dataset.must_be(&request.dataset)?;
                give::manifest(dataset, &request, spoken, outgoing).map(drop)?;
            }
            Message::SourceRoot(told) if session.lacks_root() => {
                session.root = Some(told.into());
            }
            Message::Confirm(confirm) => return session.confirm(&confirm, outgoing, &mut tidying),
            Message::Commit(commit) => {
                let committed = session.commit(catalog.upload()?, &commit, Stopwatch::default())?;
                return session.acknowledge(committed, outgoing, &mut tidying);
            }
            Message::Failure(failure) => return Err(ProtocolError::Failed(failure).into()),
            other => return Err(misplaced(&other)),
        }
    }
    Ok(())
}

fn misplaced(message: &Message) -> ReceiverError {
    let (got, wanted) = (message.name(), "Changes, Commit or Confirm");
    ProtocolError::Unexpected { got, wanted }.into()
}

fn confirm_newest(
    catalog: &Catalog,
    observed: &Observed<'_>,
    confirm: &Confirm,
) -> Result<Snapshot, ReceiverError> {
    let Some(head) = catalog
        .head()?
        .filter(|head| head.snapshot.position == confirm.position)
    else {
        return Err(ReceiverError::OutOfStep(
            "the agent confirms a snapshot that is not the newest".to_owned(),
        ));
    };
    let as_of_seconds = as_of(now_seconds(), confirm.elapsed_milliseconds);
    catalog.confirm(as_of_seconds)?;
    observed.is_good(as_of_seconds);
    Ok(head.snapshot)
}

/// The begin of the capture by the receiver's clock; rounded down, so that lag is never told too small.
fn as_of(now_seconds: i64, elapsed_milliseconds: u64) -> i64 {
    let elapsed = i64::try_from(elapsed_milliseconds.div_ceil(1000)).unwrap_or(i64::MAX);
    // Nothing was captured before there were clocks like these.
    now_seconds.saturating_sub(elapsed).max(0)
}

struct Session<'s, 'a> {
    store: &'s Store,
    ground: Ground<'a>,
    options: &'a SessionOptions,
    observed: &'a Observed<'a>,
    /// What is held of the dataset, and stays so until this upload is sealed or confirmed.
    held: Option<&'a Held>,
    /// Which directory the source is, if the agent told.
    root: Option<Root>,
    /// Of which the agent is the main.
    epoch: u64,
}

impl<'s> Session<'s, '_> {
    /// Whether the agent may still tell which directory the source is.
    fn lacks_root(&self) -> bool {
        self.ground.spoken >= version::SOURCE_ROOT && self.root.is_none()
    }

    /// Receives a change set that begins with `first`, and commits it.
    fn receive(&self, first: Frame, incoming: &mut Incoming) -> Result<Committed, ReceiverError> {
        let received = self.receive_and_commit(first, incoming).inspect_err(|error| {
            // Asked while what was staged still takes its space: afterwards the disk would not look full.
            if let ReceiverError::NoSpace(_) = error {
                leftovers::give_way(self.store, (&self.options.peer, self.options.reserve), error);
            }
            // What is not kept gives its space back at once; what cannot be removed now is removed before the next upload.
            self.ground.catalog.abandon();
            if let Err(error) = self.give_back(error) {
                let name = &self.ground.dataset.name;
                tracing::warn!(dataset = %name, "cannot clean up after a failed upload: {error}");
            }
        });
        self.end_budget();
        received
    }

    fn give_back(&self, error: &ReceiverError) -> Result<(), ReceiverError> {
        let Ground {
            dataset,
            catalog,
            locked,
            leftovers,
            ..
        } = self.ground;
        let pending = catalog.pending()?;
        let is_of_intent = match &pending {
            Some(pending) => guard::aside::directory(dataset, pending)?.is_none(),
            None => false,
        };
        if !is_of_intent {
            leftovers::after_failure(dataset, locked, leftovers, error)?;
        }
        if let (Some(pending), ReceiverError::BadLeftover(_)) = (&pending, error) {
            guard::aside::conceal(dataset, pending)?;
        }
        catalog.shrink()
    }

    fn receive_and_commit(
        &self,
        first: Frame,
        incoming: &mut Incoming,
    ) -> Result<Committed, ReceiverError> {
        self.options.reserve.check(&self.ground.dataset.control)?;
        let mut stopwatch = Stopwatch::default();
        let started = Instant::now();
        let catalog = self.ground.catalog;
        if catalog.head()?.is_some() {
            catalog.index_contents()?;
        }
        let mut upload = catalog.upload()?;
        let commit = workers::stage(&self.ground, &mut upload, first, incoming, &mut stopwatch)?;
        stopwatch.add("stage", started.elapsed());
        self.commit(upload, &commit, stopwatch)
    }

    fn commit(
        &self,
        mut upload: Upload<'_>,
        commit: &Commit,
        mut stopwatch: Stopwatch,
    ) -> Result<Committed, ReceiverError> {
        let Ground {
            dataset,
            locked,
            spoken,
            ..
        } = self.ground;
        let base = upload.base().map(|base| base.snapshot.position);
        if commit.base != base {
            let text = "the upload starts from another snapshot than the spare's newest";
            return Err(ReceiverError::OutOfStep(text.to_owned()));
        }
        let _applied = self.store.committing.begin();
        upload.settle()?;
        self.check_limits(&upload)?;
        self.guard(&upload)?;
        let verdict = stopwatch.time("judge", || self.judge(&upload))?;
        stopwatch.time("stage_sync", || dataset.sync())?;
        self.doubt()?;
        crash_point!("receiver.staged");
        let now = now_seconds();
        let position = Position {
            epoch: self.epoch,
            number: upload.number(),
            fingerprint: commit.fingerprint,
        };
        let pending = Recorded {
            snapshot: Snapshot {
                position,
                committed_seconds: now,
                entries: 0,
                bytes: 0,
            },
            as_of_seconds: as_of(now, commit.elapsed_milliseconds),
            first_entry: 0,
        };
        // Once the intent is written, a promotion waits for what comes of it.
        fence::look(dataset)?;
        let held = self.hold(verdict, position)?;
        crash_point!("receiver.held");
        let fate = match held {
            Some(_) => Fate::Held,
            None => Fate::Applied,
        };
        let pending = stopwatch.time("log", || upload.seal(pending, Telling::of(spoken), fate))?;
        drop(upload);
        crash_point!("receiver.sealed");
        if let Some(held) = held {
            // What was put aside for one that this takes the place of goes.
            guard::aside::put(dataset, locked, &pending)?;
            return Err(guard::tell(&dataset.name, &held));
        }
        leftovers::close(dataset)?;
        self.end_hold()?;
        let committed = self.apply(&pending, &mut stopwatch)?;
        self.observed.is_good(committed.as_of_seconds);
        self.keep_root(position.number);
        Ok(Committed {
            snapshot: committed.snapshot,
            timings: stopwatch.into_timings(),
        })
    }

    /// Builds the snapshot and makes it live; if that fails before the switch, it is dropped.
    fn apply(
        &self,
        pending: &Recorded,
        stopwatch: &mut Stopwatch,
    ) -> Result<Recorded, ReceiverError> {
        let Ground {
            dataset,
            catalog,
            locked,
            ..
        } = self.ground;
        let how = (pending, self.options.drift);
        let committed = cycle::commit(dataset, catalog, locked, how, stopwatch);
        match &committed {
            Err(ReceiverError::Drifted(_)) => {
                drift::step_aside(dataset, catalog, locked, pending)?;
            }
            Err(_) if !recover::is_live(dataset, pending)? => {
                cycle::abandon(dataset, catalog, pending)?;
            }
            _ => {}
        }
        committed
    }

    /// A sync that failed in another session while this one began may have been for what this one took.
    fn doubt(&self) -> Result<(), ReceiverError> {
        let are_used = self.ground.leftovers.is_some_and(Leftovers::are_used);
        if are_used && self.store.syncs.are_doubtful(&self.ground.dataset.name) {
            return Err(ReceiverError::BadLeftover(
                "what was left may not be on the disk, which could not be written".to_owned(),
            ));
        }
        Ok(())
    }

    /// Tells the agent that the newest snapshot is what it has, then tidies up.
    fn confirm(
        &self,
        confirm: &Confirm,
        outgoing: &Outgoing,
        tidying: &mut Option<Tidying<'s>>,
    ) -> Result<(), ReceiverError> {
        let Ground {
            dataset,
            catalog,
            locked,
            ..
        } = self.ground;
        let snapshot = confirm_newest(catalog, self.observed, confirm)?;
        if self.held.is_some() {
            guard::drop_held(dataset, catalog)?;
            self.end_hold()?;
        }
        self.keep_root(snapshot.position.number);
        let _ = tidying.insert(self.store.housekeeping.begin(&dataset.name));
        outgoing.send_message(&Message::Confirmed(Confirmed { snapshot }))?;
        leftovers::forget_all(dataset, locked);
        Ok(())
    }

    /// Tells the agent, then tidies up; from here on nothing can fail for the agent.
    fn acknowledge(
        &self,
        committed: Committed,
        outgoing: &Outgoing,
        tidying: &mut Option<Tidying<'s>>,
    ) -> Result<(), ReceiverError> {
        let Ground {
            dataset,
            catalog,
            locked,
            ..
        } = self.ground;
        let is_first = committed.snapshot.position.number == 1;
        let stop = tidying
            .insert(self.store.housekeeping.begin(&dataset.name))
            .stop
            .clone();
        outgoing.send_message(&Message::Committed(committed))?;
        crash_point!("receiver.acknowledged");
        dataset.clean()?;
        leftovers::forget_all(dataset, locked);
        catalog.checkpoint()?;
        if is_first && self.options.after_first == AfterFirst::FillShadow {
            match cycle::catch_up(dataset, catalog, locked, &stop) {
                // The next upload carries on with it, if it needs to.
                Err(ReceiverError::Stopped) => {}
                result => result?,
            }
        }
        Ok(())
    }
}
