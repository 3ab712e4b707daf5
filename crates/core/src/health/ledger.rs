//! The life cycle of one member in one scope, as a state machine without clocks, locks or counters.
//!
//! ```text
//! Warming ──check passed──▶ Healthy ──statistics or evidence──▶ Ejected ──time over──▶ Probing ──trial passed──▶ Healthy
//!                              ▲                                  │ ▲                    │
//!                              └────────── check passed ──────────┘ └── trial failed ────┘
//! ```
//!
//! Two things can hold a member out, each with its own end: statistics (bound by the pool's percentages, ended by the
//! sweep) and evidence (bound by nothing, ended by its `until` or an active check). It is out while either holds.
//! Draining is not in here: it is what people and member lists want, whatever the health is.

use std::time::Duration;

use crate::policy::{OutlierDetection, Probation};
use crate::time::Time;
use crate::verdict::{Cause, MemberState};

/// A change of state, to be told.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Transition {
    pub(crate) from: MemberState,
    pub(crate) to: MemberState,
    pub(crate) cause: Cause,
}

#[derive(Clone, Debug)]
pub(crate) struct Ledger {
    state: MemberState,
    since: Time,
    cause: Option<Cause>,
    /// Held out by statistics until then.
    statistical: Option<Time>,
    /// Held out by evidence until then (`NEVER`: until a check).
    evidence: Option<Time>,
    /// Ejection time of the next statistical ejection is base × (this + 1).
    multiplier: u32,
    ejections: u64,
    /// Successful trials of this probation.
    passed: u32,
    /// Evidence put it out this time: an interval without failure is not enough to be healthy again.
    after_evidence: bool,
    /// Start of the slow-start ramp.
    ramp: Option<Time>,
}

/// What a ledger says about picking.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fitness {
    /// Yes.
    Fit,
    /// As a trial.
    Trial,
    /// No, but no evidence either: panic may use it. Not yet shown fit, or ejected by statistics.
    Doubtful,
    /// No.
    Unfit,
}

impl Ledger {
    /// A new member: `Healthy`, or `Warming` until a check passes. `ramp` starts the slow start now.
    pub(crate) fn new(warming: bool, ramp: bool, now: Time) -> Ledger {
        Ledger {
            state: if warming {
                MemberState::Warming
            } else {
                MemberState::Healthy
            },
            since: now,
            cause: None,
            statistical: None,
            evidence: None,
            multiplier: 0,
            ejections: 0,
            passed: 0,
            after_evidence: false,
            ramp: (ramp && !warming).then_some(now),
        }
    }

    pub(crate) fn state(&self) -> MemberState {
        self.state
    }
    pub(crate) fn since(&self) -> Time {
        self.since
    }
    pub(crate) fn cause(&self) -> Option<&Cause> {
        self.cause.as_ref()
    }
    pub(crate) fn multiplier(&self) -> u32 {
        self.multiplier
    }
    pub(crate) fn ejections(&self) -> u64 {
        self.ejections
    }
    pub(crate) fn has_evidence(&self) -> bool {
        self.evidence.is_some()
    }
    pub(crate) fn holds_statistics(&self) -> bool {
        self.statistical.is_some()
    }
    /// When evidence ends by itself, if it does.
    pub(crate) fn evidence_ends(&self) -> Option<Time> {
        self.evidence.filter(|until| *until != Time::NEVER)
    }
    pub(crate) fn ramp(&self) -> Option<Time> {
        self.ramp
    }
    pub(crate) fn end_ramp(&mut self) {
        self.ramp = None;
    }

    pub(crate) fn fitness(&self) -> Fitness {
        match self.state {
            MemberState::Healthy => Fitness::Fit,
            MemberState::Probing => Fitness::Trial,
            _ if self.evidence.is_some() => Fitness::Unfit,
            _ => Fitness::Doubtful,
        }
    }

    /// Out by statistics alone: what `max_ejection_percent` counts.
    pub(crate) fn is_statistical(&self) -> bool {
        self.state == MemberState::Ejected && self.evidence.is_none()
    }

    /// When it may return; `NEVER` if only a check brings it back. `None` if it is not out.
    pub(crate) fn returns_at(&self) -> Option<Time> {
        (self.state == MemberState::Ejected)
            .then(|| self.statistical.max(self.evidence).unwrap_or(Time::NEVER))
    }

    /// True if time changes nothing about it: most members, most of the time.
    #[inline]
    pub(crate) fn is_quiet(&self) -> bool {
        self.state == MemberState::Healthy && self.multiplier == 0
    }

