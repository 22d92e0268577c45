//! Verification: reads the live tree, history and the catalog again and reports every difference.

mod mend;

use std::collections::HashMap;

use understudy_protocol::message::{Finding, Verified, VerifyEnd};
use understudy_protocol::transport::Outgoing;
use understudy_protocol::{
    DatasetName, DirectoryId, Entry, Message, Name, Node, RelPath, StateDigest,
};
use understudy_tree::{Directory, Kind, Stat, content, node};

use crate::browse;
use crate::catalog::{Catalog, Needed, Row};
use crate::dataset::{Dataset, now_seconds};
use crate::error::ReceiverError;
use crate::history::{Form, Objects};
use crate::library::Library;
use crate::names;
use crate::patch::Patch;
use crate::repair::Repairer;
use crate::retention::verified::{self, Verdict};
use crate::serve::{existing, send};
use crate::store::Store;

use mend::Fate;
pub(crate) use mend::Mending;

/// Verifies one dataset or all, and tells what it finds as it goes.
pub(crate) fn serve(
    store: &Store,
    only: Option<&DatasetName>,
    mending: Mending,
    outgoing: &Outgoing,
) -> Result<(), ReceiverError> {
    let datasets = match only {
        Some(name) => vec![existing(store, name)?],
        None => {
            let opened: Result<Vec<_>, _> = store
                .dataset_names()?
                .iter()
                .map(|name| store.dataset(name))
                .collect();
            opened?.into_iter().flatten().collect()
        }
    };
    for dataset in &datasets {
        if mending == Mending::All {
            store.housekeeping.interrupt(&dataset.name);
        }
        let verified = verify(dataset, mending, outgoing)?;
        send(outgoing, &Message::Verified(verified))?;
    }
    send(
        outgoing,
        &Message::VerifyEnd(VerifyEnd {
            datasets: datasets.len() as u64,
        }),
    )
}

fn verify(
    dataset: &Dataset,
    mending: Mending,
    outgoing: &Outgoing,
) -> Result<Verified, ReceiverError> {
    let mut verifier = Verifier {
        dataset,
        outgoing,
        verified: Verified {
            dataset: dataset.name.clone(),
            snapshot: None,
            entries: 0,
            files: 0,
            bytes: 0,
            objects: 0,
            object_bytes: 0,
            findings: 0,
        },
        first_names: HashMap::new(),
        repairer: None,
    };
    // No commit may move things meanwhile; an upload that is running is waited out by its own refusal.
    let locked = dataset.lock_patiently();
    if let Err(error @ ReceiverError::Busy(_)) = locked {
        return Err(error);
    }
    if let (Mending::All, Ok(locked)) = (mending, &locked) {
        match Repairer::new(dataset, locked) {
            Ok(repairer) => verifier.repairer = repairer,
            Err(error) => {
                verifier.found(&RelPath::root(), format!("cannot be repaired: {error}"))?;
            }
        }
    }
    let result = match verifier.run() {
        Err(ReceiverError::Damaged(what)) => verifier.found(&RelPath::root(), what),
        result => result,
    };
    let findings = verifier.verified.findings;
    // One that was cut short proves nothing but what it found.
    if result.is_ok() || findings > 0 {
        note(dataset, findings);
    }
    drop(locked);
    result.map(|()| verifier.verified)
}

/// Notes the end of it for retention, which removes nothing while anything is wrong.
fn note(dataset: &Dataset, findings: u64) {
    let seconds = now_seconds();
    let noted = verified::note(&dataset.control, Verdict { seconds, findings });
    if let Err(error) = noted {
        tracing::warn!(dataset = %dataset.name, "cannot note how the verification ended: {error}");
    }
}

struct Verifier<'a> {
    dataset: &'a Dataset,
    outgoing: &'a Outgoing,
    verified: Verified,
    /// Inode of each hard-link group seen, to see that all names share it.
    first_names: HashMap<u64, u64>,
    /// Where damage is repaired.
    repairer: Option<Repairer<'a>>,
}

