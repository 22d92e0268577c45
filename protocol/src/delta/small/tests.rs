//! Small contents against edits of them, and against some that are made to defeat the search.

use proptest::prelude::*;

use super::super::noise::noise;
use super::*;

/// The pieces of `new`, which must give it, and the bytes that are sent as they are.
fn compared(base: &[u8], new: &[u8]) -> (Vec<Piece>, usize) {
    let signature = SmallSignature::of(base).expect("a signature");
    let pieces = signature.differences(new);
    assert_eq!(assemble(base, &pieces).as_deref(), Some(new));
    let literal = pieces.iter().map(|piece| match piece {
        Piece::Copy { .. } => 0,
        Piece::Data(data) => data.len(),
    });
    let literal = literal.sum();
    (pieces, literal)
}

#[test]
fn what_did_not_change_is_one_copy_with_its_end() {
    for length in [SMALLEST, SMALLEST + 1, 20_000, limits::INLINE_BYTES] {
        let base = noise(length, 1);
        let (pieces, literal) = compared(&base, &base);
        assert_eq!((pieces.len(), literal), (1, 0), "{length}");
    }
}

#[test]
fn an_edit_costs_the_blocks_that_it_touches() {
    let base = noise(30_000, 2);
    let mut new = base.clone();
    new.splice(10_000..10_003, *b"something else");
    let (pieces, literal) = compared(&base, &new);
    assert_eq!(pieces.len(), 3);
    assert!(literal <= SMALL_BLOCK + 14, "{literal}");
    let (_, literal) = compared(&base, &[b"at the front", &base[..]].concat());
    assert_eq!(literal, 12);
    let (_, literal) = compared(&base, &[&base[..], b"at the end"].concat());
    assert!(literal < SMALL_BLOCK + 10, "{literal}");
    let (_, literal) = compared(
        &base,
        &[&base[SMALL_BLOCK * 20..], &base[..SMALL_BLOCK * 20]].concat(),
    );
    assert!(literal < SMALL_BLOCK, "{literal}");
}

#[test]
fn what_is_too_small_or_too_large_has_no_signature() {
    assert_eq!(SmallSignature::of(&noise(SMALLEST - 1, 3)), None);
    assert_eq!(
        SmallSignature::of(&noise(limits::INLINE_BYTES + 1, 3)),
        None
    );
    let bytes = SmallSignature::of(&noise(limits::INLINE_BYTES, 3))
        .expect("one")
        .to_bytes();
    assert!(
        bytes.len() <= limits::INLINE_BYTES / 100 + 10,
        "{}",
        bytes.len()
    );
}

#[test]
fn many_blocks_with_the_rolling_sum_of_another_end_the_search_in_time() {
    let zeros = entries_of(&[0; SMALL_BLOCK])[0];
    let mut signature = SmallSignature::of(&noise(SMALLEST * 4, 4)).expect("one");
    // The sum of zeros with another MD4, as a block can be made to have.
    signature.entries[0][..3].copy_from_slice(&zeros[..3]);
    let new = vec![0; limits::INLINE_BYTES];
    let mut search = SmallSearch::new(&signature, &new);
    assert!(search.next_from(0).is_none());
    assert_eq!(search.mistakes, MOST_MISTAKES);
}

#[test]
fn pieces_of_a_peer_stay_within_the_base_and_the_limit() {
    let base = [1; 100];
    let copy = |from, length| Piece::Copy { from, length };
    assert_eq!(assemble(&base, &[copy(90, 10)]), Some(vec![1; 10]));
    assert_eq!(assemble(&base, &[copy(90, 11)]), None);
    assert_eq!(assemble(&base, &[copy(u32::MAX, u32::MAX)]), None);
    let many = vec![copy(0, 100); limits::INLINE_BYTES / 100 + 1];
    assert_eq!(assemble(&base, &many), None);
}

proptest! {
    #[test]
    fn any_edits_are_found_and_any_bytes_read(
        length in SMALLEST..limits::INLINE_BYTES,
        edits in prop::collection::vec((any::<u16>(), 0_usize..300, 0_usize..300), 0..8),
        stored in prop::collection::vec(any::<u8>(), 0..64),
    ) {
        let base = noise(length, 5);
        let mut new = base.clone();
        for (at, gone, came) in &edits {
            let at = usize::from(*at) % (new.len() + 1);
            let end = (at + gone).min(new.len());
            new.splice(at..end, noise(*came, 6));
        }
        new.truncate(limits::INLINE_BYTES);
        let (_, literal) = compared(&base, &new);
        // Each edit costs what came, and the block it cuts at either side.
        prop_assert!(literal <= edits.len() * (300 + 3 * SMALL_BLOCK) + SMALL_BLOCK);
        let signature = SmallSignature::of(&base).expect("one");
        prop_assert_eq!(SmallSignature::from_bytes(&signature.to_bytes()), Ok(signature));
        if let Ok(read) = SmallSignature::from_bytes(&stored) {
            let pieces = read.differences(&base);
            prop_assert!(!pieces.is_empty());
        }
    }
}
