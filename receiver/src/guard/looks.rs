//! What a content looks like, from samples: text and programs, something packed, or noise.

use std::fs::File;

use understudy_protocol::randomness::looks_random;
use understudy_tree::{TreeError, content};

/// Bytes that are looked at, at the begin and in the middle.
const SAMPLE_BYTES: usize = 16 * 1024;
/// From so many bytes on their frequencies tell noise for sure.
const SURE_BYTES: usize = 8 * 1024;
/// Fewer bytes than this tell nothing but whether they are text.
const FEW_BYTES: usize = 256;

/// Fewer bytes than this may all be the same by right.
const LEAST_BYTES: usize = 16;

/// How files begin that are noise by right: gzip, xz, zstd, bzip2, lz4, 7z, zip, PNG, JPEG, GIF, RIFF (WebP), Ogg, PDF, a git pack.
const MAGICS: [&[u8]; 15] = [
    b"\x1f\x8b",
    b"\xfd7zXZ\0",
    b"\x28\xb5\x2f\xfd",
    b"BZh",
    b"\x04\x22\x4d\x18",
    b"7z\xbc\xaf",
    b"PK\x03\x04",
    b"\x89PNG",
    b"\xff\xd8\xff",
    b"GIF8",
    b"RIFF",
    b"OggS",
    b"%PDF",
    b"PACK",
    b"\x1a\x45\xdf\xa3",
];

/// What a content looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Looks {
    /// It has structure: text, a program, a database.
    Plain,
    /// It is compressed, and says so at its begin.
    Packed,
    /// Every byte is as likely as any other, and nothing says why.
    Noise,
    /// Every byte is the same.
    Blank,
}

/// Looks at a file of `size` bytes.
pub(super) fn of_file(file: &File, size: u64) -> Result<Looks, TreeError> {
    let begin = sample(file, 0)?;
    let middle = if size > 3 * SAMPLE_BYTES as u64 {
        sample(file, size / 2)?
    } else {
        Vec::new()
    };
    Ok(of(&begin, &middle))
}

/// Looks at the begin of a stretch of a file; `None` if nothing is there.
pub(super) fn of_stretch(file: &File, start: u64, end: u64) -> Result<Option<Looks>, TreeError> {
    let mut bytes = sample(file, start)?;
    let length = usize::try_from(end - start).unwrap_or(usize::MAX);
    bytes.truncate(length);
    // Bytes that are all the same are nothing to be lost, or gained.
    let looks = of(&bytes, &[]);
    Ok((!bytes.is_empty() && looks != Looks::Blank).then_some(looks))
}

fn sample(file: &File, offset: u64) -> Result<Vec<u8>, TreeError> {
    let mut bytes = vec![0; SAMPLE_BYTES];
    let length = content::read_at(file, offset, &mut bytes)?;
    bytes.truncate(length);
    Ok(bytes)
}

/// A begin that was left as it was does not hide that the rest became noise.
fn of(begin: &[u8], middle: &[u8]) -> Looks {
    let is_blank = |bytes: &[u8]| bytes.windows(2).all(|pair| pair[0] == pair[1]);
    if begin.len() >= LEAST_BYTES && is_blank(begin) && is_blank(middle) {
        return Looks::Blank;
    }
    if MAGICS.iter().any(|magic| begin.starts_with(magic)) {
        return Looks::Packed;
    }
    if is_noise(begin) || is_noise(middle) {
        Looks::Noise
    } else {
        Looks::Plain
    }
}

fn is_noise(bytes: &[u8]) -> bool {
    if bytes.len() >= SURE_BYTES {
        return looks_random(bytes);
    }
    if bytes.is_empty() || is_text(bytes) {
        return false;
    }
    if bytes.len() < FEW_BYTES {
        // Whether it was text before is what tells.
        return true;
    }
    // Of random bytes half are above 127, and a ninth are control characters that no text has.
    let part = |count: usize| count * 1000 / bytes.len();
    let high = part(bytes.iter().filter(|byte| **byte > 127).count());
    let control = part(bytes.iter().filter(|byte| is_control(**byte)).count());
    (370..=630).contains(&high) && (50..=200).contains(&control)
}

fn is_control(byte: u8) -> bool {
    byte < 0x20 && !matches!(byte, b'\t' | b'\n' | b'\r')
}

/// UTF-8, cut anywhere, without control characters.
fn is_text(bytes: &[u8]) -> bool {
    let valid = match std::str::from_utf8(bytes) {
        Ok(_) => true,
        Err(error) => error.error_len().is_none(),
    };
    valid && !bytes.iter().any(|byte| is_control(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn random(seed: u8, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        let mut hasher = blake3::Hasher::new();
        hasher.update(&[seed]).finalize_xof().fill(&mut bytes);
        bytes
    }

    fn looks(bytes: &[u8]) -> Looks {
        of(&bytes[..bytes.len().min(SAMPLE_BYTES)], b"")
    }

    #[test]
    fn noise_of_any_length_is_told_from_text_and_programs() {
        let text: Vec<u8> = (0..4000)
            .flat_map(|line| format!("line {line} of a file, naïve: 変\n").into_bytes())
            .collect();
        let program = std::fs::read("/proc/self/exe").expect("program");
        for length in [20, 100, 256, 1000, 4096, 8191, 8192, 16384] {
            assert_eq!(looks(&text[..length]), Looks::Plain, "{length}");
            for seed in 0..20 {
                assert_eq!(looks(&random(seed, length)), Looks::Noise, "{length}");
            }
            if length >= FEW_BYTES {
                assert_eq!(looks(&program[..length]), Looks::Plain, "{length}");
            }
        }
        assert_eq!(looks(b""), Looks::Plain);
    }

    #[test]
    fn what_has_one_byte_only_is_blank() {
        assert_eq!(looks(&[0; 5000]), Looks::Blank);
        assert_eq!(of(&[0; 5000], b"text"), Looks::Plain);
        assert_eq!(looks(b"0"), Looks::Plain);
    }

    #[test]
    fn what_says_that_it_is_packed_is_no_noise() {
        let packed = [b"\x1f\x8b\x08", &random(1, 9000)[..]].concat();
        assert_eq!(looks(&packed), Looks::Packed);
    }

    #[test]
    fn noise_behind_an_intact_begin_is_noise() {
        let begin = b"a page of text\n".repeat(1000);
        assert_eq!(of(&begin, &random(1, SAMPLE_BYTES)), Looks::Noise);
        assert_eq!(of(&begin, &begin), Looks::Plain);
    }
}
