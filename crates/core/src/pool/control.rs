//! The slow half of a pool: everything that changes who may be picked. One mutex, entered rarely: when members or the
//! policy change, a threshold is reached, a trial ends, evidence comes, and on the sweep.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Weak};
use std::time::Duration;

use super::views::{Seat, Views};
use super::{Inner, Tuning};
use crate::health::cell::Cell;
use crate::health::ledger::{Fitness, Ledger, Transition};
use crate::member::{Locality, Member, MemberKey, MemberSpec, Scope};
use crate::policy::{Balance, PoolPolicy, Start};
use crate::rng::SmallRng;
use crate::time::Time;
use crate::verdict::{Cause, MemberState, PoolEvent};

/// What an update of the member list changed, by id.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// New members (also those whose payload changed).
    pub added: Vec<Arc<str>>,
    /// Members no longer listed (also those whose payload changed).
    pub removed: Vec<Arc<str>>,
    /// Members that stay, with another weight, locality or priority.
    pub changed: Vec<Arc<str>>,
}

pub(crate) struct Control<T> {
    pub(super) policy: Arc<PoolPolicy>,
    me: Weak<Inner<T>>,
    tuning: Arc<Tuning>,
    pub(super) rng: SmallRng,
    /// In the order of the member list.
    pub(super) records: Vec<Record<T>>,
    /// No longer listed, requests in flight.
    pub(super) leaving: Vec<Record<T>>,
    /// Health by scope, only where there is something to remember.
    pub(super) scopes: BTreeMap<Scope, BTreeMap<MemberKey, Scoped>>,
    pub(super) cells: usize,
    pub(super) events: VecDeque<PoolEvent>,
    /// Statistical ejections that were not allowed.
    pub(super) refused: u64,
    /// Ejections of members that are gone.
    pub(super) gone_ejections: u64,
    pub(super) next_sweep: Time,
    pub(super) next_reweigh: Time,
    /// When the first evidence ends, or earlier.
    pub(super) next_end: Time,
}

/// A member with what the pool was told and has found out about it.
pub(crate) struct Record<T> {
    pub(super) member: Arc<Member<T>>,
    pub(super) weight: u32,
    pub(super) locality: Locality,
    pub(super) priority: u32,
    /// Since when it is draining.
    pub(super) draining: Option<Time>,
    pub(super) ledger: Ledger,
    /// Ejections in scopes that are no longer remembered.
    pub(super) forgotten: u64,
}

/// Health of a member in one scope.
pub(crate) struct Scoped {
    pub(super) cell: Arc<Cell>,
    pub(super) ledger: Ledger,
    /// When it was last needed.
    pub(super) touched: Time,
}

/// How a member stands in a scope, the whole member's health included.
#[derive(Clone, Copy)]
pub(super) struct Standing {
    pub(super) fitness: Fitness,
    /// Out by statistics alone.
    pub(super) statistical: bool,
    /// Held out by statistics, evidence or not.
    pub(super) held: bool,
    pub(super) returns_at: Option<Time>,
}

const MOST_EVENTS: usize = 4096;
/// Interval of the sweep where outlier detection is off.
const IDLE_SWEEP: Duration = Duration::from_secs(10);
/// How often somebody has to look whether a leaving member is done.
const LEAVING_POLL: Duration = Duration::from_millis(100);

impl<T> Record<T> {
    /// Whether it may be picked at all.
    pub(super) fn has_seat(&self) -> bool {
        self.weight > 0 && self.draining.is_none()
    }
}

