//! The names that a store uses for itself. `docs/storage.md` draws the picture.

use std::sync::LazyLock;

use understudy_protocol::{ContentHash, Fingerprint, Name};

fn fixed(text: &str) -> Name {
    #[expect(
        clippy::unwrap_used,
        reason = "every caller passes a literal that is a valid name"
    )]
    Name::new(text).unwrap()
}

macro_rules! names {
    ($($constant:ident = $text:literal;)+) => {
        $(pub(crate) static $constant: LazyLock<Name> = LazyLock::new(|| fixed($text));)+
    };
}

names! {
    STORE_FORMAT = "understudy.store";
    ALERTS = "understudy.alerts";
    ALERTS_LOCK = "understudy.alerts.lock";
    SPACE = "understudy.space";
    TRUST = "understudy.trust";
    LIVE = "live";
    SNAPSHOT = "SNAPSHOT";
    CONTROL = ".understudy";
    SHADOW = "shadow";
    STAGING = "staging";
    INCOMING = "incoming";
    STREAMS = "streams";
    LEDGER = "ledger";
    WEIGHT = "weight";
    LEFTOVERS = "leftovers";
    OBJECTS = "objects";
    PATCHES = "patches";
    TRASH = "trash";
    LIMBO = "limbo";
    LIMBO_FULL = "limbo.full";
    APPLYING = "applying";
    HELD = "held";
    LOCK = "lock";
    MAIN = "main";
    CATALOG = "catalog.db";
    CATALOG_LOG = "catalog.db-wal";
    LINK = "link";
    FILES = "files";
    KEPT = "kept";
    DATABASES = "databases";
    LOOKED = "looked";
    HALTED = "halted";
    REPAIRED = "repaired";
    REPAIRED_LINK = "repaired.link";
    VERIFIED = "verified";
    BALLAST = "ballast";
    FINDINGS = "findings";
    SCRUB = "scrub";
    COLD = "cold";
    COMPRESSING = "compressing";
    ASIDE = "held.staged";
    SOURCE = "source";
    ROLE = "role";
    PROMOTING = "promoting";
    PROMOTION = "promotion";
    PRESERVING = "preserving";
    PRESERVED = "preserved";
    HEARD = "heard";
    HOOKS_LOG = "hooks.log";
    ADOPTED = "adopted";
    HANDED = "handed";
    REHEARSED = "rehearsed";
    RESTORES = "restores";
    RESTORE = "restore";
    SPECIALS = "specials";
    STANDBY = "standby";
    STANDBY_LOCK = ".lock";
    STANDBY_HELD = ".held";
}

/// A digest as a name: what is staged for a held cycle.
pub(crate) fn digest(digest: Fingerprint) -> Name {
    fixed(&digest.to_string())
}

/// A content as a name.
pub(crate) fn hash(hash: ContentHash) -> Name {
    fixed(&hash.to_string())
}

/// A number as a name: directories in limbo, files in staging.
pub(crate) fn number(number: u64) -> Name {
    fixed(&number.to_string())
}
