//! The task that connects the pools with the store.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tidegate_core::Time;
use tidegate_state::{Error, Event, Expect, Fence, Guard, Key, Store};
use tokio::sync::oneshot;

use super::exchange::{Applied, Exchange, Write, Written};
use super::record::{self, Fact};
use crate::clock::Clock;
use crate::identity::{Identity, KeyId};
use crate::probe::lease_name;
use crate::registry::Keys;
use crate::working::Working;

/// The longest time without a look at the pools.
const IDLE: Duration = Duration::from_secs(1);
/// Pause before a store that was away is asked again for the secret.
const AGAIN: Duration = Duration::from_millis(500);
/// Writes under way at a time.
const MOST_WRITES: usize = 64;

/// How sharing behaves.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sharing {
    /// No other process with other keys uses this store (the embedded file): entries of keys that the configuration does not
    /// have are removed at the start. In a shared store they may be another gateway's; those end by themselves.
    pub sole: bool,
}

/// The names of keys for this store: its secret, made if there is none. Ask before the first [`Keys::apply`]; when the store is
/// away, begin with [`Identity::random`]: the task adopts the store's later.
///
/// # Errors
/// The store's.
pub async fn identity(store: &dyn Store) -> Result<Identity, Error> {
    propose(store, &Identity::random()).await
}

async fn propose(store: &dyn Store, ours: &Identity) -> Result<Identity, Error> {
    let key = Key::of(&["keys", "secret"])?;
    loop {
        if let Some(entry) = store.get(&key).await? {
            return match <[u8; Identity::LENGTH]>::try_from(&*entry.value) {
                Ok(secret) => Ok(Identity::new(secret)),
                Err(_) => Err(Error::Invalid(
                    "keys/secret is no secret of ours".to_owned(),
                )),
            };
        }
        let value = bytes::Bytes::copy_from_slice(ours.secret());
        match store.put(&key, value, None, &Guard::absent()).await {
            Ok(_) => return Ok(ours.clone()),
            // Another replica was faster.
            Err(Error::Conflict { .. }) => {}
            Err(error) => return Err(error),
        }
    }
}

/// The exchange with its pools, without the store: what the task and its tests have in common.
pub(super) struct Sharer {
    keys: Arc<Keys>,
    exchange: Exchange,
    generation: Option<u64>,
    ours: BTreeSet<KeyId>,
}

impl Sharer {
    pub(super) fn new(keys: Arc<Keys>) -> Sharer {
        Sharer {
            exchange: Exchange::new(keys.replica()),
            keys,
            generation: None,
            ours: BTreeSet::new(),
        }
    }

    /// Takes in what happened here. Returns when to come again, and whether keys were added of which the store may know.
    pub(super) fn turn(&mut self, now: Time) -> (Time, bool) {
        let mut added = false;
        let generation = self.keys.generation();
        if self.generation != Some(generation) {
            self.generation = Some(generation);
            let ours = self.keys.key_ids();
            added = !ours.is_subset(&self.ours);
            self.exchange.retain(|key| ours.contains(key), now);
            self.ours = ours;
        }
        let next = self.keys.turn(now);
        for change in self.keys.outbox().drain() {
            if !self.ours.contains(&change.slot.key) {
                continue;
            }
            let from = change.from.clone();
            if let Some(applied) = self.exchange.local(change) {
                self.apply(applied, from.as_deref(), now);
            }
        }
        (next.min(now + IDLE), added)
    }

    fn apply(&self, applied: Applied, but: Option<&str>, now: Time) {
        match applied.fact {
            Fact::Out { until, note } => self.keys.hold(&applied.slot, until, &note, but, now),
            Fact::Back(how) => self.keys.release(&applied.slot, &how, but, now),
        }
    }

    pub(super) fn event(&mut self, event: Event, now: Time) {
        // What was found out here must not be overtaken by what was found out elsewhere before.
        self.turn(now);
        let ours = &self.ours;
        let applied = self.exchange.remote(event, |key| ours.contains(key), now);
        for applied in applied {
            self.apply(applied, None, now);
        }
    }

    /// Entries of keys that nobody has are to go.
    pub(super) fn clean(&mut self, event: &Event, now: Time) {
        let Event::Resync(entries) = event else {
            return;
        };
        for (key, entry) in entries {
            if record::parse(key, entry).is_none_or(|(slot, _)| !self.ours.contains(&slot.key)) {
                self.exchange.doom(key.clone(), now);
            }
        }
    }

    pub(super) fn exchange(&mut self) -> &mut Exchange {
        &mut self.exchange
    }
}

