//! The rules of a store, without I/O or clock: one operation after the other, `now` comes in.
//!
//! The memory backend is this behind a lock, the embedded file is this with its changes written down. Versions and
//! epochs follow the clock where they can (the next one is the last one plus one, or the time if that is more): so
//! they grow even when somebody deletes the state folder under processes that remember higher ones.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::time::Duration;

use bytes::Bytes;

use crate::error::Error;
use crate::key::{Key, Prefix};
use crate::operation::{Answer, Operation};
use crate::store::{Add, Entry, Epoch, Expect, Fence, Guard, LeaseView, Listing, Version};

/// Largest value of a counter: the largest integer up to which Redis' scripts are exact.
pub(crate) const LARGEST_COUNT: u64 = 1 << 53;

/// An entry with the time at which it ends, in milliseconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stored {
    pub(crate) value: Bytes,
    pub(crate) version: Version,
    pub(crate) ends: Option<u64>,
}

/// A lease; it stays when nobody holds it, for its epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Holding {
    pub(crate) epoch: Epoch,
    /// `None`: released.
    pub(crate) holder: Option<String>,
    pub(crate) ends: u64,
}

/// A counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Counter {
    pub(crate) value: u64,
    pub(crate) ends: Option<u64>,
}

/// What an operation changed: to be written down, and to be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// `None`: deleted. The version is the store's last one from now on.
    Entry(Key, Version, Option<Stored>),
    Lease(Key, Holding),
    /// `None`: over.
    Counter(Key, Option<Counter>),
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    Entry(Key),
    Counter(Key),
}

/// The state of a store.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Ledger {
    version: u64,
    entries: BTreeMap<Key, Stored>,
    leases: BTreeMap<Key, Holding>,
    counters: BTreeMap<Key, Counter>,
    /// What ends, by when.
    due: BTreeSet<(u64, Due)>,
}

impl Ledger {
    /// Puts a change back that was written down.
    pub(crate) fn restore(&mut self, effect: Effect) {
        match effect {
            Effect::Entry(key, version, entry) => {
                self.restore_version(version);
                self.set_entry(key, entry);
            }
            Effect::Lease(name, holding) => {
                self.leases.insert(name, holding);
            }
            Effect::Counter(key, counter) => self.set_counter(key, counter),
        }
    }

    /// Versions go on after this one.
    pub(crate) fn restore_version(&mut self, version: Version) {
        self.version = self.version.max(version.0);
    }

    /// When the next entry or counter ends.
    pub(crate) fn next_due(&self) -> Option<u64> {
        self.due.first().map(|(ends, _)| *ends)
    }

    /// Removes what has ended.
    pub(crate) fn expire(&mut self, now: u64, effects: &mut Vec<Effect>) {
        while self.next_due().is_some_and(|ends| ends <= now) {
            match self.due.pop_first() {
                Some((_, Due::Entry(key))) => {
                    self.entries.remove(&key);
                    let version = self.next_version(now);
                    effects.push(Effect::Entry(key, version, None));
                }
                Some((_, Due::Counter(key))) => {
                    self.counters.remove(&key);
                    effects.push(Effect::Counter(key, None));
                }
                None => {}
            }
        }
    }

