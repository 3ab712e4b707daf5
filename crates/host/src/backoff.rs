//! When a worker that died is started again.
//!
//! A worker that ran calls and was killed, be it by one of them, must be back before the others are overrun, so that its back-off
//! stays short. One that dies while it starts would only burn the machine that it shares with those that serve.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// The wait after a first death.
const FIRST: Duration = Duration::from_millis(100);
/// The longest wait, also that of a crash loop.
const LONGEST: Duration = Duration::from_secs(30);
/// The longest wait for a worker that had run calls.
const LONGEST_OF_USEFUL: Duration = Duration::from_secs(1);
/// A worker that was ready for so long has recovered.
const RECOVERED: Duration = Duration::from_secs(10);
/// So many deaths of useless workers within [`WINDOW`] are a crash loop.
const LOOP: usize = 5;
const WINDOW: Duration = Duration::from_secs(60);

/// What a worker came to before it died.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Life {
    /// For how long it was ready; `None`: it never was.
    pub(crate) ready: Option<Duration>,
    /// Whether it has answered a call, or died of one.
    pub(crate) served: bool,
    /// For how long it was of no use before it was ended for that. It counts neither as time that it was ready nor as time between deaths.
    pub(crate) unwell: Duration,
}

impl Life {
    /// It never was ready.
    pub(crate) const STILLBORN: Self = Self {
        ready: None,
        served: false,
        unwell: Duration::ZERO,
    };
}

/// What to do about a death.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Restart {
    pub(crate) wait: Duration,
    pub(crate) crash_loop: bool,
}

/// Counts the deaths of an instance's workers.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    /// Deaths in a row without a recovery.
    row: u32,
    useless: VecDeque<Instant>,
    /// A crash loop was seen, and no worker was of use since: its deaths are too far apart for the window.
    looping: bool,
}

impl Backoff {
    pub(crate) fn died(&mut self, now: Instant, life: Life) -> Restart {
        if life.ready.is_some_and(|ready| ready >= RECOVERED) {
            *self = Self::default();
        }
        self.row = self.row.saturating_add(1);
        let wait = FIRST
            .saturating_mul(1 << (self.row - 1).min(16))
            .min(LONGEST);
        if life.served || life.ready.is_some_and(|ready| ready >= RECOVERED) {
            self.useless.clear();
            self.looping = false;
            return Restart {
                wait: wait.min(LONGEST_OF_USEFUL),
                crash_loop: false,
            };
        }
        for death in &mut self.useless {
            *death += life.unwell;
        }
        self.useless.push_back(now);
        self.useless
            .retain(|death| now.duration_since(*death) < WINDOW);
        self.looping |= self.useless.len() >= LOOP;
        Restart {
            wait: if self.looping { LONGEST } else { wait },
            crash_loop: self.looping,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn five_deaths_at_the_start_are_a_crash_loop_and_stay_one() {
        let mut backoff = Backoff::default();
        let mut now = Instant::now();
        let mut seen = Vec::new();
        for _ in 0..12 {
            let restart = backoff.died(now, Life::STILLBORN);
            seen.push((restart.wait.as_millis(), restart.crash_loop));
            now += restart.wait;
        }
        assert_eq!(
            seen[..4],
            [(100, false), (200, false), (400, false), (800, false)]
        );
        assert!(seen[4..].iter().all(|restart| *restart == (30_000, true)));
    }

    #[test]
    fn a_worker_that_serves_is_no_crash_loop_however_often_it_is_killed() {
        let mut backoff = Backoff::default();
        let life = Life {
            ready: Some(Duration::from_secs(1)),
            served: true,
            ..Life::STILLBORN
        };
        for _ in 0..100 {
            let restart = backoff.died(Instant::now(), life);
            assert!(!restart.crash_loop && restart.wait <= LONGEST_OF_USEFUL);
        }
    }

    #[test]
    fn one_that_was_ready_for_long_begins_again() {
        let mut backoff = Backoff::default();
        let now = Instant::now();
        for _ in 0..4 {
            backoff.died(now, Life::STILLBORN);
        }
        let recovered = Life {
            ready: Some(RECOVERED),
            ..Life::STILLBORN
        };
        assert_eq!(
            backoff.died(now, recovered),
            Restart {
                wait: FIRST,
                crash_loop: false
            }
        );
        assert!(!backoff.died(now, Life::STILLBORN).crash_loop);
    }

    #[test]
    fn programs_that_fail_their_checks_from_the_start_are_a_crash_loop_however_long_that_takes_to_see()
     {
        let mut backoff = Backoff::default();
        let mut now = Instant::now();
        let unwell = Duration::from_secs(600);
        let life = Life {
            ready: Some(Duration::ZERO),
            served: false,
            unwell,
        };
        let mut seen = Vec::new();
        for _ in 0..6 {
            now += unwell;
            let restart = backoff.died(now, life);
            seen.push(restart.crash_loop);
            now += restart.wait;
        }
        assert_eq!(seen, [false, false, false, false, true, true]);
    }

    proptest! {
        #[test]
        fn waits_are_bounded(lives in proptest::collection::vec((any::<bool>(), 0_u64..100, any::<bool>()), 0..100)) {
            let mut backoff = Backoff::default();
            let mut now = Instant::now();
            for (ready, seconds, served) in lives {
                let ready = ready.then(|| Duration::from_secs(seconds));
                let restart = backoff.died(now, Life { ready, served: served && ready.is_some(), ..Life::STILLBORN });
                prop_assert!(restart.wait >= FIRST && restart.wait <= LONGEST);
                now += restart.wait + Duration::from_secs(seconds);
            }
        }
    }
}