impl Verifier<'_> {
    fn found(&mut self, path: &RelPath, what: impl Into<String>) -> Result<(), ReceiverError> {
        self.verified.findings += 1;
        let dataset: DatasetName = self.dataset.name.clone();
        send(
            self.outgoing,
            &Message::Finding(Finding {
                dataset,
                path: path.clone(),
                what: what.into(),
            }),
        )
    }

    fn run(&mut self) -> Result<(), ReceiverError> {
        let Some(catalog) = self.dataset.read_catalog()? else {
            return Ok(());
        };
        for line in catalog.check()? {
            self.found(&RelPath::root(), format!("catalog: {line}"))?;
        }
        let Some(head) = catalog.head()? else {
            return Ok(());
        };
        let at = head.snapshot.position.number;
        self.verified.snapshot = Some(head.snapshot.clone());
        let mut digest = StateDigest::empty();
        catalog.rows_at(at, |row| {
            digest.add(&row.place, &row.entry);
            Ok(())
        })?;
        if digest.fingerprint() != head.snapshot.position.fingerprint {
            self.found(
                &RelPath::root(),
                format!("the catalog's entries of snapshot {at} do not have its digest"),
            )?;
        }
        let Some(live) = self.dataset.live()? else {
            return self.found(&RelPath::root(), "the live tree is missing");
        };
        match crate::marker::read(&live)? {
            Some(position) if position == head.snapshot.position => {}
            _ => self.found(
                &RelPath::root(),
                format!("the file SNAPSHOT does not say that this is snapshot {at}"),
            )?,
        }
        self.compare_tree(&catalog, at, &live)?;
        self.verify_objects(&catalog)?;
        self.verify_history(&catalog, at)
    }

    /// Walks catalog and live tree in lock step, one directory at a time.
    fn compare_tree(
        &mut self,
        catalog: &Catalog,
        at: u64,
        live: &Directory,
    ) -> Result<(), ReceiverError> {
        let mut pending = vec![(DirectoryId::TOP, RelPath::root())];
        while let Some((id, path)) = pending.pop() {
            let directory = match live.open_beneath(&path) {
                Ok(directory) => directory,
                Err(error) => {
                    self.found(&shown(&path), format!("cannot be opened: {error}"))?;
                    continue;
                }
            };
            let rows = catalog.rows_in(id, at)?;
            let names = directory.names()?;
            let mut on_disk = names.into_iter().peekable();
            for row in rows {
                while let Some(extra) = on_disk.next_if(|name| *name < row.place.name) {
                    self.extra(id, &path, &extra)?;
                }
                let is_there = on_disk.next_if(|name| *name == row.place.name).is_some();
                let child = path.join(&row.place.name);
                if let Some(directory_id) = row.entry.directory_id().filter(|_| is_there) {
                    pending.push((directory_id, child.clone()));
                }
                self.compare(&directory, &child, &row, is_there)?;
            }
            for extra in on_disk {
                self.extra(id, &path, &extra)?;
            }
        }
        Ok(())
    }

    fn extra(&mut self, id: DirectoryId, path: &RelPath, name: &Name) -> Result<(), ReceiverError> {
        if id == DirectoryId::TOP && *name == *names::SNAPSHOT {
            return Ok(());
        }
        self.found(
            &shown(&path.join(name)),
            "is in the live tree but not in the snapshot",
        )
    }

    fn compare(
        &mut self,
        directory: &Directory,
        path: &RelPath,
        row: &Row,
        is_there: bool,
    ) -> Result<(), ReceiverError> {
        self.verified.entries += 1;
        let can_exist = node::can_exist(&row.entry, &self.dataset.privileges);
        if !is_there {
            return if can_exist && row.entry.content().is_some() {
                let what = "is missing from the live tree".to_owned();
                self.damaged(directory, path, row, what).map(drop)
            } else if can_exist {
                self.found(&shown(path), "is missing from the live tree")
            } else {
                Ok(())
            };
        }
        let stat = directory.stat(&row.place.name)?;
        let different = self.differs(directory, row, &stat)?;
        if row.entry.group != 0 {
            let first = *self
                .first_names
                .entry(row.entry.group)
                .or_insert(stat.identity.inode);
            if first != stat.identity.inode {
                self.found(
                    &shown(path),
                    "is not hard-linked to the other names of its group",
                )?;
            }
        }
        let damage = match row.entry.content() {
            Some((size, _)) if stat.kind == Kind::File && stat.size != size => different.clone(),
            Some(content) if stat.kind == Kind::File => {
                self.damage_of(directory, &row.place.name, content)
            }
            _ => None,
        };
        let is_cut = damage.is_some() && damage == different;
        if let Some(what) = damage
            && self.damaged(directory, path, row, what)? == Fate::Repaired
        {
            // It has all its attributes again as well.
            return Ok(());
        }
        match different {
            Some(what) if !is_cut => self.found(&shown(path), what),
            _ => Ok(()),
        }
    }

    /// What is different in kind, size or metadata, if anything.
    fn differs(
        &self,
        directory: &Directory,
        row: &Row,
        stat: &Stat,
    ) -> Result<Option<String>, ReceiverError> {
        let entry = &row.entry;
        if !same_kind(entry, stat.kind) {
            return Ok(Some(format!("is not a {} any more", entry.kind())));
        }
        if let Some((size, _)) = entry.content()
            && size != stat.size
        {
            return Ok(Some(format!("has {} bytes instead of {size}", stat.size)));
        }
        if let Node::Symlink { target } = &entry.node
            && directory.read_link(&row.place.name)? != target.0
        {
            return Ok(Some("points elsewhere".to_owned()));
        }
        let found = node::read_attributes(directory, &row.place.name, stat)?;
        let wanted = &entry.attributes;
        let privileges = &self.dataset.privileges;
        let mut differing = Vec::new();
        if found.modified != wanted.modified {
            differing.push("modification time");
        }
        // What could not be set for lack of privileges is recorded only, and no damage.
        let mode_matters = privileges.override_permissions;
        if mode_matters && found.mode != wanted.mode
            || found.mode & 0o777 & !wanted.mode & !0o500 != 0
        {
            differing.push("mode");
        }
        if privileges.chown && (found.uid, found.gid) != (wanted.uid, wanted.gid) {
            differing.push("owner");
        }
        if privileges.chown && found.xattrs != wanted.xattrs {
            differing.push("extended attributes");
        }
        Ok((!differing.is_empty()).then(|| format!("differs in {}", differing.join(", "))))
    }

    fn verify_objects(&mut self, catalog: &Catalog) -> Result<(), ReceiverError> {
        let objects = Objects::open(&self.dataset.control)?;
        objects.each(|promised, shelf, name| {
            self.verified.objects += 1;
            let path = object_path(name, promised.map(|(hash, _)| hash));
            let Some((hash, form)) = promised else {
                return self.found(&path, "is not an object's name");
            };
            if form == Form::Patch {
                return match Patch::open(shelf.open_file(name)?)? {
                    Some(patch) if patch.about().hash == hash => {
                        self.verified.object_bytes += patch.bytes();
                        Ok(())
                    }
                    _ => {
                        let of = browse::former_names(catalog, hash)?;
                        self.found(&path, format!("this patch of history is damaged{of}"))
                    }
                };
            }
            let size = shelf.stat(name)?.size;
            self.verified.object_bytes += size;
            let read = shelf.open_file(name).and_then(|file| {
                content::drop_cache(&file);
                content::hash_file(&file, size)
            });
            match read {
                Ok(found) if found == hash => Ok(()),
                Ok(_) => {
                    let of = browse::former_names(catalog, hash)?;
                    let what = "this object of history does not have the content its name says";
                    self.found(&path, format!("{what}{of}"))
                }
                Err(error) => self.found(&path, format!("cannot be read: {error}")),
            }
        })
    }

    /// Every content of every snapshot must be somewhere.
    fn verify_history(&mut self, catalog: &Catalog, head: u64) -> Result<(), ReceiverError> {
        let library = Library::open(self.dataset)?;
        let mut finder = library.finder();
        let snapshots = catalog.snapshots()?;
        let numbers = snapshots.iter().map(|one| one.snapshot.position.number);
        // Rows of snapshots that are gone may outlive their contents for a moment.
        let listed = Needed::new(numbers, head);
        catalog.superseded_files(head, |row| {
            let is_listed = listed.has_in(row.since, row.until);
            let Some((_, hash)) = row.entry.content().filter(|_| is_listed) else {
                return Ok(());
            };
            match finder.check(hash) {
                Ok(_) => Ok(()),
                Err(ReceiverError::Damaged(_)) => {
                    let path = object_path(&row.place.name, Some(hash));
                    let (first, last) = (row.since, row.until.unwrap_or(head).saturating_sub(1));
                    self.found(
                        &path,
                        format!(
                            "the content of `{}` in snapshots {first} to {last} is missing",
                            row.place.name
                        ),
                    )
                }
                Err(error) => Err(error),
            }
        })
    }
}

fn same_kind(entry: &Entry, kind: Kind) -> bool {
    match entry.node {
        Node::Directory { .. } => kind == Kind::Directory,
        Node::File { .. } => kind == Kind::File,
        Node::Symlink { .. } => kind == Kind::Symlink,
        Node::Fifo => kind == Kind::Fifo,
        Node::CharacterDevice { .. } => kind == Kind::CharacterDevice,
        Node::BlockDevice { .. } => kind == Kind::BlockDevice,
    }
}

/// Below the root `files`, paths are told as on the main.
fn shown(path: &RelPath) -> RelPath {
    let below = path.as_bytes().strip_prefix(b"files/".as_slice());
    below
        .and_then(|path| RelPath::new(path).ok())
        .unwrap_or_else(|| path.clone())
}

fn object_path(name: &Name, hash: Option<understudy_protocol::ContentHash>) -> RelPath {
    let text = hash.map_or_else(|| name.to_string(), |hash| hash.to_string());
    RelPath::new(format!("objects/{text}").as_bytes()).unwrap_or_default()
}
