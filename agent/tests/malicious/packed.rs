//! Frames that unpack to something else than they say.

use understudy_protocol::{Compression, Encoder, Message};

use crate::spare::{Said, Spare, raw};
use crate::world::World;

/// Bodies that are compressed by themselves, and that begin a lane.
const BY_ITSELF: u8 = 1;
const LANE: u8 = 3;
/// A plain body that is as long as one may be.
const LONGEST: u32 = 1_114_112;

/// A zstd frame that unpacks to so many blocks of 128 KiB of zeros, in four bytes each.
fn bomb(blocks: usize) -> Vec<u8> {
    // The magic number, no flags, a window of 2 MiB.
    let mut packed = vec![0x28, 0xb5, 0x2f, 0xfd, 0, 0x58];
    for number in 1..=blocks {
        let header = (128 << 10 << 3) | (1 << 1) | u32::from(number == blocks);
        packed.extend(&header.to_le_bytes()[..3]);
        packed.push(0);
    }
    packed
}

/// A frame of this number that says that its body is so long when it is unpacked.
fn packed(number: u8, flags: u8, says: u32, packed: &[u8]) -> Said {
    let lane: &[u8] = if flags == LANE { &[0] } else { &[] };
    let body = [&[number, flags][..], lane, &says.to_be_bytes(), packed].concat();
    Said::Frame(raw(&body))
}

/// The number of a message, from its frame.
fn number_of(message: &Message) -> u8 {
    let frame = Encoder::new(Compression::Off).encode(message);
    frame.expect("encode").number()
}

#[test]
fn bodies_that_unpack_to_more_than_they_say_are_refused() {
    let manifest = number_of(&crate::spare::manifest(Vec::new()));
    // 32 GiB in a megabyte, one body that is as long as any and one that is longer, and what is no zstd at all.
    let bombs = [bomb(250_000), bomb(8), bomb(9), bomb(1), vec![0xff; 1000]];
    for flags in [BY_ITSELF, LANE] {
        for says in [0, 1, 100, LONGEST, LONGEST + 1, u32::MAX] {
            for bomb in &bombs {
                let bomb = bomb.clone();
                World::refuse(move || {
                    let bomb = bomb.clone();
                    Spare::new().lying(move |asked| match asked {
                        Message::ReadManifest(_) => {
                            let said = packed(manifest, flags, says, &bomb);
                            Some(Box::new([said].into_iter()))
                        }
                        _ => None,
                    })
                });
            }
        }
    }
}

#[test]
fn a_lane_that_was_never_begun_is_refused() {
    let manifest = number_of(&crate::spare::manifest(Vec::new()));
    for lane in [0, 7, 8, 255] {
        World::refuse(move || {
            Spare::new().lying(move |asked| match asked {
                Message::ReadManifest(_) => {
                    let body = [&[manifest, 2, lane][..], &[0, 0, 0, 1], &bomb(1)].concat();
                    Some(Box::new([Said::Frame(raw(&body))].into_iter()))
                }
                _ => None,
            })
        });
    }
}
