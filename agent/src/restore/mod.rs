//! Bringing a snapshot back: a whole tree is written beside the target, verified, made durable, and only then put
//! in its place.

mod asking;
mod build;
mod changed;
mod compare;
mod databases;
mod fetch;
mod flushing;
mod gathered;
mod landing;
mod large;
mod line;
mod lost;
mod pick;
mod plan;
mod progressive;
mod reuse;
mod switch;
mod telling;
mod which;

use std::collections::HashSet;
use std::path::PathBuf;

use understudy_protocol::transport::Channel;
use understudy_protocol::{DatasetName, RelPath, Snapshot, version};
use understudy_tree::{Glob, Lacking, Privileges};

use crate::Context;
use crate::chain::{Proven, Trusted};
use crate::clock::Moment;
use crate::error::AgentError;
use crate::estimate::Costs;
use crate::past::Which;
use crate::progress::Phase;

use build::{Build, Resuming};
use databases::{Databases, Place};
use fetch::Todo;
use landing::Landing;
use line::Line;
use plan::{Plan, Plans};
use switch::{Site, Work};
use telling::Telling;

pub use compare::compare;
pub use gathered::Dumped;
pub use line::Reconnect;
pub use lost::Lost;
pub use pick::Order;

/// What to bring back, and where.
#[derive(Debug, Clone)]
pub struct RestoreRequest {
    /// The dataset.
    pub dataset: DatasetName,
    /// The directory that its file tree becomes.
    pub target: PathBuf,
    /// The directory that gets what was dumped of databases, if they are wanted too: there must be nothing in it.
    pub databases: Option<PathBuf>,
    /// Which snapshot.
    pub which: Which,
    /// What of the files.
    pub part: Part,
    /// Files that come first, in this order.
    pub first: Vec<Glob>,
    /// How the others come.
    pub order: Order,
    /// What to do if there is something at the target.
    pub existing: Existing,
    /// How the target comes to be.
    pub manner: Manner,
    /// Whose the files become.
    pub owners: OwnedBy,
    /// What becomes of files whose content is lost.
    pub lost: Lost,
    /// What was [announced](crate::Progress::announce) of it: files and bytes.
    pub announced: (u64, u64),
    /// Whose word counts; without it nothing is proved.
    pub trust: Option<Trusted>,
    /// How many bytes of memory the entries of a snapshot may take of which nobody has signed how many they are.
    pub room_bytes: u64,
    /// Whether to do it.
    pub action: Action,
}

impl RestoreRequest {
    /// What a stranger may make this host take: about 600,000 entries.
    pub const ROOM_BYTES: u64 = 160 << 20;
}

/// What of a snapshot is wanted.
#[derive(Debug, Clone)]
pub enum Part {
    /// Everything.
    Whole,
    /// What one of the globs matches, with what is below it.
    Matching(Vec<Glob>),
    /// What is at these paths, with what is below it.
    At(HashSet<RelPath>),
}

/// What to do with a target that is not empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// Leave it alone and fail.
    Refuse,
    /// Use what it has, exchange it for the restored tree in one step, and keep it beside.
    Replace,
}

/// How the target comes to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Manner {
    /// It is made beside, and appears whole.
    #[default]
    Switch,
    /// File by file, for a target that is in use meanwhile. With [`Existing::Replace`] everything that is not in the snapshot is
    /// moved away in the end; what is replaced is kept in any case.
    Progressive,
}

/// Whose files become.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OwnedBy {
    /// The users and groups of the same numbers as on the main.
    #[default]
    Number,
    /// Those of the same names, where the spare was told them and they are known here. Numbers in access control lists stay.
    Name,
}

/// Whether to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Restore.
    Write,
    /// Only tell what a restore would bring.
    DryRun,
}

