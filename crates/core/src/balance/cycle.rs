//! Taking turns, evenly or by share, over any number of threads: one atomic addition a choice.
//!
//! Nginx's smooth weighted round robin changes every member's credit at every choice and needs a lock. Here the n-th
//! choice is a function of n alone: n strides around a circle on which each member owns as many places as it has
//! weight. The stride has no common factor with the number of places, so a full cycle visits each place exactly once
//! (the shares are exact), and it is close to the golden section, so that every part of a cycle is spread as well as
//! can be (the three-distance theorem): a heavy member is not served in one run.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::rng::Rng;

/// Most places on the circle; larger sums of weights are scaled down.
const MOST_PLACES: u64 = 1 << 31;

/// Counts the choices; on cache lines of its own, since every thread writes it.
#[repr(align(128))]
pub(crate) struct Cursor(AtomicU64);

impl Cursor {
    /// Goes on where another one stood: a rebuilt group must not favour its first member.
    pub(crate) fn starting_at(position: Option<u64>) -> Cursor {
        Cursor(AtomicU64::new(position.unwrap_or(0)))
    }

    pub(crate) fn position(&self) -> u64 {
        self.0.load(Relaxed)
    }

    /// The next of `count`, each as often as any other.
    #[inline]
    pub(crate) fn even(&self, count: u32) -> usize {
        (self.0.fetch_add(1, Relaxed) % u64::from(count)) as usize
    }
}

/// Shares of members, in whole places.
pub(crate) struct Shares {
    /// Upper end of each member's places.
    ends: Box<[u32]>,
    places: u64,
    stride: u64,
}

const fn gcd(mut a: u64, mut b: u64) -> u64 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

impl Shares {
    /// Shares in proportion to `weights`, of which each should be positive.
    pub(crate) fn new(weights: impl Iterator<Item = u64>) -> Shares {
        let mut weights: Vec<u64> = weights.collect();
        let common = weights.iter().copied().fold(0, gcd).max(1);
        weights.iter_mut().for_each(|w| *w /= common);
        let sum: u128 = weights.iter().map(|w| u128::from(*w)).sum();
        if sum > u128::from(MOST_PLACES) {
            let scale =
                |w: u64| ((u128::from(w) * u128::from(MOST_PLACES / 2) / sum) as u64).max(1);
            weights.iter_mut().for_each(|w| *w = scale(*w));
        }
        let mut end = 0u64;
        let ends = weights
            .iter()
            .map(|w| {
                end += w;
                end as u32
            })
            .collect();
        let golden = (end as f64 * 0.618_033_988_749_894_8) as u64;
        let stride = (golden.max(1)..)
            .find(|s| gcd(*s, end.max(1)) == 1)
            .unwrap_or(1);
        Shares {
            ends,
            places: end.max(1),
            stride,
        }
    }

    /// True if all are alike.
    pub(crate) fn even(&self) -> bool {
        self.places == self.ends.len() as u64
    }

    #[inline]
    fn owner(&self, place: u64) -> usize {
        self.ends.partition_point(|end| u64::from(*end) <= place)
    }

    /// The next in turn.
    #[inline]
    pub(crate) fn in_turn(&self, cursor: &Cursor) -> usize {
        let turn = cursor.0.fetch_add(1, Relaxed) % self.places;
        self.owner(turn * self.stride % self.places)
    }

    /// One at random.
    #[inline]
    pub(crate) fn at_random(&self, rng: &mut impl Rng) -> usize {
        self.owner(u64::from(rng.below(self.places as u32)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sequence(weights: &[u64], turns: usize) -> Vec<usize> {
        let shares = Shares::new(weights.iter().copied());
        let cursor = Cursor::starting_at(None);
        (0..turns).map(|_| shares.in_turn(&cursor)).collect()
    }

    #[test]
    fn heavy_members_are_not_served_in_one_run() {
        let turns = sequence(&[5, 1, 1], 70);
        assert_eq!(
            [0, 1, 2].map(|m| turns.iter().filter(|t| **t == m).count()),
            [50, 10, 10]
        );
        let longest = turns
            .chunk_by(|a, b| a == b)
            .filter(|run| run[0] == 0)
            .map(<[usize]>::len)
            .max();
        assert!(longest.unwrap() <= 4, "{turns:?}");
    }

    #[test]
    fn common_factors_are_taken_out_and_huge_weights_scaled() {
        assert!(Shares::new([700, 700].into_iter()).even());
        let shares = Shares::new([u64::from(u32::MAX), u64::from(u32::MAX), 1].into_iter());
        let mut rng = crate::SmallRng::new(1);
        let mut counts = [0u32; 3];
        (0..10_000).for_each(|_| counts[shares.at_random(&mut rng)] += 1);
        assert!(counts[0] > 4_800 && counts[1] > 4_800, "{counts:?}");
    }

    proptest! {
        #[test]
        fn a_full_cycle_gives_exact_shares(weights in prop::collection::vec(1u64..200, 1..20)) {
            let sum: u64 = weights.iter().sum();
            let common = weights.iter().copied().fold(0, gcd);
            let turns = sequence(&weights, (sum / common) as usize);
            for (member, weight) in weights.iter().enumerate() {
                prop_assert_eq!(turns.iter().filter(|t| **t == member).count() as u64, weight / common);
            }
        }

        #[test]
        fn any_stretch_is_close_to_its_share(weights in prop::collection::vec(1u64..50, 2..10), skip in 0usize..1000) {
            let sum: u64 = weights.iter().sum();
            let stretch = 500usize;
            let turns = sequence(&weights, skip + stretch);
            for (member, weight) in weights.iter().enumerate() {
                let got = turns[skip..].iter().filter(|t| **t == member).count() as f64;
                let want = stretch as f64 * *weight as f64 / sum as f64;
                prop_assert!((got - want).abs() <= 16.0, "member {} got {} for {}", member, got, want);
            }
        }
    }
}
