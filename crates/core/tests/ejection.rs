//! Outlier detection through the pool, row by row and trap by trap of the reference: who goes out.

mod common;

use std::time::Duration;

use common::*;
use tidegate_core::MemberState::{Ejected, Healthy, Probing, Warming};
use tidegate_core::*;

#[test]
fn five_bad_answers_in_a_row_eject_and_four_do_not() {
    let mut bench = Bench::of(policy(Balance::RoundRobin), 10);
    bench.fail(0, 4);
    assert_eq!(bench.state(0), Healthy);
    bench.fail(0, 1);
    assert_eq!(bench.state(0), Ejected);
    assert!(!bench.shares(1000).contains_key(&0));
    let told = bench.events().pop().unwrap();
    assert_eq!(
        (&*told.0, told.1, told.2, &*told.3),
        ("m0", Healthy, Ejected, "5 consecutive 5xx")
    );
}

#[test]
fn a_later_success_resets_the_consecutive_counters() {
    let mut bench = Bench::of(policy(Balance::RoundRobin), 10);
    for _ in 0..20 {
        bench.fail(0, 4);
        bench.outcomes(0, &Verdict::Ok, 1);
    }
    assert_eq!(bench.state(0), Healthy);
}

#[test]
fn what_is_the_callers_fault_moves_nothing() {
    let mut bench = Bench::of(policy(Balance::RoundRobin), 10);
    bench.fail(0, 4);
    bench.outcomes(0, &Verdict::Neutral, 1000);
    assert_eq!(bench.state(0), Healthy);
    bench.fail(0, 1);
    assert_eq!(bench.state(0), Ejected, "and it does not reset either");
}

#[test]
fn gateway_failures_alone_are_not_enforced_by_default() {
    let only_gateway = |enforcing| {
        outlier(|o| {
            o.consecutive_5xx = 0;
            o.enforcing_consecutive_gateway_failure = enforcing;
        })
    };
    for (enforcing, state) in [(Percent::ZERO, Healthy), (Percent::HUNDRED, Ejected)] {
        let mut bench = Bench::of(only_gateway(enforcing), 10);
        bench.outcomes(0, &Verdict::Failure(FailureKind::Gateway), 5);
        assert_eq!(bench.state(0), state);
    }
}

#[test]
fn connection_failures_eject_on_their_own() {
    let mut bench = Bench::of(outlier(|o| o.split_local_origin = true), 10);
    bench.outcomes(0, &Verdict::Failure(FailureKind::LocalOrigin), 5);
    assert_eq!(
        bench.health(0).cause,
        Some(Cause::ConsecutiveLocalOrigin(5))
    );
}

#[test]
fn a_run_is_named_after_what_went_wrong_whichever_rule_counted_it() {
    let (gone, bad) = (FailureKind::LocalOrigin, FailureKind::Status5xx);
    for (kinds, told) in [
        ([gone; 5], "5 consecutive connection failures"),
        ([bad; 5], "5 consecutive 5xx"),
        ([gone, bad, gone, gone, bad], "5 consecutive failures"),
    ] {
        let mut bench = Bench::of(policy(Balance::RoundRobin), 10);
        for kind in kinds {
            bench.outcomes(0, &Verdict::Failure(kind), 1);
        }
        assert_eq!(bench.events().pop().unwrap().3, told);
    }
}

#[test]
fn enforcing_percentages_are_chances() {
    let mut bench = Bench::of(
        outlier(|o| {
            o.enforcing_consecutive_5xx = Percent::saturating(40);
            o.enforcing_consecutive_local_origin = Percent::ZERO;
            o.max_ejection_percent = Percent::HUNDRED;
        }),
        1000,
    );
    for member in 0..1000 {
        bench.fail(member, 5);
    }
    let ejected = bench.ejected();
    assert!((340..460).contains(&ejected), "{ejected}");
}