/// What a restore brought, or would bring.
#[derive(Debug, Clone)]
pub struct RestoreReport {
    /// The dataset.
    pub dataset: DatasetName,
    /// The snapshot.
    pub snapshot: Snapshot,
    /// How far it was proved to be what the main has sent.
    pub proven: Proven,
    /// The directory that it became.
    pub target: PathBuf,
    /// What the snapshot has of databases.
    pub dumped: Dumped,
    /// The same of them, if they were wanted and are there; how long it took and what it cost is that of both.
    pub databases: Option<Box<RestoreReport>>,
    /// Entries of every kind, the root included.
    pub entries: u64,
    /// Names of regular files.
    pub files: u64,
    /// Sum of their sizes, each hard-link group once.
    pub bytes: u64,
    /// Files whose content came from the spare.
    pub files_fetched: u64,
    /// Bytes of content that came from the spare.
    pub bytes_fetched: u64,
    /// Files whose content was here already: from an interrupted restore or in the tree that was replaced.
    pub files_reused: u64,
    /// Files that may be torn: they never stood still while the main read them.
    pub fuzzy: Vec<RelPath>,
    /// Files that were left out, for their content is lost.
    pub left_out: Vec<RelPath>,
    /// Where the tree that was replaced is now.
    pub kept: Option<PathBuf>,
    /// What could not be set here.
    pub lacking: Lacking,
    /// Users and groups that have no such name here.
    pub unknown_owners: Vec<String>,
    /// How long it took.
    pub seconds: f64,
    /// What each file and each byte took of that, if there was enough to say so.
    pub costs: Option<Costs>,
}

/// Restores a dataset's file tree.
///
/// When it returns the target is the snapshot, verified and durable. Interrupted, it leaves the target as it was and
/// a directory `TARGET.understudy-restore`, from which the next run carries on. If the connection is cut, and there is a way to make
/// another, it carries on by itself.
pub fn restore(
    channel: Channel,
    request: &RestoreRequest,
    context: &Context,
    reconnect: Reconnect<'_>,
) -> Result<RestoreReport, AgentError> {
    let started = Moment::now();
    // Not from zero: it may be one of several.
    context.progress.enter(Phase::Connecting);
    let site = Site::find(request)?;
    let beside = Place::find(request, &site.target())?;
    let mut line = Line::open(channel, reconnect, context)?;
    let mut telling = Telling::new(&site.target());
    let places = (&site, beside.as_ref());
    let mut report = bring_back(&mut line, request, places, context, &mut telling)?;
    report.seconds = started.elapsed().as_secs_f64();
    report.costs = telling.costs(report.seconds);
    Ok(report)
}

fn bring_back(
    line: &mut Line<'_>,
    request: &RestoreRequest,
    (site, beside): (&Site, Option<&Place>),
    context: &Context,
    telling: &mut Telling,
) -> Result<RestoreReport, AgentError> {
    let (plans, lost) = line.persist(|conversation| {
        let number = which::number(conversation, &request.dataset, request.which)?;
        let lost = match request.lost {
            Lost::Ask => HashSet::new(),
            Lost::Skip => lost::contents(conversation, &request.dataset)?,
        };
        let plans = Plans::prove(conversation, request, number)?;
        Ok((plans, lost))
    })?;
    let mut plan = plans.files;
    pick::restrict(&mut plan, &request.part)?;
    let mut report = of_plan(&mut plan, request, site, &lost)?;
    report.dumped = plans.dumped;
    let mut databases = match (beside, plans.databases) {
        (Some(place), Some(plan)) => Some(Databases::new(place, plan, &lost)?),
        _ => None,
    };
    if request.action == Action::Write {
        if let Some(databases) = &databases {
            databases.announce(context);
        }
        context.progress.enter(Phase::Checking);
        let told = (&mut report, telling);
        write(line, request, (&plan, site), &mut databases, context, told)?;
    }
    report.databases = databases.map(|databases| Box::new(databases.report));
    Ok(report)
}

/// What a plan will bring, when what is lost is left out and everything has its owner.
fn of_plan(
    plan: &mut Plan,
    request: &RestoreRequest,
    site: &Site,
    lost: &lost::Contents,
) -> Result<RestoreReport, AgentError> {
    let left_out = lost::leave_out(plan, lost);
    let unknown_owners = match request.owners {
        OwnedBy::Number => Vec::new(),
        OwnedBy::Name => plan.own_by_name()?,
    };
    let mut report = RestoreReport::of(plan, request, site);
    report.unknown_owners = unknown_owners;
    report.left_out = left_out;
    Ok(report)
}

