//! Lanes: compressed streams that live as long as a connection, so that a frame profits from those before it.
//!
//! A lane is one zstd stream, flushed at each of its frames. It knows the bodies of frames with the flags
//! 2 and 3, and neither messages nor which frames are worth compressing.

use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use zstd::zstd_safe::zstd_sys::ZSTD_EndDirective;
use zstd::zstd_safe::{
    self, CCtx, CParameter, DCtx, DParameter, InBuffer, OutBuffer, ResetDirective,
};

use crate::error::ProtocolError;
use crate::frame::{Frame, PREFIX_BYTES};
use crate::limits;

/// The flag of a frame that continues the stream of its lane.
pub(crate) const CONTINUED: u8 = 2;
/// The flag of a frame with which its lane starts anew.
pub(crate) const ANEW: u8 = 3;

/// The number of the lane and the length of the plain body.
const HEADER_BYTES: usize = 1 + 4;
/// The level at which frames go as they are, and lanes stand still.
pub const UNCOMPRESSED: i32 = 0;
/// The level that every connection starts with.
const FIRST_LEVEL: i32 = 3;
/// The lanes of one direction of a connection, shared by all that make frames for it.
#[derive(Debug, Clone)]
pub struct SendingLanes(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// Numbers of the lanes that nobody has.
    idle: Mutex<Vec<u8>>,
    level: AtomicI32,
}

impl Default for SendingLanes {
    fn default() -> Self {
        Self(Arc::new(Shared {
            idle: Mutex::new((0..limits::LANES as u8).rev().collect()),
            level: AtomicI32::new(FIRST_LEVEL),
        }))
    }
}

impl SendingLanes {
    /// From now on frames are compressed at this level of zstd, or go [as they are](UNCOMPRESSED).
    pub fn set_level(&self, level: i32) {
        self.0.level.store(level, Ordering::Relaxed);
    }

    /// The level at which frames are compressed.
    pub fn level(&self) -> i32 {
        self.0.level.load(Ordering::Relaxed)
    }

