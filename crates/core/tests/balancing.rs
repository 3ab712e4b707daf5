//! Each balancer's promise, seen from outside.

mod common;

use std::collections::BTreeMap;
use std::time::Duration;

use common::*;
use tidegate_core::hash::mix;
use tidegate_core::*;

#[test]
fn round_robin_is_exactly_even() {
    let mut bench = Bench::of(policy(Balance::RoundRobin), 3);
    assert_eq!(
        bench.shares(30_000),
        BTreeMap::from([(0, 10_000), (1, 10_000), (2, 10_000)])
    );
}

#[test]
fn round_robin_ignores_weights_and_the_weighted_one_keeps_them_exactly() {
    let weights = [5, 3, 0, 2];
    let mut plain = Bench::new(policy(Balance::RoundRobin), weighted(&weights));
    assert_eq!(
        plain.shares(300),
        BTreeMap::from([(0, 100), (1, 100), (3, 100)])
    );
    let mut kept = Bench::new(policy(Balance::WeightedRoundRobin), weighted(&weights));
    assert_eq!(
        kept.shares(1000),
        BTreeMap::from([(0, 500), (1, 300), (3, 200)])
    );
}

#[test]
fn weighted_random_follows_the_weights() {
    let mut bench = Bench::new(policy(Balance::WeightedRandom), weighted(&[90, 10]));
    let shares = bench.shares(20_000);
    assert!((17_700..18_300).contains(&shares[&0]), "{shares:?}");
}

#[test]
fn every_balancer_uses_every_member_and_none_without_weight() {
    for balance in all() {
        for count in [1, 3, 8, 9, 40] {
            let mut members = specs(count);
            members.push(MemberSpec::new("none", 999).weight(0));
            let mut bench = Bench::new(policy(balance.clone()), members);
            let shares = bench.shares(2_000 + 100 * count);
            assert_eq!(
                shares.len(),
                count as usize,
                "{} over {count}",
                balance.name()
            );
            assert!(!shares.contains_key(&999));
        }
    }
}

#[test]
fn every_balancer_avoids_the_members_tried_before_unless_nothing_else_is_fit() {
    for balance in all() {
        for count in [3, 12] {
            let mut bench = Bench::of(policy(balance.clone()), count);
            let mut tried = Vec::new();
            for _ in 0..count {
                let hash = Some(bench.rng.next_u64());
                let pick = bench
                    .pick_with(PickRequest {
                        exclude: &tried,
                        hash,
                        ..PickRequest::default()
                    })
                    .unwrap();
                assert!(!tried.contains(&pick.member().key()), "{}", balance.name());
                tried.push(pick.member().key());
            }
            assert!(
                bench
                    .pick_with(PickRequest {
                        exclude: &tried,
                        ..PickRequest::default()
                    })
                    .is_ok()
            );
        }
    }
}

#[test]
fn what_an_excluded_member_does_not_get_is_spread_over_all_others() {
    for balance in all() {
        let mut bench = Bench::of(policy(balance.clone()), 5);
        let tried = [bench.key(2)];
        let hashes: Vec<u64> = (0..5_000).map(mix).collect();
        let request = |i: u32| PickRequest {
            exclude: &tried,
            hash: Some(hashes[i as usize]),
            ..PickRequest::default()
        };
        let shares = bench.shares_with(5_000, request);
        let most = shares.values().max().unwrap();
        assert!(
            shares.len() == 4 && *most < 1_650,
            "{}: {shares:?}",
            balance.name()
        );
    }
}

#[test]
fn a_new_member_gets_its_share_at_once_and_no_more() {
    for balance in all() {
        let mut bench = Bench::of(policy(balance.clone()), 3);
        bench.shares(1_000);
        bench.pool.update(specs(4), bench.now);
        let hashes: Vec<u64> = (0..8_000).map(mix).collect();
        let shares = bench.shares_with(8_000, |i| PickRequest {
            hash: Some(hashes[i as usize]),
            ..PickRequest::default()
        });
        assert!(
            (1_700..2_300).contains(&shares[&3]),
            "{}: {shares:?}",
            balance.name()
        );
    }
}

