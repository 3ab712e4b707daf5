//! Exact across threads: what the contract promises of counts and verdicts.

mod common;

use std::collections::BTreeMap;
use std::sync::Barrier;
use std::time::Duration;

use common::*;
use tidegate_core::*;

const THREADS: u32 = 4;

/// Runs on several threads that start together; each gets a number.
fn together<R: Send>(work: impl Fn(u32) -> R + Sync) -> Vec<R> {
    let barrier = Barrier::new(THREADS as usize);
    std::thread::scope(|scope| {
        let run = |i| {
            barrier.wait();
            work(i)
        };
        let threads: Vec<_> = (0..THREADS).map(|i| scope.spawn(move || run(i))).collect();
        threads
            .into_iter()
            .map(|t| t.join().expect("no panic"))
            .collect()
    })
}

#[test]
fn round_robin_is_exactly_even_over_threads() {
    let pool = Pool::new(policy(Balance::RoundRobin), specs(3), 1, Time::ZERO);
    let counts = together(|i| {
        let mut rng = SmallRng::new(i.into());
        let mut counts = BTreeMap::<u32, u32>::new();
        for _ in 0..7_500 {
            *counts
                .entry(
                    *pool
                        .pick(&PickRequest::default(), Time::ZERO, &mut rng)
                        .unwrap()
                        .payload(),
                )
                .or_default() += 1;
        }
        counts
    });
    for member in 0..3 {
        assert_eq!(counts.iter().map(|c| c[&member]).sum::<u32>(), 10_000);
    }
}

#[test]
fn weighted_round_robin_is_exact_over_threads() {
    let members = specs(3)
        .into_iter()
        .zip([6, 3, 1])
        .map(|(s, w)| s.weight(w))
        .collect();
    let pool = Pool::new(policy(Balance::WeightedRoundRobin), members, 1, Time::ZERO);
    let counts = together(|i| {
        let mut rng = SmallRng::new(i.into());
        let picks = (0..2_500).map(|_| {
            *pool
                .pick(&PickRequest::default(), Time::ZERO, &mut rng)
                .unwrap()
                .payload()
        });
        picks.fold([0u32; 3], |mut counts, member| {
            counts[member as usize] += 1;
            counts
        })
    });
    let sum = |m: usize| counts.iter().map(|c| c[m]).sum::<u32>();
    assert_eq!([sum(0), sum(1), sum(2)], [6_000, 3_000, 1_000]);
}

#[test]
fn requests_in_flight_return_to_zero_while_everything_changes() {
    let balances = [
        Balance::default(),
        Balance::RoundRobin,
        Balance::Maglev(Maglev {
            bounded_load: Some(150),
            ..Maglev::default()
        }),
        Balance::RingHash(RingHash {
            bounded_load: Some(150),
            ..RingHash::default()
        }),
    ];
    let pool = Pool::new(policy(Balance::default()), specs(5), 1, Time::ZERO);
    let scope = Scope::new("m");
    together(|i| {
        let mut rng = SmallRng::new(i.into());
        for step in 0..4_000u32 {
            let now = Time::from_millis(u64::from(step) * 50);
            if i == 0 {
                // One thread changes members, policy and scopes under the others.
                match step % 40 {
                    0 => drop(pool.update(specs(3 + step / 40 % 5), now)),
                    20 => pool.set_policy(policy(balances[(step / 40) as usize % 4].clone()), now),
                    _ => drop(pool.tick(now)),
                }
            }
            let request = PickRequest {
                hash: Some(rng.next_u64()),
                scope: if step % 3 == 0 { &scope } else { &Scope::EMPTY },
                ..PickRequest::default()
            };
            let Ok(pick) = pool.pick(&request, now, &mut rng) else {
                continue;
            };
            match rng.below(6) {
                0 => drop(pick),
                1 => pick.finish(BAD, Some(MS), now),
                2 => pick.finish(evidence(Some(now + Duration::from_millis(200))), None, now),
                _ => pick.finish(Verdict::Ok, Some(MS), now),
            }
        }
    });
    assert_eq!(pool.inflight(), 0);
    // Those that left are seen off: nothing is believed to be in flight on them.
    let end = Time::from_secs(1_000_000);
    pool.tick(end);
    assert_eq!(pool.status(end).len(), pool.members().len());
    assert!(pool.status(end).iter().all(|m| m.inflight == 0));
}

#[test]
fn attempts_and_failures_are_counted_exactly() {
    let pool = Pool::new(
        PoolPolicy {
            outlier: None,
            ..policy(Balance::RoundRobin)
        },
        specs(2),
        1,
        Time::ZERO,
    );
    together(|i| {
        let mut rng = SmallRng::new(i.into());
        for step in 0..5_000 {
            let pick = pool
                .pick(&PickRequest::default(), Time::ZERO, &mut rng)
                .unwrap();
            pick.finish(
                if step % 5 == 0 { BAD } else { Verdict::Ok },
                Some(MS),
                Time::ZERO,
            );
        }
    });
    let status = pool.status(Time::ZERO);
    assert_eq!(status.iter().map(|m| m.attempts).sum::<u64>(), 20_000);
    assert_eq!(status.iter().map(|m| m.failures).sum::<u64>(), 4_000);
}

#[test]
fn the_limits_on_ejection_hold_when_all_fail_at_once() {
    for round in 0..20 {
        let pool = Pool::new(
            outlier(|o| o.max_ejection_percent = Percent::saturating(30)),
            specs(10),
            round,
            Time::ZERO,
        );
        let members = pool.members();
        together(|i| {
            for step in 0..500u32 {
                let member = &members[((step + i * 3) % 10) as usize];
                pool.report(member.key(), &Scope::EMPTY, BAD, Time::ZERO);
            }
        });
        let summary = pool.summary(&Scope::EMPTY);
        assert_eq!((summary.ejected, summary.fit), (3, 7));
        let ejections = pool
            .drain_events()
            .iter()
            .filter(|e| e.to == MemberState::Ejected)
            .count();
        assert_eq!(ejections, 3, "each told once");
    }
}

#[test]
fn one_trial_at_a_time_over_threads() {
    let now = Time::from_secs(10);
    let strict = Probation {
        strict: true,
        ..Probation::default()
    };
    let pool = Pool::new(
        PoolPolicy {
            probation: Some(strict),
            ..policy(Balance::RoundRobin)
        },
        specs(1),
        1,
        Time::ZERO,
    );
    for round in 0..200u64 {
        let at = now + Duration::from_secs(round);
        let key = pool.members()[0].key();
        pool.report(key, &Scope::EMPTY, evidence(Some(at)), at - MS);
        pool.tick(at);
        let picks =
            together(|i| pool.pick(&PickRequest::default(), at, &mut SmallRng::new(i.into())));
        assert_eq!(picks.iter().filter(|p| p.is_ok()).count(), 1);
    }
}

#[test]
fn an_ejected_member_is_not_picked_by_anybody_who_looks_afterwards() {
    let pool = Pool::new(policy(Balance::default()), specs(3), 1, Time::ZERO);
    let key = pool.members()[1].key();
    for round in 0..300u64 {
        let now = Time::from_secs(round);
        pool.report(key, &Scope::EMPTY, evidence(None), now);
        let seen = together(|i| {
            let mut rng = SmallRng::new(u64::from(i) + round);
            (0..20).any(|_| {
                pool.pick(&PickRequest::default(), now, &mut rng)
                    .unwrap()
                    .member()
                    .key()
                    == key
            })
        });
        assert!(!seen.contains(&true));
        pool.report(key, &Scope::EMPTY, Verdict::Ok, now);
    }
}
