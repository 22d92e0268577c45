//! Patterns in gitignore syntax for what a dataset leaves out.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use ignore::gitignore::{Gitignore, GitignoreBuilder};
use understudy_protocol::RelPath;

/// A set of patterns; later ones win, `!` takes back.
#[derive(Debug, Clone)]
pub struct Excludes {
    patterns: Option<Gitignore>,
}

/// A pattern that cannot be understood.
#[derive(Debug, thiserror::Error)]
#[error("the exclude pattern `{pattern}` cannot be understood: {reason}")]
pub struct InvalidPattern {
    pattern: String,
    reason: String,
}

impl Excludes {
    /// Leaves nothing out.
    pub fn none() -> Self {
        Self { patterns: None }
    }

    /// Parses patterns in gitignore syntax, relative to the dataset's root.
    pub fn new<S: AsRef<str>>(patterns: &[S]) -> Result<Self, InvalidPattern> {
        if patterns.is_empty() {
            return Ok(Self::none());
        }
        let mut builder = GitignoreBuilder::new("");
        for pattern in patterns {
            let pattern = pattern.as_ref();
            let invalid = |reason: ignore::Error| InvalidPattern {
                pattern: pattern.to_owned(),
                reason: reason.to_string(),
            };
            builder.add_line(None, pattern).map_err(invalid)?;
        }
        let patterns = builder.build().map_err(|error| InvalidPattern {
            pattern: String::new(),
            reason: error.to_string(),
        })?;
        Ok(Self {
            patterns: Some(patterns),
        })
    }

    /// Whether there are no patterns at all.
    pub fn is_empty(&self) -> bool {
        self.patterns.is_none()
    }

    /// Whether this path is left out; its parents are not looked at, a walk never enters an excluded one.
    pub fn excludes(&self, path: &RelPath, kind: crate::Kind) -> bool {
        let Some(patterns) = &self.patterns else {
            return false;
        };
        let path = Path::new(OsStr::from_bytes(path.as_bytes()));
        patterns
            .matched(path, kind == crate::Kind::Directory)
            .is_ignore()
    }

    /// Whether a directory, or one above it, is left out.
    pub fn covers(&self, directory: &RelPath) -> bool {
        let Some(patterns) = &self.patterns else {
            return false;
        };
        let path = Path::new(OsStr::from_bytes(directory.as_bytes()));
        path.ancestors()
            .filter(|above| !matches!(above.as_os_str().as_bytes(), b"" | b"."))
            .any(|above| patterns.matched(above, true).is_ignore())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Kind;

    #[test]
    fn patterns_mean_what_they_mean_to_git() {
        let excludes = Excludes::new(&["*.tmp", "/cache/", "!keep.tmp"]).expect("patterns");
        let excluded =
            |path: &[u8], kind| excludes.excludes(&RelPath::new(path).expect("path"), kind);
        assert!(excluded(b"a/b.tmp", Kind::File));
        assert!(!excluded(b"a/keep.tmp", Kind::File));
        assert!(excluded(b"cache", Kind::Directory));
        assert!(!excluded(b"cache", Kind::File));
        assert!(!excluded(b"a/cache", Kind::Directory));
        assert!(excluded(b"\xff.tmp", Kind::File));
        assert!(Excludes::new(&["a{".to_owned()]).is_err());
        let covers = |path: &[u8]| excludes.covers(&RelPath::new(path).expect("path"));
        assert!(covers(b"cache") && covers(b"cache/deep/er") && covers(b"a/b.tmp/c"));
        assert!(!covers(b"a/cache") && !excludes.covers(&RelPath::root()));
    }
}
