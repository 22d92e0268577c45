//! A process that loads one database once, at low priority. It ends what it has started when nobody wants its answer any more.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use understudy_agent::databases::Engine;
use understudy_receiver::standby::{Dump, Standby as Place};
use understudy_receiver::{ReceiverError, Store};
use understudy_tree::{IoPriority, set_io_priority};

use super::bring::{Bring, Brought, Trouble};
use super::{Answer, Request, configured};
use crate::alert::wire;
use crate::exit::CommandError;
use crate::receiver_config::{ReceiverConfig, Standby};
use crate::words;

/// Whoever serves people comes first.
const NICE: i32 = 19;

/// So long a dataset may be without a database that it is to have.
const FIRST_SECONDS: i64 = 10 * 60;

/// Nobody wants the answer any more: what fails then has not failed.
static IS_OVER: AtomicBool = AtomicBool::new(false);

/// Reads one request, and answers it.
pub(super) fn run(config: &Path, store: &Path) -> Result<(), CommandError> {
    let lowered = rustix::process::setpriority_process(None, NICE)
        .map_err(|error| error.to_string())
        .and_then(|()| set_io_priority(IoPriority::Idle).map_err(|error| error.to_string()));
    if let Err(error) = lowered {
        tracing::debug!("loads have the priority of everything else: {error}");
    }
    let request = crate::worker::request::<Request>(|| IS_OVER.store(true, Ordering::Relaxed));
    let request = request.map_err(|error| {
        CommandError::failed(format!("what is asked for is not done here: {error}"))
    })?;
    let Some(request) = request else {
        return Ok(());
    };
    let answer = answer(config, store, &request).unwrap_or_else(Answer::Failed);
    // Where it cannot be written nobody wants it any more.
    let _ = wire::write(&mut io::stdout(), &answer);
    Ok(())
}

fn answer(config: &Path, store: &Path, request: &Request) -> Result<Answer, String> {
    let one = configured(config, request)?;
    let config = ReceiverConfig::load(config).map_err(|error| error.message)?;
    let store = Store::open_existing(store).map_err(|error| error.to_string())?;
    let place = Place::open(&store, &one.dataset).map_err(|error| error.to_string())?;
    let lock = place.lock().map_err(|error| error.to_string())?;
    let Some(lock) = lock else {
        return Ok(Answer::Busy);
    };
    if !matches!(one.settings.engine, Engine::Command(_)) {
        // A program of an engine that outlives this process keeps everybody else out until it has ended.
        lock.share().map_err(|error| error.to_string())?;
    }
    let spare = place.may_load(&lock).map_err(|error| error.to_string())?;
    let Some(spare) = spare else {
        let why = "this host is not the spare, or is being promoted";
        return Ok(Answer::Idle(why.to_owned()));
    };
    let mut bring = Bring::new((&place, &lock), &one, spare).map_err(|error| error.to_string())?;
    let brought = bring_up(&mut bring, (&place, &one), || {
        place.hold(&store, (&one.settings.name, config.reserve), &lock)
    });
    if let Err(error) = place.release() {
        tracing::warn!("{}: a copy of a dump stays: {error}", one.dataset);
    }
    match brought {
        Ok(Brought::Before(_)) => Ok(Answer::Current),
        Ok(Brought::Left) => Ok(Answer::Idle(
            "this host was the main, and nothing came from another one yet".to_owned(),
        )),
        Ok(Brought::Now(loaded, seconds)) => Ok(Answer::Loaded {
            snapshot: loaded.snapshot,
            seconds,
        }),
        Err(trouble) if IS_OVER.load(Ordering::Relaxed) => Ok(Answer::Idle(trouble.text)),
        Err(trouble) => {
            bring.fail(&trouble);
            match trouble.is_wrong {
                true => Ok(Answer::Failed(trouble.text)),
                false => Ok(Answer::Idle(trouble.text)),
            }
        }
    }
}

/// A dump that nobody changes, and where it is.
type Held = Option<(Dump, PathBuf)>;

fn bring_up(
    bring: &mut Bring<'_>,
    (place, one): (&Place, &Standby),
    hold: impl FnOnce() -> Result<Held, ReceiverError>,
) -> Result<Brought, Trouble> {
    let Some(dump) = place.newest(&one.settings.name)? else {
        return Err(not_yet(bring, one));
    };
    if let Some(brought) = bring.without_load(&dump)? {
        return Ok(brought);
    }
    let Some((dump, path)) = hold()? else {
        return Err(not_yet(bring, one));
    };
    bring.load(&dump, &path)
}

/// The same, which is nothing to tell people of at once: the first snapshot of a dataset has only files.
fn not_yet(bring: &Bring<'_>, one: &Standby) -> Trouble {
    let failure = bring.known().failure.as_ref();
    let since = failure.map(|failure| words::now_seconds().saturating_sub(failure.since_seconds));
    Trouble {
        is_wrong: since.is_some_and(|since| since >= FIRST_SECONDS),
        ..missing(one)
    }
}

/// The newest snapshot does not have it.
pub(crate) fn missing(one: &Standby) -> Trouble {
    Trouble {
        text: format!(
            "the newest snapshot of dataset `{}` has no database `{}`: compare `name` of the [[standby]] with that of the \
             [[dataset.database]] on the main (`understudy ls {} databases`)",
            one.dataset, one.settings.name, one.dataset
        ),
        is_wrong: true,
    }
}
