//! A provider: its keys in a pool, how models are named there, and what is remembered of failures.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use tidegate_config::model as config;
use tidegate_core::{
    Cause, Change as PoolChange, MemberKey, MemberSpec, MemberState, MemberStatus, Pool, PoolEvent,
    Scope, Time, Verdict,
};
use tidegate_llm::registry::ProviderSpec;

use crate::access::Access;
use crate::choice::{Choice, MemberTag, Roster, Sessions};
use crate::counts::Counts;
use crate::failover::Failover;
use crate::identity::{Identity, KeyId};
use crate::judge;
use crate::key::{ApiKey, Fingerprint, Token};
use crate::mapping::Mapping;
use crate::notes::{Note, Notes};
use crate::outbox::{Change, Outbox, Return, Slot, What};
use crate::rotation::Rotation;
use crate::settings::Settings;

/// What of a provider a reload may change. Read once per request.
#[derive(Debug)]
pub struct Live {
    /// What requests are built from.
    pub spec: ProviderSpec,
    /// Models that are listed.
    pub models: Vec<String>,
    /// How a key is chosen.
    pub choice: Choice,
    /// When a key is spared.
    pub failover: Failover,
    /// Bounds of an attempt.
    pub timeouts: config::ProviderTimeouts,
    pub(crate) mapping: Mapping,
    origin: String,
    /// Some of the keys are accounts that get access tokens.
    accounts: bool,
    tokens: Vec<(Token, u32)>,
    members: HashMap<KeyId, MemberKey>,
    pub(crate) roster: Roster,
}

impl Live {
    /// The provider's name for a caller's model.
    pub fn map<'a>(&'a self, model: &'a str) -> Cow<'a, str> {
        self.mapping.map(model)
    }

    /// Where the provider is: scheme, host and port.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    pub(crate) fn member(&self, key: &KeyId) -> Option<MemberKey> {
        self.members.get(key).copied()
    }

    pub(crate) fn sticky_ttl(&self) -> Option<Duration> {
        match &self.choice {
            Choice::Sticky { ttl, .. } => Some(*ttl),
            _ => None,
        }
    }
}

/// A provider with its keys. One object for as long as the configuration has a provider of this name.
#[derive(Debug)]
pub struct Provider {
    name: Arc<str>,
    pool: Pool<ApiKey>,
    live: ArcSwap<Live>,
    /// Made with the first session that sticks.
    pub(crate) sessions: OnceLock<Sessions>,
    pub(crate) notes: Notes,
    counts: Counts,
    pub(crate) outbox: Arc<Outbox>,
}

impl std::fmt::Debug for Sessions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sessions")
    }
}

fn specs(origin: &str, tokens: &[(Token, u32)], identity: &Identity) -> Vec<MemberSpec<ApiKey>> {
    let none = [(Token::new(""), 1)];
    let tokens = if tokens.is_empty() { &none } else { tokens };
    let mut alike: HashMap<Fingerprint, usize> = HashMap::new();
    for (token, _) in tokens {
        *alike.entry(token.fingerprint()).or_default() += 1;
    }
    let spec = |(token, weight): &(Token, u32)| {
        let id = identity.of(origin, token.expose());
        let fingerprint = token.fingerprint();
        let key = ApiKey {
            fingerprint: match alike.get(&fingerprint) {
                Some(2..) => fingerprint.apart(&id),
                _ => fingerprint,
            },
            token: token.clone(),
            id: id.clone(),
        };
        MemberSpec::new(id.shared(), key).weight((*weight).max(1))
    };
    tokens.iter().map(spec).collect()
}

impl Provider {
    pub(crate) fn new(
        settings: Settings,
        identity: &Identity,
        outbox: Arc<Outbox>,
        seed: u64,
        now: Time,
    ) -> Provider {
        let origin = settings.origin();
        let policy = settings.failover.pool_policy(&settings.choice);
        let pool = Pool::new(policy, specs(&origin, &settings.keys, identity), seed, now);
        Provider {
            name: settings.name.clone(),
            live: ArcSwap::from_pointee(Provider::live_of(settings, origin, &pool)),
            pool,
            sessions: OnceLock::new(),
            notes: Notes::default(),
            counts: Counts::default(),
            outbox,
        }
    }

    fn live_of(settings: Settings, origin: String, pool: &Pool<ApiKey>) -> Live {
        let members = pool.members();
        Live {
            spec: settings.spec,
            models: settings.models,
            choice: settings.choice,
            failover: settings.failover,
            timeouts: settings.timeouts,
            mapping: settings.mapping,
            origin,
            accounts: settings.keys.iter().any(|(key, _)| key.access().is_some()),
            tokens: settings.keys,
            roster: members
                .iter()
                .map(|m| (MemberTag::of(m.id()), m.key()))
                .collect(),
            members: members
                .iter()
                .map(|m| (m.payload().id.clone(), m.key()))
                .collect(),
        }
    }

