//! Reading contents from the disk itself: what the page cache holds says nothing about the disk, and what is read once in a
//! month must neither fill that cache nor push anything out of it.
//!
//! Reads are direct where the file system can. Elsewhere the kernel is asked to forget the pages before and after, which it
//! does for clean pages that nobody has mapped.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use rustix::fs::{Advice, OFlags, fadvise, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;

use crate::content::{BUFFER_BYTES, Extents};
use crate::error::{Context, TreeError};

/// Direct reads begin and end at a multiple of this, in the file as in memory: no device has larger blocks.
const BLOCK: u64 = 4096;

/// Memory to read into; one serves any number of files, one after another.
#[derive(Debug)]
pub struct Reader {
    memory: Vec<u8>,
    /// Where in it the aligned part starts.
    start: usize,
}

impl Default for Reader {
    fn default() -> Self {
        let memory = vec![0; BUFFER_BYTES + BLOCK as usize];
        let start = memory.as_ptr().align_offset(BLOCK as usize);
        // Where nobody can tell, direct reads are refused, and others do as well.
        let start = if start < BLOCK as usize { start } else { 0 };
        Self { memory, start }
    }
}

impl Reader {
    /// As [`content::read_stretch`](crate::content::read_stretch), past the page cache. The file must be open for nothing else:
    /// its descriptor is changed.
    pub fn read_stretch(
        &mut self,
        file: &File,
        extents: &mut Extents,
        stretch: Range<u64>,
        mut visit: impl FnMut(u64, &[u8]) -> Result<(), TreeError>,
    ) -> Result<(), TreeError> {
        let mut way = Way::of(file);
        for (start, length) in extents.within(file, stretch)? {
            let end = start + length;
            let mut position = start;
            while position < end {
                let (from, got) = self.read(file, &mut way, position, end)?;
                let skipped = (position - from) as usize;
                let useful = got.min((end - from) as usize);
                if useful <= skipped {
                    return Err(TreeError::new(
                        "read",
                        b"a file",
                        io::ErrorKind::UnexpectedEof,
                    ));
                }
                let data = &self.memory[self.start..][skipped..useful];
                visit(position, data)?;
                position += data.len() as u64;
            }
        }
        Ok(())
    }

    /// Reads from the block of `position` on; returns where that begins, and how many bytes there are.
    fn read(
        &mut self,
        file: &File,
        way: &mut Way,
        position: u64,
        end: u64,
    ) -> Result<(u64, usize), TreeError> {
        let from = position / BLOCK * BLOCK;
        let wanted = (end.div_ceil(BLOCK) * BLOCK - from).min(BUFFER_BYTES as u64) as usize;
        let buffer = &mut self.memory[self.start..][..wanted];
        if *way == Way::Direct {
            match read_once(file, from, buffer) {
                Err(error) if error.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => {
                    *way = Way::forgetting(file);
                }
                got => return Ok((from, got.context("read", b"a file")?)),
            }
        }
        let stretch = std::num::NonZeroU64::new(wanted as u64);
        // Advice: a kernel that ignores it costs nothing but the guarantee.
        let _ = fadvise(file, from, stretch, Advice::DontNeed);
        let got = read_once(file, from, buffer).context("read", b"a file")?;
        let _ = fadvise(file, from, stretch, Advice::DontNeed);
        Ok((from, got))
    }
}

/// How a file is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// Without the cache.
    Direct,
    /// Through the cache, which is made to forget.
    Forgetting,
}

impl Way {
    fn of(file: &File) -> Self {
        let set = fcntl_getfl(file).and_then(|flags| fcntl_setfl(file, flags | OFlags::DIRECT));
        if set.is_ok() {
            Self::Direct
        } else {
            Self::Forgetting
        }
    }

    fn forgetting(file: &File) -> Self {
        // What could be set can be taken back.
        let _ = fcntl_getfl(file).and_then(|flags| fcntl_setfl(file, flags - OFlags::DIRECT));
        Self::Forgetting
    }
}

/// One read that is not interrupted. It may be short: at the end of the file, and of what a device gives at once.
fn read_once(file: &File, from: u64, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match file.read_at(buffer, from) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            got => return got,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;
    use crate::content::{HoleyHasher, drop_cache, hash_file, set_size, write_at};

    /// In a directory of the disk that this is built on: `/tmp` may be memory.
    fn file() -> File {
        let directory = option_env!("CARGO_TARGET_TMPDIR").unwrap_or(env!("CARGO_MANIFEST_DIR"));
        tempfile::tempfile_in(directory).expect("file")
    }

    /// What this thread has had read from devices.
    fn bytes_from_devices() -> u64 {
        let mut text = String::new();
        let mut io = File::open("/proc/thread-self/io").expect("open");
        io.read_to_string(&mut text).expect("read");
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix("read_bytes: "));
        line.and_then(|number| number.parse().ok())
            .expect("a number")
    }

    fn hash(file: &File, size: u64) -> understudy_protocol::ContentHash {
        let mut hasher = HoleyHasher::default();
        let mut reader = Reader::default();
        let mut extents = Extents::default();
        // In steps that no block begins or ends with.
        for start in (0..size).step_by(1_000_003) {
            let stretch = start..size.min(start + 1_000_003);
            let read = reader.read_stretch(file, &mut extents, stretch, |offset, data| {
                hasher.update(offset, data);
                Ok(())
            });
            read.expect("read");
        }
        hasher.finish(size)
    }

    #[test]
    fn contents_are_read_as_they_are_holes_included() {
        for size in [1, 4095, 4096, 4097, 3_000_001, 8 << 20] {
            let file = file();
            let bytes: Vec<u8> = (0..size).map(|at| (at % 251) as u8).collect();
            write_at(&file, 0, &bytes[..bytes.len().min(2_500_000)]).expect("write");
            write_at(&file, size - 1, &[7]).expect("write");
            set_size(&file, size).expect("size");
            let expected = hash_file(&file, size).expect("hash");
            assert_eq!(hash(&file, size), expected, "{size}");
        }
    }

    #[test]
    fn a_file_that_is_shorter_than_it_should_be_is_an_error() {
        let file = file();
        write_at(&file, 0, &[1; 10_000]).expect("write");
        let mut extents = Extents::default();
        let mut read = |end| {
            let visit = |_: u64, _: &[u8]| {
                set_size(&file, 5_000).expect("cut");
                Ok(())
            };
            Reader::default().read_stretch(&file, &mut extents, 0..end, visit)
        };
        assert!(read(10_000).is_ok(), "all of it came at once");
        assert!(read(10_000).is_err());
    }

    #[test]
    fn what_is_cached_is_read_from_the_disk_all_the_same() {
        let mut file = file();
        let size = 4 << 20;
        file.write_all(&vec![5; size]).expect("write");
        file.sync_all().expect("sync");
        let read_by = |read: &dyn Fn()| {
            let before = bytes_from_devices();
            read();
            bytes_from_devices() - before
        };
        let plainly = || {
            hash_file(&file, size as u64).expect("hash");
        };
        drop_cache(&file);
        if read_by(&plainly) < size as u64 {
            eprintln!("skipped: files are in memory here");
            return;
        }
        assert_eq!(read_by(&plainly), 0, "it is cached");
        let read = read_by(&|| {
            hash(&file, size as u64);
        });
        assert!(read >= size as u64, "{read}");
    }
}