pub(super) async fn write(store: &dyn Store, write: &Write) -> Written {
    let mut guard = write.guard.clone();
    if let (Some(epoch), Ok(lease)) = (write.epoch, lease_name()) {
        guard.fence = Some(Fence {
            lease,
            epoch: tidegate_state::Epoch(epoch),
        });
    }
    let value = bytes::Bytes::copy_from_slice(&write.value);
    match store.put(&write.key, value, Some(write.ttl), &guard).await {
        Ok(version) => Written::Done(version),
        Err(Error::Conflict { current, .. }) => {
            tracing::debug!(key = %write.key, ?current, "somebody was faster");
            Written::Conflict
        }
        Err(Error::Fenced { .. }) => Written::Fenced,
        Err(error) => {
            tracing::debug!(key = %write.key, %error, "not told");
            Written::Away
        }
    }
}

pub(super) async fn delete(store: &dyn Store, key: &Key) -> bool {
    let anything = Guard {
        expect: Expect::Any,
        fence: None,
    };
    store.delete(key, &anything).await.is_ok()
}

/// Shares the health of keys through a store until it is dropped. One task a process; it also runs the pools' clocks
/// ([`Keys::turn`]), store or not.
pub async fn share(
    keys: Arc<Keys>,
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    options: Sharing,
) {
    let mut sharer = Sharer::new(keys.clone());
    adopt(&mut sharer, &keys, &*store, &*clock).await;
    let Ok(prefix) = record::prefix() else { return };
    let mut watch = store.watch(&prefix);
    let mut clean = options.sole;
    let mut writing = Working::default();
    let mut removing = Working::default();
    let mut deleting: BTreeSet<Key> = BTreeSet::new();
    let mut waiting = Vec::new();
    loop {
        let now = clock.now();
        waiting.append(&mut keys.outbox().waiting());
        let (mut due, added) = sharer.turn(now);
        if added {
            // What the store knows of them comes with a new listing.
            watch = store.watch(&prefix);
        }
        if writing.len() + removing.len() < MOST_WRITES {
            for pending in sharer.exchange().writes(now) {
                let (store, what) = (store.clone(), pending.clone());
                writing.begin(pending, async move { write(&*store, &what).await });
            }
            for key in sharer.exchange().deletions(now) {
                if deleting.insert(key.clone()) {
                    let (store, what) = (store.clone(), key.clone());
                    removing.begin(key, async move { delete(&*store, &what).await });
                }
            }
        }
        if sharer.exchange().has_work() {
            due = due.min(now + Duration::from_millis(100));
        }
        if sharer.exchange().is_settled() {
            tell_all(&mut waiting);
        }
        tokio::select! {
            event = watch.next() => {
                let now = clock.now();
                if std::mem::take(&mut clean) {
                    sharer.turn(now);
                    sharer.clean(&event, now);
                }
                sharer.event(event, now);
            }
            () = keys.outbox().changed() => {}
            Some((pending, result)) = writing.next() => {
                // One that panicked may have been done or not, as one that was not answered.
                let result = result.unwrap_or(Written::Away);
                sharer.exchange().written(&pending, result, clock.now());
                if result == Written::Fenced {
                    watch = store.watch(&prefix);
                }
            }
            Some((key, done)) = removing.next() => {
                deleting.remove(&key);
                sharer.exchange().deleted(&key, done == Some(true), clock.now());
            }
            () = tokio::time::sleep(now.until(due)) => {}
        }
    }
}

/// Those that waited need not any more. One that is gone does not matter.
fn tell_all(waiting: &mut Vec<oneshot::Sender<()>>) {
    for told in waiting.drain(..) {
        let _ = told.send(());
    }
}

/// Gets the store's secret, and goes on without it until then.
async fn adopt(sharer: &mut Sharer, keys: &Keys, store: &dyn Store, clock: &dyn Clock) {
    let mut waiting = Vec::new();
    loop {
        let ours = keys.identity();
        let asking = propose(store, &ours);
        tokio::pin!(asking);
        let answer = loop {
            let now = clock.now();
            waiting.append(&mut keys.outbox().waiting());
            let (due, _) = sharer.turn(now);
            if sharer.exchange().is_settled() {
                tell_all(&mut waiting);
            }
            tokio::select! {
                answer = &mut asking => break answer,
                () = keys.outbox().changed() => {}
                () = tokio::time::sleep(now.until(due)) => {}
            }
        };
        match answer {
            Ok(theirs) => {
                keys.outbox().wait_on(waiting);
                return keys.adopt(theirs, clock.now());
            }
            Err(error) => tracing::debug!(%error, "the store's secret is not known yet"),
        }
        tokio::time::sleep(AGAIN).await;
    }
}
