//! What a pool is told: how to choose, when to eject, what to do when nothing is left.
//!
//! Everything here is plain data with the reference's defaults; a change goes through [`Pool::set_policy`](crate::Pool::set_policy).

use std::time::Duration;

/// A whole percentage, 0 to 100.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Percent(u8);

impl Percent {
    /// Nothing.
    pub const ZERO: Percent = Percent(0);
    /// Everything.
    pub const HUNDRED: Percent = Percent(100);

    /// The percentage, or `None` above 100.
    pub const fn new(value: u8) -> Option<Percent> {
        if value <= 100 {
            Some(Percent(value))
        } else {
            None
        }
    }

    /// The percentage, 100 for anything above.
    pub const fn saturating(value: u8) -> Percent {
        if value <= 100 {
            Percent(value)
        } else {
            Percent(100)
        }
    }

    /// The number, 0 to 100.
    pub const fn get(self) -> u8 {
        self.0
    }
}

/// The policy of a pool.
#[derive(Clone, Debug, PartialEq)]
pub struct PoolPolicy {
    /// How one of the fit members is chosen.
    pub balance: Balance,
    /// Least request and peak EWMA look at every member up to this many, at two random ones (P2C) above. Default 8: for
    /// few members P2C takes the worse of two too often.
    pub full_scan: usize,
    /// Of how many random members least request and peak EWMA take the best where not all are looked at; at least 2. (Envoy's
    /// `choice_count`.) Up to this many members, all are looked at. Default 2.
    pub choices: usize,
    /// When members are ejected for their statistics; `None`: only evidence ejects.
    pub outlier: Option<OutlierDetection>,
    /// Below this share of fit members, statistically ejected (and warming) ones are used as well; evidence is still
    /// honoured. 0 switches it off. `None`: 50, or 0 where `max_ejection_percent` is 100, so that "all may go" holds.
    pub panic_threshold: Option<Percent>,
    /// Ramp for members that are new or come back after evidence.
    pub slow_start: Option<SlowStart>,
    /// Whether a new member is used at once or only after a successful active check.
    pub start: Start,
    /// How a member comes back: over trial requests, or (`None`) at once in full.
    pub probation: Option<Probation>,
    /// What a pick does when no member is fit.
    pub when_exhausted: WhenExhausted,
    /// Preference for near members.
    pub locality: LocalityPolicy,
    /// Most member × scope pairs whose health is kept (callers choose model names). The stalest goes first. Default 4,096.
    pub max_scope_cells: usize,
}

impl Default for PoolPolicy {
    fn default() -> Self {
        PoolPolicy {
            balance: Balance::default(),
            full_scan: 8,
            choices: 2,
            outlier: Some(OutlierDetection::default()),
            panic_threshold: None,
            slow_start: None,
            start: Start::Healthy,
            probation: Some(Probation::default()),
            when_exhausted: WhenExhausted::Error,
            locality: LocalityPolicy::default(),
            max_scope_cells: 4096,
        }
    }
}

impl PoolPolicy {
    /// The panic threshold in force (see the field).
    pub fn panic_percent(&self) -> Percent {
        let all_may_go = self
            .outlier
            .as_ref()
            .is_some_and(|o| o.max_ejection_percent == Percent::HUNDRED);
        self.panic_threshold.unwrap_or(if all_may_go {
            Percent::ZERO
        } else {
            Percent(50)
        })
    }
}

