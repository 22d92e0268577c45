//! `understudy accept`: what is lost keeps the rest from nothing any more.

use serde_json::{Value, json};
use understudy_protocol::escape;
use understudy_receiver::health::{self, Accepted, Loss};

use super::Session;
use crate::arguments::Accept;
use crate::exit::CommandError;
use crate::report::Report;
use crate::words;

/// Accepts on the store itself.
pub(crate) fn run(arguments: Accept, session: &Session) -> Result<Report, CommandError> {
    let Accept { dataset, on_spare } = arguments;
    let store = session.store_on_this_host(on_spare)?;
    let Accepted {
        now,
        before,
        refused,
    } = health::accept(&store, &dataset)?;
    let value = |loss: &Loss| {
        let mut value = words::path_with(&loss.path, "what", &loss.what);
        value["found"] = words::time(loss.found_seconds).into();
        value
    };
    let accepted: Vec<Value> = now.iter().map(value).collect();
    let data = json!({
        "dataset": dataset.as_str(),
        "accepted": accepted,
        "before": before,
        "refused": refused,
    });
    let mut lines: Vec<String> = now
        .iter()
        .map(|loss| {
            let what = escape(loss.what.as_bytes());
            format!("accepted as lost: {dataset}: {}: {what}", loss.path)
        })
        .collect();
    if now.is_empty() {
        lines.push(format!("{dataset}: nothing is open that could be accepted"));
    }
    if before > 0 {
        let before = words::counted(before as u64, "loss");
        lines.push(format!("{dataset}: {before} accepted before"));
    }
    if refused > 0 {
        let refused = words::counted(refused as u64, "difference");
        lines.push(format!(
            "{dataset}: {refused} of the catalog cannot be accepted: nothing is pruned by a catalog that is wrong"
        ));
    }
    Ok(Report::done(data, lines))
}
