//! The process that tells people: started by the receiver before that confines itself, so that it may run the
//! configured command and reach the network. It reads the configuration itself; the receiver only says that there is
//! something to tell, and what it is called.

use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use reqwest::Url;
use tokio::runtime::Handle;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Semaphore;
use understudy_protocol::DatasetName;

use super::document::Document;
use super::http::{self, Http};
use super::wire::{self, Reply, Request, State};
use super::{LIMIT, command};
use crate::exit::CommandError;
use crate::receiver_config::{Alerts, ReceiverConfig};

/// What is done at the same time; more waits in the pipe.
const AT_ONCE: usize = 32;

/// Does what the receiver at the other end of standard input asks for, until that ends.
pub(crate) fn run(config: &Path, runtime: &Handle) -> Result<(), CommandError> {
    let messenger = Messenger {
        file: config.to_owned(),
        alerts: Arc::new(Mutex::new(Arc::new(ReceiverConfig::load(config)?.alerts))),
        http: Http::default(),
        turns: Arc::new(Semaphore::new(AT_ONCE)),
        runtime: runtime.clone(),
    };
    // A terminal that is closed is no reason to leave the receiver without a voice.
    let hangups = {
        let _guard = runtime.enter();
        signal(SignalKind::hangup())
    };
    let _hangups = hangups.map_err(|error| CommandError::failed(error.to_string()))?;
    let mut requests = BufReader::new(std::io::stdin().lock());
    loop {
        match wire::read(&mut requests) {
            Ok(Some(request)) => messenger.take(request),
            Ok(None) => return Ok(()),
            // Whoever says this is not the receiver that it was.
            Err(error) => {
                let message =
                    format!("the receiver asked for what its messenger does not do: {error}");
                return Err(CommandError::failed(message));
            }
        }
    }
}

#[derive(Clone)]
struct Messenger {
    file: PathBuf,
    alerts: Arc<Mutex<Arc<Alerts>>>,
    http: Http,
    turns: Arc<Semaphore>,
    runtime: Handle,
}

impl Messenger {
    fn take(&self, request: Request) {
        if request == Request::Reload {
            return reply(&self.reload());
        }
        // Never closed. It waits here, so that the pipe fills and the receiver waits as well.
        let Ok(turn) = self
            .runtime
            .block_on(Arc::clone(&self.turns).acquire_owned())
        else {
            return;
        };
        let messenger = self.clone();
        self.runtime.spawn(async move {
            let alerts = messenger.alerts();
            match request {
                Request::Tell { number, facts } => {
                    let worked = match Document::of(facts) {
                        Some(document) => messenger.tell(&document, &alerts).await,
                        None => false,
                    };
                    reply(&Reply::Ended { number, worked });
                }
                Request::Beat { number } => {
                    let worked = match &alerts.heartbeat {
                        Some(url) => messenger.fetch(url).await,
                        None => true,
                    };
                    reply(&Reply::Ended { number, worked });
                }
                Request::Ping { dataset, state } => {
                    messenger.ping(&dataset, state, &alerts).await;
                }
                Request::Reload => {}
            }
            drop(turn);
        });
    }

    fn alerts(&self) -> Arc<Alerts> {
        // It is replaced in one step, so it is whole after any panic.
        Arc::clone(&self.alerts.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn reload(&self) -> Reply {
        let read = read_config(&self.file);
        let name = self.file.display().to_string();
        let parsed = read.and_then(|text| match ReceiverConfig::parse(&text, &name) {
            Ok(config) => Ok((text, config)),
            Err(error) => Err(error.message),
        });
        match parsed {
            Ok((text, config)) => {
                let mut alerts = self.alerts.lock().unwrap_or_else(PoisonError::into_inner);
                *alerts = Arc::new(config.alerts);
                Reply::Config { text }
            }
            Err(reason) => Reply::Refused { reason },
        }
    }

    /// Tells people in every configured way. The log has it already, and is enough where nothing is configured.
    async fn tell(&self, document: &Document, alerts: &Alerts) -> bool {
        let command = async {
            let command = alerts.command.as_ref()?;
            let result = command::run(command, document, LIMIT).await;
            Some(logged("command", "the command", result))
        };
        let webhook = async {
            let url = alerts.webhook.as_ref()?;
            let result = self.http.post(url, document.json(), LIMIT).await;
            Some(logged("webhook", &http::shown(url), result))
        };
        !matches!(
            tokio::join!(command, webhook),
            (Some(false), None | Some(false)) | (None, Some(false))
        )
    }

    async fn ping(&self, dataset: &str, state: State, alerts: &Alerts) {
        let dataset = DatasetName::new(dataset).ok();
        let url = dataset.and_then(|dataset| alerts.dataset_heartbeats.get(&dataset));
        match (url, state) {
            (Some(url), State::Fresh) => self.fetch(url).await,
            (Some(url), State::Failed) if alerts.heartbeat_fail => self.fetch(&failed(url)).await,
            _ => true,
        };
    }

    /// Fetches a heartbeat URL.
    async fn fetch(&self, url: &Url) -> bool {
        let shown = http::shown(url);
        match self.http.fetch(url, LIMIT).await {
            Ok(()) => {
                tracing::debug!("heartbeat: told {shown}");
                true
            }
            Err(error) => {
                tracing::error!("heartbeat: cannot tell {shown}: {error}");
                false
            }
        }
    }
}

fn read_config(file: &Path) -> Result<String, String> {
    let cannot = |error| {
        format!(
            "cannot read the configuration `{}`: {error}",
            file.display()
        )
    };
    let opened = std::fs::File::open(file).map_err(cannot)?;
    let mut text = String::new();
    let length = opened
        .take(wire::CONFIG_BYTES + 1)
        .read_to_string(&mut text)
        .map_err(cannot)?;
    if length as u64 > wire::CONFIG_BYTES {
        return Err(format!(
            "the configuration `{}` is too long",
            file.display()
        ));
    }
    Ok(text)
}

/// Nobody hears what is said after the receiver's end, which ends this process too.
fn reply(reply: &Reply) {
    let written = wire::write(&mut std::io::stdout().lock(), reply);
    if let Err(error) = written {
        tracing::debug!("cannot answer the receiver: {error}");
    }
}

fn logged(way: &str, to: &str, result: Result<(), String>) -> bool {
    match result {
        Ok(()) => {
            tracing::info!("{way}: told {to}");
            true
        }
        Err(error) => {
            tracing::error!("{way}: cannot tell {to}: {error}");
            false
        }
    }
}

/// The URL that tells a monitor of a failure.
fn failed(url: &Url) -> Url {
    let mut failed = url.clone();
    // Configured URLs are of http, which have a path.
    if let Ok(mut path) = failed.path_segments_mut() {
        path.pop_if_empty().push("fail");
    }
    failed
}

/// How long anything takes that was asked for, waiting included.
pub(super) const PATIENCE: Duration = Duration::from_secs(4 * LIMIT.as_secs());

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_told_below_the_heartbeat() {
        let url = |text: &str| Url::parse(text).expect("URL");
        for (given, expected) in [
            ("https://hc.example/uuid", "https://hc.example/uuid/fail"),
            (
                "https://hc.example/uuid/?a=b",
                "https://hc.example/uuid/fail?a=b",
            ),
            ("http://localhost:80", "http://localhost/fail"),
        ] {
            assert_eq!(failed(&url(given)), url(expected));
        }
        assert_eq!(
            http::shown(&url("https://hc.example/secret")),
            "https://hc.example"
        );
    }
}
