//! Whether an upload is held, and what people are told.

use understudy_protocol::DatasetName;

use super::Thresholds;
use super::harm::{self, Count, Harm, Subject};
use super::ignored::Ignored;
use super::root::Moved;
use crate::catalog::{Catalog, Recorded};
use crate::dataset::Dataset;
use crate::error::ReceiverError;

/// Less than this part of the entries or bytes is not looked at: counting what a dataset has costs its size.
const LOOKED_AT: u64 = 64;

/// Why an upload is held.
#[derive(Debug)]
pub(crate) struct Verdict {
    /// Which thresholds are passed, for people.
    pub(super) reasons: Vec<String>,
    pub(super) harm: Harm,
    pub(super) total: Count,
    pub(super) moved: Option<Moved>,
}

/// Judges a settled upload of `number`, whose rows begin at `first_entry`; `None` lets it pass.
pub(crate) fn judge(
    dataset: &Dataset,
    catalog: &Catalog,
    base: &Recorded,
    first_entry: u64,
    (thresholds, moved): (&Thresholds, Option<Moved>),
) -> Result<Option<Verdict>, ReceiverError> {
    let halved;
    let thresholds = match moved {
        Some(Moved::FileSystem) => {
            halved = thresholds.halved();
            &halved
        }
        Some(Moved::Directory) | None => thresholds,
    };
    let Some(live) = dataset.live()? else {
        return Ok(None);
    };
    let base_number = base.snapshot.position.number;
    let meant = catalog.last_without_drift(base_number)?;
    if meant == 0 {
        // Nothing but drift is there, such as what an old main had when it failed back: it is pinned, and meant to be undone.
        return Ok(None);
    }
    let subject = |meant: u64| Subject {
        catalog,
        control: &dataset.control,
        live: &live,
        number: base_number + 1,
        meant,
        first_entry,
    };
    let Some(verdict) = against(&subject(meant), base, thresholds, moved)? else {
        return Ok(None);
    };
    if !catalog.is_absorbed(meant)? {
        return Ok(Some(verdict));
    }
    // What this host wrote as the main and never shipped is pinned, and undone by whoever is the main now. So it is enough to do no harm to what
    // was sent last.
    match catalog.last_sent(meant)? {
        0 => Ok(Some(verdict)),
        sent => Ok(against(&subject(sent), base, thresholds, moved)?.and(Some(verdict))),
    }
}

/// Judges what it does to one snapshot.
fn against(
    subject: &Subject<'_>,
    base: &Recorded,
    thresholds: &Thresholds,
    moved: Option<Moved>,
) -> Result<Option<Verdict>, ReceiverError> {
    let base_number = base.snapshot.position.number;
    let bound = harm::bound(subject)?;
    let (entries, bytes) = (base.snapshot.entries, base.snapshot.bytes);
    let are_many =
        bound.files >= thresholds.files_least && bound.files.saturating_mul(LOOKED_AT) >= entries;
    let is_much =
        bound.bytes >= thresholds.bytes_least && bound.bytes.saturating_mul(LOOKED_AT) >= bytes;
    // What somebody added to the live tree must not make little of the rest.
    if !are_many && !is_much && subject.meant == base_number {
        return Ok(None);
    }
    let mut ignored = Ignored::new(
        subject.catalog,
        subject.live,
        base_number,
        &thresholds.caches,
    )?;
    let total = harm::total(subject, &mut ignored)?;
    if reasons(bound, total, thresholds).is_empty() {
        return Ok(None);
    }
    let harm = harm::count(subject, &mut ignored)?;
    let reasons = reasons(harm.all(), total, thresholds);
    Ok((!reasons.is_empty()).then_some(Verdict {
        reasons,
        harm,
        total,
        moved,
    }))
}

/// The thresholds that so much harm passes.
fn reasons(harm: Count, total: Count, thresholds: &Thresholds) -> Vec<String> {
    let mut reasons = Vec::new();
    if harm.files >= thresholds.files_least
        && is_more(harm.files, total.files, thresholds.files_percent)
    {
        reasons.push(format!(
            "{} of {} files, more than {} %",
            harm.files, total.files, thresholds.files_percent
        ));
    }
    if harm.bytes >= thresholds.bytes_least
        && is_more(harm.bytes, total.bytes, thresholds.bytes_percent)
    {
        reasons.push(format!(
            "{} of {} bytes, more than {} %",
            harm.bytes, total.bytes, thresholds.bytes_percent
        ));
    }
    reasons
}

fn is_more(part: u64, whole: u64, percent: u32) -> bool {
    u128::from(part) * 100 > u128::from(whole) * u128::from(percent)
}

impl Verdict {
    /// One sentence for the alert, the agent and `status`.
    pub(super) fn text(&self, dataset: &DatasetName) -> String {
        let Harm {
            removed,
            emptied,
            noise,
            ..
        } = &self.harm;
        let parts = [
            (removed, "removed"),
            (emptied, "emptied"),
            (noise, "turned into noise"),
        ];
        let parts: Vec<String> = parts
            .iter()
            .filter(|(count, _)| count.files > 0)
            .map(|(count, what)| format!("{} {what}", count.files))
            .collect();
        let moved = self.moved.map_or(String::new(), |moved| {
            format!("; the source is {} than before", moved.what())
        });
        format!(
            "a cycle of dataset `{dataset}` would harm {}: {}{moved}",
            self.reasons.join(" and "),
            parts.join(", ")
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds_are_passed_by_more_only() {
        let thresholds = Thresholds {
            bytes_least: 400,
            ..Thresholds::default()
        };
        let count = |files, bytes| Count { files, bytes };
        let total = count(100, 1000);
        for (harm, passed) in [
            (count(25, 500), 0),
            (count(26, 500), 1),
            (count(9, 501), 1),
            (count(100, 1000), 2),
            (count(0, 0), 0),
        ] {
            assert_eq!(reasons(harm, total, &thresholds).len(), passed, "{harm:?}");
        }
        // Nine files of ten are too few to be held for their number.
        assert_eq!(reasons(count(9, 0), count(10, 0), &thresholds).len(), 0);
        assert_eq!(reasons(count(0, 0), count(0, 0), &thresholds).len(), 0);
        assert_eq!(reasons(count(1, 399), count(1, 399), &thresholds).len(), 0);
        let most = count(u64::MAX, u64::MAX);
        assert_eq!(reasons(most, most, &thresholds).len(), 2);
    }
}
