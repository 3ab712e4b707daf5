//! How replicas come to agree: each has a copy of what the store says, and what it found out itself and has not told yet.
//! No I/O in here: the task brings events in and takes writes out, so that a test can cut, delay and reorder everything.
//!
//! All writes are compare-and-set, so the store gives each slot one order, which is everybody's. Where two did not know of
//! each other (one was cut off), the rules are:
//!
//! - two that say *out*: the later end counts, a shorter one is not written;
//! - *out* against *back*: the one that was seen last counts, both told as "so long ago", never by clocks;
//! - an entry that is gone (its time is over, somebody removed the key elsewhere) is not *back*: whoever still knows the key
//!   as out writes it again.

use std::collections::BTreeMap;
use std::time::Duration;

use tidegate_core::Time;
use tidegate_state::{Entry, Event, Guard, Key, Version};

use super::record::{self, BACK, Fact, Record};
use crate::identity::KeyId;
use crate::outbox::{Change, Return, Slot, What};

/// Pause before a write is tried again that the store did not take.
const AGAIN: Duration = Duration::from_millis(100);

/// Two ends nearer than this are one, told by different clocks.
const SAME: Duration = Duration::from_secs(1);

/// What is known of a slot.
#[derive(Clone, Debug)]
struct Known {
    fact: Fact,
    /// When it was seen, by this clock.
    at: Time,
    /// Of the entry in the store; `None`: there is none.
    version: Option<Version>,
    /// Not told yet.
    dirty: bool,
    /// It took the place of a return that was not told either, which was then.
    returned: Option<Time>,
    /// Counts changes, so that a write that is under way does not clean what came after it.
    change: u64,
    /// A write is under way.
    writing: bool,
    not_before: Time,
}

impl Known {
    fn is_over(&self, now: Time) -> bool {
        match &self.fact {
            Fact::Out { until, .. } => *until <= now,
            Fact::Back(_) => self.at + BACK <= now,
        }
    }
}

/// A write that should be done.
#[derive(Clone, Debug)]
pub(crate) struct Write {
    pub(crate) slot: Slot,
    pub(crate) key: Key,
    pub(crate) value: Vec<u8>,
    pub(crate) ttl: Duration,
    pub(crate) guard: Guard,
    /// Of the lease under which a probe found what is told.
    pub(crate) epoch: Option<u64>,
    change: u64,
}

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Written {
    Done(Version),
    /// Somebody was faster: what is there comes with the next event.
    Conflict,
    /// The prober's lease was lost: the finding is not ours to tell.
    Fenced,
    /// The store is away.
    Away,
}

/// What the pools must be told.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Applied {
    pub(crate) slot: Slot,
    pub(crate) fact: Fact,
}

/// One replica's side.
#[derive(Debug)]
pub(crate) struct Exchange {
    me: String,
    known: BTreeMap<Slot, Known>,
    /// Entries of keys that are gone.
    doomed: BTreeMap<Key, Time>,
    changes: u64,
}

impl Exchange {
    pub(crate) fn new(me: &str) -> Exchange {
        Exchange {
            me: me.to_owned(),
            known: BTreeMap::new(),
            doomed: BTreeMap::new(),
            changes: 0,
        }
    }

    /// Something was found out here. Returns what other pools of this process must hear.
    pub(crate) fn local(&mut self, change: Change) -> Option<Applied> {
        let fact = match change.what {
            What::Out { until, note } => Fact::Out { until, note },
            What::Back(how) => Fact::Back(how),
        };
        self.changes += 1;
        let id = self.changes;
        if let Some(known) = self.known.get_mut(&change.slot) {
            match (&known.fact, &fact) {
                (Fact::Out { until: old, .. }, Fact::Out { until: new, .. }) if new <= old => {
                    return None;
                }
                (Fact::Back(_), Fact::Back(_)) => return None,
                _ => {}
            }
            known.returned = match (&known.fact, known.dirty) {
                (Fact::Back(_), true) => Some(known.at),
                _ => known.returned.filter(|_| known.dirty),
            };
            known.fact = fact.clone();
            known.at = change.at;
            known.dirty = true;
            known.change = id;
        } else {
            // A slot of which nobody was told that it is out: nobody needs to hear that it is back.
            if matches!(fact, Fact::Back(_)) {
                return None;
            }
            let known = Known {
                fact: fact.clone(),
                at: change.at,
                version: None,
                dirty: true,
                returned: None,
                change: id,
                writing: false,
                not_before: Time::ZERO,
            };
            self.known.insert(change.slot.clone(), known);
        }
        Some(Applied {
            slot: change.slot,
            fact,
        })
    }

