//! Whatever happens to a pool in whatever order, these hold.

mod common;

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use common::*;
use proptest::prelude::*;
use tidegate_core::*;

#[derive(Clone, Debug)]
enum Step {
    Fail(u32, FailureKind),
    Succeed(u32),
    Check(u32),
    Evidence(u32, Option<u64>),
    Hold,
    Release(Verdict),
    Wait(u64),
    Update(u32),
    Drain(u32, bool),
}

fn kind() -> impl Strategy<Value = FailureKind> {
    prop_oneof![
        Just(FailureKind::Status5xx),
        Just(FailureKind::Gateway),
        Just(FailureKind::LocalOrigin)
    ]
}

fn verdict() -> impl Strategy<Value = Verdict> {
    prop_oneof![3 => Just(Verdict::Ok), 1 => Just(Verdict::Neutral), 3 => kind().prop_map(Verdict::Failure)]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..12u32, kind()).prop_map(|(m, k)| Step::Fail(m, k)),
        2 => (0..12u32).prop_map(Step::Succeed),
        1 => (0..12u32).prop_map(Step::Check),
        2 => (0..12u32, prop::option::of(1..100u64)).prop_map(|(m, s)| Step::Evidence(m, s)),
        4 => Just(Step::Hold),
        4 => verdict().prop_map(Step::Release),
        2 => (1..40_000u64).prop_map(Step::Wait),
        1 => (1..12u32).prop_map(Step::Update),
        1 => (0..12u32, any::<bool>()).prop_map(|(m, d)| Step::Drain(m, d)),
    ]
}

fn balance() -> impl Strategy<Value = Balance> {
    prop_oneof![
        Just(Balance::RoundRobin),
        Just(Balance::WeightedRandom),
        Just(Balance::LeastRequest),
        Just(Balance::default()),
        Just(Balance::Maglev(Maglev {
            bounded_load: Some(120),
            ..Maglev::default()
        })),
        Just(Balance::RingHash(RingHash::default())),
    ]
}

/// Members by what a pick may think of them.
struct Census {
    all: usize,
    fit: usize,
    statistical: usize,
}

fn census(bench: &Bench) -> Census {
    let status = bench.pool.status(bench.now);
    let seated: Vec<_> = status
        .iter()
        .filter(|m| m.health.state != MemberState::Draining)
        .collect();
    let fit =
        |m: &&&MemberStatus| matches!(m.health.state, MemberState::Healthy | MemberState::Probing);
    let out = |m: &&&MemberStatus| m.health.statistics;
    Census {
        all: seated.len(),
        fit: seated.iter().filter(fit).count(),
        statistical: seated.iter().filter(out).count(),
    }
}

