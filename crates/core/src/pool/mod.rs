//! The pool: members, their health, and the choice among them.
//!
//! Two halves. What every request does ([`Pool::pick`], [`Pick::finish`]) reads an immutable [`Views`] behind an
//! `ArcSwap` and counts on atomics. What happens rarely (members, policy, a threshold reached, evidence, the sweep) goes
//! through [`Control`] under one mutex and ends in new views.

mod control;
mod judge;
mod pick;
mod scopes;
mod status;
mod views;

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;

pub use control::Change;
pub use pick::{InFlight, Pick};
pub use status::{PoolStatus, PoolSummary};

use crate::balance::{Ask, Entry, ewma};
use crate::health::cell::Thresholds;
use crate::member::{Locality, Member, MemberKey, MemberSpec, MemberStatus, Scope};
use crate::policy::{Balance, PoolPolicy, WhenExhausted};
use crate::rng::{Rng, SmallRng};
use crate::time::Time;
use crate::verdict::{PoolEvent, Verdict};
use control::Control;
use scopes::ScopeTable;
use views::Views;

/// A set of members with one policy. Cheap to clone: clones are the same pool.
pub struct Pool<T> {
    inner: Arc<Inner<T>>,
}

impl<T> Clone for Pool<T> {
    fn clone(&self) -> Self {
        Pool {
            inner: self.inner.clone(),
        }
    }
}

pub(crate) struct Inner<T> {
    /// Views of the empty scope.
    views: ArcSwap<Views<T>>,
    /// Members' health in other scopes, and views where it differs.
    scopes: ScopeTable<T>,
    tuning: Arc<Tuning>,
    control: Mutex<Control<T>>,
}

/// Numbers of the policy that finishing a request needs, where it can read them without following the views.
#[derive(Default)]
pub(crate) struct Tuning {
    /// `f64` bits.
    per_halving: AtomicU64,
    /// Mean latency estimate of the measured members; `f64` bits, nanoseconds.
    typical: AtomicU64,
    penalty: AtomicU32,
    /// `f32` bits.
    error_penalty: AtomicU32,
    thresholds: Thresholds,
    /// Whether requests in flight are summed up over the pool (bounded load).
    sum_inflight: AtomicBool,
    inflight: Apart,
}

/// A counter on cache lines of its own: the rest of [`Tuning`] is read by every thread and hardly ever written.
#[derive(Default)]
#[repr(align(128))]
struct Apart(AtomicU32);

impl Tuning {
    fn set(&self, policy: &PoolPolicy) {
        let peak = match &policy.balance {
            Balance::PeakEwma(peak) => peak.clone(),
            _ => crate::policy::PeakEwma::default(),
        };
        self.per_halving
            .store(ewma::per_halving(peak.decay).to_bits(), Relaxed);
        self.penalty.store(peak.penalty, Relaxed);
        if let Balance::BackendLoad(load) = &policy.balance {
            self.error_penalty
                .store(load.error_utilization_penalty.to_bits(), Relaxed);
        }
        let bounded = match &policy.balance {
            Balance::RingHash(ring) => ring.bounded_load.is_some(),
            Balance::Maglev(maglev) => maglev.bounded_load.is_some(),
            _ => false,
        };
        self.sum_inflight.store(bounded, Relaxed);
        self.thresholds.set(policy.outlier.as_ref());
    }

    fn per_halving(&self) -> f64 {
        f64::from_bits(self.per_halving.load(Relaxed))
    }

    pub(crate) fn error_penalty(&self) -> f32 {
        f32::from_bits(self.error_penalty.load(Relaxed))
    }

    fn typical(&self) -> f64 {
        f64::from_bits(self.typical.load(Relaxed))
    }
}

