//! Which data is not worth an attempt, because it is compressed or encrypted already.

/// Whether all bytes are about as frequent in some data, as they are in what is compressed or encrypted already.
///
/// Looks at 16 stretches of 256 bytes. The sum of the squares of the 256 frequencies is 4096 + 4096 * 4095 / 256 = 69,616
/// on average for random bytes, with a standard deviation of about 360. Where it is as large as is allowed here, a code
/// for single bytes takes 7.8 bits for each: less would be saved than a compressed frame must save.
pub fn looks_random(data: &[u8]) -> bool {
    const STRETCHES: usize = 16;
    const STRETCH_BYTES: usize = 256;
    const RANDOM_BELOW: u32 = 86_000;
    if data.len() < 2 * STRETCHES * STRETCH_BYTES {
        return false;
    }
    let mut frequencies = [0_u32; 256];
    for stretch in data.chunks_exact(data.len() / STRETCHES).take(STRETCHES) {
        // What begins like a message may be one: the end of each part is taken.
        for &byte in &stretch[stretch.len() - STRETCH_BYTES..] {
            frequencies[usize::from(byte)] += 1;
        }
    }
    let squares: u32 = frequencies.iter().map(|&times| times * times).sum();
    squares < RANDOM_BELOW
}
