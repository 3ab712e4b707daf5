//! Acting on verdicts and on time: who goes out, who comes back.

use std::sync::Arc;
use std::time::Duration;

use super::Inner;
use super::control::Control;
use crate::health::cell::{Cell, Fired, Origin};
use crate::health::ledger::{Fitness, Ledger, Transition};
use crate::health::rates::{Sample, failure_percentage_outliers, success_rate_outliers};
use crate::member::{MemberKey, Scope};
use crate::policy::Percent;
use crate::rng::Rng;
use crate::time::{Time, nanos};
use crate::verdict::{Cause, FailureKind, MemberState, Verdict};

impl<T> Control<T> {
    /// See [`Pool::report`](super::Pool::report).
    pub(super) fn report(
        &mut self,
        inner: &Inner<T>,
        key: MemberKey,
        scope: &Scope,
        verdict: Verdict,
        now: Time,
    ) -> bool {
        if !self.records.iter().any(|r| r.member.key() == key) {
            return false;
        }
        let ramp = self.policy.slow_start.is_some();
        match verdict {
            Verdict::Neutral => {}
            Verdict::Ok => {
                // Counters stay: a member that answers checks well and requests badly must still be found out.
                let transition = self.with_ledger(key, scope, |_, ledger| {
                    ledger.check_passed(ramp && scope.is_empty(), now)
                });
                self.act(inner, key, scope, transition.flatten(), now);
            }
            Verdict::Failure(kind) => {
                let fired = match self.cell_of(inner, key, scope, now) {
                    Some(cell) => cell.failure(kind, &inner.tuning.thresholds, now),
                    None => self
                        .with_ledger(key, scope, |cell, _| {
                            cell.failure(kind, &inner.tuning.thresholds, now)
                        })
                        .unwrap_or_default(),
                };
                self.fired(inner, key, scope, fired, now);
            }
            Verdict::Evidence { cause, until } => {
                self.cell_of(inner, key, scope, now);
                self.next_end = self.next_end.min(until.unwrap_or(Time::NEVER));
                let taken = self.with_ledger(key, scope, |_, ledger| {
                    ledger.evidence(until, Cause::Evidence(cause), now)
                });
                if let Some((changed, transition)) = taken {
                    match transition {
                        Some(transition) => self.act(inner, key, scope, Some(transition), now),
                        // Longer than before: the views tell when it returns.
                        None if changed => self.refresh(inner, scope, now),
                        None => {}
                    }
                }
            }
        }
        true
    }

    /// Counters of a member in a scope that is not empty.
    fn cell_of(
        &mut self,
        inner: &Inner<T>,
        key: MemberKey,
        scope: &Scope,
        now: Time,
    ) -> Option<Arc<Cell>> {
        if scope.is_empty() {
            None
        } else {
            self.cell(inner, key, scope, now)
        }
    }

    fn with_ledger<R>(
        &mut self,
        key: MemberKey,
        scope: &Scope,
        act: impl FnOnce(&Cell, &mut Ledger) -> R,
    ) -> Option<R> {
        if scope.is_empty() {
            let record = self.records.iter_mut().find(|r| r.member.key() == key)?;
            return Some(act(&record.member.hot.cell, &mut record.ledger));
        }
        let scoped = self.scopes.get_mut(scope)?.get_mut(&key)?;
        Some(act(&scoped.cell, &mut scoped.ledger))
    }

    /// Follows a transition up: a member that is back starts with a clean record; everybody is told.
    fn act(
        &mut self,
        inner: &Inner<T>,
        key: MemberKey,
        scope: &Scope,
        transition: Option<Transition>,
        now: Time,
    ) {
        let Some(transition) = transition else { return };
        if transition.from == MemberState::Ejected {
            self.with_ledger(key, scope, |cell, _| cell.reset());
        }
        if transition.to == MemberState::Ejected
            && scope.is_empty()
            && let Some(record) = self.records.iter().find(|r| r.member.key() == key)
        {
            record.member.hot.load.reset();
        }
        self.tell_transition(key, scope, transition, now);
        self.refresh(inner, scope, now);
    }

    fn refresh(&mut self, inner: &Inner<T>, scope: &Scope, now: Time) {
        if scope.is_empty() {
            self.rebuild(inner, now);
        } else {
            self.publish(inner, scope, now);
        }
    }

