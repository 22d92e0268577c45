//! How each root is watched.

use super::fanotify::Group;
use super::standing::Standing;
use super::{Method, Root, inotify};

/// A root and how it is watched.
pub(super) struct Watched {
    pub(super) root: Root,
    pub(super) state: State,
}

/// What became of a root.
pub(super) enum State {
    /// Its file systems carry a mark.
    Fanotify(Standing),
    /// Its directories carry watches.
    Inotify {
        standing: Standing,
        tree: inotify::Tree,
        why_not_fanotify: String,
    },
    /// It is not watched. With a standing, trying again is of no use until that is another.
    Unwatched {
        standing: Option<Standing>,
        why: String,
    },
}

impl State {
    /// What was armed, or could not be.
    pub(super) fn standing(&self) -> Option<&Standing> {
        match self {
            Self::Fanotify(standing) | Self::Inotify { standing, .. } => Some(standing),
            Self::Unwatched { standing, .. } => standing.as_ref(),
        }
    }

    /// Whether what carries marks still has them.
    pub(super) fn is_armed(&self, group: &Result<Group, String>) -> bool {
        match (self, group) {
            (Self::Fanotify(standing), Ok(group)) => group.is_armed(standing),
            _ => true,
        }
    }

    pub(super) fn method(&self) -> Method {
        match self {
            Self::Fanotify(_) => Method::Fanotify,
            Self::Inotify {
                why_not_fanotify, ..
            } => Method::Inotify {
                why_not_fanotify: why_not_fanotify.clone(),
            },
            Self::Unwatched { why, .. } => Method::Unwatched { why: why.clone() },
        }
    }

    /// Why a tree in this state, just reached, has a gap: that it is not watched, or else what was different.
    pub(super) fn gap_reason(&self, difference: &str) -> String {
        match self {
            Self::Unwatched { why, .. } => format!("it is not watched: {why}"),
            Self::Fanotify(_) | Self::Inotify { .. } => difference.to_owned(),
        }
    }
}
