//! Fixed windows aligned to the origin of time, as envoyproxy/ratelimit counts them.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use super::Decision;
use crate::time::{Time, nanos};

/// So many in each window. Windows start at whole multiples of their length: give times whose origin is the Unix epoch
/// to be in step with others. Around a boundary up to twice the limit gets through; [`Gcra`](super::Gcra) has no such gap.
#[derive(Debug)]
pub struct FixedWindow {
    rule: Rule,
    /// Window's number (low 32 bits) above, count below.
    state: AtomicU64,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Rule {
    requests: u32,
    per: u64,
}

impl Rule {
    pub(super) fn new(requests: u32, per: Duration) -> Rule {
        Rule {
            requests,
            per: nanos(per).max(1),
        }
    }

    /// Windows are numbered from 1, so that the state 0 is none.
    fn number(self, now: Time) -> u64 {
        (now.0 / self.per + 1) & 0xFFFF_FFFF
    }

    pub(super) fn decide(self, state: u64, cost: u32, now: Time) -> (Decision, Option<u64>) {
        let mut number = self.number(now);
        // A thread whose clock reading is a little older must not open the window before this one again.
        let ahead = (state >> 32) as u32;
        if state != 0 && ahead.wrapping_sub(number as u32) < 1 << 31 {
            number = u64::from(ahead);
        }
        let count = if state >> 32 == number {
            (state & 0xFFFF_FFFF) as u32
        } else {
            0
        };
        let after = count
            .checked_add(cost)
            .filter(|after| *after <= self.requests);
        let left = Duration::from_nanos(self.per - now.0 % self.per);
        let decision = Decision {
            allowed: after.is_some(),
            limit: self.requests,
            remaining: self.requests.saturating_sub(after.unwrap_or(count)),
            reset_after: left,
            retry_after: match after {
                Some(_) => Some(Duration::ZERO),
                None => (cost <= self.requests).then_some(left),
            },
        };
        (
            decision,
            after
                .filter(|_| cost > 0)
                .map(|after| number << 32 | u64::from(after)),
        )
    }

    pub(super) fn is_fresh(self, state: u64, now: Time) -> bool {
        state >> 32 != self.number(now)
    }
}

impl FixedWindow {
    /// `requests` in each window of length `per`.
    pub fn new(requests: u32, per: Duration) -> FixedWindow {
        FixedWindow {
            rule: Rule::new(requests, per),
            state: AtomicU64::new(0),
        }
    }

    /// Asks for `cost` at once (0: only looks). All or nothing. Lock-free.
    pub fn check(&self, cost: u32, now: Time) -> Decision {
        let mut state = self.state.load(Relaxed);
        loop {
            let (decision, after) = self.rule.decide(state, cost, now);
            let Some(after) = after else { return decision };
            match self
                .state
                .compare_exchange_weak(state, after, Relaxed, Relaxed)
            {
                Ok(_) => return decision,
                Err(current) => state = current,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_anew_in_each_window() {
        let limiter = FixedWindow::new(3, Duration::from_secs(60));
        let admitted = |at: u64| {
            (0..10)
                .filter(|_| limiter.check(1, Time::from_secs(at)).allowed)
                .count()
        };
        assert_eq!(admitted(30), 3);
        assert_eq!(admitted(59), 0);
        assert_eq!(
            limiter.check(1, Time::from_secs(45)).retry_after,
            Some(Duration::from_secs(15))
        );
        assert_eq!(
            admitted(60),
            3,
            "the boundary lets twice the limit through: the known trap"
        );
        assert_eq!(limiter.check(4, Time::from_secs(500)).retry_after, None);
        assert_eq!(limiter.check(0, Time::from_secs(500)).remaining, 3);
    }

    #[test]
    fn an_older_reading_of_the_clock_does_not_reopen_the_window_before() {
        let limiter = FixedWindow::new(3, Duration::from_secs(60));
        let at = |ms: u64| limiter.check(1, Time::from_millis(ms)).allowed;
        let admitted = [60_001, 59_999, 60_002, 59_998, 60_003, 59_997].map(at);
        assert_eq!(admitted.iter().filter(|a| **a).count(), 3);
    }

    #[test]
    fn exact_across_threads() {
        let limiter = FixedWindow::new(777, Duration::from_secs(1));
        let admitted: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        (0..2_000)
                            .filter(|_| limiter.check(1, Time::ZERO).allowed)
                            .count()
                    })
                })
                .collect();
            threads.into_iter().map(|t| t.join().unwrap()).sum()
        });
        assert_eq!(admitted, 777);
    }
}
