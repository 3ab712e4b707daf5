//! What people see of providers and their keys: `/api/v1/providers`, `tidegate status providers`. No secret is in here.

use std::collections::BTreeMap;

use serde::Serialize;
use tidegate_core::{HealthStatus, MemberState, MemberStatus, Scope, Time};

use crate::clock::Clock;
use crate::key::{ApiKey, Fingerprint};
use crate::notes::Note;
use crate::provider::Provider;
use crate::registry::Keys;

/// A provider.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ProviderStatus {
    /// Its name.
    pub name: String,
    /// Its type.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// Where it is: scheme, host and port.
    pub origin: String,
    /// How a key is chosen.
    pub choose: &'static str,
    /// What counts as a failure: `class` or `status`.
    pub judged_by: &'static str,
    /// Its keys, in the order of the configuration.
    pub keys: Vec<KeyStatus>,
    /// Keys that serve now, for any model.
    pub fit: usize,
    /// Attempts by outcome, since the process began; those that never happened are left out.
    pub attempts: BTreeMap<&'static str, u64>,
    /// Attempts after which a request went on elsewhere, by outcome.
    pub failovers: BTreeMap<&'static str, u64>,
    /// Requests that found no fit key.
    pub no_key: u64,
    /// Sessions that had to leave their key.
    pub session_moves: u64,
}

/// A key.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct KeyStatus {
    /// Its name for the API: a keyed hash.
    pub id: String,
    /// Its name for people.
    pub fingerprint: Fingerprint,
    /// Its share relative to the others.
    pub weight: u32,
    /// The key as a whole.
    #[serde(flatten)]
    pub health: Health,
    /// Models for which it is not healthy, or was not lately; by the provider's names.
    pub models: Vec<ModelStatus>,
    /// Requests under way.
    pub in_flight: u32,
    /// Requests sent with it since the process began (or the key came).
    pub attempts: u64,
    /// Of them failed.
    pub failures: u64,
}

/// A key for one model.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ModelStatus {
    /// By the provider's name.
    pub model: String,
    /// Its health there.
    #[serde(flatten)]
    pub health: Health,
}

/// Health in one scope.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Health {
    /// `healthy`, `ejected`, `probing`, `draining`.
    pub state: &'static str,
    /// Why it is in this state, in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
    /// The last thing that was held against it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub evidence: Option<Cause>,
    /// Since when, milliseconds since 1970.
    pub since: u64,
    /// When it may be back, milliseconds since 1970; none while it is out: only a probe brings it back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub returns_at: Option<u64>,
    /// How often it was taken out.
    pub ejections: u64,
}

/// What was held against a key.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Cause {
    /// `key_dead`, `limited`, `timeout`, …
    pub class: String,
    /// Status of the answer; none if there was no answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// The provider's own code.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// What it said, shortened.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub excerpt: String,
    /// The model that was asked, by the provider's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// When, milliseconds since 1970.
    pub at: u64,
    /// The replica that saw it, if another.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seen_by: Option<String>,
}

/// One moment on both clocks.
struct Moment {
    now: Time,
    unix_ms: u64,
}

impl Moment {
    fn of(clock: &dyn Clock) -> Moment {
        Moment {
            now: clock.now(),
            unix_ms: clock.unix_ms(),
        }
    }

    fn calendar(&self, at: Time) -> u64 {
        let millis = |d: std::time::Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
        match at > self.now {
            true => self.unix_ms.saturating_add(millis(at.since(self.now))),
            false => self.unix_ms.saturating_sub(millis(self.now.since(at))),
        }
    }

    fn cause(&self, note: Note) -> Cause {
        Cause {
            class: note.class,
            status: (note.status != 0).then_some(note.status),
            code: note.code,
            excerpt: note.excerpt,
            model: note.model.map(|m| m.to_string()),
            at: self.calendar(note.at),
            seen_by: note.seen_by,
        }
    }

    fn health(&self, health: &HealthStatus, note: Option<Note>) -> Health {
        Health {
            state: health.state.as_str(),
            cause: health.cause.as_ref().map(ToString::to_string),
            evidence: note.map(|note| self.cause(note)),
            since: self.calendar(health.since),
            returns_at: health.returns_at.map(|at| self.calendar(at)),
            ejections: health.ejections,
        }
    }

    fn key(&self, provider: &Provider, key: &ApiKey, status: &MemberStatus) -> KeyStatus {
        let model = |(scope, health): &(Scope, HealthStatus)| ModelStatus {
            model: scope.as_str().to_owned(),
            health: self.health(health, provider.note(&key.id, scope)),
        };
        KeyStatus {
            id: key.id.to_string(),
            fingerprint: key.fingerprint.clone(),
            weight: status.weight,
            health: self.health(&status.health, provider.note(&key.id, &Scope::EMPTY)),
            models: status.scopes.iter().map(model).collect(),
            in_flight: status.inflight,
            attempts: status.attempts,
            failures: status.failures,
        }
    }
}

impl Provider {
    /// What people see of it.
    pub fn status(&self, clock: &dyn Clock) -> ProviderStatus {
        let moment = Moment::of(clock);
        let live = self.live();
        let members = self.pool().members();
        let statuses = self.pool().status(moment.now);
        let keys: Vec<KeyStatus> = members
            .iter()
            .filter_map(|member| {
                let status = statuses.iter().find(|s| s.key == member.key())?;
                Some(moment.key(self, member.payload(), status))
            })
            .collect();
        let healthy = MemberState::Healthy.as_str();
        let happened = |(name, count): (&'static str, u64)| (count > 0).then_some((name, count));
        ProviderStatus {
            name: self.name().to_string(),
            kind: live.spec.kind.name(),
            origin: live.origin().to_owned(),
            choose: live.choice.name(),
            judged_by: if live.failover.by_status() {
                "status"
            } else {
                "class"
            },
            fit: keys
                .iter()
                .filter(|key| key.health.state == healthy)
                .count(),
            keys,
            attempts: self.counts().attempts().filter_map(happened).collect(),
            failovers: self.counts().failovers().filter_map(happened).collect(),
            no_key: self.counts().no_key(),
            session_moves: self.counts().session_moves(),
        }
    }
}

impl Keys {
    /// What people see of all providers, by name.
    pub fn status(&self, clock: &dyn Clock) -> Vec<ProviderStatus> {
        self.providers()
            .iter()
            .map(|provider| provider.status(clock))
            .collect()
    }
}
