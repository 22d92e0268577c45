//! Flipped bits, anywhere in a store: verification finds them or whoever uses what they hit is refused, and no restore ever
//! brings back anything but what was.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileExt;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::process::Command;

use understudy_protocol::FailureCode;
use understudy_receiver::Store;
use understudy_receiver::retention::Mode;

use crate::acts::{Act, End, Rules, START, Trouble, prune, restore_once};
use crate::edits::{edit, make_large};
use crate::facts::{Facts, differences, facts};
use crate::model::{Model, findings, told};
use crate::place::{Place, scratch, seeds};
use crate::random::Random;

/// Where bits are flipped, and how the files there begin, in the directory of the dataset.
const PARTS: [(&str, &str); 9] = [
    ("live", "live/files/"),
    ("marker", "live/SNAPSHOT"),
    ("shadow", ".understudy/shadow/"),
    ("objects", ".understudy/objects/"),
    ("catalog", ".understudy/catalog.db"),
    ("staging", ".understudy/staging/"),
    ("patches", ".understudy/patches/"),
    ("held", ".understudy/held"),
    ("leftovers", ".understudy/leftovers/"),
];

/// A spare with a history, and what it should have.
struct Original {
    place: Place,
    model: Model,
    /// The source, which no snapshot has yet.
    ahead: Facts,
    _scratch: tempfile::TempDir,
}

/// What is going on in a spare when bits are flipped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pending {
    Nothing,
    /// A cycle is held.
    Held,
    /// An upload was interrupted.
    Leftovers,
    /// An intent is complete and not applied.
    Intent,
}

impl Original {
    fn new(seed: u64, pending: Pending) -> Self {
        let scratch = scratch();
        let place = Place::at(scratch.path());
        place.prepare();
        let mut random = Random::new(seed);
        let (mut model, rules) = (Model::default(), Rules::of(1));
        make_large(&place.source(), &mut random);
        for number in 0..6 {
            for _ in 0..8 {
                edit(&place.source(), &mut random);
            }
            let source = place.source();
            fs::write(
                source.join(format!("certain {number}")),
                random.content(3_000),
            )
            .unwrap();
            fs::write(source.join("changes"), random.content(5_000)).unwrap();
            Act::Sync.perform(&place, &rules).unwrap();
            model.commit(&place, facts(&place.source()), START + number * 60);
        }
        for number in 0..30 {
            let path = place.source().join(format!("ahead {number}"));
            fs::write(path, random.noise(10_000)).unwrap();
        }
        fs::remove_file(place.source().join("changes")).unwrap();
        let large = fs::File::options()
            .write(true)
            .open(place.source().join("large"))
            .unwrap();
        large.write_all_at(&random.noise(100), 50_000).unwrap();
        let ahead = facts(&place.source());
        match pending {
            Pending::Nothing => {}
            Pending::Held => {
                let mut strict = Rules::of(2);
                strict.guards.usual.files_percent = 1;
                let refused = Act::Sync.perform(&place, &strict).expect_err("is held");
                assert_eq!(refused.code, FailureCode::Refused);
                model.held = Some((told(&place).held.unwrap(), ahead.clone()));
            }
            Pending::Leftovers | Pending::Intent => {
                let point = if pending == Pending::Intent {
                    "receiver.sealed"
                } else {
                    "receiver.staged"
                };
                let end = End::Point(format!("{point}=return"));
                assert!(Act::Sync.perform_and_die(&place, &rules, &end));
                if pending == Pending::Leftovers {
                    Act::Recover.perform(&place, &rules).unwrap();
                }
            }
        }
        Self {
            place,
            model,
            ahead,
            _scratch: scratch,
        }
    }

