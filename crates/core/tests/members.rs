//! Members coming and going, and what is kept meanwhile.

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::*;
use tidegate_core::MemberState::{Draining, Ejected, Gone, Healthy};
use tidegate_core::*;

#[test]
fn an_update_keeps_objects_health_and_statistics_of_the_unchanged() {
    let mut bench = Bench::of(policy(Balance::RoundRobin), 10);
    bench.fail(3, 5);
    let before = bench.pool.members();
    let mut list = specs(11);
    list.remove(0);
    list.reverse();
    list[0].weight = 7;
    let change = bench.pool.update(list, bench.now);
    assert_eq!(change.added, [Arc::from("m10")]);
    assert_eq!(change.removed, [Arc::from("m0")]);
    assert!(change.changed.is_empty(), "the reweighted one is new");
    let after = bench.pool.members();
    for member in &before[1..] {
        assert!(after.iter().any(|m| Arc::ptr_eq(m, member)));
    }
    assert_eq!(bench.state(3), Ejected);
    assert_eq!(after[0].id().as_ref(), "m10", "in the order of the list");
}

#[test]
fn an_update_that_changes_nothing_says_so() {
    let bench = Bench::of(policy(Balance::RoundRobin), 10);
    bench.pool.drain_events();
    assert_eq!(bench.pool.update(specs(10), bench.now), Change::default());
    assert!(bench.pool.drain_events().is_empty());
}

#[test]
fn weight_place_and_priority_change_without_a_new_member() {
    let mut bench = Bench::of(policy(Balance::WeightedRoundRobin), 2);
    let key = bench.key(0);
    let mut list = specs(2);
    list[0] = list[0].clone().weight(3);
    assert_eq!(
        bench.pool.update(list.clone(), bench.now).changed,
        [Arc::from("m0")]
    );
    assert_eq!(bench.shares(400)[&0], 300);
    list[1].priority = 1;
    bench.pool.update(list, bench.now);
    assert_eq!(bench.shares(400)[&0], 400);
    assert_eq!(bench.key(0), key);
}

#[test]
fn another_payload_is_another_member() {
    let mut bench = Bench::of(policy(Balance::RoundRobin), 2);
    let (key, held) = (bench.key(0), bench.pick().unwrap());
    bench.report(0, evidence(None));
    let mut list = specs(2);
    list[0].payload = 100;
    let change = bench.pool.update(list, bench.now);
    assert_eq!((change.added.len(), change.removed.len()), (1, 1));
    assert_ne!(bench.key(0), key);
    assert_eq!(bench.state(0), Healthy, "a new one starts anew");
    drop(held);
}

#[test]
fn of_two_with_one_id_the_first_counts() {
    let mut list = specs(2);
    list.push(MemberSpec::new(name(0), 77));
    let bench = Bench::new(policy(Balance::RoundRobin), list);
    assert_eq!(
        bench
            .pool
            .members()
            .iter()
            .map(|m| *m.payload())
            .collect::<Vec<_>>(),
        [0, 1]
    );
}

#[test]
fn a_removed_member_finishes_its_requests_and_is_gone() {
    let mut bench = Bench::of(policy(Balance::RoundRobin), 2);
    let held: Vec<_> = (0..4).map(|_| bench.pick().unwrap()).collect();
    bench.pool.update(specs(1), bench.now);
    assert_eq!(bench.state(1), Draining);
    assert!(!bench.shares(50).contains_key(&1));
    bench.wait(Duration::from_secs(60));
    assert_eq!(bench.state(1), Draining, "two are in flight");
    drop(held);
    bench.pool.drain_events();
    bench.wait(Duration::from_millis(100));
    assert_eq!(bench.pool.status(bench.now).len(), 1);
    let told = bench.events();
    assert_eq!((&*told[0].0, told[0].1, told[0].2), ("m1", Draining, Gone));
}

#[test]
fn one_that_returns_while_leaving_is_what_it_was() {
    let mut bench = Bench::of(policy(Balance::RoundRobin), 2);
    bench.report(1, evidence(None));
    let key = bench.key(1);
    bench.pool.update(specs(1), bench.now);
    bench.pool.update(specs(2), bench.now);
    assert_eq!(
        (bench.key(1), bench.state(1)),
        (key, Ejected),
        "leaving is no way to be healthy again"
    );
}

