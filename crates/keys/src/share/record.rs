//! What lies in the store about a key: one entry for each key × scope that is out, or came back a while ago.
//!
//! No clock is compared with another. An entry says how long the key stays out *from the moment of the write*, and how long
//! the entry was to live then; the store tells how long the entry has left, so how long ago it was written, by the store's
//! clock alone. The error is the way from the store to the reader, milliseconds.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tidegate_core::{Scope, Time};
use tidegate_state::{Entry, InvalidKey, Key, Prefix};

use crate::identity::{KeyId, hex};
use crate::notes::Note;
use crate::outbox::{Return, Slot};

/// An entry outlives what it says by so much, so that readers see it end by their own clock first.
const SLACK: Duration = Duration::from_secs(60);
/// A dead key's entry lives so long. If it ends before the key is back, who still knows writes it again.
const DEAD: Duration = Duration::from_secs(24 * 3600);
/// That a key came back is told for so long, to replicas that were cut off.
pub(crate) const BACK: Duration = Duration::from_secs(3600);
/// A longer scope is named by its hash.
const LONGEST_SEGMENT: usize = 120;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Record {
    /// A model by the provider's name, empty for all.
    pub(crate) scope: String,
    /// True: out. False: back.
    pub(crate) out: bool,
    /// How long it stays out, counted from the write; `None`: until a probe passes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) hold_ms: Option<u64>,
    /// How long ago it was seen, counted from the write.
    pub(crate) age_ms: u64,
    /// How long the entry was to live.
    pub(crate) ttl_ms: u64,
    pub(crate) by: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) class: String,
    #[serde(default)]
    pub(crate) status: u16,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) code: Option<String>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) excerpt: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) model: Option<String>,
    /// Epoch of the prober's lease, where a probe brought it back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) epoch: Option<u64>,
    /// Whether an operator brought it back.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) by_operator: bool,
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// What a slot is, with this replica's times.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Fact {
    Out { until: Time, note: Note },
    Back(Return),
}

impl Record {
    /// Writes a fact down that was seen at `at`.
    pub(crate) fn of(slot: &Slot, fact: &Fact, at: Time, by: &str, now: Time) -> Record {
        let blank = Record {
            scope: slot.scope.as_str().to_owned(),
            out: false,
            hold_ms: None,
            age_ms: millis(now.since(at)),
            ttl_ms: millis(BACK),
            by: by.to_owned(),
            class: String::new(),
            status: 0,
            code: None,
            excerpt: String::new(),
            model: None,
            epoch: None,
            by_operator: false,
        };
        match fact {
            Fact::Back(how) => Record {
                epoch: how.epoch,
                by_operator: how.by_operator,
                by: how.seen_by.clone().unwrap_or_else(|| by.to_owned()),
                ..blank
            },
            Fact::Out { until, note } => {
                let hold = (*until != Time::NEVER).then(|| now.until(*until));
                Record {
                    out: true,
                    hold_ms: hold.map(millis),
                    ttl_ms: millis(hold.map_or(DEAD, |hold| hold + SLACK)),
                    // Who saw it first, not who passes it on.
                    by: note.seen_by.clone().unwrap_or_else(|| by.to_owned()),
                    class: note.class.clone(),
                    status: note.status,
                    code: note.code.clone(),
                    excerpt: note.excerpt.clone(),
                    model: note.model.as_deref().map(str::to_owned),
                    ..blank
                }
            }
        }
    }

    pub(crate) fn ttl(&self) -> Duration {
        Duration::from_millis(self.ttl_ms.max(1))
    }

