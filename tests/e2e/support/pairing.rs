//! Having a stage's agent and receiver know each other.

use std::ffi::OsStr;
use std::path::Path;

use super::Run;

/// What a stage's agent is called on its spare.
pub(crate) const MAIN: &str = "main";

/// Sees to it that the agent with the state directory `state` and the receiver at `address` with the store `store` know
/// each other. One at another address than before, a proxy or a receiver that was started again, is the same spare; one
/// that has lost what it knew is paired again, and so is an agent.
pub(crate) fn ensure(state: &Path, store: &Path, address: &str) {
    let knows_main = store.join("understudy.trust/mains.toml").exists();
    let spares = std::fs::read_to_string(state.join("identity/spares.toml")).unwrap_or_default();
    let known = spares
        .lines()
        .filter_map(|line| line.strip_prefix("address = \"")?.strip_suffix('"'))
        .collect::<Vec<_>>();
    match known.first() {
        Some(_) if knows_main && known.contains(&address) => {}
        Some(first) if knows_main => {
            let run = Run::new(["pair", "--address", address, first, "--state"]);
            run.arg(state).ok();
        }
        _ => pair(state, store, address),
    }
}

/// Pairs the two.
pub(crate) fn pair(state: &Path, store: &Path, address: &str) {
    let code = code(store, MAIN);
    let run = Run::new(["pair", address, &code, "--state"]).arg(state);
    run.ok();
}

/// Gives another agent, with the state directory `other`, the identity of the one with `state`.
pub(crate) fn share(state: &Path, other: &Path) {
    std::fs::create_dir(other).unwrap();
    let (from, to) = (state.join("identity"), other.join("identity"));
    super::command::tool("cp", [OsStr::new("-a"), from.as_os_str(), to.as_os_str()]);
}

/// A code for the main `name`.
pub(crate) fn code(store: &Path, name: &str) -> String {
    let run = Run::new(["pair", "--new", name, "--store"]).arg(store);
    run.data()["code"].as_str().unwrap().to_owned()
}
