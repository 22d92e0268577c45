//! Contents of history in compressed form: zstd, with its own checksum.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufReader, Read, Write};

use understudy_protocol::ContentHash;
use understudy_protocol::delta::LARGEST_SENT_GROUP;
use understudy_tree::content::{Extent, HoleyHasher};
use understudy_tree::{TreeError, content};

use crate::error::ReceiverError;

/// Of source code it leaves a seventh less than level 3, at 65 MB/s; higher levels gain a few hundredths.
const LEVEL: i32 = 7;
/// Read and written at once.
const BUFFER_BYTES: usize = 128 * 1024;
/// Pieces of a content that are kept while it is read: who compares it goes back by up to a group.
const KEPT_PIECES: usize = LARGEST_SENT_GROUP as usize / BUFFER_BYTES + 2;
/// At least one part in so many must be gained.
const LEAST_GAIN: u64 = 8;

/// Whether a file is worth compressing, by its first bytes.
pub(crate) fn promises_gain(file: &File) -> Result<bool, ReceiverError> {
    let mut sample = vec![0; BUFFER_BYTES];
    let length = content::read_at(file, 0, &mut sample)?;
    let packed = zstd::bulk::compress(&sample[..length], 1).map_err(failed)?;
    Ok(is_gain(length as u64, packed.len() as u64))
}

/// Whether so many bytes are worth being kept as so few.
pub(crate) fn is_gain(bytes: u64, packed_bytes: u64) -> bool {
    packed_bytes <= bytes - bytes.div_ceil(LEAST_GAIN)
}

/// Compresses the first `size` bytes of a file into an empty one. Returns their hash.
pub(crate) fn pack(from: &File, size: u64, to: &File) -> Result<ContentHash, ReceiverError> {
    let started = || -> io::Result<zstd::stream::write::Encoder<'static, &File>> {
        let mut encoder = zstd::stream::write::Encoder::new(to, LEVEL)?;
        encoder.include_checksum(true)?;
        encoder.set_pledged_src_size(Some(size))?;
        Ok(encoder)
    };
    let mut encoder = started().map_err(failed)?;
    let mut hasher = HoleyHasher::default();
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut offset = 0;
    while offset < size {
        let wanted = (size - offset).min(BUFFER_BYTES as u64) as usize;
        let length = content::read_at(from, offset, &mut buffer[..wanted])?;
        if length == 0 {
            return Err(failed(io::ErrorKind::UnexpectedEof.into()));
        }
        hasher.update(offset, &buffer[..length]);
        encoder.write_all(&buffer[..length]).map_err(failed)?;
        offset += length as u64;
    }
    encoder.finish().map_err(failed)?;
    Ok(hasher.finish(size))
}

/// Fills an empty file with what was compressed into another; long stretches of zeros become holes.
pub(crate) fn unpack(packed: &File, to: &File) -> Result<(), ReceiverError> {
    let size = each_piece(packed, |offset, data| {
        if is_data(data) {
            content::write_at(to, offset, data)?;
        }
        Ok(())
    })?;
    Ok(content::set_size(to, size)?)
}

/// The size and the hash of what was compressed into a file.
pub(crate) fn hash(packed: &File) -> Result<(u64, ContentHash), ReceiverError> {
    let mut hasher = HoleyHasher::default();
    let size = each_piece(packed, |offset, data| {
        hasher.update(offset, data);
        Ok(())
    })?;
    Ok((size, hasher.finish(size)))
}

/// Visits what was compressed into a file in order, with its offset; returns its size.
fn each_piece(
    packed: &File,
    mut visit: impl FnMut(u64, &[u8]) -> Result<(), ReceiverError>,
) -> Result<u64, ReceiverError> {
    let mut decoder = decoder(packed)?;
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut offset = 0;
    loop {
        let length = fill(&mut decoder, &mut buffer).map_err(damaged)?;
        visit(offset, &buffer[..length])?;
        offset += length as u64;
        if length < buffer.len() {
            return Ok(offset);
        }
    }
}

/// What was compressed into a file, read without room on the disk. Reading forward, and back by no more than
/// [`LARGEST_SENT_GROUP`], is cheap; further back it begins anew.
pub(crate) struct Unpacking {
    packed: File,
    decoder: Option<Decoder>,
    /// The last pieces that came, all of the same size but for the one at the end of the content.
    pieces: VecDeque<Vec<u8>>,
    /// The number of the first of them.
    first: u64,
}

impl Unpacking {
    pub(crate) fn new(packed: File) -> Self {
        Self {
            packed,
            decoder: None,
            pieces: VecDeque::new(),
            first: 0,
        }
    }

    /// The compressed file.
    pub(crate) fn packed(&self) -> &File {
        &self.packed
    }

    /// The stretches below `size` that hold data, found by reading everything.
    pub(crate) fn data_extents(&self, size: u64) -> Result<Vec<Extent>, ReceiverError> {
        let mut extents: Vec<Extent> = Vec::new();
        each_piece(&self.packed, |offset, data| {
            let length = (data.len() as u64).min(size.saturating_sub(offset));
            if is_data(&data[..length as usize]) {
                match extents.last_mut() {
                    Some((start, before)) if *start + *before == offset => *before += length,
                    _ => extents.push((offset, length)),
                }
            }
            Ok(())
        })?;
        Ok(extents)
    }

