//! Retry budgets: retries may be at most a share of the traffic, so that a failing upstream is not buried under its
//! own retries.
//!
//! As in Envoy the share is of the requests that are active now (Linkerd counts over ten seconds): a number that the
//! caller has anyway, with no window to tune. A handful are always allowed, or a quiet route could never retry.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::gate::Gate;

/// At most `percent` of the active requests, but at least `min`, may be retries at a time.
#[derive(Debug)]
pub struct RetryBudget {
    percent: AtomicU64,
    min: AtomicU64,
    retries: Arc<RetryCount>,
    refused: AtomicU64,
}

#[derive(Debug, Default)]
#[repr(align(128))]
struct RetryCount(AtomicU64);

impl Default for RetryBudget {
    /// 20%, at least 3.
    fn default() -> Self {
        RetryBudget::new(20, 3)
    }
}

impl RetryBudget {
    /// A budget of `percent` (may be above 100) of the active requests, and of at least `min` retries at a time.
    pub fn new(percent: u32, min: u32) -> RetryBudget {
        RetryBudget {
            percent: AtomicU64::new(percent.into()),
            min: AtomicU64::new(min.into()),
            retries: Arc::default(),
            refused: AtomicU64::new(0),
        }
    }

    /// Changes the budget; retries under way go on.
    pub fn set(&self, percent: u32, min: u32) {
        self.percent.store(percent.into(), Relaxed);
        self.min.store(min.into(), Relaxed);
    }

    /// Room for a retry, held until it is dropped. `active`: requests under way to the same upstream, this one included
    /// (for instance [`Pool::inflight`](crate::Pool::inflight) or a [`StripedCounter`](crate::StripedCounter)). The
    /// count of retries is exact over all threads.
    pub fn try_retry(&self, active: u64) -> Option<RetryPermit> {
        let share = active.saturating_mul(self.percent.load(Relaxed)) / 100;
        let most = share.max(self.min.load(Relaxed));
        match self
            .retries
            .0
            .fetch_update(Relaxed, Relaxed, |n| (n < most).then_some(n + 1))
        {
            Ok(_) => Some(RetryPermit(self.retries.clone())),
            Err(_) => {
                self.refused.fetch_add(1, Relaxed);
                None
            }
        }
    }

    /// Retries under way.
    pub fn retries(&self) -> u64 {
        self.retries.0.load(Relaxed)
    }

    /// How often there was no room, since the start.
    pub fn refused(&self) -> u64 {
        self.refused.load(Relaxed)
    }
}

/// A retry under way.
#[derive(Debug)]
#[must_use = "a permit that is dropped at once holds nothing"]
pub struct RetryPermit(Arc<RetryCount>);

impl Drop for RetryPermit {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Relaxed);
    }
}

/// The circuit breakers of one upstream, shared by all workers.
#[derive(Debug)]
pub struct CircuitBreakers {
    /// Connections.
    pub connections: Arc<Gate>,
    /// Requests that wait for a connection.
    pub pending: Arc<Gate>,
    /// Requests under way.
    pub requests: Arc<Gate>,
    /// Retries under way.
    pub retries: RetryBudget,
}

impl Default for CircuitBreakers {
    /// Envoy's limits, 1,024 each, with a retry budget of 20%, at least 3.
    fn default() -> Self {
        CircuitBreakers {
            connections: Gate::new(1024),
            pending: Gate::new(1024),
            requests: Gate::new(1024),
            retries: RetryBudget::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fifth_of_the_active_requests_but_at_least_three() {
        let budget = RetryBudget::default();
        let few: Vec<_> = (0..10).map_while(|_| budget.try_retry(1)).collect();
        assert_eq!(few.len(), 3);
        let many: Vec<_> = (0..100).map_while(|_| budget.try_retry(100)).collect();
        assert_eq!(few.len() + many.len(), 20);
        assert_eq!(budget.refused(), 2);
        drop((few, many));
        assert_eq!(budget.retries(), 0);
        assert!(budget.try_retry(0).is_some());
    }

    #[test]
    fn a_budget_of_nothing_allows_nothing() {
        assert!(RetryBudget::new(0, 0).try_retry(1_000).is_none());
        let budget = RetryBudget::new(0, 0);
        budget.set(100, 0);
        assert!(budget.try_retry(1).is_some());
    }

    #[test]
    fn exact_across_threads() {
        let budget = RetryBudget::new(10, 0);
        let held: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        (0..100)
                            .filter_map(|_| budget.try_retry(500))
                            .collect::<Vec<_>>()
                    })
                })
                .collect();
            let permits: Vec<_> = threads
                .into_iter()
                .flat_map(|t| t.join().unwrap())
                .collect();
            permits.len()
        });
        assert_eq!(held, 50);
    }
}