    /// Thresholds were reached: ejects, if the rules are enforced and the pool can spare the member.
    pub(super) fn fired(
        &mut self,
        inner: &Inner<T>,
        key: MemberKey,
        scope: &Scope,
        fired: Fired,
        now: Time,
    ) {
        if !fired.any() {
            return;
        }
        let policy = self.policy.clone();
        let Some(rules) = &policy.outlier else { return };
        let window = rules.errors.as_ref();
        let mut causes = [
            (
                fired.refused[0],
                fired.consecutive_5xx,
                rules.enforcing_consecutive_5xx,
                match fired.bad {
                    Origin::Answers => Cause::Consecutive5xx(rules.consecutive_5xx),
                    Origin::Connections => Cause::ConsecutiveLocalOrigin(rules.consecutive_5xx),
                    Origin::Mixed => Cause::ConsecutiveFailures(rules.consecutive_5xx),
                },
            ),
            (
                fired.refused[1],
                fired.consecutive_gateway,
                rules.enforcing_consecutive_gateway_failure,
                match fired.gateway {
                    Origin::Connections => {
                        Cause::ConsecutiveLocalOrigin(rules.consecutive_gateway_failure)
                    }
                    _ => Cause::ConsecutiveGateway(rules.consecutive_gateway_failure),
                },
            ),
            (
                fired.refused[2],
                fired.consecutive_local,
                rules.enforcing_consecutive_local_origin,
                Cause::ConsecutiveLocalOrigin(rules.consecutive_local_origin),
            ),
            (
                fired.refused[3],
                fired.window,
                Percent::HUNDRED,
                Cause::ErrorsWithin(
                    window.map_or(0, |w| w.count),
                    window.map_or(Duration::ZERO, |w| w.within),
                ),
            ),
        ];
        // What counted the member's own failures alone may do more.
        causes.sort_by_key(|(refused, ..)| *refused);
        for (refused, fired, enforcing, cause) in causes {
            if fired && self.enforced(enforcing) {
                let most = self.most(refused);
                self.eject(inner, key, scope, cause, most, now);
                return;
            }
        }
    }

    /// How many may be out for failures of which some were refusals of our own, or none.
    fn most(&self, refused: bool) -> Percent {
        let rules = self.policy.outlier.as_ref();
        let most = rules.map_or(Percent::ZERO, |rules| rules.max_ejection_percent);
        match refused {
            true => most.min(Percent::saturating(99)),
            false => most,
        }
    }

    fn enforced(&mut self, percent: Percent) -> bool {
        match percent.get() {
            0 => false,
            100 => true,
            percent => self.rng.below(100) < u32::from(percent),
        }
    }

    /// Ejects for statistics if the pool can spare the member.
    fn eject(
        &mut self,
        inner: &Inner<T>,
        key: MemberKey,
        scope: &Scope,
        cause: Cause,
        most: Percent,
        now: Time,
    ) {
        let policy = self.policy.clone();
        let Some(rules) = &policy.outlier else { return };
        // A late failure of a member that is out already changes nothing.
        if self
            .with_ledger(key, scope, |_, ledger| ledger.state())
            .is_none_or(|state| state == MemberState::Ejected)
        {
            return;
        }
        if !self.can_spare(key, scope, most) {
            self.refused += 1;
            return;
        }
        let most = nanos(rules.max_ejection_time_jitter);
        let jitter = Duration::from_nanos((self.rng.unit() * most as f64) as u64);
        let transition = self.with_ledger(key, scope, |_, ledger| {
            ledger.eject(rules, jitter, cause, now)
        });
        self.act(inner, key, scope, transition.flatten(), now);
    }

    /// Whether one more member may go out for statistics: at least one always may, more only up to the percentage, and
    /// never the last fit one, in this scope or (for the whole member) in any other; unless all may go.
    fn can_spare(&self, key: MemberKey, scope: &Scope, most: Percent) -> bool {
        if most == Percent::HUNDRED {
            return true;
        }
        let seated = || self.records.iter().filter(|r| r.has_seat());
        let (mut all, mut out) = (0u64, 0u64);
        for record in seated() {
            all += 1;
            out += u64::from(self.standing(record, scope).held);
        }
        if out > 0 && (out + 1) * 100 > u64::from(most.get()) * all {
            return false;
        }
        let others_fit = |scope: &Scope| {
            seated()
                .any(|r| r.member.key() != key && self.standing(r, scope).fitness <= Fitness::Trial)
        };
        if !others_fit(scope) {
            return false;
        }
        let fit = |scope: &Scope| {
            seated()
                .any(|r| r.member.key() == key && self.standing(r, scope).fitness <= Fitness::Trial)
        };
        !scope.is_empty()
            || self
                .scopes
                .keys()
                .all(|scope| others_fit(scope) || !fit(scope))
    }

