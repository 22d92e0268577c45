//! `specials`, at the top of the receiver's configuration and for single datasets.

use std::collections::BTreeMap;

use serde::Deserialize;
use toml::Spanned;
use understudy_protocol::DatasetName;
use understudy_receiver::specials::Rules;
use understudy_tree::Specials;

use super::File;
use super::promotion::RawDataset;
use crate::exit::CommandError;

/// What becomes of set-user-id bits, file capabilities and device nodes.
#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Word {
    Materialise,
    Record,
}

fn specials(word: Word) -> Specials {
    match word {
        Word::Materialise => Specials::Materialise,
        Word::Record => Specials::Record,
    }
}

/// Checks both.
pub(super) fn rules(
    file: &File<'_>,
    common: Option<Word>,
    raw: &BTreeMap<Spanned<String>, RawDataset>,
) -> Result<Rules, CommandError> {
    let mut datasets = BTreeMap::new();
    for (key, dataset) in raw {
        let name = DatasetName::new(key.get_ref().as_str())
            .map_err(|error| file.refuse(Some(key.span()), &error))?;
        if let Some(word) = dataset.specials {
            datasets.insert(name, specials(word));
        }
    }
    Ok(Rules {
        common: common.map(specials).unwrap_or_default(),
        datasets,
    })
}

#[cfg(test)]
mod tests {
    use super::super::ReceiverConfig;
    use super::*;

    #[test]
    fn specials_are_read_as_they_are_written() {
        let text = "specials = \"record\"\n[dataset.photos]\nspecials = \"materialise\"\n";
        let rules = ReceiverConfig::parse(text, "f").expect("valid").specials;
        let name = |text| DatasetName::new(text).expect("name");
        assert_eq!(rules.of(&name("photos")), Specials::Materialise);
        assert_eq!(rules.of(&name("other")), Specials::Record);
        assert_eq!(
            ReceiverConfig::parse("", "f").expect("valid").specials,
            Rules::default()
        );
        for (text, words) in [
            ("specials = \"no\"\n", ["f:1:12:", "`record`"]),
            (
                "[dataset.Photos]\nspecials = \"record\"\n",
                ["f:1:10:", "`Photos`"],
            ),
        ] {
            let message = ReceiverConfig::parse(text, "f").expect_err(text).message;
            assert!(words.iter().all(|word| message.contains(word)), "{message}");
        }
    }
}