    /// The files in which bits are flipped, by part.
    fn files(&self) -> BTreeMap<&'static str, Vec<PathBuf>> {
        let mut found = BTreeMap::<_, Vec<PathBuf>>::new();
        let mut all = Vec::new();
        list(&self.place.dataset(), &mut all);
        for path in all {
            let below = path
                .strip_prefix(self.place.dataset())
                .unwrap()
                .to_str()
                .unwrap()
                .to_owned();
            if let Some((part, _)) = PARTS.iter().find(|(_, begin)| below.starts_with(begin)) {
                found.entry(*part).or_default().push(below.into());
            }
        }
        found
    }

    /// The same spare once more, to be damaged.
    fn copy(&self) -> (tempfile::TempDir, Place) {
        let scratch = scratch();
        let mut copy = Command::new("cp");
        copy.arg("-a")
            .arg("--")
            .args(["source", "store", "state"].map(|name| self.place.root().join(name)));
        assert!(copy.arg(scratch.path()).status().unwrap().success());
        let place = Place::at(scratch.path());
        (scratch, place)
    }
}

fn list(directory: &Path, found: &mut Vec<PathBuf>) {
    let mut entries: Vec<_> = fs::read_dir(directory)
        .unwrap()
        .map(Result::unwrap)
        .collect();
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let metadata = fs::symlink_metadata(entry.path()).unwrap();
        if metadata.is_dir() {
            list(&entry.path(), found);
        } else if metadata.is_file() && metadata.len() > 0 {
            found.push(entry.path());
        }
    }
}

/// Flips one bit, and leaves the times as they were, as a failing disk does.
fn flip(path: &Path, random: &mut Random) -> String {
    let metadata = path.metadata().unwrap();
    let file = fs::File::options()
        .read(true)
        .write(true)
        .open(path)
        .unwrap();
    let (offset, bit) = (random.below(metadata.len()), random.below(8));
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[byte[0] ^ (1 << bit)], offset).unwrap();
    file.set_modified(metadata.modified().unwrap()).unwrap();
    format!(
        "bit {bit} of byte {offset} of {}, {} bytes",
        path.display(),
        metadata.len()
    )
}

/// What became of the damage.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Fate {
    /// Verification told of it.
    is_found: bool,
    /// Something was refused for it.
    is_refused: bool,
}

impl Fate {
    fn word(self) -> &'static str {
        match self {
            Self { is_found: true, .. } => "found",
            Self {
                is_refused: true, ..
            } => "refused",
            _ => "harmless",
        }
    }
}

/// Uses a damaged spare in every way.
struct Trial<'a> {
    original: &'a Original,
    place: Place,
    fate: Fate,
    what: String,
}

impl<'a> Trial<'a> {
    fn verify(&mut self) -> bool {
        let found = !findings(&self.place).is_empty();
        self.fate.is_found |= found;
        found
    }

    fn refused(&mut self, trouble: &Trouble) {
        assert!(
            trouble.text.len() > 20 && !trouble.text.contains("worker"),
            "{}: {trouble:?}",
            self.what
        );
        self.fate.is_refused = true;
    }

    /// Restores every snapshot: what is restored is what it was.
    fn restore_all(&mut self) {
        for (number, copy) in &self.original.model.copies {
            let target = self.place.root().join("target");
            match restore_once(&self.place, Some(*number), "target") {
                Ok(()) => {
                    let differences = differences(&facts(&target), copy);
                    assert!(
                        differences.is_empty(),
                        "{}: snapshot {number}: {differences:?}",
                        self.what
                    );
                    fs::remove_dir_all(&target).unwrap();
                }
                Err(trouble) => {
                    assert!(!target.exists(), "{}: {trouble:?}", self.what);
                    self.refused(&trouble);
                }
            }
            let _ = fs::remove_dir_all(self.place.root().join("target.understudy-restore"));
        }
    }

    /// The live tree is what it should be, or verification tells.
    fn check_live(&mut self, wanted: &Facts) {
        let differences = differences(&facts(&self.place.live()), wanted);
        if !differences.is_empty() {
            assert!(self.verify(), "{}: not found: {differences:?}", self.what);
        }
    }

