//! Counters that are written a lot and read rarely: one stripe a worker, added up when read.

use std::sync::atomic::{AtomicI64, Ordering::Relaxed};

/// A sum in stripes, so that workers do not write one cache line by turns. Exact when nobody is writing; while others
/// write, a read may miss changes under way, never more.
#[derive(Debug)]
pub struct StripedCounter {
    stripes: Box<[Stripe]>,
}

#[derive(Debug, Default)]
#[repr(align(128))]
struct Stripe(AtomicI64);

impl StripedCounter {
    /// A counter for so many workers (at least one stripe).
    pub fn new(workers: usize) -> StripedCounter {
        StripedCounter {
            stripes: (0..workers.max(1)).map(|_| Stripe::default()).collect(),
        }
    }

    /// Adds on a worker's stripe. More workers than stripes share.
    #[inline]
    pub fn add(&self, worker: usize, amount: i64) {
        self.stripes[worker % self.stripes.len()]
            .0
            .fetch_add(amount, Relaxed);
    }

    /// The sum; 0 rather than negative while increments and decrements are under way on different stripes.
    pub fn sum(&self) -> u64 {
        let sum: i64 = self
            .stripes
            .iter()
            .map(|s| s.0.load(Relaxed))
            .fold(0, i64::wrapping_add);
        u64::try_from(sum).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adds_up_across_workers() {
        let counter = StripedCounter::new(2);
        std::thread::scope(|scope| {
            for worker in 0..4 {
                let counter = &counter;
                scope.spawn(move || (0..10_000).for_each(|_| counter.add(worker, 1)));
            }
        });
        assert_eq!(counter.sum(), 40_000);
        counter.add(1, -50_000);
        assert_eq!(counter.sum(), 0);
    }
}
