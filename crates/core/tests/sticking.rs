//! What pools of keys need beside the rest: members that a request must not get again, members that a session keeps,
//! rendezvous hashing, and trials that long streams pass early.

mod common;

use std::time::Duration;

use common::*;
use tidegate_core::MemberState::{Healthy, Probing};
use tidegate_core::*;

#[test]
fn a_barred_member_is_not_taken_even_if_nothing_else_is_fit() {
    let mut bench = Bench::of(policy(Balance::RoundRobin), 2);
    let (first, second) = (bench.key(0), bench.key(1));
    let barred = [first];
    for _ in 0..20 {
        let request = PickRequest {
            never: &barred,
            exclude: &[second],
            ..PickRequest::default()
        };
        // The excluded one is still better than none.
        assert_eq!(bench.pick_with(request).unwrap().member().key(), second);
    }
    let both = [first, second];
    let request = PickRequest {
        never: &both,
        ..PickRequest::default()
    };
    assert_eq!(
        bench.pick_with(request).unwrap_err(),
        NoPick::NoneFit { returns_at: None }
    );
}

#[test]
fn a_barred_member_is_not_the_least_bad_one_either() {
    let mut policy = policy(Balance::RoundRobin);
    policy.when_exhausted = WhenExhausted::UseLeastBad;
    let mut bench = Bench::of(policy, 2);
    let soon = bench.now + Duration::from_secs(10);
    let late = bench.now + Duration::from_secs(20);
    bench.report(0, evidence(Some(soon)));
    bench.report(1, evidence(Some(late)));
    let barred = [bench.key(0)];
    let request = PickRequest {
        never: &barred,
        ..PickRequest::default()
    };
    assert_eq!(*bench.pick_with(request).unwrap().payload(), 1);
    assert_eq!(*bench.pick().unwrap().payload(), 0);
}

#[test]
fn a_barred_member_on_trial_is_not_waited_for() {
    let mut policy = policy(Balance::RoundRobin);
    policy.probation = Some(Probation {
        strict: true,
        ..Probation::default()
    });
    let mut bench = Bench::of(policy, 1);
    bench.report(0, evidence(Some(bench.now + MS)));
    bench.wait(Duration::from_secs(1));
    let held = bench.pick().unwrap();
    assert_eq!(bench.pick().unwrap_err(), NoPick::TrialsTaken);
    let barred = [bench.key(0)];
    let request = PickRequest {
        never: &barred,
        ..PickRequest::default()
    };
    assert_eq!(
        bench.pick_with(request).unwrap_err(),
        NoPick::NoneFit { returns_at: None }
    );
    drop(held);
}

#[test]
fn a_preferred_member_is_taken_while_it_is_fit() {
    let mut bench = Bench::of(policy(Balance::Random), 5);
    let wanted = bench.key(3);
    let request = PickRequest {
        prefer: Some(wanted),
        ..PickRequest::default()
    };
    for _ in 0..50 {
        assert_eq!(*bench.pick_with(request).unwrap().payload(), 3);
    }
    let tried = [wanted];
    let elsewhere = PickRequest {
        exclude: &tried,
        ..request
    };
    assert_ne!(*bench.pick_with(elsewhere).unwrap().payload(), 3);
    bench.report(3, evidence(None));
    for _ in 0..50 {
        assert_ne!(*bench.pick_with(request).unwrap().payload(), 3);
    }
}

#[test]
fn a_preferred_member_on_trial_gets_its_one_trial() {
    let mut bench = Bench::of(policy(Balance::Random), 5);
    bench.report(3, evidence(Some(bench.now + MS)));
    bench.wait(Duration::from_secs(1));
    let request = PickRequest {
        prefer: Some(bench.key(3)),
        ..PickRequest::default()
    };
    let trial = bench.pick_with(request).unwrap();
    assert!(trial.is_trial() && *trial.payload() == 3);
    for _ in 0..20 {
        assert_ne!(*bench.pick_with(request).unwrap().payload(), 3);
    }
}

#[test]
fn rendezvous_moves_the_requests_of_a_lost_member_to_all_the_others_and_no_one_elses() {
    let mut bench = Bench::of(policy(Balance::Rendezvous), 5);
    let ask = |hash: u64| PickRequest {
        hash: Some(hash::mix(hash)),
        ..PickRequest::default()
    };
    let before: Vec<u32> = (0..500)
        .map(|h| *bench.pick_with(ask(h)).unwrap().payload())
        .collect();
    bench.report(2, evidence(None));
    let mut inherited = [0u32; 5];
    for (h, was) in before.iter().enumerate() {
        let now = *bench.pick_with(ask(h as u64)).unwrap().payload();
        if *was == 2 {
            inherited[now as usize] += 1;
        } else {
            assert_eq!(now, *was);
        }
    }
    assert_eq!(inherited[2], 0);
    assert!(
        [0, 1, 3, 4].iter().all(|i| inherited[*i] > 5),
        "{inherited:?}"
    );
    // Back again, so are its requests.
    bench.report(2, Verdict::Ok);
    for (h, was) in before.iter().enumerate() {
        assert_eq!(*bench.pick_with(ask(h as u64)).unwrap().payload(), *was);
    }
}

#[test]
fn rendezvous_follows_the_weights_with_and_without_a_hash() {
    let members = vec![
        MemberSpec::new(name(0), 0).weight(3),
        MemberSpec::new(name(1), 1).weight(1),
    ];
    let mut bench = Bench::new(policy(Balance::Rendezvous), members);
    let share = |bench: &mut Bench, hash: fn(u64) -> Option<u64>| {
        (0..8_000)
            .filter(|i| {
                let request = PickRequest {
                    hash: hash(*i),
                    ..PickRequest::default()
                };
                *bench.pick_with(request).unwrap().payload() == 0
            })
            .count()
    };
    let hashed = share(&mut bench, |i| Some(hash::mix(i)));
    let unhashed = share(&mut bench, |_| None);
    assert!((5_800..6_200).contains(&hashed), "{hashed}");
    assert!((5_800..6_200).contains(&unhashed), "{unhashed}");
}

#[test]
fn a_long_stream_passes_its_trial_with_the_first_content() {
    let mut policy = policy(Balance::RoundRobin);
    policy.probation = Some(Probation {
        strict: true,
        ..Probation::default()
    });
    let mut bench = Bench::of(policy, 1);
    let scope = Scope::new("m");
    bench.pool.report(
        bench.key(0),
        &scope,
        evidence(Some(bench.now + MS)),
        bench.now,
    );
    bench.wait(Duration::from_secs(1));
    let ask = PickRequest {
        scope: &scope,
        ..PickRequest::default()
    };
    let mut stream = bench.pick_with(ask).unwrap();
    assert!(stream.is_trial());
    assert_eq!(bench.pool.status(bench.now)[0].scopes[0].1.state, Probing);
    assert_eq!(bench.pick_with(ask).unwrap_err(), NoPick::TrialsTaken);
    stream.passed(bench.now);
    assert!(!stream.is_trial());
    let others: Vec<_> = (0..10).map(|_| bench.pick_with(ask).unwrap()).collect();
    assert!(others.iter().all(|pick| !pick.is_trial()));
    // What becomes of it later counts as any request's outcome.
    stream.finish(BAD, None, bench.now);
    assert_eq!(bench.pool.status(bench.now)[0].scopes[0].1.state, Healthy);
    assert_eq!(bench.pool.status(bench.now)[0].failures, 1);
}
