//! Reading, writing, hashing and copying file contents, holes included.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

use rustix::fs::{
    Advice, FallocateFlags, SeekFrom, copy_file_range, fadvise, fallocate, ioctl_ficlone, seek,
};
use rustix::io::Errno;
use understudy_protocol::ContentHash;

use crate::error::{Context, TreeError};

/// Large enough that system calls do not count, small enough for every worker to hold one.
pub const BUFFER_BYTES: usize = 512 * 1024;
static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];

/// A stretch of a file that has data: offset and length in bytes.
pub type Extent = (u64, u64);

/// The stretches below `size` that hold data. A file system without support for holes has one.
pub fn data_extents(file: &File, size: u64) -> Result<Vec<Extent>, TreeError> {
    Extents::default().within(file, 0..size)
}

/// Where a file has data, as far as it was asked for.
///
/// The kernel looks at all that is before the next hole, which may be the end of the file. So what it said last is remembered,
/// for whoever goes through a file in small steps.
#[derive(Debug, Clone, Default)]
pub struct Extents {
    /// All of this was data when it was asked for.
    data: Range<u64>,
}

impl Extents {
    /// The parts of a stretch that hold data. It is always asked anew what was a hole; what became one meanwhile may be told
    /// as data, which reads as zeros.
    pub fn within(&mut self, file: &File, stretch: Range<u64>) -> Result<Vec<Extent>, TreeError> {
        let mut position = stretch.start;
        let mut extents = Vec::new();
        while position < stretch.end {
            if !self.data.contains(&position) && !self.look(file, position, stretch.end)? {
                break;
            }
            let start = position.max(self.data.start);
            let end = stretch.end.min(self.data.end);
            // A file that is being truncated can answer anything; never go round in circles.
            if end <= start {
                break;
            }
            extents.push((start, end - start));
            position = end;
        }
        Ok(extents)
    }

    /// Finds the first data from `position` on; whether there is some before `end`.
    fn look(&mut self, file: &File, position: u64, end: u64) -> Result<bool, TreeError> {
        let start = match seek(file, SeekFrom::Data(position)) {
            Ok(start) if start < end => start,
            Ok(_) | Err(Errno::NXIO) => return Ok(false),
            Err(Errno::INVAL | Errno::OPNOTSUPP) => {
                self.data = position..end;
                return Ok(true);
            }
            Err(error) => return Err(TreeError::new("look for holes in", b"a file", error)),
        };
        let hole = seek(file, SeekFrom::Hole(start)).context("look for holes in", b"a file")?;
        self.data = start..hole;
        Ok(true)
    }
}

/// Reads until `buffer` is full or the file ends; returns the number of bytes read.
pub fn read_at(file: &File, offset: u64, buffer: &mut [u8]) -> Result<usize, TreeError> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(length) => filled += length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(TreeError::new("read", b"a file", error)),
        }
    }
    Ok(filled)
}

/// Writes all of `data` at `offset`.
pub fn write_at(file: &File, offset: u64, data: &[u8]) -> Result<(), TreeError> {
    file.write_all_at(data, offset).context("write", b"a file")
}

/// The length in bytes.
pub fn size(file: &File) -> Result<u64, TreeError> {
    file.metadata()
        .map(|metadata| metadata.len())
        .context("stat", b"a file")
}

/// Takes a write lease: nobody else has the file open, and whoever opens it waits until this descriptor is closed (for
/// `fs.lease-break-time` at most, 45 seconds as the system comes). Where there are no leases this fails.
pub fn take_lease(file: &File) -> bool {
    crate::raw::take_write_lease(file.as_fd())
}

/// Makes the content durable. An error is final: the kernel has dropped what it could not write.
pub fn sync(file: &File) -> Result<(), TreeError> {
    rustix::fs::fdatasync(file).context("sync", b"a file")
}

/// Sets the length; what was not written before it is a hole.
pub fn set_size(file: &File, size: u64) -> Result<(), TreeError> {
    file.set_len(size).context("set the length of", b"a file")
}

/// Hashes content that arrives in pieces with holes between them.
#[derive(Debug, Clone, Default)]
pub struct HoleyHasher {
    hasher: blake3::Hasher,
    position: u64,
}

impl HoleyHasher {
    /// Data at `offset`, which is at or after the end of what came before; the stretch between is a hole.
    pub fn update(&mut self, offset: u64, data: &[u8]) {
        self.zeros_until(offset);
        self.hasher.update(data);
        self.position = offset + data.len() as u64;
    }

    /// The end of what came so far.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// The hash of `size` bytes.
    pub fn finish(mut self, size: u64) -> ContentHash {
        self.zeros_until(size);
        self.hasher.finalize().into()
    }

    /// What comes up to `end` is a hole.
    pub fn zeros_until(&mut self, end: u64) {
        while self.position < end {
            let length = (end - self.position).min(ZEROS.len() as u64);
            self.hasher.update(&ZEROS[..length as usize]);
            self.position += length;
        }
    }
}

/// Hashes an open file up to its `size`. Shorter content gives an error.
pub fn hash_file(file: &File, size: u64) -> Result<ContentHash, TreeError> {
    let mut hasher = HoleyHasher::default();
    read_stretch(file, &mut Extents::default(), 0..size, |offset, data| {
        hasher.update(offset, data);
        Ok(())
    })?;
    Ok(hasher.finish(size))
}

