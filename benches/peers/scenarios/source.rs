//! A source tree that is replaced by its next version.

use std::fs::File;
use std::path::Path;
use std::time::SystemTime;

use super::copy_tree;
use crate::options::Options;

pub(super) fn make(root: &Path, options: &Options) {
    std::fs::remove_dir(root).unwrap();
    copy_tree(options.before.as_deref().unwrap(), root);
}

/// Every file is written anew, as unpacking does.
pub(super) fn change(root: &Path, options: &Options) {
    std::fs::remove_dir_all(root).unwrap();
    copy_tree(options.after.as_deref().unwrap(), root);
    touch_all(root, SystemTime::now());
}

fn touch_all(directory: &Path, now: SystemTime) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let entry = entry.unwrap();
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            touch_all(&entry.path(), now);
        } else if kind.is_file() {
            File::open(entry.path()).unwrap().set_modified(now).unwrap();
        }
    }
}
