//! The part `[scrub]` of the receiver's configuration.

use std::time::Duration;

use serde::Deserialize;
use toml::Spanned;
use understudy_protocol::{escape, shown};
use understudy_receiver::scrub::{Plan, Repair};

use super::File;
use crate::exit::CommandError;

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawScrub {
    every: Option<Spanned<String>>,
    least: Option<Spanned<String>>,
    most: Option<Spanned<String>>,
    #[serde(default)]
    repair: bool,
}

/// Checks the part.
pub(super) fn plan(file: &File<'_>, raw: &RawScrub) -> Result<Plan, CommandError> {
    let usual = Plan::default();
    let rate = |given: &Option<Spanned<String>>, usual: u64| {
        match given {
        None => Ok(usual),
        Some(given) => parse_rate(given.get_ref()).ok_or_else(|| {
            let why = format!(
                "`{}` is no rate: write bytes per second with their unit, for instance \"500kB\" or \"20MB\"",
                escape(given.get_ref().as_bytes())
            );
            file.refuse(Some(given.span()), &why)
        }),
    }
    };
    let every = match &raw.every {
        None => usual.every,
        Some(every) if every.get_ref() == "off" => Duration::ZERO,
        Some(every) => file.duration(every)?,
    };
    let plan = Plan {
        every,
        least_bytes: rate(&raw.least, usual.least_bytes)?,
        most_bytes: rate(&raw.most, usual.most_bytes)?,
        repair: if raw.repair {
            Repair::Always
        } else {
            Repair::Never
        },
    };
    if plan.least_bytes > plan.most_bytes {
        let span = raw.most.as_ref().or(raw.least.as_ref()).map(Spanned::span);
        return Err(file.refuse(span, &"`least` is more than `most`"));
    }
    Ok(plan)
}

/// Bytes per second: `500kB`, `20MB`, `1GiB`; never zero.
pub(crate) fn parse_rate(text: &str) -> Option<u64> {
    shown::parse_size(text).filter(|bytes| *bytes > 0)
}

#[cfg(test)]
mod tests {
    use super::super::ReceiverConfig;
    use super::*;

    #[test]
    fn a_plan_is_read_as_it_is_written() {
        let text = "[scrub]\nevery = \"7d\"\nleast = \"500kB\"\nmost = \"1GiB\"\nrepair = true\n";
        let plan = ReceiverConfig::parse(text, "f").expect("valid").scrub;
        let expected = Plan {
            every: Duration::from_secs(7 * 86_400),
            least_bytes: 500_000,
            most_bytes: 1 << 30,
            repair: Repair::Always,
        };
        assert_eq!(plan, expected);
        let off = ReceiverConfig::parse("[scrub]\nevery = \"off\"\n", "f").expect("valid");
        assert!(off.scrub.every.is_zero());
    }

    #[test]
    fn wrong_plans_say_where() {
        for (text, at) in [
            ("[scrub]\nevery = \"0s\"\n", "f:2:9:"),
            ("[scrub]\nleast = \"0MB\"\n", "f:2:9:"),
            ("[scrub]\nmost = \"fast\"\n", "f:2:8:"),
            ("[scrub]\nmost = \"10kB\"\n", "f:2:8:"),
            ("[scrub]\nevrey = \"7d\"\n", "f:2:1:"),
        ] {
            let error = ReceiverConfig::parse(text, "f").expect_err(text);
            assert!(error.message.starts_with(at), "{text}: {}", error.message);
        }
    }
}
