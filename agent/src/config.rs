//! The agent's configuration: a TOML file that is checked as a whole before anything runs.
//!
//! Every error names file, line and column. What is unknown is refused, not ignored.

use std::collections::HashSet;
use std::fmt::Display;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use toml::Spanned;
use understudy_protocol::DatasetName;
use understudy_tree::{Excludes, Mounts};

use crate::error::AgentError;
use crate::{Emptied, Source};

const DEFAULT_INTERVAL: Duration = Duration::from_secs(15 * 60);

/// A checked configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// The spare's address, as a person wrote it.
    pub spare: Option<String>,
    /// The state directory.
    pub state: Option<PathBuf>,
    /// What to keep.
    pub datasets: Vec<Dataset>,
    /// The file, for messages.
    pub file: PathBuf,
}

/// One `[[dataset]]`.
#[derive(Debug, Clone)]
pub struct Dataset {
    /// One directory, or every directory in one.
    pub place: Sources,
    /// What is left out.
    pub excludes: Excludes,
    /// Time from the start of one cycle to that of the next; never zero.
    pub interval: Duration,
    /// Whether other file systems below it belong to it.
    pub mounts: Mounts,
}

/// Which directories a `[[dataset]]` means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sources {
    /// This one, under this name.
    One(PathBuf, DatasetName),
    /// Each directory in this one, named after itself. Hidden ones and links are left alone.
    Each(PathBuf),
}

