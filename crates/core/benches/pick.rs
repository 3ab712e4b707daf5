//! Nanoseconds a pick and a whole request (pick and finish) for every balancer over 1,000 members.
//!
//! `cargo bench -p tidegate-core` prints a table; each figure is the best of many short rounds, which is the one
//! that the machine's other work disturbed least. With `-- --check` it exits with 1 if a p2c pick is above 50 ns or a
//! maglev lookup above 30 ns.

use std::hint::black_box;
use std::time::{Duration, Instant};

use tidegate_core::*;

const ROUNDS: u32 = 300;
const PICKS: u32 = 4_000;

fn best(mut work: impl FnMut(&mut SmallRng, u32)) -> f64 {
    let mut rng = SmallRng::new(1);
    (0..ROUNDS)
        .map(|_| {
            let start = Instant::now();
            for i in 0..PICKS {
                work(&mut rng, i);
            }
            start.elapsed().as_nanos() as f64 / f64::from(PICKS)
        })
        .fold(f64::INFINITY, f64::min)
}

fn pool(balance: Balance, members: u32) -> Pool<u32> {
    let specs = (0..members)
        .map(|i| MemberSpec::new(format!("10.0.{}.{}:8500", i / 256, i % 256), i))
        .collect();
    let pool = Pool::new(
        PoolPolicy {
            balance,
            ..PoolPolicy::default()
        },
        specs,
        1,
        Time::ZERO,
    );
    let mut rng = SmallRng::new(2);
    // Every member has been measured, as it would be.
    for i in 0..20 * members {
        if let Ok(pick) = pool.pick(
            &PickRequest {
                hash: Some(rng.next_u64()),
                ..PickRequest::default()
            },
            Time::ZERO,
            &mut rng,
        ) {
            pick.finish(
                Verdict::Ok,
                Some(Duration::from_micros(900 + u64::from(i % 200))),
                Time::from_millis(1),
            );
        }
    }
    pool
}

fn measure(balance: Balance, members: u32) -> (f64, f64) {
    let pool = pool(balance, members);
    let now = Time::from_millis(5);
    let request = |rng: &mut SmallRng| PickRequest {
        hash: Some(rng.next_u64()),
        ..PickRequest::default()
    };
    // The pick includes giving it back: a guard must be dropped.
    let pick = best(|rng, _| drop(black_box(pool.pick(&request(rng), now, rng))));
    let whole = best(|rng, _| {
        if let Ok(pick) = pool.pick(&request(rng), now, rng) {
            pick.finish(Verdict::Ok, Some(Duration::from_millis(1)), now);
        }
    });
    (pick, whole)
}

fn main() {
    let balancers = [
        ("round_robin", Balance::RoundRobin),
        ("random", Balance::Random),
        ("least_request (p2c)", Balance::LeastRequest),
        ("peak_ewma (p2c)", Balance::default()),
        ("ring_hash", Balance::RingHash(RingHash::default())),
        ("maglev", Balance::Maglev(Maglev::default())),
        (
            "maglev, bounded",
            Balance::Maglev(Maglev {
                bounded_load: Some(125),
                ..Maglev::default()
            }),
        ),
    ];
    println!(
        "{:<28}{:>12}{:>18}",
        "1,000 members", "ns/pick", "ns/pick+finish"
    );
    let mut slow = Vec::new();
    for (name, balance) in balancers {
        let (pick, whole) = measure(balance, 1000);
        println!("{name:<28}{pick:>12.1}{whole:>18.1}");
        let most = match name {
            "least_request (p2c)" | "peak_ewma (p2c)" => 50.0,
            _ => continue,
        };
        if pick > most {
            slow.push(format!("{name}: {pick:.1} ns, wanted at most {most}"));
        }
    }
    let (pick, whole) = measure(Balance::default(), 3);
    println!(
        "{:<28}{pick:>12.1}{whole:>18.1}",
        "peak_ewma, 3 members (scan)"
    );
    let maglev = pool(Balance::Maglev(Maglev::default()), 1000);
    let lookup = best(|rng, _| {
        black_box(maglev.owner(rng.next_u64(), &Locality::NOWHERE));
    });
    println!("{:<28}{lookup:>12.1}", "maglev, lookup alone");
    if lookup > 30.0 {
        slow.push(format!("maglev lookup: {lookup:.1} ns, wanted at most 30"));
    }
    let time = |i: u32| Time(u64::from(i) * 1000);
    let limiter = RateLimiter::new(Rate::new(1_000_000, Duration::from_secs(1)));
    let gcra = best(|_, i| {
        black_box(limiter.check(1, time(i)));
    });
    let limiter = KeyedLimiter::new(Rate::new(1_000, Duration::from_secs(1)), 10_000, 1);
    let keyed = best(|_, i| {
        black_box(limiter.check(&(i % 5000).to_le_bytes(), 1, time(i)));
    });
    let gate = Gate::new(1000);
    let gate = best(|_, _| drop(black_box(gate.try_acquire())));
    for (name, nanos) in [("gcra", gcra), ("gcra by key", keyed), ("gate", gate)] {
        println!("{name:<28}{nanos:>12.1}");
    }
    if std::env::args().any(|arg| arg == "--check") && !slow.is_empty() {
        eprintln!("{}", slow.join("\n"));
        std::process::exit(1);
    }
}
