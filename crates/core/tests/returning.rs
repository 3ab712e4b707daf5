//! Outlier detection through the pool, row by row and trap by trap of the reference: how long a member is out, and how it comes back.

mod common;

use std::time::Duration;

use common::*;
use tidegate_core::MemberState::{Ejected, Healthy, Probing};
use tidegate_core::*;

#[test]
fn out_for_base_times_ejections_and_back_on_the_sweep() {
    let mut bench = Bench::of(policy(Balance::RoundRobin), 10);
    // Between two sweeps, so that the end of the ejection is no sweep.
    bench.wait(Duration::from_secs(3));
    for times in 1..=3u64 {
        bench.fail(0, 5);
        assert_eq!(bench.state(0), Ejected);
        let began = bench.now;
        let back = bench.health(0).returns_at.unwrap();
        assert_eq!(back - began, Duration::from_secs(30 * times));
        bench.wait(back - began - MS);
        assert_eq!(bench.state(0), Ejected, "round {times}");
        bench.wait(Duration::from_secs(10) + MS);
        assert_eq!(bench.state(0), Probing);
        // A good trial: healthy, and within the same interval bad again.
        bench.outcomes(0, &Verdict::Ok, 1);
        assert_eq!(bench.state(0), Healthy);
    }
    bench.fail(0, 5);
    assert_eq!(bench.health(0).multiplier, 4);
    bench.wait(Duration::from_secs(130));
    bench.outcomes(0, &Verdict::Ok, 1);
    bench.wait(Duration::from_secs(40));
    assert_eq!(
        bench.health(0).multiplier,
        0,
        "one less each healthy interval"
    );
}

#[test]
fn jitter_lengthens_an_ejection_within_its_bound() {
    let jitter = Duration::from_secs(10);
    let mut bench = Bench::of(
        outlier(|o| {
            o.max_ejection_time_jitter = jitter;
            o.max_ejection_percent = Percent::HUNDRED;
        }),
        50,
    );
    for member in 0..50 {
        bench.fail(member, 5);
    }
    let extra: Vec<_> = (0..50)
        .map(|m| bench.health(m).returns_at.unwrap() - bench.now)
        .map(|t| t - Duration::from_secs(30))
        .collect();
    assert!(extra.iter().all(|e| *e <= jitter));
    assert!(extra.iter().any(|e| *e > jitter / 2) && extra.iter().any(|e| *e < jitter / 2));
}

#[test]
fn a_failed_trial_ejects_again_at_once() {
    let mut bench = Bench::of(policy(Balance::RoundRobin), 10);
    bench.fail(0, 5);
    bench.wait(Duration::from_secs(30));
    assert_eq!(bench.state(0), Probing);
    let others: Vec<_> = (1..10).map(|m| bench.key(m)).collect();
    let only_it = PickRequest {
        exclude: &others,
        ..PickRequest::default()
    };
    let trial = bench.pick_with(only_it).unwrap();
    assert!(trial.is_trial());
    let now = bench.now;
    trial.finish(Verdict::Failure(FailureKind::Gateway), None, now);
    assert_eq!(bench.state(0), Ejected);
    assert_eq!(
        bench.health(0).returns_at,
        Some(bench.now + Duration::from_secs(60))
    );
    assert_eq!(
        bench.health(0).cause,
        Some(Cause::TrialFailed(FailureKind::Gateway))
    );
}

#[test]
fn a_member_on_trial_gets_one_request_at_a_time() {
    let mut bench = Bench::of(policy(Balance::RoundRobin), 3);
    bench.fail(0, 5);
    bench.wait(Duration::from_secs(30));
    let held: Vec<_> = (0..30).map(|_| bench.pick().unwrap()).collect();
    assert_eq!(held.iter().filter(|p| *p.payload() == 0).count(), 1);
}

#[test]
fn what_goes_on_after_its_outcome_stays_in_flight_and_holds_no_trial() {
    let mut bench = Bench::of(policy(Balance::RoundRobin), 2);
    let pick = bench.pick().unwrap();
    let member = pick.member().clone();
    let tunnel = pick.finish_held(Verdict::Ok, None, bench.now);
    assert_eq!(member.inflight(), 1);
    drop(tunnel);
    assert_eq!(member.inflight(), 0);

    bench.fail(0, 5);
    bench.wait(Duration::from_secs(30));
    let trial = (0..4)
        .map(|_| bench.pick().unwrap())
        .find(Pick::is_trial)
        .expect("its turn comes");
    let _tunnel = trial.finish_held(Verdict::Ok, None, bench.now);
    assert_eq!(bench.state(0), MemberState::Healthy);
}

#[test]
fn only_trials_are_refused_where_strict_and_sent_where_not() {
    for strict in [true, false] {
        let probation = Probation {
            strict,
            ..Probation::default()
        };
        let mut bench = Bench::of(
            PoolPolicy {
                probation: Some(probation),
                ..policy(Balance::RoundRobin)
            },
            1,
        );
        let soon = bench.now + Duration::from_secs(1);
        bench.report(0, evidence(Some(soon)));
        bench.wait(Duration::from_secs(1));
        let _trial = bench.pick().unwrap();
        match bench.pick() {
            Ok(second) => assert!(!strict && second.is_trial()),
            Err(refused) => assert!(strict && refused == NoPick::TrialsTaken),
        }
    }
}

#[test]
fn an_answer_to_a_request_from_before_the_ejection_proves_nothing() {
    let mut bench = Bench::of(policy(Balance::RoundRobin), 3);
    let early: Vec<_> = (0..6)
        .map(|_| bench.pick().unwrap())
        .filter(|p| *p.payload() == 0)
        .collect();
    bench.fail(0, 5);
    let now = bench.now;
    let mut early = early.into_iter();
    early.next().unwrap().finish(Verdict::Ok, None, now);
    assert_eq!(bench.state(0), Ejected);
    bench.wait(Duration::from_secs(30));
    early.next().unwrap().finish(Verdict::Ok, None, now);
    assert_eq!(bench.state(0), Probing);
}

#[test]
fn without_probation_it_is_back_in_full() {
    let mut bench = Bench::of(
        PoolPolicy {
            probation: None,
            ..policy(Balance::RoundRobin)
        },
        3,
    );
    bench.fail(0, 5);
    bench.wait(Duration::from_secs(30));
    assert_eq!(bench.state(0), Healthy);
    assert_eq!(bench.shares(300)[&0], 100);
    bench.fail(0, 4);
    assert_eq!(bench.state(0), Healthy, "with a clean record");
}

#[test]
fn a_passed_active_check_uneject_whatever_held_it_out() {
    let mut bench = Bench::of(policy(Balance::RoundRobin), 10);
    bench.fail(0, 5);
    bench.report(0, Verdict::Ok);
    assert_eq!(bench.state(0), Healthy);
    bench.report(0, evidence(None));
    bench.wait(Duration::from_secs(3600));
    assert_eq!(bench.state(0), Ejected);
    bench.report(0, Verdict::Ok);
    assert_eq!(bench.state(0), Healthy);
}

#[test]
fn passed_checks_do_not_hide_bad_answers() {
    let mut bench = Bench::of(policy(Balance::RoundRobin), 10);
    for _ in 0..4 {
        bench.fail(0, 1);
        bench.report(0, Verdict::Ok);
    }
    assert_eq!(bench.state(0), Healthy);
    bench.fail(0, 1);
    assert_eq!(bench.state(0), Ejected);
}