/// A source with its rhythm.
#[derive(Debug, Clone)]
pub struct Scheduled {
    /// What to keep.
    pub source: Source,
    /// How often.
    pub interval: Duration,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawConfig {
    spare: Option<String>,
    state: Option<Spanned<PathBuf>>,
    interval: Option<Spanned<String>>,
    #[serde(default)]
    dataset: Vec<Spanned<RawDataset>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawDataset {
    path: Spanned<PathBuf>,
    name: Option<Spanned<String>>,
    #[serde(default)]
    exclude: Vec<Spanned<String>>,
    interval: Option<Spanned<String>>,
    #[serde(default)]
    cross_mounts: bool,
}

impl Config {
    /// Reads and checks a file.
    pub fn load(path: &Path) -> Result<Self, AgentError> {
        let text = std::fs::read_to_string(path).map_err(|error| {
            AgentError::Configuration(format!("cannot read `{}`: {error}", path.display()))
        })?;
        Self::parse(&text, path)
    }

    pub(crate) fn parse(text: &str, path: &Path) -> Result<Self, AgentError> {
        let file = File { text, path };
        let raw: RawConfig = toml::from_str(text)
            .map_err(|error| file.refuse(error.span(), &explain(error.message())))?;
        let interval = raw
            .interval
            .as_ref()
            .map_or(Ok(DEFAULT_INTERVAL), |interval| file.interval(interval))?;
        let state = raw
            .state
            .as_ref()
            .map(|state| file.absolute(state))
            .transpose()?;
        if raw.dataset.is_empty() {
            return Err(file.refuse(None, &"there is no [[dataset]]: nothing would be kept"));
        }
        let mut names = HashSet::new();
        let mut datasets = Vec::new();
        for raw in &raw.dataset {
            let dataset = file.dataset(raw.get_ref(), interval)?;
            if let Sources::One(_, name) = &dataset.place
                && !names.insert(name.clone())
            {
                let span = raw
                    .get_ref()
                    .name
                    .as_ref()
                    .map_or(raw.get_ref().path.span(), Spanned::span);
                return Err(file.refuse(
                    Some(span),
                    &format!("there are two datasets called `{name}`; give one another `name`"),
                ));
            }
            datasets.push(dataset);
        }
        Ok(Self {
            spare: raw.spare,
            state,
            datasets,
            file: path.to_owned(),
        })
    }

    /// The sources there are now: `/*` means the directories that exist at this moment. What cannot be listed or
    /// named is an error of its own, beside the others.
    pub fn sources(&self) -> Vec<Result<Scheduled, AgentError>> {
        let mut taken: HashSet<DatasetName> = HashSet::new();
        for dataset in &self.datasets {
            if let Sources::One(_, name) = &dataset.place {
                taken.insert(name.clone());
            }
        }
        self.datasets
            .iter()
            .flat_map(|dataset| dataset.sources(&mut taken))
            .collect()
    }
}

impl Dataset {
    fn sources(&self, taken: &mut HashSet<DatasetName>) -> Vec<Result<Scheduled, AgentError>> {
        match &self.place {
            Sources::One(path, name) => vec![Ok(self.scheduled(path.clone(), name.clone()))],
            Sources::Each(parent) => match directories_in(parent) {
                Err(error) => vec![Err(error)],
                Ok(paths) => paths
                    .into_iter()
                    .map(|path| self.named_after_itself(path, taken))
                    .collect(),
            },
        }
    }

    fn named_after_itself(
        &self,
        path: PathBuf,
        taken: &mut HashSet<DatasetName>,
    ) -> Result<Scheduled, AgentError> {
        let name = name_of(&path);
        if taken.insert(name.clone()) {
            return Ok(self.scheduled(path, name));
        }
        let path = path.display();
        Err(AgentError::Configuration(format!(
            "`{path}` would be called `{name}`, as another dataset is; give it a [[dataset]] of its own with another `name`"
        )))
    }

    fn scheduled(&self, path: PathBuf, dataset: DatasetName) -> Scheduled {
        let source = Source {
            path,
            dataset,
            excludes: self.excludes.clone(),
            mounts: self.mounts,
            emptied: Emptied::Refuse,
        };
        Scheduled {
            source,
            interval: self.interval,
        }
    }
}

fn name_of(path: &Path) -> DatasetName {
    DatasetName::fit(path.file_name().map_or(&b""[..], OsStrExt::as_bytes))
}

fn directories_in(parent: &Path) -> Result<Vec<PathBuf>, AgentError> {
    let list = || -> std::io::Result<Vec<PathBuf>> {
        let mut paths = Vec::new();
        for entry in std::fs::read_dir(parent)? {
            let entry = entry?;
            let is_hidden = entry.file_name().as_bytes().starts_with(b".");
            if !is_hidden && entry.file_type()?.is_dir() {
                paths.push(entry.path());
            }
        }
        paths.sort();
        Ok(paths)
    };
    list().map_err(|error| AgentError::state("list the sources in", parent, &error))
}

/// The file being checked.
struct File<'a> {
    text: &'a str,
    path: &'a Path,
}

impl File<'_> {
    fn dataset(&self, raw: &RawDataset, interval: Duration) -> Result<Dataset, AgentError> {
        let path = self.absolute(&raw.path)?;
        let each = path.file_name().is_some_and(|name| name == "*");
        let parent = path.parent().filter(|_| each);
        let is_pattern = |path: &Path| path.as_os_str().as_bytes().contains(&b'*');
        if is_pattern(parent.unwrap_or(&path)) {
            return Err(self.refuse(
                Some(raw.path.span()),
                &"`*` may only be the last part of a path: `/var/www/*`",
            ));
        }
        let place = match (parent, &raw.name) {
            (Some(_), Some(name)) => {
                let why = "a path that ends in `/*` is several datasets, which are named after their directories";
                return Err(self.refuse(Some(name.span()), &why));
            }
            (Some(parent), None) => Sources::Each(parent.to_owned()),
            (None, Some(name)) => {
                let checked = DatasetName::new(name.get_ref().as_str());
                Sources::One(
                    path,
                    checked.map_err(|error| self.refuse(Some(name.span()), &error))?,
                )
            }
            (None, None) => {
                let name = name_of(&path);
                Sources::One(path, name)
            }
        };
        let interval = raw
            .interval
            .as_ref()
            .map_or(Ok(interval), |interval| self.interval(interval))?;
        let mounts = if raw.cross_mounts {
            Mounts::Cross
        } else {
            Mounts::Stay
        };
        Ok(Dataset {
            place,
            excludes: self.excludes(&raw.exclude)?,
            interval,
            mounts,
        })
    }

