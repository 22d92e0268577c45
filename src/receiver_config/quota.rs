//! The part `[quota]` of the receiver's configuration.

use std::collections::BTreeMap;
use std::num::NonZeroU64;

use serde::Deserialize;
use toml::Spanned;
use understudy_protocol::{MainName, escape, shown};
use understudy_receiver::quota::{Quota, Quotas};

use super::File;
use crate::exit::CommandError;

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawQuotas {
    bytes: Option<Spanned<String>>,
    files: Option<Spanned<u64>>,
    #[serde(default)]
    main: BTreeMap<Spanned<String>, RawQuota>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawQuota {
    bytes: Option<Spanned<String>>,
    files: Option<Spanned<u64>>,
}

/// Checks the part; what a main does not say is as for all.
pub(super) fn quotas(file: &File<'_>, raw: RawQuotas) -> Result<Quotas, CommandError> {
    let common = quota(file, raw.bytes.as_ref(), raw.files.as_ref())?;
    let mut mains = BTreeMap::new();
    for (key, one) in raw.main {
        let name = MainName::new(key.get_ref().as_str())
            .map_err(|error| file.refuse(Some(key.span()), &error))?;
        mains.insert(name, quota(file, one.bytes.as_ref(), one.files.as_ref())?);
    }
    Ok(Quotas { common, mains })
}

fn quota(
    file: &File<'_>,
    bytes: Option<&Spanned<String>>,
    files: Option<&Spanned<u64>>,
) -> Result<Quota, CommandError> {
    let nothing = "a quota of nothing would refuse everything; leave it out for no limit";
    let bytes = bytes.map(|given| {
        let bytes = shown::parse_size(given.get_ref()).ok_or_else(|| {
            let shown = escape(given.get_ref().as_bytes());
            let why = format!("`{shown}` is no size: write for instance \"500GB\" or \"2TiB\"");
            file.refuse(Some(given.span()), &why)
        })?;
        NonZeroU64::new(bytes).ok_or_else(|| file.refuse(Some(given.span()), &nothing))
    });
    let files = files.map(|given| {
        NonZeroU64::new(*given.get_ref()).ok_or_else(|| file.refuse(Some(given.span()), &nothing))
    });
    Ok(Quota {
        bytes: bytes.transpose()?,
        files: files.transpose()?,
    })
}

#[cfg(test)]
mod tests {
    use super::super::ReceiverConfig;
    use super::*;

    #[test]
    fn quotas_are_read_as_they_are_written() {
        let text = "[quota]\nbytes = \"2TB\"\nfiles = 20000000\n[quota.main.web]\nfiles = 5\n[quota.main.db]\nbytes = \"1GiB\"\n";
        let quotas = ReceiverConfig::parse(text, "f").expect("valid").quotas;
        let of = |name: &str| {
            let quota = quotas.of(&MainName::new(name).expect("name"));
            (
                quota.bytes.map(NonZeroU64::get),
                quota.files.map(NonZeroU64::get),
            )
        };
        assert_eq!(of("other"), (Some(2_000_000_000_000), Some(20_000_000)));
        assert_eq!(of("web"), (Some(2_000_000_000_000), Some(5)));
        assert_eq!(of("db"), (Some(1 << 30), Some(20_000_000)));
        let none = ReceiverConfig::parse("", "f").expect("valid").quotas;
        assert_eq!(none, Quotas::default());
    }

    #[test]
    fn wrong_quotas_say_where_and_zero_is_wrong() {
        for (text, at) in [
            ("[quota]\nbytes = \"0\"\n", "f:2:9:"),
            ("[quota]\nbytes = \"0TB\"\n", "f:2:9:"),
            ("[quota]\nfiles = 0\n", "f:2:9:"),
            ("[quota]\nfiles = -1\n", "f:2:"),
            ("[quota]\nbytes = \"much\"\n", "f:2:9:"),
            ("[quota]\nbytse = \"1TB\"\n", "f:2:1:"),
            ("[quota.main.Web]\nfiles = 5\n", "f:1:13:"),
            ("[quota.main.web]\nfiles = 0\n", "f:2:9:"),
        ] {
            let error = ReceiverConfig::parse(text, "f").expect_err(text);
            assert!(error.message.starts_with(at), "{text}: {}", error.message);
        }
    }
}