    /// A trial request ended: `failure` says how if it went wrong. The member's own probation and the scope's, whichever is on.
    pub(super) fn trial(
        &mut self,
        inner: &Inner<T>,
        key: MemberKey,
        scope: &Scope,
        failure: Option<FailureKind>,
        now: Time,
    ) {
        let policy = self.policy.clone();
        let ramp = policy.slow_start.is_some();
        let whole = Scope::EMPTY;
        let scopes: &[&Scope] = if scope.is_empty() {
            &[&whole]
        } else {
            &[&whole, scope]
        };
        for scope in scopes {
            let probing = self.with_ledger(key, scope, |_, ledger| ledger.state())
                == Some(MemberState::Probing);
            match failure {
                _ if !probing => {}
                Some(kind) => {
                    let most = self.most(kind == FailureKind::Refused);
                    self.eject(inner, key, scope, Cause::TrialFailed(kind), most, now);
                }
                None => {
                    let Some(probation) = &policy.probation else {
                        continue;
                    };
                    let transition = self.with_ledger(key, scope, |_, ledger| {
                        ledger.trial_passed(probation, ramp && scope.is_empty(), now)
                    });
                    self.act(inner, key, scope, transition.flatten(), now);
                }
            }
        }
    }

    /// See [`Pool::tick`](super::Pool::tick).
    pub(super) fn tick(&mut self, inner: &Inner<T>, now: Time) -> Time {
        if !self.leaving.is_empty() {
            self.see_off(inner, now);
        }
        let sweep = now >= self.next_sweep;
        if sweep {
            self.next_sweep = now + self.interval();
        }
        let mut changed = false;
        if sweep || now >= self.next_end {
            changed = self.let_go(sweep, now);
        }
        if sweep {
            self.sweep_rates(inner, now);
            self.sweep_scopes(inner, now);
        }
        self.set_typical(now);
        if now >= self.next_reweigh {
            self.end_ramps(now);
            changed = true;
        }
        if changed {
            self.rebuild(inner, now);
        }
        self.next_due(now)
    }

    /// Lets go whoever's time is over, and on the sweep does what it owes to those that are in.
    fn let_go(&mut self, sweep: bool, now: Time) -> bool {
        let probation = self.policy.probation.is_some();
        let ramp = self.policy.slow_start.is_some();
        let interval = self.interval();
        let (mut changed, mut next_end) = (false, Time::NEVER);
        let told = self.each_ledger(now, |cell, ledger, scope| {
            if ledger.is_quiet() {
                return None;
            }
            let (moved, mut transition) =
                ledger.expire(sweep, probation, ramp && scope.is_empty(), now);
            changed |= moved;
            if transition.is_some() {
                cell.reset();
            } else if sweep {
                transition = ledger.sweep(interval, now);
            }
            next_end = next_end.min(ledger.evidence_ends().unwrap_or(Time::NEVER));
            transition
        });
        self.next_end = next_end;
        changed | told
    }

    /// Compares the members by their last interval, scope by scope.
    fn sweep_rates(&mut self, inner: &Inner<T>, now: Time) {
        let sample = |key, cell: &Cell| {
            let (total, failed) = cell.take_interval();
            Sample { key, total, failed }
        };
        let whole: Vec<_> = self
            .records
            .iter()
            .map(|r| sample(r.member.key(), &r.member.hot.cell))
            .filter(|sample| sample.total > 0)
            .collect();
        self.judge(inner, &Scope::EMPTY, whole, now);
        let scoped: Vec<_> = self
            .scopes
            .iter()
            .map(|(scope, members)| {
                (
                    scope.clone(),
                    members
                        .iter()
                        .map(|(key, s)| sample(*key, &s.cell))
                        .collect::<Vec<_>>(),
                )
            })
            .collect();
        for (scope, samples) in scoped {
            self.judge(inner, &scope, samples, now);
        }
    }

    fn judge(
        &mut self,
        inner: &Inner<T>,
        scope: &Scope,
        samples: Vec<Sample<MemberKey>>,
        now: Time,
    ) {
        if samples.iter().all(|s| s.failed == 0) {
            return;
        }
        let policy = self.policy.clone();
        let Some(rules) = &policy.outlier else { return };
        for (key, rate, threshold) in success_rate_outliers(&samples, &rules.success_rate) {
            if self.enforced(rules.success_rate.enforcing) {
                self.eject(
                    inner,
                    key,
                    scope,
                    Cause::SuccessRate { rate, threshold },
                    rules.max_ejection_percent,
                    now,
                );
            }
        }
        for (key, percent) in failure_percentage_outliers(&samples, &rules.failure_percentage) {
            if self.enforced(rules.failure_percentage.enforcing) {
                let most = rules.max_ejection_percent;
                self.eject(
                    inner,
                    key,
                    scope,
                    Cause::FailurePercentage(percent),
                    most,
                    now,
                );
            }
        }
    }

    fn end_ramps(&mut self, now: Time) {
        let window = self.policy.slow_start.as_ref().map(|s| s.window);
        for record in &mut self.records {
            if record
                .ledger
                .ramp()
                .is_some_and(|since| window.is_none_or(|window| now.since(since) >= window))
            {
                record.ledger.end_ramp();
            }
        }
    }
}
