//! The sweep's two comparisons over one interval (Envoy's success rate and failure percentage), as pure arithmetic.

use crate::policy::{FailurePercentage, SuccessRate};

/// What a member did in the interval: outcomes and failures.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample<K> {
    pub(crate) key: K,
    pub(crate) total: u32,
    pub(crate) failed: u32,
}

impl<K> Sample<K> {
    fn success_rate(&self) -> f64 {
        100.0 - self.failure_percentage()
    }

    fn failure_percentage(&self) -> f64 {
        100.0 * f64::from(self.failed) / f64::from(self.total.max(1))
    }
}

/// Members below mean − factor/1000 × σ (population) with their rate, and that threshold; both in percent.
pub(crate) fn success_rate_outliers<K: Copy>(
    samples: &[Sample<K>],
    rule: &SuccessRate,
) -> Vec<(K, f64, f64)> {
    let enough: Vec<_> = samples
        .iter()
        .filter(|s| s.total >= rule.request_volume.max(1))
        .collect();
    if enough.len() < rule.min_hosts as usize || enough.is_empty() {
        return Vec::new();
    }
    let count = enough.len() as f64;
    let mean = enough.iter().map(|s| s.success_rate()).sum::<f64>() / count;
    let variance = enough
        .iter()
        .map(|s| (s.success_rate() - mean).powi(2))
        .sum::<f64>()
        / count;
    let threshold = mean - f64::from(rule.stdev_factor) / 1000.0 * variance.sqrt();
    enough
        .iter()
        .filter(|s| s.success_rate() < threshold)
        .map(|s| (s.key, s.success_rate(), threshold))
        .collect()
}

/// Members whose share of failures reaches the threshold, with the share in percent.
pub(crate) fn failure_percentage_outliers<K: Copy>(
    samples: &[Sample<K>],
    rule: &FailurePercentage,
) -> Vec<(K, f64)> {
    let enough: Vec<_> = samples
        .iter()
        .filter(|s| s.total >= rule.request_volume.max(1))
        .collect();
    if enough.len() < rule.min_hosts as usize {
        return Vec::new();
    }
    let threshold = f64::from(rule.threshold.get());
    enough
        .iter()
        .filter(|s| s.failure_percentage() >= threshold)
        .map(|s| (s.key, s.failure_percentage()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(failed_of_100: &[u32]) -> Vec<Sample<usize>> {
        failed_of_100
            .iter()
            .enumerate()
            .map(|(key, failed)| Sample {
                key,
                total: 100,
                failed: *failed,
            })
            .collect()
    }

    #[test]
    fn the_one_below_mean_minus_nineteen_tenths_sigma_goes() {
        // Rates 99 ×9 and 59: mean 95, population σ 12, threshold 95 − 1.9·12 = 72.2.
        let outliers = success_rate_outliers(
            &samples(&[1, 1, 1, 1, 1, 1, 1, 1, 1, 41]),
            &SuccessRate::default(),
        );
        assert_eq!(outliers.len(), 1);
        let (key, rate, threshold) = outliers[0];
        assert_eq!(key, 9);
        assert!(
            (rate - 59.0).abs() < 1e-9 && (threshold - 72.2).abs() < 1e-9,
            "{rate} {threshold}"
        );
    }

    #[test]
    fn too_few_hosts_or_requests_compare_nothing() {
        assert!(
            success_rate_outliers(&samples(&[0, 0, 0, 100]), &SuccessRate::default()).is_empty()
        );
        let mut quiet = samples(&[0; 10]);
        quiet[9] = Sample {
            key: 9,
            total: 99,
            failed: 99,
        };
        assert!(success_rate_outliers(&quiet, &SuccessRate::default()).is_empty());
    }

    #[test]
    fn equal_rates_have_no_outlier() {
        assert!(success_rate_outliers(&samples(&[50; 10]), &SuccessRate::default()).is_empty());
    }

    #[test]
    fn failure_percentage_counts_the_threshold_in() {
        let outliers = failure_percentage_outliers(
            &samples(&[84, 85, 100, 0, 0]),
            &FailurePercentage::default(),
        );
        assert_eq!(
            outliers.iter().map(|(key, _)| *key).collect::<Vec<_>>(),
            [1, 2]
        );
        assert!(
            failure_percentage_outliers(&samples(&[100; 4]), &FailurePercentage::default())
                .is_empty()
        );
    }
}
