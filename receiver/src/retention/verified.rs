//! How the last verification of a dataset ended: a small file, so that it can be written whatever the catalog is like.

use understudy_tree::Directory;
use understudy_tree::durable::{self, Durability};

use crate::error::ReceiverError;
use crate::names;

const LIMIT_BYTES: u64 = 4096;

/// The end of a verification.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// By the receiver's clock.
    pub(crate) seconds: i64,
    pub(crate) findings: u64,
}

/// Notes it, durably.
pub(crate) fn note(control: &Directory, verdict: Verdict) -> Result<(), ReceiverError> {
    let Verdict { seconds, findings } = verdict;
    let text = format!("seconds: {seconds}\nfindings: {findings}\n");
    Ok(durable::replace(
        control,
        &names::VERIFIED,
        text.as_bytes(),
        Durability::Now,
    )?)
}

/// The last one; `None` if there was none. What cannot be understood counts as a finding.
pub(crate) fn read(control: &Directory) -> Result<Option<Verdict>, ReceiverError> {
    let Some(content) = durable::read(control, &names::VERIFIED, LIMIT_BYTES)? else {
        return Ok(None);
    };
    let text = String::from_utf8_lossy(&content);
    let value = |key: &str| text.lines().find_map(|line| line.strip_prefix(key));
    let seconds = value("seconds: ").and_then(|text| text.parse().ok());
    let findings = value("findings: ").and_then(|text| text.parse().ok());
    Ok(Some(Verdict {
        seconds: seconds.unwrap_or(0),
        findings: findings.unwrap_or(1),
    }))
}

#[cfg(test)]
mod tests {
    use understudy_tree::Mounts;

    use super::*;

    #[test]
    fn a_verdict_is_read_as_it_was_written_and_what_is_torn_counts_as_bad() {
        let scratch = tempfile::tempdir().expect("tempdir");
        let control = Directory::open(scratch.path(), Mounts::Cross).expect("open");
        assert_eq!(read(&control).expect("read"), None);
        let verdict = Verdict {
            seconds: 77,
            findings: 0,
        };
        note(&control, verdict).expect("note");
        assert_eq!(read(&control).expect("read"), Some(verdict));
        durable::replace(&control, &names::VERIFIED, b"seconds: 7", Durability::Later)
            .expect("tear");
        assert_eq!(read(&control).expect("read").expect("there").findings, 1);
    }
}