    /// An event of the store's. `wanted`: whether a key is ours.
    pub(crate) fn remote(
        &mut self,
        event: Event,
        wanted: impl Fn(&KeyId) -> bool,
        now: Time,
    ) -> Vec<Applied> {
        match event {
            Event::Put(key, entry) => self.entry(&key, &entry, &wanted, now),
            Event::Delete(key, _) => {
                self.gone(|slot| record::path(slot).ok().as_ref() == Some(&key), now);
                Vec::new()
            }
            Event::Resync(entries) => {
                let there: std::collections::BTreeSet<&Key> =
                    entries.iter().map(|(key, _)| key).collect();
                self.gone(
                    |slot| record::path(slot).is_ok_and(|path| !there.contains(&path)),
                    now,
                );
                entries
                    .iter()
                    .flat_map(|(key, entry)| self.entry(key, entry, &wanted, now))
                    .collect()
            }
        }
    }

    fn gone(&mut self, which: impl Fn(&Slot) -> bool, now: Time) {
        self.known.retain(|slot, known| {
            if known.version.is_none() || !which(slot) {
                return true;
            }
            known.version = None;
            if known.is_over(now) || matches!(known.fact, Fact::Back(_)) {
                // A finding that was not told yet still will be.
                return known.dirty;
            }
            known.dirty = true;
            true
        });
    }

    fn entry(
        &mut self,
        key: &Key,
        entry: &Entry,
        wanted: &impl Fn(&KeyId) -> bool,
        now: Time,
    ) -> Vec<Applied> {
        let Some((slot, record)) = record::parse(key, entry) else {
            return Vec::new();
        };
        if !wanted(&slot.key) {
            return Vec::new();
        }
        let (fact, at) = record.read(entry.expires_in, &self.me, now);
        self.changes += 1;
        let change = self.changes;
        let Some(known) = self.known.get_mut(&slot) else {
            let known = Known {
                fact: fact.clone(),
                at,
                version: Some(entry.version),
                dirty: false,
                returned: None,
                change,
                writing: false,
                not_before: Time::ZERO,
            };
            self.known.insert(slot.clone(), known);
            return vec![Applied { slot, fact }];
        };
        if known.version >= Some(entry.version) {
            return Vec::new();
        }
        known.version = Some(entry.version);
        if known.dirty {
            let ours_counts = match (&known.fact, &fact) {
                (Fact::Out { until: ours, .. }, Fact::Out { until: theirs, .. }) => ours > theirs,
                (Fact::Back(_), Fact::Back(_)) => false,
                _ => known.at > at,
            };
            if ours_counts {
                return Vec::new();
            }
        }
        // Nobody writes a shorter end over a longer one: it was back in between, and that was overwritten before it was seen
        // here.
        let was_back = match (&known.fact, &fact) {
            (Fact::Out { until: old, .. }, Fact::Out { until: new, .. }) => *old > *new + SAME,
            _ => false,
        };
        (known.fact, known.at, known.dirty, known.change) = (fact.clone(), at, false, change);
        let back = Applied {
            slot: slot.clone(),
            fact: Fact::Back(Return {
                seen_by: Some(record.by.clone()),
                ..Return::default()
            }),
        };
        let mut applied = vec![Applied { slot, fact }];
        if was_back {
            applied.insert(0, back);
        }
        applied
    }

