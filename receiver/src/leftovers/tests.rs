//! What is told and what is dropped, of datasets whose interrupted uploads are made here.

use understudy_protocol::DatasetName;
use understudy_tree::content;

use super::*;
use crate::ledger::{Ledger, Record, Spot};
use crate::peer::Peer;
use crate::space::Reserve;
use crate::store::Store;

fn dataset(store: &Store, name: &str) -> Dataset {
    let name = DatasetName::new(name).expect("name");
    store.ensure_dataset(&name).expect("dataset")
}

/// Stages the file of stream 1, which has this size, as an upload does that is interrupted then.
fn stage(dataset: &Dataset, size: u64, record: &Record) {
    let streams = dataset
        .control
        .ensure_directory(&names::STAGING)
        .and_then(|staging| staging.ensure_directory(&names::STREAMS))
        .expect("streams");
    let file = streams.create_file(&names::number(1)).expect("file");
    content::set_size(&file, size).expect("size");
    Ledger::new(&dataset.control).note(record).expect("note");
}

fn whole(size: u64) -> Record {
    Record::Staged {
        hash: ContentHash::of(&size.to_le_bytes()),
        size,
        spot: Spot::Stream(1),
    }
}

/// An upload that is interrupted after it staged a content of this size.
fn interrupt(dataset: &Dataset, size: u64) {
    let locked = dataset.lock().expect("lock");
    stage(dataset, size, &whole(size));
    keep(dataset, &locked).expect("keep");
}

/// How many contents and partials are told.
fn told(dataset: &Dataset) -> (usize, usize) {
    let locked = dataset.lock().expect("lock");
    let leftovers = load(dataset, &locked, None).expect("load");
    let partials = leftovers.partials().len();
    (leftovers.items.len(), partials)
}

fn io_error() -> ReceiverError {
    ReceiverError::Tree(understudy_tree::TreeError::new(
        "sync",
        b".",
        rustix::io::Errno::IO,
    ))
}

#[test]
fn a_full_disk_takes_the_leftovers_of_all_datasets_that_are_not_in_use() {
    let scratch = tempfile::tempdir().expect("tempdir");
    let store = Store::open(scratch.path()).expect("store");
    let datasets = ["a", "b", "c"].map(|name| dataset(&store, name));
    datasets.iter().for_each(|dataset| interrupt(dataset, 100));
    give_way(&store, (&Peer::Operator, Reserve::default()), &io_error());
    assert_eq!(datasets.each_ref().map(told), [(1, 0); 3]);
    let in_use = datasets[2].lock().expect("lock");
    let reserve = |percent, enough_bytes| Reserve {
        percent,
        enough_bytes,
    };
    let main = Peer::Main(understudy_protocol::MainName::new("alpha").expect("name"));
    let error = ReceiverError::NoSpace("staging".to_owned());
    // A limit of the file system that is no full disk costs nobody else anything.
    give_way(&store, (&main, reserve(0, 0)), &error);
    assert_eq!(
        datasets[..2].iter().map(told).collect::<Vec<_>>(),
        [(1, 0); 2]
    );
    give_way(&store, (&main, reserve(101, u64::MAX)), &error);
    drop(in_use);
    assert_eq!(datasets.each_ref().map(told), [(0, 0), (0, 0), (1, 0)]);
}

#[test]
fn nothing_that_was_written_before_a_sync_failed_is_told_of_any_dataset() {
    let scratch = tempfile::tempdir().expect("tempdir");
    let store = Store::open(scratch.path()).expect("store");
    let datasets = ["a", "b", "c"].map(|name| dataset(&store, name));
    let [first, second, third] = datasets.each_ref();
    interrupt(first, 100);
    interrupt(second, 100);
    // Its cleaning up failed: nothing is put aside yet.
    stage(third, 100, &whole(100));
    store.syncs.note(Err::<(), ()>(())).expect_err("sync");
    let in_use = second.lock().expect("lock");
    give_way(&store, (&Peer::Operator, Reserve::default()), &io_error());
    assert!(pool(first).expect("pool").is_none());
    assert!(pool(second).expect("pool").is_some());
    drop(in_use);
    assert_eq!(told(second), (0, 0));
    let locked = third.lock().expect("lock");
    keep(third, &locked).expect("keep");
    third.clean().expect("clean");
    drop(locked);
    assert_eq!(told(third), (0, 0));
    // What is written after it counts.
    for dataset in &datasets {
        interrupt(dataset, 200);
        assert_eq!(told(dataset), (1, 0));
    }
}

#[test]
fn an_upload_that_met_a_failed_sync_leaves_nothing_even_if_it_is_interrupted() {
    let scratch = tempfile::tempdir().expect("tempdir");
    let store = Store::open(scratch.path()).expect("store");
    let dataset = dataset(&store, "a");
    interrupt(&dataset, 100);
    let locked = dataset.lock().expect("lock");
    stage(&dataset, 200, &whole(200));
    store.syncs.note(Err::<(), ()>(())).expect_err("sync");
    let cut = ReceiverError::Protocol(ProtocolError::Cut);
    after_failure(&dataset, &locked, None, &cut).expect("cleaned up");
    drop(locked);
    assert_eq!(told(&dataset), (0, 0));
}

#[test]
fn a_beginning_that_takes_too_long_to_read_again_is_not_told() {
    let scratch = tempfile::tempdir().expect("tempdir");
    let store = Store::open(scratch.path()).expect("store");
    let dataset = dataset(&store, "a");
    for (length, expected) in [(MOST_READ, 1), (MOST_READ + 1, 0)] {
        let position = Record::Position {
            stream: 1,
            length,
            hash: ContentHash::of(b"unread"),
        };
        let locked = dataset.lock().expect("lock");
        stage(&dataset, length, &position);
        keep(&dataset, &locked).expect("keep");
        drop(locked);
        assert_eq!(told(&dataset), (0, expected));
        let locked = dataset.lock().expect("lock");
        drop_all(&dataset, &locked).expect("drop");
    }
}

#[test]
fn of_many_interrupted_uploads_the_largest_are_kept() {
    let scratch = tempfile::tempdir().expect("tempdir");
    let store = Store::open(scratch.path()).expect("store");
    let dataset = dataset(&store, "a");
    for number in 0..12 {
        interrupt(&dataset, 100 + number);
        let pool = pool(&dataset).expect("pool").expect("leftovers");
        assert!(numbers(&pool).expect("numbers").len() <= 8);
        told(&dataset);
    }
    let locked = dataset.lock().expect("lock");
    let leftovers = load(&dataset, &locked, None).expect("load");
    let mut sizes: Vec<u64> = leftovers.items.iter().map(|item| item.size).collect();
    sizes.sort_unstable();
    assert_eq!(sizes, (105..112).collect::<Vec<_>>());
}
