//! The request path allocates nothing: counted by an allocator that counts.

use std::time::Duration;

use tidegate_core::*;

fn allocations(work: impl FnOnce()) -> u64 {
    allocation_counter::measure(work).count_total
}

fn balancers() -> Vec<Balance> {
    vec![
        Balance::RoundRobin,
        Balance::Random,
        Balance::WeightedRoundRobin,
        Balance::WeightedRandom,
        Balance::SourceIpHash,
        Balance::LeastRequest,
        Balance::PeakEwma(PeakEwma::default()),
        Balance::RingHash(RingHash {
            bounded_load: Some(150),
            ..RingHash::default()
        }),
        Balance::Maglev(Maglev {
            bounded_load: Some(150),
            ..Maglev::default()
        }),
        Balance::BackendLoad(BackendLoad::default()),
    ]
}

fn pool(balance: Balance, members: u32) -> Pool<u32> {
    let specs = (0..members)
        .map(|i| MemberSpec::new(format!("10.0.0.{i}:80"), i).weight(1 + i % 3))
        .collect();
    Pool::new(
        PoolPolicy {
            balance,
            ..PoolPolicy::default()
        },
        specs,
        1,
        Time::ZERO,
    )
}

fn requests(pool: &Pool<u32>, scope: &Scope, exclude: usize, rng: &mut SmallRng) {
    let tried: Vec<MemberKey> = pool
        .members()
        .iter()
        .take(exclude)
        .map(|m| m.key())
        .collect();
    let found = allocations(|| {
        for i in 0..10_000u64 {
            let now = Time::from_millis(i);
            let request = PickRequest {
                hash: Some(rng.next_u64()),
                exclude: &tried,
                scope,
                ..PickRequest::default()
            };
            let pick = pool.pick(&request, now, rng).expect("all are fit");
            // Failures too, as long as they eject nobody.
            let verdict = if i % 97 == 0 {
                Verdict::Failure(FailureKind::Status5xx)
            } else {
                Verdict::Ok
            };
            pick.finish(verdict, Some(Duration::from_millis(2)), now);
        }
    });
    let name = pool.policy().balance.name();
    assert_eq!(
        found,
        0,
        "{name} over {} members, {exclude} excluded",
        pool.members().len()
    );
}

#[test]
fn a_request_allocates_nothing_whatever_the_balancer() {
    assert!(
        allocations(|| drop(std::hint::black_box(Box::new(1)))) > 0,
        "the counter counts"
    );
    let mut rng = SmallRng::new(1);
    for balance in balancers() {
        for members in [3, 1000] {
            let mut policy = PoolPolicy {
                balance: balance.clone(),
                outlier: None,
                ..PoolPolicy::default()
            };
            let pool = pool(balance.clone(), members);
            // One warm-up: the thread's slot in the snapshot's bookkeeping is made at its first look.
            drop(pool.pick(&PickRequest::default(), Time::ZERO, &mut rng));
            requests(&pool, &Scope::EMPTY, 0, &mut rng);
            policy.probation = None;
            pool.set_policy(policy, Time::ZERO);
            requests(&pool, &Scope::EMPTY, 2, &mut rng);
        }
    }
}

#[test]
fn a_request_in_a_scope_with_health_of_its_own_allocates_nothing() {
    let mut rng = SmallRng::new(1);
    let pool = pool(Balance::default(), 10);
    let scope = Scope::new("gpt-4");
    let limited = Verdict::Evidence {
        cause: "limited".into(),
        until: None,
    };
    pool.report(pool.members()[0].key(), &scope, limited, Time::ZERO);
    // Every other member has its counters once it has failed in the scope.
    for member in pool.members() {
        pool.report(
            member.key(),
            &scope,
            Verdict::Failure(FailureKind::Status5xx),
            Time::ZERO,
        );
        pool.report(member.key(), &scope, Verdict::Neutral, Time::ZERO);
    }
    pool.set_policy(
        PoolPolicy {
            outlier: None,
            ..PoolPolicy::default()
        },
        Time::ZERO,
    );
    drop(pool.pick(
        &PickRequest {
            scope: &scope,
            ..PickRequest::default()
        },
        Time::ZERO,
        &mut rng,
    ));
    requests(&pool, &scope, 0, &mut rng);
}

#[test]
fn limiters_and_gates_allocate_nothing() {
    let limiter = RateLimiter::new(Rate::new(10, Duration::from_secs(1)));
    let keyed = KeyedLimiter::new(Rate::new(10, Duration::from_secs(1)), 1000, 1);
    keyed.check(b"user", 1, Time::ZERO);
    let (gate, budget) = (Gate::new(5), RetryBudget::default());
    let found = allocations(|| {
        for i in 0..1000 {
            let now = Time::from_millis(i);
            limiter.check(1, now);
            keyed.check(b"user", 1, now);
            let _held = (gate.try_acquire(), budget.try_retry(10));
        }
    });
    assert_eq!(found, 0);
}