#[test]
fn five_errors_in_five_minutes_is_not_five_in_a_row() {
    // The trap of the governance article: one error a minute, with successes in between.
    let errors = ErrorsWithin {
        count: 5,
        within: Duration::from_secs(300),
    };
    let mut consecutive = Bench::of(policy(Balance::RoundRobin), 10);
    let mut windowed = Bench::of(outlier(|o| o.errors = Some(errors)), 10);
    for _ in 0..5 {
        for bench in [&mut consecutive, &mut windowed] {
            bench.fail(0, 1);
            if bench.state(0) == Healthy {
                bench.outcomes(0, &Verdict::Ok, 3);
            }
            bench.wait(Duration::from_secs(60));
        }
    }
    assert_eq!(consecutive.health(0).ejections, 0);
    assert_eq!(windowed.health(0).ejections, 1);
    assert!(
        windowed
            .events()
            .iter()
            .any(|e| e.3 == "5 errors within 300s")
    );
}

#[test]
fn ten_percent_of_fewer_than_ten_hosts_still_ejects_one() {
    for hosts in [2, 3, 5, 9, 10, 19] {
        let mut bench = Bench::of(policy(Balance::RoundRobin), hosts);
        for member in 0..hosts {
            bench.fail(member, 5);
        }
        assert_eq!(bench.ejected(), 1, "of {hosts}");
    }
}

#[test]
fn max_ejection_percent_bounds_statistical_ejections() {
    for (hosts, percent, most) in [
        (20, 10, 2),
        (29, 10, 2),
        (30, 10, 3),
        (10, 50, 5),
        (4, 50, 2),
        (10, 0, 1),
        (10, 99, 9),
    ] {
        let mut bench = Bench::of(
            outlier(|o| o.max_ejection_percent = Percent::saturating(percent)),
            hosts,
        );
        for member in 0..hosts {
            bench.fail(member, 5);
        }
        assert_eq!(bench.ejected(), most, "{percent}% of {hosts}");
        assert_eq!(
            bench.pool.summary(&Scope::EMPTY).refused_ejections,
            u64::from(hosts) - most as u64
        );
    }
}

#[test]
fn the_last_fit_member_is_never_ejected_for_statistics() {
    let mut alone = Bench::of(policy(Balance::RoundRobin), 1);
    alone.fail(0, 100);
    assert_eq!(alone.state(0), Healthy);
    // Nor if the others are out for other reasons.
    let mut bench = Bench::of(policy(Balance::RoundRobin), 3);
    bench.report(0, evidence(None));
    bench.report(1, evidence(None));
    bench.fail(2, 100);
    assert_eq!(bench.state(2), Healthy);
    // A member that may not be picked at all is no other fit one.
    let mut specs = specs(2);
    specs[1].weight = 0;
    let mut bench = Bench::new(policy(Balance::RoundRobin), specs);
    bench.fail(0, 100);
    assert_eq!(bench.state(0), Healthy);
}

#[test]
fn an_explicit_hundred_percent_means_all_may_go() {
    let mut bench = Bench::of(outlier(|o| o.max_ejection_percent = Percent::HUNDRED), 3);
    for member in 0..3 {
        bench.fail(member, 5);
    }
    assert_eq!(bench.ejected(), 3);
    let back = match bench.pick().unwrap_err() {
        NoPick::NoneFit {
            returns_at: Some(back),
        } => back,
        other => panic!("{other:?}"),
    };
    // 30 s of ejection, and the sweep that ends it.
    assert_eq!(back, bench.now + Duration::from_secs(30));
    bench.now = back;
    assert!(
        bench.pick().is_ok(),
        "the time told is true even if nobody ticks"
    );
}

#[test]
fn what_was_refused_here_counts_and_never_takes_out_the_last() {
    let refused = Verdict::Failure(FailureKind::Refused);
    let mut bench = Bench::of(outlier(|o| o.max_ejection_percent = Percent::HUNDRED), 3);
    for _ in 0..4 {
        for member in 0..3 {
            bench.outcomes(member, &refused, 5);
        }
    }
    assert_eq!(bench.ejected(), 2);
    assert_eq!(bench.state(2), Healthy);
    // Nor does a failure of its own on top of them: it takes as many of these as of any other member.
    bench.outcomes(2, &refused, 4);
    bench.fail(2, 5);
    assert_eq!(bench.state(2), Healthy);
    bench.fail(2, 1);
    assert_eq!(bench.ejected(), 3);
}

