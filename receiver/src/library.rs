//! Finding the content of any row of any snapshot: in the live twin, in history, in the retired twin, or made of a later
//! content and the patches that lead back from it.

use std::collections::HashSet;
use std::fs::File;

use understudy_protocol::{ContentHash, Place};
use understudy_tree::{Directory, content};

use crate::catalog::{Catalog, Row};
use crate::dataset::Dataset;
use crate::error::ReceiverError;
use crate::history::Objects;
use crate::marker::{self, Applying};
use crate::patch::Patch;
use crate::resolve::Handles;
use crate::stored::{Base, Stored};

/// Everything needed to find contents at one moment.
pub(crate) struct Library {
    pub(crate) catalog: Catalog,
    head: u64,
    objects: Objects,
    control: Directory,
    live: Directory,
    shadow: Option<(Directory, Retired)>,
}

/// How much of the snapshot before the newest one the retired twin still shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Retired {
    /// All of it.
    Whole,
    /// What has not moved into history yet, where it was: catching up is going on, or its process died.
    Leaving,
}

impl Library {
    pub(crate) fn open(dataset: &Dataset) -> Result<Self, ReceiverError> {
        let gone = || {
            ReceiverError::Damaged(format!(
                "dataset `{}` has no live tree or catalog",
                dataset.name
            ))
        };
        let catalog = dataset.read_catalog()?.ok_or_else(gone)?;
        let head = catalog
            .head()?
            .map_or(0, |head| head.snapshot.position.number);
        let mut live = dataset.newest()?.ok_or_else(gone)?;
        // The retired twin still holds what the last commit superseded; beside a tree that an application changes there is none.
        let mut shadow = dataset.shadow()?;
        let shows = |twin: &Directory, number: u64| -> Result<bool, ReceiverError> {
            Ok(marker::read(twin)?.is_some_and(|position| position.number == number))
        };
        // Between the switch and its record the twin that was live before is the newest snapshot; so it stays if the process dies there.
        if !shows(&live, head)? && shows(&shadow, head)? {
            std::mem::swap(&mut live, &mut shadow);
        }
        let retired = if head == 0 {
            None
        } else if shows(&shadow, head - 1)? {
            Some(Retired::Whole)
        } else {
            let applying = Applying::read(&dataset.control)?;
            applying
                .filter(|applying| (applying.from, applying.to) == (head - 1, head))
                .map(|_| Retired::Leaving)
        };
        Ok(Self {
            catalog,
            head,
            objects: Objects::open(&dataset.control)?,
            control: dataset.control.try_clone()?,
            live,
            shadow: retired.map(|retired| (shadow, retired)),
        })
    }

    pub(crate) fn finder(&self) -> Finder<'_> {
        Finder {
            library: self,
            live: Handles::new(&self.live, &self.catalog, self.head),
            retired: self
                .shadow
                .as_ref()
                .map(|(shadow, _)| Handles::new(shadow, &self.catalog, self.head - 1)),
            sound: HashSet::new(),
        }
    }
}

impl Library {
    /// A patch that must be there.
    fn open_patch(&self, hash: ContentHash) -> Result<Patch, ReceiverError> {
        let patch = self.objects.open_patch(hash)?;
        patch.ok_or_else(|| missing(hash))
    }
}

/// Patches that lead to one another; more are a circle.
const PATCHES: usize = 100_000;

/// Finds contents by hash: in the live tree, in history, in the retired twin.
pub(crate) struct Finder<'a> {
    library: &'a Library,
    live: Handles<'a>,
    retired: Option<Handles<'a>>,
    /// Contents that were found, or can be made.
    sound: HashSet<ContentHash>,
}