    fn excludes(&self, patterns: &[Spanned<String>]) -> Result<Excludes, AgentError> {
        // One by one first, so that the message points at the pattern.
        for pattern in patterns {
            Excludes::new(&[pattern.get_ref()])
                .map_err(|error| self.refuse(Some(pattern.span()), &error))?;
        }
        let all: Vec<&String> = patterns.iter().map(Spanned::get_ref).collect();
        Excludes::new(&all).map_err(|error| self.refuse(None, &error))
    }

    fn absolute(&self, path: &Spanned<PathBuf>) -> Result<PathBuf, AgentError> {
        if path.get_ref().is_absolute() {
            return Ok(path.get_ref().clone());
        }
        let why = format!("`{}` must be an absolute path", path.get_ref().display());
        Err(self.refuse(Some(path.span()), &why))
    }

    fn interval(&self, text: &Spanned<String>) -> Result<Duration, AgentError> {
        parse_interval(text.get_ref()).map_err(|why| self.refuse(Some(text.span()), &why))
    }

    fn refuse(&self, span: Option<std::ops::Range<usize>>, why: &dyn Display) -> AgentError {
        let before = self
            .text
            .get(..span.map_or(0, |span| span.start))
            .unwrap_or(self.text);
        let line = before.matches('\n').count() + 1;
        let column = before.chars().rev().take_while(|&c| c != '\n').count() + 1;
        AgentError::Configuration(format!("{}:{line}:{column}: {}", self.path.display(), why))
    }
}

/// `90s`, `15m`, `1h30m`, `1d`; never zero.
fn parse_interval(text: &str) -> Result<Duration, String> {
    let wrong = || {
        format!("`{text}` is no interval: write for instance \"90s\", \"15m\", \"1h30m\" or \"1d\"")
    };
    let (mut seconds, mut number): (u64, Option<u64>) = (0, None);
    for c in text.chars() {
        if let Some(digit) = c.to_digit(10) {
            let value = number
                .unwrap_or(0)
                .checked_mul(10)
                .and_then(|value| value.checked_add(u64::from(digit)));
            number = Some(value.ok_or_else(wrong)?);
            continue;
        }
        let unit = match c {
            's' => 1,
            'm' => 60,
            'h' => 3600,
            'd' => 86400,
            _ => return Err(wrong()),
        };
        let part = number
            .take()
            .and_then(|number| number.checked_mul(unit))
            .ok_or_else(wrong)?;
        seconds = seconds.checked_add(part).ok_or_else(wrong)?;
    }
    match (number, seconds) {
        (None, 1..) => Ok(Duration::from_secs(seconds)),
        (None, 0) if !text.is_empty() => Err("an interval of zero is not allowed".to_owned()),
        _ => Err(wrong()),
    }
}

