//! The part `[retention]` of the receiver's configuration.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::time::Duration;

use serde::Deserialize;
use toml::Spanned;
use understudy_protocol::DatasetName;
use understudy_receiver::retention::{Policies, Policy};

use super::File;
use crate::exit::CommandError;

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawRetention {
    all: Option<Spanned<String>>,
    hourly: Option<Spanned<String>>,
    daily: Option<Spanned<String>>,
    monthly: Option<Spanned<String>>,
    minimum_age: Option<Spanned<String>>,
    newest: Option<Spanned<u32>>,
    grace: Option<Spanned<String>>,
    compress_after: Option<Spanned<String>>,
    #[serde(default)]
    dataset: BTreeMap<Spanned<String>, RawPolicy>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPolicy {
    all: Option<Spanned<String>>,
    hourly: Option<Spanned<String>>,
    daily: Option<Spanned<String>>,
    monthly: Option<Spanned<String>>,
    minimum_age: Option<Spanned<String>>,
    newest: Option<Spanned<u32>>,
    grace: Option<Spanned<String>>,
    compress_after: Option<Spanned<String>>,
}

/// Checks the part; what a dataset does not say is as for all.
pub(super) fn policies(file: &File<'_>, raw: RawRetention) -> Result<Policies, CommandError> {
    let common = RawPolicy {
        all: raw.all,
        hourly: raw.hourly,
        daily: raw.daily,
        monthly: raw.monthly,
        minimum_age: raw.minimum_age,
        newest: raw.newest,
        grace: raw.grace,
        compress_after: raw.compress_after,
    };
    let common = policy(file, &common, &Policy::default())?;
    let mut datasets = BTreeMap::new();
    for (key, raw) in raw.dataset {
        let name = DatasetName::new(key.get_ref().as_str())
            .map_err(|error| file.refuse(Some(key.span()), &error))?;
        datasets.insert(name, policy(file, &raw, &common)?);
    }
    Ok(Policies { common, datasets })
}

fn policy(file: &File<'_>, raw: &RawPolicy, common: &Policy) -> Result<Policy, CommandError> {
    let duration = |given: &Option<Spanned<String>>, common: Duration| {
        given
            .as_ref()
            .map_or(Ok(common), |given| file.duration(given))
    };
    // How long a rule keeps, or that there is none.
    let rule = |given: &Option<Spanned<String>>, common: Duration| match given {
        Some(given) if given.get_ref() == "off" => Ok(Duration::ZERO),
        given => duration(given, common),
    };
    let newest = match &raw.newest {
        None => common.newest,
        Some(newest) => NonZeroU32::new(*newest.get_ref()).ok_or_else(|| {
            let why =
                "`newest` must be at least 1: a main that sends nothing would age out everything";
            file.refuse(Some(newest.span()), &why)
        })?,
    };
    Ok(Policy {
        all: duration(&raw.all, common.all)?,
        hourly: rule(&raw.hourly, common.hourly)?,
        daily: rule(&raw.daily, common.daily)?,
        monthly: rule(&raw.monthly, common.monthly)?,
        minimum_age: duration(&raw.minimum_age, common.minimum_age)?,
        newest,
        grace: duration(&raw.grace, common.grace)?,
        compress_after: rule(&raw.compress_after, common.compress_after)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::receiver_config::ReceiverConfig;

    #[test]
    fn a_dataset_has_the_common_policy_where_it_has_none_of_its_own() {
        let text = r#"
            [retention]
            hourly = "2d"
            monthly = "off"
            newest = 5
            [retention.dataset.photos]
            hourly = "off"
            grace = "90s"
        "#;
        let policies = ReceiverConfig::parse(text, "f").expect("valid").retention;
        let common = Policy {
            hourly: Duration::from_secs(2 * 86_400),
            monthly: Duration::ZERO,
            newest: NonZeroU32::new(5).expect("not zero"),
            ..Policy::default()
        };
        assert_eq!(*policies.of(&DatasetName::fit(b"other")), common);
        let photos = Policy {
            hourly: Duration::ZERO,
            grace: Duration::from_secs(90),
            ..common
        };
        assert_eq!(*policies.of(&DatasetName::fit(b"photos")), photos);
        let nothing = ReceiverConfig::parse("", "f").expect("valid");
        assert_eq!(nothing.retention, Policies::default());
    }

    #[test]
    fn what_would_keep_nothing_is_refused_where_it_stands() {
        for (text, words) in [
            ("newest = 0", ["f:2:10:", "at least 1"]),
            ("minimum_age = \"0s\"", ["f:2:15:", "less than a second"]),
            ("all = \"off\"", ["f:2:7:", "duration"]),
            ("grace = \"-1d\"", ["f:2:9:", "less than a second"]),
            ("hourley = \"1d\"", ["f:2:1:", "`hourly`"]),
            (
                "[retention.dataset.Site]\nall = \"1h\"",
                ["f:2:20:", "`Site`"],
            ),
        ] {
            let text = format!("[retention]\n{text}\n");
            let message = ReceiverConfig::parse(&text, "f").expect_err(&text).message;
            assert!(words.iter().all(|word| message.contains(word)), "{message}");
        }
    }
}