/// What a pick goes by. `PickRequest::default()` asks for any member.
#[derive(Clone, Copy, Debug)]
pub struct PickRequest<'a> {
    /// For the hash balancers: of a header, cookie, query parameter or source address. Without it they choose at random.
    pub hash: Option<u64>,
    /// Members that this request tried before: avoided unless nothing else is fit.
    pub exclude: &'a [MemberKey],
    /// Members that must not get this request again, whatever else is fit: a key that was refused by its provider.
    pub never: &'a [MemberKey],
    /// Taken before any other if it is fit and in neither list: whom a session sticks to.
    pub prefer: Option<MemberKey>,
    /// Whose health counts: see [`Scope`].
    pub scope: &'a Scope,
    /// Where the request comes from.
    pub local: &'a Locality,
}

impl Default for PickRequest<'_> {
    fn default() -> Self {
        PickRequest {
            hash: None,
            exclude: &[],
            never: &[],
            prefer: None,
            scope: &Scope::EMPTY,
            local: &Locality::NOWHERE,
        }
    }
}

/// Why there is no member to pick.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoPick {
    /// No members, or only draining and weightless ones.
    #[error("the pool has no members")]
    Empty,
    /// Every member is out.
    #[error("no member is fit")]
    NoneFit {
        /// When the first one returns; `None` if only active checks bring members back.
        returns_at: Option<Time>,
    },
    /// The only fit members are on trial and their trials are taken ([`Probation::strict`](crate::Probation)).
    #[error("the fit members are on trial, and all trials are taken")]
    TrialsTaken,
}

/// Which members on trial may be chosen.
#[derive(Clone, Copy, PartialEq)]
enum Trials {
    /// Those with a trial left.
    Free,
    /// Any.
    Any,
}

impl<T: PartialEq> Pool<T> {
    /// A pool with its first members. `seed` makes the pool's own few random decisions (ejection jitter, enforcing
    /// percentages) repeatable. Of several specs with one id the first counts.
    pub fn new(policy: PoolPolicy, members: Vec<MemberSpec<T>>, seed: u64, now: Time) -> Pool<T> {
        let policy = Arc::new(policy);
        let tuning = Arc::new(Tuning::default());
        tuning.set(&policy);
        let inner = Arc::new_cyclic(|me| Inner {
            views: ArcSwap::from_pointee(Views::build(Vec::new(), policy.clone(), now, None)),
            scopes: ScopeTable::default(),
            control: Mutex::new(Control::new(
                policy.clone(),
                me.clone(),
                tuning.clone(),
                seed,
                now,
            )),
            tuning,
        });
        inner.lock().update(&inner, members, true, now);
        Pool { inner }
    }

    /// Replaces the member list. Members whose id and payload are in the new list stay the same objects with their
    /// health and statistics (weight, locality and priority may change); one that is gone finishes what it has in flight.
    pub fn update(&self, members: Vec<MemberSpec<T>>, now: Time) -> Change {
        self.inner.lock().update(&self.inner, members, false, now)
    }
}

impl<T> Pool<T> {
    /// Replaces the policy. Health is kept; switching outlier detection off frees the statistically ejected.
    pub fn set_policy(&self, policy: PoolPolicy, now: Time) {
        self.inner.lock().set_policy(&self.inner, policy, now);
    }

    /// The policy in force.
    pub fn policy(&self) -> Arc<PoolPolicy> {
        self.inner.views.load().policy.clone()
    }

    /// Chooses a member and counts the request as in flight on it until the [`Pick`] is dropped. No lock, no allocation.
    ///
    /// # Errors
    /// [`NoPick`] if no member is fit and the policy does not fall back to the least bad one.
    pub fn pick(
        &self,
        request: &PickRequest<'_>,
        now: Time,
        rng: &mut impl Rng,
    ) -> Result<Pick<T>, NoPick> {
        let found = self.inner.pick(request, now, rng);
        match found {
            // Somebody's time is over and no sweep has come by: do its work here rather than fail.
            Err(NoPick::NoneFit {
                returns_at: Some(at),
            }) if at <= now => {
                self.tick(now);
                self.inner.pick(request, now, rng)
            }
            found => found,
        }
    }

