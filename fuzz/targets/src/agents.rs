//! What an agent does with what a spare says: a restore, and a cycle that adopts what the spare has.

use std::path::Path;
use std::sync::Arc;

use understudy_agent::{
    Action, Cancel, Context, Emptied, Existing, Lost, Manner, Order, OwnedBy, Pace, Part, Progress,
    RestoreRequest, Source, Unsettled, Which, restore, sync,
};
use understudy_protocol::Message;
use understudy_protocol::transport::{Channel, in_process};
use understudy_tree::{Excludes, Mounts};

use crate::choices::Choices;
use crate::{hostile_spare, samples, scratch};

/// What a spare must not get, and a restore not touch.
const SECRET: &[u8] = b"secret";

/// A restore from a spare that says anything touches nothing outside its target.
pub(crate) fn restores(data: &[u8]) {
    let mut choices = Choices::new(data);
    let scratch = stage();
    let request = request(&mut choices, scratch.path());
    talk(choices.rest(), |channel| {
        let context = context(scratch.path());
        if let Err(error) = restore(channel, &request, &context, None) {
            let _ = error.to_string();
        }
    });
    is_untouched(scratch.path());
}

/// A cycle with a spare that says anything ends, and the spare learns nothing that is not in the source.
pub(crate) fn adoptions(data: &[u8]) {
    let mut choices = Choices::new(data);
    let scratch = stage();
    let source = Source {
        path: scratch.path().join("source"),
        dataset: samples::dataset(),
        excludes: Excludes::none(),
        mounts: Mounts::Stay,
        emptied: Emptied::Refuse,
        sweep: Source::SWEEP,
        unsettled: Unsettled::default(),
        databases: Vec::new(),
        stillness: None,
        snapshot: None,
        on_database_failure: Default::default(),
        sqlite: Default::default(),
    };
    let cycles = 1 + choices.below(2);
    for _ in 0..cycles {
        let length = usize::from(choices.short());
        let heard = talk(choices.take(length), |channel| {
            let context = context(scratch.path());
            if let Err(error) = sync(channel, &source, &context) {
                let _ = error.to_string();
            }
        });
        for message in heard {
            assert!(!has_secret(&message), "{message:?}");
        }
    }
    is_untouched(scratch.path());
}

fn has_secret(message: &Message) -> bool {
    let bytes = crate::wire::bytes(message);
    bytes.windows(SECRET.len()).any(|window| window == SECRET)
}

/// Lets the agent talk with a hostile spare; returns what that heard.
fn talk(data: &[u8], talk: impl FnOnce(Channel)) -> Vec<Message> {
    let (ours, theirs) = in_process();
    std::thread::scope(|scope| {
        let spare = scope.spawn(|| hostile_spare::answer(theirs, data));
        talk(ours);
        spare.join().expect("the spare is ours")
    })
}

fn request(choices: &mut Choices<'_>, scratch: &Path) -> RestoreRequest {
    let (existing, manner) = match choices.below(4) {
        0 => (Existing::Refuse, Manner::Switch),
        1 => (Existing::Replace, Manner::Switch),
        2 => (Existing::Refuse, Manner::Progressive),
        _ => (Existing::Replace, Manner::Progressive),
    };
    let target = match existing {
        Existing::Refuse => "new",
        Existing::Replace => "target",
    };
    RestoreRequest {
        dataset: samples::dataset(),
        target: scratch.join(target),
        which: Which::Newest,
        part: Part::Whole,
        first: Vec::new(),
        order: Order::default(),
        existing,
        manner,
        owners: [OwnedBy::Number, OwnedBy::Name][choices.below(2)],
        lost: Lost::Ask,
        trust: None,
        announced: (0, 0),
        room_bytes: RestoreRequest::ROOM_BYTES,
        action: if choices.seldom(4) {
            Action::DryRun
        } else {
            Action::Write
        },
        databases: choices.seldom(4).then(|| scratch.join("dumps")),
    }
}

