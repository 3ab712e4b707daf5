//! All providers of the configuration.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use tidegate_core::{MemberState, Scope, Time, hash};

use crate::identity::{Identity, KeyId};
use crate::key::Fingerprint;
use crate::notes::Note;
use crate::outbox::{Outbox, Return, Slot};
use crate::provider::Provider;
use crate::settings::Settings;

/// Most events that wait to be taken.
const MOST_EVENTS: usize = 4096;

/// A change of a key's state, for people.
#[derive(Clone, Debug, PartialEq)]
pub struct KeyEvent {
    /// When.
    pub at: Time,
    /// The provider.
    pub provider: Arc<str>,
    /// The key.
    pub fingerprint: Fingerprint,
    /// The model, empty for all.
    pub scope: Scope,
    /// State before.
    pub from: MemberState,
    /// State after.
    pub to: MemberState,
    /// Why, in words.
    pub cause: String,
}

/// The providers, by name. One a process; shared by workers, the sharing task and the prober.
#[derive(Debug)]
pub struct Keys {
    replica: Arc<str>,
    identity: ArcSwap<Identity>,
    providers: ArcSwap<BTreeMap<Arc<str>, Arc<Provider>>>,
    outbox: Arc<Outbox>,
    events: Mutex<VecDeque<KeyEvent>>,
    /// One change of the configuration or of names at a time.
    changing: Mutex<()>,
    /// Counts changes of the set of keys.
    generation: AtomicU64,
}

impl Keys {
    /// No providers yet. `replica` names this process to people (`eu-1`), in causes that others see.
    pub fn new(replica: &str, identity: Identity) -> Keys {
        Keys {
            replica: replica.into(),
            identity: ArcSwap::from_pointee(identity),
            providers: ArcSwap::default(),
            outbox: Arc::default(),
            events: Mutex::default(),
            changing: Mutex::default(),
            generation: AtomicU64::new(0),
        }
    }

    /// Takes over a configuration. Providers and keys that stay keep their health, sessions and counts.
    pub fn apply(&self, settings: Vec<Settings>, now: Time) {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let identity = self.identity.load();
        let old = self.providers.load();
        let mut providers = BTreeMap::new();
        for section in settings {
            let name = section.name.clone();
            let provider = match old.get(&name) {
                Some(provider) => {
                    provider.update(section, &identity, now);
                    provider.clone()
                }
                None => {
                    let seed = hash::hash64(name.as_bytes(), now.0);
                    let provider =
                        Provider::new(section, &identity, self.outbox.clone(), seed, now);
                    self.copy_health(&old, &provider, now);
                    Arc::new(provider)
                }
            };
            providers.insert(name, provider);
        }
        self.providers.store(Arc::new(providers));
        self.generation.fetch_add(1, Relaxed);
        self.outbox.nudge();
    }

    /// A key that another provider has already is as healthy here as there.
    fn copy_health(&self, known: &BTreeMap<Arc<str>, Arc<Provider>>, new: &Provider, now: Time) {
        for ((key, scope), note) in known.values().flat_map(|p| p.notes.all()) {
            if let Some(until) = note.until.filter(|until| *until > now) {
                new.hold(&Slot { key, scope }, until, note, now);
            }
        }
    }

    /// What keys are named with.
    pub fn identity(&self) -> Arc<Identity> {
        self.identity.load_full()
    }

    /// Names all keys anew, when a store turns out to have a secret of its own.
    pub fn adopt(&self, identity: Identity, now: Time) {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let old = self.identity.load_full();
        if *old == identity {
            return;
        }
        // What happened under the old names is told first.
        self.turn(now);
        for provider in self.providers.load().values() {
            provider.rename(&old, &identity, now);
        }
        self.identity.store(Arc::new(identity));
        self.generation.fetch_add(1, Relaxed);
        self.outbox.nudge();
    }

    /// This process, for people.
    pub fn replica(&self) -> &Arc<str> {
        &self.replica
    }

    /// A provider by name.
    pub fn provider(&self, name: &str) -> Option<Arc<Provider>> {
        self.providers.load().get(name).cloned()
    }

    /// All of them, by name.
    pub fn providers(&self) -> Vec<Arc<Provider>> {
        self.providers.load().values().cloned().collect()
    }

    /// Takes the events since the last call, oldest first.
    pub fn drain_events(&self) -> Vec<KeyEvent> {
        let mut events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        events.drain(..).collect()
    }

    /// Waits until the store has what was found out here so far, through the task that [`share`](crate::share::share) is. That
    /// takes as long as the store is away: bound it.
    pub async fn told(&self) {
        self.outbox.told().await;
    }

    pub(crate) fn outbox(&self) -> &Outbox {
        &self.outbox
    }

    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Relaxed)
    }

    pub(crate) fn key_ids(&self) -> BTreeSet<KeyId> {
        self.providers
            .load()
            .values()
            .flat_map(|p| p.key_ids())
            .collect()
    }

    /// Runs every provider's clock and gathers what happened. Returns when to come again.
    pub fn turn(&self, now: Time) -> Time {
        let mut next = Time::NEVER;
        for provider in self.providers.load().values() {
            let (due, events) = provider.turn(now);
            next = next.min(due);
            if events.is_empty() {
                continue;
            }
            let members = provider.pool().members();
            let told = events.into_iter().filter_map(|event| {
                let member = members.iter().find(|m| m.key() == event.key)?;
                Some(KeyEvent {
                    at: event.at,
                    provider: provider.name().clone(),
                    fingerprint: member.payload().fingerprint.clone(),
                    scope: event.scope,
                    from: event.from,
                    to: event.to,
                    cause: event.cause.to_string(),
                })
            });
            let mut waiting = self.events.lock().unwrap_or_else(PoisonError::into_inner);
            for event in told {
                if waiting.len() >= MOST_EVENTS {
                    waiting.pop_front();
                }
                tracing::info!(
                    provider = %event.provider, key = %event.fingerprint, model = %event.scope,
                    from = %event.from, to = %event.to, cause = %event.cause, "key state"
                );
                waiting.push_back(event);
            }
        }
        next
    }

    fn others(&self, but: Option<&str>) -> Vec<Arc<Provider>> {
        let mut providers = self.providers();
        providers.retain(|p| Some(&**p.name()) != but);
        providers
    }

    /// A key is out for every provider that has it.
    pub(crate) fn hold(&self, slot: &Slot, until: Time, note: &Note, but: Option<&str>, now: Time) {
        for provider in self.others(but) {
            provider.hold(slot, until, note.clone(), now);
        }
    }

    /// A key works for every provider that has it.
    pub(crate) fn release(&self, slot: &Slot, how: &Return, but: Option<&str>, now: Time) {
        for provider in self.others(but) {
            provider.release(slot, how, now);
        }
    }
}