/// How a member is chosen among the fit ones.
#[derive(Clone, Debug, PartialEq)]
pub enum Balance {
    /// In turn, exactly even over all threads; weights are ignored.
    RoundRobin,
    /// Uniformly at random; weights are ignored.
    Random,
    /// In turn, in exact proportion to the weights and spread evenly (smooth).
    WeightedRoundRobin,
    /// At random in proportion to the weights.
    WeightedRandom,
    /// By the request's hash, which the caller takes from the source address ([`hash_ip`](crate::hash::hash_ip)); a maglev table.
    SourceIpHash,
    /// Fewest requests in flight per weight.
    LeastRequest,
    /// Lowest expected wait per weight: peak-sensitive average of the latency × (requests in flight + 1). Among few members
    /// (see [`PoolPolicy::full_scan`]) by chance, steeply in favour of the lowest, so that nearly equal ones share evenly.
    PeakEwma(PeakEwma),
    /// By the request's hash, to the fit member with the highest random weight (rendezvous hashing, [`hash::rendezvous`](crate::hash::rendezvous)).
    /// Looks at every member and needs no table: for pools of dozens (keys), where those of a member that is out must
    /// spread over all the others.
    Rendezvous,
    /// Consistent hashing on a ring.
    RingHash(RingHash),
    /// Consistent hashing by a maglev table.
    Maglev(Maglev),
    /// Weighted round robin by what the backends report of themselves (ORCA, gRPC A58). See [`Member::report_load`](crate::Member::report_load).
    BackendLoad(BackendLoad),
}

impl Default for Balance {
    fn default() -> Self {
        Balance::PeakEwma(PeakEwma::default())
    }
}

impl Balance {
    /// Name, as the config writes it.
    pub const fn name(&self) -> &'static str {
        match self {
            Balance::RoundRobin => "round_robin",
            Balance::Random => "random",
            Balance::WeightedRoundRobin => "weighted_round_robin",
            Balance::WeightedRandom => "weighted_random",
            Balance::SourceIpHash => "source_ip_hash",
            Balance::LeastRequest => "least_request",
            Balance::PeakEwma(_) => "peak_ewma",
            Balance::Rendezvous => "rendezvous",
            Balance::RingHash(_) => "ring_hash",
            Balance::Maglev(_) => "maglev",
            Balance::BackendLoad(_) => "backend_load",
        }
    }

    /// True for the ones that want [`PickRequest::hash`](crate::PickRequest); without a hash they choose at random.
    pub const fn wants_hash(&self) -> bool {
        matches!(
            self,
            Balance::SourceIpHash | Balance::Rendezvous | Balance::RingHash(_) | Balance::Maglev(_)
        )
    }
}

/// Settings of [`Balance::PeakEwma`].
#[derive(Clone, Debug, PartialEq)]
pub struct PeakEwma {
    /// Time in which an old measurement loses 63% of its weight. Default 10 s.
    pub decay: Duration,
    /// A failure or an overload answer (429) counts as a latency of so many times the current average, at most 5 s
    /// (or the latency measured, if longer), so that a member that fails fast does not look fast. Default 10.
    pub penalty: u32,
}

impl Default for PeakEwma {
    fn default() -> Self {
        PeakEwma {
            decay: Duration::from_secs(10),
            penalty: 10,
        }
    }
}

/// Settings of [`Balance::RingHash`].
#[derive(Clone, Debug, PartialEq)]
pub struct RingHash {
    /// Fewest points on the ring. Default 1,024.
    pub min_size: usize,
    /// Most points on the ring. Default 8,388,608 (Envoy's).
    pub max_size: usize,
    /// See [`Maglev::bounded_load`].
    pub bounded_load: Option<u32>,
}

impl Default for RingHash {
    fn default() -> Self {
        RingHash {
            min_size: 1024,
            max_size: 8 << 20,
            bounded_load: None,
        }
    }
}

/// Settings of [`Balance::Maglev`].
#[derive(Clone, Debug, PartialEq)]
pub struct Maglev {
    /// Slots of the table: a prime, about a hundred times the members. Default 65,537 (Google, NSDI 2016).
    pub table_size: usize,
    /// Most load of a member in percent of its fair share (requests in flight by weight), at least 100; a key whose
    /// member is full goes on to its next one (Mirrokni et al., 2016). Counted over the whole pool. `None`: unbounded. 125 to 200 are usual.
    pub bounded_load: Option<u32>,
}

impl Default for Maglev {
    fn default() -> Self {
        Maglev {
            table_size: 65_537,
            bounded_load: None,
        }
    }
}

