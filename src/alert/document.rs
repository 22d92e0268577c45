//! The facts of an alert as people's programs get them: one JSON object, and the same as variables.

use std::path::Path;

use serde_json::{Map, Value, json};
use understudy_protocol::{DatasetName, harmless};
use understudy_receiver::alert::Notice;

use crate::words;

/// Version of the object.
const SCHEMA: u32 = 1;

/// What it has.
const FACTS: [&str; 13] = [
    "dataset",
    "event",
    "failures",
    "host",
    "kind",
    "lag_limit_seconds",
    "lag_seconds",
    "reason",
    "schema",
    "since",
    "store",
    "text",
    "time",
];

/// The facts of one notice.
#[derive(Debug, Clone)]
pub(crate) struct Document(Map<String, Value>);

impl Document {
    /// What `notice` says about a dataset of the store at `store`.
    pub(crate) fn new(notice: &Notice, store: &Path) -> Self {
        let host = rustix::system::uname()
            .nodename()
            .to_string_lossy()
            .into_owned();
        let facts = json!({
            "schema": SCHEMA,
            "event": notice.event.as_str(),
            "kind": notice.kind.as_str(),
            "dataset": notice.dataset.as_ref().map(DatasetName::as_str),
            "text": notice.text(),
            "reason": notice.reason,
            "since": words::time(notice.since_seconds),
            "time": words::time(notice.time_seconds),
            "lag_seconds": notice.lag_seconds,
            "lag_limit_seconds": notice.lag_limit_seconds,
            "failures": notice.failures,
            "host": host,
            "store": store.to_string_lossy(),
        });
        let Value::Object(mut facts) = facts else {
            return Self(Map::new());
        };
        // Programs put it on terminals, into mails and chats.
        for fact in facts.values_mut() {
            if let Value::String(text) = fact {
                *text = harmless(text).into_owned();
            }
        }
        Self(facts)
    }

    /// A document of these facts; `None` unless each has a name that facts have, and a plain value.
    pub(super) fn of(facts: Map<String, Value>) -> Option<Self> {
        let is_fact = |(name, value): (&String, &Value)| {
            FACTS.contains(&name.as_str()) && !matches!(value, Value::Array(_) | Value::Object(_))
        };
        facts.iter().all(is_fact).then_some(Self(facts))
    }

    /// The facts.
    pub(super) fn facts(&self) -> &Map<String, Value> {
        &self.0
    }

    /// One line of JSON.
    pub(crate) fn json(&self) -> Vec<u8> {
        let mut text = Value::Object(self.0.clone()).to_string().into_bytes();
        text.push(b'\n');
        text
    }

    /// Each fact as a variable: `lag_seconds` is `UNDERSTUDY_LAG_SECONDS`. What is not known is empty.
    pub(crate) fn variables(&self) -> Vec<(String, String)> {
        let variable = |(key, value): (&String, &Value)| {
            let text = match value {
                Value::Null => String::new(),
                Value::String(text) => text.clone(),
                other => other.to_string(),
            };
            (format!("UNDERSTUDY_{}", key.to_uppercase()), text)
        };
        self.0.iter().map(variable).collect()
    }
}

#[cfg(test)]
mod tests {
    use understudy_receiver::alert::{Event, Kind};

    use super::*;

    #[test]
    fn the_runbook_names_every_kind_and_every_fact() {
        let runbook = include_str!("../../docs/runbooks/alerts.md");
        for kind in Kind::ALL {
            assert!(runbook.contains(&format!("\n### {kind}: ")), "{kind}");
            let notice = Notice {
                dataset: Some(DatasetName::fit(b"site")),
                kind,
                event: Event::Raised,
                reason: "why".to_owned(),
                since_seconds: 0,
                time_seconds: 0,
                lag_seconds: None,
                lag_limit_seconds: 1,
                failures: 0,
            };
            let document = Document::new(&notice, Path::new("/srv/spare"));
            let passed_on = Document::of(document.0.clone()).expect("facts");
            assert_eq!(passed_on.0, document.0);
            assert_eq!(passed_on.0.len(), FACTS.len());
            let variables = document.variables();
            let keys = document.0.keys();
            let names = keys.chain(variables.iter().map(|(name, _)| name));
            for name in names {
                assert!(runbook.contains(&format!("`{name}`")), "{name}");
            }
        }
        for (name, value) in [
            ("path", Value::from("/tmp")),
            ("text", Value::Array(Vec::new())),
        ] {
            let facts = Map::from_iter([(name.to_owned(), value)]);
            assert!(Document::of(facts).is_none(), "{name}");
        }
        for event in [Event::Raised, Event::Repeated, Event::Over] {
            assert!(runbook.contains(&format!("`{}`", event.as_str())));
        }
    }
}
