//! Pools under load in virtual time: what callers see when members fail, slow down, come and go.

use std::time::Duration;

use tidegate_core::sim::{Action, Behaviour, Latency, Sim};
use tidegate_core::*;

const MS: Duration = Duration::from_millis(1);

fn steady() -> Behaviour {
    Behaviour::with(Latency::Exponential(5 * MS))
}

fn sim(policy: PoolPolicy, members: u32, seed: u64) -> Sim {
    let mut sim = Sim::new(policy, seed);
    sim.members((0..members).map(|i| (MemberSpec::new(format!("m{i}"), ()), steady())));
    sim
}

fn round_robin() -> PoolPolicy {
    PoolPolicy {
        balance: Balance::RoundRobin,
        ..PoolPolicy::default()
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let run = |seed| {
        let mut sim = sim(PoolPolicy::default(), 5, seed);
        sim.load(50.0, 2);
        sim.at(
            Time::from_secs(20),
            Action::behave("m1", steady().failing(0.7, FailureKind::Gateway)),
        );
        let report = sim.run_until(Time::from_secs(120)).clone();
        (
            report.requests,
            report.attempts,
            report.failed,
            report.members,
            report.events.len(),
        )
    };
    assert_eq!(run(3), run(3));
    assert_ne!(run(3), run(4));
}

#[test]
fn a_dead_member_is_never_the_callers_problem() {
    for balance in [
        Balance::RoundRobin,
        Balance::default(),
        Balance::LeastRequest,
        Balance::Random,
    ] {
        let mut sim = sim(
            PoolPolicy {
                balance: balance.clone(),
                ..PoolPolicy::default()
            },
            3,
            1,
        );
        sim.load(200.0, 2);
        sim.at(Time::from_secs(10), Action::behave("m1", Behaviour::down()));
        let report = sim.run_until(Time::from_secs(600));
        assert_eq!(report.failed, 0, "{}", balance.name());
        // Every ejection is longer than the one before, and each return costs one trial.
        assert!(
            report.member("m1").failures < 70,
            "{}: {}",
            balance.name(),
            report.member("m1").failures
        );
    }
}

#[test]
fn five_answers_of_500_eject_and_the_member_is_back_after_its_time() {
    let mut sim = sim(round_robin(), 3, 1);
    sim.load(300.0, 2);
    sim.at(
        Time::from_secs(12),
        Action::behave("m0", steady().failing(1.0, FailureKind::Status5xx)),
    );
    sim.at(Time::from_secs(20), Action::behave("m0", steady()));
    let report = sim.run_until(Time::from_secs(120));
    let (out, back) = (
        report.entered("m0", MemberState::Ejected),
        report.entered("m0", MemberState::Healthy),
    );
    assert_eq!((out.len(), report.failed), (1, 0));
    assert!(
        out[0] - Time::from_secs(12) < Duration::from_millis(200),
        "5 requests at 100 a second"
    );
    let away = *back.last().unwrap() - out[0];
    assert!(
        away >= Duration::from_secs(30) && away < Duration::from_secs(41),
        "{away:?}"
    );
}

#[test]
fn peak_ewma_keeps_the_tail_short_where_round_robin_does_not() {
    let tail = |balance| {
        let mut sim = sim(
            PoolPolicy {
                balance,
                ..PoolPolicy::default()
            },
            10,
            5,
        );
        sim.load(400.0, 1);
        sim.at(
            Time::from_secs(10),
            Action::behave("m4", Behaviour::steady(800 * MS)),
        );
        sim.run_until(Time::from_secs(20));
        sim.reset_report();
        sim.run_until(Time::from_secs(120)).latency.quantile(0.99)
    };
    let (ewma, turns) = (tail(Balance::default()), tail(Balance::RoundRobin));
    assert!(ewma < 40 * MS && turns > 700 * MS, "{ewma:?} and {turns:?}");
}

#[test]
fn two_choices_keep_queues_shorter_than_chance() {
    let tail = |balance| {
        let mut sim = Sim::new(
            PoolPolicy {
                balance,
                ..PoolPolicy::default()
            },
            9,
        );
        let worker = Behaviour::steady(20 * MS).slots(2);
        sim.members((0..50).map(|i| (MemberSpec::new(format!("m{i}"), ()), worker.clone())));
        sim.load(3_000.0, 1);
        sim.run_until(Time::from_secs(20)).latency.quantile(0.99)
    };
    let (p2c, random) = (tail(Balance::LeastRequest), tail(Balance::Random));
    assert!(p2c < random, "{p2c:?} and {random:?}");
}

#[test]
fn a_member_that_joins_is_used_within_a_second() {
    for balance in [
        Balance::RoundRobin,
        Balance::default(),
        Balance::LeastRequest,
    ] {
        let mut sim = sim(
            PoolPolicy {
                balance: balance.clone(),
                ..PoolPolicy::default()
            },
            3,
            1,
        );
        sim.load(400.0, 1);
        sim.at(Time::from_secs(30), Action::add("new", steady()));
        sim.run_until(Time::from_secs(30));
        sim.reset_report();
        let share = sim.run_until(Time::from_secs(31)).share("new");
        assert!((0.1..0.5).contains(&share), "{}: {share}", balance.name());
    }
}

#[test]
fn rolling_restarts_lose_nothing() {
    let mut sim = sim(PoolPolicy::default(), 4, 1);
    sim.load(300.0, 2);
    for i in 0..4u64 {
        let at = Time::from_secs(10 + 20 * i);
        let member = format!("m{i}");
        sim.at(
            at,
            Action::Drain {
                member: member.clone(),
                draining: true,
            },
        );
        sim.at(
            at + Duration::from_secs(2),
            Action::behave(&member, Behaviour::down()),
        );
        sim.at(
            at + Duration::from_secs(8),
            Action::behave(&member, steady()),
        );
        sim.at(
            at + Duration::from_secs(9),
            Action::Drain {
                member,
                draining: false,
            },
        );
    }
    let report = sim.run_until(Time::from_secs(120));
    assert_eq!(
        (report.failed, report.requests),
        (0, report.attempts),
        "not even a retry"
    );
}

#[test]
fn active_checks_take_out_and_bring_back() {
    let mut sim = sim(round_robin(), 3, 1);
    sim.load(100.0, 2);
    sim.checks(Duration::from_secs(1));
    sim.at(
        Time::from_millis(10_500),
        Action::behave("m2", Behaviour::down()),
    );
    sim.at(Time::from_millis(90_500), Action::behave("m2", steady()));
    let report = sim.run_until(Time::from_secs(100));
    assert_eq!(report.failed, 0);
    assert_eq!(
        report.entered("m2", MemberState::Healthy).last(),
        Some(&Time::from_secs(91))
    );
    assert!(report.member("m2").failures <= 5);
}

#[test]
fn a_brown_out_of_everybody_ejects_little_and_ends_by_itself() {
    let mut sim = sim(round_robin(), 20, 1);
    sim.load(500.0, 1);
    for i in 0..20 {
        sim.at(
            Time::from_secs(10),
            Action::behave(
                &format!("m{i}"),
                steady().failing(0.9, FailureKind::Gateway),
            ),
        );
        sim.at(
            Time::from_secs(60),
            Action::behave(&format!("m{i}"), steady()),
        );
    }
    sim.run_until(Time::from_secs(59));
    assert!(sim.pool().summary(&Scope::EMPTY).ejected <= 2, "a tenth");
    sim.run_until(Time::from_secs(400));
    assert_eq!(sim.pool().summary(&Scope::EMPTY).fit, 20);
    sim.reset_report();
    assert_eq!(sim.run_until(Time::from_secs(500)).failed, 0);
}

#[test]
fn a_thousand_members_through_a_working_day() {
    let mut sim = sim(PoolPolicy::default(), 1000, 1);
    sim.load(2.0, 3);
    for i in 0..8u64 {
        let at = Time::from_secs(3600 * i);
        sim.at(at, Action::behave(&format!("m{i}"), Behaviour::down()));
        sim.at(
            at + Duration::from_secs(1800),
            Action::behave(&format!("m{i}"), steady()),
        );
    }
    let report = sim.run_until(Time::from_secs(8 * 3600));
    assert!(report.requests > 57_000);
    assert_eq!(report.failed, 0);
}