    /// Does one operation. What it and the passing of time changed is added to `effects`, also when it is refused.
    ///
    /// # Errors
    /// The refusals of the trait's methods; nothing is changed by a refused operation.
    pub(crate) fn apply(
        &mut self,
        operation: Operation,
        now: u64,
        effects: &mut Vec<Effect>,
    ) -> Result<Answer, Error> {
        self.expire(now, effects);
        match operation {
            Operation::Get { key } => {
                let entry = self.entries.get(&key).map(|stored| stored.entry(now));
                Ok(Answer::Entry(entry))
            }
            Operation::List { prefix } => Ok(Answer::Listing(self.list(&prefix, now))),
            Operation::Put {
                key,
                value,
                ttl_ms,
                guard,
            } => {
                self.check(&key, &guard)?;
                let version = self.next_version(now);
                let stored = Stored {
                    value,
                    version,
                    ends: ttl_ms.map(|ttl| now.saturating_add(ttl)),
                };
                self.set_entry(key.clone(), Some(stored.clone()));
                effects.push(Effect::Entry(key, version, Some(stored)));
                Ok(Answer::Written(version))
            }
            Operation::Delete { key, guard } => {
                self.check(&key, &guard)?;
                let existed = self.entries.contains_key(&key);
                if existed {
                    self.set_entry(key.clone(), None);
                    let version = self.next_version(now);
                    effects.push(Effect::Entry(key, version, None));
                }
                Ok(Answer::Deleted(existed))
            }
            Operation::Acquire {
                name,
                holder,
                ttl_ms,
            } => self.acquire(name, holder, ttl_ms, now, effects),
            Operation::Renew {
                name,
                holder,
                epoch,
                ttl_ms,
            } => {
                let current = self.leases.get_mut(&name);
                match current {
                    Some(current)
                        if current.epoch == epoch && current.holder.as_ref() == Some(&holder) =>
                    {
                        current.ends = now.saturating_add(ttl_ms);
                        effects.push(Effect::Lease(name, current.clone()));
                        Ok(Answer::Renewed)
                    }
                    other => Err(Error::Fenced {
                        current: other.map(|current| current.epoch),
                        lease: name,
                        epoch,
                    }),
                }
            }
            Operation::Release {
                name,
                holder,
                epoch,
            } => {
                if let Some(current) = self.leases.get_mut(&name)
                    && current.epoch == epoch
                    && current.holder.as_ref() == Some(&holder)
                {
                    current.holder = None;
                    effects.push(Effect::Lease(name, current.clone()));
                }
                Ok(Answer::Released)
            }
            Operation::Lease { name } => Ok(Answer::Lease(self.leases.get(&name).map(|current| {
                LeaseView {
                    epoch: current.epoch,
                    held: current.holder_at(now),
                }
            }))),
            Operation::Add { adds } => self.add(&adds, now, effects).map(Answer::Added),
        }
    }

    fn list(&self, prefix: &Prefix, now: u64) -> Listing {
        let from = (Bound::Included(prefix.as_str()), Bound::Unbounded);
        let below = self
            .entries
            .range::<str, _>(from)
            .take_while(|(key, _)| prefix.contains(key));
        Listing {
            version: Version(self.version),
            entries: below
                .map(|(key, stored)| (key.clone(), stored.entry(now)))
                .collect(),
        }
    }

    fn check(&self, key: &Key, guard: &Guard) -> Result<(), Error> {
        if let Some(Fence { lease, epoch }) = &guard.fence {
            let current = self.leases.get(lease);
            if !current.is_some_and(|current| current.epoch == *epoch && current.holder.is_some()) {
                return Err(Error::Fenced {
                    lease: lease.clone(),
                    epoch: *epoch,
                    current: current.map(|current| current.epoch),
                });
            }
        }
        let current = self.entries.get(key).map(|stored| stored.version);
        let expected = match guard.expect {
            Expect::Any => true,
            Expect::Absent => current.is_none(),
            Expect::Version(version) => current == Some(version),
        };
        if expected {
            return Ok(());
        }
        Err(Error::Conflict {
            key: key.clone(),
            current,
        })
    }

    fn acquire(
        &mut self,
        name: Key,
        holder: String,
        ttl_ms: u64,
        now: u64,
        effects: &mut Vec<Effect>,
    ) -> Result<Answer, Error> {
        let current = self.leases.get(&name);
        let epoch = match current.and_then(|current| Some((current, current.holder_at(now)?))) {
            Some((current, (same, _))) if same == holder => current.epoch,
            Some((_, (other, remaining))) => {
                return Err(Error::Held {
                    lease: name,
                    holder: other,
                    remaining,
                });
            }
            None => Epoch(current.map_or(0, |current| current.epoch.0 + 1).max(now)),
        };
        let holding = Holding {
            epoch,
            holder: Some(holder),
            ends: now.saturating_add(ttl_ms),
        };
        self.leases.insert(name.clone(), holding.clone());
        effects.push(Effect::Lease(name, holding));
        Ok(Answer::Acquired(epoch))
    }