#[test]
fn round_robin_stays_even_through_rebuilds() {
    // Rebuilt after every pick, a cursor that began anew would give everything to the first member.
    let mut bench = Bench::of(policy(Balance::RoundRobin), 3);
    let mut counts = [0u32; 3];
    for _ in 0..300 {
        counts[*bench.pick().unwrap().payload() as usize] += 1;
        bench
            .pool
            .set_policy(policy(Balance::RoundRobin), bench.now);
    }
    assert_eq!(counts, [100, 100, 100]);
}

#[test]
fn least_request_goes_to_the_idle_one() {
    for count in [8, 100] {
        let mut bench = Bench::of(policy(Balance::LeastRequest), count);
        let held: Vec<_> = (0..count * 10).map(|_| bench.pick().unwrap()).collect();
        let mut inflight = vec![0u32; count as usize];
        held.iter()
            .for_each(|pick| inflight[*pick.payload() as usize] += 1);
        let (least, most) = (
            inflight.iter().min().unwrap(),
            inflight.iter().max().unwrap(),
        );
        // A full scan is exact; two choices stay close to the mean (Mitzenmacher: log log n).
        assert!(
            if count <= 8 {
                (*least, *most) == (10, 10)
            } else {
                *least >= 6 && *most <= 13
            },
            "{inflight:?}"
        );
        drop(held);
        assert_eq!(bench.pool.inflight(), 0);
    }
}

/// Mean rank by load of the member picked, of 100 with a load of their own each; and how often everybody was looked at.
fn mean_rank(choices: usize) -> f64 {
    let wanted = PoolPolicy {
        choices,
        ..policy(Balance::RoundRobin)
    };
    let mut bench = Bench::of(wanted.clone(), 100);
    // Of each round in turn the first so many stay: m0 has 100 in flight, m99 has 1.
    let mut held = Vec::new();
    for round in 0..100 {
        for _ in 0..100 {
            let pick = bench.pick().unwrap();
            if *pick.payload() < 100 - round {
                held.push(pick);
            }
        }
    }
    let wanted = PoolPolicy {
        balance: Balance::LeastRequest,
        ..wanted
    };
    bench.pool.set_policy(wanted, bench.now);
    let rank = |pick: Pick<u32>| f64::from(99 - *pick.payload());
    let ranks: f64 = (0..4000).map(|_| rank(bench.pick().unwrap())).sum();
    ranks / 4000.0
}

#[test]
fn least_request_takes_the_best_of_as_many_as_it_is_told_to_draw() {
    // The least of k uniform draws from n ranks lies at about n / (k + 1).
    for (choices, expected) in [(2, 33.0), (4, 20.0), (9, 10.0)] {
        let mean = mean_rank(choices);
        assert!(
            (mean - expected).abs() < 2.5,
            "{choices} choices: {mean:.1} instead of {expected}"
        );
    }
    assert_eq!(mean_rank(100), 0.0, "as many choices as members: all");
}

#[test]
fn least_request_weighs() {
    let mut bench = Bench::new(policy(Balance::LeastRequest), weighted(&[3, 1]));
    let held: Vec<_> = (0..40).map(|_| bench.pick().unwrap()).collect();
    assert_eq!(held.iter().filter(|p| *p.payload() == 0).count(), 30);
}

fn run(
    bench: &mut Bench,
    picks: u32,
    latency: impl Fn(u32) -> Duration,
    verdict: impl Fn(u32) -> Verdict,
) -> BTreeMap<u32, u32> {
    let mut counts = BTreeMap::new();
    // Four at a time, so that there is something to wait for.
    for _ in 0..picks / 4 {
        let picks: Vec<_> = (0..4).map(|_| bench.pick().unwrap()).collect();
        for pick in picks {
            let member = *pick.payload();
            *counts.entry(member).or_default() += 1;
            pick.finish(
                verdict(member),
                Some(latency(member)),
                bench.now + latency(member),
            );
        }
        bench.now = bench.now + 10 * MS;
    }
    counts
}

