//! Probes: whether a key that is out works again.
//!
//! One replica probes, under a lease; when it dies another takes over within the lease's time. A probe is one small request
//! through the provider's own pipeline, sent by the gateway ([`Probe`]). What it finds goes to the pool like any finding, and
//! to the other replicas fenced with the lease's epoch: a prober that lost its lease meanwhile tells nobody anything.
//!
//! When a key is probed:
//!
//! - out without an end (dead, or by status without a cooldown): every `health_check_interval`; by class twice as long after
//!   each failure, up to five minutes (a revoked key hardly ever comes back);
//! - out for failures that count: every interval too, so that a probe or the time, whichever is first, brings it back;
//! - back on trial where sessions stick to keys, and so perhaps no request picks it: after the interval a probe is the trial;
//! - out until a time that the provider told: not before a minute, then more and more seldom. The time is a floor for callers'
//!   requests; but "come back in a day" is wrong often enough (quotas are raised, windows slide) to spend one request on.
//!
//! While the store is away nobody can hold the lease, and each replica probes for itself.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tidegate_core::{HealthStatus, MemberState, Rng, Scope, SmallRng, Time, Verdict};
use tidegate_llm::classify::{Class, Evidence, LimitScope};
use tidegate_state::{Candidate, InvalidKey, Key, Store};

use crate::clock::Clock;
use crate::judge::{Outcome, class_name};
use crate::key::ApiKey;
use crate::notes::Note;
use crate::outbox::{Return, Slot, What};
use crate::provider::Provider;
use crate::registry::Keys;
use crate::working::Working;

/// Time to live of the lease: a takeover takes no longer.
pub const LEASE: Duration = Duration::from_secs(5);
/// Longest time between probes of a key that is out without an end, by class.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
/// A provider that told a time is not asked before this, and never more often than the second.
const HALF_OPEN: Duration = Duration::from_secs(60);
const LONGEST_HALF_OPEN: Duration = Duration::from_secs(600);
/// Probes under way at a time.
const MOST_PROBES: usize = 16;
/// How often the pools are looked at.
const LOOK: Duration = Duration::from_millis(250);

/// Sends a probe. The gateway does, through the pipeline that requests take (headers, path, translation, its connections).
#[async_trait]
pub trait Probe: Send + Sync + 'static {
    /// One request with this key for this model (by the provider's name), as small as the provider allows, classified. It is
    /// dropped when `health_check_timeout` is over.
    async fn probe(&self, provider: &Arc<Provider>, key: &ApiKey, model: &str) -> Evidence;
}

/// The lease under which one replica probes.
pub(crate) fn lease_name() -> Result<Key, InvalidKey> {
    Key::of(&["keys", "prober"])
}

/// What is planned for a slot.
#[derive(Clone, Debug)]
struct Plan {
    due: Time,
    /// Failed probes in this time out.
    failed: u32,
    /// Good ones; failed ones between them take none away.
    passed: u32,
    /// When this time out began: another one is another plan.
    since: Time,
    under_way: bool,
}

/// A probe that is due.
#[derive(Clone, Debug)]
pub(crate) struct Due {
    pub(crate) provider: Arc<Provider>,
    pub(crate) key: ApiKey,
    pub(crate) slot: Slot,
    pub(crate) model: String,
    since: Time,
}

/// When to probe what: no I/O, no clock.
#[derive(Debug)]
pub(crate) struct Schedule {
    plans: BTreeMap<Slot, Plan>,
    rng: SmallRng,
}

impl Schedule {
    pub(crate) fn new(seed: u64) -> Schedule {
        Schedule {
            plans: BTreeMap::new(),
            rng: SmallRng::new(seed),
        }
    }

    /// Between 90% and 110% of a time, so that keys that went out together are not probed together for ever.
    fn jitter(&mut self, time: Duration) -> Duration {
        time.mul_f64(0.9 + 0.2 * self.rng.unit())
    }

    /// Probes that are due, at most so many. Whoever is no longer out is forgotten.
    pub(crate) fn due(&mut self, keys: &Keys, most: usize, now: Time) -> Vec<Due> {
        let mut out: BTreeSet<Slot> = BTreeSet::new();
        let mut due = Vec::new();
        for provider in keys.providers() {
            let live = provider.live();
            if !live.failover.probes() {
                continue;
            }
            let members = provider.pool().members();
            for status in provider.pool().status(now) {
                let Some(member) = members.iter().find(|m| m.key() == status.key) else {
                    continue;
                };
                let whole = std::iter::once((&Scope::EMPTY, &status.health));
                let scoped = status.scopes.iter().map(|(scope, health)| (scope, health));
                for (scope, health) in whole.chain(scoped) {
                    let is_out = match health.state {
                        MemberState::Ejected => true,
                        MemberState::Probing => live.sticky_ttl().is_some(),
                        _ => false,
                    };
                    if !is_out {
                        continue;
                    }
                    let slot = Slot {
                        key: member.payload().id.clone(),
                        scope: scope.clone(),
                    };
                    let Some(model) = model_of(&provider, &slot) else {
                        continue;
                    };
                    // Two providers may have the key: one probe does for both.
                    if !out.insert(slot.clone()) {
                        continue;
                    }
                    if self.is_due(&provider, &slot, health, now) && due.len() < most {
                        if let Some(plan) = self.plans.get_mut(&slot) {
                            plan.under_way = true;
                        }
                        due.push(Due {
                            provider: provider.clone(),
                            key: member.payload().clone(),
                            slot,
                            model,
                            since: health.since,
                        });
                    }
                }
            }
        }
        self.plans
            .retain(|slot, plan| plan.under_way || out.contains(slot));
        due
    }

