//! The time by which a store counts.

use std::time::{SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

/// Milliseconds since 1970 that never go back while the process lives, whatever happens to the system's clock. It
/// follows tokio's clock, so that tests can pause it.
#[derive(Debug)]
pub(crate) struct Clock {
    start: Instant,
    start_ms: u64,
}

impl Clock {
    /// Starts at the system's time, or at `earliest_ms` if that is later (a store's last word before a restart).
    pub(crate) fn new(earliest_ms: u64) -> Self {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let now = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        Self {
            start: Instant::now(),
            start_ms: now.max(earliest_ms),
        }
    }

    pub(crate) fn now_ms(&self) -> u64 {
        let passed = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.start_ms.saturating_add(passed)
    }

    /// The moment at which [`Self::now_ms`] reaches `ms`.
    pub(crate) fn at(&self, ms: u64) -> Instant {
        self.start + std::time::Duration::from_millis(ms.saturating_sub(self.start_ms))
    }
}