    /// Reads until the buffer is full or the content ends; returns the number of bytes read.
    pub(crate) fn read_at(
        &mut self,
        offset: u64,
        buffer: &mut [u8],
    ) -> Result<usize, ReceiverError> {
        let mut filled = 0;
        while filled < buffer.len() {
            let at = offset + filled as u64;
            let piece = self.piece(at / BUFFER_BYTES as u64)?;
            let rest = piece.get((at % BUFFER_BYTES as u64) as usize..);
            let rest = rest.unwrap_or_default();
            if rest.is_empty() {
                break;
            }
            let length = rest.len().min(buffer.len() - filled);
            buffer[filled..filled + length].copy_from_slice(&rest[..length]);
            filled += length;
        }
        Ok(filled)
    }

    /// The piece of a number; an empty one beyond the end.
    fn piece(&mut self, number: u64) -> Result<&[u8], ReceiverError> {
        if number < self.first {
            self.decoder = None;
        }
        let decoder = match &mut self.decoder {
            Some(decoder) => decoder,
            None => {
                self.pieces.clear();
                self.first = 0;
                self.decoder.insert(decoder(&self.packed)?)
            }
        };
        while number >= self.first + self.pieces.len() as u64 {
            let is_over = |last: &Vec<u8>| last.len() < BUFFER_BYTES;
            if self.pieces.back().is_some_and(is_over) {
                return Ok(&[]);
            }
            let mut piece = Vec::new();
            if self.pieces.len() >= KEPT_PIECES {
                piece = self.pieces.pop_front().unwrap_or_default();
                self.first += 1;
            }
            piece.resize(BUFFER_BYTES, 0);
            match fill(decoder, &mut piece) {
                Ok(length) => piece.truncate(length),
                Err(error) => {
                    // It is not known any more where it stands.
                    self.decoder = None;
                    return Err(damaged(error));
                }
            }
            self.pieces.push_back(piece);
        }
        Ok(&self.pieces[(number - self.first) as usize])
    }
}

type Decoder = zstd::stream::read::Decoder<'static, BufReader<FromStart>>;

fn decoder(packed: &File) -> Result<Decoder, ReceiverError> {
    let from = FromStart {
        file: packed.try_clone().map_err(damaged)?,
        offset: 0,
    };
    Decoder::new(from).map_err(damaged)
}

/// Reads a file wherever others who have it open are.
struct FromStart {
    file: File,
    offset: u64,
}

impl Read for FromStart {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length =
            content::read_at(&self.file, self.offset, buffer).map_err(|error| {
                match error.errno() {
                    Some(errno) => errno.into(),
                    None => io::Error::other(error),
                }
            })?;
        self.offset += length as u64;
        Ok(length)
    }
}

fn is_data(piece: &[u8]) -> bool {
    piece.iter().any(|&byte| byte != 0)
}

/// Reads until the buffer is full or nothing comes any more.
fn fill(from: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match from.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(length) => filled += length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

fn failed(error: io::Error) -> ReceiverError {
    TreeError::new("compress", b"an object of history", error).into()
}

/// What the disk cannot read is its own error; what zstd cannot is damage.
fn damaged(error: io::Error) -> ReceiverError {
    if error.raw_os_error().is_some() {
        return TreeError::new("read", b"an object of history", error).into();
    }
    ReceiverError::Damaged(format!(
        "a compressed object of history is damaged: {error}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Data, a hole, and data to a size that is no multiple of a piece.
    fn packed() -> (Vec<u8>, File) {
        let mut bytes: Vec<u8> = (0..12_000_123_u32).map(|at| (at / 7 % 251) as u8).collect();
        bytes[1_000_000..4_000_000].fill(0);
        let (whole, packed) = (tempfile::tempfile(), tempfile::tempfile());
        let (whole, packed) = (whole.expect("file"), packed.expect("file"));
        content::write_at(&whole, 0, &bytes).expect("write");
        let hash = pack(&whole, bytes.len() as u64, &packed).expect("pack");
        assert_eq!(hash, ContentHash::of(&bytes));
        (bytes, packed)
    }

    #[test]
    fn what_was_compressed_is_read_at_any_place_in_any_order() {
        let (bytes, packed) = packed();
        let size = bytes.len() as u64;
        assert_eq!(
            hash(&packed).expect("hash"),
            (size, ContentHash::of(&bytes))
        );
        let mut unpacking = Unpacking::new(packed);
        let mut buffer = vec![0; 300_000];
        for offset in [
            0,
            299_999,
            11_000_000,
            10_900_000,
            4_000_000,
            11_900_000,
            5,
            size,
            size + 1,
            1 << 40,
        ] {
            let got = unpacking.read_at(offset, &mut buffer).expect("read");
            let wanted = &bytes[offset.min(size) as usize..(offset + 300_000).min(size) as usize];
            assert!(buffer[..got] == *wanted, "{offset}: {got}");
        }
        let extents = unpacking.data_extents(size).expect("extents");
        let (hole, piece) = (3_000_000, BUFFER_BYTES as u64);
        let data: u64 = extents.iter().map(|(_, length)| length).sum();
        assert!(
            extents.len() == 2 && data < size - hole + 2 * piece,
            "{extents:?}"
        );
        assert_eq!(unpacking.data_extents(100).expect("extents"), [(0, 100)]);
    }

    #[test]
    fn going_back_by_a_group_decodes_nothing_again() {
        let (_, packed) = packed();
        let mut unpacking = Unpacking::new(packed);
        let mut buffer = vec![0; 100];
        unpacking.read_at(11_000_000, &mut buffer).expect("read");
        let first = unpacking.first;
        assert!(first > 0);
        let back = 11_000_000 - LARGEST_SENT_GROUP;
        unpacking.read_at(back, &mut buffer).expect("read");
        assert_eq!(unpacking.first, first);
    }
}