impl<T: PartialEq> Control<T> {
    pub(super) fn update(
        &mut self,
        inner: &Inner<T>,
        specs: Vec<MemberSpec<T>>,
        first: bool,
        now: Time,
    ) -> Change {
        let mut change = Change::default();
        let mut old: HashMap<Arc<str>, Record<T>> = self
            .records
            .drain(..)
            .map(|r| (r.member.id().clone(), r))
            .collect();
        let mut seen: HashSet<Arc<str>> = HashSet::with_capacity(specs.len());
        for spec in specs {
            if !seen.insert(spec.id.clone()) {
                continue;
            }
            let listed = old.remove(&spec.id);
            let same = match listed {
                Some(record) if *record.member.payload() == spec.payload => Some(record),
                other => {
                    // One that is still leaving comes back as what it was.
                    let back = self.leaving.iter().position(|r| {
                        *r.member.id() == spec.id && *r.member.payload() == spec.payload
                    });
                    let back = back.map(|i| self.leaving.swap_remove(i));
                    if let Some(record) = other {
                        change.removed.push(spec.id.clone());
                        self.leave(record, now);
                    }
                    if let Some(record) = &back {
                        let to = record.ledger.state();
                        self.tell(
                            record.member.id().clone(),
                            record.member.key(),
                            Scope::EMPTY,
                            MemberState::Draining,
                            to,
                            Cause::Added,
                            now,
                        );
                        change.added.push(spec.id.clone());
                    }
                    back.map(|r| Record {
                        draining: None,
                        ..r
                    })
                }
            };
            match same {
                Some(mut record) => {
                    if (record.weight, &record.locality, record.priority)
                        != (spec.weight, &spec.locality, spec.priority)
                    {
                        (record.weight, record.locality, record.priority) =
                            (spec.weight, spec.locality, spec.priority);
                        change.changed.push(spec.id.clone());
                    }
                    self.records.push(record);
                }
                None => {
                    change.added.push(spec.id.clone());
                    let record = self.admit(spec, first, now);
                    self.records.push(record);
                }
            }
        }
        let mut gone: Vec<_> = old.into_values().collect();
        gone.sort_by_key(|r| r.member.key());
        for record in gone {
            change.removed.push(record.member.id().clone());
            self.leave(record, now);
        }
        if change != Change::default() {
            self.rebuild(inner, now);
        }
        change
    }
}

impl<T> Control<T> {
    pub(super) fn new(
        policy: Arc<PoolPolicy>,
        me: Weak<Inner<T>>,
        tuning: Arc<Tuning>,
        seed: u64,
        now: Time,
    ) -> Control<T> {
        let mut control = Control {
            policy,
            me,
            tuning,
            rng: SmallRng::new(seed),
            records: Vec::new(),
            leaving: Vec::new(),
            scopes: BTreeMap::new(),
            cells: 0,
            events: VecDeque::new(),
            refused: 0,
            gone_ejections: 0,
            next_sweep: now,
            next_reweigh: Time::NEVER,
            next_end: Time::NEVER,
        };
        control.next_sweep = now + control.interval();
        control
    }

    fn admit(&mut self, spec: MemberSpec<T>, first: bool, now: Time) -> Record<T> {
        let member = Arc::new(Member::new(
            spec.id,
            spec.payload,
            self.tuning.clone(),
            self.me.clone(),
        ));
        member
            .hot
            .cell
            .set_window(self.policy.outlier.as_ref().and_then(|o| o.errors.as_ref()));
        let warming = self.policy.start == Start::Warming;
        let ledger = Ledger::new(warming, self.policy.slow_start.is_some() && !first, now);
        let (key, to) = (member.key(), ledger.state());
        self.tell(
            member.id().clone(),
            key,
            Scope::EMPTY,
            MemberState::Gone,
            to,
            Cause::Added,
            now,
        );
        Record {
            member,
            weight: spec.weight,
            locality: spec.locality,
            priority: spec.priority,
            draining: None,
            ledger,
            forgotten: 0,
        }
    }

    fn leave(&mut self, mut record: Record<T>, now: Time) {
        let (id, key, from) = (
            record.member.id().clone(),
            record.member.key(),
            record.ledger.state(),
        );
        record.forgotten += self.forget_scopes(key);
        if record.draining.is_none() {
            record.draining = Some(now);
            self.tell(
                id,
                key,
                Scope::EMPTY,
                from,
                MemberState::Draining,
                Cause::Removed,
                now,
            );
        }
        // Even with nothing in flight: a pick that reads the old views may be on its way. The next tick sees it off.
        self.leaving.push(record);
    }

    pub(super) fn set_policy(&mut self, inner: &Inner<T>, policy: PoolPolicy, now: Time) {
        let window = policy.outlier.as_ref().and_then(|o| o.errors.as_ref());
        for record in &self.records {
            record.member.hot.cell.set_window(window);
        }
        for scoped in self.scopes.values().flat_map(BTreeMap::values) {
            scoped.cell.set_window(window);
        }
        let pardon = policy.outlier.is_none();
        self.policy = Arc::new(policy);
        self.tuning.set(&self.policy);
        if pardon {
            self.each_ledger(now, |_, ledger, _| ledger.pardon(now));
        }
        self.next_sweep = self.next_sweep.min(now + self.interval());
        self.rebuild(inner, now);
    }

