//! Limits of one route, for everybody together or for each key.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tidegate_core::{Algorithm, Decision, Gate, KeyedLimiter, Permit, Rate, RateLimiter, Time};
use tidegate_route::{Concurrency, LimitAlgorithm, RateLimit};

/// Independent parts of the keyed table: two workers rarely want the same one at once.
const SHARDS: usize = 64;

/// A route's `rate_limit`.
#[derive(Debug)]
pub(crate) enum RouteRate {
    Shared(RateLimiter),
    Keyed(KeyedLimiter),
}

impl RouteRate {
    pub(crate) fn new(limit: &RateLimit) -> Self {
        let rate = Rate {
            requests: limit.requests,
            per: limit.per,
            burst: Some(limit.burst),
            algorithm: match limit.algorithm {
                LimitAlgorithm::Gcra => Algorithm::Gcra,
                LimitAlgorithm::FixedWindow => Algorithm::FixedWindow,
            },
        };
        if limit.key.is_shared() {
            Self::Shared(RateLimiter::new(rate))
        } else {
            Self::Keyed(KeyedLimiter::new(rate, limit.max_keys as usize, secret()))
        }
    }

    /// Whether one more request is let in.
    pub(crate) fn check(&self, key: u64, now: Time) -> Decision {
        match self {
            Self::Shared(limiter) => limiter.check(1, now),
            Self::Keyed(limiter) => limiter.check(&key.to_le_bytes(), 1, now),
        }
    }
}

/// A seed that callers can't know.
pub(crate) fn secret() -> u64 {
    std::hash::BuildHasher::hash_one(&std::collections::hash_map::RandomState::new(), 0)
}

/// A route's `concurrency`.
#[derive(Debug)]
pub(crate) enum RouteConcurrency {
    Shared(Arc<Gate>),
    Keyed(Arc<KeyedGate>),
}

/// A request that is let in; it leaves when dropped.
#[derive(Debug)]
pub(crate) enum Busy {
    Shared {
        _permit: Permit,
    },
    Keyed {
        gate: Arc<KeyedGate>,
        key: u64,
    },
    /// More keys are in use than are remembered: let in uncounted rather than refused for others' keys.
    Uncounted,
}

/// So many at once for each key. Exact across workers.
#[derive(Debug)]
pub(crate) struct KeyedGate {
    max: u32,
    per_shard: usize,
    shards: Box<[Mutex<HashMap<u64, u32>>]>,
}

impl RouteConcurrency {
    pub(crate) fn new(limit: &Concurrency) -> Self {
        if limit.key.is_shared() {
            return Self::Shared(Gate::new(limit.requests.into()));
        }
        Self::Keyed(Arc::new(KeyedGate {
            max: limit.requests,
            per_shard: (limit.max_keys as usize).div_ceil(SHARDS).max(1),
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
        }))
    }

    pub(crate) fn try_enter(&self, key: u64) -> Option<Busy> {
        match self {
            Self::Shared(gate) => gate
                .try_acquire()
                .map(|permit| Busy::Shared { _permit: permit }),
            Self::Keyed(gate) => gate.try_enter(key),
        }
    }
}

impl KeyedGate {
    fn shard(&self, key: u64) -> std::sync::MutexGuard<'_, HashMap<u64, u32>> {
        self.shards[(key >> 32) as usize % SHARDS]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn try_enter(self: &Arc<Self>, key: u64) -> Option<Busy> {
        let mut shard = self.shard(key);
        if shard.len() >= self.per_shard && !shard.contains_key(&key) {
            return Some(Busy::Uncounted);
        }
        let held = shard.entry(key).or_insert(0);
        if *held >= self.max {
            return None;
        }
        *held += 1;
        Some(Busy::Keyed {
            gate: self.clone(),
            key,
        })
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        if let Busy::Keyed { gate, key } = self {
            let mut shard = gate.shard(*key);
            if let Some(held) = shard.get_mut(key) {
                *held -= 1;
                if *held == 0 {
                    shard.remove(key);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_key_has_its_own_places_and_leaves_nothing_behind() {
        let gate = Arc::new(KeyedGate {
            max: 2,
            per_shard: 10,
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
        });
        let a = gate.try_enter(1).expect("first");
        let _b = gate.try_enter(1).expect("second");
        assert!(gate.try_enter(1).is_none());
        assert!(gate.try_enter(2).is_some());
        drop(a);
        assert!(gate.try_enter(1).is_some());
        assert!(!gate.shard(2).contains_key(&2));
    }
}
