//! Writes what the fuzzer begins with: `seeds DIRECTORY` makes a directory for each target in it.
#![expect(clippy::disallowed_methods, reason = "these files belong to nobody")]

use std::path::PathBuf;

use understudy_fuzz_targets::TARGETS;

fn main() -> std::io::Result<()> {
    let directory: PathBuf = std::env::args_os().nth(1).unwrap_or_default().into();
    for target in TARGETS {
        let directory = directory.join(target.name);
        std::fs::create_dir_all(&directory)?;
        for (number, seed) in (target.seeds)().iter().enumerate() {
            std::fs::write(directory.join(format!("seed{number}")), seed)?;
        }
    }
    Ok(())
}
