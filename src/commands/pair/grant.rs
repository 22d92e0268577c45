//! Which dataset belongs to which main, and giving one to another.

use serde_json::{Value, json};
use understudy_protocol::{DatasetName, MainName};
use understudy_receiver::Store;
use understudy_receiver::trust::Trust;

use crate::arguments::Pair;
use crate::commands::Session;
use crate::exit::CommandError;
use crate::report::Report;

/// On the spare: a dataset belongs to a main from now on.
pub(super) fn give(
    grant: &[String],
    arguments: &Pair,
    session: &Session,
) -> Result<Report, CommandError> {
    let usage = |error: &dyn std::fmt::Display| {
        CommandError::usage(
            error.to_string(),
            "write `understudy pair --grant NAME DATASET`",
        )
    };
    let [main, dataset] = grant else {
        return Err(usage(&"a main and a dataset are needed"));
    };
    let main = MainName::new(main.as_str()).map_err(|error| usage(&error))?;
    let dataset = DatasetName::new(dataset.as_str()).map_err(|error| usage(&error))?;
    let store = session.store_on_this_host(arguments.on_spare.clone())?;
    let former = store.grant(&main, &dataset)?;
    let mut lines = vec![format!("the dataset {dataset} belongs to {main} now")];
    if let Some(former) = former.as_ref().filter(|former| **former != main) {
        lines.push(format!(
            "It belonged to {former}, which sees it no more; what {former} is reading of it goes on to its end."
        ));
    }
    let knows = Trust::open(store.path())?
        .map(|trust| trust.mains())
        .transpose()?
        .is_some_and(|mains| mains.iter().any(|known| known.name == main));
    if !knows {
        lines.push(format!(
            "No main {main} is paired; `understudy pair --new {main}` makes a code for it. One that comes through ssh has its name in authorized_keys."
        ));
    }
    let data = json!({
        "main": main.as_str(),
        "dataset": dataset.as_str(),
        "former": former.as_ref().map(MainName::as_str),
    });
    Ok(Report::done(data, lines))
}

/// Which dataset is whose.
pub(super) fn owned(store: &Store) -> Result<(Value, Vec<String>), CommandError> {
    let mut lines = Vec::new();
    let mut values = serde_json::Map::new();
    for (dataset, main) in store.owners()? {
        lines.push(match &main {
            Some(main) => format!("  dataset {dataset} of {main}"),
            None => format!(
                "  dataset {dataset} of nobody: no main can use it; `understudy pair --grant NAME {dataset}` gives it to one"
            ),
        });
        let main = main.map(|main| main.as_str().to_owned());
        values.insert(dataset.as_str().to_owned(), main.into());
    }
    Ok((values.into(), lines))
}
