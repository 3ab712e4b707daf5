//! The generic cell rate algorithm (ITU-T I.371): the limiter remembers one moment, the "theoretical arrival time" at
//! which it will have been idle; a request moves it by its share of the period, and may do so while it does not run
//! further ahead of now than the burst allows. The same as a leaky bucket without the leak to compute.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use super::Decision;
use crate::time::{Time, nanos};

/// A steady rate with a burst: in any stretch of time `t` at most `burst + rate · t` are let in. Exact over all threads;
/// rates above ten million a second are rounded down (by less than 1% up to that).
#[derive(Debug)]
pub struct Gcra {
    rule: Rule,
    /// Theoretical arrival time.
    tat: AtomicU64,
}

/// The arithmetic, on a state of 64 bits that the caller keeps; 0 is "never used".
#[derive(Clone, Copy, Debug)]
pub(super) struct Rule {
    /// Nanoseconds that one request stands for, rounded up: never more than the rate.
    interval: u64,
    burst: u32,
}

impl Rule {
    pub(super) fn new(requests: u32, per: Duration, burst: Option<u32>) -> Rule {
        let burst = if requests == 0 {
            0
        } else {
            burst.unwrap_or(requests).max(1)
        };
        // So long that the burst times it still fits.
        let longest = u64::MAX / 4 / u64::from(burst.max(1));
        Rule {
            interval: nanos(per)
                .max(1)
                .div_ceil(u64::from(requests.max(1)))
                .clamp(1, longest),
            burst,
        }
    }

    /// The decision and, if something was let in, the state after.
    pub(super) fn decide(self, tat: u64, cost: u32, now: Time) -> (Decision, Option<u64>) {
        let room = self.interval * u64::from(self.burst);
        let start = tat.max(now.0);
        let wanted = self.interval.saturating_mul(u64::from(cost));
        let after = start.saturating_add(wanted);
        let ahead = after - now.0;
        let allowed = ahead <= room && after != u64::MAX;
        let used = if allowed { ahead } else { start - now.0 };
        let decision = Decision {
            allowed,
            limit: self.burst,
            remaining: (room.saturating_sub(used) / self.interval) as u32,
            reset_after: Duration::from_nanos(used),
            retry_after: match (allowed, wanted <= room && self.burst > 0) {
                (true, _) => Some(Duration::ZERO),
                (false, true) => Some(Duration::from_nanos(ahead.saturating_sub(room))),
                (false, false) => None,
            },
        };
        (decision, (allowed && cost > 0).then_some(after))
    }

    /// True if the state is as good as unused.
    pub(super) fn is_fresh(tat: u64, now: Time) -> bool {
        tat <= now.0
    }
}

impl Gcra {
    /// `requests` per `per`, at most `burst` at once (`None`: `requests`). 0 requests: nothing is let in.
    pub fn new(requests: u32, per: Duration, burst: Option<u32>) -> Gcra {
        Gcra {
            rule: Rule::new(requests, per, burst),
            tat: AtomicU64::new(0),
        }
    }

