//! One module for each command: arguments become a request, its result a report.

mod accept;
mod acknowledge;
mod adopt;
pub(crate) mod agent;
mod authorized_key;
mod cat;
mod check;
mod demote;
mod diff;
mod drift;
mod drill;
mod failback;
mod find;
mod footing;
mod handover;
mod health;
mod held;
mod loaded;
mod ls;
mod overview;
mod pair;
mod past;
mod pin;
mod policies;
mod promote;
mod prune;
mod quotas;
pub(crate) mod receiver;
mod recovery;
mod rehearsal;
mod restore;
mod restore_all;
pub(crate) mod roles;
mod salvage;
mod snapshots;
mod status;
pub(crate) mod stdio;
mod sync;
mod trust;
mod verify;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::runtime::Handle;
use understudy_agent::config::Config;
use understudy_agent::{Cancel, Context, FuzzyOf, Pace, Progress, Survey};
use understudy_protocol::DatasetName;
use understudy_receiver::Store;

use crate::address::Address;
use crate::alert::messenger;
use crate::arguments::{Command, OnSpare, Output, Places};
use crate::capturer;
use crate::confinement::Prepared;
use crate::drills::{self, Expectation};
use crate::exit::{Code, CommandError};
use crate::fencer;
use crate::imager;
use crate::paths;
use crate::receiver_config::{self, ReceiverConfig};
use crate::report::Report;
use crate::spare::{Absent, Spare};
use crate::{opener, ssh, standby};

/// What every command gets beside its own arguments.
#[derive(Debug)]
pub(crate) struct Session {
    /// Where connections are driven.
    pub(crate) runtime: Handle,
    /// Set when the user wants the end.
    pub(crate) cancel: Cancel,
    /// Where things are.
    pub(crate) places: Places,
    /// How to tell things.
    pub(crate) output: Output,
}

/// Runs a command to its end.
pub(crate) fn run(
    command: Command,
    prepared: Prepared,
    session: &Session,
) -> Result<Report, CommandError> {
    match command {
        Command::Sync(arguments) => sync::run(&arguments, session),
        Command::Agent(arguments) => agent::run(&arguments, prepared, session),
        Command::Receiver(arguments) if arguments.stdio => {
            stdio::run(&arguments, prepared, session)
        }
        Command::Receiver(_) => receiver::run(prepared, session),
        Command::Messenger(arguments) => {
            messenger::run(&arguments.config, &session.runtime).map(|()| Report::ended())
        }
        Command::Fencer(arguments) => {
            fencer::serve(&arguments.config, &session.runtime).map(|()| Report::ended())
        }
        Command::Capturer(arguments) => {
            let state = session.places.state.as_deref();
            let (output, runtime) = (session.output, &session.runtime);
            capturer::run(&arguments, state, output, runtime).map(|()| Report::ended())
        }
        Command::Imager(arguments) => imager::run(&arguments.directory).map(|()| Report::ended()),
        Command::Standby(arguments) => {
            standby::run(&arguments, session.output).map(|()| Report::ended())
        }
        Command::Opener(arguments) => opener::serve(&arguments).map(|()| Report::ended()),
        Command::Restore(arguments) => restore::run(&arguments, prepared.opener, session),
        Command::Snapshots(arguments) => snapshots::run(&arguments, session),
        Command::Status(_) => status::run(session),
        Command::Verify(arguments) => verify::run(&arguments, session),
        Command::Acknowledge(arguments) => acknowledge::run(arguments, session),
        Command::Held(arguments) => held::run(arguments, session),
        Command::Release(arguments) => held::release(arguments, session),
        Command::Reject(arguments) => held::reject(arguments, session),
        Command::Ls(arguments) => ls::run(&arguments, session),
        Command::Cat(arguments) => cat::run(&arguments, session),
        Command::Find(arguments) => find::run(&arguments, session),
        Command::Diff(arguments) => diff::run(&arguments, session),
        Command::Drill(arguments) => drill::run(&arguments, prepared.opener, session),
        Command::Prune(arguments) => prune::run(&arguments, session),
        Command::Pin(arguments) => pin::pin(arguments, session),
        Command::Unpin(arguments) => pin::unpin(arguments, session),
        Command::Demote(arguments) => demote::run(arguments, session),
        Command::Resume(arguments) => demote::resume(&arguments, session),
        Command::Adopt(arguments) => adopt::run(arguments, session),
        Command::Salvage(arguments) => salvage::run(&arguments, session),
        Command::Drift(arguments) => drift::run(arguments, session),
        Command::Handover(arguments) => handover::run(&arguments, session),
        Command::Failback(arguments) => failback::run(&arguments, session),
        Command::Check(arguments) => check::run(arguments, session),
        Command::Accept(arguments) => accept::run(arguments, session),
        Command::Promote(arguments) => promote::run(&arguments, session),
        Command::Pair(arguments) => pair::run(&arguments, session),
        Command::AuthorizedKey(arguments) => authorized_key::run(&arguments),
    }
}

