//! Signatures, searches by them, and contents put together of pieces.

use std::time::Duration;

use understudy_protocol::delta::{
    Budget, Op, SMALLEST, Search, Signature, SmallSignature, Summer, assemble, differing,
};
use understudy_protocol::limits;
use understudy_protocol::message::Piece;

use crate::choices::Choices;

/// More is not made of one input.
const MOST: usize = 1 << 18;

/// Signatures that were made by nobody, and searches by them: what is found adds up, lies within the base, and takes no longer
/// than it may.
pub(crate) fn signatures(data: &[u8]) {
    let mut choices = Choices::new(data);
    match choices.below(3) {
        0 => stored(choices.rest()),
        1 => searched(&mut choices),
        _ => small(&mut choices),
    }
}

fn stored(bytes: &[u8]) {
    if let Ok(signature) = Signature::from_bytes(bytes) {
        assert_eq!(signature.to_bytes(), bytes);
        search(
            &signature,
            &bytes.repeat(40)[..(bytes.len() * 40).min(MOST)],
        );
        let mut summer = Summer::new(signature.size());
        summer.update(bytes);
        compare(&signature, &summer.finish().signature);
    }
    if let Ok(signature) = SmallSignature::from_bytes(bytes) {
        assert_eq!(signature.to_bytes(), bytes);
        let content = bytes.repeat(1 + limits::INLINE_BYTES / (bytes.len() + 1));
        let content = &content[..content.len().min(limits::INLINE_BYTES)];
        let length: usize = signature
            .differences(content)
            .iter()
            .map(|piece| match piece {
                Piece::Copy { length, .. } => *length as usize,
                Piece::Data(data) => data.len(),
            })
            .sum();
        assert_eq!(length, content.len());
    }
}

/// A signature with some bytes changed, and another content.
fn searched(choices: &mut Choices<'_>) {
    let said = choices.number();
    let mut bytes = signature(&content(choices), said).to_bytes();
    for _ in 0..choices.below(4) {
        let at = usize::from(choices.short()) % bytes.len();
        bytes[at] = choices.byte();
    }
    let Ok(base) = Signature::from_bytes(&bytes) else {
        return;
    };
    let new = content(choices);
    search(&base, &new);
    compare(&base, &signature(&new, said));
}

fn signature(content: &[u8], said: u64) -> Signature {
    let mut summer = Summer::new(said);
    summer.update(content);
    summer.finish().signature
}

fn search(base: &Signature, content: &[u8]) {
    // A clock that runs ahead by itself: no search takes more looks than it has time for.
    let mut time = Duration::ZERO;
    let budget = Budget::new(move || {
        time += Duration::from_micros(170);
        time
    });
    let Some(mut search) = Search::new(base, budget) else {
        return;
    };
    let mut ops = Vec::new();
    content
        .chunks(100_000)
        .for_each(|piece| search.feed(piece, &mut ops));
    search.end(&mut ops);
    let mut length = 0;
    for op in ops {
        match op {
            Op::Copy {
                from,
                length: copied,
            } => {
                assert!(
                    from.checked_add(copied)
                        .is_some_and(|end| end <= base.size())
                );
                length += copied;
            }
            Op::Literal { length: literal } => length += literal,
        }
    }
    assert_eq!(length, content.len() as u64);
}

fn compare(base: &Signature, new: &Signature) {
    let mut end = 0;
    for range in differing(base, new) {
        assert!(range.start >= end && range.start < range.end && range.end <= new.size());
        end = range.end;
    }
}

/// Some content: pieces of the input, each repeated, or counted through.
fn content(choices: &mut Choices<'_>) -> Vec<u8> {
    let mut content = Vec::new();
    for _ in 0..1 + choices.below(4) {
        let piece = choices.some();
        let times = usize::from(choices.short() % 2048);
        for _ in 0..times {
            if content.len() + piece.len() > MOST {
                return content;
            }
            content.extend(piece);
        }
    }
    content
}

/// What is found of one small content in another puts that together again.
fn small(choices: &mut Choices<'_>) {
    let mut base = content(choices);
    base.truncate(limits::INLINE_BYTES);
    let Some(signature) = SmallSignature::of(&base) else {
        assert!(base.len() < SMALLEST);
        return;
    };
    let mut new = content(choices);
    new.truncate(limits::INLINE_BYTES);
    // Short sums of text may be alike: what comes of it is as long, and its hash is compared elsewhere.
    let made = assemble(&base, &signature.differences(&new)).expect("within the base");
    assert_eq!(made.len(), new.len());
}

/// Pieces give a content that is no longer than allowed and takes nothing from outside the base.
pub(crate) fn deltas(data: &[u8]) {
    let mut choices = Choices::new(data);
    let mut base = content(&mut choices);
    base.truncate(limits::INLINE_BYTES);
    let mut pieces = Vec::new();
    let mut expected = Some(Vec::new());
    while !choices.is_empty() && pieces.len() < 4096 {
        let piece = if choices.seldom(3) {
            Piece::Data(choices.some().into())
        } else {
            Piece::Copy {
                from: choices.number() as u32,
                length: choices.number() as u32,
            }
        };
        let data = match &piece {
            Piece::Data(data) => Some(&data[..]),
            Piece::Copy { from, length } => {
                let (from, length) = (u64::from(*from), u64::from(*length));
                (from + length <= base.len() as u64)
                    .then(|| &base[from as usize..(from + length) as usize])
            }
        };
        expected = expected
            .zip(data)
            .map(|(before, data)| [&before[..], data].concat());
        expected = expected.filter(|content| content.len() <= limits::INLINE_BYTES);
        pieces.push(piece);
    }
    assert_eq!(assemble(&base, &pieces), expected);
}

pub(crate) fn signatures_seeds() -> Vec<Vec<u8>> {
    let text = b"the quick brown fox jumps over the lazy dog. ".repeat(300);
    let noise: Vec<u8> = (0..9000_u32)
        .map(|at| (at.wrapping_mul(at) >> 3) as u8)
        .collect();
    let mut seeds = Vec::new();
    for content in [&text[..], &noise, &[0; 10_000]] {
        seeds.push(
            [
                &[0],
                &signature(content, content.len() as u64).to_bytes()[..],
            ]
            .concat(),
        );
        let small = SmallSignature::of(content).expect("not too small");
        seeds.push([&[0], &small.to_bytes()[..]].concat());
    }
    let piece =
        |bytes: &[u8], times: u16| [&[bytes.len() as u8], bytes, &times.to_le_bytes()].concat();
    for kind in [1, 2] {
        let two = |first: Vec<u8>, second: Vec<u8>| [&[1][..], &first, &second].concat();
        let base = two(piece(&noise[..200], 60), piece(b"", 0));
        let new = two(piece(b"before", 1), piece(&noise[..200], 50));
        let said: &[u8] = if kind == 1 { &[0] } else { &[] };
        let changed: &[u8] = if kind == 1 { &[1, 30, 0, 7] } else { &[] };
        seeds.push([&[kind], said, &base, changed, &new].concat());
    }
    seeds
}

pub(crate) fn deltas_seeds() -> Vec<Vec<u8>> {
    let base = [&[0, 100][..], &[b'x'; 100], &[200, 0]].concat();
    vec![
        [&base[..], &[0, 5, 100, 2, 3, b'n', b'e', b'w', 0, 0, 120]].concat(),
        [&base[..], &[0, 169, 1, 0, 1, 169]].concat(),
        [&base[..], &[0, 0, 167, 0, 0, 168]].concat(),
    ]
}