fn context(scratch: &Path) -> Context {
    Context {
        state: scratch.join("state"),
        signer: None,
        databases: None,
        images: None,
        spare: "spare".to_owned(),
        progress: Arc::new(Progress::default()),
        cancel: Cancel::default(),
        pace: Arc::new(Pace::unlimited()),
        store: None,
    }
}

/// A source, a target with links that lead out of it, and what is outside.
#[expect(
    clippy::disallowed_methods,
    reason = "prepares trees for one input, on which nothing depends"
)]
fn stage() -> tempfile::TempDir {
    let scratch = scratch::directory();
    let make = |tree: &str| {
        let tree = scratch.path().join(tree);
        std::fs::create_dir_all(tree.join("d")).expect("a directory");
        std::fs::write(tree.join("a"), b"content").expect("a file");
        std::fs::write(tree.join("d/b"), vec![b'x'; 70_000]).expect("a file");
        std::os::unix::fs::symlink("../outside", tree.join("link")).expect("a link");
    };
    ["source", "target"].into_iter().for_each(make);
    let outside = scratch.path().join("outside");
    std::fs::create_dir(&outside).expect("a directory");
    std::fs::write(outside.join("secret"), SECRET).expect("a file");
    std::fs::hard_link(outside.join("secret"), scratch.path().join("target/c")).expect("a link");
    scratch
}

fn is_untouched(scratch: &Path) {
    let outside = scratch.join("outside");
    let names: Vec<_> = std::fs::read_dir(&outside)
        .expect("it is there")
        .map(|entry| entry.expect("an entry").file_name())
        .collect();
    assert_eq!(names, ["secret"]);
    let secret = outside.join("secret");
    assert_eq!(std::fs::read(&secret).expect("it is there"), SECRET);
    let mode = std::fs::metadata(&secret)
        .expect("it is there")
        .permissions();
    assert_eq!(
        std::os::unix::fs::PermissionsExt::mode(&mode) & 0o7777,
        0o644
    );
    for entry in std::fs::read_dir(scratch).expect("it is there") {
        let name = entry.expect("an entry").file_name();
        let name = name.to_string_lossy();
        let known = ["source", "target", "new", "dumps", "outside", "state"];
        assert!(known.iter().any(|known| name.starts_with(known)), "{name}");
    }
}

/// Whole restores and cycles.
pub(crate) fn restores_seeds() -> Vec<Vec<u8>> {
    let tree = [
        &[0, 6][..],
        &[0x00, 4, 1, 0, 0],
        &[0x01, 4, 2, 0, 0],
        &[0x03, 0, 0, 0, 0],
        &[0x80, 4, 1, 0, 0],
        &[0x81, 13, 0, 0],
        &[0x05, 11, 1, 0, 0],
        &[0],
    ]
    .concat();
    // Sizes that no number holds together.
    let mut huge = vec![0, 0, 0, 0, 0, 6];
    for name in 0..6 {
        huge.extend([name, 10, 173, 1, 0, 0]);
    }
    huge.resize(200, 0);
    let mut seeds = vec![huge];
    // The databases of a snapshot, which are restored with its files: their root with a file in it.
    let databases = [
        &[0, 0, 0, 3, 0, 3][..],
        &[0x00, 4, 1, 0, 0],
        &[0xe9, 0, 1, 0, 0],
        &[0x81, 4, 1, 0, 0],
        &[0; 121],
    ];
    seeds.push(databases.concat());
    for manner in 0..4 {
        let mut seed = vec![manner, 0, 0, 0];
        seed.extend(&tree);
        seed.resize(seed.len() + 120, 0);
        seeds.push(seed.clone());
        seed[2] = 3;
        seeds.push(seed);
    }
    seeds
}

pub(crate) fn adoptions_seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for seed in restores_seeds() {
        for position in [0, 1] {
            let mut talk = seed[4..].to_vec();
            talk.extend([0, position, 0, position, 2, position]);
            talk.resize(talk.len() + 60, 0);
            let length = (talk.len() as u16).to_le_bytes();
            seeds.push([&[0], &length[..], &talk].concat());
        }
    }
    seeds
}