#[test]
fn peak_ewma_leaves_the_slow_one_alone_and_comes_back_to_it() {
    let mut bench = Bench::of(policy(Balance::default()), 3);
    let slow = |m: u32| if m == 1 { 200 * MS } else { 5 * MS };
    let shares = run(&mut bench, 4_000, slow, |_| Verdict::Ok);
    assert!(shares[&1] < 100, "{shares:?}");
    // 200 ms fade to 5 in 37 s; 100 requests are a quarter of a second here.
    run(&mut bench, 16_000, |_| 5 * MS, |_| Verdict::Ok);
    let fast_again = run(&mut bench, 4_000, |_| 5 * MS, |_| Verdict::Ok);
    assert!(fast_again[&1] > 800, "{fast_again:?}");
}

#[test]
fn peak_ewma_is_not_fooled_by_one_that_fails_fast() {
    let mut policy = policy(Balance::default());
    policy.outlier = None;
    let mut bench = Bench::of(policy, 3);
    let latency = |m: u32| if m == 1 { MS / 10 } else { 5 * MS };
    let shares = run(&mut bench, 4_000, latency, |m| {
        if m == 1 { BAD } else { Verdict::Ok }
    });
    assert!(shares[&1] < 200, "{shares:?}");
}

#[test]
fn an_overload_answer_keeps_peak_ewma_away_but_moves_no_health() {
    let mut bench = Bench::of(policy(Balance::default()), 3);
    run(&mut bench, 400, |_| 5 * MS, |_| Verdict::Ok);
    for _ in 0..100 {
        let others = [bench.key(0), bench.key(2)];
        let pick = bench
            .pick_with(PickRequest {
                exclude: &others,
                ..PickRequest::default()
            })
            .unwrap();
        pick.overloaded(Some(MS), bench.now);
        pick.finish(Verdict::Neutral, None, bench.now);
    }
    assert_eq!(bench.state(1), MemberState::Healthy);
    let shares = run(&mut bench, 400, |_| 5 * MS, |_| Verdict::Ok);
    assert!(shares.get(&1).is_none_or(|n| *n < 20), "{shares:?}");
}

#[test]
fn peak_ewma_uses_a_member_that_came_back_from_its_ejection_at_once() {
    let mut bench = Bench::of(policy(Balance::default()), 3);
    // It hangs until it is ejected: five times 400 ms with their penalties.
    let latency = |m: u32| if m == 1 { 400 * MS } else { MS };
    run(&mut bench, 4_000, latency, |m| {
        if m == 1 { BAD } else { Verdict::Ok }
    });
    let evidence = evidence(None);
    bench
        .pool
        .report(bench.key(1), &Scope::EMPTY, evidence, bench.now);
    assert_eq!(bench.state(1), MemberState::Ejected);
    bench
        .pool
        .report(bench.key(1), &Scope::EMPTY, Verdict::Ok, bench.now);
    assert_eq!(bench.state(1), MemberState::Healthy);
    let shares = run(&mut bench, 300, |_| MS, |_| Verdict::Ok);
    assert!(shares[&1] > 60, "{shares:?}");
}

#[test]
fn peak_ewma_uses_a_new_member_at_once_though_another_one_is_slow() {
    let mut bench = Bench::of(policy(Balance::default()), 3);
    let latency = |m: u32| if m == 1 { 2_000 * MS } else { MS };
    run(&mut bench, 2_000, latency, |_| Verdict::Ok);
    bench.pool.update(specs(4), bench.now);
    bench.wait(MS);
    let shares = run(&mut bench, 300, latency, |_| Verdict::Ok);
    assert!(shares[&3] > 60, "{shares:?}");
}

#[test]
fn the_first_byte_counts_before_a_stream_ends() {
    let mut bench = Bench::of(policy(Balance::default()), 1);
    let stream = bench.pick().unwrap();
    stream.observe(7 * MS, bench.now);
    assert_eq!(bench.pool.status(bench.now)[0].ewma, Some(7 * MS));
}

