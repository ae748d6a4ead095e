//! The only source of chance: ChaCha8 from a seed, with our own way from bits to numbers.
//!
//! ChaCha and not the usual small generators, because its output is specified and the same on every machine and in
//! every version. The step from bits to numbers is ours for the same reason: `rand` may improve its distributions in
//! any release, and a seed written down in a test must mean the same run for ever.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

/// A seeded stream of chance.
#[derive(Debug, Clone)]
pub struct Rng(ChaCha8Rng);

impl Rng {
    pub fn new(seed: u64) -> Self {
        Self(ChaCha8Rng::seed_from_u64(seed))
    }

    pub fn bits(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// A number in `0.0 .. 1.0`, never 1. All 53 bits an `f64` can hold are used.
    pub fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// The seed of part `part` of a run that has one seed: two directions of a line, or ten lines, must not throw the
/// same dice. Parts of one seed, and equal parts of different seeds, are unrelated.
pub fn seed_of(seed: u64, part: u64) -> u64 {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(part.wrapping_add(1));
    rng.next_u64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_means_the_same_numbers_for_ever() {
        let mut rng = Rng::new(7);
        assert_eq!([rng.bits(), rng.bits()], [2_910_824_217_569_608_635, 3_098_856_782_162_503_994]);
    }

    #[test]
    fn units_fill_the_interval_evenly() {
        let mut rng = Rng::new(1);
        let mut tenths = [0u32; 10];
        for _ in 0..100_000 {
            tenths[(rng.unit() * 10.0) as usize] += 1;
        }
        // Each tenth expects 10,000 with a deviation of 95.
        assert!(tenths.iter().all(|count| (9_600..10_400).contains(count)), "{tenths:?}");
    }

    #[test]
    fn parts_of_a_seed_throw_different_dice() {
        let seeds = [seed_of(1, 0), seed_of(1, 1), seed_of(2, 0), seed_of(2, 1), 1, 2];
        for (n, seed) in seeds.iter().enumerate() {
            assert!(!seeds[..n].contains(seed));
        }
        assert_eq!(seed_of(1, 0), seed_of(1, 0));
    }
}
