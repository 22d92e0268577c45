//! Random changes: a look at the tree by stat before and after says what must be told.

use super::*;

/// Inode number and birth time: the number alone is soon given again.
type Id = (u64, i64, u32);

fn id(path: &Path) -> Id {
    let stat = fs::symlink_metadata(path).expect("stat");
    let born = stat.created().expect("birth time");
    let born = born.duration_since(std::time::UNIX_EPOCH).expect("date");
    (
        stat.ino(),
        born.as_secs().cast_signed(),
        born.subsec_nanos(),
    )
}

fn id_of(identity: Identity) -> Id {
    let born = identity.born.expect("birth time");
    (identity.inode, born.seconds, born.nanoseconds)
}

/// What a look at a tree by stat finds.
#[derive(Default)]
struct Snapshot {
    /// By directory and name.
    entries: BTreeMap<(Id, Vec<u8>), Found>,
    /// The directory and name of each directory but the root.
    parents: BTreeMap<Id, (Id, Vec<u8>)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Found {
    id: Id,
    is_directory: bool,
    /// Mode, owner, size, modified, changed.
    state: (u32, u32, u64, (i64, i64), (i64, i64)),
}

impl Snapshot {
    fn take(root: &Path) -> Self {
        let mut snapshot = Self::default();
        let mut pending = vec![root.to_owned()];
        while let Some(path) = pending.pop() {
            let directory = id(&path);
            for entry in fs::read_dir(&path).expect("list") {
                let entry = entry.expect("entry");
                let stat = entry.metadata().expect("stat");
                let key = (directory, entry.file_name().as_bytes().to_vec());
                if stat.is_dir() {
                    pending.push(entry.path());
                    snapshot.parents.insert(id(&entry.path()), key.clone());
                }
                let found = Found {
                    id: id(&entry.path()),
                    is_directory: stat.is_dir(),
                    state: (
                        stat.mode(),
                        stat.uid(),
                        stat.size(),
                        (stat.mtime(), stat.mtime_nsec()),
                        (stat.ctime(), stat.ctime_nsec()),
                    ),
                };
                snapshot.entries.insert(key, found);
            }
        }
        snapshot
    }
}

type Difference = ((Id, Vec<u8>), Option<Found>, Option<Found>);

/// Every difference between the two that no event tells of.
fn untold(before: &Snapshot, after: &Snapshot, events: &[Event], root: Id) -> Vec<Difference> {
    let mut names = BTreeSet::new();
    let mut whole = BTreeSet::new();
    let mut directories = BTreeSet::new();
    // Files lose a name with a directory that is gone, too; its own name is checked.
    let is_there = |directory| directory == root || after.parents.contains_key(&directory);
    let mut ids: BTreeSet<Id> = before
        .entries
        .iter()
        .filter(|(key, _)| !is_there(key.0))
        .map(|(_, found)| found.id)
        .collect();
    for event in events {
        let Event::Touched {
            directory, what, ..
        } = event
        else {
            continue;
        };
        directories.insert(id_of(*directory));
        if let Touched::Name(name, reach) = what {
            let key = (id_of(*directory), name.as_bytes().to_vec());
            for snapshot in [before, after] {
                ids.extend(snapshot.entries.get(&key).map(|found| found.id));
            }
            if *reach == Reach::Below {
                whole.insert(key.clone());
            }
            names.insert(key);
        }
    }
    let below_whole = |mut directory: Id| {
        while let Some(key) = after.parents.get(&directory) {
            if whole.contains(key) {
                return true;
            }
            directory = key.0;
        }
        false
    };
    // A name that vanished below one of them was a name of a file elsewhere, too.
    let in_whole = before
        .entries
        .iter()
        .chain(&after.entries)
        .filter(|(key, _)| below_whole(key.0));
    ids.extend(in_whole.map(|(_, found)| found.id));
    let keys: BTreeSet<_> = before.entries.keys().chain(after.entries.keys()).collect();
    let mut untold = Vec::new();
    for key in keys {
        let (old, new) = (before.entries.get(key), after.entries.get(key));
        if old == new || !is_there(key.0) || names.contains(key) || below_whole(key.0) {
            continue;
        }
        let told_by_id = match (old, new) {
            (Some(old), Some(new)) if old.id == new.id => {
                if new.is_directory {
                    directories.contains(&new.id)
                } else {
                    ids.contains(&new.id)
                }
            }
            _ => false,
        };
        if !told_by_id {
            untold.push((key.clone(), old.cloned(), new.cloned()));
        }
    }
    untold
}

/// A small generator: the same numbers for the same seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % sides as u64) as usize
    }
}