#[test]
fn evidence_is_bound_by_no_percentage() {
    let mut bench = Bench::of(policy(Balance::RoundRobin), 10);
    for member in 0..9 {
        bench.report(member, evidence(None));
    }
    assert_eq!(bench.ejected(), 9);
    assert_eq!(bench.shares(100).into_keys().collect::<Vec<_>>(), [9]);
    bench.report(9, evidence(None));
    assert_eq!(
        bench.pick().unwrap_err(),
        NoPick::NoneFit { returns_at: None }
    );
}

#[test]
fn evidence_leaves_the_allowance_of_statistics_alone() {
    let mut bench = Bench::of(policy(Balance::RoundRobin), 10);
    bench.report(0, evidence(None));
    bench.report(1, evidence(None));
    bench.fail(2, 5);
    assert_eq!(bench.state(2), Ejected);
    bench.fail(3, 5);
    assert_eq!(bench.state(3), Healthy);
}

#[test]
fn a_later_until_extends_and_an_earlier_one_does_not_shorten() {
    let mut bench = Bench::of(policy(Balance::RoundRobin), 2);
    let start = bench.now;
    let until = |secs| Some(start + Duration::from_secs(secs));
    bench.report(0, evidence(until(60)));
    bench.report(0, evidence(until(30)));
    assert_eq!(bench.health(0).returns_at, until(60));
    bench.report(0, evidence(until(90)));
    assert_eq!(bench.health(0).returns_at, until(90));
    bench.wait(Duration::from_secs(89));
    assert_eq!(bench.state(0), Ejected);
    bench.wait(Duration::from_secs(1));
    assert_eq!(bench.state(0), Probing);
}

#[test]
fn with_all_out_the_earliest_return_is_told_and_true() {
    let mut bench = Bench::of(policy(Balance::RoundRobin), 3);
    let start = bench.now;
    for (member, secs) in [(0, 50), (1, 20), (2, 70)] {
        bench.report(member, evidence(Some(start + Duration::from_secs(secs))));
    }
    let first = start + Duration::from_secs(20);
    assert_eq!(
        bench.pick().unwrap_err(),
        NoPick::NoneFit {
            returns_at: Some(first)
        }
    );
    // Extended: told anew.
    bench.report(1, evidence(Some(start + Duration::from_secs(60))));
    assert_eq!(
        bench.pick().unwrap_err(),
        NoPick::NoneFit {
            returns_at: Some(start + Duration::from_secs(50))
        }
    );
    bench.now = start + Duration::from_secs(50);
    assert_eq!(*bench.pick().unwrap().payload(), 0);
}

#[test]
fn the_least_bad_is_used_if_the_pool_says_so() {
    let mut policy = outlier(|o| o.max_ejection_percent = Percent::HUNDRED);
    policy.when_exhausted = WhenExhausted::UseLeastBad;
    let mut bench = Bench::of(policy, 3);
    let start = bench.now;
    bench.report(0, evidence(None));
    bench.report(1, evidence(Some(start + Duration::from_secs(5))));
    bench.report(2, evidence(Some(start + Duration::from_secs(9))));
    assert_eq!(
        *bench.pick().unwrap().payload(),
        1,
        "the one that returns first"
    );
    let tried = [bench.key(1)];
    let next = bench
        .pick_with(PickRequest {
            exclude: &tried,
            ..PickRequest::default()
        })
        .unwrap();
    assert_eq!(*next.payload(), 2);
    drop(next);
    bench.report(2, Verdict::Ok);
    bench.fail(2, 5);
    assert_eq!(
        *bench.pick().unwrap().payload(),
        2,
        "statistics weigh less than evidence"
    );
}

#[test]
fn below_half_fit_everybody_is_used_but_those_with_evidence() {
    let mut bench = Bench::of(
        outlier(|o| o.max_ejection_percent = Percent::saturating(90)),
        10,
    );
    for member in 0..5 {
        bench.fail(member, 5);
    }
    assert!(!bench.pool.summary(&Scope::EMPTY).panic);
    assert_eq!(bench.shares(1000).len(), 5, "half is enough");
    bench.report(9, evidence(None));
    assert!(bench.pool.summary(&Scope::EMPTY).panic);
    let used: Vec<_> = bench.shares(1000).into_keys().collect();
    assert_eq!(used, (0..9).collect::<Vec<_>>());
}

