//! Lies in contents.

use understudy_protocol::message::{Given, GivenStream, StreamBlock, StreamCopy, StreamEnd};
use understudy_protocol::{Bytes, ContentHash, Message, Node, Place, limits};

use crate::spare::{Answers, Spare, entry, large, place, says, streamed};
use crate::world::World;

/// A spare that answers wishes so.
fn giving(answer: impl Fn(&[Place]) -> Answers + Clone + Send + 'static) -> impl Fn() -> Spare {
    move || {
        let answer = answer.clone();
        Spare::new().lying(move |asked| match asked {
            Message::Want(want) => Some(answer(&want.places)),
            _ => None,
        })
    }
}

fn given(contents: Vec<(Place, Vec<u8>)>) -> Message {
    let contents = contents.into_iter();
    Message::Given(Given {
        contents: contents
            .map(|(place, bytes)| (place, Bytes(bytes)))
            .collect(),
    })
}

fn begin(place: &Place) -> Message {
    Message::GivenStream(GivenStream {
        place: place.clone(),
        stream: 1,
    })
}

fn block(offset: u64, length: usize) -> Message {
    Message::StreamBlock(StreamBlock {
        stream: 1,
        offset,
        data: vec![7; length].into(),
    })
}

fn end(size: u64) -> Message {
    Message::StreamEnd(StreamEnd {
        stream: 1,
        size,
        hash: ContentHash::of(&large()),
    })
}

#[test]
fn other_contents_than_the_manifest_says_are_refused() {
    for wrong in [&b"F"[..], b"", b"ff"] {
        let wrong = wrong.to_vec();
        World::refuse(giving(move |places| {
            let contents = places.iter().map(|place| (place.clone(), wrong.clone()));
            says([given(contents.collect())])
        }));
    }
    World::refuse(giving(|places| {
        let mut content = large();
        content[100_000] ^= 1;
        let all = places.iter().enumerate();
        let all = all.flat_map(move |(number, place)| streamed(place, number as u64, &content));
        says(all.collect::<Vec<_>>())
    }));
}

#[test]
fn contents_that_nobody_asked_for_are_refused() {
    World::refuse(giving(|_| {
        says([given(vec![(place(1, "other"), b"evil".to_vec())])])
    }));
    World::refuse(giving(|places| {
        let twice = vec![(places[0].clone(), b"f".to_vec()); 2];
        says([given(twice)])
    }));
    World::refuse(giving(|_| says([begin(&place(9, "large"))])));
    World::refuse(giving(|places| {
        let copy = Message::StreamCopy(StreamCopy {
            stream: 1,
            offset: 0,
            from: 0,
            length: 5,
        });
        says([begin(&places[0]), copy])
    }));
}

#[test]
fn giving_nothing_for_ever_is_ended() {
    World::refuse(giving(|_| {
        says(std::iter::repeat_with(|| given(Vec::new())))
    }));
}

#[test]
fn streams_beyond_their_size_are_refused() {
    let answers: [fn(&Place) -> Vec<Message>; 6] = [
        // One byte more than the file has.
        |place| vec![begin(place), block(0, 200_001)],
        |place| vec![begin(place), block(u64::MAX >> 1, 1)],
        |place| vec![begin(place), block(1 << 40, 1), end(1 << 40)],
        // Backwards, and the same again.
        |place| vec![begin(place), block(100, 10), block(100, 10)],
        |place| vec![begin(place), block(100, 10), block(50, 10)],
        |place| vec![begin(place), block(0, 10), end(u64::MAX >> 1)],
    ];
    for answer in answers {
        World::refuse(giving(move |places| says(answer(&places[0]))));
    }
}

#[test]
fn a_stream_that_never_ends_is_ended_by_the_size_of_its_file() {
    World::refuse(giving(|places| {
        let blocks = (0..).map(|number| block(number * 1000, 1000));
        says([begin(&places[0])].into_iter().chain(blocks))
    }));
}

#[test]
fn a_hole_of_eight_exbibytes_does_not_hold_anybody_up() {
    let huge = Node::File {
        size: limits::FILE_BYTES,
        hash: ContentHash::of(b""),
    };
    let world = World::new();
    let spare = Spare::new().with([(place(1, "huge"), entry(huge))]);
    let honest = Spare::new();
    let cancel = world.cancel.clone();
    let spare = spare.lying(move |asked| match asked {
        Message::Want(want) => {
            let mut answers: Vec<_> = Vec::new();
            for (number, one) in want.places.iter().enumerate() {
                let stream = number as u64 + 10;
                if *one == place(1, "huge") {
                    answers.extend([
                        Message::GivenStream(GivenStream {
                            place: one.clone(),
                            stream,
                        }),
                        Message::StreamEnd(StreamEnd {
                            stream,
                            size: limits::FILE_BYTES,
                            hash: ContentHash::of(b""),
                        }),
                    ]);
                    // Some file systems can have it. Then it is hashed, until somebody wants the end.
                    cancel.cancel();
                } else {
                    let known = honest.contents.iter().find(|(known, _)| known == one);
                    let content = known.map_or_else(Vec::new, |(_, content)| content.clone());
                    answers.extend(streamed(one, stream, &content));
                }
            }
            Some(says(answers))
        }
        _ => None,
    });
    world.restore(spare, &world.request()).expect_err("refused");
    world.assert_refused();
}
