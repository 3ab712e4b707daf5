//! One limiter a key, in a table that callers can't make grow.
//!
//! Sharded mutexes, each held for one look-up: with a table whose entries are evicted, key and state must change
//! together or a racing thread charges the wrong key; a lock of some 20 ns, met by another thread once in hundreds of
//! times, is what that costs.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::{Mutex, PoisonError};

use super::{Algorithm, Decision, Rate, gcra, window};
use crate::hash::{hash64, mix};
use crate::time::Time;

const SHARDS: usize = 64;
/// When a shard is full of keys in use, so many of them are looked at for the one to forget.
const LOOKED_AT: usize = 8;

/// A rate for each key, for at most `capacity` keys at a time. Exact over all threads.
///
/// A key that is as if never used takes no room in the end. When all the room is taken by keys in use, the one that has
/// used least of its limit (of a few looked at) is forgotten: it may start anew, and those near their limits stay held.
#[derive(Debug)]
pub struct KeyedLimiter {
    rule: Rule,
    seed: u64,
    per_shard: usize,
    shards: Box<[Mutex<Shard>]>,
}

#[derive(Clone, Copy, Debug)]
enum Rule {
    Gcra(gcra::Rule),
    Window(window::Rule),
}

impl Rule {
    fn decide(self, state: u64, cost: u32, now: Time) -> (Decision, Option<u64>) {
        match self {
            Rule::Gcra(rule) => rule.decide(state, cost, now),
            Rule::Window(rule) => rule.decide(state, cost, now),
        }
    }

    fn is_fresh(self, state: u64, now: Time) -> bool {
        match self {
            Rule::Gcra(_) => gcra::Rule::is_fresh(state, now),
            Rule::Window(rule) => rule.is_fresh(state, now),
        }
    }
}

/// Keys are hashes already.
#[derive(Default)]
struct AsIs(u64);

impl Hasher for AsIs {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        self.0 = hash64(bytes, self.0);
    }
    fn write_u64(&mut self, value: u64) {
        self.0 = value;
    }
}

type Shard = HashMap<u64, u64, BuildHasherDefault<AsIs>>;

impl KeyedLimiter {
    /// `rate` for each of at most about `capacity` keys (at least 64). `seed` should be secret where callers choose the
    /// keys: who knows it can make keys that share a limit.
    pub fn new(rate: Rate, capacity: usize, seed: u64) -> KeyedLimiter {
        let rule = match rate.algorithm {
            Algorithm::Gcra => Rule::Gcra(gcra::Rule::new(rate.requests, rate.per, rate.burst)),
            Algorithm::FixedWindow => Rule::Window(window::Rule::new(rate.requests, rate.per)),
        };
        let shards = (0..SHARDS).map(|_| Mutex::new(Shard::default())).collect();
        KeyedLimiter {
            rule,
            seed,
            per_shard: capacity.div_ceil(SHARDS).max(1),
            shards,
        }
    }

    /// Asks for `cost` at once on behalf of `key` (0: only looks). All or nothing.
    pub fn check(&self, key: &[u8], cost: u32, now: Time) -> Decision {
        let key = mix(hash64(key, self.seed) ^ self.seed);
        let mut shard = self.shards[(key >> 58) as usize % SHARDS]
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let full = shard.len() >= self.per_shard;
        match shard.entry(key) {
            Entry::Occupied(mut entry) => {
                let (decision, after) = self.rule.decide(*entry.get(), cost, now);
                if let Some(after) = after {
                    *entry.get_mut() = after;
                }
                decision
            }
            Entry::Vacant(entry) => {
                let (decision, after) = self.rule.decide(0, cost, now);
                if let Some(after) = after {
                    entry.insert(after);
                    if full {
                        self.make_room(&mut shard, key, now);
                    }
                }
                decision
            }
        }
    }

