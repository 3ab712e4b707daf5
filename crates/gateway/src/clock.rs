//! The time as an exchange sees it: read once a wake-up of its task.
//!
//! What happens between two waits takes microseconds, and a dozen places of one exchange ask for the time. Nothing that is measured here
//! (latencies, deadlines, idle times) needs to know better.

use std::cell::Cell;
use std::time::{Duration, Instant};

thread_local! {
    /// Set during [`stand_still`], and only then: nobody sees a time that has gone stale.
    static NOW: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// Does one poll of a task, for which time stands still.
pub(crate) fn stand_still<T>(poll: impl FnOnce() -> T) -> T {
    /// Also when the poll panics.
    struct GoOn;

    impl Drop for GoOn {
        fn drop(&mut self) {
            NOW.set(None);
        }
    }

    NOW.set(Some(Instant::now()));
    let _go_on = GoOn;
    poll()
}

/// When the task that runs was woken; the time itself where that is not known.
pub(crate) fn now() -> Instant {
    NOW.get().unwrap_or_else(Instant::now)
}

/// How long ago `then` was.
pub(crate) fn since(then: Instant) -> Duration {
    now().saturating_duration_since(then)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_stands_still_within_a_poll_and_goes_on_after_it() {
        let before = Instant::now();
        let seen = stand_still(|| {
            let first = now();
            while Instant::now() == first {}
            assert_eq!(now(), first);
            assert_eq!(since(first), Duration::ZERO);
            first
        });
        assert!(before <= seen);
        while Instant::now() == seen {}
        assert!(now() > seen);
    }

    #[test]
    fn a_panic_leaves_no_stale_time_behind() {
        let caught = std::panic::catch_unwind(|| stand_still(|| panic!("on purpose")));
        assert!(caught.is_err());
        assert_eq!(NOW.get(), None);
    }
}