    fn is_due(
        &mut self,
        provider: &Provider,
        slot: &Slot,
        health: &HealthStatus,
        now: Time,
    ) -> bool {
        let fresh = self
            .plans
            .get(slot)
            .is_none_or(|plan| plan.since != health.since && !plan.under_way);
        if fresh {
            let plan = Plan {
                due: now,
                failed: 0,
                passed: 0,
                since: health.since,
                under_way: false,
            };
            self.plans.insert(slot.clone(), plan);
            self.plan_next(provider, slot, health, now);
        }
        self.plans
            .get(slot)
            .is_some_and(|plan| plan.due <= now && !plan.under_way)
    }

    /// When the next probe of a slot is, from now.
    fn plan_next(&mut self, provider: &Provider, slot: &Slot, health: &HealthStatus, now: Time) {
        let failover = &provider.live().failover;
        let interval = failover.check_interval;
        let failed = self.plans.get(slot).map_or(0, |plan| plan.failed);
        let grown = |first: Duration, most: Duration| {
            first
                .saturating_mul(1 << failed.min(16))
                .min(most.max(first))
        };
        // What other replicas counted comes as evidence with an end too; nobody told that end.
        let counted = counted(provider, slot);
        let told = health.evidence && health.returns_at.is_some() && !counted;
        let pause = match (told, counted || failover.by_status() || health.statistics) {
            (true, _) => grown(HALF_OPEN.max(interval), LONGEST_HALF_OPEN),
            (false, true) => interval,
            (false, false) => grown(interval, LONGEST_PAUSE),
        };
        let pause = self.jitter(pause);
        if let Some(plan) = self.plans.get_mut(slot) {
            plan.due = now + pause;
        }
    }

    /// Takes a probe's finding. True if the key is back.
    pub(crate) fn found(&mut self, due: &Due, evidence: Option<&Evidence>, now: Time) -> bool {
        let failover = &due.provider.live().failover;
        let passed = match evidence {
            Some(e) if failover.by_status() => e.class == Class::Ok && e.status == 200,
            Some(e) if e.class == Class::Ok => true,
            // The model does not do what a probe asks of it, but the key was let in: it is not dead.
            Some(e) if e.class == Class::CallerFault => was_dead(&due.provider, &due.slot),
            _ => false,
        };
        let Some(plan) = self.plans.get_mut(&due.slot) else {
            return false;
        };
        plan.under_way = false;
        // It was out for another reason by the time the answer came: planned anew.
        if plan.since != due.since {
            return false;
        }
        if passed {
            plan.passed += 1;
            plan.failed = 0;
            if plan.passed >= failover.success_threshold {
                self.plans.remove(&due.slot);
                return true;
            }
        } else {
            plan.failed += 1;
        }
        let statuses = due.provider.pool().status(now);
        let status = statuses.iter().find(|s| *s.id == *due.slot.key.as_str());
        let health = status.and_then(|status| match due.slot.scope.is_empty() {
            true => Some(&status.health),
            false => status
                .scopes
                .iter()
                .find(|(s, _)| *s == due.slot.scope)
                .map(|(_, h)| h),
        });
        match health {
            Some(health) => self.plan_next(&due.provider, &due.slot, health, now),
            None => {
                self.plans.remove(&due.slot);
            }
        }
        false
    }

    /// Another replica has the lease: what was counted is not known there, and starts anew here if it comes back.
    pub(crate) fn forget(&mut self) {
        self.plans.clear();
    }
}

/// Whether what was last held against it is a failure that counts, not a word of the provider about the key.
fn counted(provider: &Provider, slot: &Slot) -> bool {
    let told = [
        Class::KeyDead,
        Class::ModelDenied,
        Class::Limited {
            scope: LimitScope::Key,
            retry_after: None,
        },
        Class::QuotaExhausted {
            scope: LimitScope::Key,
            retry_after: None,
        },
    ];
    let note = provider.note(&slot.key, &slot.scope);
    note.is_some_and(|note| !told.iter().any(|class| note.class == class_name(class)))
}

fn was_dead(provider: &Provider, slot: &Slot) -> bool {
    let note = provider.note(&slot.key, &slot.scope);
    note.is_some_and(|note| note.class == class_name(&Class::KeyDead))
}

