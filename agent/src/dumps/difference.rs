//! What of a new dump stands in the one before, byte by byte. Both are on this host, so that nothing has to be asked of the spare, and a change of a
//! few bytes in a row costs a few bytes.
//!
//! The new file is gone through in windows; each is compared with the stretch of the former one that lies where it was last found, and some more on
//! either side. Memory is bounded by that.

use std::fs::File;
use std::os::unix::fs::FileExt;

/// So much of the new file is looked at in one go.
const WINDOW: usize = 8 << 20;
/// So much more of the former one, on either side.
const SLACK: u64 = 4 << 20;
/// Blocks of the former file by which a match is found.
const BLOCK: usize = 32;
/// Fewer bytes than these are sent rather than told to be a copy.
const LEAST: usize = 48;

/// A stretch of the new file, in their order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Stretch<'a> {
    /// Bytes that are new.
    New(&'a [u8]),
    /// Bytes of the former file.
    Former {
        /// Where they begin there.
        from: u64,
        /// How many they are.
        length: u64,
    },
}

/// Calls `tell` for each stretch of `new`, a file of so many bytes.
pub(crate) fn difference<E: From<std::io::Error>>(
    (former, former_size): (&File, u64),
    (new, new_size): (&File, u64),
    tell: &mut dyn FnMut(Stretch<'_>) -> Result<(), E>,
) -> Result<(), E> {
    let mut finder = Finder::default();
    let (mut data, mut base) = (Vec::new(), Vec::new());
    let mut at = 0_u64;
    // Where the byte after the last match is in the former file, less where it is in the new one.
    let mut shift = 0_i64;
    while at < new_size {
        let length = WINDOW.min(usize::try_from(new_size - at).unwrap_or(WINDOW));
        read(new, at, length, &mut data)?;
        let expected = at.saturating_add_signed(shift);
        let begin = expected.saturating_sub(SLACK).min(former_size);
        let end = expected
            .saturating_add(length as u64)
            .saturating_add(SLACK)
            .min(former_size);
        let stretch = usize::try_from(end - begin).unwrap_or(0);
        read(former, begin, stretch, &mut base)?;
        finder.index(&base);
        let origin = usize::try_from(expected.saturating_sub(begin)).unwrap_or(0);
        let last = finder.compare(&base, &data, origin, &mut |found| {
            tell(match found {
                Found::New(range) => Stretch::New(&data[range]),
                Found::Former { from, length } => Stretch::Former {
                    from: begin + from as u64,
                    length: length as u64,
                },
            })
        })?;
        at += length as u64;
        if let Some(after) = last {
            shift = (begin + after as u64).cast_signed() - at.cast_signed();
        }
    }
    Ok(())
}

fn read(file: &File, at: u64, length: usize, buffer: &mut Vec<u8>) -> std::io::Result<()> {
    buffer.resize(length, 0);
    file.read_exact_at(buffer, at)
}

/// What a comparison finds, by positions in its two buffers.
enum Found {
    New(std::ops::Range<usize>),
    Former { from: usize, length: usize },
}

/// Where blocks of a stretch stand.
#[derive(Debug, Default)]
struct Finder {
    /// By a hash of their content: a position, plus one.
    places: Vec<u32>,
    bits: u32,
}

impl Finder {
    fn index(&mut self, base: &[u8]) {
        let blocks = base.len() / BLOCK;
        self.bits = (blocks.max(1) * 2).next_power_of_two().trailing_zeros();
        self.places.clear();
        self.places.resize(1 << self.bits, 0);
        for number in 0..blocks {
            let at = number * BLOCK;
            let slot = self.slot(&base[at..at + BLOCK]);
            // The first one: rows that repeat are extended from there.
            if self.places[slot] == 0 {
                self.places[slot] = at as u32 + 1;
            }
        }
    }

    fn slot(&self, block: &[u8]) -> usize {
        let mut sum = 0_u64;
        for word in block.chunks_exact(8) {
            let word = word.try_into().map_or(0, u64::from_le_bytes);
            sum = (sum ^ word)
                .wrapping_mul(0x9E37_79B9_7F4A_7C15)
                .rotate_left(29);
        }
        (sum.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> (64 - self.bits.max(1))) as usize
    }

    /// Compares, beginning at `origin` of the base; returns where the base goes on after the last match, as far as that reaches the end of the data.
    fn compare<E>(
        &self,
        base: &[u8],
        data: &[u8],
        origin: usize,
        tell: &mut dyn FnMut(Found) -> Result<(), E>,
    ) -> Result<Option<usize>, E> {
        let (mut told, mut at) = (0, 0);
        // Where the base would go on if nothing had changed.
        let mut onward = origin;
        let mut last = None;
        while at < data.len() {
            let Some((from, length)) = self.at(base, data, (at, told), onward) else {
                at += 1;
                onward += 1;
                continue;
            };
            let back = before(base, data, from, at, told);
            let (begin, length) = (at - back, length + back);
            if length < LEAST {
                at += 1;
                onward += 1;
                continue;
            }
            if begin > told {
                tell(Found::New(told..begin))?;
            }
            let from = from - back;
            tell(Found::Former { from, length })?;
            at = begin + length;
            told = at;
            onward = from + length;
            last = Some(onward);
        }
        if told < data.len() {
            tell(Found::New(told..data.len()))?;
            last = last.map(|last| last + (data.len() - told));
        }
        Ok(last)
    }

    /// A match at a position of the data: where the base would go on, or wherever a block of it stands.
    fn at(
        &self,
        base: &[u8],
        data: &[u8],
        (at, _): (usize, usize),
        onward: usize,
    ) -> Option<(usize, usize)> {
        let block = data.get(at..at + BLOCK)?;
        if base.get(onward..onward + BLOCK) == Some(block) {
            return Some((onward, common(&base[onward..], &data[at..])));
        }
        let place = self.places[self.slot(block)].checked_sub(1)? as usize;
        let is_same = base.get(place..place + BLOCK) == Some(block);
        is_same.then(|| (place, common(&base[place..], &data[at..])))
    }
}

/// How many bytes both begin with.
fn common(one: &[u8], other: &[u8]) -> usize {
    let mut length = 0;
    for (one, other) in one.chunks(256).zip(other.chunks(256)) {
        if one == other {
            length += one.len();
            continue;
        }
        let same = one
            .iter()
            .zip(other)
            .take_while(|(one, other)| one == other);
        return length + same.count();
    }
    length
}

/// How many bytes before both positions are the same, back to what was told.
fn before(base: &[u8], data: &[u8], from: usize, at: usize, told: usize) -> usize {
    let limit = from.min(at - told);
    let earlier = (1..=limit).take_while(|back| base[from - back] == data[at - back]);
    earlier.count()
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn file(content: &[u8]) -> (File, u64) {
        let mut file = tempfile::tempfile().expect("file");
        file.write_all(content).expect("write");
        (file, content.len() as u64)
    }

    /// Bytes that are sent, and copies; what they lead to must be the new file.
    fn cost(former: &[u8], new: &[u8]) -> (usize, usize) {
        let (one, other) = (file(former), file(new));
        let (mut sent, mut copies, mut made) = (0, 0, Vec::new());
        difference::<std::io::Error>((&one.0, one.1), (&other.0, other.1), &mut |stretch| {
            match stretch {
                Stretch::New(bytes) => {
                    sent += bytes.len();
                    made.extend_from_slice(bytes);
                }
                Stretch::Former { from, length } => {
                    copies += 1;
                    made.extend_from_slice(&former[from as usize..(from + length) as usize]);
                }
            }
            Ok(())
        })
        .expect("difference");
        assert!(made == new, "it leads elsewhere");
        (sent, copies)
    }

    fn rows(count: u64) -> Vec<String> {
        let mut seed = 7_u64;
        (0..count)
            .map(|number| {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                format!(
                    "({number},'picture {:x}.jpg',{},'2026-11-27 10:00:00'),\n",
                    seed >> 20,
                    seed % 1000
                )
            })
            .collect()
    }

    #[test]
    fn few_bytes_in_a_row_cost_few_bytes() {
        let former = rows(200_000);
        let mut new = former.clone();
        for number in 0..300 {
            let row = &mut new[number * 600 + 11];
            *row = row.replace(",'2026-11-27 10", ",'2026-11-28 11");
        }
        for number in 0..40 {
            new.insert(number * 4000, format!("(9{number},'new','x'),\n"));
        }
        new.drain(150_000..150_500);
        let (former, new) = (former.concat(), new.concat());
        assert!(former.len() > 10 << 20, "more than one window");
        let (sent, copies) = cost(former.as_bytes(), new.as_bytes());
        assert!(sent < 300 * 8 + 40 * 30 + 2000, "{sent} in {copies}");
        assert!(copies < 1000, "{copies}");
    }

    #[test]
    fn odd_files_lead_to_what_they_are() {
        let text = rows(1000).concat().into_bytes();
        assert_eq!(cost(b"", &text).0, text.len());
        assert_eq!(cost(&text, b""), (0, 0));
        assert_eq!(cost(&text, &text), (0, 1));
        assert_eq!(cost(b"short", b"short"), (5, 0));
        let zeros = vec![0; 20 << 20];
        assert!(cost(&zeros, &zeros[1..]).0 < 100);
        assert!(cost(&zeros[1..], &zeros).0 < 100);
        let twice = [text.as_slice(), text.as_slice()].concat();
        assert!(cost(&text, &twice).0 < 100);
        let mut other = text.clone();
        other.reverse();
        cost(&text, &other);
    }

    #[test]
    fn what_moved_by_less_than_the_slack_is_found() {
        let former = rows(300_000).concat().into_bytes();
        let inserted = vec![b'x'; 3 << 20];
        let new = [&former[..5 << 20], &inserted, &former[5 << 20..]].concat();
        let (sent, copies) = cost(&former, &new);
        assert!(sent < (3 << 20) + 5000, "{sent} in {copies}");
    }
}
