//! Randomness from one seed.

use std::time::Duration;

/// A small generator (SplitMix64: Steele, Lea and Flood, 2014).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// A generator that yields the same numbers for the same seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A generator of its own, so that who draws how often does not change what others draw.
    pub fn fork(&mut self) -> Self {
        Self(self.draw())
    }

    /// Below `bound`, which is not 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.draw() % bound
    }

    /// From `low` to `high`, both included.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high - low + 1)
    }

    /// True once in a million times `per_million`.
    pub fn chance(&mut self, per_million: u32) -> bool {
        self.below(1_000_000) < u64::from(per_million)
    }

    /// Milliseconds from `low` to `high`.
    pub fn millis(&mut self, low: u64, high: u64) -> Duration {
        Duration::from_millis(self.between(low, high))
    }

    /// Around `typical`, rarely up to `worst`: the delay of a network or a disk.
    pub fn heavy_tailed(&mut self, typical: Duration, worst: Duration) -> Duration {
        let spread = (typical.as_micros() as u64).max(1);
        let common = Duration::from_micros(spread / 2 + self.below(spread));
        if self.chance(10_000) {
            let factor = self.between(2, 100) as u32;
            return (common * factor).min(worst.max(common));
        }
        common
    }

    /// One of them, if there is any.
    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> Option<&'a T> {
        match from.len() as u64 {
            0 => None,
            count => from.get(self.below(count) as usize),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_seed_one_sequence() {
        let (mut a, mut b, mut c) = (Random::new(7), Random::new(7), Random::new(8));
        let first: Vec<u64> = (0..10).map(|_| a.draw()).collect();
        assert_eq!(first, (0..10).map(|_| b.draw()).collect::<Vec<_>>());
        assert_ne!(first, (0..10).map(|_| c.draw()).collect::<Vec<_>>());
        assert!((0..1000).all(|_| (3..=5).contains(&a.between(3, 5))));
    }
}
