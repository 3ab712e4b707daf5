//! A request on its way: in flight from the pick until the guard is dropped.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use super::{Inner, Tuning};
use crate::member::{Hot, Member, Scope};
use crate::time::Time;
use crate::verdict::Verdict;

/// A chosen member with one request in flight on it. Owned: it may outlive the pool.
///
/// Dropping it ends the request; unless [`finish`](Pick::finish) was called the outcome is neutral.
#[must_use = "a pick that is dropped at once chooses a member and sends it nothing"]
pub struct Pick<T> {
    member: Arc<Member<T>>,
    scope: Scope,
    /// The member was probing when it was chosen: the outcome decides its probation.
    trial: bool,
    /// One of its trials is taken by this request.
    holds_trial: bool,
    /// Counted in the pool's sum.
    summed: bool,
}

/// A request whose outcome is told, in flight until this is dropped.
#[derive(Debug)]
#[must_use = "dropped at once, nothing is in flight"]
pub struct InFlight<T>(#[expect(dead_code, reason = "held for its drop")] Pick<T>);

impl Hot {
    /// Takes a trial if fewer than `limit` are taken: exact over all threads.
    pub(crate) fn take_trial(&self, limit: u32) -> bool {
        self.trials
            .fetch_update(Relaxed, Relaxed, |taken| {
                (taken < limit).then_some(taken + 1)
            })
            .is_ok()
    }
}

impl<T> Pick<T> {
    #[inline]
    pub(crate) fn of(
        member: &Arc<Member<T>>,
        scope: &Scope,
        trial: bool,
        holds_trial: bool,
        tuning: &Tuning,
    ) -> Pick<T> {
        member.hot.begin();
        let summed = tuning.sum_inflight.load(Relaxed);
        if summed {
            tuning.inflight.0.fetch_add(1, Relaxed);
        }
        Pick {
            member: member.clone(),
            scope: scope.clone(),
            trial,
            holds_trial,
            summed,
        }
    }

    /// The member.
    pub fn member(&self) -> &Arc<Member<T>> {
        &self.member
    }

    /// What the caller put into the member.
    pub fn payload(&self) -> &T {
        self.member.payload()
    }

    /// The scope that it was picked in.
    pub fn scope(&self) -> &Scope {
        &self.scope
    }

    /// True if the member is on trial: probes want to be small.
    pub fn is_trial(&self) -> bool {
        self.trial
    }

    /// Takes a latency in before the outcome is known: time to the first byte of a long stream. Give [`finish`](Pick::finish) no latency then.
    pub fn observe(&self, latency: Duration, now: Time) {
        self.member
            .hot
            .ewma
            .observe(latency, now, self.member.tuning.per_halving());
    }

    /// The member said that it is overloaded (429, RESOURCE_EXHAUSTED): moves no health, but peak EWMA avoids it for a while.
    pub fn overloaded(&self, latency: Option<Duration>, now: Time) {
        let tuning = &self.member.tuning;
        self.member.hot.ewma.penalize(
            latency,
            tuning.penalty.load(Relaxed),
            now,
            tuning.per_halving(),
        );
    }

    /// The first content has come: a trial is passed now, not at the end of a long stream, and makes room for others.
    /// The outcome is still to be told. Nothing happens to a pick that is no trial.
    pub fn passed(&mut self, now: Time) {
        if std::mem::take(&mut self.trial)
            && let Some(pool) = self.pool()
        {
            pool.lock()
                .trial(&pool, self.member.key(), &self.scope, None, now);
        }
        if std::mem::take(&mut self.holds_trial) {
            self.member.hot.trials.fetch_sub(1, Relaxed);
        }
    }

    /// Ends the request with its outcome, which counts in the scope of the pick. `latency`: from sending the request to
    /// the first byte of the answer (or to the failure); `None` if it is not known or already observed.
    pub fn finish(self, verdict: Verdict, latency: Option<Duration>, now: Time) {
        self.settle(&self.scope, verdict, latency, now);
    }

    /// As [`finish`](Pick::finish), for what goes on after its outcome is known (a tunnel, once its handshake is done): the
    /// member has the request in flight until the guard is dropped.
    pub fn finish_held(
        mut self,
        verdict: Verdict,
        latency: Option<Duration>,
        now: Time,
    ) -> InFlight<T> {
        self.settle(&self.scope, verdict, latency, now);
        if std::mem::take(&mut self.holds_trial) {
            self.member.hot.trials.fetch_sub(1, Relaxed);
        }
        InFlight(self)
    }

    /// As [`finish`](Pick::finish), with the outcome counted in another scope: a key found dead by a request for one
    /// model is dead for all, so its evidence goes to [`Scope::EMPTY`].
    pub fn finish_in(self, scope: &Scope, verdict: Verdict, latency: Option<Duration>, now: Time) {
        self.settle(scope, verdict, latency, now);
    }

    fn settle(&self, scope: &Scope, verdict: Verdict, latency: Option<Duration>, now: Time) {
        let (hot, tuning, key) = (&self.member.hot, &self.member.tuning, self.member.key());
        match verdict {
            Verdict::Neutral => {}
            Verdict::Ok => {
                if let Some(latency) = latency {
                    self.observe(latency, now);
                }
                if scope.is_empty() {
                    hot.cell.ok();
                } else {
                    hot.cell.end_runs();
                    if let Some(cell) = self.pool().and_then(|pool| pool.scopes.cell(scope, key)) {
                        cell.ok();
                    }
                }
                if self.trial
                    && let Some(pool) = self.pool()
                {
                    pool.lock().trial(&pool, key, scope, None, now);
                }
            }
            Verdict::Failure(kind) => {
                hot.failures.fetch_add(1, Relaxed);
                self.overloaded(latency, now);
                let fired = if scope.is_empty() {
                    hot.cell.failure(kind, &tuning.thresholds, now)
                } else {
                    let Some(pool) = self.pool() else { return };
                    let cell = pool
                        .scopes
                        .cell(scope, key)
                        .or_else(|| pool.lock().cell(&pool, key, scope, now));
                    cell.map(|cell| cell.failure(kind, &tuning.thresholds, now))
                        .unwrap_or_default()
                };
                if (self.trial || fired.any())
                    && let Some(pool) = self.pool()
                {
                    let mut control = pool.lock();
                    if self.trial {
                        control.trial(&pool, key, scope, Some(kind), now);
                    }
                    control.fired(&pool, key, scope, fired, now);
                }
            }
            Verdict::Evidence { .. } => {
                hot.failures.fetch_add(1, Relaxed);
                if let Some(pool) = self.pool() {
                    pool.lock().report(&pool, key, scope, verdict, now);
                }
            }
        }
    }

    /// The pool, unless it is gone (then nobody wants to know). Only where something rare happens: the count of its
    /// owners is one word for all threads.
    fn pool(&self) -> Option<Arc<Inner<T>>> {
        self.member.pool.upgrade()
    }
}

impl<T> Drop for Pick<T> {
    fn drop(&mut self) {
        self.member.hot.end();
        if self.holds_trial {
            self.member.hot.trials.fetch_sub(1, Relaxed);
        }
        if self.summed {
            self.member.tuning.inflight.0.fetch_sub(1, Relaxed);
        }
    }
}

impl<T> fmt::Debug for Pick<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pick")
            .field("member", self.member.id())
            .field("scope", &self.scope)
            .field("trial", &self.trial)
            .finish()
    }
}
