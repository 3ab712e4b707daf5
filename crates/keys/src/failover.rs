//! What a provider's `failover` says: when a key is spared, for how long, how it comes back.
//!
//! There is one mechanism, the engine's pool; this turns the configuration into its policy. Two ways to tell what counts:
//!
//! - *by class* (the default): the classifier says whose fault an answer is, and only what is the key's or the provider's
//!   counts;
//! - *by status* (`on_status`, as in Higress): statuses alone say what is a failure; so many in a row of one key spare it
//!   until enough probes pass or the cooldown is over, whichever is first.

use std::time::Duration;

use regex::Regex;
use tidegate_config::model as config;
use tidegate_core::{
    Balance, OutlierDetection, Percent, PoolPolicy, Probation, Start, WhenExhausted,
};

use crate::choice::Choice;

/// Ejection for failures that count, where nothing else is configured: the first time, and the longest.
const FIRST_EJECTION: Duration = Duration::from_secs(10);
const LONGEST_EJECTION: Duration = Duration::from_secs(60);

/// A compiled `failover`. See the configuration's documentation for the fields.
#[derive(Clone, Debug)]
pub struct Failover {
    /// Failures in a row until a key is spared; at least 1.
    pub failure_threshold: u32,
    /// Good probes that bring a key back, a failed one between them taking none away; at least 1.
    pub success_threshold: u32,
    /// Time between probes of one key.
    pub check_interval: Duration,
    /// Longest probe.
    pub check_timeout: Duration,
    /// Model of the probe, by the caller's name.
    pub check_model: Option<String>,
    /// Time after which a spared key comes back; zero: none.
    pub cooldown: Duration,
    /// What counts by status; `None`: by class.
    pub statuses: Option<Statuses>,
    /// What a request gets when no key is fit.
    pub when_exhausted: WhenExhausted,
}

impl Default for Failover {
    fn default() -> Failover {
        Failover::of(&config::Failover::default(), None)
    }
}

impl Failover {
    /// Compiles the configuration's.
    ///
    /// # Errors
    /// An expression that does not compile; the configuration has refused those before.
    pub fn new(section: &config::Failover) -> Result<Failover, regex::Error> {
        let patterns = section.on_status.iter().map(|p| p.as_str());
        let statuses = match section.on_status.is_empty() {
            true => None,
            false => Some(Statuses::new(patterns)?),
        };
        Ok(Failover::of(section, statuses))
    }

    fn of(section: &config::Failover, statuses: Option<Statuses>) -> Failover {
        Failover {
            failure_threshold: section.failure_threshold.max(1),
            success_threshold: section.success_threshold.max(1),
            check_interval: section.health_check_interval.max(Duration::from_millis(10)),
            check_timeout: section.health_check_timeout,
            check_model: section.health_check_model.clone(),
            cooldown: section.cooldown,
            statuses,
            when_exhausted: match section.when_exhausted {
                config::WhenKeysExhausted::Error => WhenExhausted::Error,
                config::WhenKeysExhausted::UseLeastBad => WhenExhausted::UseLeastBad,
            },
        }
    }

    /// True where statuses alone decide.
    pub fn by_status(&self) -> bool {
        self.statuses.is_some()
    }

    /// Whether spared keys are probed. By status only with a model for it, as in Higress.
    pub fn probes(&self) -> bool {
        !self.by_status() || self.check_model.is_some()
    }

