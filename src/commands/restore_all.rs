//! `understudy restore --all`: everything comes back, one dataset after another.

use std::iter;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use understudy_agent::{Action, FuzzyOf, RestoreRequest};
use understudy_protocol::DatasetName;
use understudy_protocol::message::DatasetStatus;

use super::restore::{bring_back, request, show, shown, tell, value};
use super::{Session, trust};
use crate::arguments::Restore;
use crate::drills::Expectation;
use crate::exit::{Code, CommandError};
use crate::paths;
use crate::report::{self, Report};
use crate::words;

/// Restores every dataset of the spare as TARGET/NAME. One that fails does not hold up the others.
pub(super) fn run(arguments: &Restore, session: &Session) -> Result<Report, CommandError> {
    let spare = session.existing_spare()?;
    let survey = session.survey(None, FuzzyOf::Newest)?;
    let hidden = session.hidden(&spare, &survey.listed.datasets);
    let datasets = ordered(survey.listed.datasets, &arguments.dataset_order)?;
    let mut requests = Vec::new();
    for dataset in &datasets {
        let mut request = request(
            arguments,
            dataset.name.clone(),
            arguments.target.join(dataset.name.as_str()),
        )?;
        request.databases = below(arguments.databases.as_deref(), &dataset.name);
        request.trust = session.trust(&spare, &dataset.name, &arguments.trusting)?;
        request.room_bytes = trust::room_bytes(&spare, &arguments.trusting);
        // Every name counts here, and every entry: that is corrected when the dataset's turn has come.
        if let Some(newest) = dataset.snapshots.last() {
            request.announced = (newest.entries, newest.bytes);
        }
        requests.push(request);
    }
    let roots = [Some(&arguments.target), arguments.databases.as_ref()];
    let missing: Vec<&PathBuf> = roots
        .into_iter()
        .flatten()
        .filter(|path| !path.exists())
        .collect();
    if !arguments.dry_run {
        missing
            .iter()
            .try_for_each(|path| paths::make_directory(path))?;
    }
    let context = session.context(Path::new("").to_owned(), &spare);
    if !arguments.dry_run {
        for request in &requests {
            context.progress.announce(request.announced);
        }
    }
    if let Some(costs) = session.expectation(&spare, None).known() {
        context.progress.expect_costs(costs);
    }
    let shown = show(&context, session.output);
    let mut whole = Whole::default();
    for request in &requests {
        let mut asked = request.clone();
        if request.action == Action::DryRun {
            // What will be above it may not be there yet.
            for path in iter::once(&mut asked.target).chain(&mut asked.databases) {
                let above = path.parent().map(Path::to_owned);
                *path = above
                    .filter(|above| missing.contains(&above))
                    .unwrap_or(path.clone());
            }
        }
        let result = bring_back(&spare, &asked, &context).map(|mut restored| {
            restored.target.clone_from(&request.target);
            if let (Some(databases), Some(path)) = (&mut restored.databases, &request.databases) {
                databases.target.clone_from(path);
            }
            restored
        });
        match result {
            Ok(restored) => {
                let (files, bytes) = restored.amount();
                whole.files += files;
                whole.bytes = whole.bytes.saturating_add(bytes);
                let expected = session.expectation(&spare, Some(&request.dataset));
                whole
                    .values
                    .push(value(&restored, request.action, &expected));
                let doing = (request.action, &expected);
                tell(&mut whole.report, &restored, doing, session.output);
            }
            Err(error) if is_final(&error) => return Err(error),
            Err(error) => whole.failed(request, error),
        }
    }
    drop(shown);
    for dataset in hidden {
        whole.is_hidden(&dataset);
    }
    let expected = session.expectation(&spare, None);
    Ok(whole.end(arguments, session, &expected))
}

/// Where a dataset's databases come.
fn below(directory: Option<&Path>, dataset: &DatasetName) -> Option<PathBuf> {
    directory.map(|directory| directory.join(dataset.as_str()))
}

/// What has come of all of them.
struct Whole {
    report: Report,
    values: Vec<Value>,
    files: u64,
    bytes: u64,
    failed: Option<CommandError>,
}

impl Default for Whole {
    fn default() -> Self {
        Self {
            report: Report::done(Value::Null, Vec::new()),
            values: Vec::new(),
            files: 0,
            bytes: 0,
            failed: None,
        }
    }
}

impl Whole {
    fn failed(&mut self, request: &RestoreRequest, error: CommandError) {
        let name = request.dataset.as_str();
        self.values
            .push(json!({ "dataset": name, "error": error.message }));
        self.report.notes.push(format!("{name}: {}", error.message));
        self.failed.get_or_insert(error);
    }

    /// The spare does not show a dataset of which it has acknowledged a snapshot.
    fn is_hidden(&mut self, dataset: &DatasetName) {
        let error = CommandError::new(
            Code::Damage,
            format!(
                "the spare has acknowledged snapshots of dataset `{dataset}`, and does not show it any more"
            ),
            "ask whoever runs the spare where it is",
        );
        self.values
            .push(json!({ "dataset": dataset.as_str(), "error": error.message }));
        self.report.notes.push(error.message.clone());
        self.failed.get_or_insert(error);
    }

    fn end(self, arguments: &Restore, session: &Session, expected: &Expectation) -> Report {
        let mut report = self.report;
        let of = words::counted(self.values.len() as u64, "dataset");
        if arguments.dry_run {
            let (files, bytes) = (self.files, self.bytes);
            report.lines.push(format!(
                "in all {of}, {} with {}; {}",
                words::counted(files, "file"),
                words::size(bytes),
                expected.guess(files, bytes)
            ));
        } else if report::summarises(session.output) && self.values.is_empty() {
            report
                .lines
                .push("the spare has no datasets yet".to_owned());
        }
        report.data = json!({
            "target": shown(&arguments.target),
            "files": self.files,
            "bytes": self.bytes,
            "datasets": self.values,
        });
        if let Some(error) = self.failed {
            report.code = error.code;
            report.error = Some(CommandError::new(
                error.code,
                format!("not all of {of} came back; first: {}", error.message),
                error.hint,
            ));
        }
        report
    }
}

/// Whether the others would fail as well.
fn is_final(error: &CommandError) -> bool {
    matches!(
        error.code,
        Code::Interrupted | Code::Unreachable | Code::NoSpace
    )
}

/// Those that are named first, in that order, then the others.
fn ordered(
    mut datasets: Vec<DatasetStatus>,
    first: &[DatasetName],
) -> Result<Vec<DatasetStatus>, CommandError> {
    if let Some(unknown) = first
        .iter()
        .find(|name| !datasets.iter().any(|dataset| dataset.name == **name))
    {
        return Err(CommandError::usage(
            format!("the spare has no dataset `{unknown}`"),
            "`understudy status` lists the datasets that it has",
        ));
    }
    let rank = |dataset: &DatasetStatus| {
        let position = first.iter().position(|name| *name == dataset.name);
        position.unwrap_or(first.len())
    };
    datasets.sort_by_key(rank);
    Ok(datasets)
}