    fn add(
        &mut self,
        adds: &[Add],
        now: u64,
        effects: &mut Vec<Effect>,
    ) -> Result<Vec<u64>, Error> {
        // A counter may be named twice: the later addition sees the earlier one.
        let mut changed: BTreeMap<&Key, Counter> = BTreeMap::new();
        let mut values = Vec::with_capacity(adds.len());
        for add in adds {
            let known = changed
                .get(&add.key)
                .or_else(|| self.counters.get(&add.key));
            let counter = known.copied().unwrap_or_else(|| Counter {
                value: 0,
                ends: add.ttl.map(|ttl| now.saturating_add(whole_ms(ttl))),
            });
            let value = counter
                .value
                .saturating_add_signed(add.delta)
                .min(LARGEST_COUNT);
            if let Some(ceiling) = add.ceiling
                && add.delta > 0
                && counter.value.saturating_add_signed(add.delta) > ceiling
            {
                return Err(Error::Ceiling {
                    key: add.key.clone(),
                    value: self.counters.get(&add.key).map_or(0, |known| known.value),
                    ceiling,
                });
            }
            if add.delta != 0 {
                changed.insert(&add.key, Counter { value, ..counter });
            }
            values.push(value);
        }
        for (key, counter) in changed {
            self.set_counter(key.clone(), Some(counter));
            effects.push(Effect::Counter(key.clone(), Some(counter)));
        }
        Ok(values)
    }

    fn set_entry(&mut self, key: Key, entry: Option<Stored>) {
        let ends = entry.as_ref().and_then(|stored| stored.ends);
        let old = match entry {
            Some(stored) => self.entries.insert(key.clone(), stored),
            None => self.entries.remove(&key),
        };
        self.set_due(old.and_then(|old| old.ends), ends, Due::Entry(key));
    }

    fn set_counter(&mut self, key: Key, counter: Option<Counter>) {
        let ends = counter.and_then(|counter| counter.ends);
        let old = match counter {
            Some(counter) => self.counters.insert(key.clone(), counter),
            None => self.counters.remove(&key),
        };
        self.set_due(old.and_then(|old| old.ends), ends, Due::Counter(key));
    }

    fn set_due(&mut self, old: Option<u64>, new: Option<u64>, what: Due) {
        if old == new {
            return;
        }
        if let Some(old) = old {
            self.due.remove(&(old, what.clone()));
        }
        if let Some(new) = new {
            self.due.insert((new, what));
        }
    }

    fn next_version(&mut self, now: u64) -> Version {
        self.version = (self.version + 1).max(now.saturating_mul(1000));
        Version(self.version)
    }
}

impl Stored {
    pub(crate) fn entry(&self, now: u64) -> Entry {
        Entry {
            value: self.value.clone(),
            version: self.version,
            expires_in: self
                .ends
                .map(|ends| Duration::from_millis(ends.saturating_sub(now))),
        }
    }
}

impl Holding {
    /// Who holds it and for how long yet, unless it ran out.
    fn holder_at(&self, now: u64) -> Option<(String, Duration)> {
        let remaining = self.ends.checked_sub(now).filter(|left| *left > 0)?;
        Some((self.holder.clone()?, Duration::from_millis(remaining)))
    }
}

