//! Finding versions of files by a pattern of their paths.

use understudy_protocol::message::{Find, Version};
use understudy_protocol::{DirectoryId, Name, RelPath};
use understudy_tree::{Excludes, Kind};

use super::walk::{Walk, Wanted};
use crate::catalog::Catalog;
use crate::error::ReceiverError;
use crate::names;

/// Tells every version of the files that match, of those in one of the snapshots that are asked for.
pub(super) fn versions(
    catalog: &Catalog,
    head: u64,
    request: &Find,
    mut tell: impl FnMut(Version) -> Result<(), ReceiverError>,
) -> Result<(), ReceiverError> {
    let pattern = Pattern::new(&request.pattern)?;
    let (first, last) = (request.first.unwrap_or(0), request.last.unwrap_or(head));
    let mut files = Walk::new(catalog, DirectoryId::FILES, RelPath::root(), (1, head));
    let lead = pattern.lead.first();
    if let Some(name) = lead {
        files = files.only(name.clone());
    }
    let in_databases = lead.is_none_or(|name| *name == *names::DATABASES);
    let databases = in_databases.then(|| Walk::of_databases(catalog, (1, head)));
    for walk in [files].into_iter().chain(databases) {
        versions_in(walk, &pattern, (first, last, head), &mut tell)?;
    }
    Ok(())
}

/// Tells those that a walk meets.
fn versions_in(
    mut walk: Walk<'_>,
    pattern: &Pattern,
    (first, last, head): (u64, u64, u64),
    tell: &mut impl FnMut(Version) -> Result<(), ReceiverError>,
) -> Result<(), ReceiverError> {
    // The depth of a directory that matches: everything below it does.
    let mut covered: Option<usize> = None;
    while let Some(seen) = walk.next()? {
        covered = covered.filter(|&depth| depth < seen.depth);
        if seen.first > last || seen.last < first {
            continue;
        }
        if seen.entry.directory_id().is_some() {
            if covered.is_none() && pattern.matches(&seen.path, Kind::Directory) {
                covered = Some(seen.depth);
            }
            let next = pattern.lead.get(seen.depth + 1);
            walk.enter(&seen, next.cloned().map_or(Wanted::All, Wanted::Only))?;
        } else if seen.entry.content().is_some()
            && (covered.is_some() || pattern.matches(&seen.path, Kind::File))
        {
            tell(Version {
                path: seen.path,
                entry: seen.entry,
                since: seen.first,
                until: (seen.last < head).then_some(seen.last + 1),
            })?;
        }
    }
    Ok(())
}

/// A line of `.gitignore`.
struct Pattern {
    patterns: Excludes,
    /// Names that every path which matches begins with.
    lead: Vec<Name>,
}

impl Pattern {
    fn new(text: &str) -> Result<Self, ReceiverError> {
        let refused = |why: &str| {
            let shown = understudy_protocol::escape(text.as_bytes());
            ReceiverError::NotFound(format!("the pattern `{shown}` finds nothing: {why}"))
        };
        if text.trim().is_empty() {
            return Err(refused("it is empty"));
        }
        if text.starts_with(['!', '#']) {
            return Err(refused("write `\\` before its first character"));
        }
        let patterns = Excludes::new(&[text]).map_err(|error| refused(&error.to_string()))?;
        Ok(Self {
            patterns,
            lead: lead(text),
        })
    }

    fn matches(&self, path: &RelPath, kind: Kind) -> bool {
        self.patterns.excludes(path, kind)
    }
}

/// The plain names before the first one with a special character, if the pattern is tied to the root.
fn lead(text: &str) -> Vec<Name> {
    let text = text.strip_suffix('/').unwrap_or(text);
    if !text.contains('/') {
        return Vec::new();
    }
    let is_plain = |name: &&str| !name.contains(['*', '?', '[', ']', '{', '}', '\\', ' ']);
    let names = text.strip_prefix('/').unwrap_or(text).split('/');
    names
        .take_while(is_plain)
        .map_while(|name| Name::new(name).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_patterns_tied_to_the_root_lead_somewhere() {
        let led = |text| {
            let names = lead(text).into_iter().map(|name| name.to_string());
            names.collect::<Vec<_>>().join("/")
        };
        for (pattern, leads) in [
            ("*.txt", ""),
            ("docs", ""),
            ("docs/", ""),
            ("/docs/", "docs"),
            ("docs/2026/*.txt", "docs/2026"),
            ("/docs/a.txt", "docs/a.txt"),
            ("**/docs/a", ""),
            ("docs/**/a", "docs"),
            ("d[o]cs/a", ""),
        ] {
            assert_eq!(led(pattern), leads, "{pattern}");
        }
    }

    #[test]
    fn what_is_no_pattern_is_refused() {
        for text in ["", "  ", "!a", "#a"] {
            let found = Pattern::new(text).map(|pattern| pattern.lead);
            assert!(
                matches!(found, Err(ReceiverError::NotFound(_))),
                "{text}: {found:?}"
            );
        }
    }
}