    /// The member that a hash balancer would send this key to now; `None` for the other balancers, or if there is none.
    /// Counts nothing.
    pub fn owner(&self, hash: u64, local: &Locality) -> Option<MemberKey> {
        let views = self.inner.views.load();
        if !views.policy.balance.wants_hash() {
            return None;
        }
        let ask = self.inner.ask(Some(hash), Time::ZERO);
        // Only the choice among several tiers is random: the key decides that here too.
        let mut rng = SmallRng::new(hash);
        let body = views.view(local);
        let first = body.tiers.get(body.tier(&mut rng))?;
        let entry = first.group.choose(&ask, &mut rng, |_| true)?;
        first.group.entries.get(entry).map(|e| e.member.key())
    }

    /// Takes evidence from outside. `Ok` is a passed active check and brings the member back from anything; `Failure`
    /// counts like an attempt's; `Evidence` acts at once. Returns false if there is no such member (any more).
    pub fn report(&self, member: MemberKey, scope: &Scope, verdict: Verdict, now: Time) -> bool {
        self.inner
            .lock()
            .report(&self.inner, member, scope, verdict, now)
    }

    /// Stops picking a member without removing it (or, with `false`, takes that back). Returns false if there is no such member.
    pub fn drain(&self, member: MemberKey, draining: bool, now: Time) -> bool {
        self.inner.lock().drain(&self.inner, member, draining, now)
    }

    /// The sweep and everything else that time brings about: returns from ejection, statistics of the interval, slow
    /// start, new weights. Call it at the time that it returns, or about every 100 ms; more often does no harm.
    pub fn tick(&self, now: Time) -> Time {
        self.inner.lock().tick(&self.inner, now)
    }

    /// Takes the changes of state since the last call, oldest first. At most 4,096 wait; older ones are dropped.
    pub fn drain_events(&self) -> Vec<PoolEvent> {
        self.inner.lock().events.drain(..).collect()
    }

    /// Every member with its health, in the order of the member list, draining ones last.
    pub fn status(&self, now: Time) -> Vec<MemberStatus> {
        self.inner.lock().status(&self.inner, now)
    }

    /// The same with what is left of members that are gone, for sums that must not fall when one leaves.
    pub fn whole_status(&self, now: Time) -> PoolStatus {
        self.inner.lock().whole_status(&self.inner, now)
    }

    /// The pool as a whole, in one scope.
    pub fn summary(&self, scope: &Scope) -> PoolSummary {
        self.inner.lock().summary(&self.inner, scope)
    }

    /// The members of the list, draining ones left out.
    pub fn members(&self) -> Vec<Arc<Member<T>>> {
        self.inner.lock().members()
    }

    /// Requests in flight over all members that may be picked: a sum, made now, without a lock.
    pub fn inflight(&self) -> u64 {
        self.inner.views.load().inflight()
    }
}

impl<T> Inner<T> {
    pub(crate) fn lock(&self) -> MutexGuard<'_, Control<T>> {
        // What a panicking thread left behind is counters and ledgers, each valid alone: serving goes on.
        self.control.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[inline]
    fn ask(&self, hash: Option<u64>, now: Time) -> Ask {
        Ask {
            hash,
            now,
            per_halving: self.tuning.per_halving(),
            typical: self.tuning.typical(),
            pool_inflight: self.tuning.inflight.0.load(Relaxed),
        }
    }

    fn pick(
        &self,
        request: &PickRequest<'_>,
        now: Time,
        rng: &mut impl Rng,
    ) -> Result<Pick<T>, NoPick> {
        if request.scope.is_empty() {
            return self.pick_from(&self.views.load(), request, now, rng);
        }
        match self.scopes.views(request.scope) {
            Some(views) => self.pick_from(&views, request, now, rng),
            None => self.pick_from(&self.views.load(), request, now, rng),
        }
    }

