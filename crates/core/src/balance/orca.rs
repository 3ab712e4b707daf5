//! Weights from what backends report of themselves (ORCA), as gRPC A58 computes them:
//! `weight = qps / (utilization + eps / qps × penalty)`, believed after a blackout, forgotten after an expiry.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use crate::policy::BackendLoad;
use crate::time::{Time, nanos};

#[derive(Default)]
pub(crate) struct LoadReport {
    /// Bits of an `f32`; 0: none.
    weight: AtomicU32,
    /// First report since there was none; time + 1, 0: none.
    since: AtomicU64,
    /// Last report; time + 1, 0: none.
    last: AtomicU64,
}

impl LoadReport {
    pub(crate) fn report(&self, utilization: f32, qps: f32, eps: f32, penalty: f32, now: Time) {
        if !(utilization.is_finite() && qps.is_finite() && utilization > 0.0 && qps > 0.0) {
            return;
        }
        let errors = if eps.is_finite() && eps > 0.0 && penalty.is_finite() && penalty > 0.0 {
            eps / qps * penalty
        } else {
            0.0
        };
        let weight = qps / (utilization + errors);
        if !weight.is_finite() || weight <= 0.0 {
            return;
        }
        let stamp = now.0.saturating_add(1);
        let _ = self.since.compare_exchange(0, stamp, Relaxed, Relaxed);
        self.last.fetch_max(stamp, Relaxed);
        self.weight.store(weight.to_bits(), Relaxed);
    }

    /// The weight, if it may be used at `now`.
    pub(crate) fn weight(&self, policy: &BackendLoad, now: Time) -> Option<f32> {
        let (since, last) = (self.since.load(Relaxed), self.last.load(Relaxed));
        if since == 0 || last == 0 {
            return None;
        }
        let now = now.0.saturating_add(1);
        if now.saturating_sub(last) >= nanos(policy.weight_expiration_period) {
            // The next report starts a new blackout.
            self.since.store(0, Relaxed);
            return None;
        }
        if now.saturating_sub(since) < nanos(policy.blackout_period) {
            return None;
        }
        Some(f32::from_bits(self.weight.load(Relaxed)))
    }

    /// Forgets everything: the member was away, and starts with a blackout again.
    pub(crate) fn reset(&self) {
        self.since.store(0, Relaxed);
    }
}

/// Weights for one round of scheduling: members without one take the mean of the others, outliers are cut to a tenth
/// and ten times the mean (gRPC's scheduler does the same), and with fewer than two reports all are alike (`None`).
pub(crate) fn schedule(weights: &[Option<f32>]) -> Option<Vec<u64>> {
    let known: Vec<f64> = weights.iter().flatten().map(|w| f64::from(*w)).collect();
    if known.len() < 2 {
        return None;
    }
    let mean = known.iter().sum::<f64>() / known.len() as f64;
    let scaled = |w: f64| ((w / mean).clamp(0.1, 10.0) * 1000.0).round() as u64;
    Some(
        weights
            .iter()
            .map(|w| scaled(w.map_or(mean, f64::from)))
            .collect(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn believed_after_the_blackout_and_forgotten_after_the_expiry() {
        let policy = BackendLoad::default();
        let report = LoadReport::default();
        report.report(0.5, 100.0, 0.0, 1.0, Time::from_secs(1));
        assert_eq!(report.weight(&policy, Time::from_secs(5)), None);
        assert_eq!(report.weight(&policy, Time::from_secs(11)), Some(200.0));
        assert_eq!(report.weight(&policy, Time::from_secs(181)), None);
        // Back again: a new blackout.
        report.report(0.5, 100.0, 0.0, 1.0, Time::from_secs(200));
        assert_eq!(report.weight(&policy, Time::from_secs(205)), None);
        assert_eq!(report.weight(&policy, Time::from_secs(210)), Some(200.0));
    }

    #[test]
    fn errors_lower_the_weight_and_empty_reports_change_nothing() {
        let policy = BackendLoad {
            blackout_period: std::time::Duration::ZERO,
            ..BackendLoad::default()
        };
        let report = LoadReport::default();
        report.report(0.5, 100.0, 50.0, 1.0, Time::ZERO);
        assert_eq!(report.weight(&policy, Time::ZERO), Some(100.0));
        for (utilization, qps) in [
            (0.0, 100.0),
            (0.5, 0.0),
            (f32::NAN, 1.0),
            (0.5, f32::INFINITY),
            (-1.0, 1.0),
        ] {
            report.report(utilization, qps, 0.0, 1.0, Time::ZERO);
        }
        assert_eq!(report.weight(&policy, Time::ZERO), Some(100.0));
    }

    #[test]
    fn fewer_than_two_reports_mean_even() {
        assert_eq!(schedule(&[Some(5.0), None, None]), None);
        assert_eq!(
            schedule(&[Some(100.0), None, Some(300.0)]),
            Some(vec![500, 1000, 1500])
        );
        let cut = schedule(&[Some(1.0), Some(1.0), Some(1000.0)]).unwrap();
        assert!(cut[0] >= 100 && cut[2] <= 10_000);
    }
}
