//! A SQLite database between two points of a load. It is closed while it is read, and its log is checkpointed.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::run;
use crate::options::Options;

pub(super) fn make(root: &Path, options: &Options) {
    let bytes = options.bytes.to_string();
    load(root, options, &["make", &bytes]);
}

pub(super) fn change(root: &Path, options: &Options) {
    load(root, options, &["change"]);
}

fn load(root: &Path, options: &Options, what: &[&str]) {
    let script =
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("benches/peers/scenarios/sqlite.py");
    let mut command = Command::new("python3");
    command
        .arg(script)
        .arg(root.join("shop.db"))
        .arg(options.seed.to_string());
    run(command.args(what));
}
