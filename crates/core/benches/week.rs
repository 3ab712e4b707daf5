//! A thousand members, a virtual week, with failures every hour: how long it takes to simulate.
//!
//! `cargo bench -p tidegate-core --bench week`

use std::time::{Duration, Instant};

use tidegate_core::sim::{Action, Behaviour, Latency, Sim};
use tidegate_core::{MemberSpec, PoolPolicy, Time};

fn main() {
    let steady = || Behaviour::with(Latency::Exponential(Duration::from_millis(20)));
    let mut sim = Sim::new(PoolPolicy::default(), 1);
    sim.members((0..1000).map(|i| (MemberSpec::new(format!("m{i}"), ()), steady())));
    sim.load(2.0, 3);
    for hour in 0..24 * 7u64 {
        let (member, at) = (
            format!("m{}", hour * 5 % 1000),
            Time::from_secs(3600 * hour),
        );
        sim.at(at, Action::behave(&member, Behaviour::down()));
        sim.at(
            at + Duration::from_secs(1200),
            Action::behave(&member, steady()),
        );
    }
    let start = Instant::now();
    let report = sim.run_until(Time::from_secs(7 * 24 * 3600));
    println!(
        "1,000 members, 7 days, {} requests, {} attempts, {} failed, {} events: {:.2?}",
        report.requests,
        report.attempts,
        report.failed,
        report.events.len(),
        start.elapsed()
    );
}