    fn pick_from(
        &self,
        views: &Views<T>,
        request: &PickRequest<'_>,
        now: Time,
        rng: &mut impl Rng,
    ) -> Result<Pick<T>, NoPick> {
        let ask = self.ask(request.hash, now);
        let body = views.view(request.local);
        let first = body.tier(rng);
        // The plain case: the tier whose turn it is, nobody wanted or unwanted, nobody on trial.
        if request.exclude.is_empty()
            && request.never.is_empty()
            && request.prefer.is_none()
            && let Some(tier) = body.tiers.get(first)
            && !tier.group.has_trials
            && let Some(entry) = tier
                .group
                .choose(&ask, rng, |_| true)
                .and_then(|i| tier.group.entries.get(i))
        {
            return Ok(Pick::of(
                &entry.member,
                request.scope,
                false,
                false,
                &self.tuning,
            ));
        }
        let strict = views.policy.probation.as_ref().is_some_and(|p| p.strict);
        let limit = views
            .policy
            .probation
            .as_ref()
            .map_or(u32::MAX, |p| p.concurrent.max(1));
        if let Some(wanted) = request.prefer
            && !request.exclude.contains(&wanted)
            && !request.never.contains(&wanted)
            && let Some(entry) = body
                .tiers
                .iter()
                .flat_map(|tier| &tier.group.entries)
                .find(|e| e.member.key() == wanted)
            && (!entry.trial || entry.member.hot.take_trial(limit))
        {
            return Ok(Pick::of(
                &entry.member,
                request.scope,
                entry.trial,
                entry.trial,
                &self.tuning,
            ));
        }
        let none: &[MemberKey] = &[];
        let mut on_trial = false;
        for exclude in [request.exclude, none] {
            for trials in [Trials::Free, Trials::Any] {
                if trials == Trials::Any && (strict || !on_trial) {
                    continue;
                }
                let order =
                    std::iter::once(first).chain((0..body.tiers.len()).filter(|i| *i != first));
                for group in order
                    .filter_map(|i| body.tiers.get(i))
                    .map(|tier| &tier.group)
                {
                    let barred = |e: &Entry<T>| request.never.contains(&e.member.key());
                    on_trial |=
                        group.has_trials && group.entries.iter().any(|e| e.trial && !barred(e));
                    let eligible = |e: &Entry<T>| {
                        !exclude.contains(&e.member.key())
                            && !barred(e)
                            && (!e.trial
                                || trials == Trials::Any
                                || e.member.hot.trials.load(Relaxed) < limit)
                    };
                    // Another thread may take the trial between the choice and here: choose again, at most once a member.
                    for _ in 0..=group.entries.len() {
                        let Some(entry) = group
                            .choose(&ask, rng, eligible)
                            .and_then(|i| group.entries.get(i))
                        else {
                            break;
                        };
                        let takes_trial = entry.trial && trials == Trials::Free;
                        if !takes_trial || entry.member.hot.take_trial(limit) {
                            return Ok(Pick::of(
                                &entry.member,
                                request.scope,
                                entry.trial,
                                takes_trial,
                                &self.tuning,
                            ));
                        }
                    }
                }
            }
            if request.exclude.is_empty() {
                break;
            }
        }
        if views.is_empty() {
            return Err(NoPick::Empty);
        }
        if on_trial {
            return Err(NoPick::TrialsTaken);
        }
        if views.policy.when_exhausted == WhenExhausted::UseLeastBad {
            let mut usable = views
                .least_bad
                .iter()
                .filter(|m| !request.never.contains(&m.key()));
            let fresh = usable.clone().find(|m| !request.exclude.contains(&m.key()));
            if let Some(member) = fresh.or_else(|| usable.next()) {
                return Ok(Pick::of(member, request.scope, false, false, &self.tuning));
            }
        }
        Err(NoPick::NoneFit {
            returns_at: views.returns_at,
        })
    }
}

impl<T> fmt::Debug for Pool<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let views = self.inner.views.load();
        f.debug_struct("Pool")
            .field("balance", &views.policy.balance.name())
            .field("fit", &views.fit)
            .finish_non_exhaustive()
    }
}
