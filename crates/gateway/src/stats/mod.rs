//! What is counted, per worker, and added when somebody asks.
//!
//! Counters are kept by name across reloads, until no configuration in use has the name. Each has one shard a worker; a worker writes its own shard only, without locked
//! instructions, and readers add the shards.

pub(crate) mod histogram;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use crate::provider::stats::ProviderStats;
use histogram::{Histogram, Total, bump};

/// Smallest and one beyond the largest status counted.
const STATUS: std::ops::Range<usize> = 100..600;
const GRPC: usize = 17;

/// All counters of the gateway by name.
#[derive(Debug)]
pub(crate) struct Registry {
    workers: usize,
    traffic: Mutex<BTreeMap<(String, String), Arc<Traffic>>>,
    attempts: Mutex<BTreeMap<String, Arc<Attempts>>>,
    limits: Mutex<BTreeMap<String, Arc<Limits>>>,
    providers: Mutex<BTreeMap<String, Arc<ProviderStats>>>,
    /// Things that are counted once for the process.
    pub(crate) process: Process,
}

/// Requests of one route to one target.
#[derive(Debug)]
pub(crate) struct Traffic {
    shards: Box<[TrafficShard]>,
}

/// A worker's part, on cache lines of its own.
#[derive(Debug, Default)]
#[repr(align(128))]
struct TrafficShard {
    inflight: AtomicU64,
    /// Made with the first request: a config of ten thousand routes costs little.
    detail: OnceLock<Box<Detail>>,
}

#[derive(Debug)]
struct Detail {
    codes: [AtomicU64; STATUS.end - STATUS.start],
    grpc: [AtomicU64; GRPC],
    errors: AtomicU64,
    duration: Histogram,
}

impl Default for Detail {
    fn default() -> Self {
        Self {
            codes: [const { AtomicU64::new(0) }; STATUS.end - STATUS.start],
            grpc: [const { AtomicU64::new(0) }; GRPC],
            errors: AtomicU64::new(0),
            duration: Histogram::default(),
        }
    }
}

/// The sum of a [`Traffic`].
#[derive(Debug, Default)]
pub(crate) struct TrafficTotal {
    pub(crate) inflight: u64,
    pub(crate) requests: u64,
    pub(crate) errors: u64,
    /// By HTTP status, only those that occurred.
    pub(crate) codes: BTreeMap<u16, u64>,
    /// By gRPC status, only those that occurred.
    pub(crate) grpc: BTreeMap<u16, u64>,
    pub(crate) duration: Total,
}

/// How an exchange ended, for counting.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ended {
    /// Status sent to the caller; 499 when the caller left before one was sent.
    pub(crate) status: u16,
    /// gRPC status, for gRPC calls that got one.
    pub(crate) grpc: Option<u16>,
    /// Counts as an error of ours or the endpoint's.
    pub(crate) error: bool,
    pub(crate) took: Duration,
}

impl Traffic {
    fn new(workers: usize) -> Self {
        Self {
            shards: (0..workers).map(|_| TrafficShard::default()).collect(),
        }
    }

    pub(crate) fn begin(&self, worker: usize) {
        bump(&self.shards[worker].inflight, 1);
    }

    /// The request is counted elsewhere after all.
    pub(crate) fn leave(&self, worker: usize) {
        let shard = &self.shards[worker];
        shard
            .inflight
            .store(shard.inflight.load(Relaxed).saturating_sub(1), Relaxed);
    }

    pub(crate) fn end(&self, worker: usize, ended: Ended) {
        self.leave(worker);
        let shard = &self.shards[worker];
        let detail = shard.detail.get_or_init(Box::default);
        let status = usize::from(ended.status).clamp(STATUS.start, STATUS.end - 1);
        bump(&detail.codes[status - STATUS.start], 1);
        if let Some(code) = ended.grpc {
            // Numbers that gRPC does not know count as UNKNOWN.
            let code = usize::from(code);
            bump(&detail.grpc[if code < GRPC { code } else { 2 }], 1);
        }
        if ended.error {
            bump(&detail.errors, 1);
        }
        detail.duration.record(ended.took);
    }

    pub(crate) fn total(&self) -> TrafficTotal {
        let mut total = TrafficTotal::default();
        self.add_to(&mut total);
        total
    }

    pub(crate) fn add_to(&self, total: &mut TrafficTotal) {
        for shard in &self.shards {
            total.inflight += shard.inflight.load(Relaxed);
            let Some(detail) = shard.detail.get() else {
                continue;
            };
            for (i, n) in detail
                .codes
                .iter()
                .map(|c| c.load(Relaxed))
                .enumerate()
                .filter(|(_, n)| *n > 0)
            {
                *total.codes.entry((STATUS.start + i) as u16).or_default() += n;
                total.requests += n;
            }
            for (i, n) in detail
                .grpc
                .iter()
                .map(|c| c.load(Relaxed))
                .enumerate()
                .filter(|(_, n)| *n > 0)
            {
                *total.grpc.entry(i as u16).or_default() += n;
            }
            total.errors += detail.errors.load(Relaxed);
            total.duration.add(&detail.duration);
        }
    }
}

/// Attempts of one pool by verdict, and retries.
#[derive(Debug)]
pub(crate) struct Attempts {
    shards: Box<[AttemptShard]>,
}

#[derive(Debug, Default)]
#[repr(align(128))]
struct AttemptShard {
    counts: [AtomicU64; AttemptKind::ALL.len()],
}

/// What is counted of attempts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AttemptKind {
    Ok,
    Neutral,
    Failure,
    /// Acts at once, whatever the statistics say.
    Evidence,
    /// A further attempt of the same request.
    Retry,
    /// A retry that the budget did not allow.
    BudgetDenied,
    /// A hedged attempt.
    Hedge,
    /// No member was fit.
    NoneFit,
    /// A bound of the connection pool was reached.
    Overflow,
}

