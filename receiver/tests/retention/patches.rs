//! Versions of large files that lead through others.

use super::random::cases;
use super::*;

const SIZE: usize = 5 << 20;
const PAGE: usize = 4096;

fn large() -> Place {
    place(1, "large")
}

/// Uploads a version of a large file that differs from the former one in a page.
fn patch(history: &mut History, former: &[u8], content: &[u8]) {
    let block = |offset: usize, data: &[u8]| {
        let data = data.to_vec().into();
        Message::StreamBlock(StreamBlock {
            stream: 1,
            offset: offset as u64,
            data,
        })
    };
    let copy = |from: usize, to: usize| {
        let length = (to - from) as u64;
        let copy = StreamCopy {
            stream: 1,
            offset: from as u64,
            from: from as u64,
            length,
        };
        (length > 0).then_some(Message::StreamCopy(copy))
    };
    let mut messages = Vec::new();
    if former.is_empty() {
        let blocks = content.chunks(1 << 19).enumerate();
        messages.extend(blocks.map(|(number, data)| block(number << 19, data)));
    } else {
        messages.push(Message::StreamBase(StreamBase {
            stream: 1,
            place: large(),
        }));
        let mut position = 0;
        for start in (0..SIZE).step_by(PAGE) {
            if former[start..start + PAGE] != content[start..start + PAGE] {
                messages.extend(copy(position, start));
                messages.push(block(start, &content[start..start + PAGE]));
                position = start + PAGE;
            }
        }
        messages.extend(copy(position, SIZE));
    }
    let hash = ContentHash::of(content);
    messages.push(Message::StreamEnd(StreamEnd {
        stream: 1,
        size: SIZE as u64,
        hash,
    }));
    history.contents.insert(hash, content.to_vec());
    let put = Change::Put {
        place: large(),
        entry: entry(Node::File {
            size: SIZE as u64,
            hash,
        }),
        content: Content::Stream(1),
    };
    history.sync(&[put], &messages, false);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases().div_ceil(3), max_shrink_iters: 20, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn versions_that_lead_through_expired_ones_stay_whole(
        // Which state of a page each version has: states come back.
        states in prop::collection::vec((0..3u8, 0..3usize), 3..12),
        pinned in prop::collection::btree_set(1..12u64, 0..4),
    ) {
        let mut history = History::new(strict());
        let mut content: Vec<u8> = (0..SIZE).map(|at| (at / 1000) as u8).collect();
        let mut former = Vec::new();
        for (index, (state, page)) in states.iter().enumerate() {
            content[page * 9 * PAGE..][..PAGE].fill(*state);
            if former != content {
                patch(&mut history, &former, &content);
                former.clone_from(&content);
            } else {
                history.sync(&[text("f", &index.to_string())], &[], false);
            }
            history.now += 1800;
            if index % 4 == 3 {
                history.prune();
            }
        }
        let pinned: Vec<u64> = pinned.into_iter().filter(|number| history.copies.contains_key(number)).collect();
        for &number in &pinned {
            pin(&history.stage.store, &dataset(), number, "why").expect("pin");
            history.pins.insert(number);
        }
        for _ in 0..3 {
            history.now += 2 * 3600;
            history.prune();
        }
        for number in pinned {
            unpin(&history.stage.store, &dataset(), number).expect("unpin");
        }
        history.pins.clear();
        for _ in 0..3 {
            history.now += 2 * 3600;
            history.prune();
        }
        prop_assert_eq!(history.copies.len(), 1);
    }
}

#[test]
fn a_version_of_which_nobody_knows_how_many_patches_lead_to_it_is_kept_whole() {
    let mut history = History::new(strict());
    let mut content: Vec<u8> = (0..SIZE).map(|at| (at / 1000) as u8).collect();
    let mut former = Vec::new();
    let mut change = |history: &mut History, state: u8| {
        content[9 * PAGE..10 * PAGE].fill(state);
        patch(history, &former, &content);
        former.clone_from(&content);
    };
    change(&mut history, 1);
    change(&mut history, 2);
    for number in 0..3 {
        history.sync(&[text("f", &number.to_string())], &[], false);
    }
    // The row of the first version goes with all snapshots that had it.
    for _ in 0..3 {
        history.now += 2 * 3600;
        history.prune();
    }
    assert_eq!(history.copies.len(), 1);
    change(&mut history, 3);
    for number in 3..6 {
        history.sync(&[text("f", &number.to_string())], &[], false);
    }
    assert_eq!(objects(&history), (1, 0));
    // The next one leads to what is known again.
    change(&mut history, 4);
    for number in 6..9 {
        history.sync(&[text("f", &number.to_string())], &[], false);
    }
    assert_eq!(objects(&history), (1, 1));
    // Everything is there still, and comes back.
    history.now += 2 * 3600;
    assert_eq!(history.prune().removed, []);
}

/// How many contents of large files are kept whole, and how many as patches.
fn objects(history: &History) -> (usize, usize) {
    let (mut whole, mut patches) = (0, 0);
    for shelf in std::fs::read_dir(history.stage.path(".understudy/objects")).expect("list") {
        for object in std::fs::read_dir(shelf.expect("shelf").path()).expect("list") {
            let object = object.expect("object");
            match object.path().extension() {
                Some(_) => patches += 1,
                None if object.metadata().expect("stat").len() == SIZE as u64 => whole += 1,
                None => {}
            }
        }
    }
    (whole, patches)
}