    /// A lane that nobody else has, if there is one; it comes back when it is dropped.
    pub(crate) fn take(&self) -> Option<SendingLane> {
        let context = CCtx::try_create()?;
        let number = self.idle().pop()?;
        Some(SendingLane {
            lanes: self.clone(),
            number,
            context,
            level: None,
            packed: Vec::new(),
        })
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<u8>> {
        self.0.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One lane, for one that makes frames. All its frames must be sent, in the order in which they were made.
pub(crate) struct SendingLane {
    lanes: SendingLanes,
    number: u8,
    context: CCtx<'static>,
    /// That of the stream; `None` before it starts.
    level: Option<i32>,
    packed: Vec<u8>,
}

impl Drop for SendingLane {
    fn drop(&mut self) {
        self.lanes.idle().push(self.number);
    }
}

impl SendingLane {
    /// The level that is wanted of the next frame.
    pub(crate) fn wanted_level(&self) -> i32 {
        self.lanes.level()
    }

    /// The frame of a message with this body, or `None` if it must go plain; then the lane starts anew afterwards.
    pub(crate) fn pack(&mut self, message: u8, body: &[u8]) -> Option<Frame> {
        let frame = self.try_pack(message, body);
        if frame.is_none() {
            self.level = None;
        }
        frame
    }

    fn try_pack(&mut self, message: u8, body: &[u8]) -> Option<Frame> {
        let level = match self.lanes.level() {
            // Since it was looked at.
            UNCOMPRESSED => FIRST_LEVEL,
            level => level,
        };
        let flag = if self.level == Some(level) {
            CONTINUED
        } else {
            start(&mut self.context, level).ok()?;
            self.level = Some(level);
            ANEW
        };
        self.flush(body).ok()?;
        let length = HEADER_BYTES + self.packed.len();
        if length > limits::FRAME_BYTES {
            return None;
        }
        let mut frame = Vec::with_capacity(PREFIX_BYTES + length);
        frame.extend_from_slice(&[message, flag, self.number]);
        frame.extend_from_slice(&(body.len() as u32).to_be_bytes());
        frame.extend_from_slice(&self.packed);
        Some(Frame(frame))
    }

    /// Puts all that the stream gives for `body` into `packed`.
    fn flush(&mut self, body: &[u8]) -> Result<(), zstd_safe::ErrorCode> {
        let Self {
            context, packed, ..
        } = self;
        packed.clear();
        packed.reserve(zstd_safe::compress_bound(body.len()));
        let mut input = InBuffer::around(body);
        loop {
            let at = packed.len();
            let mut output = OutBuffer::around_pos(packed, at);
            let flush = ZSTD_EndDirective::ZSTD_e_flush;
            let left = context.compress_stream2(&mut output, &mut input, flush)?;
            if left == 0 {
                return Ok(());
            }
            packed.reserve(left);
        }
    }
}

fn start(context: &mut CCtx<'_>, level: i32) -> Result<(), zstd_safe::ErrorCode> {
    context.reset(ResetDirective::SessionAndParameters)?;
    context.set_parameter(CParameter::CompressionLevel(level))?;
    context.set_parameter(CParameter::WindowLog(limits::LANE_WINDOW_LOG))?;
    Ok(())
}

/// The lanes of one direction of a connection, where they arrive.
#[derive(Default)]
pub struct ReceivingLanes {
    lanes: [Option<DCtx<'static>>; limits::LANES],
}

impl std::fmt::Debug for ReceivingLanes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let started = self.lanes.iter().flatten().count();
        write!(f, "ReceivingLanes(started: {started})")
    }
}

impl ReceivingLanes {
    /// Makes a frame of a lane a plain one; others are returned as they are.
    ///
    /// Must be called for all frames of a connection in their order. An error is final.
    pub fn open(&mut self, frame: Frame) -> Result<Frame, ProtocolError> {
        let &[message, flag @ (CONTINUED | ANEW), ref body @ ..] = frame.payload() else {
            return Ok(frame);
        };
        let malformed = |reason| ProtocolError::malformed("frame of a lane", reason);
        let Some((&[number, a, b, c, d], packed)) = body.split_first_chunk::<HEADER_BYTES>() else {
            return Err(malformed("it is shorter than its header"));
        };
        let length = u32::from_be_bytes([a, b, c, d]) as usize;
        if length > limits::BODY_BYTES {
            return Err(ProtocolError::TooLong {
                what: "a body",
                length,
                limit: limits::BODY_BYTES,
            });
        }
        let lane = self
            .lanes
            .get_mut(usize::from(number))
            .ok_or_else(|| malformed("no lane has its number"))?;
        if flag == ANEW {
            restart(lane)?;
        }
        let context = lane
            .as_mut()
            .ok_or_else(|| malformed("its lane was never started"))?;
        let mut plain = vec![message, 0];
        unpack(context, packed, length, &mut plain)?;
        Ok(Frame(plain))
    }
}

fn restart(lane: &mut Option<DCtx<'static>>) -> Result<(), ProtocolError> {
    let failed =
        |code| ProtocolError::malformed("start of a lane", zstd_safe::get_error_name(code));
    let mut context = match lane.take() {
        Some(context) => context,
        None => DCtx::try_create()
            .ok_or_else(|| ProtocolError::Io(std::io::ErrorKind::OutOfMemory.into()))?,
    };
    context.reset(ResetDirective::SessionOnly).map_err(failed)?;
    // Without memory for more, a stream with a larger window is refused.
    context
        .set_parameter(DParameter::WindowLogMax(limits::LANE_WINDOW_LOG))
        .map_err(failed)?;
    *lane = Some(context);
    Ok(())
}

/// Appends exactly `length` bytes to `plain`, which must be all that `packed` gives.
fn unpack(
    context: &mut DCtx<'_>,
    packed: &[u8],
    length: usize,
    plain: &mut Vec<u8>,
) -> Result<(), ProtocolError> {
    let malformed = |reason: &str| ProtocolError::malformed("frame of a lane", reason);
    let at = plain.len();
    // One byte more than there may be, so that what would give more is found out without giving it.
    plain.reserve_exact(length + 1);
    let mut input = InBuffer::around(packed);
    let mut output = OutBuffer::around_pos(plain, at);
    while input.pos() < packed.len() {
        let left = context
            .decompress_stream(&mut output, &mut input)
            .map_err(|code| malformed(zstd_safe::get_error_name(code)))?;
        if output.pos() - at > length {
            return Err(malformed("it is longer than it claims"));
        }
        if left == 0 {
            return Err(malformed("the stream of its lane ends"));
        }
    }
    if output.pos() - at == length {
        Ok(())
    } else {
        Err(malformed("it is shorter than it claims"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Text without much repetition within one body.
    fn text(seed: u64, length: usize) -> Vec<u8> {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut words = Vec::new();
        while words.len() < length {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            words.extend_from_slice(format!("{:x} ", state % 50_000).as_bytes());
        }
        words.truncate(length);
        words
    }

    fn plain(body: &[u8]) -> Vec<u8> {
        [&[9, 0], body].concat()
    }

    /// A frame as somebody may make it by hand.
    fn frame(flag: u8, lane: u8, length: u32, packed: &[u8]) -> Frame {
        Frame([&[9, flag, lane][..], &length.to_be_bytes(), packed].concat())
    }

    /// What a stream with the window `window_log` gives for each body.
    fn stream(window_log: u32, bodies: &[&[u8]]) -> Vec<Vec<u8>> {
        let mut context = CCtx::create();
        let log = CParameter::WindowLog(window_log);
        context.set_parameter(log).expect("window");
        let flush = |body: &&[u8]| {
            let mut packed = Vec::with_capacity(zstd_safe::compress_bound(body.len()) + 100);
            let mut input = InBuffer::around(body);
            let mut output = OutBuffer::around(&mut packed);
            let end = ZSTD_EndDirective::ZSTD_e_flush;
            let left = context.compress_stream2(&mut output, &mut input, end);
            assert_eq!(left, Ok(0));
            packed
        };
        bodies.iter().map(flush).collect()
    }

    fn refused(frames: Vec<Frame>, words: &str) {
        let mut lanes = ReceivingLanes::default();
        let mut results: Vec<_> = frames.into_iter().map(|frame| lanes.open(frame)).collect();
        let last = results.pop().expect("frames");
        assert!(results.iter().all(Result::is_ok), "{results:?}");
        let error = last.expect_err("refused").to_string();
        assert!(error.contains(words), "{error}");
    }

    #[test]
    fn a_frame_profits_from_those_before_it_in_its_lane() {
        let (sending, mut receiving) = (SendingLanes::default(), ReceivingLanes::default());
        let mut lane = sending.take().expect("a lane");
        let body = text(1, 100_000);
        let first = lane.pack(9, &body).expect("packed");
        let second = lane.pack(9, &body).expect("packed");
        assert_eq!((first.payload()[1], second.payload()[1]), (ANEW, CONTINUED));
        assert!(second.wire_bytes() * 50 < first.wire_bytes());
        for frame in [first, second] {
            assert_eq!(receiving.open(frame).expect("open").payload(), plain(&body));
        }
    }

    #[test]
    fn lanes_are_used_again_and_there_are_no_more_than_allowed() {
        let sending = SendingLanes::default();
        let mut lanes: Vec<_> = (0..limits::LANES).map_while(|_| sending.take()).collect();
        let numbers: Vec<_> = lanes.iter().map(|lane| usize::from(lane.number)).collect();
        assert_eq!(numbers, (0..limits::LANES).collect::<Vec<_>>());
        assert!(sending.take().is_none());
        let dropped = lanes.swap_remove(3);
        drop(dropped);
        let mut lane = sending.take().expect("it came back");
        assert_eq!(lane.number, 3);
        let frame = lane.pack(9, &text(1, 1000)).expect("packed");
        assert_eq!(frame.payload()[1], ANEW);
    }

    #[test]
    fn another_level_starts_the_lane_anew() {
        let (sending, mut receiving) = (SendingLanes::default(), ReceivingLanes::default());
        let mut lane = sending.take().expect("a lane");
        let steps = [
            (1, ANEW),
            (1, CONTINUED),
            (9, ANEW),
            (9, CONTINUED),
            (1, ANEW),
        ];
        for (seed, (level, flag)) in (1..).zip(steps) {
            sending.set_level(level);
            let body = text(seed, 200_000);
            let frame = lane.pack(9, &body).expect("packed");
            assert_eq!(frame.payload()[1], flag, "level {level}");
            assert_eq!(receiving.open(frame).expect("open").payload(), plain(&body));
        }
    }

    #[test]
    fn what_would_not_fit_goes_plain_and_the_lane_starts_anew() {
        let (sending, mut receiving) = (SendingLanes::default(), ReceivingLanes::default());
        let mut lane = sending.take().expect("a lane");
        let mut random = vec![0; limits::BODY_BYTES];
        blake3::Hasher::new().finalize_xof().fill(&mut random);
        assert!(lane.pack(9, &random).is_none());
        let body = text(1, 1000);
        let frame = lane.pack(9, &body).expect("packed");
        assert_eq!(frame.payload()[1], ANEW);
        assert_eq!(receiving.open(frame).expect("open").payload(), plain(&body));
    }

    #[test]
    fn a_golden_lane_is_still_read() {
        // Version 4, kept for ever: a text in lane 5, and the same again.
        let golden: [&[u8]; 2] = [
            &[
                9, 3, 5, 0, 0, 1, 59, 40, 181, 47, 253, 0, 96, 228, 0, 0, 168, 116, 104, 101, 32,
                115, 97, 109, 101, 32, 116, 101, 120, 116, 32, 97, 103, 97, 105, 110, 44, 32, 1, 0,
                71, 80, 157, 76,
            ],
            &[9, 2, 5, 0, 0, 1, 59, 68, 0, 0, 8, 116, 1, 0, 55, 42, 16, 2],
        ];
        let body = b"the same text again, ".repeat(15);
        let mut receiving = ReceivingLanes::default();
        for payload in golden {
            let opened = receiving.open(Frame(payload.to_vec())).expect("open");
            assert_eq!(opened.payload(), plain(&body));
        }
    }

    #[test]
    fn other_frames_leave_the_lanes_alone() {
        let mut receiving = ReceivingLanes::default();
        for payload in [
            vec![],
            vec![9],
            vec![9, 0, 1, 2],
            vec![9, 1, 3, 4],
            vec![9, 77],
        ] {
            let frame = Frame(payload);
            assert_eq!(receiving.open(frame.clone()).expect("untouched"), frame);
        }
    }

    #[test]
    fn a_frame_of_a_lane_is_no_message_where_there_are_none() {
        for flag in [CONTINUED, ANEW] {
            let packed = stream(limits::LANE_WINDOW_LOG, &[b"text"]);
            let error = frame(flag, 0, 4, &packed[0]).decode().expect_err("refused");
            assert!(error.to_string().contains("lane"), "{error}");
        }
    }

    #[test]
    fn frames_that_do_not_belong_to_their_lane_are_refused() {
        let log = limits::LANE_WINDOW_LOG;
        let (body, other) = (text(1, 1000), text(2, 1000));
        let packed = stream(log, &[&body, &other]);
        let first = || frame(ANEW, 0, 1000, &packed[0]);
        refused(vec![frame(CONTINUED, 0, 1000, &packed[0])], "never started");
        let elsewhere = frame(CONTINUED, 1, 1000, &packed[1]);
        refused(vec![first(), elsewhere], "never started");
        let beyond = limits::LANES as u8;
        refused(vec![frame(ANEW, beyond, 1000, &packed[0])], "number");
        refused(vec![frame(ANEW, 255, 1000, &packed[0])], "number");
        refused(vec![Frame(vec![9, ANEW, 0, 0, 0, 0])], "header");
        // The start of another stream is no continuation of this one.
        assert!(
            ReceivingLanes::default()
                .open(frame(ANEW, 0, 1000, &packed[1]))
                .is_err()
        );
    }

    #[test]
    fn lengths_that_are_not_those_of_the_body_are_refused() {
        let log = limits::LANE_WINDOW_LOG;
        let body = text(1, 1000);
        let packed = stream(log, &[&body]);
        refused(vec![frame(ANEW, 0, 999, &packed[0])], "longer");
        refused(vec![frame(ANEW, 0, 0, &packed[0])], "longer");
        refused(vec![frame(ANEW, 0, 1001, &packed[0])], "shorter");
        refused(vec![frame(ANEW, 0, 1000, &[])], "shorter");
        let most = limits::BODY_BYTES as u32;
        refused(vec![frame(ANEW, 0, most, &packed[0])], "shorter");
        refused(vec![frame(ANEW, 0, most + 1, &packed[0])], "limit");
        refused(vec![frame(ANEW, 0, u32::MAX, &packed[0])], "limit");
    }

    #[test]
    fn a_bomb_in_a_lane_is_refused_before_it_grows() {
        let zeros = vec![0; 64 * 1024 * 1024];
        let packed = stream(limits::LANE_WINDOW_LOG, &[&zeros]);
        for claimed in [10, limits::BODY_BYTES as u32] {
            refused(vec![frame(ANEW, 0, claimed, &packed[0])], "longer");
        }
    }

    #[test]
    fn a_stream_must_not_end_and_its_window_not_be_larger_than_allowed() {
        let body = text(1, 1000);
        let ended = zstd::bulk::compress(&body, 1).expect("compress");
        refused(vec![frame(ANEW, 0, 1000, &ended)], "ends");
        // A frame to be skipped: four bytes of a magic number, a length, nothing.
        let skipped = [0x50, 0x2a, 0x4d, 0x18, 0, 0, 0, 0];
        refused(vec![frame(ANEW, 0, 0, &skipped)], "ends");
        let body = text(1, 100_000);
        let wide = stream(limits::LANE_WINDOW_LOG + 1, &[&body]);
        refused(vec![frame(ANEW, 0, 100_000, &wide[0])], "memory");
        let narrow = stream(limits::LANE_WINDOW_LOG - 1, &[&body]);
        let opened = ReceivingLanes::default().open(frame(ANEW, 0, 100_000, &narrow[0]));
        assert_eq!(opened.expect("open").payload(), plain(&body));
    }

    proptest! {
        #[test]
        fn mixed_lanes_come_back_whole(
            steps in prop::collection::vec((0usize..4, 0usize..30_000, 1i32..6, any::<u64>()), 1..40),
        ) {
            let (sending, mut receiving) = (SendingLanes::default(), ReceivingLanes::default());
            let mut lanes: Vec<_> = (0..4).map_while(|_| sending.take()).collect();
            for (lane, length, level, seed) in steps {
                sending.set_level(level);
                if seed % 7 == 0 {
                    lanes.swap_remove(lane);
                    lanes.extend(sending.take());
                }
                let body = text(seed, length);
                let frame = lanes[lane].pack(9, &body).expect("packed");
                let opened = receiving.open(frame).expect("open");
                prop_assert_eq!(opened.payload(), plain(&body));
            }
        }

        #[test]
        fn damaged_frames_never_panic_and_never_grow(
            bytes in prop::collection::vec(any::<u8>(), 0..300),
            places in prop::collection::vec((0usize..2000, any::<u8>()), 0..5),
            claimed in 0u32..5000,
        ) {
            let log = limits::LANE_WINDOW_LOG;
            let mut lanes = ReceivingLanes::default();
            let _ = lanes.open(frame(ANEW, 0, claimed, &bytes));
            let _ = lanes.open(frame(CONTINUED, 0, claimed, &bytes));
            let bodies = [text(1, 3000), text(2, 3000)];
            for (flag, packed) in [ANEW, CONTINUED].into_iter().zip(stream(log, &[&bodies[0], &bodies[1]])) {
                let mut payload = frame(flag, 1, 3000, &packed).payload().to_vec();
                for &(at, byte) in &places {
                    let at = at % payload.len();
                    payload[at] ^= byte;
                }
                if let Ok(opened) = lanes.open(Frame(payload.clone())) {
                    prop_assert!(opened.payload().len() <= limits::BODY_BYTES + PREFIX_BYTES);
                }
            }
        }
    }
}
