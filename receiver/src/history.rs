//! Superseded contents, kept as files named by their hash: whole, compressed once they are cold, or as patches that lead back
//! from what came after them.

use std::fs::File;
use std::rc::Rc;

use understudy_protocol::{ContentHash, Name};
use understudy_tree::{Directory, Stat, content};

use crate::error::ReceiverError;
use crate::names;
use crate::patch::Patch;
use crate::stored::Base;

/// Follows the name of an object that is a patch.
const PATCH_SUFFIX: &[u8] = b".patch";
/// Follows the name of an object that is compressed.
const COMPRESSED_SUFFIX: &[u8] = b".zst";

/// The mode of a patch of which was seen that it leads to its content. What it leads back from is read for itself, and its own
/// checksum is compared in each pass: so it does as long as it is there.
const PROVED: u16 = 0o400;
const UNPROVED: u16 = 0o600;

/// What an object is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// The content itself.
    Whole,
    /// The content, compressed (see `packing`).
    Compressed,
    /// The way to it from a later content.
    Patch,
}

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
        name: &Name,
    ) -> Result<(), ReceiverError> {
        let (shelf, object) = self.place(hash)?;
        match from.rename_new(name, &shelf, &object) {
            Err(error) if error.errno() == Some(rustix::io::Errno::EXIST) || error.is_gone() => {
                Ok(())
            }
            result => Ok(result?),
        }
    }

    /// Whether the content is there, whole or as a patch.
    pub(crate) fn has(&self, hash: ContentHash) -> Result<bool, ReceiverError> {
        Ok(self.has_object(hash)? || self.open_patch(hash)?.is_some())
    }

    /// Whether the content is there as it is, compressed or not.
    pub(crate) fn has_object(&self, hash: ContentHash) -> Result<bool, ReceiverError> {
        let (shelf, name) = names_of(hash)?;
        let shelf = match self.root.open_directory(&shelf) {
            Err(error) if error.is_gone() => return Ok(false),
            shelf => shelf?,
        };
        Ok(shelf.stat_if_present(&name)?.is_some()
            || shelf
                .stat_if_present(&Form::Compressed.name(&name))?
                .is_some())
    }

    /// Opens the patch that leads to a content; `None` if there is none, or it is damaged.
    pub(crate) fn open_patch(&self, hash: ContentHash) -> Result<Option<Patch>, ReceiverError> {
        match self.open_patch_file(hash)? {
            Some(file) => Patch::open(file),
            None => Ok(None),
        }
    }

    /// Opens the file of a patch, without a look at whether it is sound.
    pub(crate) fn open_patch_file(&self, hash: ContentHash) -> Result<Option<File>, ReceiverError> {
        let (shelf, name) = names_of(hash)?;
        match self
            .root
            .open_directory(&shelf)
            .and_then(|shelf| shelf.open_file(&Form::Patch.name(&name)))
        {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.is_gone() => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether there is a patch of which nobody has seen yet that it leads to its content.
    pub(crate) fn is_unproved_patch(&self, hash: ContentHash) -> Result<bool, ReceiverError> {
        let file = self.open_patch_file(hash)?;
        let stat = file.map(|file| Stat::of(&file)).transpose()?;
        Ok(stat.is_some_and(|stat| is_unproved(&stat)))
    }

    /// Notes that the patch of a content leads to it.
    pub(crate) fn note_proved(&self, hash: ContentHash) -> Result<(), ReceiverError> {
        match self.open_patch_file(hash)? {
            Some(file) => Ok(content::set_mode(&file, PROVED)?),
            None => Ok(()),
        }
    }

    /// One of them does not lead where it should: others may lead through it, so each is to be read again.
    pub(crate) fn forget_proofs(&self) -> Result<(), ReceiverError> {
        self.each(|promised, directory, name| {
            if matches!(promised, Some((_, Form::Patch))) {
                let file: File = directory.open_file(name)?;
                content::set_mode(&file, UNPROVED)?;
            }
            Ok(())
        })
    }

    /// Keeps `base`, a file of `size` bytes for which `patch` is made, as the way back from what that leads to. It is
    /// durable when this returns.
    pub(crate) fn keep_reverse(
        &self,
        patch: &Patch,
        base: &File,
        size: u64,
        run: (u32, u64),
    ) -> Result<(), ReceiverError> {
        let (shelf, name) = self.place(patch.about().base)?;
        let unfinished = names::PATCHES.clone();
        match shelf.remove_file(&unfinished) {
            Err(error) if !error.is_gone() => return Err(error.into()),
            _ => {}
        }
        let file = shelf.create_file(&unfinished)?;
        let written = patch
            .reverse(base, size, file, run)
            .and_then(|patch| patch.sync());
        if let Err(error) = written {
            shelf.remove_file(&unfinished)?;
            return Err(error);
        }
        shelf.rename(&unfinished, &shelf, &Form::Patch.name(&name))?;
        shelf.sync()?;
        Ok(self.root.sync()?)
    }

    /// Puts a sound content in the place of what is there of it. The file is synced; its place is durable when this returns.
    pub(crate) fn put(
        &self,
        hash: ContentHash,
        from: &Directory,
        name: &Name,
    ) -> Result<(), ReceiverError> {
        let (shelf, object) = self.place(hash)?;
        from.rename(name, &shelf, &object)?;
        shelf.sync()?;
        self.root.sync()?;
        self.remove(hash, Form::Compressed)?;
        let is_patch_damaged = self.open_patch(hash)?.is_none();
        if is_patch_damaged {
            // It leads nowhere, and nothing needs it any more.
            self.remove(hash, Form::Patch)?;
        }
        Ok(())
    }

    /// Removes an object; one that is not there was removed before.
    pub(crate) fn remove(&self, hash: ContentHash, form: Form) -> Result<(), ReceiverError> {
        let (shelf, name) = names_of(hash)?;
        let removed = self
            .root
            .open_directory(&shelf)
            .and_then(|shelf| shelf.remove_file(&form.name(&name)));
        match removed {
            Err(error) if !error.is_gone() => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// Opens an object; `None` if there is none. Whether it is what it was is not checked.
    pub(crate) fn open_object(&self, hash: ContentHash) -> Result<Option<Base>, ReceiverError> {
        let (shelf, name) = names_of(hash)?;
        let shelf = match self.root.open_directory(&shelf) {
            Err(error) if error.is_gone() => return Ok(None),
            shelf => shelf?,
        };
        match shelf.open_file(&name) {
            Ok(file) => return Ok(Some(Base::Whole(file))),
            Err(error) if error.is_gone() => {}
            Err(error) => return Err(error.into()),
        }
        self.open_compressed(hash)
    }

    /// Opens an object in its compressed form; `None` if there is none. Both forms may be there.
    pub(crate) fn open_compressed(&self, hash: ContentHash) -> Result<Option<Base>, ReceiverError> {
        let (shelf, name) = names_of(hash)?;
        let opened = self
            .root
            .open_directory(&shelf)
            .and_then(|shelf| shelf.open_file(&Form::Compressed.name(&name)));
        match opened {
            Ok(packed) => Ok(Some(Base::packed(packed))),
            Err(error) if error.is_gone() => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Calls `visit` for every file in the object store with the hash its name promises and what it is; `None` if the
    /// name is no hash.
    pub(crate) fn each(
        &self,
        mut visit: impl FnMut(
            Option<(ContentHash, Form)>,
            &Directory,
            &Name,
        ) -> Result<(), ReceiverError>,
    ) -> Result<(), ReceiverError> {
        let mut last = None;
        while let Some(shelf) = self.shelf_after(last.as_ref())? {
            for (name, promised, directory) in self.files_after(&shelf, None)? {
                visit(promised, &directory, &name)?;
            }
            last = Some(shelf);
        }
        Ok(())
    }

    /// The shelf that comes after another in the order of the names; the first one if none is given.
    pub(crate) fn shelf_after(&self, after: Option<&Name>) -> Result<Option<Name>, ReceiverError> {
        let mut names = self.root.names()?;
        names.retain(|name| after.is_none_or(|after| name > after));
        Ok(names.into_iter().min())
    }

    /// The files on a shelf after a name, in the order of their names, with what each promises to be.
    #[expect(
        clippy::type_complexity,
        reason = "three things of each file, used at once"
    )]
    pub(crate) fn files_after(
        &self,
        shelf: &Name,
        after: Option<&Name>,
    ) -> Result<Vec<(Name, Option<(ContentHash, Form)>, Rc<Directory>)>, ReceiverError> {
        let directory = Rc::new(self.root.open_directory(shelf)?);
        let mut names = directory.names()?;
        // That was being written when the process died.
        names.retain(|name| *name != *names::PATCHES && after.is_none_or(|after| name > after));
        names.sort_unstable();
        let promise = |name: Name| {
            let bytes = name.as_bytes();
            let (digits, form) = Form::split(bytes);
            let text = [shelf.as_bytes(), digits].concat();
            let hash = std::str::from_utf8(&text)
                .ok()
                .and_then(|text| text.parse().ok());
            (name, hash.map(|hash| (hash, form)), Rc::clone(&directory))
        };
        Ok(names.into_iter().map(promise).collect())
    }
}

/// Whether nobody has seen yet that the patch with this stat leads to its content.
pub(crate) fn is_unproved(stat: &Stat) -> bool {
    stat.mode != PROVED
}

impl Form {
    fn suffix(self) -> &'static [u8] {
        match self {
            Self::Whole => b"",
            Self::Compressed => COMPRESSED_SUFFIX,
            Self::Patch => PATCH_SUFFIX,
        }
    }

    /// The name of an object of this form whose digits are `name`.
    pub(crate) fn name(self, name: &Name) -> Name {
        let text = [name.as_bytes(), self.suffix()].concat();
        #[expect(clippy::unwrap_used, reason = "62 digits and six letters are a name")]
        Name::new(text).unwrap()
    }

    /// Takes a name apart.
    fn split(name: &[u8]) -> (&[u8], Self) {
        for form in [Self::Patch, Self::Compressed] {
            if let Some(digits) = name.strip_suffix(form.suffix()) {
                return (digits, form);
            }
        }
        (name, Self::Whole)
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