fn key(bench: &Bench, member: u32) -> Option<MemberKey> {
    bench
        .pool
        .members()
        .iter()
        .find(|m| **m.id() == *name(member))
        .map(|m| m.key())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases * 3 / 4, ..ProptestConfig::default() })]

    #[test]
    fn the_contract_holds_whatever_happens(
        steps in prop::collection::vec(step(), 1..250),
        percent in prop_oneof![Just(0u8), Just(10), Just(35), Just(80)],
        balance in balance(),
        strict in any::<bool>(),
    ) {
        let mut policy = outlier(|o| {
            o.max_ejection_percent = Percent::saturating(percent);
            (o.consecutive_5xx, o.consecutive_local_origin) = (2, 2);
            o.errors = Some(ErrorsWithin { count: 4, within: Duration::from_secs(20) });
            o.success_rate = SuccessRate { min_hosts: 2, request_volume: 3, ..SuccessRate::default() };
        });
        policy.balance = balance;
        policy.probation = Some(Probation { strict, ..Probation::default() });
        let mut bench = Bench::of(policy, 8);
        let mut held: Vec<Pick<u32>> = Vec::new();
        let mut inflight: HashMap<MemberKey, u32> = HashMap::new();
        let mut ends: BTreeMap<MemberKey, Time> = BTreeMap::new();
        bench.pool.drain_events();
        for step in steps {
            let before = census(&bench);
            match step.clone() {
                Step::Fail(m, kind) => {
                    if let Some(key) = key(&bench, m) {
                        bench.pool.report(key, &Scope::EMPTY, Verdict::Failure(kind), bench.now);
                    }
                }
                Step::Succeed(m) | Step::Check(m) => {
                    if let Some(key) = key(&bench, m) {
                        bench.pool.report(key, &Scope::EMPTY, Verdict::Ok, bench.now);
                        ends.remove(&key);
                    }
                }
                Step::Evidence(m, secs) => {
                    if let Some(key) = key(&bench, m) {
                        let until = secs.map(|s| bench.now + Duration::from_secs(s));
                        bench.pool.report(key, &Scope::EMPTY, evidence(until), bench.now);
                        let end = ends.entry(key).or_insert(Time::ZERO);
                        *end = (*end).max(until.unwrap_or(Time::NEVER));
                    }
                }
                Step::Hold => {
                    let hash = Some(tidegate_core::Rng::next_u64(&mut bench.rng));
                    match bench.pick_with(PickRequest { hash, ..PickRequest::default() }) {
                        Ok(pick) => {
                            let key = pick.member().key();
                            prop_assert!(ends.get(&key).is_none_or(|end| *end <= bench.now), "evidence is honoured");
                            *inflight.entry(key).or_default() += 1;
                            held.push(pick);
                        }
                        Err(NoPick::TrialsTaken) => prop_assert!(strict),
                        Err(NoPick::NoneFit { returns_at }) => {
                            prop_assert_eq!(before.fit, 0);
                            prop_assert!(returns_at.is_none_or(|at| at > bench.now));
                        }
                        Err(NoPick::Empty) => prop_assert_eq!(before.all, 0),
                    }
                }
                Step::Release(verdict) => {
                    if let Some(pick) = held.pop() {
                        *inflight.get_mut(&pick.member().key()).unwrap() -= 1;
                        pick.finish(verdict, Some(MS), bench.now);
                    }
                }
                Step::Wait(ms) => bench.wait(Duration::from_millis(ms)),
                Step::Update(count) => {
                    bench.pool.update(specs(count), bench.now);
                }
                Step::Drain(m, draining) => {
                    if let Some(key) = key(&bench, m) {
                        bench.pool.drain(key, draining, bench.now);
                    }
                }
            }
            let after = census(&bench);
            // A statistical ejection is within the percentage, or the only one; and never took the last fit member.
            if after.statistical > before.statistical && !matches!(step, Step::Drain(..) | Step::Update(_)) {
                prop_assert!(after.statistical == 1 || after.statistical * 100 <= usize::from(percent) * after.all);
                prop_assert!(after.fit >= 1, "{:?} left nobody", step);
            }
            // Evidence ends at its time or by a check, not before.
            for member in bench.pool.status(bench.now) {
                let end = ends.get(&member.key).copied().unwrap_or(Time::ZERO);
                if end > bench.now && member.health.state != MemberState::Draining {
                    prop_assert_eq!(member.health.state, MemberState::Ejected);
                }
                prop_assert_eq!(member.inflight, inflight.get(&member.key).copied().unwrap_or(0));
            }
        }
        // Every event continues where the one before left the member.
        let mut last: HashMap<MemberKey, MemberState> = HashMap::new();
        for event in bench.pool.drain_events() {
            if let Some(state) = last.insert(event.key, event.to) {
                prop_assert_eq!(state, event.from, "{:?}", event);
            }
            prop_assert_ne!(event.from, event.to);
        }
        held.clear();
        prop_assert_eq!(bench.pool.inflight(), 0);
    }

    #[test]
    fn shares_follow_any_weights(weights in prop::collection::vec(1u32..100, 1..12)) {
        let members: Vec<_> = specs(weights.len() as u32).into_iter().zip(&weights).map(|(s, w)| s.weight(*w)).collect();
        let sum: u32 = weights.iter().sum();
        let mut exact = Bench::new(policy(Balance::WeightedRoundRobin), members.clone());
        let shares = exact.shares(sum);
        for (member, weight) in weights.iter().enumerate() {
            prop_assert_eq!(shares[&(member as u32)], *weight);
        }
        let mut random = Bench::new(policy(Balance::WeightedRandom), members);
        let shares = random.shares(20_000);
        for (member, weight) in weights.iter().enumerate() {
            let got = f64::from(shares.get(&(member as u32)).copied().unwrap_or(0)) / 20_000.0;
            prop_assert!((got - f64::from(*weight) / f64::from(sum)).abs() < 0.02);
        }
    }

    #[test]
    fn with_somebody_fit_and_not_tried_nobody_tried_is_picked(
        out in prop::collection::vec(any::<bool>(), 12),
        tried in prop::collection::vec(any::<bool>(), 12),
        zones in prop::collection::vec(0..3u32, 12),
        balance in balance(),
        hash in any::<u64>(),
    ) {
        let members: Vec<_> = specs(12).into_iter().zip(&zones)
            .map(|(s, z)| s.locality(Locality::new("eu", &format!("z{z}"))).priority(*z / 2)).collect();
        let mut bench = Bench::new(policy(balance), members);
        for (member, _) in out.iter().enumerate().filter(|(_, out)| **out) {
            bench.report(member as u32, evidence(None));
        }
        let keys: Vec<_> = tried.iter().enumerate().filter(|(_, t)| **t).map(|(m, _)| bench.key(m as u32)).collect();
        let fresh = (0..12).any(|m| !out[m] && !tried[m]);
        let fit = out.iter().any(|out| !out);
        let local = Locality::new("eu", "z0");
        let request = PickRequest { hash: Some(hash), exclude: &keys, local: &local, ..PickRequest::default() };
        match bench.pick_with(request) {
            Ok(pick) => {
                prop_assert!(!out[*pick.payload() as usize]);
                prop_assert_eq!(keys.contains(&pick.member().key()), !fresh);
            }
            Err(refused) => prop_assert!(!fit, "{:?}", refused),
        }
    }

    #[test]
    fn slow_start_only_rises(window in 1u64..1000, aggression in 0.1f64..10.0, min in 0u8..=100) {
        let curve = SlowStart { window: Duration::from_secs(window), aggression, min_weight: Percent::saturating(min) };
        let factors: Vec<_> = (0..=100).map(|i| curve.factor(Duration::from_secs(window) * i / 100)).collect();
        prop_assert!(factors.windows(2).all(|w| w[0] <= w[1]));
        prop_assert!(factors[0] >= f64::from(min) / 100.0 && factors[100] == 1.0);
    }
}
