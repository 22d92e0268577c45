//! Which snapshot somebody means.

use understudy_protocol::{DatasetName, Snapshot, escape};

use crate::conversation::Conversation;
use crate::error::AgentError;
use crate::listing;
use crate::past::Which;

/// The number of the snapshot, as a manifest is asked for.
pub(super) fn number(
    conversation: &Conversation,
    dataset: &DatasetName,
    which: Which,
) -> Result<Option<u64>, AgentError> {
    let at = match which {
        Which::Newest => return Ok(None),
        Which::Number(number) => return Ok(Some(number)),
        Which::At(seconds) => seconds,
    };
    let listed = listing::datasets(conversation, Some(dataset.clone()))?;
    let listed = listed.datasets.into_iter().find(|one| one.name == *dataset);
    let (snapshots, trouble) =
        listed.map_or((Vec::new(), None), |one| (one.snapshots, one.trouble));
    if let Some(trouble) = trouble.filter(|_| snapshots.is_empty()) {
        let reason = format!(
            "the spare cannot list the snapshots of `{dataset}`: {}",
            escape(trouble.as_bytes())
        );
        return Err(AgentError::NoneThatOld { reason });
    }
    match newest_until(&snapshots, at) {
        Some(snapshot) => Ok(Some(snapshot.position.number)),
        None => Err(AgentError::NoneThatOld {
            reason: none_until(dataset, &snapshots, at),
        }),
    }
}

/// Clocks are set back at times, so numbers and times may not agree: of those that are old enough, the last one made.
fn newest_until(snapshots: &[Snapshot], at: i64) -> Option<&Snapshot> {
    snapshots
        .iter()
        .filter(|snapshot| snapshot.committed_seconds <= at)
        .max_by_key(|snapshot| (snapshot.position.epoch, snapshot.position.number))
}

fn none_until(dataset: &DatasetName, snapshots: &[Snapshot], at: i64) -> String {
    let oldest = snapshots
        .iter()
        .min_by_key(|snapshot| snapshot.committed_seconds);
    let oldest = oldest.map_or_else(
        || "it has none".to_owned(),
        |oldest| {
            format!(
                "the oldest is snapshot {}, committed at {}",
                oldest.position.number,
                shown(oldest.committed_seconds)
            )
        },
    );
    format!(
        "dataset `{dataset}` has no snapshot from {} or before: {oldest}",
        shown(at)
    )
}

fn shown(seconds: i64) -> String {
    jiff::Timestamp::from_second(seconds)
        .map_or_else(|_| seconds.to_string(), |time| time.to_string())
}

#[cfg(test)]
mod tests {
    use understudy_protocol::{Fingerprint, Position};

    use super::*;

    fn snapshot(number: u64, committed_seconds: i64) -> Snapshot {
        Snapshot {
            position: Position {
                epoch: 1,
                number,
                fingerprint: Fingerprint([0; 32]),
            },
            committed_seconds,
            entries: 1,
            bytes: 1,
        }
    }

    #[test]
    fn the_newest_that_is_old_enough_is_taken() {
        let all = [(1, 100), (2, 200), (3, 150), (4, 300)].map(|(n, at)| snapshot(n, at));
        let number = |at| newest_until(&all, at).map(|found| found.position.number);
        assert_eq!(number(99), None);
        assert_eq!(number(100), Some(1));
        assert_eq!(number(149), Some(1));
        assert_eq!(number(299), Some(3));
        assert_eq!(number(1000), Some(4));
        let dataset = DatasetName::fit(b"site");
        let reason = none_until(&dataset, &all, 99);
        assert!(reason.contains("1970-01-01T00:01:40Z"), "{reason}");
    }
}