/// Settings of [`Balance::BackendLoad`], named and defaulted as in gRPC A58.
#[derive(Clone, Debug, PartialEq)]
pub struct BackendLoad {
    /// Reports must come for so long before they are believed. Default 10 s.
    pub blackout_period: Duration,
    /// Without a report for so long, the weight is forgotten. Default 3 min.
    pub weight_expiration_period: Duration,
    /// How often reports become weights; at least 100 ms. Default 1 s.
    pub weight_update_period: Duration,
    /// How much errors add to the utilization: × errors per second / queries per second. Default 1.
    pub error_utilization_penalty: f32,
}

impl Default for BackendLoad {
    fn default() -> Self {
        BackendLoad {
            blackout_period: Duration::from_secs(10),
            weight_expiration_period: Duration::from_secs(180),
            weight_update_period: Duration::from_secs(1),
            error_utilization_penalty: 1.0,
        }
    }
}

/// Outlier detection with Envoy's knobs and defaults, and the windowed rule.
///
/// `enforcing_*` is the chance that a rule that fires really ejects.
#[derive(Clone, Debug, PartialEq)]
pub struct OutlierDetection {
    /// Bad answers in a row, gateway failures included, and failures without an answer too unless `split_local_origin`. 0: off. Default 5.
    pub consecutive_5xx: u32,
    /// Default 100.
    pub enforcing_consecutive_5xx: Percent,
    /// 502, 503, 504 in a row. 0: off. Default 5.
    pub consecutive_gateway_failure: u32,
    /// Default 0.
    pub enforcing_consecutive_gateway_failure: Percent,
    /// Failures without an answer in a row. 0: off. Default 5.
    pub consecutive_local_origin: u32,
    /// Default 100.
    pub enforcing_consecutive_local_origin: Percent,
    /// Failures without an answer count for `consecutive_local_origin` only. Default false.
    pub split_local_origin: bool,
    /// Failures of any kind within a sliding time, whatever succeeded in between. Default none.
    pub errors: Option<ErrorsWithin>,
    /// How often the sweep runs: returns, multipliers, success rates. Default 10 s.
    pub interval: Duration,
    /// Ejection time of the first ejection; the n-th lasts n times as long. Default 30 s.
    pub base_ejection_time: Duration,
    /// Longest ejection time (never below the base). Default 300 s.
    pub max_ejection_time: Duration,
    /// Random extra time, up to this. Default 0.
    pub max_ejection_time_jitter: Duration,
    /// Most members out at once, statistically. One may always go unless it is the last fit one; 100: all may go. Default 10.
    pub max_ejection_percent: Percent,
    /// Compares members' success rates.
    pub success_rate: SuccessRate,
    /// Fixed limit on the share of failures.
    pub failure_percentage: FailurePercentage,
}

impl Default for OutlierDetection {
    fn default() -> Self {
        OutlierDetection {
            consecutive_5xx: 5,
            enforcing_consecutive_5xx: Percent::HUNDRED,
            consecutive_gateway_failure: 5,
            enforcing_consecutive_gateway_failure: Percent::ZERO,
            consecutive_local_origin: 5,
            enforcing_consecutive_local_origin: Percent::HUNDRED,
            split_local_origin: false,
            errors: None,
            interval: Duration::from_secs(10),
            base_ejection_time: Duration::from_secs(30),
            max_ejection_time: Duration::from_secs(300),
            max_ejection_time_jitter: Duration::ZERO,
            max_ejection_percent: Percent(10),
            success_rate: SuccessRate::default(),
            failure_percentage: FailurePercentage::default(),
        }
    }
}

/// `errors: { count: 5, within: 5m }`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ErrorsWithin {
    /// So many failures, 1 to 4,096 (clamped).
    pub count: u32,
    /// Within this time.
    pub within: Duration,
}

/// Ejects members below mean − factor/1000 × σ (population) of the success rates of one interval.
#[derive(Clone, Debug, PartialEq)]
pub struct SuccessRate {
    /// Fewest members with enough volume for the comparison to be made. Default 5.
    pub min_hosts: u32,
    /// Fewest requests of a member in the interval. Default 100.
    pub request_volume: u32,
    /// Factor in thousandths. Default 1900.
    pub stdev_factor: u32,
    /// Default 100.
    pub enforcing: Percent,
}