impl Session {
    /// The spare that was given.
    fn address(&self) -> Result<Address, CommandError> {
        Address::given(self.places.spare.as_deref().map(OsStr::new))
    }

    /// The store, which must be on this host: what is decided there is nothing that a main may decide.
    fn store_on_this_host(&self, given: OnSpare) -> Result<Store, CommandError> {
        Ok(Store::open_existing(&self.place_of_store(given)?)?)
    }

    /// Where that is.
    fn place_of_store(&self, given: OnSpare) -> Result<PathBuf, CommandError> {
        let OnSpare { store, config } = given;
        let spare = self.places.spare.as_deref().map(OsStr::new);
        let path = match (store, spare.filter(|_| config.is_none())) {
            (Some(store), _) => store,
            (None, Some(spare)) => match Address::parse(spare)? {
                Address::Directory(store) => store,
                other @ (Address::Host(_) | Address::Ssh(_)) => {
                    return Err(CommandError::usage(
                        format!(
                            "this is done on the spare itself, but {other} is reached as a main does"
                        ),
                        "run it on the spare, with --store DIR or --config FILE, which come before UNDERSTUDY_SPARE",
                    ));
                }
            },
            (None, None) => configured_store(config.as_deref())?,
        };
        Ok(path)
    }

    /// The spare that was given, whose store must exist already.
    fn existing_spare(&self) -> Result<Spare, CommandError> {
        self.spare(self.address()?, Absent::Refuse, None)
    }

    /// The spare at `address`, reached by the ssh and with the identity that were given, or else by those of a
    /// configuration.
    fn spare(
        &self,
        address: Address,
        absent: Absent,
        configured: Option<&Config>,
    ) -> Result<Spare, CommandError> {
        let ssh = configured.and_then(|config| config.ssh.as_deref());
        let ssh = ssh::Client::given(self.places.ssh.as_deref(), ssh)?;
        let state = configured.and_then(|config| config.state.as_deref());
        let identity = match &address {
            Address::Host(_) => Some(paths::state(self.places.state.as_deref().or(state))?),
            Address::Directory(_) | Address::Ssh(_) => None,
        };
        Ok(Spare::new(address, self.runtime.clone(), absent)
            .through(ssh)
            .known_from(identity))
    }

    /// The spare that was given, or else that of an agent's configuration, which must exist already.
    fn spare_of(&self, config: &Config) -> Result<Spare, CommandError> {
        let given = self.places.spare.as_deref();
        let given = given.or(config.spare.as_deref().map(OsStr::new));
        self.spare(Address::given(given)?, Absent::Refuse, Some(config))
    }

    /// The state directory that was given, or else that of an agent's configuration.
    fn state_of(&self, config: &Config) -> Result<PathBuf, CommandError> {
        paths::state(self.places.state.as_deref().or(config.state.as_deref()))
    }

    fn context(&self, state: PathBuf, spare: &Spare) -> Context {
        Context {
            signer: None,
            databases: None,
            images: None,
            state,
            spare: spare.name(),
            progress: Arc::new(Progress::default()),
            cancel: self.cancel.clone(),
            pace: Arc::new(Pace::unlimited()),
            store: spare.store().map(ToOwned::to_owned),
        }
    }

    /// How fast a restore from the spare is likely to be on this host.
    fn expectation(&self, spare: &Spare, dataset: Option<&DatasetName>) -> Expectation {
        paths::state(self.places.state.as_deref()).map_or_else(
            |_| Expectation::default(),
            |state| drills::expectation(&state, &spare.name(), dataset),
        )
    }

    /// What the spare has: all of it, or one dataset, which must be there.
    fn survey(
        &self,
        dataset: Option<&DatasetName>,
        which: FuzzyOf,
    ) -> Result<Survey, CommandError> {
        let spare = self.existing_spare()?;
        let survey =
            spare.talk(|channel| understudy_agent::survey(channel, dataset.cloned(), which))?;
        let listed = &survey.listed;
        match dataset {
            Some(name) if !listed.datasets.iter().any(|listed| listed.name == *name) => {
                Err(CommandError::new(
                    Code::Failed,
                    format!("the spare {} has no dataset `{name}`", spare.name()),
                    "`understudy status` lists the datasets that it has",
                ))
            }
            _ => Ok(survey),
        }
    }
}

/// The store that the receiver's configuration names.
fn configured_store(config: Option<&Path>) -> Result<PathBuf, CommandError> {
    receiver_config::chosen(config, None)
        .map(|path| ReceiverConfig::load(&path))
        .transpose()?
        .and_then(|config| config.store)
        .ok_or_else(receiver_config::no_store)
}
