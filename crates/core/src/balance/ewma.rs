//! Peak-sensitive moving average of a member's latency (Finagle's peak EWMA, also tower's and Linkerd's).
//!
//! A measurement above the average replaces it at once; one below pulls it down with a weight that depends on the time
//! since the last one, so that a busy member is not averaged faster than a quiet one. Between measurements the average
//! decays towards zero: a member that looked slow is tried again.
//!
//! Two atomics, written without a lock: a lost update is one measurement less.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::time::{Time, nanos};

/// No latency counts as less, so that members without measurements are still told apart by their requests in flight.
const FLOOR: f64 = 1_000.0;
/// Longest latency that a penalty alone makes.
const LONGEST_PENALTY: f64 = 5e9;
/// A penalty is at least this: 10 ms.
const SHORTEST_PENALTY: f64 = 1e7;

#[derive(Default)]
pub(crate) struct Ewma {
    /// Nanoseconds as the bits of an `f64`; 0: nothing measured.
    value: AtomicU64,
    /// When it was measured.
    at: AtomicU64,
}

/// e^(−elapsed/decay), by 2^−n with the fraction interpolated: within 6%, monotonic, no call into libm.
#[inline]
fn fade(elapsed: u64, per_halving: f64) -> f64 {
    let halvings = elapsed as f64 * per_halving;
    if halvings >= 64.0 {
        return 0.0;
    }
    let whole = halvings as u64;
    let fraction = halvings - whole as f64;
    f64::from_bits((1023 - whole) << 52) * (1.0 - 0.5 * fraction)
}

/// Halvings a nanosecond for an e-folding time.
pub(crate) fn per_halving(decay: Duration) -> f64 {
    std::f64::consts::LOG2_E / (nanos(decay).max(1) as f64)
}

impl Ewma {
    /// Estimate in nanoseconds, decayed to `now`; `typical` where nothing was measured yet. At least the floor.
    #[inline]
    pub(crate) fn estimate(&self, now: Time, per_halving: f64, typical: f64) -> f64 {
        let bits = self.value.load(Relaxed);
        if bits == 0 {
            return typical.max(FLOOR);
        }
        let elapsed = now.0.saturating_sub(self.at.load(Relaxed));
        (f64::from_bits(bits) * fade(elapsed, per_halving)).max(FLOOR)
    }

    /// Forgets all measurements.
    pub(crate) fn forget(&self) {
        self.value.store(0, Relaxed);
    }

    pub(crate) fn is_measured(&self) -> bool {
        self.value.load(Relaxed) != 0
    }

    /// The average decayed to `now`, or `None` before the first measurement.
    pub(crate) fn measured(&self, now: Time, per_halving: f64) -> Option<Duration> {
        self.is_measured()
            .then(|| Duration::from_nanos(self.estimate(now, per_halving, 0.0) as u64))
    }

    /// Takes a measurement in.
    pub(crate) fn observe(&self, latency: Duration, now: Time, per_halving: f64) {
        self.take(nanos(latency).max(1) as f64, now, per_halving);
    }

    /// Takes a failure or an overload answer in as a latency of `factor` × the average.
    pub(crate) fn penalize(
        &self,
        latency: Option<Duration>,
        factor: u32,
        now: Time,
        per_halving: f64,
    ) {
        let measured = latency.map_or(0.0, |l| nanos(l) as f64);
        let current = self.estimate(now, per_halving, 0.0);
        let penalty =
            (current * f64::from(factor)).clamp(SHORTEST_PENALTY, LONGEST_PENALTY.max(current));
        self.take(penalty.max(measured), now, per_halving);
    }

    fn take(&self, sample: f64, now: Time, per_halving: f64) {
        let bits = self.value.load(Relaxed);
        let old = f64::from_bits(bits);
        let new = if bits == 0 || sample >= old {
            sample
        } else {
            let keep = fade(now.0.saturating_sub(self.at.load(Relaxed)), per_halving);
            old * keep + sample * (1.0 - keep)
        };
        self.value.store(new.to_bits(), Relaxed);
        // A late finisher must not turn the clock back: the decay would run twice.
        if now.0 > self.at.load(Relaxed) {
            self.at.store(now.0, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_peak_counts_at_once_and_fades_with_time() {
        let halving = per_halving(Duration::from_secs(10));
        let ewma = Ewma::default();
        ewma.observe(10 * MS, Time::ZERO, halving);
        ewma.observe(100 * MS, Time::from_millis(1), halving);
        assert!(ewma.estimate(Time::from_millis(1), halving, 0.0) > 99e6);
        // A fast answer right after barely moves it, ten seconds later it takes most of the weight.
        ewma.observe(10 * MS, Time::from_millis(2), halving);
        assert!(ewma.estimate(Time::from_millis(2), halving, 0.0) > 99e6);
        ewma.observe(10 * MS, Time::from_secs(10), halving);
        let later = ewma.estimate(Time::from_secs(10), halving, 0.0);
        assert!((35e6..50e6).contains(&later), "{later}");
    }

    #[test]
    fn decays_by_e_in_the_decay_time() {
        let halving = per_halving(Duration::from_secs(10));
        for (elapsed, want) in [(0, 1.0), (10, 0.3679), (20, 0.1353), (50, 0.0067)] {
            let got = fade(elapsed * 1_000_000_000, halving);
            assert!(
                (got / want - 1.0).abs() < 0.07,
                "{elapsed}s: {got} for {want}"
            );
        }
        assert_eq!(fade(u64::MAX, halving), 0.0);
    }

    #[test]
    fn fading_is_monotonic() {
        let halving = per_halving(Duration::from_secs(10));
        let values: Vec<_> = (0..5_000)
            .map(|ms| fade(ms * 10_000_000, halving))
            .collect();
        assert!(values.windows(2).all(|w| w[0] >= w[1]));
    }

    #[test]
    fn failing_fast_is_not_being_fast() {
        let halving = per_halving(Duration::from_secs(10));
        let ewma = Ewma::default();
        ewma.observe(10 * MS, Time::ZERO, halving);
        ewma.penalize(Some(MS / 10), 10, Time::ZERO, halving);
        assert!(ewma.estimate(Time::ZERO, halving, 0.0) >= 100e6);
        // Penalties do not pile up beyond the cap.
        for _ in 0..50 {
            ewma.penalize(None, 10, Time::ZERO, halving);
        }
        assert!(ewma.estimate(Time::ZERO, halving, 0.0) <= LONGEST_PENALTY);
        ewma.penalize(Some(Duration::from_secs(20)), 10, Time::ZERO, halving);
        assert!(ewma.estimate(Time::ZERO, halving, 0.0) >= 20e9 * 0.99);
    }

    #[test]
    fn unmeasured_counts_as_typical() {
        let ewma = Ewma::default();
        assert_eq!(ewma.estimate(Time::ZERO, 1e-10, 5e6), 5e6);
        assert_eq!(ewma.measured(Time::ZERO, 1e-10), None);
    }
}
