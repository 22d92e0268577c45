//! The tree that is synced.

use std::path::{Path, PathBuf};

use crate::options::Options;
use crate::random::Random;

/// Files in one directory, and directories in one directory.
const FAN_OUT: u64 = 50;

/// The largest file is up to 2^this times as large as the smallest.
const OCTAVES: u64 = 14;

/// A generated tree.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) root: PathBuf,
    files: u64,
}

impl Source {
    /// Makes the tree: sizes have a heavy tail (each octave of sizes holds as many bytes as
    /// any other), and half of the files can be compressed.
    pub(crate) fn make(root: &Path, options: &Options) -> Self {
        eprintln!("making {} files, {} bytes", options.files, options.bytes);
        let source = Self {
            root: root.to_owned(),
            files: options.files,
        };
        let mut weights = Random::new(options.seed);
        let total: u64 = (0..options.files).map(|_| weight(&mut weights)).sum();
        let mut weights = Random::new(options.seed);
        let mut random = Random::new(options.seed + 1);
        for number in 0..options.files {
            let size = u128::from(weight(&mut weights)) * u128::from(options.bytes);
            let content = random.content(u64::try_from(size / u128::from(total)).unwrap());
            let path = source.path(number);
            if number % FAN_OUT == 0 {
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            }
            std::fs::write(path, content).unwrap();
        }
        source
    }

    fn path(&self, number: u64) -> PathBuf {
        let directory = number / FAN_OUT;
        self.root.join(format!(
            "d{:04}/d{:02}/file-{number:07}",
            directory / FAN_OUT,
            directory % FAN_OUT
        ))
    }

    /// Rewrites `count` files, or all if they are fewer, spread over the tree.
    pub(crate) fn change(&self, count: u64, seed: u64) {
        let mut random = Random::new(seed + 1_000_000);
        let count = count.min(self.files);
        for index in 0..count {
            let (from, to) = (self.files * index / count, self.files * (index + 1) / count);
            let path = self.path(from + random.below(to - from));
            let size = path.metadata().unwrap().len();
            std::fs::write(path, random.content(size + 1)).unwrap();
        }
    }
}

/// How large a file is in relation to the others.
fn weight(random: &mut Random) -> u64 {
    let octave = u64::from(random.next().trailing_ones()).min(OCTAVES);
    (1 << octave) * (500 + random.below(1000))
}
