//! Contents of history in compressed form: zstd, with its own checksum.

use std::fs::File;
use std::io::{self, Read, Seek, Write};

use understudy_protocol::ContentHash;
use understudy_tree::content::HoleyHasher;
use understudy_tree::{TreeError, content};

use crate::error::ReceiverError;

/// Of source code it leaves a seventh less than level 3, at 65 MB/s; higher levels gain a few hundredths.
const LEVEL: i32 = 7;
/// Read and written at once.
const BUFFER_BYTES: usize = 128 * 1024;
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

/// What was compressed into a file: its size and hash. Nothing is written.
pub(crate) fn content_of(packed: &File) -> Result<(u64, ContentHash), ReceiverError> {
    let mut packed = packed;
    packed.rewind().map_err(damaged)?;
    let mut decoder = zstd::stream::read::Decoder::new(packed).map_err(damaged)?;
    let mut buffer = vec![0; BUFFER_BYTES];
    let (mut size, mut hasher) = (0, HoleyHasher::default());
    loop {
        let length = fill(&mut decoder, &mut buffer).map_err(damaged)?;
        hasher.update(size, &buffer[..length]);
        size += length as u64;
        if length < buffer.len() {
            return Ok((size, hasher.finish(size)));
        }
    }
}

/// Fills an empty file with what was compressed into another; long stretches of zeros become holes.
pub(crate) fn unpack(packed: &File, to: &File) -> Result<(), ReceiverError> {
    let mut packed = packed;
    packed.rewind().map_err(damaged)?;
    let mut decoder = zstd::stream::read::Decoder::new(packed).map_err(damaged)?;
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut offset = 0;
    loop {
        let length = fill(&mut decoder, &mut buffer).map_err(damaged)?;
        let data = &buffer[..length];
        if data.iter().any(|&byte| byte != 0) {
            content::write_at(to, offset, data)?;
        }
        offset += length as u64;
        if length < buffer.len() {
            return Ok(content::set_size(to, offset)?);
        }
    }
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