#[test]
fn backend_load_follows_the_reports_after_the_blackout() {
    let mut bench = Bench::of(policy(Balance::BackendLoad(BackendLoad::default())), 3);
    let members = bench.pool.members();
    let report = |bench: &Bench| {
        for (member, utilization) in members.iter().zip([0.2, 0.4, 0.4]) {
            member.report_load(utilization, 100.0, 0.0, bench.now);
        }
    };
    report(&bench);
    bench.wait(Duration::from_secs(5));
    assert_eq!(bench.shares(300)[&0], 100, "in the blackout all are alike");
    bench.wait(Duration::from_secs(6));
    report(&bench);
    let shares = bench.shares(4_000);
    assert!(
        (1_980..2_020).contains(&shares[&0]) && (980..1_020).contains(&shares[&1]),
        "{shares:?}"
    );
    bench.wait(Duration::from_secs(200));
    assert_eq!(bench.shares(300)[&0], 100, "old reports are forgotten");
}

#[test]
fn slow_start_ramps_a_new_member_up() {
    for balance in [
        Balance::RoundRobin,
        Balance::WeightedRandom,
        Balance::LeastRequest,
    ] {
        let mut policy = policy(balance.clone());
        policy.slow_start = Some(SlowStart::linear(Duration::from_secs(30)));
        let mut bench = Bench::of(policy, 3);
        assert_eq!(
            bench.pool.status(bench.now)[0].weight_factor,
            1.0,
            "the first ones have nobody to be slower than"
        );
        bench.pool.update(specs(4), bench.now);
        bench.wait(MS);
        let share = |bench: &mut Bench| {
            let held: Vec<_> = (0..3_100).map(|_| bench.pick().unwrap()).collect();
            held.iter().filter(|p| *p.payload() == 3).count()
        };
        let start = share(&mut bench);
        assert!(
            (60..150).contains(&start),
            "{}: a tenth of a share, got {start}",
            balance.name()
        );
        bench.wait(Duration::from_secs(15));
        let half = share(&mut bench);
        assert!(
            (380..520).contains(&half),
            "{}: half a share, got {half}",
            balance.name()
        );
        bench.wait(Duration::from_secs(16));
        let full = share(&mut bench);
        assert!((700..850).contains(&full), "{}: {full}", balance.name());
    }
}

#[test]
fn slow_start_formula_is_the_references() {
    let curve = SlowStart {
        aggression: 2.0,
        ..SlowStart::linear(Duration::from_secs(100))
    };
    assert_eq!(curve.factor(Duration::ZERO), 0.1);
    assert!((curve.factor(Duration::from_secs(25)) - 0.5).abs() < 1e-9);
    assert_eq!(curve.factor(Duration::from_secs(100)), 1.0);
    assert_eq!(
        SlowStart::linear(Duration::ZERO).factor(Duration::ZERO),
        1.0
    );
}

fn located(places: &[(&str, &str)]) -> Vec<MemberSpec<u32>> {
    specs(places.len() as u32)
        .into_iter()
        .zip(places)
        .map(|(s, (r, z))| s.locality(Locality::new(r, z)))
        .collect()
}

#[test]
fn local_first_then_region_then_the_rest() {
    for balance in all() {
        let places = [("eu", "a"), ("eu", "a"), ("eu", "b"), ("us", "a")];
        let mut bench = Bench::new(policy(balance), located(&places));
        let local = Locality::new("eu", "a");
        let used = |bench: &mut Bench| -> Vec<u32> {
            bench
                .shares_with(200, |_| PickRequest {
                    local: &local,
                    ..PickRequest::default()
                })
                .into_keys()
                .collect()
        };
        assert_eq!(used(&mut bench), [0, 1]);
        bench.report(0, evidence(None));
        bench.report(1, evidence(None));
        assert_eq!(used(&mut bench), [2]);
        bench.report(2, evidence(None));
        assert_eq!(used(&mut bench), [3]);
        bench.report(1, Verdict::Ok);
        assert!(used(&mut bench).contains(&1));
    }
}