    /// Takes over another configuration. Keys that stay keep everything; one that is gone leaves nothing here.
    pub(crate) fn update(&self, settings: Settings, identity: &Identity, now: Time) -> PoolChange {
        let policy = settings.failover.pool_policy(&settings.choice);
        if *self.pool.policy() != policy {
            self.pool.set_policy(policy, now);
        }
        let origin = settings.origin();
        let change = self
            .pool
            .update(specs(&origin, &settings.keys, identity), now);
        let live = Provider::live_of(settings, origin, &self.pool);
        self.notes.retain(|key| live.members.contains_key(key));
        self.live.store(Arc::new(live));
        change
    }

    /// Names the keys anew. Their health goes with them, as far as evidence holds them.
    pub(crate) fn rename(&self, old: &Identity, new: &Identity, now: Time) {
        let live = self.live.load_full();
        let held = self.notes.all();
        self.pool
            .update(specs(&live.origin, &live.tokens, new), now);
        let members = self.pool.members();
        self.live.store(Arc::new(Live {
            spec: live.spec.clone(),
            models: live.models.clone(),
            choice: live.choice.clone(),
            failover: live.failover.clone(),
            timeouts: live.timeouts.clone(),
            mapping: live.mapping.clone(),
            origin: live.origin.clone(),
            accounts: live.accounts,
            tokens: live.tokens.clone(),
            roster: members
                .iter()
                .map(|m| (MemberTag::of(m.id()), m.key()))
                .collect(),
            members: members
                .iter()
                .map(|m| (m.payload().id.clone(), m.key()))
                .collect(),
        }));
        for member in &members {
            let token = member.payload().token.expose();
            let before = old.of(&live.origin, token);
            for ((_, scope), note) in held.iter().filter(|((key, _), _)| *key == before) {
                let key = member.payload().id.clone();
                let slot = Slot {
                    key,
                    scope: scope.clone(),
                };
                match note.until.filter(|until| *until > now) {
                    Some(until) => {
                        self.hold(&slot, until, note.clone(), now);
                        self.tell(
                            slot,
                            What::Out {
                                until,
                                note: note.clone(),
                            },
                            note.at,
                        );
                    }
                    None => self.notes.take(&slot.key, scope, note.clone()),
                }
            }
        }
        let live = self.live.load();
        self.notes.retain(|key| live.members.contains_key(key));
        // The same keys in the same state: nothing happened that anybody should hear of.
        drop(self.pool.drain_events());
    }

    /// Its name.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// What the configuration says of it now.
    pub fn live(&self) -> Arc<Live> {
        self.live.load_full()
    }

    /// Its keys' pool, for status and metrics. Requests go through [`Provider::rotation`].
    pub fn pool(&self) -> &Pool<ApiKey> {
        &self.pool
    }

    /// Whether some of its keys are accounts that get access tokens.
    pub fn has_accounts(&self) -> bool {
        self.live.load().accounts
    }

    /// Its accounts that get access tokens, with what people see of them.
    pub fn accesses(&self) -> Vec<(Fingerprint, Arc<Access>)> {
        if !self.has_accounts() {
            return Vec::new();
        }
        let members = self.pool.members();
        let of = |key: &ApiKey| Some((key.fingerprint.clone(), key.token.access()?.clone()));
        members.iter().filter_map(|m| of(m.payload())).collect()
    }

    /// Waits until each of its accounts has asked for an access token once; at once where there are none.
    pub async fn accesses_asked(&self) {
        for (_, access) in self.accesses() {
            access.asked().await;
        }
    }

    /// What was counted.
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// The last thing that was held against a key in a scope.
    pub fn note(&self, key: &KeyId, scope: &Scope) -> Option<Note> {
        self.notes.get(key, scope)
    }

    /// Begins a request for a model (by the provider's name, see [`Live::map`]). `session` is the hash of what makes the
    /// caller the same, where keys stick. `worker` counts.
    pub fn rotation(
        self: &Arc<Self>,
        model: &str,
        session: Option<u64>,
        worker: usize,
    ) -> Rotation {
        Rotation::new(self.clone(), Scope::new(model), session, worker)
    }