    /// Writes that are due. Each must be answered with [`Exchange::written`].
    pub(crate) fn writes(&mut self, now: Time) -> Vec<Write> {
        // What the store still has is kept until it is gone there: its version is wanted for the next write.
        self.known
            .retain(|_, known| known.writing || known.version.is_some() || !known.is_over(now));
        let mut writes = Vec::new();
        for (slot, known) in &mut self.known {
            if !known.dirty || known.writing || known.not_before > now {
                continue;
            }
            if let Fact::Out { until, .. } = &known.fact
                && *until <= now
                && known.version.is_some()
                && let Some(at) = known.returned.take()
            {
                // What the store has, and the others go by, is from before the return: that is still to be told.
                (known.fact, known.at) = (Fact::Back(Return::default()), at);
            }
            if known.is_over(now) {
                known.dirty = false;
                continue;
            }
            let record = Record::of(slot, &known.fact, known.at, &self.me, now);
            let (Ok(key), Ok(value)) = (record::path(slot), serde_json::to_vec(&record)) else {
                known.dirty = false;
                continue;
            };
            known.writing = true;
            writes.push(Write {
                slot: slot.clone(),
                key,
                value,
                ttl: record.ttl(),
                guard: known.version.map_or_else(Guard::absent, Guard::version),
                epoch: record.epoch,
                change: known.change,
            });
        }
        writes
    }

    /// What became of a write.
    pub(crate) fn written(&mut self, write: &Write, result: Written, now: Time) {
        let Some(known) = self.known.get_mut(&write.slot) else {
            // Removed while the write was under way.
            if matches!(result, Written::Done(_) | Written::Away) {
                self.doomed.insert(write.key.clone(), now);
            }
            return;
        };
        known.writing = false;
        match result {
            Written::Done(version) => {
                // An event may have told of a later one by now.
                known.version = known.version.max(Some(version));
                if known.change == write.change {
                    known.dirty = false;
                }
            }
            // What the store says counts; it comes with the next listing.
            Written::Fenced => {
                self.known.remove(&write.slot);
            }
            Written::Conflict | Written::Away => known.not_before = now + AGAIN,
        }
    }

    /// Only these keys are ours. What the store has of the others is removed.
    pub(crate) fn retain(&mut self, wanted: impl Fn(&KeyId) -> bool, now: Time) {
        let doomed = &mut self.doomed;
        self.known.retain(|slot, known| {
            let keep = wanted(&slot.key);
            if !keep && (known.version.is_some() || known.writing) {
                doomed.extend(record::path(slot).ok().map(|key| (key, now)));
            }
            keep
        });
        // Back in the configuration before its entry was removed.
        doomed.retain(|key, _| {
            let id = key.as_str().split('/').nth(2).and_then(KeyId::parse);
            !id.is_some_and(|id| wanted(&id))
        });
    }

    /// An entry of a key that nobody has is to be removed.
    pub(crate) fn doom(&mut self, key: Key, now: Time) {
        self.doomed.insert(key, now);
    }

    /// Entries that should be deleted now.
    pub(crate) fn deletions(&self, now: Time) -> Vec<Key> {
        self.doomed
            .iter()
            .filter(|(_, at)| **at <= now)
            .map(|(key, _)| key.clone())
            .collect()
    }

    pub(crate) fn deleted(&mut self, key: &Key, done: bool, now: Time) {
        if done {
            self.doomed.remove(key);
        } else if let Some(at) = self.doomed.get_mut(key) {
            *at = now + AGAIN;
        }
    }

    /// True when all is told, as far as it is known.
    pub(crate) fn is_settled(&self) -> bool {
        self.doomed.is_empty()
            && !self
                .known
                .values()
                .any(|known| known.dirty || known.writing)
    }

    /// True while something waits to be told.
    pub(crate) fn has_work(&self) -> bool {
        !self.doomed.is_empty()
            || self
                .known
                .values()
                .any(|known| known.dirty && !known.writing)
    }
}