#[test]
fn ejections_of_a_member_that_is_gone_still_count() {
    let mut bench = Bench::of(policy(Balance::RoundRobin), 3);
    let all = |bench: &Bench| {
        let status = bench.pool.whole_status(bench.now);
        let listed: u64 = status.members.iter().map(|m| m.health.ejections).sum();
        listed + status.gone_ejections
    };
    bench.report(1, evidence(None));
    bench.report(2, evidence(None));
    assert_eq!(all(&bench), 2);
    let held = bench.pick().unwrap();
    for left in [2, 1, 0] {
        bench.pool.update(specs(left), bench.now);
        assert_eq!(all(&bench), 2, "while it leaves");
        bench.pool.tick(bench.now);
        assert_eq!(all(&bench), 2, "when it is gone");
    }
    drop(held);
    bench.pool.tick(bench.now);
    assert!(bench.pool.whole_status(bench.now).members.is_empty());
    assert_eq!(all(&bench), 2);
}

#[test]
fn evidence_about_a_member_that_is_gone_is_refused() {
    let bench = Bench::of(policy(Balance::RoundRobin), 2);
    let key = bench.key(1);
    bench.pool.update(specs(1), bench.now);
    assert!(
        !bench
            .pool
            .report(key, &Scope::EMPTY, evidence(None), bench.now)
    );
    assert!(!bench.pool.drain(key, true, bench.now));
}

#[test]
fn draining_keeps_a_member_listed_and_unpicked_until_taken_back() {
    let mut bench = Bench::of(policy(Balance::RoundRobin), 2);
    let key = bench.key(0);
    assert!(bench.pool.drain(key, true, bench.now));
    assert!(!bench.shares(50).contains_key(&0));
    bench.pool.update(specs(2), bench.now);
    assert_eq!(bench.state(0), Draining, "a new list does not undo it");
    bench.report(0, evidence(None));
    bench.pool.drain(key, false, bench.now);
    assert_eq!(
        bench.state(0),
        Ejected,
        "what was found out meanwhile holds"
    );
    bench.report(0, Verdict::Ok);
    assert_eq!(bench.shares(50)[&0], 25);
}

#[test]
fn an_empty_pool_says_that_it_is_empty() {
    let mut bench = Bench::of(policy(Balance::RoundRobin), 0);
    assert_eq!(bench.pick().unwrap_err(), NoPick::Empty);
    bench.pool.update(specs(1), bench.now);
    assert!(bench.pick().is_ok());
    let key = bench.key(0);
    bench.pool.drain(key, true, bench.now);
    assert_eq!(bench.pick().unwrap_err(), NoPick::Empty);
}

#[test]
fn a_pick_outlives_its_pool() {
    let mut bench = Bench::of(
        policy(Balance::Maglev(Maglev {
            bounded_load: Some(150),
            ..Maglev::default()
        })),
        1,
    );
    let (first, second) = (bench.pick().unwrap(), bench.pick().unwrap());
    let now = bench.now;
    drop(bench);
    first.finish(Verdict::Failure(FailureKind::Gateway), Some(MS), now);
    assert_eq!(second.member().inflight(), 1);
}

#[test]
fn events_are_bounded() {
    let mut bench = Bench::of(policy(Balance::RoundRobin), 2);
    for _ in 0..5_000 {
        bench.report(0, evidence(None));
        bench.report(0, Verdict::Ok);
    }
    assert_eq!(bench.pool.drain_events().len(), 4_096);
    assert!(bench.pool.drain_events().is_empty());
}

#[test]
fn a_policy_may_change_the_balancer_under_load() {
    let mut bench = Bench::of(policy(Balance::RoundRobin), 3);
    let held = bench.pick().unwrap();
    bench.pool.set_policy(
        policy(Balance::Maglev(Maglev {
            bounded_load: Some(125),
            ..Maglev::default()
        })),
        bench.now,
    );
    let bounded = bench.pick().unwrap();
    bench
        .pool
        .set_policy(policy(Balance::LeastRequest), bench.now);
    drop((held, bounded));
    assert_eq!(bench.pool.inflight(), 0);
    assert_eq!(bench.pool.policy().balance, Balance::LeastRequest);
}