    pub(super) fn drain(
        &mut self,
        inner: &Inner<T>,
        key: MemberKey,
        draining: bool,
        now: Time,
    ) -> bool {
        let Some(record) = self.records.iter_mut().find(|r| r.member.key() == key) else {
            return false;
        };
        if record.draining.is_some() == draining {
            return true;
        }
        record.draining = draining.then_some(now);
        let (id, state) = (record.member.id().clone(), record.ledger.state());
        let (from, to) = if draining {
            (state, MemberState::Draining)
        } else {
            (MemberState::Draining, state)
        };
        self.tell(id, key, Scope::EMPTY, from, to, Cause::Asked, now);
        self.rebuild(inner, now);
        true
    }

    pub(super) fn interval(&self) -> Duration {
        let interval = self
            .policy
            .outlier
            .as_ref()
            .map_or(IDLE_SWEEP, |o| o.interval);
        interval.max(Duration::from_millis(1))
    }

    #[allow(clippy::too_many_arguments)] // the fields of an event
    fn tell(
        &mut self,
        member: Arc<str>,
        key: MemberKey,
        scope: Scope,
        from: MemberState,
        to: MemberState,
        cause: Cause,
        at: Time,
    ) {
        if self.events.len() >= MOST_EVENTS {
            self.events.pop_front();
        }
        self.events.push_back(PoolEvent {
            at,
            member,
            key,
            scope,
            from,
            to,
            cause,
        });
    }

    /// Tells of a transition. Of a draining member nothing is told but that it drains: what its health became
    /// meanwhile is told when it stops.
    pub(super) fn tell_transition(
        &mut self,
        key: MemberKey,
        scope: &Scope,
        transition: Transition,
        now: Time,
    ) {
        let record = self.records.iter().find(|r| r.member.key() == key);
        // What got it ejected says nothing about what came back. With five failures' penalties it would be fit again and
        // still get nothing for a minute.
        if let Some(record) = record
            && scope.is_empty()
            && transition.from == MemberState::Ejected
        {
            record.member.hot.ewma.forget();
        }
        if let Some(record) = record.filter(|r| r.draining.is_none()) {
            let id = record.member.id().clone();
            self.tell(
                id,
                key,
                scope.clone(),
                transition.from,
                transition.to,
                transition.cause,
                now,
            );
        }
    }

    /// Runs over every ledger, the members' own first; tells the transitions. Returns the scopes in which there were
    /// any (the empty one: the pool as a whole).
    pub(super) fn each_ledger(
        &mut self,
        now: Time,
        mut act: impl FnMut(&Cell, &mut Ledger, &Scope) -> Option<Transition>,
    ) -> bool {
        let mut told = Vec::new();
        for record in &mut self.records {
            if let Some(transition) =
                act(&record.member.hot.cell, &mut record.ledger, &Scope::EMPTY)
            {
                told.push((record.member.key(), Scope::EMPTY, transition));
            }
        }
        for (scope, members) in &mut self.scopes {
            for (key, scoped) in members {
                if let Some(transition) = act(&scoped.cell, &mut scoped.ledger, scope) {
                    told.push((*key, scope.clone(), transition));
                }
            }
        }
        let any = !told.is_empty();
        for (key, scope, transition) in told {
            self.tell_transition(key, &scope, transition, now);
        }
        any
    }

    pub(super) fn standing(&self, record: &Record<T>, scope: &Scope) -> Standing {
        let ledger = &record.ledger;
        let mut standing = Standing {
            fitness: ledger.fitness(),
            statistical: ledger.is_statistical(),
            held: ledger.holds_statistics(),
            returns_at: self.back_at(ledger),
        };
        if !scope.is_empty()
            && let Some(scoped) = self
                .scopes
                .get(scope)
                .and_then(|members| members.get(&record.member.key()))
        {
            standing.fitness = standing.fitness.max(scoped.ledger.fitness());
            standing.statistical = standing.fitness == Fitness::Doubtful
                && (standing.statistical || scoped.ledger.is_statistical());
            standing.held |= scoped.ledger.holds_statistics();
            standing.returns_at = standing.returns_at.max(self.back_at(&scoped.ledger));
        }
        standing
    }

    /// When a member that is out can really be back: statistics end on the sweep.
    fn back_at(&self, ledger: &Ledger) -> Option<Time> {
        let at = ledger.returns_at()?;
        if !ledger.holds_statistics() || at == Time::NEVER {
            return Some(at);
        }
        let interval = crate::time::nanos(self.interval());
        let sweeps = at
            .since(self.next_sweep)
            .as_nanos()
            .div_ceil(u128::from(interval));
        Some(Time(
            self.next_sweep
                .0
                .saturating_add((sweeps as u64).saturating_mul(interval)),
        ))
    }

