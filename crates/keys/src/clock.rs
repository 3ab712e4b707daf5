//! The time of this process, which workers and control work must share.

use std::time::{SystemTime, UNIX_EPOCH};

use tidegate_core::Time;
use tokio::time::Instant;

/// Tells the engine's time (monotonic, from an origin of this process) and the calendar's.
pub trait Clock: Send + Sync + 'static {
    /// What the pools go by.
    fn now(&self) -> Time;

    /// Milliseconds since 1970, for people and for budgets of a day or a month.
    fn unix_ms(&self) -> u64;
}

/// Counts from a moment on. Follows tokio's clock, so that tests can pause it.
#[derive(Clone, Copy, Debug)]
pub struct MonotonicClock {
    origin: Instant,
    origin_unix_ms: u64,
}

impl MonotonicClock {
    /// With the origin that the workers have.
    pub fn since(origin: Instant) -> MonotonicClock {
        let passed = origin.elapsed().as_millis();
        let unix = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let origin_unix_ms = unix.as_millis().saturating_sub(passed);
        MonotonicClock {
            origin,
            origin_unix_ms: u64::try_from(origin_unix_ms).unwrap_or(u64::MAX),
        }
    }
}

impl Clock for MonotonicClock {
    fn now(&self) -> Time {
        Time::ZERO + self.origin.elapsed()
    }

    fn unix_ms(&self) -> u64 {
        let passed = u64::try_from(self.origin.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.origin_unix_ms.saturating_add(passed)
    }
}
