//! Numbers that look random and are the same on both sides of a guest's wall.

/// Numbers without end; xorshift, so that filling a quarter of a gigabyte is
/// quick in an emulated guest too.
pub fn words(seed: u64) -> impl Iterator<Item = u64> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    std::iter::repeat_with(move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    })
}

/// So many bytes of them.
#[must_use]
pub fn bytes(seed: u64, len: usize) -> Vec<u8> {
    words(seed).flat_map(u64::to_le_bytes).take(len).collect()
}
