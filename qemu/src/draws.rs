//! Numbers that look random and follow from a seed, the same on every machine and in every version.
//!
//! SplitMix64: Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014. Its state is a
//! counter, so the number at any place is had without those before it. A library's generator would do as well today;
//! but a seed in a bug report must still mean the same next year, and no library promises that.

/// The counter's step: 2^64 divided by the golden ratio, odd.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// A stream of numbers.
#[derive(Clone, Debug)]
pub struct Draws(u64);

impl Draws {
    /// The stream of `seed`.
    pub fn new(seed: u64) -> Draws {
        Draws(seed)
    }

    /// The number at place `place` of the stream of `seed`, from 0 on.
    pub fn at(seed: u64, place: u64) -> u64 {
        mix(seed.wrapping_add(STEP.wrapping_mul(place.wrapping_add(1))))
    }

    /// The next number.
    #[expect(clippy::should_implement_trait, reason = "it never ends: an iterator's `Option` would say it may")]
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(STEP);
        mix(self.0)
    }

    /// The next number, brought into `range`, of which every value is about equally likely.
    ///
    /// # Panics
    /// If the range is empty.
    pub fn within(&mut self, range: std::ops::RangeInclusive<u64>) -> u64 {
        let (low, high) = range.into_inner();
        assert!(low <= high, "no number from {low} to {high}");
        let span = u128::from(high - low) + 1;
        // The high half of a product of 64-bit fractions: Lemire, "Fast Random Integer Generation in an Interval".
        low + ((u128::from(self.next()) * span) >> 64) as u64
    }

    /// One of `choices`.
    ///
    /// # Panics
    /// If there is none.
    pub fn one_of<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        &choices[self.within(0..=choices.len() as u64 - 1) as usize]
    }
}

fn mix(mut word: u64) -> u64 {
    word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ word >> 31
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_are_those_of_the_publication() {
        // Reference values of SplitMix64 for the seed 1234567.
        let mut draws = Draws::new(1_234_567);
        let expected = [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423];
        for (place, number) in expected.into_iter().enumerate() {
            assert_eq!(Draws::at(1_234_567, place as u64), number);
            assert_eq!(draws.next(), number);
        }
    }

    #[test]
    fn ranges_are_kept_and_used_up() {
        let mut draws = Draws::new(1);
        let mut seen = [false; 5];
        for _ in 0..200 {
            seen[draws.within(3..=7) as usize - 3] = true;
        }
        assert_eq!(seen, [true; 5]);
        assert_eq!(draws.within(9..=9), 9);
        let _ = draws.within(0..=u64::MAX);
        assert!([1, 2].contains(draws.one_of(&[1, 2])));
    }
}