    /// The fact and when it was seen, by this replica's clock.
    pub(crate) fn read(&self, expires_in: Option<Duration>, me: &str, now: Time) -> (Fact, Time) {
        let left = expires_in.unwrap_or_else(|| self.ttl()).min(self.ttl());
        let elapsed = self.ttl() - left;
        let at = now - elapsed - Duration::from_millis(self.age_ms);
        if !self.out {
            let how = Return {
                by_operator: self.by_operator,
                epoch: self.epoch,
                seen_by: (self.by != me).then(|| self.by.clone()),
            };
            return (Fact::Back(how), at);
        }
        let until = self.hold_ms.map_or(Time::NEVER, |hold| {
            now + Duration::from_millis(hold).saturating_sub(elapsed)
        });
        let note = Note {
            class: self.class.clone(),
            status: self.status,
            code: self.code.clone(),
            excerpt: self.excerpt.clone(),
            model: self.model.as_deref().map(Into::into),
            at,
            until: Some(until),
            seen_by: (self.by != me).then(|| self.by.clone()),
        };
        (Fact::Out { until, note }, at)
    }
}

/// Below this lies the health of keys.
pub(crate) fn prefix() -> Result<Prefix, InvalidKey> {
    Prefix::of(&["keys", "health"])
}

/// Where a slot's entry lies.
pub(crate) fn path(slot: &Slot) -> Result<Key, InvalidKey> {
    let scope = slot.scope.as_str();
    if scope.len() <= LONGEST_SEGMENT {
        return Key::of(&["keys", "health", slot.key.as_str(), scope]);
    }
    let digest = ring::digest::digest(&ring::digest::SHA256, scope.as_bytes());
    Key::of(&[
        "keys",
        "health",
        slot.key.as_str(),
        "~",
        &hex(digest.as_ref()),
    ])
}

/// Reads an entry; `None` for one that is not ours to understand.
pub(crate) fn parse(key: &Key, entry: &Entry) -> Option<(Slot, Record)> {
    let id = KeyId::parse(key.as_str().split('/').nth(2)?)?;
    let record: Record = serde_json::from_slice(&entry.value).ok()?;
    let slot = Slot {
        key: id,
        scope: Scope::new(&record.scope),
    };
    // The name must be what its content says.
    (path(&slot).ok().as_ref() == Some(key)).then_some((slot, record))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Identity;
    use proptest::prelude::*;

    fn note(at: Time) -> Note {
        Note {
            class: "limited".into(),
            status: 429,
            code: None,
            excerpt: String::new(),
            model: None,
            at,
            until: None,
            seen_by: None,
        }
    }

    #[test]
    fn any_models_name_has_a_place_of_its_own() {
        let key = Identity::new([1; 32]).of("o", "k");
        let long = "m".repeat(5_000);
        let names = ["", "gpt-4", "a/b", "模型", "~", "%", &long];
        let mut paths: Vec<_> = names
            .iter()
            .map(|name| {
                path(&Slot {
                    key: key.clone(),
                    scope: Scope::new(name),
                })
                .unwrap()
            })
            .collect();
        paths.sort();
        paths.dedup();
        assert_eq!(paths.len(), names.len());
    }

    proptest! {
        #[test]
        fn a_reader_with_any_clock_gets_the_time_that_is_left(
            writer in 1_000u64..1_000_000, reader in 1_000_000u64..9_000_000, hold in 1u64..100_000, passed in 0u64..100_000, seen in 0u64..900,
        ) {
            let at = |s: u64| Time::from_secs(s);
            let slot = Slot { key: Identity::new([1; 32]).of("o", "k"), scope: Scope::new("m") };
            let fact = Fact::Out { until: at(writer + hold), note: note(at(writer - seen)) };
            let record = Record::of(&slot, &fact, at(writer - seen), "a", at(writer));
            let passed = Duration::from_secs(passed.min(record.ttl_ms / 1000));
            let (read, since) = record.read(Some(record.ttl() - passed), "b", at(reader));
            let Fact::Out { until, .. } = read else { panic!() };
            prop_assert_eq!(until.since(at(reader)), Duration::from_secs(hold).saturating_sub(passed));
            prop_assert_eq!(since, at(reader) - passed - Duration::from_secs(seen));
        }
    }
}
