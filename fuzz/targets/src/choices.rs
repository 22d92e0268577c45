//! Decisions read from the bytes of an input: a program for a target that is made of steps.

/// What is left of an input. Where it is used up every decision is the first one, so that every input means something.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Choices<'a>(&'a [u8]);

/// Numbers at which something may break.
const EDGES: [u64; 16] = [
    0,
    1,
    2,
    255,
    256,
    4095,
    4096,
    65_535,
    65_536,
    u32::MAX as u64,
    1 << 32,
    1 << 53,
    i64::MAX as u64 - 1,
    i64::MAX as u64,
    u64::MAX - 1,
    u64::MAX,
];

impl<'a> Choices<'a> {
    pub(crate) fn new(data: &'a [u8]) -> Self {
        Self(data)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn byte(&mut self) -> u8 {
        let Some((&first, rest)) = self.0.split_first() else {
            return 0;
        };
        self.0 = rest;
        first
    }

    /// A number below `end`, which is from 1 to 256.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        usize::from(self.byte()) % end.max(1)
    }

    /// True once in `rarity` times or so; never where the input is used up.
    pub(crate) fn seldom(&mut self, rarity: u8) -> bool {
        self.byte() % rarity.max(1) == rarity.saturating_sub(1)
    }

    pub(crate) fn short(&mut self) -> u16 {
        u16::from_le_bytes([self.byte(), self.byte()])
    }

    /// Any number: a small one, one at an edge or near it, or one of which all bytes are in the input.
    pub(crate) fn number(&mut self) -> u64 {
        match self.byte() {
            small @ 0..=159 => u64::from(small),
            edge @ 160..=223 => {
                let near = u64::from(edge >> 4 & 1);
                EDGES[usize::from(edge & 15)].wrapping_sub(near)
            }
            _ => u64::from_le_bytes(std::array::from_fn(|_| self.byte())),
        }
    }

    /// The next bytes, of which the first tells how many.
    pub(crate) fn some(&mut self) -> &'a [u8] {
        let length = usize::from(self.byte());
        self.take(length)
    }

    /// So many bytes, or what is left.
    pub(crate) fn take(&mut self, length: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(length.min(self.0.len()));
        self.0 = rest;
        taken
    }

    pub(crate) fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }
}
