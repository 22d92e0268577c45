//! What is done with hostile bytes, one function for each place where they come in: by the fuzzer, which makes them, and by a
//! test, which takes what the fuzzer found once and changes it a little.
//!
//! A target takes any bytes and returns. What it finds wrong is a panic. It must give the same for the same bytes, and leave nothing
//! behind on the disk.

mod agents;
mod catalogs;
mod choices;
mod differences;
mod hostile_spare;
mod lying;
mod mutation;
mod names;
mod samples;
mod scratch;
mod spare;
mod texts;
mod uploads;
mod wire;

pub use mutation::Mutation;

/// One place where hostile bytes come in.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Its name, which is that of the program that the fuzzer runs and of the directory with its corpus.
    pub name: &'static str,
    /// Takes any bytes.
    pub run: fn(&[u8]),
    /// Inputs made of what honest peers send and write.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// How many changed inputs take about a second in a build for tests.
    pub changed: usize,
}

/// All of them.
pub const TARGETS: &[Target] = &[
    Target {
        name: "frames",
        run: wire::frames,
        seeds: wire::frames_seeds,
        changed: 3000,
    },
    Target {
        name: "messages",
        run: wire::messages,
        seeds: wire::messages_seeds,
        changed: 20_000,
    },
    Target {
        name: "compression",
        run: wire::compression,
        seeds: wire::compression_seeds,
        changed: 2000,
    },
    Target {
        name: "paths",
        run: names::paths,
        seeds: names::paths_seeds,
        changed: 20_000,
    },
    Target {
        name: "signatures",
        run: differences::signatures,
        seeds: differences::signatures_seeds,
        changed: 300,
    },
    Target {
        name: "deltas",
        run: differences::deltas,
        seeds: differences::deltas_seeds,
        changed: 3000,
    },
    Target {
        name: "stored",
        run: lying::stored,
        seeds: lying::stored_seeds,
        changed: 1000,
    },
    Target {
        name: "catalogs",
        run: catalogs::catalogs,
        seeds: catalogs::catalogs_seeds,
        changed: 30,
    },
    Target {
        name: "changes",
        run: uploads::changes,
        seeds: uploads::changes_seeds,
        changed: 30,
    },
    Target {
        name: "restores",
        run: agents::restores,
        seeds: agents::restores_seeds,
        changed: 100,
    },
    Target {
        name: "adoptions",
        run: agents::adoptions,
        seeds: agents::adoptions_seeds,
        changed: 30,
    },
    Target {
        name: "configurations",
        run: texts::configurations,
        seeds: texts::configurations_seeds,
        changed: 2000,
    },
    Target {
        name: "trust",
        run: texts::trust,
        seeds: texts::trust_seeds,
        changed: 500,
    },
];

/// Runs the target of this name.
///
/// # Panics
/// If there is none, or it finds something wrong.
pub fn run(name: &str, data: &[u8]) {
    let target = TARGETS.iter().find(|target| target.name == name);
    (target.expect("a target has this name").run)(data);
}