    /// True if forgetting the ledger loses nothing.
    pub(crate) fn is_blank(&self) -> bool {
        self.is_quiet() && self.ramp.is_none()
    }

    fn go(&mut self, to: MemberState, cause: Cause, now: Time) -> Option<Transition> {
        let from = self.state;
        self.cause = Some(cause.clone());
        if from == to {
            return None;
        }
        (self.state, self.since) = (to, now);
        Some(Transition { from, to, cause })
    }

    /// Ejects for statistics: for base × the times it was ejected, capped. Nothing happens to a member that is out.
    /// Whether the pool may lose it is decided before.
    pub(crate) fn eject(
        &mut self,
        rules: &OutlierDetection,
        jitter: Duration,
        cause: Cause,
        now: Time,
    ) -> Option<Transition> {
        if self.state == MemberState::Ejected {
            return None;
        }
        let longest = rules.max_ejection_time.max(rules.base_ejection_time);
        // The multiplier stops where more of it changes nothing, so that it also falls again in reasonable time.
        if rules.base_ejection_time.saturating_mul(self.multiplier) < longest {
            self.multiplier += 1;
        }
        let time = rules
            .base_ejection_time
            .saturating_mul(self.multiplier)
            .min(longest);
        self.statistical = Some(now + time + jitter);
        self.ejections += 1;
        self.ramp = None;
        self.go(MemberState::Ejected, cause, now)
    }

    /// Takes evidence in. A later end extends, an earlier one changes nothing. Returns whether anything changed, and
    /// the transition if the state did.
    pub(crate) fn evidence(
        &mut self,
        until: Option<Time>,
        cause: Cause,
        now: Time,
    ) -> (bool, Option<Transition>) {
        let until = until.unwrap_or(Time::NEVER);
        if until <= now || self.evidence.is_some_and(|current| current >= until) {
            return (false, None);
        }
        self.evidence = Some(until);
        self.after_evidence = true;
        self.ramp = None;
        if self.state != MemberState::Ejected {
            self.ejections += 1;
        }
        (true, self.go(MemberState::Ejected, cause, now))
    }

    /// Lets go what is over at `now`: evidence at its time, statistics only on a sweep. Returns whether anything changed.
    pub(crate) fn expire(
        &mut self,
        sweep: bool,
        probation: bool,
        ramp: bool,
        now: Time,
    ) -> (bool, Option<Transition>) {
        if self.state != MemberState::Ejected {
            return (false, None);
        }
        let mut changed = false;
        if self.evidence.is_some_and(|until| until <= now) {
            self.evidence = None;
            changed = true;
        }
        if sweep && self.statistical.is_some_and(|until| until <= now) {
            self.statistical = None;
            changed = true;
        }
        if !changed || self.evidence.is_some() || self.statistical.is_some() {
            return (changed, None);
        }
        self.passed = 0;
        if probation {
            return (true, self.go(MemberState::Probing, Cause::TimeOver, now));
        }
        (true, self.recover(ramp, Cause::TimeOver, now))
    }

    fn recover(&mut self, ramp: bool, cause: Cause, now: Time) -> Option<Transition> {
        self.ramp =
            (ramp && (self.after_evidence || self.state == MemberState::Warming)).then_some(now);
        (self.statistical, self.evidence, self.after_evidence) = (None, None, false);
        self.go(MemberState::Healthy, cause, now)
    }

    /// A successful active check: back at once, whatever held it out.
    pub(crate) fn check_passed(&mut self, ramp: bool, now: Time) -> Option<Transition> {
        if self.state == MemberState::Healthy {
            return None;
        }
        self.recover(ramp, Cause::CheckPassed, now)
    }

    /// A trial request went well.
    pub(crate) fn trial_passed(
        &mut self,
        probation: &Probation,
        ramp: bool,
        now: Time,
    ) -> Option<Transition> {
        if self.state != MemberState::Probing {
            return None;
        }
        self.passed += 1;
        if self.passed < probation.successes {
            return None;
        }
        self.recover(ramp, Cause::TrialPassed, now)
    }

    /// The sweep's work on a member that is in: the multiplier falls, and a probation after a statistical ejection that
    /// lasted an interval without a failed trial is over.
    pub(crate) fn sweep(&mut self, interval: Duration, now: Time) -> Option<Transition> {
        match self.state {
            MemberState::Probing if !self.after_evidence && now.since(self.since) >= interval => {
                self.recover(false, Cause::TrialPassed, now)
            }
            MemberState::Healthy => {
                self.multiplier = self.multiplier.saturating_sub(1);
                None
            }
            _ => None,
        }
    }

