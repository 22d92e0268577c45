//! Watches, and has people told: what is an alert is decided by `understudy_receiver::alert`, from facts that this module does
//! not know; [`messenger`] runs the command, posts to the webhook and fetches the heartbeats, in a process of its own.

mod command;
mod document;
mod http;
pub(crate) mod messenger;
pub(crate) mod voice;
pub(crate) mod wire;

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::{JoinHandle, Thread};
use std::time::{Duration, Instant};

use understudy_receiver::alert::{Event, Look, Notice, Summary, Watch};
use understudy_receiver::{ReceiverError, Reserve, Store};

use self::document::Document;
use self::voice::{Pending, Voice};
use crate::receiver_config::{Alerts, ReceiverConfig};
use crate::{confinement, service, words};

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
    voice: Voice,
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
        voice: Voice,
    ) -> Result<Self, ReceiverError> {
        let watcher = Watcher {
            watch: Watch::open(Arc::clone(&store))?.reserving(reserve),
            store,
            voice: voice.clone(),
            telling: Vec::new(),
            heartbeat: None,
        };
        let settings = Arc::new(Settings(Mutex::new(Arc::new(alerts))));
        let present = Arc::downgrade(&settings);
        let thread: JoinHandle<()> = std::thread::spawn(move || watcher.run(&present));
        Ok(Self {
            settings,
            thread: thread.thread().clone(),
            voice,
        })
    }

    /// Has the configuration of this name read again, and counts on what it says about alerts; else why everything stays as it was.
    pub(crate) fn reload(&self, name: &str) -> Result<(), String> {
        let text = self.voice.reload()?;
        let config = ReceiverConfig::parse(&text, name).map_err(|error| error.message)?;
        self.configure(config.alerts);
        Ok(())
    }

    fn configure(&self, alerts: Alerts) {
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
    voice: Voice,
    telling: Vec<(Notice, Pending)>,
    heartbeat: Option<(Instant, Pending)>,
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
                if alerts.dataset_heartbeats.contains_key(dataset) {
                    self.voice.fresh(dataset);
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
        for (notice, pending) in std::mem::take(&mut self.telling) {
            match pending.outcome() {
                Some(delivery) => self.watch.end(&notice, delivery),
                None => self.telling.push((notice, pending)),
            }
        }
    }

    fn tell(&mut self, notice: &Notice, alerts: &Alerts) {
        if self.telling.len() >= AT_ONCE {
            return;
        }
        match notice.event {
            Event::Raised | Event::Repeated => tracing::error!("ALERT: {}", notice.text()),
            Event::Over => tracing::warn!("{}", notice.text()),
        }
        if let Some(dataset) = &notice.dataset
            && alerts.heartbeat_fail
            && notice.event != Event::Over
            && alerts.dataset_heartbeats.contains_key(dataset)
        {
            self.voice.failed(dataset);
        }
        let pending = self.voice.tell(&Document::new(notice, self.store.path()));
        self.watch.begin(notice);
        self.telling.push((notice.clone(), pending));
    }

    /// The heartbeat of the receiver itself: this loop has come round, and the store can be read.
    fn beat(&mut self, look: &Look, alerts: &Alerts) {
        if alerts.heartbeat.is_none() || look.unreadable.is_some() {
            return;
        }
        if let Some((begun, pending)) = &self.heartbeat
            && (begun.elapsed() < alerts.heartbeat_interval || pending.outcome().is_none())
        {
            return;
        }
        self.heartbeat = Some((Instant::now(), self.voice.beat()));
    }
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
    if let Some(gap) = confinement::gap() {
        line += &format!("; {gap}");
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

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
