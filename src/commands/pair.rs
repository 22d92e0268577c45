//! `understudy pair`: which keys a spare and its mains know each other by.

mod codes;
mod grant;

use std::path::PathBuf;

use serde_json::{Value, json};
use understudy_agent::identity::{Identity, KnownSpare};
use understudy_protocol::transport::pairing;
use understudy_protocol::transport::tls::Credentials;
use understudy_protocol::{MainName, escape};
use understudy_receiver::trust::{Main, Trust};

use super::{Session, recovery};
use crate::address;
use crate::arguments::Pair;
use crate::exit::{self, CommandError};
use crate::paths;
use crate::receiver_config;
use crate::report::Report;

/// Does what was asked for.
pub(crate) fn run(arguments: &Pair, session: &Session) -> Result<Report, CommandError> {
    if let Some(name) = &arguments.new {
        return codes::make(name, arguments, session);
    }
    if arguments.list {
        return list(arguments, session);
    }
    if let Some(name) = &arguments.revoke {
        return revoke(name, arguments, session);
    }
    if let Some(given) = &arguments.grant {
        return grant::give(given, arguments, session);
    }
    if let Some(address) = &arguments.forget {
        return forget(address, session);
    }
    if arguments.export_recovery {
        return recovery::export(&state(session)?, &existing(session)?);
    }
    if let Some(from) = &arguments.import_recovery {
        return recovery::import(from, &state(session)?);
    }
    let Some(host) = &arguments.host else {
        return Err(CommandError::usage(
            "it is not said what to do",
            "`understudy pair --help` shows what can be done",
        ));
    };
    match &arguments.address {
        Some(new) => reach_at(new, host, session),
        None => use_code(host, arguments, session),
    }
}

/// On the main: use a code.
fn use_code(host: &str, arguments: &Pair, session: &Session) -> Result<Report, CommandError> {
    address::check_host(host)?;
    let code = codes::given(&arguments.code)?;
    let identity = Identity::open_or_create(&state(session)?)?;
    let credentials =
        Credentials::new(identity.secret()).map_err(|error| CommandError::from(&error))?;
    let paired = pairing::pair(&session.runtime, host, &credentials, &code)
        .map_err(|error| CommandError::from(&error).about(host))?;
    let main = paired.welcome.main;
    let before = identity.remember(KnownSpare {
        address: host.to_owned(),
        key: paired.spare,
        main: main.clone(),
    })?;
    let changed = before.filter(|before| before.key != paired.spare);
    let mut lines = vec![format!(
        "paired: the spare at {host} knows this host as {main} now"
    )];
    if paired.welcome.replaced {
        lines.push(format!(
            "The key of this host has taken the place of the one that {main} had before."
        ));
    }
    if changed.is_some() {
        lines.push("Another spare was known at that address before.".to_owned());
    }
    lines.push(format!(
        "Write `spare = \"{host}\"` into the agent's configuration, or add --spare {host} to a command."
    ));
    let data = json!({
        "spare": host,
        "main": main.as_str(),
        "key": identity.public().to_string(),
        "spare_key": paired.spare.to_string(),
        "replaced": paired.welcome.replaced,
        "spare_changed": changed.is_some(),
    });
    Ok(Report::done(data, lines))
}

/// Who is known, on both sides as far as this host is one.
fn list(arguments: &Pair, session: &Session) -> Result<Report, CommandError> {
    let on_spare = &arguments.on_spare;
    let is_asked = on_spare.store.is_some() || on_spare.config.is_some();
    let has_store = is_asked || receiver_config::chosen(None, None).is_some();
    let (trust, owned) = if has_store {
        let store = session.store_on_this_host(on_spare.clone())?;
        (Trust::open(store.path())?, Some(grant::owned(&store)?))
    } else {
        (None, None)
    };
    let identity = if is_asked {
        None
    } else {
        Identity::open(&state(session)?)?
    };
    let mut lines = Vec::new();
    let mut data = json!({ "spare": null, "main": null, "datasets": null });
    if let Some(trust) = &trust {
        let (value, told) = listed_mains(trust)?;
        lines.extend(told);
        data["spare"] = value;
    }
    if let Some((value, told)) = owned {
        lines.extend(told);
        data["datasets"] = value;
    }
    if let Some(identity) = &identity {
        let (value, told) = listed_spares(identity)?;
        lines.extend(told);
        data["main"] = value;
    }
    if trust.is_none() && identity.is_none() {
        lines.push(
            "nobody is paired here; on the spare, `understudy pair --new NAME --store DIR` begins it".to_owned(),
        );
    }
    Ok(Report::done(data, lines))
}

