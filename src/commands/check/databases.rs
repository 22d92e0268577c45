//! `understudy check databases`: what would make a dump fail, or leave something out, before a cycle says so.

use std::path::Path;

use serde_json::json;
use understudy_agent::config::Config;
use understudy_protocol::{DatasetName, harmless};

use crate::exit::{Code, CommandError};
use crate::report::Report;
use crate::words::counted;

/// One database, and what is wrong with it.
struct Found {
    dataset: DatasetName,
    database: String,
    problems: Vec<String>,
}

/// Asks every database of these datasets, or of all, one after another.
pub(super) fn run(config: &Path, datasets: &[DatasetName]) -> Result<Report, CommandError> {
    let config = Config::load(config)?;
    let sources: Vec<_> = config.sources().into_iter().flatten().collect();
    let has = |name: &DatasetName| sources.iter().any(|one| one.source.dataset == *name);
    if let Some(unknown) = datasets.iter().find(|name| !has(name)) {
        return Err(CommandError::usage(
            format!("`{}` has no dataset `{unknown}`", config.file.display()),
            "name one that it has, or none for all",
        ));
    }
    let mut found = Vec::new();
    for source in sources.into_iter().map(|one| one.source) {
        if !datasets.is_empty() && !datasets.contains(&source.dataset) {
            continue;
        }
        for settings in source.databases {
            let problems = settings.open(&source.dataset).check();
            let problems = problems.unwrap_or_else(|error| vec![error.to_string()]);
            found.push(Found {
                dataset: source.dataset.clone(),
                database: settings.name,
                problems,
            });
        }
    }
    Ok(report(&found))
}

fn report(found: &[Found]) -> Report {
    let values = found.iter().map(|one| {
        json!({
            "dataset": one.dataset.as_str(),
            "database": one.database,
            "problems": one.problems,
        })
    });
    let data = json!({ "databases": values.collect::<Vec<_>>() });
    let (well, ill): (Vec<&Found>, Vec<_>) = found.iter().partition(|one| one.problems.is_empty());
    let lines = match found {
        [] => vec!["nothing to check: there is no [[dataset.database]]".to_owned()],
        _ => well
            .iter()
            .map(|one| format!("ok: {}/{}", one.dataset, one.database))
            .collect(),
    };
    let mut report = Report::done(data, lines);
    if ill.is_empty() {
        return report;
    }
    for one in &ill {
        let lines = one.problems.iter().flat_map(|problem| problem.lines());
        let told =
            lines.map(|line| format!("{}/{}: {}", one.dataset, one.database, harmless(line)));
        report.notes.extend(told);
    }
    let error = CommandError::new(
        Code::Failed,
        format!(
            "something has to be done about {} of {}",
            ill.len(),
            counted(found.len() as u64, "database")
        ),
        "do what each line says, and check again, as the user that the agent runs as",
    );
    report.code = error.code;
    report.error = Some(error);
    report
}
