//! The part `[guard]` of the receiver's configuration.

use std::collections::BTreeMap;

use serde::Deserialize;
use toml::Spanned;
use understudy_protocol::{DatasetName, escape};
use understudy_receiver::guard::{Guards, Thresholds};

use super::File;
use crate::exit::CommandError;

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawGuards {
    files_percent: Option<Spanned<u32>>,
    files_least: Option<Spanned<u64>>,
    bytes_percent: Option<Spanned<u32>>,
    bytes_least: Option<Spanned<u64>>,
    caches: Option<Vec<Spanned<String>>>,
    #[serde(default)]
    dataset: BTreeMap<Spanned<String>, RawThresholds>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawThresholds {
    files_percent: Option<Spanned<u32>>,
    files_least: Option<Spanned<u64>>,
    bytes_percent: Option<Spanned<u32>>,
    bytes_least: Option<Spanned<u64>>,
    caches: Option<Vec<Spanned<String>>>,
}

/// Checks the part; what a dataset does not say is as for all.
pub(super) fn guards(file: &File<'_>, raw: RawGuards) -> Result<Guards, CommandError> {
    let RawGuards {
        files_percent,
        files_least,
        bytes_percent,
        bytes_least,
        caches,
        dataset,
    } = raw;
    let usual = RawThresholds {
        files_percent,
        files_least,
        bytes_percent,
        bytes_least,
        caches,
    };
    let mut guards = Guards {
        usual: thresholds(file, &usual, &Thresholds::default())?,
        datasets: BTreeMap::new(),
    };
    for (key, raw) in dataset {
        let name = DatasetName::new(key.get_ref().as_str())
            .map_err(|error| file.refuse(Some(key.span()), &error))?;
        let own = thresholds(file, &raw, &guards.usual)?;
        guards.datasets.insert(name, own);
    }
    Ok(guards)
}

fn thresholds(
    file: &File<'_>,
    raw: &RawThresholds,
    usual: &Thresholds,
) -> Result<Thresholds, CommandError> {
    let percent = |given: &Option<Spanned<u32>>, usual: u32| match given {
        None => Ok(usual),
        Some(given) if (1..=99).contains(given.get_ref()) => Ok(*given.get_ref()),
        Some(given) => {
            let why = format!(
                "{} is no percentage between 1 and 99: a guard cannot be switched off, and 0 would hold every cycle",
                given.get_ref()
            );
            Err(file.refuse(Some(given.span()), &why))
        }
    };
    let least = |given: &Option<Spanned<u64>>, usual: u64| match given {
        None => Ok(usual),
        Some(given) if *given.get_ref() > 0 => Ok(*given.get_ref()),
        Some(given) => Err(file.refuse(Some(given.span()), &"it must be at least 1")),
    };
    let caches = match &raw.caches {
        None => usual.caches.clone(),
        Some(given) => given
            .iter()
            .map(|pattern| cache(file, pattern))
            .collect::<Result<_, _>>()?,
    };
    Ok(Thresholds {
        files_percent: percent(&raw.files_percent, usual.files_percent)?,
        files_least: least(&raw.files_least, usual.files_least)?,
        bytes_percent: percent(&raw.bytes_percent, usual.bytes_percent)?,
        bytes_least: least(&raw.bytes_least, usual.bytes_least)?,
        caches,
    })
}

/// A directory that does not count; never everything.
fn cache(file: &File<'_>, pattern: &Spanned<String>) -> Result<String, CommandError> {
    let text = pattern.get_ref();
    let parts: Vec<&str> = text.split('/').collect();
    let is_one = |part: &&str| !part.is_empty() && *part != "." && *part != "..";
    let are_all = parts.iter().all(is_one);
    if are_all && parts.iter().any(|part| *part != "*") {
        return Ok(text.clone());
    }
    let why = format!(
        "`{}` names no directory: write a name (\"cache\"), or a path from the root of the dataset on (\"sites/*/cache\")",
        escape(text.as_bytes())
    );
    Err(file.refuse(Some(pattern.span()), &why))
}

#[cfg(test)]
mod tests {
    use super::super::ReceiverConfig;
    use super::*;

    #[test]
    fn datasets_differ_from_what_is_usual_in_what_they_say() {
        let text = "[guard]\nfiles_percent = 10\ncaches = [\"var/cache\"]\n\
                    [guard.dataset.site]\nbytes_percent = 80\nfiles_least = 3\n";
        let guards = ReceiverConfig::parse(text, "f").expect("valid").guards;
        let usual = Thresholds {
            files_percent: 10,
            caches: vec!["var/cache".to_owned()],
            ..Thresholds::default()
        };
        let site = Thresholds {
            bytes_percent: 80,
            files_least: 3,
            ..usual.clone()
        };
        assert_eq!(*guards.of(&DatasetName::fit(b"site")), site);
        assert_eq!(*guards.of(&DatasetName::fit(b"other")), usual);
    }

    #[test]
    fn no_guard_can_be_switched_off() {
        for (text, at) in [
            ("[guard]\nfiles_percent = 0\n", "f:2:17:"),
            ("[guard]\nbytes_percent = 100\n", "f:2:17:"),
            ("[guard]\nfiles_least = 0\n", "f:2:15:"),
            ("[guard]\ncaches = [\"*\"]\n", "f:2:11:"),
            ("[guard]\ncaches = [\"/cache\"]\n", "f:2:11:"),
            ("[guard]\ncaches = [\"a/../b\"]\n", "f:2:11:"),
            ("[guard.dataset.\"a/b\"]\nfiles_least = 2\n", "f:1:16:"),
            ("[guard]\nfiles_percnt = 3\n", "f:2:1:"),
        ] {
            let error = ReceiverConfig::parse(text, "f").expect_err(text);
            assert!(error.message.starts_with(at), "{text}: {}", error.message);
        }
    }
}