impl<'a> Finder<'a> {
    /// The content of a row of any snapshot.
    pub(crate) fn find(&mut self, row: &Row) -> Result<Stored<'a>, ReceiverError> {
        let library = self.library;
        let Some((_, hash)) = row.entry.content() else {
            return Err(ReceiverError::Worker);
        };
        // Mostly it is where the row says; only superseded contents must be looked for.
        if row.until.is_none_or(|until| until > library.head)
            && let Some(file) = open(&mut self.live, &row.place)?
        {
            return Ok(Stored::plain(Base::Whole(file)));
        }
        let (base, patches) = self.trace(hash)?;
        if patches.is_empty() {
            return Ok(Stored::plain(base));
        }
        if let Some(stored) = self.layered(base.try_clone()?, &patches)? {
            return Ok(stored);
        }
        let rebuilt = library.control.create_unnamed()?;
        self.make(&base, &patches, &rebuilt)?;
        Ok(Stored::plain(Base::Whole(rebuilt)))
    }

    /// A content of which there are only patches, and the later content that they lead back from; `None` if it is whole
    /// somewhere, or too scattered to be read without a copy.
    pub(crate) fn led_back(
        &mut self,
        hash: ContentHash,
    ) -> Result<Option<(ContentHash, Stored<'a>)>, ReceiverError> {
        let (base, patches) = self.trace(hash)?;
        let Some(first) = patches.last() else {
            return Ok(None);
        };
        let below = self.library.open_patch(*first)?.about().base;
        let stored = self.layered(base, &patches)?;
        Ok(stored.map(|stored| (below, stored)))
    }

    /// A file that has a content without patches.
    pub(crate) fn beneath(&mut self, hash: ContentHash) -> Result<Option<Base>, ReceiverError> {
        match self.whole(hash)? {
            None => Ok(self.retired(hash)?.map(Base::Whole)),
            whole => Ok(whole),
        }
    }

    /// Whether there are only patches of a content, and nobody has seen yet that they lead to it.
    pub(crate) fn is_unproved(&mut self, hash: ContentHash) -> Result<bool, ReceiverError> {
        Ok(self.library.objects.is_unproved_patch(hash)? && !self.is_whole(hash)?)
    }

    /// What patches make of a file, the last one first; `None` if they consist of too many pieces.
    fn layered(
        &self,
        base: Base,
        patches: &[ContentHash],
    ) -> Result<Option<Stored<'a>>, ReceiverError> {
        let library = self.library;
        let layers = patches.iter().map(|hash| library.open_patch(*hash));
        let known = patches.to_vec();
        let reopen = move |number: usize| {
            let file = library.objects.open_patch_file(known[number])?;
            file.ok_or_else(|| missing(known[number]))
        };
        Stored::patched(base, layers, Box::new(reopen))
    }

    /// Fills an empty file with a content that some snapshot has. Whether it is what it was is not checked.
    pub(crate) fn copy(&mut self, hash: ContentHash, to: &File) -> Result<(), ReceiverError> {
        let (base, patches) = self.trace(hash)?;
        self.make(&base, &patches, to)
    }

    /// Fills a file with a content that `is_right`, trying every place that should have it; returns whether one did.
    pub(crate) fn copy_sound(
        &mut self,
        hash: ContentHash,
        to: &File,
        is_right: impl Fn() -> Result<bool, ReceiverError>,
    ) -> Result<bool, ReceiverError> {
        let library = self.library;
        let mut whole = Vec::new();
        for row in library.catalog.rows_with(hash, library.head)? {
            // One that cannot be opened may be the very damage.
            let file = open(&mut self.live, &row.place).ok().flatten();
            whole.extend(file.map(Base::Whole));
        }
        whole.extend(library.objects.open_object(hash).ok().flatten());
        whole.extend(library.objects.open_compressed(hash).ok().flatten());
        for base in whole {
            content::set_size(to, 0)?;
            // A copy that cannot be read is none; others are tried.
            if self.make(&base, &[], to).is_ok() && is_right()? {
                return Ok(true);
            }
        }
        let Ok(Some(patch)) = library.objects.open_patch(hash) else {
            return Ok(false);
        };
        let traced = self.trace(patch.about().base);
        let Ok((base, mut patches)) = traced else {
            return Ok(false);
        };
        patches.insert(0, hash);
        content::set_size(to, 0)?;
        Ok(self.make(&base, &patches, to).is_ok() && is_right()?)
    }

    /// Copies a file and brings it back by patches, the last one first.
    fn make(&self, base: &Base, patches: &[ContentHash], to: &File) -> Result<(), ReceiverError> {
        base.copy(to)?;
        for hash in patches.iter().rev() {
            self.library.open_patch(*hash)?.apply(to)?;
        }
        Ok(())
    }

    /// Fails unless a content is there, or can be made of what is, and of nothing that is `wrong`: of those it is known already
    /// that what is there is not what it should be. Only what has not left the retired twin yet is read for it.
    pub(crate) fn check(
        &mut self,
        hash: ContentHash,
        wrong: &HashSet<ContentHash>,
    ) -> Result<(), ReceiverError> {
        let (mut wanted, mut passed) = (hash, Vec::new());
        // What was found before is not traced again: many versions lead through one another.
        while !self.sound.contains(&wanted) && passed.len() < PATCHES {
            if wanted != hash && wrong.contains(&wanted) {
                return Err(missing(hash));
            }
            passed.push(wanted);
            if self.is_whole(wanted)? {
                break;
            }
            match self.library.objects.open_patch(wanted)? {
                Some(patch) => wanted = patch.about().base,
                None => match self.retired(wanted)? {
                    // A whole twin is read for itself.
                    Some(_) if self.is_retired_whole() => break,
                    Some(file) if has_hash(&file, wanted)? => break,
                    _ => return Err(missing(hash)),
                },
            }
        }
        passed.retain(|hash| !wrong.contains(hash));
        self.sound.extend(passed);
        Ok(())
    }

    /// A file with the content, or one with a later content and those to which patches lead back from there, the last
    /// one first.
    fn trace(&mut self, hash: ContentHash) -> Result<(Base, Vec<ContentHash>), ReceiverError> {
        let (mut wanted, mut patches) = (hash, Vec::new());
        while patches.len() < PATCHES {
            if let Some(base) = self.whole(wanted)? {
                return Ok((base, patches));
            }
            // Asked before the retired twin, whose file a patch may just be changing.
            let Some(patch) = self.library.objects.open_patch(wanted)? else {
                break;
            };
            patches.push(wanted);
            wanted = patch.about().base;
        }
        if let Some(file) = self.retired(wanted)? {
            return Ok((Base::Whole(file), patches));
        }
        // It may have moved into history while it was looked for.
        match self.library.objects.open_object(wanted)? {
            Some(base) => Ok((base, patches)),
            None => Err(missing(hash)),
        }
    }

    /// A file with the content as it is, in the live twin or in history.
    fn whole(&mut self, hash: ContentHash) -> Result<Option<Base>, ReceiverError> {
        let live = match self.live(hash) {
            Ok(Some(file)) => return Ok(Some(Base::Whole(file))),
            live => live,
        };
        // One that cannot be read there may be in history as well.
        match self.library.objects.open_object(hash)? {
            None => live.map(|_| None),
            object => Ok(object),
        }
    }

    fn is_whole(&mut self, hash: ContentHash) -> Result<bool, ReceiverError> {
        let live = self.live(hash);
        if matches!(live, Ok(Some(_))) || self.library.objects.has_object(hash)? {
            return Ok(true);
        }
        live.map(|_| false)
    }

    /// A file with the content in the live twin.
    fn live(&mut self, hash: ContentHash) -> Result<Option<File>, ReceiverError> {
        let library = self.library;
        let mut none = Ok(None);
        for row in library.catalog.rows_with(hash, library.head)? {
            match open(&mut self.live, &row.place) {
                Ok(None) => {}
                Err(error @ ReceiverError::Tree(_)) => none = Err(error),
                opened => return opened,
            }
        }
        none
    }

    fn is_retired_whole(&self) -> bool {
        let retired = self.library.shadow.as_ref();
        retired.is_some_and(|(_, how)| *how == Retired::Whole)
    }

    /// A file with the content in the retired twin, if that still is what it was.
    fn retired(&mut self, hash: ContentHash) -> Result<Option<File>, ReceiverError> {
        let library = self.library;
        let (Some(retired), Some((shadow, how))) = (&mut self.retired, &library.shadow) else {
            return Ok(None);
        };
        for row in library.catalog.rows_with(hash, library.head - 1)? {
            if let Some(file) = open(retired, &row.place)? {
                // Whoever changes the twin removes its marker first, and no file that is open. Without one only the hash tells, as
                // whoever asks for the file finds out.
                let shows = marker::read(shadow)?.map(|position| position.number);
                let is_it = *how == Retired::Leaving || shows == Some(library.head - 1);
                return Ok(is_it.then_some(file));
            }
        }
        Ok(None)
    }
}

fn has_hash(file: &File, hash: ContentHash) -> Result<bool, ReceiverError> {
    content::drop_cache(file);
    Ok(content::hash_file(file, content::size(file)?)? == hash)
}

fn missing(hash: ContentHash) -> ReceiverError {
    ReceiverError::Damaged(format!("the content {hash} is neither live nor in history"))
}

fn open(handles: &mut Handles<'_>, place: &Place) -> Result<Option<File>, ReceiverError> {
    match handles
        .get(place.parent)
        .map(|directory| directory.open_file(&place.name))
    {
        Ok(Ok(file)) => Ok(Some(file)),
        Ok(Err(error)) if error.is_gone() => Ok(None),
        Ok(Err(error)) => Err(error.into()),
        Err(ReceiverError::Tree(error)) if error.is_gone() => Ok(None),
        Err(error) => Err(error),
    }
}
