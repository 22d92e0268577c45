//! Globs for what is picked out of a tree, each anchored at its root.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use ignore::gitignore::{Gitignore, GitignoreBuilder};
use understudy_protocol::RelPath;

use crate::Kind;

/// One glob: `*` and `?` stop at `/`, `**` does not, a `/` at the end means directories only.
#[derive(Debug, Clone)]
pub struct Glob {
    pattern: Gitignore,
}

/// A glob that cannot be understood.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the pattern `{pattern}` cannot be understood: {reason}")]
pub struct InvalidGlob {
    pattern: String,
    reason: String,
}

impl Glob {
    /// Parses a glob; a `/` at its beginning changes nothing.
    pub fn new(pattern: &str) -> Result<Self, InvalidGlob> {
        let invalid = |reason: String| InvalidGlob {
            pattern: pattern.to_owned(),
            reason,
        };
        let relative = pattern.trim_start_matches("./").trim_start_matches('/');
        if relative.is_empty() {
            return Err(invalid(
                "it names nothing below the root; `**` means everything".to_owned(),
            ));
        }
        // The slash anchors it, and keeps `!` and `#` from meaning what they mean in a list of excludes.
        let mut builder = GitignoreBuilder::new("");
        builder
            .add_line(None, &format!("/{relative}"))
            .map_err(|error| invalid(error.to_string()))?;
        let pattern = builder
            .build()
            .map_err(|error| invalid(error.to_string()))?;
        Ok(Self { pattern })
    }

    /// Whether the path itself matches; what is below a match need not.
    pub fn matches(&self, path: &RelPath, kind: Kind) -> bool {
        let path = Path::new(OsStr::from_bytes(path.as_bytes()));
        self.pattern
            .matched(path, kind == Kind::Directory)
            .is_ignore()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs_are_anchored_and_mean_nothing_else() {
        let matches = |glob: &str, path: &[u8], kind| {
            let path = RelPath::new(path).expect("path");
            Glob::new(glob).expect("glob").matches(&path, kind)
        };
        assert!(matches("a.jpg", b"a.jpg", Kind::File));
        assert!(!matches("a.jpg", b"b/a.jpg", Kind::File));
        assert!(matches("**/a.jpg", b"b/c/a.jpg", Kind::File));
        assert!(matches("**/a.jpg", b"a.jpg", Kind::File));
        assert!(matches("/b/*.jpg", b"b/a.jpg", Kind::File));
        assert!(!matches("b/*.jpg", b"b/c/a.jpg", Kind::File));
        assert!(matches("./b/", b"b", Kind::Directory));
        assert!(!matches("b/", b"b", Kind::File));
        assert!(matches("!x", b"!x", Kind::File) && matches("#x", b"#x", Kind::File));
        assert!(matches("*", b"\xff", Kind::File));
        for wrong in ["", "/", "./", "a{"] {
            assert!(Glob::new(wrong).is_err(), "{wrong}");
        }
    }
}