    /// Statistics no longer hold anybody out.
    pub(crate) fn pardon(&mut self, now: Time) -> Option<Transition> {
        self.multiplier = 0;
        self.statistical = None;
        let out = self.state == MemberState::Ejected && self.evidence.is_none();
        let trial = self.state == MemberState::Probing && !self.after_evidence;
        if out || trial {
            self.recover(false, Cause::PolicyChanged, now)
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::borrow::Cow;

    const INTERVAL: Duration = Duration::from_secs(10);

    fn rules() -> OutlierDetection {
        OutlierDetection::default()
    }

    fn told(what: &'static str) -> Cause {
        Cause::Evidence(Cow::Borrowed(what))
    }

    fn eject(ledger: &mut Ledger, now: Time) -> Option<Transition> {
        ledger.eject(&rules(), Duration::ZERO, Cause::Consecutive5xx(5), now)
    }

    #[test]
    fn ejection_time_grows_with_the_times_ejected_up_to_the_cap() {
        let mut ledger = Ledger::new(false, false, Time::ZERO);
        let mut now = Time::ZERO;
        for times in 1..=15u64 {
            eject(&mut ledger, now).unwrap();
            let back = ledger.returns_at().unwrap();
            assert_eq!(back - now, Duration::from_secs(30 * times.min(10)));
            now = back;
            ledger.expire(true, false, false, now).1.unwrap();
        }
    }

    #[test]
    fn the_multiplier_falls_by_one_a_healthy_interval() {
        let mut ledger = Ledger::new(false, false, Time::ZERO);
        for _ in 0..3 {
            eject(&mut ledger, Time::ZERO);
            ledger.expire(true, false, false, Time::from_secs(1000));
        }
        assert_eq!(ledger.multiplier(), 3);
        ledger.sweep(INTERVAL, Time::from_secs(1010));
        ledger.sweep(INTERVAL, Time::from_secs(1020));
        assert_eq!(ledger.multiplier(), 1);
        // Not while it is out.
        eject(&mut ledger, Time::from_secs(1020));
        ledger.sweep(INTERVAL, Time::from_secs(1030));
        assert_eq!(ledger.multiplier(), 2);
    }

    #[test]
    fn the_base_may_be_longer_than_the_maximum() {
        let rules = OutlierDetection {
            base_ejection_time: Duration::from_secs(600),
            ..rules()
        };
        let mut ledger = Ledger::new(false, false, Time::ZERO);
        ledger.eject(
            &rules,
            Duration::from_secs(1),
            Cause::Consecutive5xx(5),
            Time::ZERO,
        );
        assert_eq!(ledger.returns_at(), Some(Time::from_secs(601)));
    }

    #[test]
    fn statistics_end_on_the_sweep_only_and_evidence_at_its_time() {
        let mut ledger = Ledger::new(false, false, Time::ZERO);
        eject(&mut ledger, Time::ZERO);
        assert_eq!(
            ledger.expire(false, true, false, Time::from_secs(40)),
            (false, None)
        );
        assert_eq!(
            ledger.expire(true, true, false, Time::from_secs(29)),
            (false, None)
        );
        assert_eq!(
            ledger
                .expire(true, true, false, Time::from_secs(40))
                .1
                .unwrap()
                .to,
            MemberState::Probing
        );
        let mut ledger = Ledger::new(false, false, Time::ZERO);
        ledger.evidence(Some(Time::from_secs(7)), told("limited"), Time::ZERO);
        assert_eq!(
            ledger
                .expire(false, true, false, Time::from_secs(7))
                .1
                .unwrap()
                .to,
            MemberState::Probing
        );
    }

    #[test]
    fn evidence_only_ever_extends() {
        let mut ledger = Ledger::new(false, false, Time::ZERO);
        assert!(
            ledger
                .evidence(Some(Time::from_secs(60)), told("limited"), Time::ZERO)
                .1
                .is_some()
        );
        assert_eq!(
            ledger.evidence(Some(Time::from_secs(30)), told("limited"), Time::ZERO),
            (false, None)
        );
        assert_eq!(ledger.returns_at(), Some(Time::from_secs(60)));
        assert_eq!(
            ledger.evidence(Some(Time::from_secs(90)), told("limited"), Time::ZERO),
            (true, None)
        );
        assert_eq!(ledger.returns_at(), Some(Time::from_secs(90)));
        ledger.evidence(None, told("key dead"), Time::ZERO);
        ledger.evidence(Some(Time::from_secs(100)), told("limited"), Time::ZERO);
        assert_eq!(ledger.returns_at(), Some(Time::NEVER));
        assert_eq!(
            ledger.expire(true, true, false, Time::from_secs(1_000_000)),
            (false, None)
        );
        // Evidence that is over before it begins is none.
        let mut ledger = Ledger::new(false, false, Time::ZERO);
        assert_eq!(
            ledger.evidence(
                Some(Time::from_secs(1)),
                told("limited"),
                Time::from_secs(1)
            ),
            (false, None)
        );
    }

    #[test]
    fn a_return_after_statistics_does_not_ramp() {
        let mut ledger = Ledger::new(false, false, Time::ZERO);
        eject(&mut ledger, Time::ZERO);
        ledger
            .expire(true, false, true, Time::from_secs(30))
            .1
            .unwrap();
        assert_eq!(ledger.ramp(), None);
        eject(&mut ledger, Time::from_secs(30));
        ledger.check_passed(true, Time::from_secs(31)).unwrap();
        assert_eq!(ledger.ramp(), None);
    }

    #[test]
    fn both_holds_must_end() {
        let mut ledger = Ledger::new(false, false, Time::ZERO);
        eject(&mut ledger, Time::ZERO);
        assert!(ledger.is_statistical());
        ledger.evidence(Some(Time::from_secs(10)), told("limited"), Time::ZERO);
        assert!(!ledger.is_statistical());
        assert_eq!(ledger.fitness(), Fitness::Unfit);
        assert_eq!(
            ledger.expire(false, true, false, Time::from_secs(10)),
            (true, None)
        );
        assert!(ledger.is_statistical());
        assert!(
            ledger
                .expire(true, true, false, Time::from_secs(30))
                .1
                .is_some()
        );
    }

    #[test]
    fn a_passed_check_brings_back_from_anything() {
        for hold in [None, Some(Time::from_secs(500))] {
            let mut ledger = Ledger::new(false, false, Time::ZERO);
            eject(&mut ledger, Time::ZERO);
            ledger.evidence(hold, told("check failed"), Time::ZERO);
            assert_eq!(
                ledger.check_passed(true, Time::from_secs(5)).unwrap().to,
                MemberState::Healthy
            );
            assert_eq!(ledger.returns_at(), None);
            assert_eq!(
                ledger.ramp(),
                Some(Time::from_secs(5)),
                "back after evidence: slow start"
            );
        }
        let mut warming = Ledger::new(true, true, Time::ZERO);
        assert_eq!(warming.fitness(), Fitness::Doubtful);
        assert_eq!(warming.ramp(), None);
        warming.check_passed(true, Time::from_secs(1));
        assert_eq!(warming.ramp(), Some(Time::from_secs(1)));
    }

    #[test]
    fn probation_wants_its_successes() {
        let probation = Probation {
            successes: 2,
            ..Probation::default()
        };
        let mut ledger = Ledger::new(false, false, Time::ZERO);
        ledger.evidence(Some(Time::from_secs(1)), told("limited"), Time::ZERO);
        ledger.expire(false, true, false, Time::from_secs(1));
        assert_eq!(
            ledger.trial_passed(&probation, false, Time::from_secs(2)),
            None
        );
        assert_eq!(
            ledger.sweep(INTERVAL, Time::from_secs(500)),
            None,
            "after evidence only trials count"
        );
        assert_eq!(
            ledger
                .trial_passed(&probation, false, Time::from_secs(3))
                .unwrap()
                .to,
            MemberState::Healthy
        );
    }

    #[test]
    fn an_interval_without_failed_trial_ends_a_statistical_probation() {
        let mut ledger = Ledger::new(false, false, Time::ZERO);
        eject(&mut ledger, Time::ZERO);
        ledger.expire(true, true, false, Time::from_secs(30));
        assert_eq!(ledger.sweep(INTERVAL, Time::from_secs(35)), None);
        assert_eq!(
            ledger.sweep(INTERVAL, Time::from_secs(40)).unwrap().to,
            MemberState::Healthy
        );
    }

    #[test]
    fn a_pardon_frees_the_statistical_ones_only() {
        let mut ledger = Ledger::new(false, false, Time::ZERO);
        eject(&mut ledger, Time::ZERO);
        assert_eq!(
            ledger.pardon(Time::ZERO).unwrap().cause,
            Cause::PolicyChanged
        );
        ledger.evidence(None, told("dead"), Time::ZERO);
        assert_eq!(ledger.pardon(Time::ZERO), None);
        assert_eq!(ledger.state(), MemberState::Ejected);
    }
}