    pub(super) fn factor(&self, ledger: &Ledger, now: Time) -> f64 {
        match (&self.policy.slow_start, ledger.ramp()) {
            (Some(slow_start), Some(since)) => slow_start.factor(now.since(since)),
            _ => 1.0,
        }
    }

    /// New views of the pool and of every scope that differs from it.
    pub(super) fn rebuild(&mut self, inner: &Inner<T>, now: Time) {
        let views = Views::build(
            self.seats(&Scope::EMPTY, now),
            self.policy.clone(),
            now,
            Some(&inner.views.load()),
        );
        inner.views.store(Arc::new(views));
        let scopes: Vec<Scope> = self.scopes.keys().cloned().collect();
        for scope in scopes {
            self.publish(inner, &scope, now);
        }
        let ramping = self.policy.slow_start.is_some()
            && self.records.iter().any(|r| r.ledger.ramp().is_some());
        let reweigh = match (&self.policy.balance, ramping) {
            (Balance::BackendLoad(load), _) => Some(load.weight_update_period),
            (balance, true) if !balance.wants_hash() => {
                self.policy.slow_start.as_ref().map(|s| s.window / 100)
            }
            _ => None,
        };
        self.next_reweigh = reweigh.map_or(Time::NEVER, |period| {
            now + period.max(Duration::from_millis(100))
        });
    }

    pub(super) fn seats(&self, scope: &Scope, now: Time) -> Vec<Seat<T>> {
        let seated = self.records.iter().filter(|r| r.has_seat());
        seated
            .map(|record| {
                let standing = self.standing(record, scope);
                Seat {
                    member: record.member.clone(),
                    weight: record.weight,
                    factor: if self.policy.balance.wants_hash() {
                        1.0
                    } else {
                        self.factor(&record.ledger, now)
                    },
                    locality: record.locality.clone(),
                    priority: record.priority,
                    fitness: standing.fitness,
                    statistical: standing.statistical,
                    returns_at: standing.returns_at,
                }
            })
            .collect()
    }

    /// Median latency estimate of the measured members, for those that have none. Not the mean: one member that hangs
    /// would make every new one look slow.
    pub(super) fn set_typical(&self, now: Time) {
        let per_halving = self.tuning.per_halving();
        let ewmas = self.records.iter().map(|r| &r.member.hot.ewma);
        let mut estimates: Vec<f64> = ewmas
            .filter(|ewma| ewma.is_measured())
            .map(|ewma| ewma.estimate(now, per_halving, 0.0))
            .collect();
        if !estimates.is_empty() {
            // The lower one of two: a newcomer is tried rather than left aside.
            let middle = (estimates.len() - 1) / 2;
            let (_, median, _) = estimates.select_nth_unstable_by(middle, f64::total_cmp);
            self.tuning.typical.store(median.to_bits(), Relaxed);
        }
    }

    /// Those that left and have nothing in flight are gone. Returns whether any are still leaving.
    pub(super) fn see_off(&mut self, inner: &Inner<T>, now: Time) {
        let (gone, leaving) = self
            .leaving
            .drain(..)
            .partition(|r: &Record<T>| r.member.inflight() == 0);
        self.leaving = leaving;
        let gone: Vec<Record<T>> = gone;
        for record in gone {
            let (id, key) = (record.member.id().clone(), record.member.key());
            self.gone_ejections += record.ledger.ejections() + record.forgotten;
            self.tell(
                id,
                key,
                Scope::EMPTY,
                MemberState::Draining,
                MemberState::Gone,
                Cause::Removed,
                now,
            );
        }
        // Scopes that were forgotten with a member.
        let empty: Vec<Scope> = self
            .scopes
            .iter()
            .filter(|(_, members)| members.is_empty())
            .map(|(s, _)| s.clone())
            .collect();
        for scope in empty {
            self.scopes.remove(&scope);
            self.publish(inner, &scope, now);
        }
    }

    pub(super) fn next_due(&self, now: Time) -> Time {
        let due = self.next_sweep.min(self.next_reweigh).min(self.next_end);
        if self.leaving.is_empty() {
            due
        } else {
            due.min(now + LEAVING_POLL)
        }
    }
}