/// Whole milliseconds, rounded up.
pub(crate) fn whole_ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(number: u8) -> Key {
        Key::parse(&format!("k/{number}")).unwrap()
    }

    fn operation() -> impl Strategy<Value = Operation> {
        let ttl = || prop::option::of(1..200_u64);
        prop_oneof![
            (0..4_u8, ttl()).prop_map(|(at, ttl_ms)| Operation::Put {
                key: key(at),
                value: Bytes::from(vec![at]),
                ttl_ms,
                guard: Guard::NONE,
            }),
            (0..4_u8).prop_map(|at| Operation::Delete {
                key: key(at),
                guard: Guard::NONE,
            }),
            (0..2_u8, 0..3_u8, 1..200_u64).prop_map(|(at, holder, ttl_ms)| Operation::Acquire {
                name: key(at),
                holder: holder.to_string(),
                ttl_ms,
            }),
            (0..3_u8, -20..20_i64, prop::option::of(0..50_u64), ttl()).prop_map(
                |(at, delta, ceiling, ttl)| Operation::Add {
                    adds: vec![Add {
                        key: key(at),
                        delta,
                        ceiling,
                        ttl: ttl.map(Duration::from_millis),
                    }],
                }
            ),
        ]
    }

    proptest! {
        /// What is written down is all there is to know: after every operation, a ledger that was built from the
        /// effects alone is the same.
        #[test]
        fn the_effects_written_down_make_the_same_ledger(steps in prop::collection::vec((operation(), 0..100_u64), 1..60)) {
            let (mut ledger, mut restored, mut now) = (Ledger::default(), Ledger::default(), 1_000);
            for (operation, pause) in steps {
                now += pause;
                let mut effects = Vec::new();
                let _ = ledger.apply(operation, now, &mut effects);
                effects.into_iter().for_each(|effect| restored.restore(effect));
                prop_assert_eq!(&ledger, &restored);
            }
            ledger.expire(now + 1_000, &mut Vec::new());
            prop_assert!(ledger.due.is_empty());
            prop_assert!(ledger.entries.values().all(|entry| entry.ends.is_none()));
            prop_assert!(ledger.counters.values().all(|counter| counter.ends.is_none()));
        }

        /// Nothing is seen at or after its end, and everything is before.
        #[test]
        fn an_entry_is_there_until_its_end_and_not_longer(steps in prop::collection::vec((0..4_u8, 1..200_u64, 0..100_u64), 1..60)) {
            let (mut ledger, mut ends, mut now) = (Ledger::default(), BTreeMap::new(), 1_000);
            for (at, ttl, pause) in steps {
                now += pause;
                let answer = ledger.apply(Operation::List { prefix: Prefix::all() }, now, &mut Vec::new());
                let Ok(Answer::Listing(listing)) = answer else { panic!("{answer:?}") };
                let seen: Vec<Key> = listing.entries.into_iter().map(|(key, _)| key).collect();
                ends.retain(|_, end| *end > now);
                prop_assert_eq!(seen, ends.keys().cloned().collect::<Vec<_>>());
                let put = Operation::Put { key: key(at), value: Bytes::new(), ttl_ms: Some(ttl), guard: Guard::NONE };
                ledger.apply(put, now, &mut Vec::new()).unwrap();
                ends.insert(key(at), now + ttl);
            }
        }

        /// Whoever gets a lease gets it after the end of the one before, and with a higher epoch; also when the clock
        /// of a restarted store is behind.
        #[test]
        fn holdings_of_a_lease_do_not_overlap(steps in prop::collection::vec((0..3_u8, 1..200_u64, -50..150_i64), 1..80)) {
            let (mut ledger, mut now) = (Ledger::default(), 10_000_u64);
            let mut last: Option<(String, u64, Epoch)> = None;
            for (holder, ttl_ms, pause) in steps {
                now = now.saturating_add_signed(pause);
                let holder = holder.to_string();
                let acquire = Operation::Acquire { name: key(0), holder: holder.clone(), ttl_ms };
                match (ledger.apply(acquire, now, &mut Vec::new()), &last) {
                    (Ok(Answer::Acquired(epoch)), Some((who, ends, before))) => {
                        prop_assert!(*ends <= now || *who == holder);
                        let fits = if *ends <= now { epoch > *before } else { epoch == *before };
                        prop_assert!(fits);
                        last = Some((holder, now + ttl_ms, epoch));
                    }
                    (Ok(Answer::Acquired(epoch)), None) => last = Some((holder, now + ttl_ms, epoch)),
                    (Err(Error::Held { holder: who, remaining, .. }), Some((held_by, ends, _))) => {
                        prop_assert!(*ends > now && who == *held_by && who != holder);
                        prop_assert_eq!(remaining, Duration::from_millis(ends - now));
                    }
                    other => panic!("{other:?}"),
                }
            }
        }
    }
}
