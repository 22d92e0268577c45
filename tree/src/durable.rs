//! Replacing a small file so that a power cut leaves the old or the new one: temporary file, sync, rename,
//! sync of the directory.

use std::io::{Read, Write};

use understudy_protocol::Name;

use crate::directory::Directory;
use crate::error::{Context, TreeError};

/// Whether a replacement waits for the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// Durable when it returns.
    Now,
    /// Durable with the next sync of the file system.
    Later,
}

/// Replaces or makes the file `name` with this content, mode 0600.
pub fn replace(
    directory: &Directory,
    name: &Name,
    content: &[u8],
    durability: Durability,
) -> Result<(), TreeError> {
    let mut temporary = name.as_bytes().to_vec();
    temporary.extend_from_slice(b".new");
    let temporary = Name::new(temporary)
        .map_err(|error| TreeError::new("name", name.as_bytes(), std::io::Error::other(error)))?;
    match directory.remove_file(&temporary) {
        Err(error) if !error.is_gone() => return Err(error),
        _ => {}
    }
    let mut file = directory.create_file(&temporary)?;
    file.write_all(content).context("write", name.as_bytes())?;
    if durability == Durability::Now {
        file.sync_all().context("sync", name.as_bytes())?;
    }
    drop(file);
    directory.rename(&temporary, directory, name)?;
    if durability == Durability::Now {
        directory.sync()?;
    }
    Ok(())
}

/// Reads a small file; `None` if it is not there, an error if it is longer than `limit` bytes.
pub fn read(directory: &Directory, name: &Name, limit: u64) -> Result<Option<Vec<u8>>, TreeError> {
    let file = match directory.open_file(name) {
        Ok(file) => file,
        Err(error) if error.is_gone() => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut content = Vec::new();
    file.take(limit + 1)
        .read_to_end(&mut content)
        .context("read", name.as_bytes())?;
    if content.len() as u64 > limit {
        return Err(TreeError::new(
            "read",
            name.as_bytes(),
            std::io::Error::other("it is longer than expected"),
        ));
    }
    Ok(Some(content))
}
