//! What people see of a pool.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::Inner;
use super::control::{Control, Record};
use crate::health::ledger::{Fitness, Ledger};
use crate::member::{HealthStatus, Member, MemberStatus, Scope};
use crate::time::Time;
use crate::verdict::{Cause, MemberState};

/// A pool in numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolSummary {
    /// Members that have a weight and are not draining.
    pub members: usize,
    /// Of them fit, those on trial included.
    pub fit: usize,
    /// Of them out by statistics alone.
    pub ejected: usize,
    /// True while members that are not fit are used for want of fit ones.
    pub panic: bool,
    /// Statistical ejections that the pool's limits did not allow, since it was made.
    pub refused_ejections: u64,
}

/// Every member of a pool, and what is left of those that are gone, at one moment.
#[derive(Clone, Debug)]
pub struct PoolStatus {
    /// In the order of the member list, draining ones last.
    pub members: Vec<MemberStatus>,
    /// Ejections of members that were listed once and are no more: with those of `members`, all that ever were.
    pub gone_ejections: u64,
}

fn health(ledger: &Ledger, draining: Option<Time>) -> HealthStatus {
    HealthStatus {
        state: if draining.is_some() {
            MemberState::Draining
        } else {
            ledger.state()
        },
        cause: if draining.is_some() {
            Some(Cause::Asked)
        } else {
            ledger.cause().cloned()
        },
        since: draining.unwrap_or(ledger.since()),
        returns_at: ledger.returns_at().filter(|at| *at != Time::NEVER),
        evidence: ledger.has_evidence(),
        statistics: ledger.holds_statistics(),
        ejections: ledger.ejections(),
        multiplier: ledger.multiplier(),
    }
}

impl<T> Control<T> {
    pub(crate) fn members(&self) -> Vec<Arc<Member<T>>> {
        self.records
            .iter()
            .filter(|r| r.draining.is_none())
            .map(|r| r.member.clone())
            .collect()
    }

    pub(crate) fn summary(&self, inner: &Inner<T>, scope: &Scope) -> PoolSummary {
        let views = inner
            .scopes
            .views(scope)
            .unwrap_or_else(|| inner.views.load_full());
        let standing: Vec<_> = self
            .records
            .iter()
            .filter(|r| r.has_seat())
            .map(|r| self.standing(r, scope))
            .collect();
        PoolSummary {
            members: standing.len(),
            fit: standing
                .iter()
                .filter(|s| s.fitness <= Fitness::Trial)
                .count(),
            ejected: standing.iter().filter(|s| s.statistical).count(),
            panic: views.panic,
            refused_ejections: self.refused,
        }
    }

    pub(crate) fn status(&self, inner: &Inner<T>, now: Time) -> Vec<MemberStatus> {
        self.records
            .iter()
            .chain(&self.leaving)
            .map(|record| self.member_status(record, inner, now))
            .collect()
    }

    pub(crate) fn whole_status(&self, inner: &Inner<T>, now: Time) -> PoolStatus {
        PoolStatus {
            members: self.status(inner, now),
            gone_ejections: self.gone_ejections,
        }
    }

    fn member_status(&self, record: &Record<T>, inner: &Inner<T>, now: Time) -> MemberStatus {
        let member = &record.member;
        let scopes = self
            .scopes
            .iter()
            .filter_map(|(scope, members)| {
                members
                    .get(&member.key())
                    .map(|r| (scope.clone(), health(&r.ledger, record.draining)))
            })
            .collect();
        MemberStatus {
            id: member.id().clone(),
            key: member.key(),
            weight: record.weight,
            weight_factor: self.factor(&record.ledger, now),
            locality: record.locality.clone(),
            priority: record.priority,
            health: health(&record.ledger, record.draining),
            scopes,
            forgotten_ejections: record.forgotten,
            inflight: member.inflight(),
            attempts: member.hot.attempts(),
            failures: member.hot.failures.load(Relaxed),
            ewma: member.hot.ewma.measured(now, inner.tuning.per_halving()),
        }
    }
}
