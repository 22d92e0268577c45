//! Bringing a snapshot back: a whole tree is written beside the target, verified, made durable, and only then put
//! in its place.

mod build;
mod fetch;
mod plan;
mod switch;

use std::path::PathBuf;

use understudy_protocol::transport::Channel;
use understudy_protocol::{DatasetName, RelPath, Snapshot};
use understudy_tree::{Lacking, Privileges};

use crate::Context;
use crate::clock::Moment;
use crate::conversation::Conversation;
use crate::error::AgentError;
use crate::progress::Phase;

use plan::Plan;
use switch::Site;

/// What to bring back, and where.
#[derive(Debug, Clone)]
pub struct RestoreRequest {
    /// The dataset.
    pub dataset: DatasetName,
    /// The directory that its file tree becomes.
    pub target: PathBuf,
    /// Which snapshot; the newest if absent.
    pub number: Option<u64>,
    /// What to do if there is something at the target.
    pub existing: Existing,
    /// Whether to do it.
    pub action: Action,
}

/// What to do with a target that is not empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// Leave it alone and fail.
    Refuse,
    /// Use what it has, exchange it for the restored tree in one step, and keep it beside.
    Replace,
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
    /// The directory that it became.
    pub target: PathBuf,
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
    /// Where the tree that was replaced is now.
    pub kept: Option<PathBuf>,
    /// What could not be set here.
    pub lacking: Lacking,
    /// How long it took.
    pub seconds: f64,
}

/// Restores a dataset's file tree.
///
/// When it returns the target is the snapshot, verified and durable. Interrupted, it leaves the target as it was and
/// a directory `TARGET.understudy-restore`, from which the next run carries on.
pub fn restore(
    channel: Channel,
    request: &RestoreRequest,
    context: &Context,
) -> Result<RestoreReport, AgentError> {
    let started = Moment::now();
    context.progress.restart(Phase::Connecting);
    let site = Site::find(request)?;
    let conversation = Conversation::open(channel, &context.cancel)?;
    let result = bring_back(&conversation, request, &site, context);
    let mut report = result.map_err(|error| conversation.explain(error))?;
    report.seconds = started.elapsed().as_secs_f64();
    Ok(report)
}

fn bring_back(
    conversation: &Conversation,
    request: &RestoreRequest,
    site: &Site,
    context: &Context,
) -> Result<RestoreReport, AgentError> {
    let plan = Plan::read(conversation, request)?;
    let (files, bytes) = plan.files_and_bytes();
    let mut report = RestoreReport {
        dataset: request.dataset.clone(),
        snapshot: plan.snapshot.clone(),
        target: site.target(),
        entries: plan.entries(),
        files,
        bytes,
        files_fetched: 0,
        bytes_fetched: 0,
        files_reused: 0,
        fuzzy: plan.fuzzy.clone(),
        kept: None,
        lacking: Lacking::default(),
        seconds: 0.0,
    };
    if request.action == Action::DryRun {
        return Ok(report);
    }
    context.progress.enter(Phase::Restoring);
    let work = site.open_work()?;
    let privileges = Privileges::current();
    let build = build::Build::new(&plan, &work, site, privileges, context);
    build.make_directories()?;
    let needed = build.reuse()?;
    report.files_reused = build.contents() - needed.len() as u64;
    let (files, bytes) = fetch::fetch(conversation, &build, &needed)?;
    (report.files_fetched, report.bytes_fetched) = (files, bytes);
    build.make_others()?;
    build.finish_directories()?;
    report.lacking = build.lacking();
    work.directory.sync_file_system()?;
    report.kept = site.switch()?;
    Ok(report)
}

#[cfg(test)]
mod tests;
