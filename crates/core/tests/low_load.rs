//! Choosing by cost while there is hardly any load: equal members must be used alike, new ones must get their share.

mod common;

use std::time::Duration;

use common::*;
use proptest::prelude::*;
use tidegate_core::sim::{Action, Behaviour, Latency, Sim};
use tidegate_core::{Rng, *};

/// Requests one after the other, each as long as its answer takes (4 ms apart at least); who got each.
fn one_by_one(
    bench: &mut Bench,
    picks: u32,
    mut latency: impl FnMut(u32, f64) -> Duration,
) -> Vec<u32> {
    (0..picks)
        .map(|_| {
            let pick = bench.pick().unwrap();
            let member = *pick.payload();
            let took = latency(member, bench.rng.unit());
            bench.now = bench.now + took;
            pick.finish(Verdict::Ok, Some(took), bench.now);
            bench.now = bench.now + (4 * MS).saturating_sub(took);
            member
        })
        .collect()
}

fn share(got: &[u32], member: u32) -> f64 {
    got.iter().filter(|m| **m == member).count() as f64 / got.len() as f64
}

/// Mean 3 ms, up to a fifth more or less.
fn nearly_steady(chance: f64) -> Duration {
    (3 * MS).mul_f64(0.8 + 0.4 * chance)
}

#[test]
fn equal_members_are_used_alike_at_any_time_though_requests_come_one_by_one() {
    for balance in [Balance::default(), Balance::LeastRequest] {
        let mut bench = Bench::of(policy(balance.clone()), 3);
        one_by_one(&mut bench, 30, |_, chance| nearly_steady(chance));
        let got = one_by_one(&mut bench, 3_000, |_, chance| nearly_steady(chance));
        for window in got.chunks(300) {
            for member in 0..3 {
                let share = share(window, member);
                assert!(
                    (0.25..=0.42).contains(&share),
                    "{}: member {member} got {share}",
                    balance.name()
                );
            }
        }
    }
}

#[test]
fn members_with_long_tails_are_used_alike_in_the_long_run_and_never_one_alone() {
    let mut bench = Bench::of(policy(Balance::default()), 3);
    let tail = |_: u32, chance: f64| (2 * MS).mul_f64(-(1.0 - chance).ln());
    one_by_one(&mut bench, 300, tail);
    let got = one_by_one(&mut bench, 30_000, tail);
    for member in 0..3 {
        assert!(
            (0.28..=0.39).contains(&share(&got, member)),
            "{}",
            share(&got, member)
        );
        let most = got
            .chunks(300)
            .map(|w| share(w, member))
            .fold(0.0, f64::max);
        assert!(most < 0.75, "member {member} got {most} of a window");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases / 10, ..ProptestConfig::default() })]

    #[test]
    fn any_number_of_equal_members_gets_even_shares(count in 2u32..=8, seed: u64, micros in 50u64..20_000) {
        let mut bench = Bench::of(policy(Balance::default()), count);
        bench.rng = SmallRng::new(seed);
        let latency = |_: u32, chance: f64| Duration::from_micros(micros).mul_f64(0.9 + 0.2 * chance);
        one_by_one(&mut bench, 100, latency);
        let got = one_by_one(&mut bench, 4_000, latency);
        for member in 0..count {
            let of_its_share = share(&got, member) * f64::from(count);
            prop_assert!((0.75..1.25).contains(&of_its_share), "{} × its share", of_its_share);
        }
    }

    #[test]
    fn the_slower_a_member_the_less_it_gets(slower in 2.0f64..40.0, count in 2u32..=8, seed: u64) {
        let mut bench = Bench::of(policy(Balance::default()), count);
        bench.rng = SmallRng::new(seed);
        let latency = |m: u32, chance: f64| nearly_steady(chance).mul_f64(if m == 0 { slower } else { 1.0 });
        one_by_one(&mut bench, 100, latency);
        let got = one_by_one(&mut bench, 4_000, latency);
        let of_its_share = share(&got, 0) * f64::from(count);
        let most = if slower >= 5.0 { 0.08 } else { 0.65 };
        prop_assert!(of_its_share < most, "{}× slower: {} × its share", slower, of_its_share);
    }
}

#[test]
fn weights_hold_while_everybody_is_idle() {
    // Three are all looked at; of thirty, two.
    for (balance, sizes) in [
        (Balance::default(), &[1][..]),
        (Balance::LeastRequest, &[1, 10]),
    ] {
        for &each in sizes {
            let weights: Vec<u32> = [6, 3, 1].iter().flat_map(|w| vec![*w; each]).collect();
            let mut bench = Bench::new(policy(balance.clone()), weighted(&weights));
            let got = one_by_one(&mut bench, 10_000, |_, chance| nearly_steady(chance));
            for (group, want) in [(0, 0.6), (1, 0.3), (2, 0.1)] {
                let members = group * each as u32..(group + 1) * each as u32;
                let share: f64 = members.map(|m| share(&got, m)).sum();
                assert!(
                    (share - want).abs() < 0.03,
                    "{}, {each} of each weight: {share} for {want}",
                    balance.name()
                );
            }
        }
    }
}

#[test]
fn weights_hold_under_load() {
    let mut sim = Sim::new(PoolPolicy::default(), 1);
    for (id, weight) in [("a", 6), ("b", 3), ("c", 1)] {
        sim.members([(
            MemberSpec::new(id, ()).weight(weight),
            Behaviour::steady(20 * MS),
        )]);
    }
    sim.load(2_000.0, 1);
    let report = sim.run_until(Time::from_secs(30));
    for (id, want) in [("a", 0.6), ("b", 0.3), ("c", 0.1)] {
        let share = report.share(id);
        assert!(
            (share / want - 1.0).abs() < 0.15,
            "{id}: {share} for {want}"
        );
    }
}

