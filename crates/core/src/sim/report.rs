//! What a simulation found.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::time::{Time, nanos};
use crate::verdict::{MemberState, PoolEvent};

/// What happened in a run.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Requests that came.
    pub requests: u64,
    /// Attempts made for them.
    pub attempts: u64,
    /// Requests whose caller saw a failure.
    pub failed: u64,
    /// Attempts for which there was no member.
    pub no_member: u64,
    /// By member.
    pub members: BTreeMap<Arc<str>, MemberReport>,
    /// Changes of state, oldest first.
    pub events: Vec<PoolEvent>,
    /// From the request to its end, all attempts together.
    pub latency: Histogram,
}

/// What a member did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemberReport {
    /// Attempts that ended.
    pub attempts: u64,
    /// Of them failed.
    pub failures: u64,
}

impl Report {
    /// What a member did; nothing if it is not known.
    pub fn member(&self, id: &str) -> MemberReport {
        self.members.get(id).copied().unwrap_or_default()
    }

    /// A member's share of all attempts, 0.0 to 1.0.
    pub fn share(&self, id: &str) -> f64 {
        let all: u64 = self.members.values().map(|m| m.attempts).sum();
        self.member(id).attempts as f64 / all.max(1) as f64
    }

    /// When a member entered a state, first to last.
    pub fn entered(&self, id: &str, state: MemberState) -> Vec<Time> {
        self.events
            .iter()
            .filter(|e| *e.member == *id && e.to == state)
            .map(|e| e.at)
            .collect()
    }
}

/// Durations in buckets of about 6% width.
#[derive(Clone, Debug)]
pub struct Histogram {
    buckets: Vec<u64>,
    count: u64,
}

/// Buckets for each doubling.
const PER_DOUBLING: u64 = 16;

impl Default for Histogram {
    fn default() -> Self {
        Histogram {
            buckets: vec![0; 64 * PER_DOUBLING as usize],
            count: 0,
        }
    }
}

impl Histogram {
    /// Takes a duration in.
    pub fn add(&mut self, duration: Duration) {
        let value = nanos(duration).max(PER_DOUBLING);
        let shift = 63 - u64::from(value.leading_zeros()) - PER_DOUBLING.ilog2() as u64;
        let index = shift * PER_DOUBLING + ((value >> shift) - PER_DOUBLING);
        if let Some(bucket) = self.buckets.get_mut(index as usize) {
            *bucket += 1;
        }
        self.count += 1;
    }

    /// How many were taken in.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The duration below or at which a share (0.0 to 1.0) of them lie, to about 6%; zero if there are none.
    pub fn quantile(&self, share: f64) -> Duration {
        let wanted = (self.count as f64 * share.clamp(0.0, 1.0)).ceil().max(1.0) as u64;
        let mut seen = 0;
        for (index, bucket) in self.buckets.iter().enumerate() {
            seen += bucket;
            if seen >= wanted && self.count > 0 {
                let (shift, rest) = (index as u64 / PER_DOUBLING, index as u64 % PER_DOUBLING);
                return Duration::from_nanos((PER_DOUBLING + rest) << shift);
            }
        }
        Duration::ZERO
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_within_a_sixteenth() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.quantile(0.5), Duration::ZERO);
        for ms in 1..=1000 {
            histogram.add(Duration::from_millis(ms));
        }
        for (share, ms) in [(0.5, 500.0), (0.99, 990.0), (1.0, 1000.0), (0.0, 1.0)] {
            let got = histogram.quantile(share).as_secs_f64() * 1e3;
            assert!((got / ms - 1.0).abs() < 0.07, "{share}: {got}");
        }
        histogram.add(Duration::ZERO);
        histogram.add(Duration::MAX);
        assert_eq!(histogram.count(), 1002);
    }
}
