//! The sign of life that a gateway gives its supervisor: how often, and how long it may be missing.

use std::time::Duration;

/// How long a gateway may give none before it is taken for hung. Far above what a machine that swaps, or compiles, makes of a quarter of a
/// second; far below what callers would wait for.
const DEADLINE: Duration = Duration::from_secs(45);

/// Beats within a deadline: one that is lost or late is no reason to kill.
const BEATS: u32 = 9;

/// After so long without a beat the gateway is killed and replaced.
pub(crate) fn deadline() -> Duration {
    test_deadline().unwrap_or(DEADLINE)
}

/// How often a gateway gives one.
pub(crate) fn interval() -> Duration {
    deadline() / BEATS
}

/// Tests do not wait for 45 seconds.
#[cfg(debug_assertions)]
fn test_deadline() -> Option<Duration> {
    let text = std::env::var("TIDEGATE_BEAT_DEADLINE_MS").ok()?;
    text.parse().ok().map(Duration::from_millis)
}

#[cfg(not(debug_assertions))]
fn test_deadline() -> Option<Duration> {
    None
}