impl AttemptKind {
    pub(crate) const ALL: [Self; 9] = [
        Self::Ok,
        Self::Neutral,
        Self::Failure,
        Self::Evidence,
        Self::Retry,
        Self::BudgetDenied,
        Self::Hedge,
        Self::NoneFit,
        Self::Overflow,
    ];
}

impl Attempts {
    pub(crate) fn count(&self, worker: usize, kind: AttemptKind) {
        bump(&self.shards[worker].counts[kind as usize], 1);
    }

    pub(crate) fn total(&self, kind: AttemptKind) -> u64 {
        self.shards
            .iter()
            .map(|s| s.counts[kind as usize].load(Relaxed))
            .sum()
    }
}

/// Decisions of one route's limits.
#[derive(Debug)]
pub(crate) struct Limits {
    workers: usize,
    /// Made with the first decision: most routes have no limits.
    shards: OnceLock<Box<[LimitShard]>>,
}

#[derive(Debug, Default)]
#[repr(align(128))]
struct LimitShard {
    counts: [AtomicU64; 3],
}

/// What a limit decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LimitKind {
    /// Let through by the rate limit.
    Ok,
    /// Refused by the rate limit.
    Over,
    /// Refused by the concurrency limit.
    Busy,
}

impl Limits {
    pub(crate) fn count(&self, worker: usize, kind: LimitKind) {
        let shards = self
            .shards
            .get_or_init(|| (0..self.workers).map(|_| LimitShard::default()).collect());
        bump(&shards[worker].counts[kind as usize], 1);
    }

    pub(crate) fn total(&self, kind: LimitKind) -> u64 {
        self.shards
            .get()
            .into_iter()
            .flatten()
            .map(|s| s.counts[kind as usize].load(Relaxed))
            .sum()
    }
}

/// Things counted once for the process; rare enough to be shared.
#[derive(Debug, Default)]
pub(crate) struct Process {
    pub(crate) bad_requests: AtomicU64,
    pub(crate) mirrored: AtomicU64,
    pub(crate) mirror_dropped: AtomicU64,
    pub(crate) reloads: AtomicU64,
    pub(crate) reloads_refused: AtomicU64,
}

fn locked<T>(m: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    m.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl Registry {
    pub(crate) fn new(workers: usize) -> Self {
        Self {
            workers,
            traffic: Mutex::default(),
            attempts: Mutex::default(),
            limits: Mutex::default(),
            providers: Mutex::default(),
            process: Process::default(),
        }
    }

    /// The counters of a route's requests to a target; made at the first call.
    pub(crate) fn traffic(&self, route: &str, target: &str) -> Arc<Traffic> {
        locked(&self.traffic)
            .entry((route.to_owned(), target.to_owned()))
            .or_insert_with(|| Arc::new(Traffic::new(self.workers)))
            .clone()
    }

    pub(crate) fn attempts(&self, pool: &str) -> Arc<Attempts> {
        locked(&self.attempts)
            .entry(pool.to_owned())
            .or_insert_with(|| {
                Arc::new(Attempts {
                    shards: (0..self.workers).map(|_| AttemptShard::default()).collect(),
                })
            })
            .clone()
    }

    pub(crate) fn limits(&self, route: &str) -> Arc<Limits> {
        locked(&self.limits)
            .entry(route.to_owned())
            .or_insert_with(|| {
                Arc::new(Limits {
                    workers: self.workers,
                    shards: OnceLock::new(),
                })
            })
            .clone()
    }

    /// The counters of a provider's answers.
    pub(crate) fn provider(&self, name: &str) -> Arc<ProviderStats> {
        locked(&self.providers)
            .entry(name.to_owned())
            .or_insert_with(|| Arc::new(ProviderStats::new(self.workers)))
            .clone()
    }

    /// Drops the counters that nobody can add to any more: those of routes, pools and providers that no configuration in use has.
    pub(crate) fn prune(&self) {
        fn in_use<K: Ord, V>(counters: &Mutex<BTreeMap<K, Arc<V>>>) {
            locked(counters).retain(|_, held| Arc::strong_count(held) > 1);
        }
        in_use(&self.traffic);
        in_use(&self.attempts);
        in_use(&self.limits);
        in_use(&self.providers);
    }

    pub(crate) fn all_traffic(&self) -> Vec<((String, String), Arc<Traffic>)> {
        locked(&self.traffic)
            .iter()
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect()
    }

    pub(crate) fn all_attempts(&self) -> Vec<(String, Arc<Attempts>)> {
        locked(&self.attempts)
            .iter()
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect()
    }

    pub(crate) fn all_limits(&self) -> Vec<(String, Arc<Limits>)> {
        locked(&self.limits)
            .iter()
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_are_added_and_names_survive() {
        let registry = Registry::new(2);
        let took = Duration::from_millis(1);
        for worker in 0..2 {
            let t = registry.traffic("r", "u");
            t.begin(worker);
            t.end(
                worker,
                Ended {
                    status: 503,
                    grpc: Some(14),
                    error: true,
                    took,
                },
            );
        }
        let kept = registry.traffic("r", "u");
        kept.begin(0);
        drop(registry.traffic("gone", "u"));
        registry.prune();
        let names: Vec<_> = registry.all_traffic().into_iter().map(|(k, _)| k).collect();
        assert_eq!(names, [("r".to_owned(), "u".to_owned())]);
        let total = registry.traffic("r", "u").total();
        assert_eq!((total.requests, total.errors, total.inflight), (2, 2, 1));
        assert_eq!(total.codes, BTreeMap::from([(503, 2)]));
        assert_eq!(total.grpc, BTreeMap::from([(14, 2)]));
    }
}
