//! Generated source trees.

use std::path::{Path, PathBuf};

use super::random::Random;

/// A tree of `files` files, up to 200 KB each, most of them small, in directories up to
/// four deep, with some symbolic and hard links, all of which rsync and cp can handle.
pub(crate) fn mixed(random: &mut Random, root: &Path, files: usize) {
    let mut directories = vec![root.to_owned()];
    let mut written: Vec<PathBuf> = Vec::new();
    for number in 0..files {
        if random.below(6) == 0 {
            let parent = random.pick(&directories).clone();
            if parent.components().count() < root.components().count() + 4 {
                let directory = parent.join(format!("d{number}"));
                std::fs::create_dir(&directory).unwrap();
                directories.push(directory);
            }
        }
        let path = random.pick(&directories).join(format!("f{number}"));
        match random.below(20) {
            0 => std::os::unix::fs::symlink(format!("../f{number}"), &path).unwrap(),
            1 if !written.is_empty() => {
                std::fs::hard_link(random.pick(&written), &path).unwrap();
            }
            _ => {
                let size = random.size(200_000);
                std::fs::write(&path, random.content(size)).unwrap();
                written.push(path);
            }
        }
    }
}

/// The generation that every file of a `generation` tree carries.
pub(crate) fn generation_of(content: &[u8]) -> Option<u64> {
    let line = content.split(|byte| *byte == b'\n').next()?;
    let digits = line.strip_prefix(b"generation ")?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// Makes the tree at `root` that of `generation`: `files` files whose contents all carry the
/// number, a directory and a file that carry it in their names, and two names that swap.
///
/// The tree must be empty or that of the generation before.
pub(crate) fn set_generation(root: &Path, generation: u64, files: usize) {
    let line = format!("generation {generation}\n");
    for number in 0..files {
        let directory = root.join(format!("d{}", number % 7));
        std::fs::create_dir_all(&directory).unwrap();
        let content = format!("{line}{}", "padding ".repeat(number * 7 % 300));
        std::fs::write(directory.join(format!("f{number}")), content).unwrap();
    }
    let named = |generation: u64| root.join(format!("directory-of-{generation}"));
    if generation > 0 && named(generation - 1).exists() {
        std::fs::rename(named(generation - 1), named(generation)).unwrap();
        std::fs::remove_file(root.join(format!("only-in-{}", generation - 1))).unwrap();
        std::fs::rename(root.join("swap-a"), root.join("swap-c")).unwrap();
        std::fs::rename(root.join("swap-b"), root.join("swap-a")).unwrap();
        std::fs::rename(root.join("swap-c"), root.join("swap-b")).unwrap();
    } else {
        std::fs::create_dir(named(generation)).unwrap();
        std::fs::write(root.join("swap-a"), "a").unwrap();
        std::fs::write(root.join("swap-b"), "b").unwrap();
    }
    std::fs::write(named(generation).join("inner"), &line).unwrap();
    std::fs::write(root.join(format!("only-in-{generation}")), &line).unwrap();
}

/// Reads the generation of the tree that `live` is at this moment, through a descriptor: a receiver that goes on
/// after its agent has ended may switch trees meanwhile.
///
/// # Errors
/// As [`read_generation`].
pub(crate) fn generation_now(live: &Path, files: usize) -> Result<u64, String> {
    let held = std::fs::File::open(live).map_err(|e| format!("{}: {e}", live.display()))?;
    let root = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&held));
    read_generation(Path::new(&root), files)
}

/// Reads a whole generation tree, from `root` which may be a path through a descriptor.
///
/// # Errors
/// Says what shows that the tree is a mixture: two numbers, or a name that is missing.
pub(crate) fn read_generation(root: &Path, files: usize) -> Result<u64, String> {
    let read = |path: PathBuf| {
        let content = std::fs::read(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        generation_of(&content).ok_or_else(|| format!("{} has no number", path.display()))
    };
    let generation = read(root.join("d0/f0"))?;
    for number in 1..files {
        let path = root.join(format!("d{}/f{number}", number % 7));
        let found = read(path.clone())?;
        if found != generation {
            return Err(format!(
                "f0 is of {generation}, {} of {found}",
                path.display()
            ));
        }
    }
    let inner = read(root.join(format!("directory-of-{generation}/inner")))?;
    let only = read(root.join(format!("only-in-{generation}")))?;
    if (inner, only) != (generation, generation) {
        return Err(format!(
            "f0 is of {generation}, named files of {inner} and {only}"
        ));
    }
    let names = std::fs::read_dir(root).map_err(|e| e.to_string())?;
    let numbered = names
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.starts_with("directory-of-") || name.starts_with("only-in-"))
        .count();
    if numbered != 2 {
        return Err(format!("{numbered} names of generations in one tree"));
    }
    Ok(generation)
}
