//! The receiver's configuration: a TOML file, checked whole before anything starts.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::SpanRelativeTo;
use reqwest::Url;
use serde::Deserialize;
use toml::Spanned;
use understudy_agent::config::RawDatabase;
use understudy_protocol::{DatasetName, escape};
use understudy_receiver::Reserve;
use understudy_receiver::alert::Policy;
use understudy_receiver::drift::DriftRules;
use understudy_receiver::guard::Guards;
use understudy_receiver::quota::Quotas;
use understudy_receiver::retention::Policies;
use understudy_receiver::scrub::Plan;
use understudy_receiver::specials::Rules;

use crate::exit::CommandError;

mod drift;
mod guard;
mod promotion;
mod quota;
mod retention;
mod scrub;
mod specials;
mod standby;

use guard::{RawGuards, guards};
use promotion::{RawDataset as RawOfDataset, promotions};
use quota::{RawQuotas, quotas};
use retention::{RawRetention, policies};
use scrub::RawScrub;
use specials::Word;
use standby::standbys;

pub(crate) use promotion::{Hook, Promotions};
pub(crate) use scrub::parse_rate;
pub(crate) use standby::{Load, Standby};

/// Where it is unless something else is said.
pub(crate) const DEFAULT: &str = "/etc/understudy/receiver.toml";

/// How often the receiver's own heartbeat is fetched.
const HEARTBEAT: Duration = Duration::from_secs(60);

const KEYS: [&str; 45] = [
    "drift",
    "promote_after",
    "on_promote",
    "hook_limit",
    "served",
    "specials",
    "reserve_percent",
    "bytes_least",
    "store",
    "listen",
    "alerts",
    "lag",
    "failures",
    "repeat",
    "command",
    "webhook",
    "heartbeat",
    "heartbeat_interval",
    "heartbeat_fail",
    "guard",
    "dataset",
    "files_percent",
    "files_least",
    "bytes_percent",
    "caches",
    "retention",
    "all",
    "hourly",
    "daily",
    "monthly",
    "minimum_age",
    "newest",
    "grace",
    "scrub",
    "every",
    "least",
    "most",
    "repair",
    "compress_after",
    "space",
    "quota",
    "bytes",
    "files",
    "main",
    "standby",
];

/// What the file says.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct ReceiverConfig {
    /// The directory that holds the datasets.
    pub(crate) store: Option<PathBuf>,
    /// Where to listen.
    pub(crate) listen: Option<String>,
    /// What is an alert, and who is told.
    pub(crate) alerts: Alerts,
    /// What a cycle may harm before it is held.
    pub(crate) guards: Guards,
    /// What uploads leave free.
    pub(crate) reserve: Reserve,
    /// Which snapshots stay.
    pub(crate) retention: Policies,
    /// How often everything is read again.
    pub(crate) scrub: Plan,
    /// What mains may take.
    pub(crate) quotas: Quotas,
    /// What becomes of what gives rights.
    pub(crate) specials: Rules,
    /// What becomes of datasets into whose live tree somebody wrote.
    pub(crate) drift: DriftRules,
    /// How this host becomes the main.
    pub(crate) promotions: Promotions,
    /// Which databases are loaded on this host.
    pub(crate) standbys: Vec<Standby>,
}

/// The part `[alerts]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Alerts {
    /// What is an alert.
    pub(crate) policy: Policy,
    /// The program that is run for each, with its arguments; never empty.
    pub(crate) command: Option<Vec<String>>,
    /// Where each is posted.
    pub(crate) webhook: Option<Url>,
    /// What is fetched while the receiver is well.
    pub(crate) heartbeat: Option<Url>,
    /// How often; never zero.
    pub(crate) heartbeat_interval: Duration,
    /// Whether a dataset's heartbeat URL is told of its alerts.
    pub(crate) heartbeat_fail: bool,
    /// What is fetched after a good cycle of a dataset.
    pub(crate) dataset_heartbeats: BTreeMap<DatasetName, Url>,
}

