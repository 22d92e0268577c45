//! The receiver's configuration: a TOML file, checked whole before anything starts.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::exit::CommandError;

const KEYS: [&str; 2] = ["store", "listen"];

/// What the file says.
#[derive(Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub(crate) struct ReceiverConfig {
    /// The directory that holds the datasets.
    pub(crate) store: Option<PathBuf>,
    /// Where to listen.
    pub(crate) listen: Option<String>,
}

impl ReceiverConfig {
    /// Reads and checks the file.
    pub(crate) fn load(path: &Path) -> Result<Self, CommandError> {
        let text = std::fs::read_to_string(path).map_err(|error| {
            let message = format!(
                "cannot read the configuration `{}`: {error}",
                path.display()
            );
            CommandError::usage(
                message,
                "write it (see `understudy receiver --help`), or use --store DIR",
            )
        })?;
        Self::parse(&text, &path.display().to_string())
    }

    fn parse(text: &str, file: &str) -> Result<Self, CommandError> {
        let wrong = |message: String| {
            CommandError::usage(
                message,
                "`understudy receiver --help` shows a configuration",
            )
        };
        let config: Self = toml::from_str(text).map_err(|error| {
            let offset = error.span().map_or(0, |span| span.start);
            let (line, column) = position(text, offset);
            wrong(format!(
                "{file}:{line}:{column}: {}{}",
                error.message(),
                suggestion(text, &error)
            ))
        })?;
        match &config.store {
            Some(store) if !store.is_absolute() => Err(wrong(format!(
                "{file}: `store` must be an absolute path, but is `{}`",
                store.display()
            ))),
            _ => Ok(config),
        }
    }
}

/// Line and column, both from 1.
fn position(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (
        before.matches('\n').count() + 1,
        before[start..].chars().count() + 1,
    )
}

/// The known key nearest to the one that is not.
fn suggestion(text: &str, error: &toml::de::Error) -> String {
    let Some(word) = error.span().and_then(|span| text.get(span)) else {
        return String::new();
    };
    let distance = |key: &&str| strsim::damerau_levenshtein(key, word);
    match KEYS.iter().min_by_key(|key| distance(key)) {
        Some(key) if (1..=2).contains(&distance(key)) => format!("; did you mean `{key}`?"),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_files_say_where() {
        let config = ReceiverConfig::parse("store = \"/srv/spare\"\n", "f").expect("valid");
        assert_eq!(
            config,
            ReceiverConfig {
                store: Some("/srv/spare".into()),
                listen: None
            }
        );
        for (text, words) in [
            (
                "store = \"/s\"\nlissen = \"x\"\n",
                &["f:2:1:", "lissen", "`listen`"][..],
            ),
            ("store = 7\n", &["f:1:9:"]),
            ("store = \"spare\"\n", &["absolute"]),
            ("store = \"\n", &["f:1:"]),
        ] {
            let message = ReceiverConfig::parse(text, "f").expect_err(text).message;
            assert!(words.iter().all(|word| message.contains(word)), "{message}");
        }
    }
}
