//! The last thing that was held against a key, for people: the engine keeps times and states, not what a provider said.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tidegate_core::{Scope, Time};
use tidegate_llm::classify::Evidence;

use crate::identity::KeyId;
use crate::judge::{NoAnswer, class_name};

/// Most notes of one provider; the oldest ones make room.
const MOST: usize = 4096;

/// What was held against a key.
#[derive(Clone, Debug, PartialEq)]
pub struct Note {
    /// The outcome's class in one word (`limited`), or why there was no answer (`timeout`).
    pub class: String,
    /// Status of the answer, 0 if there was none.
    pub status: u16,
    /// The provider's own code.
    pub code: Option<String>,
    /// What it said, shortened and without secrets.
    pub excerpt: String,
    /// The model that was asked, by the provider's name.
    pub model: Option<Arc<str>>,
    /// When.
    pub at: Time,
    /// Until when the key was spared because of it: `None` if it was not, [`Time::NEVER`] without an end.
    pub until: Option<Time>,
    /// The replica that saw it; `None`: this one.
    pub seen_by: Option<String>,
}

impl Note {
    pub(crate) fn of_answer(evidence: &Evidence, model: &Scope, at: Time) -> Note {
        Note {
            class: class_name(&evidence.class).to_owned(),
            status: evidence.status,
            code: evidence.code.clone(),
            excerpt: evidence.excerpt.clone(),
            model: named(model),
            at,
            until: None,
            seen_by: None,
        }
    }

    pub(crate) fn of_silence(why: NoAnswer, model: &Scope, at: Time) -> Note {
        Note {
            class: why.as_str().to_owned(),
            status: 0,
            code: None,
            excerpt: String::new(),
            model: named(model),
            at,
            until: None,
            seen_by: None,
        }
    }

    /// How long it spared the key.
    pub(crate) fn length(&self) -> Option<std::time::Duration> {
        self.until
            .filter(|until| *until != Time::NEVER)
            .map(|until| until.since(self.at))
    }
}

fn named(model: &Scope) -> Option<Arc<str>> {
    (!model.is_empty()).then(|| model.as_str().into())
}

/// Notes by key and scope. Locked on failures and by people only.
#[derive(Debug, Default)]
pub(crate) struct Notes {
    notes: Mutex<BTreeMap<(KeyId, Scope), Note>>,
    /// How keys came back, until the event is told.
    returns: Mutex<BTreeMap<(KeyId, Scope), String>>,
}

impl Notes {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<(KeyId, Scope), Note>> {
        // Each note is whole or not there: what a panic left behind is good.
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a note. One that tells why the key is out is not replaced by a later one that changed nothing.
    pub(crate) fn take(&self, key: &KeyId, scope: &Scope, note: Note) {
        let mut notes = self.lock();
        let slot = (key.clone(), scope.clone());
        if let Some(old) = notes.get(&slot) {
            let holds = old.until.is_some_and(|until| until > note.at);
            if holds && note.until <= old.until {
                return;
            }
        }
        if notes.len() >= MOST && !notes.contains_key(&slot) {
            let oldest = notes
                .iter()
                .min_by_key(|(_, note)| note.at)
                .map(|(slot, _)| slot.clone());
            oldest.map(|slot| notes.remove(&slot));
        }
        notes.insert(slot, note);
    }

    /// The key is back: what was noted no longer holds it.
    pub(crate) fn release(&self, key: &KeyId, scope: &Scope, how: String, now: Time) {
        let slot = (key.clone(), scope.clone());
        if let Some(note) = self.lock().get_mut(&slot)
            && note.until.is_some_and(|until| until > now)
        {
            note.until = Some(now);
        }
        let mut returns = self.returns.lock().unwrap_or_else(PoisonError::into_inner);
        // Mostly of keys that were not out, of which no event comes.
        if returns.len() >= MOST && !returns.contains_key(&slot) {
            returns.clear();
        }
        returns.insert(slot, how);
    }

    /// How a key came back, told once.
    pub(crate) fn returned(&self, key: &KeyId, scope: &Scope) -> Option<String> {
        let mut returns = self.returns.lock().unwrap_or_else(PoisonError::into_inner);
        returns.remove(&(key.clone(), scope.clone()))
    }

    pub(crate) fn get(&self, key: &KeyId, scope: &Scope) -> Option<Note> {
        self.lock().get(&(key.clone(), scope.clone())).cloned()
    }

    /// Notes that tell why keys are out now, as a whole or in this scope.
    pub(crate) fn holding(&self, scope: &Scope, now: Time) -> Vec<(KeyId, Note)> {
        self.lock()
            .iter()
            .filter(|((_, of), note)| {
                (of.is_empty() || of == scope) && note.until.is_some_and(|until| until > now)
            })
            .map(|((key, _), note)| (key.clone(), note.clone()))
            .collect()
    }

    /// Forgets every key but these.
    pub(crate) fn retain(&self, wanted: impl Fn(&KeyId) -> bool) {
        self.lock().retain(|(key, _), _| wanted(key));
        let mut returns = self.returns.lock().unwrap_or_else(PoisonError::into_inner);
        returns.retain(|(key, _), _| wanted(key));
    }

    /// Everything that holds a key out, and everything else.
    pub(crate) fn all(&self) -> Vec<((KeyId, Scope), Note)> {
        self.lock()
            .iter()
            .map(|(slot, note)| (slot.clone(), note.clone()))
            .collect()
    }
}