/// Makes both trees before either appears, so that whoever is interrupted can carry on with both.
fn write(
    line: &mut Line<'_>,
    request: &RestoreRequest,
    (plan, site): (&Plan, &Site),
    databases: &mut Option<Databases<'_>>,
    context: &Context,
    (report, telling): (&mut RestoreReport, &mut Telling),
) -> Result<(), AgentError> {
    let landing = match request.manner {
        Manner::Switch => None,
        Manner::Progressive => Some(Landing::new(site)?),
    };
    let work = match request.manner {
        Manner::Switch => site.open_work()?,
        Manner::Progressive => site.open_in_place()?,
    };
    let place = (site, &work, landing.as_ref());
    fill(line, request, plan, place, context, (report, telling))?;
    let beside = match databases {
        Some(databases) => Some((databases.fill(line, context, telling)?, databases)),
        None => None,
    };
    work.directory.sync_file_system()?;
    report.kept = match landing {
        None => site.switch()?,
        Some(landing) => landing.finish()?,
    };
    match beside {
        Some((work, databases)) => databases.appear(work),
        None => Ok(()),
    }
}

/// Makes the tree of the plan.
fn fill(
    line: &mut Line<'_>,
    request: &RestoreRequest,
    plan: &Plan,
    (site, work, landing): (&Site, &Work, Option<&Landing<'_>>),
    context: &Context,
    (report, telling): (&mut RestoreReport, &mut Telling),
) -> Result<(), AgentError> {
    let privileges = Privileges::current();
    let resuming = if line.version() >= version::REST {
        Resuming::Inside
    } else {
        Resuming::Whole
    };
    let build = Build::new(plan, work, site, privileges, resuming, landing, context);
    line.attempt(|conversation| telling.tell(conversation, &context.progress));
    let mut needed = telling.meanwhile(line.conversation(), &context.progress, || {
        build.make_directories()?;
        build.reuse(request.announced)
    })?;
    report.files_reused = build.contents() - needed.len() as u64;
    pick::arrange(plan, &mut needed, &request.first, request.order);
    context.progress.enter(Phase::Restoring);
    // What stands at the target may have another version of what is wanted.
    let base = match landing {
        _ if line.version() < version::REST => None,
        Some(_) => Some(work.directory.try_clone()?),
        None => site.open_target()?,
    };
    let todo = Todo::new(needed, plan.leaves.len(), base);
    let todo = fetch_all(line, &build, &request.dataset, todo, telling)?;
    (report.files_fetched, report.bytes_fetched) = (todo.files, todo.bytes);
    context.progress.enter(Phase::Finishing);
    line.attempt(|conversation| telling.tell(conversation, &context.progress));
    build.make_others()?;
    if let Some(landing) = landing
        && request.existing == Existing::Replace
    {
        build.clear_strangers(landing)?;
    }
    build.finish_directories()?;
    report.lacking = build.lacking();
    Ok(())
}

/// Fetches what is needed, over as many connections as it takes.
fn fetch_all(
    line: &mut Line<'_>,
    build: &Build<'_>,
    dataset: &DatasetName,
    mut todo: Todo,
    telling: &mut Telling,
) -> Result<Todo, AgentError> {
    let mut is_first = true;
    line.persist(|conversation| {
        // Contents are given to whoever has read the manifest in the same session.
        if !std::mem::take(&mut is_first) {
            plan::read_again(conversation, dataset, &build.plan.snapshot)?;
        }
        fetch::fetch(conversation, build, &mut todo, telling)
    })?;
    Ok(todo)
}

impl RestoreReport {
    /// Regular files of both trees, and the sum of their sizes.
    pub fn amount(&self) -> (u64, u64) {
        let (files, bytes) = self.databases.as_ref().map_or((0, 0), |it| it.amount());
        (self.files + files, self.bytes.saturating_add(bytes))
    }

    /// What a plan will bring; nothing of it is done.
    fn of(plan: &Plan, request: &RestoreRequest, site: &Site) -> Self {
        let (files, bytes) = plan.files_and_bytes();
        Self {
            dataset: request.dataset.clone(),
            snapshot: plan.snapshot.clone(),
            proven: plan.proven.clone(),
            target: site.target(),
            dumped: Dumped::default(),
            databases: None,
            entries: plan.entries(),
            files,
            bytes,
            files_fetched: 0,
            bytes_fetched: 0,
            files_reused: 0,
            fuzzy: plan.fuzzy.clone(),
            left_out: Vec::new(),
            kept: None,
            lacking: Lacking::default(),
            unknown_owners: Vec::new(),
            seconds: 0.0,
            costs: None,
        }
    }
}

#[cfg(test)]
mod tests;
