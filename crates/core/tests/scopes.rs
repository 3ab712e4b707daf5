//! Health by scope: a key that fails for one model serves the others.

mod common;

use std::time::Duration;

use common::*;
use tidegate_core::MemberState::{Ejected, Healthy, Probing};
use tidegate_core::*;

fn used(bench: &mut Bench, scope: &Scope) -> Vec<u32> {
    bench
        .shares_with(300, |_| PickRequest {
            scope,
            ..PickRequest::default()
        })
        .into_keys()
        .collect()
}

fn scoped(bench: &Bench, member: u32, scope: &Scope, verdict: Verdict) {
    assert!(
        bench
            .pool
            .report(bench.key(member), scope, verdict, bench.now)
    );
}

#[test]
fn evidence_in_a_scope_holds_there_only() {
    let mut bench = Bench::of(policy(Balance::RoundRobin), 3);
    let (gpt4, gpt3) = (Scope::new("gpt-4"), Scope::new("gpt-3"));
    scoped(
        &bench,
        0,
        &gpt4,
        evidence(Some(bench.now + Duration::from_secs(60))),
    );
    assert_eq!(used(&mut bench, &gpt4), [1, 2]);
    assert_eq!(used(&mut bench, &gpt3), [0, 1, 2]);
    assert_eq!(used(&mut bench, &Scope::EMPTY), [0, 1, 2]);
    assert_eq!(bench.state(0), Healthy);
    let status = bench.pool.status(bench.now);
    assert_eq!(
        (status[0].scopes[0].0.as_str(), status[0].scopes[0].1.state),
        ("gpt-4", Ejected)
    );
    bench.wait(Duration::from_secs(60));
    assert_eq!(bench.pool.status(bench.now)[0].scopes[0].1.state, Probing);
    assert_eq!(used(&mut bench, &gpt4), [0, 1, 2]);
}

#[test]
fn what_holds_a_member_out_as_a_whole_holds_in_every_scope() {
    let mut bench = Bench::of(policy(Balance::RoundRobin), 3);
    let scope = Scope::new("m");
    scoped(&bench, 1, &scope, evidence(None));
    bench.report(0, evidence(None));
    assert_eq!(used(&mut bench, &scope), [2]);
    // An update and a new policy keep the scope's health.
    bench.pool.update(specs(4), bench.now);
    assert_eq!(used(&mut bench, &scope), [2, 3]);
    bench.pool.set_policy(policy(Balance::Random), bench.now);
    assert_eq!(used(&mut bench, &scope), [2, 3]);
}

#[test]
fn failures_in_a_scope_count_there_only() {
    let mut bench = Bench::of(policy(Balance::RoundRobin), 3);
    let scope = Scope::new("m");
    let attempt = |bench: &mut Bench, verdict: Verdict| {
        let others = [bench.key(1), bench.key(2)];
        let pick = bench
            .pick_with(PickRequest {
                scope: &scope,
                exclude: &others,
                ..PickRequest::default()
            })
            .unwrap();
        pick.finish(verdict, Some(MS), bench.now);
    };
    (0..4).for_each(|_| attempt(&mut bench, BAD));
    attempt(&mut bench, Verdict::Ok);
    (0..4).for_each(|_| attempt(&mut bench, BAD));
    assert_eq!(
        used(&mut bench, &scope).len(),
        3,
        "a success in the scope resets its counters"
    );
    attempt(&mut bench, Verdict::Ok);
    (0..5).for_each(|_| attempt(&mut bench, BAD));
    assert_eq!(used(&mut bench, &scope), [1, 2]);
    assert_eq!(bench.state(0), Healthy);
}

#[test]
fn a_finding_may_concern_more_than_the_scope_of_the_request() {
    let mut bench = Bench::of(policy(Balance::RoundRobin), 2);
    let scope = Scope::new("m");
    let pick = bench
        .pick_with(PickRequest {
            scope: &scope,
            ..PickRequest::default()
        })
        .unwrap();
    let dead = *pick.payload();
    pick.finish_in(
        &Scope::EMPTY,
        Verdict::Evidence {
            cause: "key dead".into(),
            until: None,
        },
        None,
        bench.now,
    );
    assert_eq!(bench.state(dead), Ejected);
    assert_eq!(used(&mut bench, &Scope::new("other")), [1 - dead]);
}

#[test]
fn never_the_last_fit_one_in_any_scope() {
    let mut bench = Bench::of(policy(Balance::RoundRobin), 2);
    let scope = Scope::new("m");
    for _ in 0..5 {
        scoped(&bench, 0, &scope, BAD);
    }
    assert_eq!(used(&mut bench, &scope), [1]);
    for _ in 0..20 {
        scoped(&bench, 1, &scope, BAD);
    }
    assert_eq!(used(&mut bench, &scope), [1]);
    // Nor by losing the member as a whole: it is the scope's last.
    bench.fail(1, 20);
    assert_eq!(bench.state(1), Healthy);
    assert_eq!(used(&mut bench, &scope), [1]);
}