#[test]
fn an_idle_member_is_preferred_to_busy_ones() {
    let mut bench = Bench::of(policy(Balance::default()), 8);
    let mut missed = 0;
    for round in 0..500u32 {
        one_by_one(&mut bench, 8, |_, chance| nearly_steady(chance));
        // All but one get a request each.
        let idle = bench.key(round % 8);
        let mut taken = vec![idle];
        let held: Vec<_> = (0..7)
            .map(|_| {
                let pick = bench
                    .pick_with(PickRequest {
                        exclude: &taken,
                        ..PickRequest::default()
                    })
                    .unwrap();
                taken.push(pick.member().key());
                pick
            })
            .collect();
        missed += u32::from(bench.pick().unwrap().member().key() != idle);
        drop(held);
    }
    assert!(missed < 40, "{missed} of 500");
}

#[test]
fn a_member_that_is_five_times_slower_gets_next_to_nothing_idle_or_busy() {
    for per_second in [50.0, 250.0, 2_000.0] {
        let mut sim = Sim::new(PoolPolicy::default(), 1);
        let answers = |ms| Behaviour::with(Latency::Uniform(ms * MS * 8 / 10, ms * MS * 12 / 10));
        sim.members((0..3).map(|i| (MemberSpec::new(format!("m{i}"), ()), answers(4))));
        sim.load(per_second, 1);
        sim.run_until(Time::from_secs(10));
        sim.at(Time::from_secs(10), Action::behave("m1", answers(20)));
        sim.run_until(Time::from_secs(12));
        sim.reset_report();
        let share = sim.run_until(Time::from_secs(60)).share("m1");
        assert!(share < 0.08, "{per_second} requests a second: {share}");
    }
}

#[test]
fn no_second_belongs_to_one_member() {
    let mut sim = Sim::new(PoolPolicy::default(), 7);
    let answers = Behaviour::with(Latency::Exponential(2 * MS));
    sim.members((0..3).map(|i| (MemberSpec::new(format!("m{i}"), ()), answers.clone())));
    sim.load(250.0, 1);
    sim.run_until(Time::from_secs(5));
    for second in 6..60 {
        sim.reset_report();
        let report = sim.run_until(Time::from_secs(second));
        for id in ["m0", "m1", "m2"] {
            assert!(
                report.share(id) < 0.75,
                "{id} in second {second}: {}",
                report.share(id)
            );
        }
    }
}

#[test]
fn a_member_in_its_slow_start_gets_its_rising_share_and_never_more() {
    let window = Duration::from_secs(30);
    for balance in [Balance::default(), Balance::LeastRequest] {
        for (members, per_second) in [(3, 100.0), (3, 1_000.0), (3, 3_000.0), (20, 1_000.0)] {
            let mut sim = Sim::new(
                PoolPolicy {
                    balance: balance.clone(),
                    slow_start: Some(SlowStart::linear(window)),
                    ..PoolPolicy::default()
                },
                1,
            );
            let answers = Behaviour::with(Latency::Uniform(4 * MS, 6 * MS));
            sim.members(
                (1..members).map(|i| (MemberSpec::new(format!("m{i}"), ()), answers.clone())),
            );
            sim.load(per_second, 1);
            sim.at(Time::from_secs(40), Action::add("new", answers.clone()));
            sim.run_until(Time::from_secs(40));
            for step in 0..5u64 {
                sim.reset_report();
                let share = sim
                    .run_until(Time::from_secs(40 + 6 * (step + 1)))
                    .share("new");
                // Mean over the step; the first 3 s are at a tenth. The first members, which began together, are through.
                let factor = if step == 0 {
                    0.13
                } else {
                    (step as f64 + 0.5) / 5.0
                };
                let fair = factor / (factor + f64::from(members) - 1.0);
                assert!(
                    share > 0.6 * fair && share < 1.15 * fair + 0.02,
                    "{}, {members} members, {per_second}/s, step {step}: {share:.4} for {fair:.4}",
                    balance.name()
                );
            }
        }
    }
}

#[test]
fn a_slow_newcomer_gets_less_than_its_share() {
    let mut policy = policy(Balance::default());
    policy.slow_start = Some(SlowStart::linear(Duration::from_secs(3_600)));
    let mut bench = Bench::of(policy, 3);
    bench.pool.update(specs(4), bench.now);
    bench.wait(Duration::from_secs(1_800));
    let latency =
        |m: u32, chance: f64| nearly_steady(chance).mul_f64(if m == 3 { 10.0 } else { 1.0 });
    let got = one_by_one(&mut bench, 2_000, latency);
    assert!(share(&got, 3) < 0.01, "{}", share(&got, 3));
}

#[test]
fn a_newcomer_takes_everything_when_the_settled_ones_are_out() {
    for balance in [Balance::default(), Balance::LeastRequest] {
        let mut policy = policy(balance);
        policy.slow_start = Some(SlowStart::linear(Duration::from_secs(30)));
        let mut bench = Bench::of(policy, 2);
        bench.pool.update(specs(3), bench.now);
        bench.report(0, evidence(None));
        let tried = [bench.key(1)];
        let request = |_: u32| PickRequest {
            exclude: &tried,
            ..PickRequest::default()
        };
        assert_eq!(
            bench
                .shares_with(50, request)
                .into_keys()
                .collect::<Vec<_>>(),
            [2]
        );
        bench.report(1, evidence(None));
        assert_eq!(bench.shares(50).into_keys().collect::<Vec<_>>(), [2]);
    }
}