/// The parser's message, with the nearest known key for an unknown one.
fn explain(message: &str) -> String {
    if !message.starts_with("unknown field") {
        return message.to_owned();
    }
    let mut words = message.split('`').skip(1).step_by(2);
    let Some(unknown) = words.next() else {
        return message.to_owned();
    };
    let nearest = words.min_by_key(|known| strsim::damerau_levenshtein(known, unknown));
    match nearest {
        Some(known) if strsim::damerau_levenshtein(known, unknown) <= known.len().div_ceil(2) => {
            format!("unknown key `{unknown}`, did you mean `{known}`?")
        }
        _ => format!("unknown key `{unknown}`"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> String {
        Config::parse(text, Path::new("agent.toml"))
            .expect_err(text)
            .to_string()
    }

    #[test]
    fn a_whole_configuration_is_read() {
        let text = "spare = \"spare:7433\"\nstate = \"/s\"\ninterval = \"1h30m\"\n\
                    [[dataset]]\npath = \"/srv/docs\"\nexclude = [\"*.tmp\"]\ncross_mounts = true\n\
                    [[dataset]]\nname = \"photos\"\npath = \"/srv/Fotos\"\ninterval = \"90s\"\n\
                    [[dataset]]\npath = \"/var/www/*\"\n";
        let config = Config::parse(text, Path::new("agent.toml")).expect("valid");
        assert_eq!(config.spare.as_deref(), Some("spare:7433"));
        assert_eq!(config.state, Some("/s".into()));
        let [docs, photos, sites] = &config.datasets[..] else {
            unreachable!("three datasets")
        };
        let name = |text: &str| DatasetName::new(text).expect("name");
        assert_eq!(docs.place, Sources::One("/srv/docs".into(), name("docs")));
        assert_eq!(
            (docs.interval, docs.mounts),
            (Duration::from_secs(5400), Mounts::Cross)
        );
        assert_eq!(
            photos.place,
            Sources::One("/srv/Fotos".into(), name("photos"))
        );
        assert_eq!(photos.interval, Duration::from_secs(90));
        assert_eq!(sites.place, Sources::Each("/var/www".into()));
    }

    #[test]
    fn wrong_files_say_where_and_why() {
        let dataset = "[[dataset]]\npath = \"/a\"\n";
        for (text, words) in [
            (
                "intervall = \"1m\"\n",
                &[
                    "agent.toml:1:1:",
                    "unknown key `intervall`, did you mean `interval`?",
                ][..],
            ),
            (
                "[[dataset]]\npath = \"/a\"\n  exclud = []\n",
                &["agent.toml:3:3:", "did you mean `exclude`?"],
            ),
            ("[[dataset]]\nname = \"x\"\n", &["agent.toml:1:1:", "path"]),
            (
                "[[dataset]]\npath = \"a\"\n",
                &["agent.toml:2:8:", "absolute"],
            ),
            (
                "[[dataset]]\npath = \"/a/*/b\"\n",
                &["agent.toml:2:8:", "last part"],
            ),
            (
                "[[dataset]]\npath = \"/a/*\"\nname = \"x\"\n",
                &["agent.toml:3:8:", "several"],
            ),
            (
                "[[dataset]]\npath = \"/a\"\nname = \"A b\"\n",
                &["agent.toml:3:8:", "dataset"],
            ),
            (
                "[[dataset]]\npath = \"/a\"\nexclude = [\"ok\", \"[z-a]\"]\n",
                &["agent.toml:3:18:", "[z-a]"],
            ),
            (
                "interval = \"0m\"\n[[dataset]]\npath = \"/a\"\n",
                &["agent.toml:1:12:", "zero"],
            ),
            (
                "interval = \"15\"\n[[dataset]]\npath = \"/a\"\n",
                &["agent.toml:1:12:", "no interval"],
            ),
            (
                &dataset.repeat(2),
                &["agent.toml:4:8:", "two datasets called `a`"],
            ),
            ("spare = \"x\"\n", &["no [[dataset]]"]),
        ] {
            let message = refused(text);
            assert!(
                words.iter().all(|word| message.contains(word)),
                "{text:?}: {message}"
            );
        }
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "prepares directories")]
    fn a_star_means_the_directories_there_are() {
        let scratch = tempfile::tempdir().expect("tempdir");
        for name in ["beta", "Alpha", ".hidden", "alpha"] {
            std::fs::create_dir(scratch.path().join(name)).expect("directory");
        }
        std::fs::write(scratch.path().join("file"), "").expect("file");
        std::os::unix::fs::symlink("beta", scratch.path().join("link")).expect("link");
        let text = format!("[[dataset]]\npath = \"{}/*\"\n", scratch.path().display());
        let config = Config::parse(&text, Path::new("agent.toml")).expect("valid");
        let (good, bad): (Vec<_>, Vec<_>) = config.sources().into_iter().partition(Result::is_ok);
        let names: Vec<_> = good
            .into_iter()
            .map(|one| one.expect("good").source.dataset.to_string())
            .collect();
        assert_eq!(names, ["alpha", "beta"]);
        assert!(
            bad[0]
                .as_ref()
                .expect_err("two called alpha")
                .to_string()
                .contains("alpha")
        );
        let config =
            Config::parse("[[dataset]]\npath = \"/nowhere/*\"\n", Path::new("f")).expect("valid");
        assert!(
            config.sources()[0].is_err(),
            "a parent that is not there is not an empty one"
        );
    }
}
