//! The search against contents that were edited in known ways, and against some that are made to defeat it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use proptest::prelude::*;

use super::super::noise::noise;
use super::super::{Summer, differing};
use super::*;

fn signature(content: &[u8]) -> Signature {
    let mut summer = Summer::new(content.len() as u64);
    summer.update(content);
    summer.finish().signature
}

fn budget_without_end() -> Budget {
    Budget::new(|| Duration::ZERO)
}

fn searched(base: &Signature, new: &[u8], piece: usize) -> Vec<Op> {
    let mut search = Search::new(base, budget_without_end()).expect("blocks");
    let mut ops = Vec::new();
    for piece in new.chunks(piece) {
        search.feed(piece, &mut ops);
        assert!(search.carry.len() < search.index.block_size());
    }
    search.end(&mut ops);
    ops
}

/// The new content, made of the base where operations say so.
fn apply(base: &[u8], ops: &[Op], new: &[u8]) -> Vec<u8> {
    let mut built = Vec::new();
    for op in ops {
        match *op {
            Op::Copy { from, length } => {
                built.extend(&base[from as usize..(from + length) as usize]);
            }
            Op::Literal { length } => {
                let start = built.len();
                built.extend(&new[start..start + length as usize]);
            }
        }
    }
    built
}

fn literals(ops: &[Op]) -> u64 {
    ops.iter()
        .map(|op| match op {
            Op::Literal { length } => *length,
            Op::Copy { .. } => 0,
        })
        .sum()
}

fn assert_merged(ops: &[Op]) {
    for pair in ops.windows(2) {
        match *pair {
            [Op::Literal { .. }, Op::Literal { .. }] => {
                unreachable!("two literals in a row")
            }
            [Op::Copy { from, length }, Op::Copy { from: next, .. }] => {
                assert_ne!(from + length, next, "two copies that are one");
            }
            _ => {}
        }
    }
}

#[test]
fn what_is_inserted_at_the_front_moves_everything_and_is_all_that_is_literal() {
    let base = noise(3 << 20, 1);
    let new = [&noise(1000, 2)[..], &base].concat();
    let ops = searched(&signature(&base), &new, 512 * 1024);
    assert!(apply(&base, &ops, &new) == new);
    assert_eq!(
        ops,
        [
            Op::Literal { length: 1000 },
            Op::Copy {
                from: 0,
                length: 3 << 20
            },
        ]
    );
}

#[test]
fn edits_cost_about_a_block_each() {
    let base = noise(600_001, 3);
    let block = u64::from(signature(&base).block_size().expect("blocks"));
    let cut = |ranges: &[std::ops::Range<usize>]| {
        ranges
            .iter()
            .flat_map(|range| base[range.clone()].to_vec())
            .collect::<Vec<u8>>()
    };
    let cases = [
        ("deleted", cut(&[0..200_000, 205_555..600_001]), 3),
        ("swapped", cut(&[300_000..600_001, 0..300_000]), 3),
        (
            "moved",
            cut(&[
                0..100_000,
                400_000..450_000,
                100_000..400_000,
                450_000..600_001,
            ]),
            7,
        ),
        ("appended", [&base[..], &noise(100, 4)].concat(), 1),
        ("truncated", base[..333_333].to_vec(), 1),
        ("doubled", cut(&[0..600_001, 0..600_001]), 3),
    ];
    for (what, new, blocks) in cases {
        for piece in [512 * 1024, 10_000, 777] {
            let ops = searched(&signature(&base), &new, piece);
            assert!(apply(&base, &ops, &new) == new, "{what}");
            assert!(literals(&ops) <= blocks * block + 100, "{what}: {ops:?}");
            assert_merged(&ops);
        }
    }
}

