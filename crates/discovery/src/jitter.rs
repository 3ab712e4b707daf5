//! Spreading things in time, so that a thousand endpoints or ten processes don't act in the same millisecond.

use std::hash::{BuildHasher, Hasher};
use std::time::Duration;

/// A random number good enough for spreading (the standard library's hash keys, which the system seeds).
pub(crate) fn random() -> u64 {
    std::hash::RandomState::new().build_hasher().finish()
}

/// Uniform in `base × [from, to)`.
pub(crate) fn between(base: Duration, from: f64, to: f64) -> Duration {
    // 53 bits: what a float holds exactly.
    let unit = (random() >> 11) as f64 / (1u64 << 53) as f64;
    base.mul_f64(from + (to - from) * unit)
}

/// Exponential back-off with ±25% of jitter.
#[derive(Debug)]
pub struct Backoff {
    initial: Duration,
    max: Duration,
    next: Duration,
}

impl Backoff {
    /// Waits from `initial` up to `max`, each twice the one before.
    pub fn new(initial: Duration, max: Duration) -> Self {
        Self {
            initial,
            max,
            next: initial,
        }
    }

    /// How long to wait now; the next wait doubles up to the maximum.
    pub fn wait(&mut self) -> Duration {
        let wait = between(self.next, 0.75, 1.25);
        self.next = (self.next * 2).min(self.max);
        wait
    }

    pub(crate) fn reset(&mut self) {
        self.next = self.initial;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn back_off_doubles_up_to_its_maximum_and_starts_anew() {
        let (initial, max) = (Duration::from_millis(100), Duration::from_millis(400));
        let mut backoff = Backoff::new(initial, max);
        for expected in [100, 200, 400, 400] {
            let expected = Duration::from_millis(expected);
            let wait = backoff.wait();
            assert!(
                wait >= expected.mul_f64(0.75) && wait <= expected.mul_f64(1.25),
                "{wait:?} for {expected:?}"
            );
        }
        backoff.reset();
        assert!(backoff.wait() <= initial.mul_f64(1.25));
    }

    #[test]
    fn spreading_really_spreads() {
        let some: Vec<_> = (0..50)
            .map(|_| between(Duration::from_secs(1), 0.5, 1.0))
            .collect();
        assert!(
            some.iter()
                .all(|wait| (Duration::from_millis(500)..Duration::from_secs(1)).contains(wait))
        );
        assert!(some.iter().any(|wait| *wait < Duration::from_millis(750)));
        assert!(some.iter().any(|wait| *wait > Duration::from_millis(750)));
    }
}
