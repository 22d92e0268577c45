//! What the mains of a store take of their quotas, for people on the spare.

use std::collections::BTreeSet;
use std::num::NonZeroU64;

use serde_json::{Value, json};
use understudy_protocol::MainName;
use understudy_receiver::quota::{Quota, Quotas, Used, used};
use understudy_receiver::{ReceiverError, Store};

use crate::words;

/// A main, what it may take and what it takes.
pub(super) struct Share {
    main: MainName,
    quota: Quota,
    used: Used,
}

/// Those of all mains that have datasets; none where there is no quota.
pub(super) fn shares(store: &Store, quotas: &Quotas) -> Result<Vec<Share>, ReceiverError> {
    if quotas.are_none() {
        return Ok(Vec::new());
    }
    let owners = store.owners()?;
    let mains: BTreeSet<MainName> = owners.into_values().flatten().collect();
    let share = |main: MainName| {
        let (quota, used) = (quotas.of(&main), used(store, &main)?);
        Ok(Share { main, quota, used })
    };
    mains.into_iter().map(share).collect()
}

pub(super) fn lines(shares: &[Share]) -> Vec<String> {
    if shares.is_empty() {
        return Vec::new();
    }
    let or_none = |quota: Option<NonZeroU64>, shown: fn(u64) -> String| {
        quota.map_or_else(|| "no limit".to_owned(), |most| shown(most.get()))
    };
    let row = |share: &Share| {
        vec![
            share.main.to_string(),
            words::size(share.used.bytes),
            or_none(share.quota.bytes, words::size),
            words::count(share.used.files),
            or_none(share.quota.files, words::count),
        ]
    };
    let rows: Vec<Vec<String>> = shares.iter().map(row).collect();
    let head = ["MAIN", "TAKES", "OF", "FILES", "OF"];
    let mut lines = vec![String::new()];
    lines.extend(words::table(&head, &[1, 2, 3, 4], &rows));
    lines
}

pub(super) fn values(shares: &[Share]) -> Value {
    let value = |share: &Share| {
        json!({
            "main": share.main.as_str(),
            "bytes": share.used.bytes,
            "files": share.used.files,
            "quota_bytes": share.quota.bytes,
            "quota_files": share.quota.files,
        })
    };
    shares.iter().map(value).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_told_where_there_is_one() {
        let share = Share {
            main: MainName::new("web").expect("name"),
            quota: Quota {
                bytes: NonZeroU64::new(2_000_000_000_000),
                files: None,
            },
            used: Used {
                bytes: 1_500_000_000,
                files: 12,
            },
        };
        let told = lines(std::slice::from_ref(&share)).join("\n");
        for words in ["web", "1.5 GB", "2.0 TB", "12", "no limit"] {
            assert!(told.contains(words), "{told}");
        }
        assert_eq!(values(&[share])[0]["quota_files"], Value::Null);
        assert!(lines(&[]).is_empty());
    }
}
