//! Contents that have gone cold: compressed once, given back whole, and mended from whichever form is sound.

use understudy_protocol::message::{Change, Content, ReadManifest, Repair, Want};
use understudy_protocol::{ContentHash, Message, Node};
use understudy_receiver::Reserve;

use super::stage::{dataset, entry, hear, place, send};
use super::{History, strict, text};

/// A snapshot of a long text, which another one followed.
fn with_history(content: &str) -> History {
    let mut history = History::new(strict());
    history.sync(&[text("f", content)], &[], false);
    history.sync(&[text("f", "short")], &[], false);
    // What is retired moves into history with the next one.
    history.sync(&[text("g", "another")], &[], false);
    history
}

fn compressed_object(history: &History, content: &str) -> std::path::PathBuf {
    let digits = ContentHash::of(content.as_bytes()).to_string();
    let (shelf, name) = digits.split_at(2);
    let path = format!(".understudy/objects/{shelf}/{name}.zst");
    history.stage.path(&path)
}

#[test]
#[expect(clippy::disallowed_methods, reason = "plays a crash")]
fn what_has_gone_cold_is_compressed_once_and_given_back_whole() {
    let content = "a line that comes again\n".repeat(2000);
    let history = with_history(&content);
    assert_eq!(history.compress(), 1);
    let objects = history.objects();
    let wanted = format!("{}.zst", ContentHash::of(content.as_bytes()));
    assert!(objects.contains(&wanted), "{objects:?}");
    assert!(!objects.contains(&wanted.replace(".zst", "")));
    let packed = std::fs::metadata(compressed_object(&history, &content)).expect("object");
    assert!(packed.len() < content.len() as u64 / 10);
    history.check();
    assert_eq!(history.compress(), 0);
    // As after a crash before the original went.
    let path = compressed_object(&history, &content).with_extension("");
    std::fs::write(path, &content).expect("original");
    history.check();
    assert_eq!(history.compress(), 1);
    assert_eq!(history.objects().len(), objects.len());
    history.check();
}

#[test]
#[expect(clippy::disallowed_methods, reason = "plays another process")]
fn two_passes_do_not_meet() {
    let content = "a line that comes again\n".repeat(2000);
    let history = with_history(&content);
    let place = history.stage.path(".understudy/compressing");
    std::fs::create_dir_all(&place).expect("directory");
    let held = std::fs::File::open(&place).expect("open");
    held.lock().expect("lock");
    assert_eq!(history.compress(), 0);
    drop(held);
    assert_eq!(history.compress(), 1);
}

#[test]
#[expect(clippy::disallowed_methods, reason = "plays a disk that fails")]
fn a_whole_content_that_is_damaged_is_repaired_from_its_compressed_form() {
    let content = "a line that comes again\n".repeat(2000);
    let history = with_history(&content);
    history.compress();
    let path = compressed_object(&history, &content).with_extension("");
    std::fs::write(&path, content.replace("line", "lime")).expect("damage");
    assert_eq!(history.verify().len(), 1);
    history.stage.talk(|channel| {
        let dataset = Some(dataset());
        send(channel, &Message::Repair(Repair { dataset }));
        while !matches!(hear(channel).expect("repair"), Message::VerifyEnd(_)) {}
    });
    history.check();
}

#[test]
fn what_compressing_would_not_make_smaller_stays_as_it_is() {
    let hashes = (0..2000u32).flat_map(|number| *blake3::hash(&number.to_le_bytes()).as_bytes());
    for content in [hashes.collect::<Vec<u8>>(), vec![b'x'; 4096]] {
        let mut history = History::new(strict());
        let node = Node::File {
            size: content.len() as u64,
            hash: ContentHash::of(&content),
        };
        let put = Change::Put {
            place: place(1, "f"),
            entry: entry(node),
            content: Content::Inline(content.into()),
        };
        history.sync(&[put], &[], false);
        history.sync(&[text("f", "short")], &[], false);
        history.sync(&[text("g", "another")], &[], false);
        assert_eq!(history.objects().len(), 1);
        assert_eq!(history.compress(), 0);
        history.check();
    }
}

#[test]
#[expect(clippy::disallowed_methods, reason = "plays a disk that fails")]
fn a_compressed_content_that_is_damaged_is_found_and_not_given() {
    let content = "a line that comes again\n".repeat(2000);
    let history = with_history(&content);
    history.compress();
    let path = compressed_object(&history, &content);
    let sound = std::fs::read(&path).expect("object");
    for at in [0, 5, sound.len() / 2, sound.len() - 1] {
        let mut damaged = sound.clone();
        damaged[at] ^= 1;
        std::fs::write(&path, damaged).expect("damage");
        assert_eq!(history.verify().len(), 1, "byte {at}");
        let given = history.stage.talk(|channel| {
            let request = ReadManifest {
                dataset: dataset(),
                number: Some(2),
            };
            send(channel, &Message::ReadManifest(request));
            while !matches!(hear(channel), Ok(Message::ManifestEnd(_))) {}
            let places = vec![place(1, "f")];
            send(channel, &Message::Want(Want { places }));
            hear(channel)
        });
        assert!(given.is_err(), "byte {at}");
    }
    std::fs::write(&path, sound).expect("repair");
    history.check_verify();
}

#[test]
fn nothing_is_compressed_out_of_the_reserve_and_it_is_looked_at_again() {
    let history = with_history(&"a line that comes again\n".repeat(2000));
    let all = Reserve {
        percent: 100,
        enough_bytes: u64::MAX,
    };
    assert_eq!(history.compress_within(all), 0);
    assert_eq!(history.compress_within(Reserve::default()), 1);
    history.check();
}

#[test]
#[expect(clippy::disallowed_methods, reason = "plays a disk that fails")]
fn what_cannot_be_read_does_not_keep_the_rest_from_being_compressed() {
    let history = with_history(&"a line that comes again\n".repeat(2000));
    std::fs::write(history.stage.path(".understudy/objects/00"), "no shelf").expect("write");
    assert_eq!(history.compress(), 1);
}
