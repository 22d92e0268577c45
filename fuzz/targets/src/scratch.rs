//! Directories for one run, in memory where there is such a place: a run must not wait for a disk.

use std::path::Path;

/// An empty directory that goes with what is returned.
pub(crate) fn directory() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    let made = if memory.is_dir() {
        tempfile::tempdir_in(memory)
    } else {
        tempfile::tempdir()
    };
    made.expect("a directory")
}
