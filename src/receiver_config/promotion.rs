//! What the receiver's configuration says of promotions, at its top and for single datasets.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use toml::Spanned;
use understudy_protocol::DatasetName;

use super::specials::Word;
use super::{File, drift};
use crate::exit::CommandError;

/// How long a hook may run unless something else is said.
const HOOK_LIMIT: Duration = Duration::from_secs(10 * 60);

/// A program that is run when this host becomes the main.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hook {
    /// With its arguments; never empty.
    pub(crate) command: Vec<String>,
    /// Whether it knows what a rehearsal is.
    pub(crate) can_be_rehearsed: bool,
}

/// How a host becomes the main.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Promotions {
    /// The programs that are run for each dataset.
    on_promote: Vec<Hook>,
    /// How long each may run.
    pub(crate) limit: Duration,
    /// Where the live trees are shown to whoever serves them, read-only.
    pub(crate) served: Option<PathBuf>,
    /// Those of single datasets, in the place of the others.
    datasets: BTreeMap<DatasetName, Vec<Hook>>,
}

impl Default for Promotions {
    fn default() -> Self {
        Self {
            on_promote: Vec::new(),
            limit: HOOK_LIMIT,
            served: None,
            datasets: BTreeMap::new(),
        }
    }
}

impl Promotions {
    /// The hooks of a dataset, in the order in which they run.
    pub(crate) fn hooks(&self, dataset: &DatasetName) -> &[Hook] {
        self.datasets.get(dataset).unwrap_or(&self.on_promote)
    }
}

/// A hook as it is written.
#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "a hook is written [\"/PROGRAM\", ...] or { run = [\"/PROGRAM\", ...], rehearse = true }"
)]
pub(super) enum RawHook {
    Command(Vec<String>),
    Told(RawTold),
}

/// A hook of which more is told.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawTold {
    run: Vec<String>,
    #[serde(default)]
    rehearse: bool,
}

/// The keys at the top.
pub(super) struct Raw {
    pub(super) on_promote: Option<Vec<Spanned<RawHook>>>,
    pub(super) limit: Option<Spanned<String>>,
    pub(super) served: Option<Spanned<PathBuf>>,
}

/// `[dataset.NAME]`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawDataset {
    pub(super) specials: Option<Word>,
    pub(super) drift: Option<drift::Word>,
    pub(super) promote_after: Option<Spanned<String>>,
    on_promote: Option<Vec<Spanned<RawHook>>>,
}

/// Checks both.
pub(super) fn promotions(
    file: &File<'_>,
    raw: Raw,
    each: &BTreeMap<Spanned<String>, RawDataset>,
) -> Result<Promotions, CommandError> {
    let hooks = |all: &[Spanned<RawHook>]| -> Result<Vec<Hook>, CommandError> {
        all.iter().map(|one| hook(file, one)).collect()
    };
    let mut datasets = BTreeMap::new();
    for (key, dataset) in each {
        let name = DatasetName::new(key.get_ref().as_str())
            .map_err(|error| file.refuse(Some(key.span()), &error))?;
        if let Some(own) = &dataset.on_promote {
            datasets.insert(name, hooks(own)?);
        }
    }
    if let Some(served) = raw
        .served
        .as_ref()
        .filter(|path| !path.get_ref().is_absolute())
    {
        let why = format!(
            "`served` must be an absolute path, but is `{}`",
            served.get_ref().display()
        );
        return Err(file.refuse(Some(served.span()), &why));
    }
    Ok(Promotions {
        on_promote: hooks(&raw.on_promote.unwrap_or_default())?,
        limit: raw
            .limit
            .as_ref()
            .map_or(Ok(HOOK_LIMIT), |limit| file.duration(limit))?,
        served: raw.served.map(Spanned::into_inner),
        datasets,
    })
}

fn hook(file: &File<'_>, raw: &Spanned<RawHook>) -> Result<Hook, CommandError> {
    let (command, can_be_rehearsed) = match raw.get_ref() {
        RawHook::Command(command) => (command, false),
        RawHook::Told(told) => (&told.run, told.rehearse),
    };
    let command = file.command(&Spanned::new(raw.span(), command.clone()))?;
    Ok(Hook {
        command,
        can_be_rehearsed,
    })
}

#[cfg(test)]
mod tests {
    use super::super::ReceiverConfig;
    use super::*;

    #[test]
    fn promotions_are_read_as_they_are_written() {
        let text = "promote_after = \"30m\"\non_promote = [[\"/bin/a\", \"b\"], { run = [\"/bin/c\"], rehearse = true }]\nhook_limit = \"5s\"\nserved = \"/srv/served\"\n\
                    [dataset.photos]\non_promote = []\npromote_after = \"1h\"\n";
        let config = ReceiverConfig::parse(text, "f").expect("valid");
        let name = |text| DatasetName::new(text).expect("name");
        let promotions = &config.promotions;
        let hook = |command: &[&str], can_be_rehearsed| Hook {
            command: command.iter().map(|&word| word.to_owned()).collect(),
            can_be_rehearsed,
        };
        assert_eq!(
            promotions.hooks(&name("other")),
            [hook(&["/bin/a", "b"], false), hook(&["/bin/c"], true)]
        );
        assert!(promotions.hooks(&name("photos")).is_empty());
        assert_eq!(promotions.limit, Duration::from_secs(5));
        assert_eq!(
            promotions.served.as_deref(),
            Some(std::path::Path::new("/srv/served"))
        );
        let policy = &config.alerts.policy;
        assert_eq!(policy.promote_after_seconds(&name("other")), 1800);
        assert_eq!(policy.promote_after_seconds(&name("photos")), 3600);
        let usual = ReceiverConfig::parse("", "f").expect("valid");
        assert_eq!(usual.alerts.policy.promote_after_seconds(&name("x")), 7200);
        for (text, words) in [
            ("on_promote = [[\"a\"]]\n", ["f:1:15:", "absolute"]),
            ("on_promote = [{ run = [] }]\n", ["f:1:15:", "is empty"]),
            (
                "on_promote = [{ rehearse = true }]\n",
                ["f:1:14:", "rehearse = true }"],
            ),
            ("served = \"a\"\n", ["f:1:10:", "absolute"]),
            (
                "promote_after = \"0s\"\n",
                ["f:1:17:", "less than a second"],
            ),
        ] {
            let message = ReceiverConfig::parse(text, "f").expect_err(text).message;
            assert!(words.iter().all(|word| message.contains(word)), "{message}");
        }
    }
}
