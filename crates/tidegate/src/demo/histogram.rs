//! Latencies of a whole run in bounded memory: buckets that grow by a thirty-second part, so that a quantile is off by
//! at most three percent.

use std::time::Duration;

/// Buckets in each doubling.
const PARTS: u32 = 32;
/// Doublings of a microsecond: up to more than an hour.
const DOUBLINGS: u32 = 32;

/// Counts by latency.
#[derive(Clone, Debug)]
pub(crate) struct Histogram {
    counts: Vec<u64>,
    total: u64,
    longest: Duration,
}

impl Default for Histogram {
    fn default() -> Self {
        Self {
            counts: vec![0; (PARTS * DOUBLINGS) as usize],
            total: 0,
            longest: Duration::ZERO,
        }
    }
}

impl Histogram {
    /// Counts one.
    pub(crate) fn record(&mut self, latency: Duration) {
        let place = place(latency.as_micros() as f64).min(self.counts.len() - 1);
        self.counts[place] += 1;
        self.total += 1;
        self.longest = self.longest.max(latency);
    }

    /// The latency below which the share `q` (0 to 1) stayed; zero without any.
    pub(crate) fn quantile(&self, q: f64) -> Duration {
        let rank = (self.total as f64 * q).ceil().max(1.0) as u64;
        let mut below = 0;
        for (place, count) in self.counts.iter().enumerate() {
            below += count;
            if below >= rank {
                let top = 2_f64.powf((place + 1) as f64 / f64::from(PARTS));
                return Duration::from_nanos((top * 1e3) as u64).min(self.longest);
            }
        }
        self.longest
    }

    /// The longest of all.
    pub(crate) fn longest(&self) -> Duration {
        self.longest
    }
}

fn place(micros: f64) -> usize {
    (micros.max(1.0).log2() * f64::from(PARTS)) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn quantiles_are_within_three_percent(mut micros in proptest::collection::vec(50_u64..5_000_000, 1..300), q in 0.0..=1.0_f64) {
            let mut histogram = Histogram::default();
            micros.iter().for_each(|m| histogram.record(Duration::from_micros(*m)));
            micros.sort_unstable();
            let rank = ((micros.len() as f64 * q).ceil() as usize).max(1) - 1;
            let exact = micros[rank] as f64;
            let told = histogram.quantile(q).as_secs_f64() * 1e6;
            prop_assert!((told / exact - 1.0).abs() < 0.03, "{} {}", told, exact);
        }
    }

    #[test]
    fn nothing_recorded_is_zero_and_the_longest_is_exact() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.quantile(0.5), Duration::ZERO);
        histogram.record(Duration::from_micros(777));
        assert_eq!(histogram.quantile(1.0), Duration::from_micros(777));
        assert_eq!(histogram.longest(), Duration::from_micros(777));
    }
}
