//! Inputs that are a little different from those that are there, the same in every run.

/// Makes changed inputs out of others.
#[derive(Debug)]
pub struct Mutation(u64);

/// Longer inputs tell nothing more in so little time.
const LONGEST: usize = 1 << 16;

impl Mutation {
    /// Begins with a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % end.max(1)
    }

    /// One of the inputs, changed at one to eight places.
    pub fn next(&mut self, inputs: &[Vec<u8>]) -> Vec<u8> {
        let mut input = inputs[self.below(inputs.len())].clone();
        for _ in 0..1 + self.below(8) {
            let (at, length) = (self.below(input.len() + 1), self.below(16));
            let end = (at + length).min(input.len());
            match self.below(8) {
                0 => input.truncate(at),
                1 => drop(input.drain(at..end)),
                2 => {
                    let again = input[at..end].to_vec();
                    input.splice(at..at, again);
                }
                3 => {
                    let other = &inputs[self.below(inputs.len())];
                    let from = self.below(other.len() + 1);
                    input.splice(at..end, other[from..].iter().take(length).copied());
                }
                4 => {
                    let byte = self.below(256) as u8;
                    input.insert(at, byte);
                }
                5 => {
                    let byte = [0, 1, 0x7f, 0x80, 0xff][self.below(5)];
                    input[at..end].fill(byte);
                }
                _ => {
                    let bit = 1 << self.below(8);
                    if let Some(byte) = input.get_mut(at) {
                        *byte ^= bit;
                    }
                }
            }
        }
        input.truncate(LONGEST);
        input
    }
}
