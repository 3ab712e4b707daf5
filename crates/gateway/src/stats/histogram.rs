//! Durations in buckets: four a power of two, from a microsecond to an hour. One writer a worker, any reader.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Sub-buckets a power of two: a quantile is right to within 25%... of a bucket whose width is a quarter of its value at most.
const SUB: usize = 4;
/// Powers of two of microseconds: 2^32 µs is over an hour.
const POWERS: usize = 32;
/// Number of buckets.
pub(crate) const BUCKETS: usize = POWERS * SUB;

/// Counts of one worker.
#[derive(Debug)]
pub(crate) struct Histogram {
    counts: [AtomicU64; BUCKETS],
    sum_us: AtomicU64,
}

/// The sum of several.
#[derive(Debug, Clone)]
pub(crate) struct Total {
    counts: [u64; BUCKETS],
    pub(crate) sum_us: u64,
    pub(crate) count: u64,
}

/// Adds without a locked instruction: only the owning worker writes.
pub(crate) fn bump(counter: &AtomicU64, by: u64) {
    counter.store(counter.load(Relaxed) + by, Relaxed);
}

fn bucket(us: u64) -> usize {
    if us < SUB as u64 {
        return us as usize;
    }
    let power = 63 - us.leading_zeros() as usize;
    let sub = (us >> (power - 2)) as usize & (SUB - 1);
    ((power - 1) * SUB + sub).min(BUCKETS - 1)
}

/// Exclusive upper bound of a bucket in microseconds.
fn bound(index: usize) -> u64 {
    if index < SUB {
        return index as u64 + 1;
    }
    let power = index / SUB + 1;
    let sub = (index % SUB) as u64;
    (SUB as u64 + sub + 1) << (power - 2)
}

impl Default for Histogram {
    fn default() -> Self {
        Self {
            counts: [const { AtomicU64::new(0) }; BUCKETS],
            sum_us: AtomicU64::new(0),
        }
    }
}

impl Histogram {
    pub(crate) fn record(&self, took: Duration) {
        let us = took.as_micros() as u64;
        bump(&self.counts[bucket(us)], 1);
        bump(&self.sum_us, us);
    }
}

impl Default for Total {
    fn default() -> Self {
        Self {
            counts: [0; BUCKETS],
            sum_us: 0,
            count: 0,
        }
    }
}

impl Total {
    pub(crate) fn add(&mut self, h: &Histogram) {
        for (total, count) in self.counts.iter_mut().zip(&h.counts) {
            let n = count.load(Relaxed);
            *total += n;
            self.count += n;
        }
        self.sum_us += h.sum_us.load(Relaxed);
    }

    /// Microseconds below which `q` (0 to 1) of the observations lie; 0 when there are none.
    pub(crate) fn quantile(&self, q: f64) -> u64 {
        let rank = (self.count as f64 * q).ceil() as u64;
        let mut seen = 0;
        for (i, n) in self.counts.iter().enumerate() {
            seen += n;
            if seen >= rank && *n > 0 {
                return bound(i);
            }
        }
        0
    }

    /// Cumulative counts at the given bounds in seconds (ascending), for Prometheus.
    pub(crate) fn cumulative(&self, bounds: &[f64]) -> Vec<(f64, u64)> {
        let mut out = Vec::with_capacity(bounds.len());
        let mut i = 0;
        let mut seen = 0;
        for &at in bounds {
            while i < BUCKETS && bound(i) as f64 <= at * 1e6 + 0.5 {
                seen += self.counts[i];
                i += 1;
            }
            out.push((at, seen));
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_contiguous_and_bounds_hold() {
        let mut last = 0;
        for us in 0..100_000u64 {
            let b = bucket(us);
            assert!(b == last || b == last + 1, "{us}");
            assert!(us < bound(b), "{us} in {b}");
            assert!(b == 0 || us >= bound(b - 1), "{us} in {b}");
            last = b;
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn quantiles_are_within_a_quarter() {
        let h = Histogram::default();
        for us in 1..=1000 {
            h.record(Duration::from_micros(us));
        }
        let mut t = Total::default();
        t.add(&h);
        assert_eq!(t.count, 1000);
        assert!(
            (500..=640).contains(&t.quantile(0.5)),
            "{}",
            t.quantile(0.5)
        );
        assert!(
            (990..=1280).contains(&t.quantile(0.99)),
            "{}",
            t.quantile(0.99)
        );
        assert_eq!(Total::default().quantile(0.5), 0);
    }
}
