//! Superseded contents, kept as files named by their hash.

use understudy_protocol::{ContentHash, Name};
use understudy_tree::Directory;

use crate::catalog::Leaf;
use crate::error::ReceiverError;
use crate::names;

/// The objects of one dataset.
pub(crate) struct Objects {
    root: Directory,
}

impl Objects {
    pub(crate) fn open(control: &Directory) -> Result<Self, ReceiverError> {
        Ok(Self {
            root: control.ensure_directory(&names::OBJECTS)?,
        })
    }

    /// The directory and name of an object, whether it exists or not.
    fn place(&self, hash: ContentHash) -> Result<(Directory, Name), ReceiverError> {
        let (shelf, name) = names_of(hash)?;
        Ok((self.root.ensure_directory(&shelf)?, name))
    }

    /// Moves a file into history; one that is there already stays. Nothing at `name` means that it was moved
    /// before.
    pub(crate) fn take(
        &self,
        hash: ContentHash,
        from: &Directory,
        leaf: &Leaf,
    ) -> Result<(), ReceiverError> {
        let (shelf, object) = self.place(hash)?;
        match from.rename_new(&leaf.place.name, &shelf, &object) {
            Err(error) if error.errno() == Some(rustix::io::Errno::EXIST) || error.is_gone() => {
                Ok(())
            }
            result => Ok(result?),
        }
    }

    /// Opens an object; `None` if there is none.
    pub(crate) fn open_object(
        &self,
        hash: ContentHash,
    ) -> Result<Option<std::fs::File>, ReceiverError> {
        let (shelf, name) = names_of(hash)?;
        match self
            .root
            .open_directory(&shelf)
            .and_then(|shelf| shelf.open_file(&name))
        {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.is_gone() => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Calls `visit` for every file in the object store with the hash its name promises; `None` if the name is
    /// no hash.
    pub(crate) fn each(
        &self,
        mut visit: impl FnMut(Option<ContentHash>, &Directory, &Name) -> Result<(), ReceiverError>,
    ) -> Result<(), ReceiverError> {
        for shelf_name in self.root.names()? {
            let shelf = self.root.open_directory(&shelf_name)?;
            for name in shelf.names()? {
                let text = [shelf_name.as_bytes(), name.as_bytes()].concat();
                let hash = std::str::from_utf8(&text)
                    .ok()
                    .and_then(|text| text.parse().ok());
                visit(hash, &shelf, &name)?;
            }
        }
        Ok(())
    }
}

/// The first two digits name the shelf, the others the file.
fn names_of(hash: ContentHash) -> Result<(Name, Name), ReceiverError> {
    let text = hash.to_string();
    let (shelf, rest) = text.split_at(2);
    let name =
        |text: &str| Name::new(text).map_err(|error| ReceiverError::Damaged(error.to_string()));
    Ok((name(shelf)?, name(rest)?))
}
