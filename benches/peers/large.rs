//! One large file, and the ways in which large files change.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::random::Random;
use crate::report::Work;

const PAGE: u64 = 4096;
/// One page in so many is touched.
const PAGES_PER_TOUCHED: u64 = 100;
const PIECE: usize = 16 << 20;

/// A file of noise.
#[derive(Debug)]
pub(crate) struct LargeFile {
    pub(crate) path: PathBuf,
    bytes: u64,
    random: Random,
}

impl LargeFile {
    /// Makes the file in a new directory.
    pub(crate) fn make(directory: &Path, bytes: u64, seed: u64) -> Self {
        eprintln!("making a file of {bytes} bytes");
        std::fs::create_dir_all(directory).unwrap();
        let mut file = Self {
            path: directory.join("large"),
            bytes,
            random: Random::new(seed),
        };
        file.rewrite();
        file
    }

    /// Changes it as `work` says.
    pub(crate) fn change(&mut self, work: Work) {
        match work {
            Work::Pages | Work::PagesAgain => self.touch_pages(),
            Work::Inserted => self.insert(1000),
            Work::Appended => {
                let mut file = OpenOptions::new().append(true).open(&self.path).unwrap();
                file.write_all(&self.random.noise(1 << 20)).unwrap();
            }
            Work::Rewritten => self.rewrite(),
            Work::First | Work::Unchanged | Work::Changed | Work::Happened => {}
        }
    }

    fn touch_pages(&mut self) {
        let file = OpenOptions::new().write(true).open(&self.path).unwrap();
        let pages = self.bytes / PAGE;
        for _ in 0..pages / PAGES_PER_TOUCHED {
            let page = self.random.below(pages);
            let content = self.random.noise(PAGE as usize);
            file.write_all_at(&content, page * PAGE).unwrap();
        }
    }

    fn insert(&mut self, bytes: usize) {
        let content = std::fs::read(&self.path).unwrap();
        let mut file = File::create(&self.path).unwrap();
        file.write_all(&self.random.noise(bytes)).unwrap();
        file.write_all(&content).unwrap();
    }

    fn rewrite(&mut self) {
        let mut file = File::create(&self.path).unwrap();
        let mut left = self.bytes;
        while left > 0 {
            let piece = left.min(PIECE as u64);
            file.write_all(&self.random.noise(piece as usize)).unwrap();
            left -= piece;
        }
    }
}