    /// The engine's policy.
    ///
    /// By status: the run of failures is `consecutive_5xx` (every failure counts as one), the sweep is the probe's tick, so
    /// that a cooldown ends on the first tick after it, and a returning key is simply back. By class: the time grows with
    /// each ejection, and one trial request decides.
    pub(crate) fn pool_policy(&self, choice: &Choice) -> PoolPolicy {
        let (first, longest) = match (self.by_status(), self.cooldown) {
            // Without an end of its own: a probe must pass.
            (true, Duration::ZERO) => (Duration::MAX, Duration::MAX),
            (_, cooldown) if cooldown > Duration::ZERO => (cooldown, cooldown),
            _ => (FIRST_EJECTION, LONGEST_EJECTION),
        };
        let off = |rules: OutlierDetection| OutlierDetection {
            enforcing_consecutive_local_origin: Percent::ZERO,
            consecutive_local_origin: 0,
            consecutive_gateway_failure: 0,
            success_rate: tidegate_core::SuccessRate {
                enforcing: Percent::ZERO,
                ..rules.success_rate
            },
            ..rules
        };
        PoolPolicy {
            balance: choice.balance(),
            // Pools of keys are small, and the fewest requests in flight should be just that.
            full_scan: 64,
            outlier: Some(OutlierDetection {
                consecutive_5xx: self.failure_threshold,
                split_local_origin: false,
                interval: self.check_interval,
                base_ejection_time: first,
                max_ejection_time: longest,
                // Keys have no panic: a request to a key that is out is a request lost.
                max_ejection_percent: Percent::HUNDRED,
                ..off(OutlierDetection::default())
            }),
            panic_threshold: Some(Percent::ZERO),
            slow_start: None,
            start: Start::Healthy,
            probation: (!self.by_status()).then_some(Probation {
                concurrent: 1,
                successes: 1,
                // One trial and no more; who would rather use a bad key than none does not wait for it either.
                strict: self.when_exhausted == WhenExhausted::Error,
            }),
            when_exhausted: self.when_exhausted,
            ..PoolPolicy::default()
        }
    }
}

/// Which statuses are failures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statuses {
    /// By status, 0 to 999.
    rules: Box<[Rule]>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Rule {
    No,
    /// By an expression for many.
    Broad,
    /// By its very number.
    Named,
}

impl Statuses {
    /// Compiles expressions. They are anchored: Higress's `4.*` also finds 204 and 304, ours only what it says.
    ///
    /// # Errors
    /// One does not compile.
    pub fn new<'a>(patterns: impl Iterator<Item = &'a str>) -> Result<Statuses, regex::Error> {
        let mut rules = vec![Rule::No; 1000].into_boxed_slice();
        for pattern in patterns {
            let anchored = Regex::new(&format!("^(?:{pattern})$"))?;
            let named = pattern.bytes().all(|b| b.is_ascii_digit());
            let rule = if named { Rule::Named } else { Rule::Broad };
            for (status, known) in rules.iter_mut().enumerate().skip(100) {
                if *known < rule && anchored.is_match(&status.to_string()) {
                    *known = rule;
                }
            }
        }
        Ok(Statuses { rules })
    }

    fn rule(&self, status: u16) -> Rule {
        self.rules
            .get(usize::from(status))
            .copied()
            .unwrap_or(Rule::No)
    }

    /// Whether a status is a failure.
    pub fn matches(&self, status: u16) -> bool {
        self.rule(status) > Rule::No
    }

    /// Whether an expression is this very number. Only then is a caller's own fault held against a key.
    pub fn names(&self, status: u16) -> bool {
        self.rule(status) == Rule::Named
    }
}

impl Choice {
    fn balance(&self) -> Balance {
        match self {
            Choice::Random => Balance::Random,
            Choice::RoundRobin => Balance::RoundRobin,
            Choice::Weighted => Balance::WeightedRandom,
            Choice::LeastUsed => Balance::LeastRequest,
            Choice::Sticky { .. } => Balance::Rendezvous,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_over_statuses_are_anchored() {
        let statuses = Statuses::new(["4.*", "5.."].into_iter()).unwrap();
        let hits: Vec<u16> = [200, 204, 304, 400, 429, 499, 500, 599, 600, 1]
            .into_iter()
            .filter(|s| statuses.matches(*s))
            .collect();
        assert_eq!(hits, [400, 429, 499, 500, 599]);
        assert!(!statuses.names(429));
        assert!(Statuses::new(["404"].into_iter()).unwrap().names(404));
        assert!(Statuses::new(["4[".to_owned().as_str()].into_iter()).is_err());
        // An alternative does not leave the anchors.
        let either = Statuses::new(["401|403"].into_iter()).unwrap();
        assert!(either.matches(403) && !either.matches(200) && either.matches(401));
    }
}
