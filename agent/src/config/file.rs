//! From text to a checked configuration.

use std::collections::HashSet;
use std::fmt::Display;
use std::num::{NonZeroU32, NonZeroU64};
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use toml::{Spanned, Value};
use understudy_protocol::DatasetName;
use understudy_tree::priority::IoPriority;
use understudy_tree::{Excludes, Mounts};

use super::databases::{RawDatabase, RawOnFailure, RawSnapshot, RawSqlite};
use super::units::{parse_bandwidth, parse_interval, parse_time};
use super::{Config, Dataset, Sources, Watch, name_of};
use crate::error::AgentError;
use crate::pace::{Bandwidth, Hours, Percent, Settings};
use crate::{Source, Unsettled};

const DEFAULT_INTERVAL: Duration = Duration::from_secs(15 * 60);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawConfig {
    spare: Option<String>,
    ssh: Option<Spanned<Vec<String>>>,
    state: Option<Spanned<PathBuf>>,
    interval: Option<Spanned<String>>,
    sweep: Option<Spanned<String>>,
    #[serde(default)]
    unsettled: Unsettled,
    #[serde(default)]
    on_stop: Vec<Spanned<Vec<String>>>,
    #[serde(default)]
    on_fence: Vec<Spanned<Vec<String>>>,
    #[serde(default)]
    watch: Watch,
    #[serde(default)]
    pace: RawPace,
    #[serde(default)]
    dataset: Vec<Spanned<RawDataset>>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPace {
    nice: Option<Spanned<i64>>,
    io: Option<RawIo>,
    bandwidth: Option<Spanned<String>>,
    pressure: Option<Spanned<Value>>,
    pause_at_most: Option<Spanned<String>>,
    #[serde(default)]
    hours: Vec<RawHours>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
enum RawIo {
    Idle,
    BestEffort,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawHours {
    from: Spanned<String>,
    to: Spanned<String>,
    bandwidth: Spanned<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawDataset {
    path: Spanned<PathBuf>,
    name: Option<Spanned<String>>,
    #[serde(default)]
    exclude: Vec<Spanned<String>>,
    interval: Option<Spanned<String>>,
    sweep: Option<Spanned<String>>,
    unsettled: Option<Unsettled>,
    on_stop: Option<Vec<Spanned<Vec<String>>>>,
    on_fence: Option<Vec<Spanned<Vec<String>>>>,
    #[serde(default)]
    pub(super) cross_mounts: bool,
    #[serde(default)]
    database: Vec<Spanned<RawDatabase>>,
    pub(super) on_database_failure: Option<Spanned<RawOnFailure>>,
    pub(super) ship_files_after: Option<Spanned<NonZeroU32>>,
    pub(super) sqlite: Option<RawSqlite>,
    pub(super) sqlite_max_lock: Option<Spanned<String>>,
    #[serde(default)]
    pub(super) before_capture: Vec<Spanned<Vec<String>>>,
    #[serde(default)]
    pub(super) after_capture: Vec<Spanned<Vec<String>>>,
    pub(super) max_capture: Option<Spanned<String>>,
    pub(super) snapshot: Option<Spanned<RawSnapshot>>,
}

/// What holds for every dataset that does not say otherwise.
struct Defaults {
    interval: Duration,
    sweep: Duration,
    unsettled: Unsettled,
    on_stop: Vec<Vec<String>>,
    on_fence: Vec<Vec<String>>,
}

/// Checks the text of the file at `path`.
pub(super) fn parse(text: &str, path: &Path) -> Result<Config, AgentError> {
    let file = File { text, path };
    let raw: RawConfig = toml::from_str(text)
        .map_err(|error| file.refuse(error.span(), &explain(error.message())))?;
    let defaults = Defaults {
        interval: file.interval_or(raw.interval.as_ref(), DEFAULT_INTERVAL)?,
        sweep: file.interval_or(raw.sweep.as_ref(), Source::SWEEP)?,
        unsettled: raw.unsettled,
        on_stop: file.commands(&raw.on_stop)?,
        on_fence: file.commands(&raw.on_fence)?,
    };
    let state = raw
        .state
        .as_ref()
        .map(|state| file.absolute(state))
        .transpose()?;
    Ok(Config {
        spare: raw.spare,
        ssh: raw.ssh.map(|words| file.program(words)).transpose()?,
        state,
        datasets: file.datasets(&raw.dataset, &defaults)?,
        watch: raw.watch,
        pace: file.pace(&raw.pace)?,
        file: path.to_owned(),
    })
}

/// The file being checked.
pub(super) struct File<'a> {
    pub(super) text: &'a str,
    pub(super) path: &'a Path,
}

impl File<'_> {
    fn datasets(
        &self,
        raw: &[Spanned<RawDataset>],
        defaults: &Defaults,
    ) -> Result<Vec<Dataset>, AgentError> {
        if raw.is_empty() {
            return Err(self.refuse(None, &"there is no [[dataset]]: nothing would be kept"));
        }
        let mut names = HashSet::new();
        let mut datasets = Vec::new();
        for raw in raw {
            let dataset = self.dataset(raw.get_ref(), defaults)?;
            if let Sources::One(_, name) = &dataset.place
                && !names.insert(name.clone())
            {
                let span = raw
                    .get_ref()
                    .name
                    .as_ref()
                    .map_or(raw.get_ref().path.span(), Spanned::span);
                return Err(self.refuse(
                    Some(span),
                    &format!("there are two datasets called `{name}`; give one another `name`"),
                ));
            }
            datasets.push(dataset);
        }
        Ok(datasets)
    }

    fn dataset(&self, raw: &RawDataset, defaults: &Defaults) -> Result<Dataset, AgentError> {
        let mounts = if raw.cross_mounts {
            Mounts::Cross
        } else {
            Mounts::Stay
        };
        let place = self.place(raw)?;
        let databases = self.databases(&raw.database, &place)?;
        Ok(Dataset {
            on_database_failure: self.on_failure(raw, &databases)?,
            sqlite: self.sqlite(raw)?,
            stillness: self.stillness(raw)?,
            snapshot: self.snapshot(raw)?,
            place,
            databases,
            excludes: self.excludes(&raw.exclude)?,
            interval: self.interval_or(raw.interval.as_ref(), defaults.interval)?,
            sweep: self.interval_or(raw.sweep.as_ref(), defaults.sweep)?,
            mounts,
            unsettled: raw.unsettled.unwrap_or(defaults.unsettled),
            on_stop: self.own_commands(raw.on_stop.as_ref(), &defaults.on_stop)?,
            on_fence: self.own_commands(raw.on_fence.as_ref(), &defaults.on_fence)?,
        })
    }

    fn place(&self, raw: &RawDataset) -> Result<Sources, AgentError> {
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
        match (parent, &raw.name) {
            (Some(_), Some(name)) => {
                let why = "a path that ends in `/*` is several datasets, which are named after their directories";
                Err(self.refuse(Some(name.span()), &why))
            }
            (Some(parent), None) => Ok(Sources::Each(parent.to_owned())),
            (None, Some(name)) => {
                let checked = DatasetName::new(name.get_ref().as_str());
                let checked = checked.map_err(|error| self.refuse(Some(name.span()), &error))?;
                Ok(Sources::One(path, checked))
            }
            (None, None) => {
                let name = name_of(&path);
                Ok(Sources::One(path, name))
            }
        }
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

    fn pace(&self, raw: &RawPace) -> Result<Settings, AgentError> {
        let default = Settings::default();
        let nice = raw.nice.as_ref().map(|nice| self.nice(nice));
        let io = match raw.io {
            Some(RawIo::Idle) => IoPriority::Idle,
            Some(RawIo::BestEffort) => IoPriority::BestEffort,
            None => default.io,
        };
        let usual = match &raw.bandwidth {
            Some(bandwidth) => self.bandwidth(bandwidth)?,
            None => default.bandwidth.usual,
        };
        let hours: Result<_, _> = raw.hours.iter().map(|hours| self.hours(hours)).collect();
        let pressure = match &raw.pressure {
            Some(pressure) => self.pressure(pressure)?,
            None => default.pressure,
        };
        Ok(Settings {
            nice: nice.unwrap_or(Ok(default.nice))?,
            io,
            bandwidth: Bandwidth {
                usual,
                hours: hours?,
            },
            pressure,
            pause_at_most: self.interval_or(raw.pause_at_most.as_ref(), default.pause_at_most)?,
        })
    }

    fn nice(&self, nice: &Spanned<i64>) -> Result<u8, AgentError> {
        u8::try_from(*nice.get_ref())
            .ok()
            .filter(|nice| *nice <= 19)
            .ok_or_else(|| {
                let why = format!(
                    "{} is no niceness for a backup: write a number from 0 (like others) to 19 (after all others)",
                    nice.get_ref()
                );
                self.refuse(Some(nice.span()), &why)
            })
    }

    fn bandwidth(&self, text: &Spanned<String>) -> Result<Option<NonZeroU64>, AgentError> {
        parse_bandwidth(text.get_ref()).map_err(|why| self.refuse(Some(text.span()), &why))
    }

    fn hours(&self, raw: &RawHours) -> Result<Hours, AgentError> {
        let time = |text: &Spanned<String>| {
            parse_time(text.get_ref()).map_err(|why| self.refuse(Some(text.span()), &why))
        };
        let (from, to) = (time(&raw.from)?, time(&raw.to)?);
        if from == to {
            let why =
                "these hours end when they begin: for the whole day write `bandwidth` in [pace]";
            return Err(self.refuse(Some(raw.to.span()), &why));
        }
        Ok(Hours {
            from,
            to,
            limit: self.bandwidth(&raw.bandwidth)?,
        })
    }

    fn pressure(&self, value: &Spanned<Value>) -> Result<Option<Percent>, AgentError> {
        let percent = match value.get_ref() {
            Value::String(word) if word == "off" => return Ok(None),
            Value::Integer(percent) => Percent::new(*percent),
            _ => None,
        };
        percent.map(Some).ok_or_else(|| {
            let why = format!(
                "{} is no limit for pressure: write a number of percent from 1 to 100, or \"off\"",
                value.get_ref()
            );
            self.refuse(Some(value.span()), &why)
        })
    }

    fn program(&self, words: Spanned<Vec<String>>) -> Result<Vec<String>, AgentError> {
        let why = match words.get_ref().first() {
            None => {
                "`ssh` is empty: write for instance [\"ssh\", \"-i\", \"/etc/understudy/ssh_key\"]"
            }
            Some(program) if program.is_empty() => {
                "`ssh` begins with an empty word: that is no program"
            }
            Some(_) if words.get_ref().iter().any(|word| word.contains('\0')) => {
                "`ssh` holds a NUL, which no program can be given"
            }
            Some(_) => return Ok(words.into_inner()),
        };
        Err(self.refuse(Some(words.span()), &why))
    }

    fn own_commands(
        &self,
        own: Option<&Vec<Spanned<Vec<String>>>>,
        default: &[Vec<String>],
    ) -> Result<Vec<Vec<String>>, AgentError> {
        own.map_or_else(|| Ok(default.to_owned()), |own| self.commands(own))
    }

    pub(super) fn commands(
        &self,
        all: &[Spanned<Vec<String>>],
    ) -> Result<Vec<Vec<String>>, AgentError> {
        all.iter()
            .map(|command| self.one_command(command))
            .collect()
    }

    pub(super) fn one_command(
        &self,
        command: &Spanned<Vec<String>>,
    ) -> Result<Vec<String>, AgentError> {
        let words = command.get_ref();
        let first = words.first().map(Path::new);
        let is_program = first.is_some_and(Path::is_absolute);
        if is_program && !words.iter().any(|word| word.contains('\0')) {
            return Ok(words.clone());
        }
        let why = "a program must begin with an absolute path, for it is run without a shell: [[\"/usr/bin/systemctl\", \"stop\", \"site\"]]";
        Err(self.refuse(Some(command.span()), &why))
    }

    fn absolute(&self, path: &Spanned<PathBuf>) -> Result<PathBuf, AgentError> {
        if path.get_ref().is_absolute() {
            return Ok(path.get_ref().clone());
        }
        let why = format!("`{}` must be an absolute path", path.get_ref().display());
        Err(self.refuse(Some(path.span()), &why))
    }

    pub(super) fn interval_or(
        &self,
        text: Option<&Spanned<String>>,
        default: Duration,
    ) -> Result<Duration, AgentError> {
        text.map_or(Ok(default), |text| {
            parse_interval(text.get_ref()).map_err(|why| self.refuse(Some(text.span()), &why))
        })
    }

    pub(super) fn refuse(&self, span: Option<Range<usize>>, why: &dyn Display) -> AgentError {
        let before = self
            .text
            .get(..span.map_or(0, |span| span.start))
            .unwrap_or(self.text);
        let line = before.matches('\n').count() + 1;
        let column = before.chars().rev().take_while(|&c| c != '\n').count() + 1;
        AgentError::Configuration(format!("{}:{line}:{column}: {}", self.path.display(), why))
    }
}

/// The parser's message, with the nearest known word for an unknown one.
pub(super) fn explain(message: &str) -> String {
    let what = if message.starts_with("unknown field") {
        "key"
    } else if message.starts_with("unknown variant") {
        "value"
    } else {
        return message.to_owned();
    };
    let mut words = message.split('`').skip(1).step_by(2);
    let Some(unknown) = words.next() else {
        return message.to_owned();
    };
    let known: Vec<&str> = words.collect();
    let distance = |known: &str| strsim::damerau_levenshtein(known, unknown);
    match known.iter().min_by_key(|known| distance(known)) {
        Some(nearest) if distance(nearest) <= nearest.len().div_ceil(2) => {
            format!("unknown {what} `{unknown}`, did you mean `{nearest}`?")
        }
        _ => {
            let known = known.join("`, `");
            format!("unknown {what} `{unknown}`; known are `{known}`")
        }
    }
}
