//! Randomness as the engine sees it: it comes in from outside, seeded.
//!
//! A pick needs a few nanoseconds' worth of chance, not cryptography, and a simulation must be repeatable.

/// A source of random bits.
pub trait Rng {
    /// 64 random bits.
    fn next_u64(&mut self) -> u64;

    /// A number in `0..n`, or 0 when `n` is 0. By multiplication instead of a remainder (Lemire): the bias is below
    /// `n / 2^32`, invisible for member counts.
    fn below(&mut self, n: u32) -> u32 {
        (((self.next_u64() >> 32) * u64::from(n)) >> 32) as u32
    }

    /// A number in `0.0..1.0`.
    fn unit(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }
}

impl<R: Rng + ?Sized> Rng for &mut R {
    fn next_u64(&mut self) -> u64 {
        (**self).next_u64()
    }
}

/// A small, fast, seeded generator (splitmix64: one addition and two multiplications a number, passes BigCrush).
/// The same seed gives the same numbers on every machine. One a worker; not for secrets.
#[derive(Clone, Debug)]
pub struct SmallRng(u64);

impl SmallRng {
    /// A generator that starts at `seed`; any seed is good.
    pub const fn new(seed: u64) -> SmallRng {
        SmallRng(seed)
    }
}

impl Rng for SmallRng {
    #[inline]
    fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        crate::hash::mix(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn same_seed_same_numbers() {
        let (mut a, mut b, mut c) = (SmallRng::new(7), SmallRng::new(7), SmallRng::new(8));
        let (a, b, c): (Vec<_>, Vec<_>, Vec<_>) = (
            (0..9).map(|_| a.next_u64()).collect(),
            (0..9).map(|_| b.next_u64()).collect(),
            (0..9).map(|_| c.next_u64()).collect(),
        );
        assert_eq!(a, b);
        assert_ne!(a, c);
    }

    #[test]
    fn below_is_in_range_and_even() {
        let mut rng = SmallRng::new(1);
        let mut counts = [0u32; 7];
        for _ in 0..70_000 {
            counts[rng.below(7) as usize] += 1;
        }
        assert!(
            counts.iter().all(|c| (9_500..10_500).contains(c)),
            "{counts:?}"
        );
        assert_eq!(rng.below(0), 0);
        assert_eq!(rng.below(1), 0);
    }

    #[test]
    fn unit_is_half_open() {
        struct Max;
        impl Rng for Max {
            fn next_u64(&mut self) -> u64 {
                u64::MAX
            }
        }
        assert!(Max.unit() < 1.0);
        assert_eq!(Max.below(10), 9);
    }
}