    /// Asks for `cost` at once (0: only looks). All or nothing. Lock-free.
    pub fn check(&self, cost: u32, now: Time) -> Decision {
        let mut tat = self.tat.load(Relaxed);
        loop {
            let (decision, after) = self.rule.decide(tat, cost, now);
            let Some(after) = after else { return decision };
            match self.tat.compare_exchange_weak(tat, after, Relaxed, Relaxed) {
                Ok(_) => return decision,
                Err(current) => tat = current,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_burst_then_the_steady_rate() {
        let limiter = Gcra::new(10, SECOND, None);
        assert_eq!(
            (0..20)
                .filter(|_| limiter.check(1, Time::ZERO).allowed)
                .count(),
            10
        );
        let refused = limiter.check(1, Time::ZERO);
        assert_eq!(refused.retry_after, Some(Duration::from_millis(100)));
        assert_eq!((refused.remaining, refused.reset_after), (0, SECOND));
        assert!(!limiter.check(1, Time::from_millis(99)).allowed);
        assert!(limiter.check(1, Time::from_millis(100)).allowed);
        assert!(!limiter.check(1, Time::from_millis(100)).allowed);
    }

    #[test]
    fn no_boundary_lets_twice_the_limit_through() {
        let limiter = Gcra::new(100, SECOND, None);
        let admitted = |at: u64| {
            (0..200)
                .filter(|_| limiter.check(1, Time::from_millis(at)).allowed)
                .count()
        };
        assert_eq!(admitted(999), 100);
        assert_eq!(admitted(1001), 0);
    }

    #[test]
    fn several_at_once_are_all_or_nothing() {
        let limiter = Gcra::new(10, SECOND, None);
        assert!(limiter.check(7, Time::ZERO).allowed);
        let refused = limiter.check(7, Time::ZERO);
        assert_eq!(
            (refused.allowed, refused.remaining, refused.retry_after),
            (false, 3, Some(Duration::from_millis(400)))
        );
        assert!(limiter.check(3, Time::ZERO).allowed);
        assert_eq!(
            limiter.check(11, Time::from_secs(100)).retry_after,
            None,
            "more than the limit: never"
        );
        assert_eq!(
            limiter.check(0, Time::from_secs(100)).remaining,
            10,
            "looking costs nothing"
        );
    }

    #[test]
    fn a_limit_of_none_lets_nothing_in() {
        let decision = Gcra::new(0, SECOND, None).check(1, Time::from_secs(5));
        assert_eq!((decision.allowed, decision.retry_after), (false, None));
        // Nor does the end of time wrap around.
        assert!(!Gcra::new(1, SECOND, None).check(1, Time::NEVER).allowed);
    }

    proptest! {
        #[test]
        fn never_more_than_burst_plus_rate_times_time(
            requests in 1u32..1000, burst in prop::option::of(1u32..50), per_ms in 1u64..10_000,
            steps in prop::collection::vec((0u64..50_000_000, 1u32..4), 1..300),
        ) {
            let per = Duration::from_millis(per_ms);
            let limiter = Gcra::new(requests, per, burst);
            let mut now = Time::ZERO;
            let mut admitted: Vec<(Time, u32)> = Vec::new();
            for (wait, cost) in steps {
                now = now + Duration::from_nanos(wait);
                if limiter.check(cost, now).allowed {
                    admitted.push((now, cost));
                }
            }
            // In every stretch that starts with an admission.
            for (i, (from, _)) in admitted.iter().enumerate() {
                let mut sum = 0u64;
                for (to, cost) in &admitted[i..] {
                    sum += u64::from(*cost);
                    let time = (*to - *from).as_secs_f64();
                    let bound = f64::from(burst.unwrap_or(requests)) + f64::from(requests) / per.as_secs_f64() * time;
                    prop_assert!(sum as f64 <= bound + 1e-6, "{} in {}s, bound {}", sum, time, bound);
                }
            }
        }

        #[test]
        fn retry_after_is_exact(requests in 1u32..100, cost in 1u32..5, start in 0u64..1_000_000_000) {
            let limiter = Gcra::new(requests.max(cost), SECOND, None);
            let now = Time(start);
            while limiter.check(cost, now).allowed {}
            let wait = limiter.check(cost, now).retry_after.unwrap();
            prop_assert!(!limiter.check(cost, now + wait - Duration::from_nanos(1)).allowed);
            prop_assert!(limiter.check(cost, now + wait).allowed);
        }
    }

    #[test]
    fn exact_across_threads() {
        let limiter = Gcra::new(1_000, SECOND, None);
        let admitted: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        (0..5_000)
                            .filter(|_| limiter.check(1, Time::from_secs(9)).allowed)
                            .count()
                    })
                })
                .collect();
            threads.into_iter().map(|t| t.join().unwrap()).sum()
        });
        assert_eq!(admitted, 1_000);
    }
}
