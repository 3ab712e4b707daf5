//! What is shown of providers, their keys and the virtual keys; and the little that an operator may do to them.

use std::collections::HashMap;
use std::sync::Arc;

use tidegate_core::{Cause, HealthStatus, MemberState, MemberStatus, Scope, Time};
use tidegate_keys::account::{
    Accounts, KeyError, KeyRequest, KeyUpdate, Secret, Spending, VirtualKey,
};
use tidegate_keys::{ApiKey, Note};
use tidegate_state::Error;

use super::Provider;
use crate::Handle;
use crate::events::unix_ms;
use crate::view::{
    CauseCount, EvidenceView, KeyHealth, KeyModelView, KeyView, ProviderView, SpendingView,
    StoreView, VirtualKeyView,
};
use crate::worker::Shared;

/// Why a key was not restored.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RestoreError {
    /// There is no such provider.
    #[error("no provider has the name {0:?}")]
    Provider(String),
    /// It has no such key.
    #[error("the provider {provider:?} has no key {key:?}")]
    Key {
        /// The provider.
        provider: String,
        /// As it was asked for.
        key: String,
    },
    /// Several keys look like this.
    #[error(
        "several keys of the provider {provider:?} look like {key:?}: give the name that the list of providers has"
    )]
    Ambiguous {
        /// The provider.
        provider: String,
        /// As it was asked for.
        key: String,
    },
}

impl Handle {
    /// Providers with their keys.
    pub fn providers(&self) -> Vec<ProviderView> {
        let shared = &self.control.shared;
        let now = shared.now();
        let snapshot = shared.snapshot.load();
        snapshot
            .providers
            .iter()
            .map(|p| provider(p, now))
            .collect()
    }

    /// The store of durable state.
    pub fn store(&self) -> StoreView {
        self.control.store_view()
    }

    /// An operator says that a key works: it is used again for every model, here and on every replica. `key` is its name in
    /// [`Handle::providers`], or its fingerprint.
    ///
    /// # Errors
    /// [`RestoreError`].
    pub fn restore_key(&self, provider: &str, key: &str) -> Result<(), RestoreError> {
        let shared = &self.control.shared;
        let now = shared.now();
        let found = shared.providers.keys.provider(provider);
        let found = found.ok_or_else(|| RestoreError::Provider(provider.to_owned()))?;
        let members = found.pool().members();
        let keys: Vec<&ApiKey> = members.iter().map(|m| m.payload()).collect();
        let wanted = |at: &usize| {
            let known = keys[*at];
            known.fingerprint.as_str() == key || known.token.fingerprint().as_str() == key
        };
        let (provider, key) = (provider.to_owned(), key.to_owned());
        let fitting: Vec<usize> = (0..keys.len()).filter(wanted).collect();
        match fitting[..] {
            [] => Err(RestoreError::Key { provider, key }),
            [at] => {
                found.restore(&keys[at].id, now);
                tracing::info!(provider, key, "restored by an operator");
                Ok(())
            }
            _ => Err(RestoreError::Ambiguous { provider, key }),
        }
    }

    /// Virtual keys with what they have used, by name.
    ///
    /// # Errors
    /// They have not been read from the store yet.
    pub fn virtual_keys(&self) -> Result<Vec<VirtualKeyView>, Error> {
        let accounts = &self.control.shared.providers.accounts;
        if !self.control.keeps_keys() {
            return Ok(Vec::new());
        }
        if !accounts.is_ready() {
            return Err(unavailable("virtual keys have not been read yet"));
        }
        let keys = accounts.list(unix_ms());
        Ok(keys
            .into_iter()
            .map(|(key, used)| virtual_key(key, used))
            .collect())
    }

    /// Makes a virtual key. Its token is shown by this answer and never again.
    ///
    /// # Errors
    /// [`KeyError`].
    pub async fn create_virtual_key(
        &self,
        request: &KeyRequest,
    ) -> Result<(VirtualKeyView, Secret), KeyError> {
        let store = self.control.store().ok_or_else(|| unavailable(NO_STORE))?;
        let (key, secret) = Accounts::create(&*store, request, unix_ms()).await?;
        tracing::info!(key = key.id, name = key.name, "virtual key made");
        self.tell_of_key("virtual_key_made", &key, "");
        Ok((virtual_key(key, Vec::new()), secret))
    }

    /// Revokes a virtual key by its id, on every replica.
    ///
    /// # Errors
    /// [`KeyError`].
    pub async fn revoke_virtual_key(&self, id: &str) -> Result<VirtualKeyView, KeyError> {
        let store = self.control.store().ok_or_else(|| unavailable(NO_STORE))?;
        let key = Accounts::revoke(&*store, id).await?;
        tracing::info!(key = key.id, name = key.name, "virtual key revoked");
        self.tell_of_key("virtual_key_revoked", &key, "");
        Ok(virtual_key(key, Vec::new()))
    }

    /// Changes a virtual key by its id, on every replica. What it has spent stays spent.
    ///
    /// # Errors
    /// [`KeyError`].
    pub async fn update_virtual_key(
        &self,
        id: &str,
        update: &KeyUpdate,
    ) -> Result<VirtualKeyView, KeyError> {
        let store = self.control.store().ok_or_else(|| unavailable(NO_STORE))?;
        let (before, key) = Accounts::update(&*store, id, update, unix_ms()).await?;
        let currency = self.control.shared.providers.accounts.currency();
        let change = key.differs_from(&before, &currency);
        if key != before {
            tracing::info!(key = key.id, name = key.name, change, "virtual key changed");
            self.tell_of_key("virtual_key_changed", &key, &change);
        }
        let accounts = &self.control.shared.providers.accounts;
        let used = accounts.list(unix_ms()).into_iter();
        let used = used.filter(|(known, _)| known.id == id);
        let used = used.flat_map(|(_, used)| used).collect();
        Ok(virtual_key(key, used))
    }