/// The model to probe with, by the provider's name: the scope itself; for the key as a whole the configured one, else the one
/// that was asked when it failed, else any that the configuration names.
fn model_of(provider: &Provider, slot: &Slot) -> Option<String> {
    let live = provider.live();
    let configured = || {
        live.failover
            .check_model
            .as_deref()
            .map(|m| live.map(m).into_owned())
    };
    // By status the configured model decides for the whole key, as in Higress.
    if !slot.scope.is_empty() && !live.failover.by_status() {
        return Some(slot.scope.as_str().to_owned());
    }
    let failed = || Some(provider.note(&slot.key, &slot.scope)?.model?.to_string());
    let named = || live.models.first().map(|m| live.map(m).into_owned());
    configured()
        .or_else(failed)
        .or_else(|| live.mapping.some_target().map(str::to_owned))
        .or_else(named)
}

/// What a finding means for pools and replicas.
pub(crate) fn settle(
    keys: &Keys,
    due: &Due,
    back: bool,
    evidence: Option<&Evidence>,
    epoch: Option<u64>,
    now: Time,
) {
    let provider = &due.provider;
    if back {
        tracing::info!(provider = %provider.name(), key = %due.key.fingerprint, model = %due.slot.scope, epoch, "probe passed");
        let mut slots = vec![due.slot.clone()];
        if provider.live().failover.by_status() {
            // As in Higress: one good probe brings the key back, whatever it failed with. What its provider told a time for
            // stays.
            slots.extend(counted_out(provider, &due.slot, now));
        }
        for slot in slots {
            let how = Return::by_probe(epoch);
            keys.release(&slot, &how, None, now);
            provider.tell(slot, What::Back(how), now);
        }
        return;
    }
    // A probe that failed does not count, but what it says of the key is as good as from a request.
    let Some(evidence) = evidence else { return };
    let model = Scope::new(&due.model);
    let judgement = provider
        .live()
        .failover
        .judge(Outcome::Answer(evidence), &model, None, now);
    if let Verdict::Evidence { until, .. } = judgement.verdict {
        let until = until.unwrap_or(Time::NEVER);
        let note = Note {
            until: Some(until),
            ..Note::of_answer(evidence, &model, now)
        };
        let slot = Slot {
            key: due.slot.key.clone(),
            scope: judgement.scope,
        };
        keys.hold(&slot, until, &note, None, now);
        provider.tell(slot, What::Out { until, note }, now);
    }
}

/// The other scopes in which failures alone hold a key out.
fn counted_out(provider: &Provider, slot: &Slot, now: Time) -> Vec<Slot> {
    let statuses = provider.pool().status(now);
    let Some(status) = statuses.iter().find(|s| *s.id == *slot.key.as_str()) else {
        return Vec::new();
    };
    let whole = std::iter::once((&Scope::EMPTY, &status.health));
    let scoped = status.scopes.iter().map(|(scope, health)| (scope, health));
    whole
        .chain(scoped)
        .filter(|(scope, h)| {
            **scope != slot.scope && h.state == MemberState::Ejected && h.returns_at.is_none()
        })
        .map(|(scope, _)| Slot {
            key: slot.key.clone(),
            scope: scope.clone(),
        })
        .collect()
}

/// Probes keys that are out, while this replica has the lease, until it is dropped. `holder` is unique to this process and this
/// start of it.
pub async fn probe(
    keys: Arc<Keys>,
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    prober: Arc<dyn Probe>,
    holder: String,
) {
    let Ok(name) = lease_name() else { return };
    let seed = tidegate_core::hash::hash64(holder.as_bytes(), clock.unix_ms());
    let candidate = Candidate::start(store.clone(), name, holder, LEASE);
    let mut schedule = Schedule::new(seed);
    let mut working: Working<(Due, Option<u64>), Option<Evidence>> = Working::default();
    let mut ticks = tokio::time::interval(LOOK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut last = None;
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            Some(((due, epoch), evidence)) = working.next() => {
                let (evidence, now) = (evidence.flatten(), clock.now());
                // Found under a lease that is lost: its next holder looks for itself.
                if epoch == candidate.lease().map(|lease| lease.epoch.0) {
                    let back = schedule.found(&due, evidence.as_ref(), now);
                    settle(&keys, &due, back, evidence.as_ref(), epoch, now);
                }
                continue;
            }
        }
        let epoch = candidate.lease().map(|lease| lease.epoch.0);
        if epoch != last {
            schedule.forget();
            last = epoch;
        }
        // Somebody else has it.
        if epoch.is_none() && store.connected() {
            schedule.forget();
            continue;
        }
        let room = MOST_PROBES.saturating_sub(working.len());
        for due in schedule.due(&keys, room, clock.now()) {
            let (prober, asked) = (prober.clone(), due.clone());
            working.begin((due, epoch), async move {
                let timeout = asked.provider.live().failover.check_timeout;
                let asking = prober.probe(&asked.provider, &asked.key, &asked.model);
                tokio::time::timeout(timeout, asking).await.ok()
            });
        }
    }
}
