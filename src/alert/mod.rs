//! Tells people: runs the command, posts to the webhook, keeps the heartbeats going. What is an alert is decided by
//! `understudy_receiver::alert`, from facts that this module does not know.

mod command;
mod document;
mod http;

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::{JoinHandle, Thread};
use std::time::{Duration, Instant};

use reqwest::Url;
use tokio::runtime::Handle;
use tokio::task;
use understudy_receiver::alert::{Delivery, Event, Look, Notice, Summary, Watch};
use understudy_receiver::{ReceiverError, Reserve, Store};

use self::document::Document;
use self::http::Http;
use crate::receiver_config::Alerts;
use crate::{service, words};

/// How often the watch looks.
const TICK: Duration = Duration::from_secs(1);

/// How long a command or a request may take.
const LIMIT: Duration = Duration::from_secs(30);

/// Notices that are told at the same time; others wait, but never for one of them longer than [`LIMIT`].
const AT_ONCE: usize = 16;

/// The watch of a running receiver; ends with this.
#[derive(Debug)]
pub(crate) struct Alerting {
    settings: Arc<Settings>,
    thread: Thread,
}

/// What is configured now.
#[derive(Debug)]
struct Settings(Mutex<Arc<Alerts>>);

impl Settings {
    fn present(&self) -> Arc<Alerts> {
        // It is replaced in one step, so it is whole after any panic.
        Arc::clone(&self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Alerting {
    /// Begins to watch a store, on a thread of its own.
    pub(crate) fn start(
        (store, reserve): (Arc<Store>, Reserve),
        alerts: Alerts,
        runtime: Handle,
    ) -> Result<Self, ReceiverError> {
        let watcher = Watcher {
            watch: Watch::open(Arc::clone(&store))?.reserving(reserve),
            store,
            messenger: Messenger {
                runtime,
                http: Http::default(),
            },
            telling: Vec::new(),
            heartbeat: None,
        };
        let settings = Arc::new(Settings(Mutex::new(Arc::new(alerts))));
        let present = Arc::downgrade(&settings);
        let thread: JoinHandle<()> = std::thread::spawn(move || watcher.run(&present));
        Ok(Self {
            settings,
            thread: thread.thread().clone(),
        })
    }

    /// From now on this is configured.
    pub(crate) fn configure(&self, alerts: Alerts) {
        let mut settings = self
            .settings
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *settings = Arc::new(alerts);
        self.thread.unpark();
    }
}

/// The thread that watches.
struct Watcher {
    watch: Watch,
    store: Arc<Store>,
    messenger: Messenger,
    telling: Vec<(Notice, task::JoinHandle<Delivery>)>,
    heartbeat: Option<(Instant, task::JoinHandle<()>)>,
}

impl Watcher {
    /// Looks again and again, until there are no settings any more.
    fn run(mut self, settings: &Weak<Settings>) {
        let mut status = String::new();
        while let Some(alerts) = settings.upgrade().map(|settings| settings.present()) {
            self.finish();
            let look = self.watch.look(&alerts.policy);
            for notice in &look.notices {
                self.tell(notice, &alerts);
            }
            for dataset in &look.fresh {
                if let Some(url) = alerts.dataset_heartbeats.get(dataset) {
                    self.messenger.ping(url.clone());
                }
            }
            self.beat(&look, &alerts);
            service::alive();
            let now = status_line(&look);
            if now != status {
                service::status(&now);
                status = now;
            }
            std::thread::park_timeout(TICK);
        }
    }

    /// Has the watch know of notices that were told.
    fn finish(&mut self) {
        let (ended, running) = std::mem::take(&mut self.telling)
            .into_iter()
            .partition(|(_, task)| task.is_finished());
        self.telling = running;
        let ended: Vec<_> = ended;
        for (notice, task) in ended {
            let delivery = self.messenger.runtime.block_on(task);
            self.watch
                .end(&notice, delivery.unwrap_or(Delivery::Failed));
        }
    }

    fn tell(&mut self, notice: &Notice, alerts: &Arc<Alerts>) {
        if self.telling.len() >= AT_ONCE {
            return;
        }
        match notice.event {
            Event::Raised | Event::Repeated => tracing::error!("ALERT: {}", notice.text()),
            Event::Over => tracing::warn!("{}", notice.text()),
        }
        let dataset = notice.dataset.as_ref();
        let heartbeat = dataset.and_then(|dataset| alerts.dataset_heartbeats.get(dataset));
        if let Some(url) =
            heartbeat.filter(|_| alerts.heartbeat_fail && notice.event != Event::Over)
        {
            self.messenger.ping(failed(url));
        }
        let document = Document::new(notice, self.store.path());
        let messenger = self.messenger.clone();
        let alerts = Arc::clone(alerts);
        let task = self
            .messenger
            .runtime
            .spawn(async move { messenger.tell(&document, &alerts).await });
        self.watch.begin(notice);
        self.telling.push((notice.clone(), task));
    }

    /// The heartbeat of the receiver itself: this loop has come round, and the store can be read.
    fn beat(&mut self, look: &Look, alerts: &Alerts) {
        let Some(url) = &alerts.heartbeat else {
            return;
        };
        let is_due = self.heartbeat.as_ref().is_none_or(|(begun, task)| {
            begun.elapsed() >= alerts.heartbeat_interval && task.is_finished()
        });
        match &look.unreadable {
            None if is_due => {
                let task = self.messenger.ping(url.clone());
                self.heartbeat = Some((Instant::now(), task));
            }
            _ => {}
        }
    }
}

/// Carries messages; each on a task of its own, so that none waits for another.
#[derive(Clone)]
struct Messenger {
    runtime: Handle,
    http: Http,
}

impl Messenger {
    /// Tells people in every configured way. The log has it already, and is enough where nothing is configured.
    async fn tell(&self, document: &Document, alerts: &Alerts) -> Delivery {
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
        match tokio::join!(command, webhook) {
            (Some(Delivery::Failed), None | Some(Delivery::Failed))
            | (None, Some(Delivery::Failed)) => Delivery::Failed,
            _ => Delivery::Worked,
        }
    }

    /// Fetches a heartbeat URL.
    fn ping(&self, url: Url) -> task::JoinHandle<()> {
        let http = self.http.clone();
        self.runtime.spawn(async move {
            let shown = http::shown(&url);
            match http.fetch(&url, LIMIT).await {
                Ok(()) => tracing::debug!("heartbeat: told {shown}"),
                Err(error) => tracing::error!("heartbeat: cannot tell {shown}: {error}"),
            }
        })
    }
}

fn logged(way: &str, to: &str, result: Result<(), String>) -> Delivery {
    match result {
        Ok(()) => {
            tracing::info!("{way}: told {to}");
            Delivery::Worked
        }
        Err(error) => {
            tracing::error!("{way}: cannot tell {to}: {error}");
            Delivery::Failed
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

fn status_line(look: &Look) -> String {
    let Summary {
        datasets,
        worst,
        alerts,
        acknowledged,
    } = &look.summary;
    if let Some(reason) = &look.unreadable {
        return format!("the store cannot be read: {reason}");
    }
    let mut line = words::counted(*datasets as u64, "dataset");
    if let Some((name, lag)) = worst {
        line += &format!(", at most {} behind ({name})", words::span(*lag));
    }
    line += &format!("; {}", words::counted(*alerts as u64, "alert"));
    if *acknowledged > 0 {
        line += &format!(", {acknowledged} acknowledged");
    }
    line
}

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

    #[test]
    fn the_status_line_has_the_numbers() {
        let mut look = Look {
            notices: Vec::new(),
            fresh: Vec::new(),
            summary: Summary {
                datasets: 2,
                worst: Some((understudy_protocol::DatasetName::fit(b"shop"), 61)),
                alerts: 1,
                acknowledged: 1,
            },
            unreadable: None,
        };
        assert_eq!(
            status_line(&look),
            "2 datasets, at most 1 min 1 s behind (shop); 1 alert, 1 acknowledged"
        );
        look.unreadable = Some("gone".to_owned());
        assert!(status_line(&look).contains("cannot be read"));
    }
}
