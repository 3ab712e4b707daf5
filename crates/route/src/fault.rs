//! Fault injection: delays and aborts for a share of the requests, to see how callers bear them.

use std::time::Duration;

/// Parts per million: percentages down to 0.0001% without floating point on the path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PerMillion(u32);

impl PerMillion {
    /// Everything.
    pub const ALL: PerMillion = PerMillion(1_000_000);

    /// From a percentage; below 0 is 0, above 100 is 100.
    pub fn from_percent(percent: f64) -> PerMillion {
        PerMillion((percent.clamp(0.0, 100.0) * 10_000.0).round() as u32)
    }

    /// As a percentage.
    pub fn percent(self) -> f64 {
        f64::from(self.0) / 10_000.0
    }

    /// Whether a uniformly random number falls into this share.
    pub fn hit(self, random: u32) -> bool {
        (u64::from(random) * 1_000_000) >> 32 < u64::from(self.0)
    }
}

/// A route's `fault`.
#[derive(Clone, Debug, PartialEq)]
pub struct Fault {
    /// Held back for this long, this share of the requests. The share is everything where the config names none.
    pub delay: Option<(Duration, PerMillion)>,
    /// Answered with this, this share of the requests.
    pub abort: Option<(Abort, PerMillion)>,
}

/// The answer of an abort.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Abort {
    /// An HTTP status.
    Http(u16),
    /// A gRPC status code.
    Grpc(u16),
}

/// What happens to one request: the delay first, then the abort.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FaultDecision {
    /// Wait this long first.
    pub delay: Option<Duration>,
    /// Then answer this instead of forwarding.
    pub abort: Option<Abort>,
}

impl Fault {
    /// Decides for one request from a uniformly random number; its halves draw the delay and the abort independently.
    pub fn decide(&self, random: u64) -> FaultDecision {
        FaultDecision {
            delay: self
                .delay
                .and_then(|(delay, share)| share.hit(random as u32).then_some(delay)),
            abort: self
                .abort
                .and_then(|(abort, share)| share.hit((random >> 32) as u32).then_some(abort)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidegate_core::hash::mix;

    fn hits(percent: f64) -> usize {
        let share = PerMillion::from_percent(percent);
        (1..=20_000u64)
            .filter(|&at| share.hit(mix(at) as u32))
            .count()
    }

    #[test]
    fn shares_are_met_and_their_ends_are_exact() {
        assert_eq!(hits(0.0), 0);
        assert_eq!(hits(100.0), 20_000);
        assert!((1_800..=2_200).contains(&hits(10.0)));
        assert!(PerMillion::ALL.hit(u32::MAX));
        assert!(!PerMillion::from_percent(-3.0).hit(0));
        assert_eq!(PerMillion::from_percent(250.0), PerMillion::ALL);
        assert_eq!(PerMillion::from_percent(0.0001).percent(), 0.0001);
    }

    #[test]
    fn delay_and_abort_are_drawn_independently() {
        let half = PerMillion::from_percent(50.0);
        let second = Duration::from_secs(1);
        let fault = Fault {
            delay: Some((second, half)),
            abort: Some((Abort::Http(503), half)),
        };
        let mut seen = [0usize; 4];
        for at in 1..=20_000u64 {
            let decision = fault.decide(mix(at));
            seen[usize::from(decision.delay.is_some()) * 2
                + usize::from(decision.abort.is_some())] += 1;
        }
        assert!(
            seen.iter().all(|count| (4_700..=5_300).contains(count)),
            "{seen:?}"
        );
    }

    #[test]
    fn a_fault_that_is_not_configured_does_nothing() {
        assert_eq!(
            Fault {
                delay: None,
                abort: None
            }
            .decide(0),
            FaultDecision::default()
        );
    }
}