#[test]
fn a_block_is_found_wherever_it_straddles_two_buffers() {
    let base = noise(2048, 5);
    let new = [&noise(3000, 6)[..], &base, &noise(10, 7)].concat();
    let expected = [
        Op::Literal { length: 3000 },
        Op::Copy {
            from: 0,
            length: 2048,
        },
        Op::Literal { length: 10 },
    ];
    for first in (2990..5058).step_by(7) {
        let mut search = Search::new(&signature(&base), budget_without_end()).expect("blocks");
        let mut ops = Vec::new();
        search.feed(&new[..first], &mut ops);
        search.feed(&new[first..], &mut ops);
        search.end(&mut ops);
        assert_eq!(ops, expected, "{first}");
    }
}

#[test]
fn runs_of_zeros_are_found_whatever_their_length() {
    let base = [&noise(4096, 8)[..], &vec![0; 40_960], &noise(4096, 9)].concat();
    let new = [&base[..30_000], &vec![0; 100_000], &base[30_000..]].concat();
    let ops = searched(&signature(&base), &new, 30_000);
    assert!(apply(&base, &ops, &new) == new);
    assert!(literals(&ops) < 2 * 2048, "{ops:?}");
    // All at once where the base has as many.
    let ops = searched(&signature(&base), &base, 30_000);
    assert_eq!(
        ops,
        [Op::Copy {
            from: 0,
            length: base.len() as u64
        }]
    );
}

#[test]
fn ranges_do_not_continue_each_other() {
    let base = noise(8192, 10);
    let mut search = Search::new(&signature(&base), budget_without_end()).expect("blocks");
    let mut ops = Vec::new();
    for range in [0..3000, 3000..6144] {
        search.feed(&base[range], &mut ops);
        search.end(&mut ops);
    }
    assert_eq!(
        ops,
        [
            Op::Copy {
                from: 0,
                length: 2048
            },
            Op::Literal { length: 952 },
            Op::Literal { length: 1096 },
            Op::Copy {
                from: 4096,
                length: 2048
            },
        ]
    );
    search.end(&mut ops);
    assert_eq!(ops.len(), 4);
}

#[test]
fn a_range_does_not_follow_what_was_found_in_another() {
    let mut search = Search::new(&signature(&[0; 6144]), budget_without_end()).expect("blocks");
    let mut ops = Vec::new();
    for _ in 0..2 {
        search.feed(&[0; 2048], &mut ops);
        search.end(&mut ops);
    }
    let first = Op::Copy {
        from: 0,
        length: 2048,
    };
    assert_eq!(ops, [first, first]);
}

#[test]
fn nothing_is_searched_for_in_a_base_without_blocks() {
    assert!(Search::new(&signature(&[1; 100]), budget_without_end()).is_none());
}

/// A clock that is one millisecond later at every look, and how often it was looked at.
fn slow_clock() -> (Budget, Arc<AtomicU64>) {
    let looks = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&looks);
    let budget =
        Budget::new(move || Duration::from_millis(counter.fetch_add(1, Ordering::Relaxed)));
    (budget, looks)
}

#[test]
fn content_that_makes_every_byte_a_candidate_is_given_up() {
    // A block with the rolling sum of zeros: what is added comes to 2^16 in either sum.
    let mut base = vec![0; 2048];
    for place in 0..512 {
        base[2 * place] = 128;
    }
    base.extend(noise(2048, 11));
    let (budget, looks) = slow_clock();
    let mut search = Search::new(&signature(&base), budget).expect("blocks");
    assert_eq!(candidate(&search.index, &[0; 4096], 2000), Some(0));
    let mut ops = Vec::new();
    // Seven milliseconds at the floor, after the head start of twenty; each position takes one.
    search.feed(&vec![0; 2_450_000], &mut ops);
    assert_eq!(looks.load(Ordering::Relaxed), 2 * 28);
    // By then not even what could be found is looked for.
    search.feed(&base, &mut ops);
    search.end(&mut ops);
    assert_eq!(looks.load(Ordering::Relaxed), 2 * 28);
    assert_eq!(
        ops,
        [Op::Literal {
            length: 2_450_000 + 4096
        }]
    );
    // Until enough was fed, here in ranges that are too short to be looked at.
    for _ in 0..700 {
        search.feed(&[1; 1000], &mut ops);
        search.end(&mut ops);
    }
    search.feed(&base, &mut ops);
    search.end(&mut ops);
    let copy = Op::Copy {
        from: 0,
        length: 4096,
    };
    assert_eq!(ops.last(), Some(&copy));
}

