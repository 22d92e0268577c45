//! What a drill does with the dumps of databases that came with a snapshot: each is loaded under a name of its own, its rows are compared with
//! those that were counted when it was taken, and it is removed.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use understudy_agent::databases::rows_of;
use understudy_protocol::DatasetName;
use understudy_tree::{Directory, TreeError};

use crate::opener::{Answer, Opener};
use crate::words;

/// What came of the dumps.
#[derive(Debug, Default)]
pub(super) struct Practised {
    pub(super) values: Vec<Value>,
    /// For people.
    pub(super) lines: Vec<String>,
    /// Not loaded, and why; nothing is wrong with that.
    pub(super) unopened: Vec<String>,
    /// Loaded, and not what was captured.
    pub(super) different: Vec<String>,
    /// Not loaded although they should be.
    pub(super) failed: Vec<String>,
}

/// Opens every dump below `dumps`, which the other process knows by the names that lead there.
pub(super) fn practise(
    opener: Option<Opener>,
    dataset: &DatasetName,
    (dumps, place): (&Directory, &[String]),
) -> Result<Practised, TreeError> {
    let mut practised = Practised::default();
    let names = dumps.names()?;
    let Some(mut opener) = opener else {
        let none = "no configuration of this host says where databases are, or nothing proves that the main has sent them (--unverified insists)";
        practised.unopened = names
            .iter()
            .map(|name| format!("`{name}`: {none}"))
            .collect();
        return Ok(practised);
    };
    for name in names {
        let rows = rows_of(&dumps.open_directory(&name)?)?;
        let name = name.to_string();
        let place = place.iter().cloned().chain([name.clone()]).collect();
        let answer = opener.practise(dataset, &name, place);
        practised.add(&name, &answer, rows.as_ref());
    }
    Ok(practised)
}

impl Practised {
    fn add(&mut self, name: &str, answer: &Answer, captured: Option<&BTreeMap<String, u64>>) {
        let mut value = json!({ "name": name });
        match answer {
            Answer::Counted { rows, .. } => {
                let wrong = captured.map(|captured| difference(captured, rows));
                value["rows"] = json!(rows);
                value["as_captured"] = wrong.as_ref().map(Vec::is_empty).into();
                let all = words::counted(rows.values().sum(), "row");
                let compared = match &wrong {
                    None => "how many were captured was not noted",
                    Some(wrong) if wrong.is_empty() => "as many as were captured",
                    Some(_) => "NOT as many as were captured",
                };
                self.lines.push(format!(
                    "the database `{name}` was loaded and removed again: {all} in {}, {compared}",
                    words::counted(rows.len() as u64, "table")
                ));
                self.different.extend(
                    wrong
                        .unwrap_or_default()
                        .into_iter()
                        .map(|wrong| format!("`{name}`: {wrong}")),
                );
            }
            Answer::Unknown(why) => {
                value["unopened"] = why.as_str().into();
                self.unopened.push(format!("`{name}`: {why}"));
            }
            Answer::Failed(why) | Answer::Taken(why) => {
                value["error"] = why.as_str().into();
                self.failed.push(format!("`{name}`: {why}"));
            }
            Answer::Free => {}
        }
        self.values.push(value);
    }
}

/// How the rows that are there differ from those that were counted, table by table.
fn difference(captured: &BTreeMap<String, u64>, rows: &BTreeMap<String, u64>) -> Vec<String> {
    let wrong = captured
        .iter()
        .filter(|(table, count)| rows.get(*table) != Some(*count));
    wrong
        .map(|(table, count)| {
            let found = rows.get(table);
            let found = found.map_or_else(|| "it is not there".to_owned(), ToString::to_string);
            format!("`{table}`: {count} rows were captured, and now: {found}")
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_that_lacks_rows_or_is_gone_is_told() {
        let rows = |rows: &[(&str, u64)]| -> BTreeMap<String, u64> {
            rows.iter()
                .map(|(name, rows)| ((*name).to_owned(), *rows))
                .collect()
        };
        let captured = rows(&[("a", 1), ("b", 2), ("c", 3)]);
        assert!(difference(&captured, &rows(&[("a", 1), ("b", 2), ("c", 3), ("d", 9)])).is_empty());
        let wrong = difference(&captured, &rows(&[("a", 1), ("b", 1)]));
        assert_eq!(wrong.len(), 2, "{wrong:?}");
    }
}
