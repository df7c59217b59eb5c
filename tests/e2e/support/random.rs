//! Chance with a seed.

/// A small generator, so that a failure can be run again from its seed.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    /// A number below `limit`.
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % limit
    }

    /// Fewer than `limit` bytes.
    pub(crate) fn bytes(&mut self, limit: u64) -> Vec<u8> {
        let length = self.below(limit);
        (0..length).map(|_| self.below(256) as u8).collect()
    }
}
