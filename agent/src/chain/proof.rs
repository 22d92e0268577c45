//! Whether what a spare gives is what the main has sent: decided before anything is written, by the main's own signature.

use understudy_protocol::message::{Owners, Stated};
use understudy_protocol::statement::{fuzzy_digest, owners_digest};
use understudy_protocol::{
    DatasetName, Place, ProtocolError, PublicKey, SignedStatement, Snapshot, StateDigest, Statement,
};

use super::Known;
use crate::error::{AgentError, Unproven};
use crate::past::Which;

/// How far the spare's time of a snapshot may be from the main's, where a time decides which snapshot is meant.
const APART_SECONDS: u64 = 3600;

/// So many times what entries take when they are signed they take in memory, at most: short ones with many attributes do.
const MEMORY_OF_WEIGHT: u64 = 12;

/// Whose word counts in a restore.
#[derive(Debug, Clone)]
pub struct Trusted {
    /// This main's own key.
    pub own: PublicKey,
    /// Other keys that count as well: former ones of this main.
    pub others: Vec<PublicKey>,
    /// The newest snapshot that the spare has acknowledged, as far as this host knows.
    pub newest: Option<Known>,
    /// What becomes of a snapshot that cannot be proved.
    pub leniency: Leniency,
}

/// What becomes of a snapshot that cannot be proved to be what the main has sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Leniency {
    /// Nothing of it is restored.
    #[default]
    Refuse,
    /// It is restored, for somebody said so.
    Accept,
}

/// How far a snapshot was proved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Proven {
    /// Nobody asked: this host has no key.
    Unasked,
    /// Not at all, and it was restored nevertheless.
    Not {
        /// What is missing or wrong.
        reason: String,
    },
    /// It is what the main has sent.
    Signed(Evidence),
}

/// What proves a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Evidence {
    /// Who has signed it.
    pub key: PublicKey,
    /// When, in seconds since 1970 by the main's clock.
    pub signed_seconds: i64,
    /// Whether it is the newest.
    pub freshness: Freshness,
}

/// Whether a snapshot that a spare calls the newest is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freshness {
    /// Another was asked for.
    Unasked,
    /// None newer was acknowledged, as far as this host knows, and it knows of some.
    Newest,
    /// This host does not know what was acknowledged.
    Unknown,
}

/// Watches a manifest that comes in.
pub(crate) struct Gate<'a> {
    trust: Option<&'a Trusted>,
    dataset: &'a DatasetName,
    which: Which,
    number: Option<u64>,
    claim: Option<SignedStatement>,
    /// Why it is not proved, where that is accepted.
    flaw: Option<String>,
    is_open: bool,
}

impl<'a> Gate<'a> {
    /// For a manifest that was asked for by `number`, which is `which`.
    pub(crate) fn new(
        trust: Option<&'a Trusted>,
        dataset: &'a DatasetName,
        (which, number): (Which, Option<u64>),
    ) -> Self {
        Self {
            trust,
            dataset,
            which,
            number,
            claim: None,
            flaw: None,
            is_open: false,
        }
    }

    /// Takes the statement, which comes before everything else.
    pub(crate) fn state(&mut self, stated: &Stated) -> Result<(), AgentError> {
        if self.is_open {
            let unexpected = ProtocolError::Unexpected {
                got: "Stated",
                wanted: "Manifest",
            };
            return Err(unexpected.into());
        }
        if self.trust.is_some() {
            match SignedStatement::from_bytes(&stated.statement) {
                Ok(signed) => self.claim = Some(signed),
                Err(error) => self.refuse(&Unproven::Unsigned {
                    because: format!("its signature is worth nothing: {error}"),
                })?,
            }
        }
        self.open()
    }

    /// Everything else comes after the statement, if there is one.
    pub(crate) fn open(&mut self) -> Result<(), AgentError> {
        if std::mem::replace(&mut self.is_open, true) || self.flaw.is_some() {
            return Ok(());
        }
        let Some(trust) = self.trust else {
            return Ok(());
        };
        let verdict = match &self.claim {
            None => Some(unsigned(trust)),
            Some(claim) => self.judge(trust, claim),
        };
        verdict.map_or(Ok(()), |verdict| self.refuse(&verdict))
    }

    /// What speaks against a statement by itself.
    fn judge(&self, trust: &Trusted, claim: &SignedStatement) -> Option<Unproven> {
        let (key, statement) = (claim.key(), claim.statement());
        if key != trust.own && !trust.others.contains(&key) {
            return Some(Unproven::Foreign { key });
        }
        let differs = |what: String| Some(Unproven::Differs { what });
        if statement.dataset != *self.dataset {
            return differs(format!(
                "what was signed is of dataset `{}`",
                statement.dataset
            ));
        }
        if self.number.is_some_and(|number| number != statement.number) {
            return differs(format!("what was signed is snapshot {}", statement.number));
        }
        let known = trust.newest.as_ref()?;
        let is_known_meant = match self.which {
            Which::Newest => true,
            Which::At(seconds) => known.committed_seconds <= seconds,
            Which::Number(_) => false,
        };
        if is_known_meant && is_older(trust, known, claim) {
            return Some(Unproven::Older {
                shown: statement.number,
                shown_seconds: statement.signed_seconds,
                known: known.number,
                known_seconds: known.signed_seconds,
            });
        }
        None
    }