#[test]
fn spill_over_follows_local_health() {
    let places: Vec<_> = (0..20)
        .map(|i| ("eu", if i < 10 { "a" } else { "b" }))
        .collect();
    let mut bench = Bench::new(policy(Balance::RoundRobin), located(&places));
    let local = Locality::new("eu", "a");
    let mut local_share = |out: u32| {
        bench.report(out, evidence(None));
        let shares = bench.shares_with(10_000, |_| PickRequest {
            local: &local,
            ..PickRequest::default()
        });
        shares
            .iter()
            .filter(|(m, _)| **m < 10)
            .map(|(_, n)| *n)
            .sum::<u32>()
            / 100
    };
    // 9 and 8 of 10 fit: 126% and 112% of the need. 7: 98%. 5: 70%.
    assert_eq!([local_share(0), local_share(1)], [100, 100]);
    assert!((97..=99).contains(&local_share(2)));
    local_share(3);
    assert!((68..=72).contains(&local_share(4)));
}

#[test]
fn another_zone_of_a_known_region_starts_in_that_region() {
    let mut bench = Bench::new(
        policy(Balance::RoundRobin),
        located(&[("eu", "a"), ("eu", "b"), ("us", "a")]),
    );
    let from = |region, zone| Locality::new(region, zone);
    for (local, used) in [
        (from("eu", "zz"), vec![0, 1]),
        (from("us", ""), vec![2]),
        (from("mars", "a"), vec![0, 1, 2]),
    ] {
        let shares = bench.shares_with(90, |_| PickRequest {
            local: &local,
            ..PickRequest::default()
        });
        assert_eq!(shares.into_keys().collect::<Vec<_>>(), used, "{local:?}");
    }
    let off = PoolPolicy {
        locality: LocalityPolicy {
            prefer_local: false,
            ..LocalityPolicy::default()
        },
        ..policy(Balance::RoundRobin)
    };
    bench.pool.set_policy(off, bench.now);
    let local = from("eu", "a");
    assert_eq!(
        bench
            .shares_with(90, |_| PickRequest {
                local: &local,
                ..PickRequest::default()
            })
            .len(),
        3
    );
}

#[test]
fn zones_of_the_own_region_are_alike_where_only_regions_count() {
    let regions = PoolPolicy {
        locality: LocalityPolicy {
            prefer_zone: false,
            ..LocalityPolicy::default()
        },
        ..policy(Balance::RoundRobin)
    };
    let mut bench = Bench::new(
        regions,
        located(&[("eu", "a"), ("eu", "b"), ("us", "a"), ("", "a")]),
    );
    let mut used = |local: Locality| {
        let shares = bench.shares_with(120, |_| PickRequest {
            local: &local,
            ..PickRequest::default()
        });
        shares.into_keys().collect::<Vec<_>>()
    };
    assert_eq!(used(Locality::new("eu", "a")), [0, 1]);
    assert_eq!(used(Locality::new("us", "b")), [2]);
    assert_eq!(used(Locality::new("", "a")), [0, 1, 2, 3]);
}

#[test]
fn a_tried_local_member_gives_way_to_one_further_off() {
    let mut bench = Bench::new(
        policy(Balance::RoundRobin),
        located(&[("eu", "a"), ("us", "a")]),
    );
    let (local, tried) = (Locality::new("eu", "a"), [bench.key(0)]);
    let pick = bench
        .pick_with(PickRequest {
            local: &local,
            exclude: &tried,
            ..PickRequest::default()
        })
        .unwrap();
    assert_eq!(*pick.payload(), 1);
}

#[test]
fn a_lower_priority_takes_over_when_the_higher_one_is_out() {
    let members: Vec<_> = specs(4)
        .into_iter()
        .enumerate()
        .map(|(i, s)| s.priority(i as u32 / 2))
        .collect();
    let mut bench = Bench::new(policy(Balance::RoundRobin), members);
    let used = |bench: &mut Bench| bench.shares(100).into_keys().collect::<Vec<_>>();
    assert_eq!(used(&mut bench), [0, 1]);
    bench.report(0, evidence(None));
    assert_eq!(used(&mut bench), [1, 2, 3], "half of it is not enough");
    bench.report(1, evidence(None));
    assert_eq!(used(&mut bench), [2, 3]);
}