impl Default for SuccessRate {
    fn default() -> Self {
        SuccessRate {
            min_hosts: 5,
            request_volume: 100,
            stdev_factor: 1900,
            enforcing: Percent::HUNDRED,
        }
    }
}

/// Ejects members whose share of failures in one interval reaches the threshold.
#[derive(Clone, Debug, PartialEq)]
pub struct FailurePercentage {
    /// Default 85.
    pub threshold: Percent,
    /// Fewest members with enough volume. Default 5.
    pub min_hosts: u32,
    /// Fewest requests of a member in the interval. Default 50.
    pub request_volume: u32,
    /// Default 0, as in Envoy: set it to use the rule.
    pub enforcing: Percent,
}

impl Default for FailurePercentage {
    fn default() -> Self {
        FailurePercentage {
            threshold: Percent(85),
            min_hosts: 5,
            request_volume: 50,
            enforcing: Percent::ZERO,
        }
    }
}

/// Weight of a new member: `w · max(min, (t / window)^(1 / aggression))`. Not used by the hash balancers: it would move keys.
#[derive(Clone, Debug, PartialEq)]
pub struct SlowStart {
    /// Length of the ramp.
    pub window: Duration,
    /// 1: linear; above: steeper at first. Must be positive. Default 1.
    pub aggression: f64,
    /// Least share of the weight. Default 10%.
    pub min_weight: Percent,
}

impl SlowStart {
    /// A linear ramp from 10% over `window`.
    pub const fn linear(window: Duration) -> SlowStart {
        SlowStart {
            window,
            aggression: 1.0,
            min_weight: Percent(10),
        }
    }

    /// Share of the weight, 0.0 to 1.0, `age` after the start of the ramp.
    pub fn factor(&self, age: Duration) -> f64 {
        if age >= self.window {
            return 1.0;
        }
        let progress = age.as_secs_f64() / self.window.as_secs_f64();
        progress
            .powf(1.0 / self.aggression.max(0.01))
            .clamp(f64::from(self.min_weight.0) / 100.0, 1.0)
    }
}

/// State in which a member enters the pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// Used at once.
    Healthy,
    /// Used after the first successful active check (or in panic).
    Warming,
}

/// Coming back over trial requests: a success makes it healthy, a failure ejects it again at once, and for statistical
/// ejections an interval without a failed trial will do.
#[derive(Clone, Debug, PartialEq)]
pub struct Probation {
    /// Most trial requests at a time. Default 1.
    pub concurrent: u32,
    /// Successful trials wanted. Default 1.
    pub successes: u32,
    /// What happens to a request that finds only members whose trials are all taken: false, it is sent anyway
    /// (endpoints); true, it is refused (keys: one trial, no more).
    pub strict: bool,
}

impl Default for Probation {
    fn default() -> Self {
        Probation {
            concurrent: 1,
            successes: 1,
            strict: false,
        }
    }
}

/// What a pick does when no member is fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenExhausted {
    /// Fails with the earliest time at which a member returns.
    Error,
    /// Takes the least bad member: statistically ejected before evidence, then the one that returns first.
    UseLeastBad,
}

/// Near members first.
#[derive(Clone, Debug, PartialEq)]
pub struct LocalityPolicy {
    /// Same zone, then same region, then the rest, as [`PickRequest::local`](crate::PickRequest) says; false: all alike. Default true.
    pub prefer_local: bool,
    /// Whether the same zone comes before the rest of its region. Default true.
    pub prefer_zone: bool,
    /// Envoy's overprovisioning factor in percent: a tier keeps all its traffic until its fit share × this falls below
    /// 100%. Default 140: spill-over starts below 71.4% fit. Priorities use it too.
    pub overprovisioning: u32,
}

impl Default for LocalityPolicy {
    fn default() -> Self {
        LocalityPolicy {
            prefer_local: true,
            prefer_zone: true,
            overprovisioning: 140,
        }
    }
}