#[test]
fn the_table_of_scopes_is_bounded_and_keeps_what_holds_somebody_out() {
    let mut policy = policy(Balance::RoundRobin);
    policy.max_scope_cells = 64;
    let mut bench = Bench::of(policy, 3);
    let dead = Scope::new("dead");
    scoped(&bench, 0, &dead, evidence(None));
    for i in 0..10_000 {
        scoped(&bench, i % 3, &Scope::new(&format!("model-{i}")), BAD);
    }
    let cells: usize = bench
        .pool
        .status(bench.now)
        .iter()
        .map(|m| m.scopes.len())
        .sum();
    assert!(cells <= 64, "{cells}");
    assert_eq!(used(&mut bench, &dead), [1, 2]);
    // Even a flood of evidence stays within it.
    for i in 0..1_000 {
        scoped(
            &bench,
            0,
            &Scope::new(&format!("limited-{i}")),
            evidence(None),
        );
    }
    let cells: usize = bench
        .pool
        .status(bench.now)
        .iter()
        .map(|m| m.scopes.len())
        .sum();
    assert!(cells <= 64, "{cells}");
}

#[test]
fn what_is_over_is_forgotten() {
    let mut bench = Bench::of(policy(Balance::RoundRobin), 3);
    let scope = Scope::new("m");
    scoped(&bench, 0, &scope, evidence(None));
    scoped(&bench, 1, &scope, evidence(None));
    scoped(&bench, 0, &scope, Verdict::Ok);
    bench.wait(Duration::from_secs(30));
    let status = bench.pool.status(bench.now);
    assert_eq!((status[0].scopes.len(), status[1].scopes.len()), (0, 1));
    // A removed member leaves nothing behind.
    bench.pool.update(specs(1), bench.now);
    bench.wait(Duration::from_secs(30));
    bench.pool.update(specs(2), bench.now);
    assert_eq!(used(&mut bench, &scope), [0, 1]);
}

#[test]
fn ejections_in_a_scope_that_is_forgotten_still_count() {
    let mut bench = Bench::of(policy(Balance::RoundRobin), 2);
    let all = |bench: &Bench| {
        let status = bench.pool.whole_status(bench.now);
        let of_member = |m: &MemberStatus| {
            let scoped: u64 = m.scopes.iter().map(|(_, h)| h.ejections).sum();
            m.health.ejections + m.forgotten_ejections + scoped
        };
        status.gone_ejections + status.members.iter().map(of_member).sum::<u64>()
    };
    let scope = Scope::new("m");
    scoped(&bench, 0, &scope, evidence(None));
    scoped(&bench, 1, &scope, evidence(None));
    scoped(&bench, 0, &scope, Verdict::Ok);
    assert_eq!(all(&bench), 2);
    bench.wait(Duration::from_secs(30));
    let first = &bench.pool.status(bench.now)[0];
    assert_eq!((first.scopes.len(), first.forgotten_ejections), (0, 1));
    assert_eq!(all(&bench), 2);
    bench.pool.update(specs(0), bench.now);
    assert_eq!(all(&bench), 2, "while they leave");
    bench.wait(Duration::from_secs(1));
    assert_eq!(all(&bench), 2, "when they are gone");
    // Room is made where callers name ever more models.
    let bench = Bench::of(
        PoolPolicy {
            max_scope_cells: 4,
            ..policy(Balance::RoundRobin)
        },
        2,
    );
    for i in 1..=20 {
        scoped(&bench, 0, &Scope::new(&format!("m{i}")), evidence(None));
        assert_eq!(all(&bench), i);
    }
}

#[test]
fn a_check_of_one_scope_brings_that_scope_back() {
    let mut bench = Bench::of(policy(Balance::RoundRobin), 3);
    let (a, b) = (Scope::new("a"), Scope::new("b"));
    scoped(&bench, 0, &a, evidence(None));
    scoped(&bench, 0, &b, evidence(None));
    scoped(&bench, 0, &a, Verdict::Ok);
    assert_eq!(used(&mut bench, &a), [0, 1, 2]);
    assert_eq!(used(&mut bench, &b), [1, 2]);
}

#[test]
fn all_out_in_a_scope_tells_the_scopes_earliest_return() {
    let mut bench = Bench::of(policy(Balance::RoundRobin), 2);
    let scope = Scope::new("m");
    let at = |secs| bench.now + Duration::from_secs(secs);
    let (first, second) = (at(40), at(20));
    scoped(&bench, 0, &scope, evidence(Some(first)));
    scoped(&bench, 1, &scope, evidence(Some(second)));
    let refused = bench
        .pick_with(PickRequest {
            scope: &scope,
            ..PickRequest::default()
        })
        .unwrap_err();
    assert_eq!(
        refused,
        NoPick::NoneFit {
            returns_at: Some(second)
        }
    );
    assert!(bench.pick().is_ok());
}