#[test]
fn a_panic_threshold_of_zero_is_off() {
    let mut policy = outlier(|o| o.max_ejection_percent = Percent::saturating(90));
    policy.panic_threshold = Some(Percent::ZERO);
    let mut bench = Bench::of(policy, 10);
    for member in 0..9 {
        bench.fail(member, 5);
    }
    assert_eq!(bench.shares(100).into_keys().collect::<Vec<_>>(), [9]);
    // Evidence takes the last one: statistics then no longer keep the others out, whatever the order.
    bench.report(9, evidence(None));
    assert_eq!(bench.shares(900).len(), 9);
}

#[test]
fn warming_members_wait_for_their_first_check() {
    let mut policy = policy(Balance::RoundRobin);
    (policy.start, policy.panic_threshold) = (Start::Warming, Some(Percent::ZERO));
    let mut bench = Bench::of(policy, 3);
    assert_eq!(bench.state(0), Warming);
    assert_eq!(
        bench.pick().unwrap_err(),
        NoPick::NoneFit { returns_at: None }
    );
    bench.report(1, Verdict::Ok);
    assert_eq!(bench.shares(10).into_keys().collect::<Vec<_>>(), [1]);
}

#[test]
fn the_one_with_the_low_success_rate_is_ejected_on_the_sweep() {
    let mut bench = Bench::of(outlier(|o| o.consecutive_5xx = 0), 10);
    for member in 0..10 {
        for i in 0..100 {
            let bad = i % if member == 7 { 2 } else { 100 } == 0;
            bench.outcomes(member, if bad { &BAD } else { &Verdict::Ok }, 1);
        }
    }
    assert_eq!(bench.ejected(), 0);
    bench.wait(Duration::from_secs(10));
    assert_eq!(bench.state(7), Ejected);
    assert!(matches!(bench.health(7).cause, Some(Cause::SuccessRate { rate, .. }) if rate == 50.0));
    assert_eq!(bench.ejected(), 1);
}

#[test]
fn failure_percentage_is_judged_where_enforced() {
    for (enforcing, ejected) in [(Percent::ZERO, 0), (Percent::HUNDRED, 1)] {
        let rules = outlier(|o| {
            (o.consecutive_5xx, o.consecutive_local_origin) = (0, 0);
            o.success_rate.enforcing = Percent::ZERO;
            o.failure_percentage.enforcing = enforcing;
        });
        let mut bench = Bench::of(rules, 10);
        for member in 0..10 {
            bench.outcomes(member, &Verdict::Ok, if member == 3 { 8 } else { 50 });
        }
        bench.fail(3, 46);
        bench.wait(Duration::from_secs(10));
        assert_eq!(bench.ejected(), ejected);
    }
}

#[test]
fn switching_outlier_detection_off_frees_the_statistical_ones() {
    let mut bench = Bench::of(policy(Balance::RoundRobin), 10);
    bench.fail(0, 5);
    bench.report(1, evidence(None));
    bench.pool.set_policy(
        PoolPolicy {
            outlier: None,
            ..policy(Balance::RoundRobin)
        },
        bench.now,
    );
    assert_eq!((bench.state(0), bench.state(1)), (Healthy, Ejected));
    bench.fail(2, 1000);
    assert_eq!(bench.state(2), Healthy);
}

#[test]
fn a_new_policy_keeps_health_and_windowed_records() {
    let errors = Some(ErrorsWithin {
        count: 3,
        within: Duration::from_secs(60),
    });
    let mut bench = Bench::of(outlier(|o| o.errors = errors.clone()), 10);
    bench.report(0, evidence(None));
    bench.fail(1, 1);
    bench.outcomes(1, &Verdict::Ok, 1);
    bench.fail(1, 1);
    bench.outcomes(1, &Verdict::Ok, 1);
    let changed = outlier(|o| (o.errors, o.consecutive_5xx) = (errors, 7));
    bench.pool.set_policy(changed, bench.now);
    assert_eq!(bench.state(0), Ejected);
    bench.fail(1, 1);
    assert_eq!(bench.state(1), Ejected);
}
