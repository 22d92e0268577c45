//! `understudy pin` and `understudy unpin`: snapshots that no policy may end.

use serde_json::json;
use understudy_receiver::retention;

use super::Session;
use crate::arguments::{Pin, Unpin};
use crate::exit::CommandError;
use crate::report::Report;
use crate::words;

/// Pins on the store itself.
pub(crate) fn pin(arguments: Pin, session: &Session) -> Result<Report, CommandError> {
    let Pin {
        dataset,
        snapshot,
        reason,
        on_spare,
    } = arguments;
    let reason = reason.trim();
    if reason.is_empty() || reason.len() > retention::REASON_BYTES {
        return Err(CommandError::usage(
            format!(
                "the reason must have 1 to {} bytes",
                retention::REASON_BYTES
            ),
            "say who wanted it and until when, so that whoever finds the pin knows whether it still holds",
        ));
    }
    let store = session.store_on_this_host(on_spare)?;
    let pinned = retention::pin(&store, &dataset, snapshot, reason)?;
    let data = json!({
        "dataset": dataset.as_str(),
        "snapshot": words::snapshot(&pinned.snapshot),
        "pin": reason,
        "before": pinned.before,
    });
    let time = words::time(pinned.snapshot.committed_seconds);
    let line = match pinned.before {
        None => format!("{dataset}: snapshot {snapshot} of {time} is pinned: {reason}"),
        Some(before) => {
            format!(
                "{dataset}: snapshot {snapshot} of {time} stays pinned: {reason} (before: {before})"
            )
        }
    };
    Ok(Report::done(data, vec![line]))
}

/// Takes a pin away on the store itself.
pub(crate) fn unpin(arguments: Unpin, session: &Session) -> Result<Report, CommandError> {
    let Unpin {
        dataset,
        snapshot,
        on_spare,
    } = arguments;
    let store = session.store_on_this_host(on_spare)?;
    let unpinned = retention::unpin(&store, &dataset, snapshot)?;
    let data = json!({
        "dataset": dataset.as_str(),
        "snapshot": words::snapshot(&unpinned.snapshot),
        "pin": null,
        "before": unpinned.before,
    });
    let line = match unpinned.before {
        None => format!("{dataset}: snapshot {snapshot} was not pinned"),
        Some(before) => {
            format!(
                "{dataset}: snapshot {snapshot} is not pinned any more (it was: {before}); the policy decides"
            )
        }
    };
    Ok(Report::done(data, vec![line]))
}
