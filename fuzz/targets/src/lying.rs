//! What lies on a disk: the small files of a store, and the store with a catalog of which some bytes are wrong.

use std::cell::OnceCell;

use understudy_receiver::fuzzing::{Lying, Yard};

use crate::choices::Choices;
use crate::scratch;

thread_local! {
    static YARD: OnceCell<(tempfile::TempDir, Yard)> = const { OnceCell::new() };
}

/// The small files of a store: what cannot be understood is an error or nothing, and some are read behind the hash that they
/// should have.
pub(crate) fn stored(data: &[u8]) {
    let mut choices = Choices::new(data);
    let (lying, is_sealed) = (
        Lying::ALL[choices.below(Lying::ALL.len())],
        choices.seldom(2),
    );
    let mut bytes = choices.rest().to_vec();
    if is_sealed && matches!(lying, Lying::Findings | Lying::Scrub) {
        let hash = understudy_protocol::ContentHash::of(&bytes);
        bytes.splice(0..0, hash.0);
    }
    in_yard(|yard| {
        if let Err(error) = yard.read(lying, &bytes) {
            // What is told of it.
            let _ = error.to_string();
        }
    });
}

fn in_yard<T>(act: impl FnOnce(&Yard) -> T) -> T {
    YARD.with(|yard| {
        let (_, yard) = yard.get_or_init(|| {
            let scratch = scratch::directory();
            let yard = Yard::new(&scratch.path().join("store")).expect("a store");
            (scratch, yard)
        });
        act(yard)
    })
}

pub(crate) fn stored_seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    in_yard(|yard| {
        for (number, lying) in (0..).zip(Lying::ALL) {
            let honest = yard.honest(lying).expect("written");
            seeds.push([&[number, 0], &honest[..]].concat());
            if matches!(lying, Lying::Findings | Lying::Scrub) {
                seeds.push([&[number, 1], &honest[32..]].concat());
            }
        }
    });
    seeds
}