#[test]
fn what_follows_is_followed_even_when_nothing_is_left_of_the_budget() {
    let base = noise(300_000, 12);
    let (mut budget, _) = slow_clock();
    budget.head_start = Duration::ZERO;
    let mut search = Search::new(&signature(&base), budget).expect("blocks");
    let mut ops = Vec::new();
    search.feed(&base, &mut ops);
    search.end(&mut ops);
    let whole = 300_000 / 4096 * 4096;
    assert_eq!(
        ops[0],
        Op::Copy {
            from: 0,
            length: whole
        }
    );
}

#[derive(Debug, Clone)]
enum Edit {
    Insert(usize, usize),
    Delete(usize, usize),
    Move(usize, usize, usize),
    Rewrite(usize, usize),
    Zeros(usize, usize),
    Truncate(usize),
    Swap(usize),
}

fn edit() -> impl Strategy<Value = Edit> {
    let place = || 0_usize..60_000;
    let length = || 0_usize..9000;
    prop_oneof![
        (place(), length()).prop_map(|(place, length)| Edit::Insert(place, length)),
        (place(), length()).prop_map(|(place, length)| Edit::Delete(place, length)),
        (place(), length(), place()).prop_map(|(from, length, to)| Edit::Move(from, length, to)),
        (place(), length()).prop_map(|(place, length)| Edit::Rewrite(place, length)),
        (place(), length()).prop_map(|(place, length)| Edit::Zeros(place, length)),
        place().prop_map(Edit::Truncate),
        place().prop_map(Edit::Swap),
    ]
}

fn edited(content: &mut Vec<u8>, edit: &Edit) {
    let end = content.len();
    let fill = |content: &mut Vec<u8>, place: usize, bytes: Vec<u8>| {
        for (byte, new) in content.iter_mut().skip(place).zip(bytes) {
            *byte = new;
        }
    };
    match *edit {
        Edit::Insert(place, length) => {
            let place = place.min(end);
            content.splice(place..place, noise(length, length as u64 + 20));
        }
        Edit::Delete(place, length) => {
            content.drain(place.min(end)..(place + length).min(end));
        }
        Edit::Move(from, length, to) => {
            let moved: Vec<u8> = content
                .drain(from.min(end)..(from + length).min(end))
                .collect();
            let to = to.min(content.len());
            content.splice(to..to, moved);
        }
        Edit::Rewrite(place, length) => fill(content, place, noise(length, place as u64)),
        Edit::Zeros(place, length) => fill(content, place, vec![0; length]),
        Edit::Truncate(length) => content.truncate(length),
        Edit::Swap(place) => content.rotate_left(place.min(end)),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn operations_rebuild_whatever_was_edited(
        edits_of_base in prop::collection::vec(edit(), 0..3),
        edits in prop::collection::vec(edit(), 0..5),
        piece in prop::sample::select(vec![100, 2048, 5000, 70_000]),
        slow: bool,
    ) {
        let mut base = noise(50_000, 13);
        edits_of_base.iter().for_each(|edit| edited(&mut base, edit));
        let mut new = base.clone();
        edits.iter().for_each(|edit| edited(&mut new, edit));
        let base_signature = signature(&base);
        let new_signature = signature(&new);
        let budget = if slow { slow_clock().0 } else { budget_without_end() };
        let Some(mut search) = Search::new(&base_signature, budget) else {
            return Ok(());
        };
        let mut rebuilt = base.clone();
        rebuilt.resize(new.len(), 0);
        for range in differing(&base_signature, &new_signature) {
            let range = range.start as usize..range.end as usize;
            let mut ops = Vec::new();
            for piece in new[range.clone()].chunks(piece) {
                search.feed(piece, &mut ops);
            }
            search.end(&mut ops);
            assert_merged(&ops);
            rebuilt[range.clone()].copy_from_slice(&apply(&base, &ops, &new[range]));
        }
        prop_assert!(rebuilt == new);
    }
}
