//! Seeded random numbers: the same seed makes the same tree and the same edits for ever.

/// A xorshift64* generator (Vigna, "An experimental exploration of Marsaglia's xorshift
/// generators, scrambled", 2016).
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    /// A generator whose whole output is given by `seed`.
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// The next 64 bits.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// A number below `bound`, which must not be 0.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// One of `choices`, which must not be empty.
    pub(crate) fn pick<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        &choices[self.index(choices.len())]
    }

    /// An index into a collection of `length` items, which must not be 0.
    pub(crate) fn index(&mut self, length: usize) -> usize {
        usize::try_from(self.below(length as u64)).unwrap()
    }

    /// `length` bytes, compressible (words) or not, half of the time each.
    pub(crate) fn content(&mut self, length: u64) -> Vec<u8> {
        let length = usize::try_from(length).unwrap();
        if self.below(2) == 0 {
            return self.noise(length);
        }
        const WORDS: [&str; 8] = [
            "understudy ",
            "learns ",
            "the ",
            "lead's ",
            "part ",
            "and ",
            "steps ",
            "in\n",
        ];
        let mut bytes = Vec::with_capacity(length + 32);
        while bytes.len() < length {
            bytes.extend_from_slice(self.pick(&WORDS).as_bytes());
        }
        bytes.truncate(length);
        bytes
    }

    /// `length` bytes that cannot be compressed.
    pub(crate) fn noise(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(length + 8);
        while bytes.len() < length {
            bytes.extend_from_slice(&self.next().to_le_bytes());
        }
        bytes.truncate(length);
        bytes
    }

    /// A file size with a heavy tail: most are small, some are large, none is above `most`.
    pub(crate) fn size(&mut self, most: u64) -> u64 {
        let scale = 1 << self.below(21);
        self.below(scale + 1).min(most)
    }
}