/// Visits the data of a stretch in order, with its offset; holes are passed over. Shorter content gives an error. `extents` are those
/// of this file.
pub fn read_stretch(
    file: &File,
    extents: &mut Extents,
    stretch: Range<u64>,
    mut visit: impl FnMut(u64, &[u8]) -> Result<(), TreeError>,
) -> Result<(), TreeError> {
    let length = stretch.end.saturating_sub(stretch.start);
    let mut buffer = vec![0; BUFFER_BYTES.min(length.max(1) as usize)];
    for (start, length) in extents.within(file, stretch)? {
        let end = start + length;
        let mut offset = start;
        while offset < end {
            let wanted = (end - offset).min(buffer.len() as u64) as usize;
            let got = read_at(file, offset, &mut buffer[..wanted])?;
            if got == 0 {
                return Err(TreeError::new(
                    "read",
                    b"a file",
                    io::ErrorKind::UnexpectedEof,
                ));
            }
            visit(offset, &buffer[..got])?;
            offset += got as u64;
        }
    }
    Ok(())
}

/// Makes an empty file share all blocks of another, where the file system can; whether it could.
pub fn try_reflink(from: &File, to: &File) -> bool {
    ioctl_ficlone(to, from).is_ok()
}

/// Makes a stretch a hole; the length of the file stays.
pub fn punch_hole(file: &File, stretch: Range<u64>) -> Result<(), TreeError> {
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    fallocate(file, flags, stretch.start, stretch.end - stretch.start)
        .context("make a hole in", b"a file")
}

/// Sets the permission bits of a file.
pub fn set_mode(file: &File, mode: u16) -> Result<(), TreeError> {
    rustix::fs::fchmod(file, rustix::fs::Mode::from_raw_mode(u32::from(mode)))
        .context("set mode of", b"a file")
}

/// Asks the kernel to forget the cached pages of a file, so that the next read comes from the disk. Pages
/// not yet written stay.
pub fn drop_cache(file: &File) {
    // Advice: a kernel that ignores it costs nothing but the guarantee.
    let _ = fadvise(file, 0, None, Advice::DontNeed);
}

/// Copies `size` bytes into an empty file: as a reflink where the file system can, else by data extents.
pub fn copy(from: &File, to: &File, size: u64) -> Result<(), TreeError> {
    if try_reflink(from, to) {
        return Ok(());
    }
    for (start, length) in data_extents(from, size)? {
        copy_extent(from, to, start, length)?;
    }
    set_size(to, size)
}

fn copy_extent(from: &File, to: &File, start: u64, length: u64) -> Result<(), TreeError> {
    let (mut input, mut output) = (start, start);
    let end = start + length;
    while input < end {
        let left = usize::try_from(end - input)
            .unwrap_or(usize::MAX)
            .min(1 << 30);
        match copy_file_range(from, Some(&mut input), to, Some(&mut output), left) {
            Ok(0) => {
                return Err(TreeError::new(
                    "copy",
                    b"a file",
                    io::ErrorKind::UnexpectedEof,
                ));
            }
            Ok(_) | Err(Errno::INTR) => {}
            Err(Errno::XDEV | Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS) => {
                return copy_by_hand(from, to, input, end);
            }
            Err(error) => return Err(TreeError::new("copy", b"a file", error)),
        }
    }
    Ok(())
}

fn copy_by_hand(from: &File, to: &File, mut offset: u64, end: u64) -> Result<(), TreeError> {
    let mut buffer = vec![0; BUFFER_BYTES];
    while offset < end {
        let wanted = (end - offset).min(buffer.len() as u64) as usize;
        let got = read_at(from, offset, &mut buffer[..wanted])?;
        if got == 0 {
            return Err(TreeError::new(
                "copy",
                b"a file",
                io::ErrorKind::UnexpectedEof,
            ));
        }
        write_at(to, offset, &buffer[..got])?;
        offset += got as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_are_found_hashed_and_copied_as_holes() {
        let file = tempfile::tempfile().expect("file");
        let size = 40 << 20;
        write_at(&file, 8 << 20, &[1; 4096]).expect("write");
        set_size(&file, size).expect("size");
        let mut whole = vec![0; size as usize];
        whole[8 << 20..(8 << 20) + 4096].fill(1);
        assert_eq!(
            hash_file(&file, size).expect("hash"),
            ContentHash::of(&whole)
        );
        let extents = data_extents(&file, size).expect("extents");
        let data: u64 = extents.iter().map(|(_, length)| length).sum();
        assert!(data < 1 << 20, "{extents:?}");
        let copied = tempfile::tempfile().expect("file");
        copy(&file, &copied, size).expect("copy");
        assert_eq!(
            hash_file(&copied, size).expect("hash"),
            ContentHash::of(&whole)
        );
        assert_eq!(data_extents(&copied, size).expect("extents"), extents);
    }

    #[test]
    fn asking_in_small_steps_finds_the_same_extents() {
        let file = tempfile::tempfile().expect("file");
        for at in [0, 3, 4, 9] {
            write_at(&file, at << 16, &[1; 1 << 16]).expect("write");
        }
        let size = 12 << 16;
        set_size(&file, size).expect("size");
        let mut extents = Extents::default();
        let mut found: Vec<Extent> = Vec::new();
        let mut looks = 0;
        for start in (0..size).step_by(1 << 12) {
            let known = extents.data.clone();
            for (start, length) in extents
                .within(&file, start..start + (1 << 12))
                .expect("ask")
            {
                match found.last_mut() {
                    Some((last, known)) if *last + *known == start => *known += length,
                    _ => found.push((start, length)),
                }
            }
            looks += u32::from(extents.data != known);
        }
        assert_eq!(found, data_extents(&file, size).expect("extents"));
        // What was a hole may have become data behind what is known.
        assert_eq!(looks, 3);
        write_at(&file, 10 << 16, &[1; 1 << 16]).expect("write");
        let later = extents.within(&file, 0..size).expect("ask");
        assert_eq!(later, data_extents(&file, size).expect("extents"));
    }
}