    fn head(&self) -> &'a Facts {
        &self.original.model.copies[&self.original.model.head]
    }

    /// Lets what is held through: exactly that becomes live, or nothing.
    fn release(&mut self, digest: &str) {
        let act = Act::Release {
            digest: digest.to_owned(),
        };
        match act.perform(&self.place, &Rules::of(1)) {
            Ok(()) => {
                self.check_live(&self.original.ahead);
                // What nobody has seen yet is never restored.
                match restore_once(&self.place, None, "newest") {
                    Ok(()) => {
                        let found = differences(
                            &facts(&self.place.root().join("newest")),
                            &self.original.ahead,
                        );
                        assert!(found.is_empty(), "{}: released: {found:?}", self.what);
                    }
                    Err(trouble) => self.refused(&trouble),
                }
            }
            Err(trouble) => {
                self.refused(&trouble);
                self.check_live(self.head());
            }
        }
    }

    /// Removes what may go by now: nothing that the others need goes with it.
    fn prune(&mut self) {
        let policy = Rules::of(1).policy;
        let pruned = Store::open(&self.place.store())
            .map_err(Trouble::from)
            .and_then(|store| {
                let now = START + 3 * 3600 + policy.minimum_age.as_secs() as i64;
                prune(&store, &policy, now, Mode::Act)?;
                prune(
                    &store,
                    &policy,
                    now + policy.grace.as_secs() as i64,
                    Mode::Act,
                )
            });
        match pruned {
            Ok(pruned) if pruned.obstacle.is_none() => {}
            Ok(_) => self.fate.is_refused = true,
            Err(trouble) => self.refused(&trouble),
        }
    }

    fn sync(&mut self) {
        match Act::Sync.perform(&self.place, &Rules::of(1)) {
            Ok(()) => self.check_live(&self.original.ahead),
            Err(trouble) => self.refused(&trouble),
        }
    }

    fn run(&mut self, random: &mut Random) {
        let is_verified = random.below(2) == 0;
        if is_verified {
            self.check_live(self.head());
            self.verify();
        }
        self.restore_all();
        if is_verified && self.fate.is_refused {
            assert!(self.fate.is_found, "{}: refused, but not found", self.what);
        }
        match &self.original.model.held {
            Some((digest, _)) => self.release(digest),
            None => {
                self.prune();
                self.sync();
            }
        }
        self.verify();
        if !self.fate.is_found {
            self.check_rest();
        }
    }

    /// Nothing that is left has lost anything.
    fn check_rest(&self) {
        for (number, copy) in &self.original.model.copies {
            match restore_once(&self.place, Some(*number), "left") {
                Ok(()) => {
                    let path = self.place.root().join("left");
                    assert!(differences(&facts(&path), copy).is_empty(), "{}", self.what);
                    fs::remove_dir_all(path).unwrap();
                }
                // Pruned.
                Err(trouble) if trouble.code == FailureCode::NotFound => {}
                Err(trouble) => panic!("{}: {trouble:?}", self.what),
            }
        }
    }
}
#[test]
fn flipped_bits_are_found_or_refused_and_never_restored() {
    let seeds = seeds(0..40);
    let kinds = [
        Pending::Nothing,
        Pending::Held,
        Pending::Leftovers,
        Pending::Intent,
    ];
    let originals = kinds.map(|pending| Original::new(7, pending));
    let mut fates = BTreeMap::<(&str, &str), u64>::new();
    let mut failed = Vec::new();
    for seed in seeds {
        let number = seed as usize % originals.len();
        println!("flip {seed}, {:?}", kinds[number]);
        let tried =
            std::panic::catch_unwind(AssertUnwindSafe(|| try_one(&originals[number], seed)));
        match tried {
            Ok((part, fate)) => *fates.entry((part, fate.word())).or_default() += 1,
            Err(_) => failed.push(seed),
        }
    }
    println!("{fates:#?}");
    assert!(failed.is_empty(), "flips {failed:?}");
}

fn try_one(original: &Original, seed: u64) -> (&'static str, Fate) {
    let mut random = Random::new(seed);
    let files = original.files();
    let parts: Vec<_> = files.keys().copied().collect();
    let part = *random.pick(&parts);
    let below = random.pick(&files[part]);
    let (_scratch, place) = original.copy();
    let what = flip(&place.dataset().join(below), &mut random);
    println!("  {what}");
    let mut trial = Trial {
        original,
        place,
        fate: Fate::default(),
        what,
    };
    trial.run(&mut random);
    println!("  {:?}", trial.fate);
    (part, trial.fate)
}
