//! Lies to somebody who looks at what the spare has: answers without end, and others than were asked for.

use understudy_agent::{
    AgentError, Cancel, FuzzyOf, Past, Verification, Which, retention, survey, verify,
};
use understudy_protocol::message::{
    Depth, Difference, Differences, Found, FuzzyFile, FuzzyFiles, GivenStream, Health, Listed,
    Located, Repairing, Retained, Retention, StreamBlock, StreamEnd, Summaries, Summary, Tally,
    Verified, Version,
};
use understudy_protocol::{ContentHash, Message, RelPath, limits};

use crate::spare::{Spare, entry, file, place, says};
use crate::world::{assert_plain, dataset};

/// A spare that answers whatever is asked, but for which datasets there are, with this again and again.
fn endless(answer: impl Fn() -> Message + Clone + Send + 'static) -> Spare {
    Spare::new().lying(move |asked| match asked {
        Message::List(_) => None,
        _ => Some(says(std::iter::repeat_with(answer.clone()))),
    })
}

fn path(text: &str) -> RelPath {
    RelPath::new(text.as_bytes()).expect("path")
}

fn ended<T>(result: Result<T, AgentError>) {
    let error = result.err().expect("it has an end").to_string();
    assert!(error.contains("do not end"), "{error}");
    assert_plain(&error);
    crate::assert_small();
}

#[test]
fn torn_files_without_end_are_refused() {
    let long = path(&vec!["n".repeat(255); 100].join("/"));
    for files in [0, 40] {
        let long = long.clone();
        let answer = move || {
            let file = FuzzyFile {
                path: long.clone(),
                since: 1,
                until: None,
            };
            Message::FuzzyFiles(FuzzyFiles {
                files: vec![file; files],
            })
        };
        ended(survey(endless(answer).serve(), None, FuzzyOf::All));
    }
}

#[test]
fn pins_and_findings_without_end_are_refused() {
    let kept = || {
        let kept = |number| Retained {
            number,
            pin: None,
            flag: None,
        };
        Message::Retention(Retention {
            snapshots: (0..4000).map(kept).collect(),
        })
    };
    let damaged = || {
        Message::Health(Health {
            findings: Vec::new(),
            damaged: (0..4000).collect(),
            scrub: None,
            open: u64::MAX,
            accepted: u64::MAX,
        })
    };
    let none = || {
        Message::Retention(Retention {
            snapshots: Vec::new(),
        })
    };
    let answers: [fn() -> Message; 3] = [kept, damaged, none];
    for answer in answers {
        ended(retention(endless(answer).serve(), &[dataset()]));
    }
}

#[test]
fn verified_datasets_without_end_are_refused() {
    let answer = || {
        Message::Verified(Verified {
            dataset: dataset(),
            snapshot: None,
            entries: 0,
            files: 0,
            bytes: 0,
            objects: 0,
            object_bytes: 0,
            findings: 0,
        })
    };
    let manner = Verification {
        repair: Repairing::Never,
        bytes_per_second: None,
    };
    let channel = endless(answer).serve();
    ended(verify(channel, None, manner, |_| {}, |_| {}));
}

/// What is passed on as it comes takes no memory, and ends when somebody wants it to.
#[test]
fn looks_without_end_take_no_memory_and_are_interrupted() {
    let listed = || {
        Message::Listed(Listed {
            entries: vec![(path("f"), file(b"f")); 1000],
        })
    };
    let found = || {
        let version = Version {
            path: path("f"),
            entry: file(b"f"),
            since: 1,
            until: None,
        };
        Message::Found(Found {
            versions: vec![version; 1000],
        })
    };
    let differs = || {
        let added = Difference::Added {
            path: path("f"),
            entry: file(b"f"),
        };
        Message::Differences(Differences {
            differences: vec![added; 1000],
        })
    };
    let summed = || {
        let none = Tally {
            entries: 0,
            bytes: 0,
        };
        let summary = Summary {
            number: 1,
            added: none,
            removed: none,
            changed: none,
            touched: none,
            moved: none,
        };
        Message::Summaries(Summaries {
            summaries: vec![summary; 1000],
        })
    };
    let answers: [fn() -> Message; 4] = [listed, found, differs, summed];
    for answer in answers {
        let cancel = Cancel::default();
        let past = Past::open(endless(answer).serve(), dataset(), &cancel).expect("open");
        let mut count = 0;
        let mut heard = || {
            count += 1;
            if count == 100_000 {
                cancel.cancel();
            }
            Ok(())
        };
        let result = match answer() {
            Message::Listed(_) => past.list(3, &RelPath::root(), Depth::All, |_, _| heard()),
            Message::Found(_) => past.find("f", None, None, |_| heard()),
            Message::Differences(_) => past.compare(1, 3, |_| heard()),
            _ => past.summarise(|_| heard()),
        };
        assert!(matches!(result, Err(AgentError::Interrupted)), "{result:?}");
        crate::assert_small();
    }
    // Nothing, for ever.
    let none = endless(|| {
        Message::Listed(Listed {
            entries: Vec::new(),
        })
    });
    let past = Past::open(none.serve(), dataset(), &Cancel::default()).expect("open");
    let list = past.list(3, &RelPath::root(), Depth::All, |_, _| Ok(()));
    list.expect_err("an answer with nothing in it");
}

/// Of a file comes no more than it has.
#[test]
fn a_file_that_is_larger_than_it_is_said_to_be_is_cut_off() {
    let block = |offset: u64, length: usize| {
        Message::StreamBlock(StreamBlock {
            stream: 1,
            offset,
            data: vec![7; length].into(),
        })
    };
    let end = |size: u64| {
        Message::StreamEnd(StreamEnd {
            stream: 1,
            size,
            hash: ContentHash::of(b"x"),
        })
    };
    let given = |length: usize| {
        Message::Given(understudy_protocol::message::Given {
            contents: vec![(place(1, "f"), vec![7; length].into())],
        })
    };
    let begin = || {
        Message::GivenStream(GivenStream {
            place: place(1, "f"),
            stream: 1,
        })
    };
    let size = 100_000;
    let answers: Vec<Vec<Message>> = vec![
        vec![begin(), block(0, 100_001)],
        vec![begin(), block(99_999, 2)],
        vec![begin(), block(0, 100), block(50, 100)],
        vec![begin(), block(limits::FILE_BYTES - 10, 10)],
        vec![begin(), block(0, 100), end(limits::FILE_BYTES)],
        vec![begin(), block(0, 100_000), end(size)],
        vec![begin(), begin()],
        vec![given(60_000)],
        vec![given(0)],
    ];
    for answer in answers {
        let spare = Spare::new();
        let snapshot = spare.snapshot.clone();
        let spare = spare.lying(move |asked| match asked {
            Message::Locate(_) => {
                let node = understudy_protocol::Node::File {
                    size,
                    hash: ContentHash::of(b"x"),
                };
                Some(says([Message::Located(Located {
                    snapshot: snapshot.clone(),
                    place: place(1, "f"),
                    entry: entry(node),
                })]))
            }
            Message::Want(_) => Some(says(answer.clone())),
            _ => None,
        });
        let past = Past::open(spare.serve(), dataset(), &Cancel::default()).expect("open");
        let number = past
            .snapshot(Which::Newest)
            .expect("newest")
            .position
            .number;
        let mut output = Vec::new();
        let error = past.read(number, &path("f"), &mut output);
        assert_plain(&error.expect_err("it is given").to_string());
        assert!(output.len() as u64 <= size, "{} bytes", output.len());
    }
    crate::assert_small();
}
