//! `understudy pair --export-recovery` and `--import-recovery`: what a new machine needs to restore as the main that is gone.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde_json::json;
use understudy_agent::identity::Identity;
use understudy_agent::{RecoveryError, RecoveryKit};
use understudy_protocol::{SecretKey, escape};
use zeroize::Zeroizing;

use crate::exit::{Code, CommandError};
use crate::paths;
use crate::report::Report;

/// Far more than any kit takes.
const LIMIT_BYTES: u64 = 4 << 20;

/// Prints the kit of the main with this state directory.
pub(super) fn export(state: &Path, identity: &Identity) -> Result<Report, CommandError> {
    let key = SecretKey::from_seed(identity.secret().seed())
        .map_err(|error| CommandError::failed(error.to_string()))?;
    let kit = RecoveryKit {
        key,
        spares: identity.spares()?,
    };
    let text = kit.to_text();
    let mut lines: Vec<String> = about(&kit).iter().map(|line| format!("# {line}")).collect();
    lines.extend(text.lines().map(ToOwned::to_owned));
    let data = json!({
        "state": super::restore::shown(state),
        "key": kit.key.public().to_string(),
        "kit": &**text,
    });
    Ok(Report::done(data, lines))
}

/// What people read who find the paper.
fn about(kit: &RecoveryKit) -> Vec<String> {
    let spare = kit.spares.first();
    let who = spare.map_or_else(
        || "a main that knows no spare".to_owned(),
        |spare| format!("the main {}", spare.main),
    );
    let address = spare.map_or("HOST:PORT", |spare| &spare.address);
    vec![
        format!("Recovery kit of {who}, with its key {}.", kit.key.public()),
        "A SECRET: whoever has it can read all that this main has sent, and send in its name. Print it, and lock it away.".to_owned(),
        "On a new machine: understudy pair --import-recovery FILE     (- instead of FILE to type it in; end with Ctrl-D)".to_owned(),
        format!("then:             understudy restore --all TARGET --spare {address}"),
        "Lines with # need not be typed. Each other line ends with a check in [ ], so that a slip is found in its line.".to_owned(),
    ]
}

/// Makes this host the main of a kit.
pub(super) fn import(from: &Path, state: &Path) -> Result<Report, CommandError> {
    let text = read(from)?;
    let kit = RecoveryKit::from_text(&text).map_err(|error| refused(&error))?;
    paths::make_state(state)?;
    let identity = Identity::adopt(state, &kit.key)?;
    let mut lines = vec![format!("this host has the key {} now", identity.public())];
    let mut spares = Vec::new();
    for spare in kit.spares {
        spares.push(json!({ "address": spare.address, "main": spare.main.as_str(), "key": spare.key.to_string() }));
        lines.push(format!(
            "the spare at {} knows it as {}: `understudy restore --all TARGET --spare {}` brings everything back",
            spare.address, spare.main, spare.address
        ));
        identity.remember(spare)?;
    }
    lines.push(
        "What comes back is proved to be what this main has sent, but for one thing: which snapshot was its last, this host does not know. The \
         restore tells when it was signed."
            .to_owned(),
    );
    let data = json!({ "key": identity.public().to_string(), "spares": spares });
    Ok(Report::done(data, lines))
}

fn refused(error: &RecoveryError) -> CommandError {
    CommandError::new(
        Code::Usage,
        error.to_string(),
        "compare that line with the paper; nothing was changed",
    )
}

fn read(from: &Path) -> Result<Zeroizing<String>, CommandError> {
    let shown = escape(from.as_os_str().as_encoded_bytes());
    let failed = |error: std::io::Error| {
        let message = format!("cannot read the recovery kit `{shown}`: {error}");
        CommandError::usage(message, "name its file, or `-` to type it in")
    };
    let mut text = Zeroizing::new(String::new());
    let read = if from == Path::new("-") {
        std::io::stdin()
            .lock()
            .take(LIMIT_BYTES)
            .read_to_string(&mut text)
    } else {
        let file = File::open(from).map_err(failed)?;
        file.take(LIMIT_BYTES).read_to_string(&mut text)
    };
    read.map_err(failed)?;
    Ok(text)
}