    fn tell_of_key(&self, kind: &str, key: &VirtualKey, cause: &str) {
        let events = &self.control.shared.events;
        events.push(kind, &key.name, &key.id, cause);
    }
}

/// Why there are no virtual keys.
const NO_STORE: &str =
    "virtual keys are kept where there are providers, and the configuration has none";

fn unavailable(cause: &str) -> Error {
    Error::Unavailable {
        cause: cause.to_owned(),
    }
}

fn provider(provider: &Provider, now: Time) -> ProviderView {
    let keys = &provider.keys;
    let live = keys.live();
    let base = &live.spec.base_url;
    let mut tokens = [0, 0];
    for (_, kind, n) in provider.stats.token_counts() {
        match kind {
            "input" => tokens[0] += n,
            "output" => tokens[1] += n,
            _ => {}
        }
    }
    let failovers = keys.counts().failovers().filter(|(_, count)| *count > 0);
    ProviderView {
        name: keys.name().to_string(),
        kind: live.spec.kind.name().to_owned(),
        origin: format!("{}://{}", base.scheme, base.authority),
        choose: live.choice.name().to_owned(),
        models: live.models.clone(),
        inflight: keys.pool().inflight(),
        exhausted: keys.counts().no_key(),
        failovers: failovers
            .map(|(cause, count)| CauseCount {
                cause: cause.to_owned(),
                count,
            })
            .collect(),
        input_tokens: tokens[0],
        output_tokens: tokens[1],
        keys: key_views(keys, now),
    }
}

fn key_views(provider: &tidegate_keys::Provider, now: Time) -> Vec<KeyView> {
    let members = provider.pool().members();
    let payloads: HashMap<_, _> = members.iter().map(|m| (m.key(), m.payload())).collect();
    let statuses = provider.pool().status(now);
    let known: Vec<(&MemberStatus, &ApiKey)> = statuses
        .iter()
        .filter_map(|status| Some((status, *payloads.get(&status.key)?)))
        .collect();
    let view = |(status, key): &(&MemberStatus, &ApiKey)| {
        let health_of = |scope: &Scope, health: &HealthStatus| {
            health_view(health, provider.note(&key.id, scope), now)
        };
        KeyView {
            name: key.fingerprint.to_string(),
            fingerprint: key.token.fingerprint().to_string(),
            weight: status.weight,
            health: health_of(&Scope::EMPTY, &status.health),
            inflight: u64::from(status.inflight),
            attempts: status.attempts,
            failures: status.failures,
            ejections: status.health.ejections
                + status.forgotten_ejections
                + status.scopes.iter().map(|(_, h)| h.ejections).sum::<u64>(),
            models: status
                .scopes
                .iter()
                .map(|(scope, health)| KeyModelView {
                    model: scope.as_str().to_owned(),
                    health: health_of(scope, health),
                })
                .collect(),
        }
    };
    known.iter().map(view).collect()
}

fn health_view(health: &HealthStatus, note: Option<Note>, now: Time) -> KeyHealth {
    let cause = match health.state {
        MemberState::Healthy => String::new(),
        _ => health
            .cause
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default(),
    };
    KeyHealth {
        state: health.state.as_str().to_owned(),
        cause,
        since_ms: now.since(health.since).as_millis() as u64,
        returns_in_ms: health.returns_at.map(|at| now.until(at).as_millis() as u64),
        evidence: note.map(|note| EvidenceView {
            class: note.class,
            status: (note.status != 0).then_some(note.status),
            code: note.code,
            excerpt: note.excerpt,
            model: note.model.map(|model| model.to_string()),
            seen_by: note.seen_by,
            ago_ms: now.since(note.at).as_millis() as u64,
        }),
    }
}

fn virtual_key(key: VirtualKey, used: Vec<Spending>) -> VirtualKeyView {
    VirtualKeyView {
        id: key.id,
        name: key.name,
        fingerprint: key.fingerprint,
        limits: key.limits,
        created_at_ms: key.created_at,
        expires_at_ms: key.expires_at,
        used: used
            .into_iter()
            .map(|spending| SpendingView {
                unit: spending.unit.to_owned(),
                per: spending.per.as_str().to_owned(),
                limit: spending.limit,
                used: spending.used,
                currency: spending.currency,
            })
            .collect(),
    }
}

/// What happened to keys, told as what happens to every member.
pub(crate) fn tell_events(shared: &Arc<Shared>) {
    for event in shared.providers.keys.drain_events() {
        let kind = match (event.from, event.to) {
            (_, MemberState::Ejected) => "member_ejected",
            _ if event.cause == Cause::Added.to_string() => "member_added",
            (_, MemberState::Gone) => "member_removed",
            (_, MemberState::Draining) => "member_draining",
            (_, MemberState::Probing) => "member_probing",
            (_, MemberState::Warming) => "member_warming",
            (_, MemberState::Healthy) => "member_returned",
        };
        let cause = match event.scope.is_empty() {
            true => event.cause,
            false => format!("{}: {}", event.scope, event.cause),
        };
        // The engine's time counts from the Unix epoch as it was at the start.
        let at_ms = event.at.0 / 1_000_000;
        let (provider, key) = (&event.provider, event.fingerprint.as_str());
        shared.events.push_at(at_ms, kind, provider, key, &cause);
    }
}