/// All directories below `top`, itself included, and all other entries.
fn everything(top: &Path) -> (Vec<PathBuf>, Vec<PathBuf>) {
    let (mut directories, mut files) = (vec![top.to_owned()], Vec::new());
    let mut next = 0;
    while next < directories.len() {
        for entry in fs::read_dir(&directories[next]).expect("list") {
            let path = entry.expect("entry").path();
            if fs::symlink_metadata(&path).expect("stat").is_dir() {
                directories.push(path);
            } else {
                files.push(path);
            }
        }
        next += 1;
    }
    (directories, files)
}

/// One random change in the scene; one that is impossible changes nothing. Gives back the file that got another
/// name.
fn change(scene: &Scene, dice: &mut Dice) -> Option<Id> {
    let (mut directories, mut files) = everything(&scene.root);
    let (others, more) = everything(&scene.outside);
    directories.extend(others);
    files.extend(more);
    let directory = directories[dice.roll(directories.len())].clone();
    let target = directory.join(format!("n{}", dice.roll(6)));
    let any_directory = directories[dice.roll(directories.len())].clone();
    let movable = any_directory != scene.root && any_directory != scene.outside;
    let file = (!files.is_empty()).then(|| files[dice.roll(files.len())].clone());
    let mut linked = None;
    let _ = match (dice.roll(12), file) {
        (0 | 1, _) => fs::create_dir(&target),
        (2 | 3, _) => fs::write(&target, vec![b'x'; dice.roll(9000)]),
        (4 | 5, _) if movable => fs::rename(&any_directory, &target),
        (6, Some(file)) => fs::rename(file, &target),
        (7, Some(file)) => fs::remove_file(file),
        (8, Some(file)) => {
            linked = Some(id(&file));
            fs::hard_link(file, &target)
        }
        (9, Some(file)) => fs::File::options()
            .append(true)
            .open(file)
            .and_then(|mut file| io::Write::write_all(&mut file, b"more")),
        (10, _) => {
            let mode = 0o700 + dice.roll(64) as u32;
            fs::set_permissions(any_directory, fs::Permissions::from_mode(mode))
        }
        (11, _) if movable && dice.roll(2) == 0 => fs::remove_dir_all(any_directory),
        _ => fs::remove_dir(any_directory.join("n1")),
    };
    linked
}

/// Makes the kernel's clock move, so that two changes never have the same time.
fn tick(scene: &Scene) {
    let file = scene.outside.with_file_name("clock");
    fs::write(&file, "").expect("write");
    let read = || {
        let stat = fs::metadata(&file).expect("stat");
        (stat.ctime(), stat.ctime_nsec())
    };
    let before = read();
    let deadline = Instant::now() + Duration::from_secs(5);
    while read() == before {
        assert!(Instant::now() < deadline, "the clock stands");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("chmod");
    }
}

/// Random changes in a scene; after every few, what differs by stat was told.
pub(super) fn model(scene: &Scene, seed: u64) {
    let mut dice = Dice(seed);
    let root = id(&scene.root);
    let mut before = Snapshot::take(&scene.root);
    for round in 0..60 {
        tick(scene);
        // Names of a file that are outside, or that come and go, are the kernel's blind spot, as `watch` says.
        let mut blind: BTreeSet<Id> = everything(&scene.outside)
            .1
            .iter()
            .map(|file| id(file))
            .collect();
        for _ in 0..=dice.roll(12) {
            blind.extend(change(scene, &mut dice));
            // Sometimes the thread reads in the middle.
            if dice.roll(8) == 0 {
                scene.watcher.drain();
            }
        }
        let events = scene.drained();
        let after = Snapshot::take(&scene.root);
        assert_eq!(gaps(&events, 1), [""; 0], "seed {seed}, round {round}");
        blind.extend(everything(&scene.outside).1.iter().map(|file| id(file)));
        let untold: Vec<_> = untold(&before, &after, &events, root)
            .into_iter()
            .filter(|(_, old, new)| {
                ![old, new]
                    .into_iter()
                    .flatten()
                    .any(|found| blind.contains(&found.id))
            })
            .collect();
        assert!(
            untold.is_empty(),
            "seed {seed}, round {round}: {untold:#?}\n{events:#?}"
        );
        before = after;
    }
}

#[test]
fn whatever_changes_is_told() {
    for seed in 1..=10 {
        let Some(scene) = Scene::new(Mounts::Stay) else {
            return;
        };
        model(&scene, seed * 7919);
    }
}