    /// Forgets unused keys, or the least used of a few.
    fn make_room(&self, shard: &mut Shard, newcomer: u64, now: Time) {
        // Looking through all of them costs as much as the shard is large: only where that made room the last time is
        // it likely to do so again, so first a look at a few.
        let fresh_nearby = shard
            .values()
            .take(LOOKED_AT)
            .any(|state| self.rule.is_fresh(*state, now));
        if fresh_nearby {
            shard.retain(|key, state| *key == newcomer || !self.rule.is_fresh(*state, now));
        }
        if shard.len() > self.per_shard {
            let least = shard
                .iter()
                .filter(|(key, _)| **key != newcomer)
                .take(LOOKED_AT)
                .min_by_key(|(_, state)| **state);
            if let Some(key) = least.map(|(key, _)| *key) {
                shard.remove(&key);
            }
        }
    }

    /// Keys in the table, unused ones not yet forgotten included.
    pub fn len(&self) -> usize {
        self.shards
            .iter()
            .map(|s| s.lock().unwrap_or_else(PoisonError::into_inner).len())
            .sum()
    }

    /// True if no key is in the table.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn limiter(capacity: usize) -> KeyedLimiter {
        KeyedLimiter::new(Rate::new(5, Duration::from_secs(1)), capacity, 42)
    }

    #[test]
    fn each_key_has_its_own_limit() {
        let limiter = limiter(1_000);
        let admitted = |key: &str| {
            (0..20)
                .filter(|_| limiter.check(key.as_bytes(), 1, Time::from_secs(1)).allowed)
                .count()
        };
        assert_eq!((admitted("a"), admitted("b"), admitted("a")), (5, 5, 0));
        assert_eq!(limiter.len(), 2);
    }

    #[test]
    fn the_table_does_not_grow_beyond_its_capacity() {
        let limiter = limiter(640);
        for i in 0..100_000u32 {
            limiter.check(&i.to_le_bytes(), 1, Time::from_secs(1));
        }
        assert!(limiter.len() <= 640, "{}", limiter.len());
    }

    #[test]
    fn unused_keys_make_room_without_a_loss() {
        let limiter = limiter(6_400);
        for i in 0..3_000u32 {
            limiter.check(&i.to_le_bytes(), 1, Time::from_secs(1));
        }
        for i in 0..20_000u32 {
            limiter.check(
                &(i + 1_000_000).to_le_bytes(),
                1,
                Time::from_secs(100 + u64::from(i)),
            );
        }
        assert!(limiter.len() <= 6_400);
    }

    #[test]
    fn a_flood_of_names_does_not_free_one_that_is_at_its_limit() {
        let limiter = KeyedLimiter::new(Rate::new(100, Duration::from_secs(1)), 640, 42);
        let abuser = b"abuser";
        while limiter.check(abuser, 1, Time::from_secs(1)).allowed {}
        for i in 0..50_000u32 {
            limiter.check(&i.to_le_bytes(), 1, Time::from_secs(1));
        }
        assert!(!limiter.check(abuser, 1, Time::from_secs(1)).allowed);
    }

    #[test]
    fn looking_at_unknown_keys_leaves_nothing_behind() {
        let limiter = limiter(100);
        assert_eq!(limiter.check(b"x", 0, Time::ZERO).remaining, 5);
        assert!(limiter.is_empty());
    }

    #[test]
    fn fixed_windows_by_key() {
        let rate = Rate {
            algorithm: Algorithm::FixedWindow,
            ..Rate::new(2, Duration::from_secs(60))
        };
        let limiter = KeyedLimiter::new(rate, 100, 1);
        assert_eq!(
            (0..5)
                .filter(|_| limiter.check(b"k", 1, Time::from_secs(59)).allowed)
                .count(),
            2
        );
        assert_eq!(
            (0..5)
                .filter(|_| limiter.check(b"k", 1, Time::from_secs(60)).allowed)
                .count(),
            2
        );
    }

    #[test]
    fn exact_across_threads() {
        let limiter = KeyedLimiter::new(Rate::new(100, Duration::from_secs(1)), 6_400, 7);
        let admitted: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        (0..20_000u32)
                            .filter(|i| {
                                limiter
                                    .check(&(i % 10).to_le_bytes(), 1, Time::from_secs(1))
                                    .allowed
                            })
                            .count()
                    })
                })
                .collect();
            threads.into_iter().map(|t| t.join().unwrap()).sum()
        });
        assert_eq!(admitted, 1_000);
    }
}
