//! `drift`, at the top of the receiver's configuration and for single datasets.

use std::collections::BTreeMap;

use serde::Deserialize;
use toml::Spanned;
use understudy_protocol::DatasetName;
use understudy_receiver::drift::{DriftRules, OnDrift};

use super::File;
use super::promotion::RawDataset;
use crate::exit::CommandError;

/// What becomes of a dataset into whose live tree somebody wrote.
#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Word {
    KeepAndHeal,
    Halt,
}

fn on_drift(word: Word) -> OnDrift {
    match word {
        Word::KeepAndHeal => OnDrift::KeepAndHeal,
        Word::Halt => OnDrift::Halt,
    }
}

/// Checks both.
pub(super) fn rules(
    file: &File<'_>,
    common: Option<Word>,
    raw: &BTreeMap<Spanned<String>, RawDataset>,
) -> Result<DriftRules, CommandError> {
    let mut datasets = BTreeMap::new();
    for (key, dataset) in raw {
        let name = DatasetName::new(key.get_ref().as_str())
            .map_err(|error| file.refuse(Some(key.span()), &error))?;
        if let Some(word) = dataset.drift {
            datasets.insert(name, on_drift(word));
        }
    }
    Ok(DriftRules {
        common: common.map(on_drift).unwrap_or_default(),
        datasets,
    })
}

#[cfg(test)]
mod tests {
    use super::super::ReceiverConfig;
    use super::*;

    #[test]
    fn what_is_done_about_drift_is_read_as_it_is_written() {
        let text = "drift = \"halt\"\n[dataset.photos]\ndrift = \"keep-and-heal\"\n";
        let rules = ReceiverConfig::parse(text, "f").expect("valid").drift;
        let name = |text| DatasetName::new(text).expect("name");
        assert_eq!(rules.of(&name("photos")), OnDrift::KeepAndHeal);
        assert_eq!(rules.of(&name("other")), OnDrift::Halt);
        let usual = ReceiverConfig::parse("", "f").expect("valid").drift;
        assert_eq!(usual.of(&name("photos")), OnDrift::KeepAndHeal);
        let wrong = ReceiverConfig::parse("drift = \"stop\"\n", "f").expect_err("no such word");
        assert!(
            wrong.message.contains("f:1:9:") && wrong.message.contains("`halt`"),
            "{}",
            wrong.message
        );
    }
}