fn listed_mains(trust: &Trust) -> Result<(Value, Vec<String>), CommandError> {
    let (mains, codes) = (trust.mains()?, trust.open_codes()?);
    let key = trust.key().public();
    let mut lines = vec![format!("this spare has the key {key}")];
    lines.extend(mains.iter().map(
        |Main {
             name, key, since, ..
         }| { format!("  main {name}: the key {key}, since {since}") },
    ));
    if mains.is_empty() {
        lines.push("  it knows no main".to_owned());
    }
    lines.extend(codes.iter().map(|code| {
        format!(
            "  a code for {}, not used yet, good until {}",
            code.name, code.until
        )
    }));
    let mains: Vec<Value> = mains
        .iter()
        .map(|main| {
            json!({
                "name": main.name.as_str(),
                "key": main.key.to_string(),
                "since": main.since.to_string(),
            })
        })
        .collect();
    let codes: Vec<Value> = codes
        .iter()
        .map(|code| json!({ "name": code.name.as_str(), "until": code.until.to_string() }))
        .collect();
    let data = json!({ "key": key.to_string(), "mains": mains, "codes": codes });
    Ok((data, lines))
}

fn listed_spares(identity: &Identity) -> Result<(Value, Vec<String>), CommandError> {
    let spares = identity.spares()?;
    let key = identity.public();
    let mut lines = vec![format!("this main has the key {key}")];
    lines.extend(spares.iter().map(|spare| {
        let address = escape(spare.address.as_bytes());
        format!(
            "  spare {address}: the key {}, known there as {}",
            spare.key, spare.main
        )
    }));
    if spares.is_empty() {
        lines.push("  it knows no spare".to_owned());
    }
    let spares: Vec<Value> = spares
        .iter()
        .map(|spare| {
            json!({
                "address": spare.address,
                "key": spare.key.to_string(),
                "main": spare.main.as_str(),
            })
        })
        .collect();
    Ok((json!({ "key": key.to_string(), "spares": spares }), lines))
}

/// On the spare: know a main no more.
fn revoke(name: &MainName, arguments: &Pair, session: &Session) -> Result<Report, CommandError> {
    let store = session.store_on_this_host(arguments.on_spare.clone())?;
    let trust = Trust::open_or_create(store.path())?;
    let gone = trust.revoke(name).map_err(|error| {
        let error = CommandError::from(error);
        CommandError::new(
            error.code,
            error.message,
            "`understudy pair --list` lists the mains",
        )
    })?;
    let key = gone.main.map(|main| main.key.to_string());
    let mut lines = Vec::new();
    if gone.codes > 0 {
        lines.push(format!(
            "the code for {name} that was not used yet is good no more"
        ));
    }
    if let Some(key) = &key {
        lines.push(format!("{name} is not known any more; its key was {key}"));
        lines.push(
            "A receiver that runs ends its connections within a second. Its datasets stay as they are."
                .to_owned(),
        );
    } else {
        lines.push(format!("The spare knew no main {name}."));
    }
    let data = json!({ "name": name.as_str(), "key": key, "codes": gone.codes });
    Ok(Report::done(data, lines))
}

/// On the main: know a spare no more.
fn forget(address: &str, session: &Session) -> Result<Report, CommandError> {
    let identity = existing(session)?;
    let gone = identity.forget(address)?;
    let gone = gone.map_or_else(|| Err(unknown(address, &identity)), Ok)?;
    let lines = vec![
        format!(
            "the spare at {} is not known any more",
            escape(address.as_bytes())
        ),
        format!(
            "It still knows this host; on the spare, `understudy pair --revoke {}` ends that.",
            gone.main
        ),
    ];
    let data = json!({ "spare": address, "key": gone.key.to_string(), "main": gone.main.as_str() });
    Ok(Report::done(data, lines))
}

/// On the main: the same spare at another address.
fn reach_at(new: &str, known: &str, session: &Session) -> Result<Report, CommandError> {
    address::check_host(new)?;
    let identity = existing(session)?;
    let spare = identity.spare(known)?;
    let spare = spare.map_or_else(|| Err(unknown(known, &identity)), Ok)?;
    identity.remember(KnownSpare {
        address: new.to_owned(),
        ..spare.clone()
    })?;
    let lines = vec![format!(
        "the spare that is known at {known} is known at {new}, too"
    )];
    let data = json!({ "spare": new, "as": known, "key": spare.key.to_string() });
    Ok(Report::done(data, lines))
}

fn state(session: &Session) -> Result<PathBuf, CommandError> {
    paths::state(session.places.state.as_deref())
}

fn existing(session: &Session) -> Result<Identity, CommandError> {
    let state = state(session)?;
    Identity::open(&state)?.ok_or_else(|| {
        CommandError::usage(
            format!(
                "this host is paired with no spare: `{}` has no identity",
                state.display()
            ),
            "give the state directory of the agent with --state DIR, as the user that it runs as",
        )
    })
}

fn unknown(address: &str, identity: &Identity) -> CommandError {
    let spares = identity.spares().unwrap_or_default();
    let known: Vec<_> = spares
        .iter()
        .map(|spare| escape(spare.address.as_bytes()))
        .collect();
    let known = if known.is_empty() {
        "none".to_owned()
    } else {
        known.join(", ")
    };
    CommandError::new(
        exit::Code::Failed,
        format!(
            "this host knows no spare at {} (it knows: {known})",
            escape(address.as_bytes())
        ),
        "write the address as `understudy pair --list` shows it",
    )
}