impl Default for Alerts {
    fn default() -> Self {
        Self {
            policy: Policy::default(),
            command: None,
            webhook: None,
            heartbeat: None,
            heartbeat_interval: HEARTBEAT,
            heartbeat_fail: false,
            dataset_heartbeats: BTreeMap::new(),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawConfig {
    store: Option<Spanned<PathBuf>>,
    listen: Option<String>,
    #[serde(default)]
    alerts: RawAlerts,
    #[serde(default)]
    guard: RawGuards,
    reserve_percent: Option<Spanned<u32>>,
    #[serde(default)]
    retention: RawRetention,
    #[serde(default)]
    scrub: RawScrub,
    #[serde(default)]
    quota: RawQuotas,
    specials: Option<Word>,
    drift: Option<drift::Word>,
    #[serde(default)]
    dataset: BTreeMap<Spanned<String>, RawOfDataset>,
    promote_after: Option<Spanned<String>>,
    on_promote: Option<Vec<Spanned<promotion::RawHook>>>,
    hook_limit: Option<Spanned<String>>,
    served: Option<Spanned<PathBuf>>,
    #[serde(default)]
    standby: Vec<Spanned<RawDatabase>>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawAlerts {
    lag: Option<Spanned<String>>,
    failures: Option<Spanned<u32>>,
    repeat: Option<Spanned<String>>,
    command: Option<Spanned<Vec<String>>>,
    webhook: Option<Spanned<String>>,
    heartbeat: Option<Spanned<String>>,
    heartbeat_interval: Option<Spanned<String>>,
    #[serde(default)]
    heartbeat_fail: bool,
    #[serde(default)]
    dataset: BTreeMap<Spanned<String>, RawDataset>,
    space: Option<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawDataset {
    lag: Option<Spanned<String>>,
    heartbeat: Option<Spanned<String>>,
}

/// Which file is meant: the one given, or the one at the usual place, unless the store is given or it is not there.
pub(crate) fn chosen(given: Option<&Path>, store: Option<&Path>) -> Option<PathBuf> {
    match (given, store) {
        (Some(path), _) => Some(path.to_owned()),
        (None, None) if Path::new(DEFAULT).exists() => Some(DEFAULT.into()),
        (None, _) => None,
    }
}

/// There is no store to work on.
pub(crate) fn no_store() -> CommandError {
    CommandError::usage(
        "no store is given",
        format!("add --store DIR, or write `store = \"DIR\"` to {DEFAULT}"),
    )
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

    /// Checks the text of a file called `name`.
    pub(crate) fn parse(text: &str, name: &str) -> Result<Self, CommandError> {
        let file = File { text, name };
        let raw: RawConfig = toml::from_str(text).map_err(|error| {
            let why = format!("{}{}", error.message(), suggestion(text, &error));
            file.refuse(error.span(), &why)
        })?;
        if let Some(store) = raw
            .store
            .as_ref()
            .filter(|store| !store.get_ref().is_absolute())
        {
            let why = format!(
                "`store` must be an absolute path, but is `{}`",
                store.get_ref().display()
            );
            return Err(file.refuse(Some(store.span()), &why));
        }
        let mut alerts = file.alerts(raw.alerts)?;
        if let Some(after) = &raw.promote_after {
            alerts.policy.promote_after = file.duration(after)?;
        }
        for (key, dataset) in &raw.dataset {
            let name = DatasetName::new(key.get_ref().as_str())
                .map_err(|error| file.refuse(Some(key.span()), &error))?;
            if let Some(after) = &dataset.promote_after {
                let after = file.duration(after)?;
                alerts.policy.promote_after_of.insert(name, after);
            }
        }
        let raw_promotions = promotion::Raw {
            on_promote: raw.on_promote,
            limit: raw.hook_limit,
            served: raw.served,
        };
        let promotions = promotions(&file, raw_promotions, &raw.dataset)?;
        alerts.policy.served.clone_from(&promotions.served);
        Ok(Self {
            store: raw.store.map(Spanned::into_inner),
            listen: raw.listen,
            alerts,
            guards: guards(&file, raw.guard)?,
            reserve: file.reserve(raw.reserve_percent.as_ref())?,
            retention: policies(&file, raw.retention)?,
            scrub: scrub::plan(&file, &raw.scrub)?,
            quotas: quotas(&file, raw.quota)?,
            specials: specials::rules(&file, raw.specials, &raw.dataset)?,
            drift: drift::rules(&file, raw.drift, &raw.dataset)?,
            promotions,
            standbys: standbys(&file, raw.standby)?,
        })
    }
}

/// The file being checked.
struct File<'a> {
    text: &'a str,
    name: &'a str,
}

impl File<'_> {
    fn alerts(&self, raw: RawAlerts) -> Result<Alerts, CommandError> {
        let mut policy = Policy::default();
        let mut dataset_heartbeats = BTreeMap::new();
        for (key, dataset) in raw.dataset {
            let name = DatasetName::new(key.get_ref().as_str())
                .map_err(|error| self.refuse(Some(key.span()), &error))?;
            if let Some(lag) = &dataset.lag {
                policy.datasets.insert(name.clone(), self.duration(lag)?);
            }
            if let Some(url) = &dataset.heartbeat {
                dataset_heartbeats.insert(name, self.url(url)?);
            }
        }
        if let Some(lag) = &raw.lag {
            policy.lag = self.duration(lag)?;
        }
        if let Some(repeat) = &raw.repeat {
            policy.repeat = self.duration(repeat)?;
        }
        if let Some(space) = &raw.space {
            policy.space = self.duration(space)?;
        }
        if let Some(failures) = &raw.failures {
            if *failures.get_ref() == 0 {
                let why = "`failures` must be at least 1: no number of failed cycles is unlimited";
                return Err(self.refuse(Some(failures.span()), &why));
            }
            policy.failures = *failures.get_ref();
        }
        let url = |url: &Option<Spanned<String>>| url.as_ref().map(|url| self.url(url)).transpose();
        let interval = raw.heartbeat_interval.as_ref();
        Ok(Alerts {
            policy,
            command: raw
                .command
                .as_ref()
                .map(|command| self.command(command))
                .transpose()?,
            webhook: url(&raw.webhook)?,
            heartbeat: url(&raw.heartbeat)?,
            heartbeat_interval: interval
                .map_or(Ok(HEARTBEAT), |interval| self.duration(interval))?,
            heartbeat_fail: raw.heartbeat_fail,
            dataset_heartbeats,
        })
    }

    /// How much of the disk stays free.
    fn reserve(&self, percent: Option<&Spanned<u32>>) -> Result<Reserve, CommandError> {
        match percent {
            None => Ok(Reserve::default()),
            Some(percent) if (1..=50).contains(percent.get_ref()) => Ok(Reserve {
                percent: *percent.get_ref(),
                ..Reserve::default()
            }),
            Some(percent) => {
                let why = format!(
                    "`reserve_percent` must be 1 to 50, but is {}: a full disk could not be cleaned up",
                    percent.get_ref()
                );
                Err(self.refuse(Some(percent.span()), &why))
            }
        }
    }

    /// A program with its arguments. No shell looks for it, and no working directory is meant.
    fn command(&self, command: &Spanned<Vec<String>>) -> Result<Vec<String>, CommandError> {
        let words = command.get_ref();
        let why = match words.first() {
            None => {
                "`command` is empty; write for instance [\"/usr/local/bin/page\", \"--urgent\"]"
                    .to_owned()
            }
            Some(program) if !Path::new(program).is_absolute() => format!(
                "`command` must begin with an absolute path, but begins with `{}`: it is run without a shell",
                escape(program.as_bytes())
            ),
            Some(_) if words.iter().any(|word| word.contains('\0')) => {
                "`command` holds a NUL, which no program can be given".to_owned()
            }
            Some(_) => return Ok(words.clone()),
        };
        Err(self.refuse(Some(command.span()), &why))
    }

    fn url(&self, text: &Spanned<String>) -> Result<Url, CommandError> {
        let parsed = Url::parse(text.get_ref());
        let found = parsed
            .ok()
            .filter(|url| matches!(url.scheme(), "http" | "https"));
        found.ok_or_else(|| {
            let why = format!(
                "`{}` is no URL of http or https",
                escape(text.get_ref().as_bytes())
            );
            self.refuse(Some(text.span()), &why)
        })
    }

    /// At least one second.
    fn duration(&self, text: &Spanned<String>) -> Result<Duration, CommandError> {
        let shown = escape(text.get_ref().as_bytes());
        let parsed = text.get_ref().parse::<jiff::Span>();
        let parsed = parsed.and_then(|span| span.to_duration(SpanRelativeTo::days_are_24_hours()));
        let Ok(duration) = parsed else {
            let why = format!(
                "`{shown}` is no duration: write for instance \"90s\", \"15m\", \"1h30m\" or \"1d\""
            );
            return Err(self.refuse(Some(text.span()), &why));
        };
        match Duration::try_from(duration) {
            Ok(duration) if duration.as_secs() > 0 => Ok(duration),
            _ => {
                let why = format!("`{shown}` is less than a second: nothing would be left of it");
                Err(self.refuse(Some(text.span()), &why))
            }
        }
    }

    fn refuse(&self, span: Option<Range<usize>>, why: &dyn Display) -> CommandError {
        let (line, column) = position(self.text, span.map_or(0, |span| span.start));
        CommandError::usage(
            format!("{}:{line}:{column}: {why}", self.name),
            "`understudy receiver --help` shows a configuration",
        )
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
                ..ReceiverConfig::default()
            }
        );
        for (text, words) in [
            (
                "store = \"/s\"\nlissen = \"x\"\n",
                &["f:2:1:", "lissen", "`listen`"][..],
            ),
            ("store = 7\n", &["f:1:9:"]),
            ("store = \"spare\"\n", &["f:1:9:", "absolute"]),
            ("store = \"\n", &["f:1:"]),
            ("[alerts]\nrepaet = \"1h\"\n", &["f:2:1:", "`repeat`"]),
            (
                "[alerts]\nlag = \"0s\"\n",
                &["f:2:7:", "less than a second"],
            ),
            (
                "[alerts]\nlag = \"-1h\"\n",
                &["f:2:7:", "less than a second"],
            ),
            ("[alerts]\nrepeat = \"often\"\n", &["f:2:10:", "duration"]),
            ("[alerts]\nrepeat = \"90\"\n", &["f:2:10:", "duration"]),
            ("[alerts]\nfailures = 0\n", &["f:2:12:", "at least 1"]),
            ("[alerts]\nfailures = -1\n", &["f:2:12:"]),
            ("[alerts]\ncommand = []\n", &["f:2:11:", "empty"]),
            (
                "[alerts]\ncommand = [\"page\"]\n",
                &["f:2:11:", "absolute", "`page`"],
            ),
            (
                "[alerts]\ncommand = [\"/p\", \"\\u0000\"]\n",
                &["f:2:11:", "NUL"],
            ),
            ("[alerts]\ncommand = \"/bin/page now\"\n", &["f:2:11:"]),
            (
                "[alerts]\nwebhook = \"ftp://host/x\"\n",
                &["f:2:11:", "http"],
            ),
            ("[alerts]\nheartbeat = \"host/x\"\n", &["f:2:13:", "http"]),
            (
                "[alerts]\nheartbeat_interval = \"0s\"\n",
                &["f:2:22:", "less than a second"],
            ),
            (
                "[alerts.dataset.Site]\nlag = \"1h\"\n",
                &["f:1:17:", "`Site`"],
            ),
            (
                "[alerts.dataset.site]\nlag = \"1h\"\nheartbaet = \"http://h\"\n",
                &["f:3:1:", "`heartbeat`"],
            ),
            (
                "[alerts.dataset.site]\nheartbeat = \"x\"\n",
                &["f:2:13:", "http"],
            ),
        ] {
            let message = ReceiverConfig::parse(text, "f").expect_err(text).message;
            assert!(words.iter().all(|word| message.contains(word)), "{message}");
        }
    }

    #[test]
    fn alerts_are_read_as_they_are_written() {
        let text = r#"
            [alerts]
            lag = "1d"
            failures = 5
            repeat = "1h30m"
            space = "3d"
            command = ["/usr/local/bin/page", "--urgent"]
            webhook = "https://chat.example/hook"
            heartbeat = "http://[::1]:8000/uuid"
            heartbeat_interval = "90s"
            heartbeat_fail = true
            [alerts.dataset.photos]
            lag = "30m"
            heartbeat = "https://hc.example/photos"
            [alerts.dataset.shop]
        "#;
        let alerts = ReceiverConfig::parse(text, "f").expect("valid").alerts;
        let name = DatasetName::fit(b"photos");
        assert_eq!(alerts.policy.lag, Duration::from_secs(86_400));
        assert_eq!(alerts.policy.repeat, Duration::from_secs(5_400));
        assert_eq!(alerts.policy.failures, 5);
        assert_eq!(alerts.policy.space, Duration::from_secs(3 * 86_400));
        assert_eq!(alerts.policy.lag_limit_seconds(&name), 1_800);
        assert_eq!(alerts.command.expect("command").len(), 2);
        assert_eq!(alerts.heartbeat_interval, Duration::from_secs(90));
        assert!(alerts.heartbeat_fail && alerts.webhook.is_some() && alerts.heartbeat.is_some());
        let heartbeats: Vec<_> = alerts.dataset_heartbeats.keys().collect();
        assert_eq!(heartbeats, [&name]);
    }

    #[test]
    fn whatever_is_written_is_taken_or_refused() {
        let whole = "store = \"/srv/spare\"\nlisten = \"spare:7433\"\nreserve_percent = 5\n\
                     [alerts]\nlag = \"10m\"\nfailures = 3\nrepeat = \"1d\"\ncommand = [\"/bin/page\", \"x\"]\n\
                     webhook = \"https://host/x\"\nheartbeat_interval = \"5m\"\nspace = \"7d\"\n\
                     [alerts.dataset.site]\nlag = \"1h\"\nheartbeat = \"https://host/y\"\n\
                     [guard]\nfiles_percent = 10\ncaches = [\"var/cache\"]\n[guard.dataset.site]\nfiles_least = 3\n\
                     [retention]\nall = \"1d\"\nhourly = 24\nminimum_age = \"1d\"\n\
                     [scrub]\nevery = \"7d\"\nleast = \"500kB\"\nmost = \"1GiB\"\nrepair = true\n";
        let mut inputs: Vec<Vec<u8>> = whole.lines().map(|line| line.as_bytes().to_vec()).collect();
        inputs.push(whole.as_bytes().to_vec());
        let mut mutation = understudy_fuzz_targets::Mutation::new(7);
        for _ in 0..3000 {
            let input = mutation.next(&inputs);
            if let Err(error) = ReceiverConfig::parse(&String::from_utf8_lossy(&input), "f") {
                assert!(error.message.contains('f'), "{}", error.message);
            }
        }
    }
}