    /// An operator says that a key works: it is used again in every scope, here and on every replica. False if there is no
    /// such key.
    pub fn restore(&self, key: &KeyId, now: Time) -> bool {
        let statuses = self.pool.status(now);
        let Some(status) = statuses.iter().find(|m| *m.id == *key.as_str()) else {
            return false;
        };
        for scope in unfit_scopes(status) {
            let slot = Slot {
                key: key.clone(),
                scope,
            };
            self.release(&slot, &Return::by_operator(), now);
            self.tell(slot, What::Back(Return::by_operator()), now);
        }
        true
    }

    /// Tells the sharing task.
    pub(crate) fn tell(&self, slot: Slot, what: What, at: Time) {
        let from = Some(self.name.clone());
        self.outbox.put(Change {
            from,
            slot,
            what,
            at,
        });
    }

    /// A key is out, as somebody found. False if it is not ours.
    pub(crate) fn hold(&self, slot: &Slot, until: Time, note: Note, now: Time) -> bool {
        let Some(member) = self.live.load().member(&slot.key) else {
            return false;
        };
        let (code, seen_by) = (note.code.as_deref(), note.seen_by.as_deref());
        let cause = judge::cause(&note.class, note.status, code, seen_by);
        let verdict = Verdict::Evidence {
            cause: cause.into(),
            until: (until != Time::NEVER).then_some(until),
        };
        self.notes.take(
            &slot.key,
            &slot.scope,
            Note {
                until: Some(until),
                ..note
            },
        );
        self.pool.report(member, &slot.scope, verdict, now)
    }

    /// A key works, as somebody made sure. False if it is not ours.
    pub(crate) fn release(&self, slot: &Slot, how: &Return, now: Time) -> bool {
        let Some(member) = self.live.load().member(&slot.key) else {
            return false;
        };
        self.notes
            .release(&slot.key, &slot.scope, how.to_string(), now);
        self.pool.report(member, &slot.scope, Verdict::Ok, now)
    }

    /// What time brings about, and what happened since the last call: all events for people, and for other replicas the
    /// ejections that requests alone brought about (evidence was told when it came).
    pub(crate) fn turn(&self, now: Time) -> (Time, Vec<PoolEvent>) {
        let next = self.pool.tick(now);
        let mut events = self.pool.drain_events();
        for event in &mut events {
            // To the engine whoever says that a member works has checked it; who it was is known here.
            if event.cause == Cause::CheckPassed
                && let Some(key) = KeyId::parse(&event.member)
                && let Some(how) = self.notes.returned(&key, &event.scope)
            {
                event.cause = Cause::Evidence(how.into());
            }
        }
        let counted =
            |e: &&PoolEvent| e.to == MemberState::Ejected && !matches!(e.cause, Cause::Evidence(_));
        if events.iter().any(|e| counted(&e)) {
            let statuses = self.pool.status(now);
            for event in events.iter().filter(counted) {
                self.tell_ejection(event, &statuses);
            }
        }
        (next, events)
    }

    fn tell_ejection(&self, event: &PoolEvent, statuses: &[MemberStatus]) {
        let Some(status) = statuses.iter().find(|m| m.key == event.key) else {
            return;
        };
        let health = match event.scope.is_empty() {
            true => Some(&status.health),
            false => status
                .scopes
                .iter()
                .find(|(s, _)| *s == event.scope)
                .map(|(_, h)| h),
        };
        // Back again by now: nothing to tell.
        let Some(health) = health.filter(|h| h.state == MemberState::Ejected) else {
            return;
        };
        let Some(key) = KeyId::parse(&event.member) else {
            return;
        };
        let until = health.returns_at.unwrap_or(Time::NEVER);
        let last = self.notes.get(&key, &event.scope);
        let note = Note {
            at: event.at,
            until: Some(until),
            ..last.unwrap_or_else(|| Note {
                class: event.cause.to_string(),
                status: 0,
                code: None,
                excerpt: String::new(),
                model: None,
                at: event.at,
                until: None,
                seen_by: None,
            })
        };
        self.notes.take(&key, &event.scope, note.clone());
        let slot = Slot {
            key,
            scope: event.scope.clone(),
        };
        self.tell(slot, What::Out { until, note }, event.at);
    }

    /// The keys in the pool.
    pub(crate) fn key_ids(&self) -> Vec<KeyId> {
        self.live.load().members.keys().cloned().collect()
    }
}

/// Scopes in which a key is not healthy.
pub(crate) fn unfit_scopes(status: &MemberStatus) -> Vec<Scope> {
    let unfit = |state: MemberState| matches!(state, MemberState::Ejected | MemberState::Probing);
    let whole = unfit(status.health.state).then_some(Scope::EMPTY);
    let scoped = status
        .scopes
        .iter()
        .filter(|(_, h)| unfit(h.state))
        .map(|(s, _)| s.clone());
    whole.into_iter().chain(scoped).collect()
}
