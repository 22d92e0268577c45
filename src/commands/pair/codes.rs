//! Codes for pairing: made on the spare, given on the main.

use std::ffi::OsString;
use std::io::{BufRead, IsTerminal, Read, Write};
use std::net::SocketAddr;

use serde_json::json;
use understudy_protocol::transport::pairing::{Code, InvalidCode};
use understudy_protocol::{MainName, escape};
use understudy_receiver::trust::Trust;
use zeroize::Zeroizing;

use crate::arguments::Pair;
use crate::commands::Session;
use crate::exit::CommandError;
use crate::receiver_config::{self, ReceiverConfig};
use crate::report::Report;

/// Where a receiver listens that nobody has told otherwise.
const PORT: u16 = 7433;
/// Far more than any code takes.
const LIMIT_BYTES: u64 = 4096;

/// On the spare: a code for a main.
pub(super) fn make(
    name: &MainName,
    arguments: &Pair,
    session: &Session,
) -> Result<Report, CommandError> {
    let store = session
        .store_on_this_host(arguments.on_spare.clone())
        .map_err(|error| CommandError {
            hint: format!(
                "{}; a receiver makes its store when it first starts",
                error.hint
            ),
            ..error
        })?;
    let trust = Trust::open_or_create(store.path())?;
    let made = trust.new_code(name, arguments.valid)?;
    let code = made.code.to_text();
    let (address, advice) = own_address(&trust, arguments)?;
    let command = format!("understudy pair {address}");
    let until = made.until.to_string();
    let mut lines = vec![
        format!("Type this on the main that is to be called {name} here, before {until}:"),
        String::new(),
        format!("  {command}"),
        String::new(),
        "and this when it asks for the code:".to_owned(),
        String::new(),
        format!("  {}", code.as_str()),
        String::new(),
    ];
    lines.extend(advice.map(ToOwned::to_owned));
    if let Some(before) = &made.replaces {
        lines.push(format!(
            "The spare knows a main {name} since {}: the key of the one that uses the code takes the place of its key.",
            before.since
        ));
    }
    let data = json!({
        "name": name.as_str(),
        "code": code.as_str(),
        "until": until,
        "address": address,
        "command": command,
        "key": trust.key().public().to_string(),
        "replaces": made.replaces.map(|main| main.key.to_string()),
    });
    Ok(Report::done(data, lines))
}

/// Where mains reach this host, as far as it can know that, and what to do if that is wrong.
fn own_address(
    trust: &Trust,
    arguments: &Pair,
) -> Result<(String, Option<&'static str>), CommandError> {
    let configured = receiver_config::chosen(
        arguments.on_spare.config.as_deref(),
        arguments.on_spare.store.as_deref(),
    )
    .map(|path| ReceiverConfig::load(&path))
    .transpose()?
    .and_then(|config| config.listen);
    let listens = trust.address()?;
    let known = configured.or(listens);
    let at = known.as_deref().map(str::parse::<SocketAddr>);
    let port = match at {
        Some(Ok(at)) if !at.ip().is_unspecified() => return Ok((at.to_string(), None)),
        Some(Ok(at)) => at.port(),
        // A name is what people call it.
        Some(Err(_)) => return Ok((known.unwrap_or_default(), None)),
        None => PORT,
    };
    let names = rustix::system::uname();
    let host = names.nodename().to_string_lossy();
    let advice = if at.is_some() {
        "If the main reaches this host by another name or address, write that instead."
    } else {
        "The receiver has to run by then (understudy receiver --store DIR). If the main reaches this host by another name or \
         address, write that instead."
    };
    Ok((format!("{}:{port}", escape(host.as_bytes())), Some(advice)))
}

/// On the main: the code as it was typed behind the address, or, since everybody on the host sees that, on stdin: where `-` stands for it, or
/// where a terminal asks for it.
pub(super) fn given(words: &[OsString]) -> Result<Code, CommandError> {
    let typed = match words {
        [] if std::io::stdin().is_terminal() => {
            let mut stderr = std::io::stderr();
            // Who does not see the question can answer it all the same.
            let _ = write!(stderr, "The code that the spare has printed: ");
            let _ = stderr.flush();
            read()?
        }
        [] => {
            return Err(CommandError::usage(
                "the code is missing",
                "`understudy pair --new NAME` on the spare prints one; where there is no terminal to ask for it, write `-` and give it on stdin",
            ));
        }
        [word] if word == "-" => read()?,
        words => {
            let parts = words.iter().map(|part| part.to_string_lossy());
            Zeroizing::new(parts.collect())
        }
    };
    typed.trim().parse().map_err(|error: InvalidCode| {
        CommandError::usage(
            error.to_string(),
            "type it as `understudy pair --new NAME` has printed it on the spare; capitals and dashes do not matter",
        )
    })
}

/// One line of stdin.
fn read() -> Result<Zeroizing<String>, CommandError> {
    let mut line = Zeroizing::new(String::new());
    let stdin = std::io::stdin().lock().take(LIMIT_BYTES);
    std::io::BufReader::new(stdin)
        .read_line(&mut line)
        .map_err(|error| {
            let message = format!("cannot read the code from stdin: {error}");
            CommandError::usage(message, "type it as the spare has printed it")
        })?;
    Ok(line)
}
