//! When a role that died is started again.
//!
//! The first restart is immediate: a role that served well and was killed must serve again before anyone notices.
//! One that dies again and again would only burn the machine that it shares with what it serves, so the waits grow.

use std::time::Duration;

/// A role that lived this long has recovered: the next death is a first one.
const RECOVERED_AFTER: Duration = Duration::from_secs(30);
/// The wait before the second restart in a row.
const FIRST_WAIT: Duration = Duration::from_millis(100);
/// The longest wait. Short enough that a role comes back soon after what broke it was repaired.
const LONGEST_WAIT: Duration = Duration::from_secs(10);
/// Deaths in a row from which it is called a crash loop.
const CRASH_LOOP: u32 = 3;

/// Counts deaths in a row.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    deaths: u32,
}

/// What to do about a death.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Restart {
    /// How long to wait first.
    pub(crate) wait: Duration,
    /// Deaths in a row, this one included.
    pub(crate) deaths: u32,
    /// Whether this is a crash loop that a person should look at.
    pub(crate) crash_loop: bool,
}

impl Backoff {
    /// A role died after it had served for `lived` (zero if it never was ready).
    pub(crate) fn died(&mut self, lived: Duration) -> Restart {
        if lived >= RECOVERED_AFTER {
            self.deaths = 0;
        }
        self.deaths = self.deaths.saturating_add(1);
        let wait = match self.deaths {
            1 => Duration::ZERO,
            more => FIRST_WAIT
                .saturating_mul(1 << (more - 2).min(16))
                .min(LONGEST_WAIT),
        };
        Restart {
            wait,
            deaths: self.deaths,
            crash_loop: self.deaths >= CRASH_LOOP,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_first_restart_is_immediate_and_the_next_ones_wait_longer_and_longer() {
        let mut backoff = Backoff::default();
        let waits: Vec<u128> = (0..10)
            .map(|_| backoff.died(Duration::ZERO).wait.as_millis())
            .collect();
        assert_eq!(
            waits,
            [0, 100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000]
        );
    }

    #[test]
    fn the_third_death_in_a_row_is_a_crash_loop() {
        let mut backoff = Backoff::default();
        let loops: Vec<bool> = (0..4)
            .map(|_| backoff.died(Duration::from_secs(1)).crash_loop)
            .collect();
        assert_eq!(loops, [false, false, true, true]);
    }

    proptest! {
        #[test]
        fn a_role_that_lived_long_enough_is_restarted_at_once(lives in proptest::collection::vec(0_u64..100, 0..60)) {
            let mut backoff = Backoff::default();
            for seconds in lives {
                let restart = backoff.died(Duration::from_secs(seconds));
                prop_assert!(restart.wait <= LONGEST_WAIT);
                if seconds >= 30 {
                    prop_assert_eq!(restart, Restart { wait: Duration::ZERO, deaths: 1, crash_loop: false });
                }
            }
        }
    }
}