    /// No more may come than was signed, and no more than there is room for in memory where nobody has signed how much it is.
    pub(crate) fn admit(
        &mut self,
        digest: &StateDigest,
        (taken_bytes, room_bytes): (u64, u64),
    ) -> Result<(), AgentError> {
        let signed = self.sound().map(|statement| statement.weight);
        let most = signed.map_or(room_bytes, |signed| {
            room_bytes.max(signed.saturating_mul(MEMORY_OF_WEIGHT))
        });
        if taken_bytes > most {
            return Err(AgentError::Crowded { most_bytes: most });
        }
        if signed.is_some_and(|signed| digest.weight() > signed) {
            return self.refuse(&Unproven::Differs {
                what: "it has more entries, or larger ones, than were signed".to_owned(),
            });
        }
        Ok(())
    }

    /// Compares what came with what was signed.
    pub(crate) fn close(
        &mut self,
        snapshot: &Snapshot,
        digest: &StateDigest,
        (fuzzy, owners): (&mut Vec<Place>, &Owners),
    ) -> Result<Proven, AgentError> {
        self.open()?;
        let Some(trust) = self.trust else {
            return Ok(Proven::Unasked);
        };
        fuzzy.sort_unstable();
        if let Some(statement) = self.sound()
            && let Some(what) = difference(statement, snapshot, digest, (fuzzy, owners))
        {
            self.refuse(&Unproven::Differs { what })?;
        }
        if let Some(statement) = self.sound()
            && matches!(self.which, Which::At(_))
            && snapshot
                .committed_seconds
                .abs_diff(statement.signed_seconds)
                > APART_SECONDS
        {
            let (shown_seconds, signed_seconds) =
                (snapshot.committed_seconds, statement.signed_seconds);
            self.refuse(&Unproven::Moved {
                number: snapshot.position.number,
                shown_seconds,
                signed_seconds,
            })?;
        }
        match (&self.claim, &self.flaw) {
            (Some(claim), None) => Ok(Proven::Signed(Evidence {
                key: claim.key(),
                signed_seconds: claim.statement().signed_seconds,
                freshness: match (self.which, &trust.newest) {
                    (Which::Newest, Some(_)) => Freshness::Newest,
                    (Which::Newest, None) => Freshness::Unknown,
                    _ => Freshness::Unasked,
                },
            })),
            (_, flaw) => Ok(Proven::Not {
                reason: flaw.clone().unwrap_or_default(),
            }),
        }
    }

    /// Whether the names of owners that came are those that the main told.
    pub(crate) fn covers_owners(&mut self) -> Result<(), AgentError> {
        match self.sound() {
            Some(statement) if statement.owners.is_none() => self.refuse(&Unproven::Unsigned {
                because: "the names of owners that the spare tells are not signed; restore with --owners number".to_owned(),
            }),
            _ => Ok(()),
        }
    }

    /// The statement, if nothing was found wrong so far.
    fn sound(&self) -> Option<&Statement> {
        let claim = self.claim.as_ref().filter(|_| self.flaw.is_none());
        claim.map(SignedStatement::statement)
    }

    fn refuse(&mut self, verdict: &Unproven) -> Result<(), AgentError> {
        let leniency = self.trust.map_or(Leniency::Accept, |trust| trust.leniency);
        match leniency {
            Leniency::Accept => {
                self.flaw.get_or_insert_with(|| verdict.to_string());
                Ok(())
            }
            Leniency::Refuse => Err(AgentError::Unproven {
                dataset: self.dataset.clone(),
                verdict: Box::new(verdict.clone()),
            }),
        }
    }
}

fn unsigned(trust: &Trusted) -> Unproven {
    let because = match &trust.newest {
        Some(known) => format!(
            "it was made before this main signed what it sends, or its signature was taken away; snapshot {} is signed",
            known.number
        ),
        None => {
            "it was made before this main had a key, or its signature was taken away".to_owned()
        }
    };
    Unproven::Unsigned { because }
}

fn is_older(trust: &Trusted, known: &Known, claim: &SignedStatement) -> bool {
    let statement = claim.statement();
    if claim.key() != trust.own {
        // Counters of different keys tell nothing.
        return (statement.epoch, statement.number) < (known.epoch, known.number);
    }
    statement.counter < known.counter
        || statement.counter == known.counter && claim.hash() != known.hash
}

/// What of a snapshot is not what was signed.
fn difference(
    statement: &Statement,
    snapshot: &Snapshot,
    digest: &StateDigest,
    (fuzzy, owners): (&[Place], &Owners),
) -> Option<String> {
    let position = snapshot.position;
    if (statement.epoch, statement.number) != (position.epoch, position.number) {
        return Some(format!(
            "what was signed is snapshot {}, and the spare gave {}",
            statement.number, position.number
        ));
    }
    if statement.fingerprint != digest.fingerprint() {
        return Some("its entries (names, attributes, sizes or hashes of contents) are others than those that were signed".to_owned());
    }
    if statement.fuzzy != fuzzy_digest(fuzzy) {
        return Some("the spare tells other files to be torn than the main did".to_owned());
    }
    if statement
        .owners
        .is_some_and(|signed| signed != owners_digest(owners))
    {
        return Some("the spare tells other names of owners than the main did".to_owned());
    }
    None
}
