//! How the members of an upstream are chosen, bounded, watched and spared.

use crate::checks::{By, Lasting, NotEmpty, Pem, TIMER, True, Within};
use crate::record::{choice, one_of, record};
use crate::values::{HashKey, Percent, StatusRange};
use std::path::PathBuf;
use std::time::Duration;

record! {
    /// TLS towards endpoints.
    pub default struct UpstreamTls {
        /// PEM file with the authorities that sign endpoints' certificates. Default: the system's.
        ca: Option<PathBuf> => Pem("CERTIFICATE"),
        /// PEM file with Tidegate's own certificate chain (mTLS); needs `key`.
        certificate: Option<PathBuf> => Pem("CERTIFICATE"),
        /// PEM file with its private key.
        key: Option<PathBuf> => Pem("PRIVATE KEY"),
        /// Server name that is sent and verified. Default: the endpoint's host name.
        sni: Option<String> => By(crate::validate::host),
        /// Whether the endpoint's certificate is verified. Default true.
        verify: bool = true,
        ; finish crate::validate::upstream_tls
    }
}

/// How a member is picked. A plain word takes the defaults: `balance: maglev` needs a key, so it is written
/// `balance: { maglev: { header: x-user } }`.
#[derive(Debug, Clone, PartialEq)]
pub enum Balance {
    /// Members in turn.
    RoundRobin,
    /// Any member.
    Random,
    /// Members in turn, by weight.
    WeightedRoundRobin,
    /// Any member, by weight.
    WeightedRandom,
    /// A member by the caller's address.
    SourceIpHash,
    /// The member with the fewest requests in flight relative to its weight.
    LeastRequest(LeastRequest),
    /// The member with the least latency × load. The default.
    PeakEwma(PeakEwma),
    /// Consistent hashing on a ring.
    RingHash(RingHash),
    /// Consistent hashing by a lookup table.
    Maglev(Maglev),
    /// Members by the load that they report (ORCA, gRPC A58).
    BackendLoad(BackendLoad),
}

record! {
    /// Least request.
    pub default struct LeastRequest {
        /// Members compared for one pick, 2 to 64; with up to 8 members all are. Default 2.
        choices: u32 = 2 => Within(2, 64),
    }
}

record! {
    /// Latency × load, where latency is a moving average that rises at once and falls slowly.
    pub default struct PeakEwma {
        /// Time over which an old latency fades. Default 10s.
        decay: Duration = Duration::from_secs(10) => TIMER,
    }
}

record! {
    /// Consistent hashing on a ring.
    pub struct RingHash {
        /// Points on the ring at least, 1 to 8388608. Default 1024.
        min_size: u32 = 1024 => Within(1, 8_388_608),
        ; flatten
        /// What is hashed.
        hash: HashKey
    }
}

record! {
    /// Consistent hashing by a lookup table.
    pub struct Maglev {
        /// Slots of the table: a prime, up to 5000011. Default 65537.
        table_size: u32 = 65_537 => By(crate::validate::table_size),
        ; flatten
        /// What is hashed.
        hash: HashKey
    }
}

record! {
    /// Weights from the load that members report in `endpoint-load-metrics` headers or trailers (ORCA, gRPC A58).
    pub default struct BackendLoad {
        /// A new member's reports count only after this time. Default 10s.
        blackout: Duration = Duration::from_secs(10) => Lasting(Duration::ZERO, Duration::from_secs(86_400)),
        /// A report is forgotten after this time. Default 3m.
        expiry: Duration = Duration::from_secs(180) => TIMER,
        /// Weights are computed anew this often. Default 1s.
        update_interval: Duration = Duration::from_secs(1) => Lasting(Duration::from_millis(100), Duration::from_secs(3_600)),
        /// How much errors lower the weight: 0 not at all. Default 1.
        error_penalty: f64 = 1.0 => Within(0.0, 1000.0),
    }
}

record! {
    /// Bounds per upstream, exact across workers. Overflow answers 503 (gRPC UNAVAILABLE) at once.
    pub default struct ConnectionPool {
        /// Connections to the upstream, at least one for each worker. Default 1024.
        max_connections: u32 = 1024 => Within(1, 10_000_000),
        /// Requests that wait for a connection. Default 1024.
        max_pending_requests: u32 = 1024,
        /// Requests in flight. Default 1024.
        max_requests: u32 = 1024 => Within(1, 10_000_000),
        /// A connection is closed after this many requests; 0: never. Default 0.
        max_requests_per_connection: u64 = 0,
        /// Connecting, TLS handshake included. Default 1s.
        connect_timeout: Duration = Duration::from_secs(1) => TIMER,
        /// A connection without a request is closed after this time; `off`: never. Default 90s.
        idle_timeout: Option<Duration> = Some(Duration::from_secs(90)) => TIMER,
        /// TCP keepalive probes start after this time of silence; `off`: none. Default 60s.
        tcp_keepalive: Option<Duration> = Some(Duration::from_secs(60)) => Lasting(Duration::from_secs(1), Duration::from_secs(86_400)),
    }
}

record! {
    /// HTTP/2 towards endpoints.
    pub default struct Http2 {
        /// Streams at once on one connection; the endpoint's own lower limit is kept to. Default 100.
        max_concurrent_streams: u32 = 100 => Within(1, 1_000_000),
        /// A PING is sent when nothing has come for this long. Default: off (many gRPC servers close on more than one in 5m).
        ping_interval: Option<Duration> => Lasting(Duration::from_secs(1), Duration::from_secs(86_400)),
        /// Without an answer to a PING in this time the connection is given up. Default 10s.
        ping_timeout: Duration = Duration::from_secs(10) => TIMER,
        /// A connection is replaced after this time (±10%); requests on it finish. Default: never.
        max_connection_age: Option<Duration> => Lasting(Duration::from_secs(1), Duration::from_secs(365 * 86_400)),
    }
}

record! {
    /// Ejection of members by the outcomes of real requests, with Envoy's semantics. A count of 0 turns its rule off.
    pub default struct OutlierDetection {
        /// 5xx answers in a row. Default 5.
        consecutive_5xx: u32 = 5,
        /// 502, 503 or 504 in a row. Default 5.
        consecutive_gateway_failure: u32 = 5,
        /// Connect failures, resets and timeouts in a row. Default 5.
        consecutive_local_origin: u32 = 5,
        /// Chance that the 5xx rule ejects. Default 100%.
        enforcing_consecutive_5xx: Percent = Percent::HUNDRED,
        /// Chance that the gateway rule ejects. Default 0%, or 100% where `consecutive_gateway_failure` is given.
        enforcing_consecutive_gateway_failure: Percent = Percent::ZERO,
        /// Chance that the local-origin rule ejects. Default 100%.
        enforcing_consecutive_local_origin: Percent = Percent::HUNDRED,
        /// Failures within a time, whether in a row or not. Default: off.
        errors: Option<ErrorWindow>,
        /// Time between two sweeps (statistics, returns). Default 10s.
        interval: Duration = Duration::from_secs(10) => Lasting(Duration::from_millis(10), Duration::from_secs(86_400)),
        /// An ejection lasts this long × the times ejected. Default 30s.
        base_ejection_time: Duration = Duration::from_secs(30) => TIMER,
        /// Longest ejection. Default 5m.
        max_ejection_time: Duration = Duration::from_secs(300) => TIMER,
        /// Random time added to an ejection, at most this. Default 0s.
        max_ejection_time_jitter: Duration = Duration::ZERO => Lasting(Duration::ZERO, Duration::from_secs(86_400)),
        /// Share of the members that may be ejected at once: at least one, never the last; 100%: all may go. Default 10%.
        max_ejection_percent: Percent = Percent::of(10),
        /// Members whose success rate is far below the others'; `off` turns it off. Default: on.
        success_rate: Option<SuccessRate> = Some(SuccessRate::default()),
        /// Members that fail more than a share of their requests. Default: off.
        failure_percentage: Option<FailurePercentage>,
        ; finish crate::validate::outlier_detection
    }
}

record! {
    /// Failures within a time.
    pub struct ErrorWindow {
        /// Failures, at least 1.
        count: u32 => Within(1, 1_000_000),
        /// The time.
        within: Duration => TIMER,
    }
}

record! {
    /// Ejects members below mean − factor × σ of the success rates.
    pub default struct SuccessRate {
        /// Members with enough volume that are needed. Default 5.
        min_hosts: u32 = 5 => Within(2, 1_000_000),
        /// Requests in an interval that a member needs. Default 100.
        volume: u32 = 100 => Within(1, 1_000_000_000),
        /// Factor × 1000. Default 1900 (1.9 σ).
        stdev_factor: u32 = 1900,
        /// Chance that the rule ejects. Default 100%.
        enforcing: Percent = Percent::HUNDRED,
    }
}

record! {
    /// Ejects members that fail at least this share of their requests.
    pub default struct FailurePercentage {
        /// Share. Default 85%.
        threshold: Percent = Percent::of(85),
        /// Members with enough volume that are needed. Default 5.
        min_hosts: u32 = 5,
        /// Requests in an interval that a member needs. Default 50.
        volume: u32 = 50 => Within(1, 1_000_000_000),
        /// Chance that the rule ejects. Default 100% (Envoy's is a silent 0).
        enforcing: Percent = Percent::HUNDRED,
    }
}

record! {
    /// Active checks; each endpoint is probed once, not once a worker.
    pub struct HealthCheck {
        /// Time between two checks of an endpoint. Default 5s.
        interval: Duration = Duration::from_secs(5) => Lasting(Duration::from_millis(10), Duration::from_secs(86_400)),
        /// Time that one check may take. Default 1s.
        timeout: Duration = Duration::from_secs(1) => TIMER,
        /// Successes in a row that make it fit. Default 1.
        healthy_after: u32 = 1 => Within(1, 1_000),
        /// Failures in a row that make it unfit. Default 3.
        unhealthy_after: u32 = 3 => Within(1, 1_000),
        /// Port that is probed. Default: the endpoint's.
        port: Option<u16> => Within(1, 65_535),
        /// `Host` / `:authority` of the probe. Default: the endpoint's address.
        host: Option<String> => By(crate::validate::authority),
        /// HTTP statuses that count as success, e.g. `[200, 300-399]`. Default 200-299.
        expected_statuses: Vec<StatusRange> = vec![StatusRange { from: 200, to: 299 }] => NotEmpty,
        ; flatten
        /// How it is checked.
        probe: Probe
        ; finish crate::validate::health_check
        ; tidy crate::validate::health_check_tidy
    }
}

one_of! {
    /// How an endpoint is checked.
    pub enum Probe {
        /// GET of this path.
        Http(String) = "http" => By(crate::validate::probe_path),
        /// The gRPC health service, asked about this service (empty: the whole server).
        Grpc(String) = "grpc",
        /// A TCP connection.
        Tcp(bool) = "tcp" => True,
    }
}

record! {
    /// weight × max(10%, (time / window)^(1 / aggression)).
    pub struct SlowStart {
        /// Time until the full share.
        window: Duration => TIMER,
        /// 1: linear; above: faster at first. Default 1.
        aggression: f64 = 1.0 => Within(0.01, 100.0),
        ; short "window"
    }
}

record! {
    /// Which members come first: the caller's requests stay near as long as enough members are fit there.
    pub default struct LocalityPolicy {
        /// What counts as near (`node.region`, `node.zone`). Default zone: same zone, then same region, then all.
        prefer: Prefer = Prefer::Zone,
        /// Requests spill over when fit share × this factor falls below 1; at least 1. Default 1.4.
        overprovision: f64 = 1.4 => Within(1.0, 100.0),
    }
}

choice! {
    /// What counts as near.
    pub enum Prefer {
        /// The same zone, then the same region, then all.
        Zone = "zone",
        /// The same region, then all.
        Region = "region",
        /// All alike.
        None = "none",
    }
}

choice! {
    /// What happens when no member is fit.
    pub enum WhenExhausted {
        /// 503, gRPC UNAVAILABLE.
        Error = "error",
        /// The least bad member is used.
        LeastBad = "least_bad",
    }
}

impl Balance {
    /// The word that the configuration uses for it.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::RoundRobin => "round_robin",
            Self::Random => "random",
            Self::WeightedRoundRobin => "weighted_round_robin",
            Self::WeightedRandom => "weighted_random",
            Self::SourceIpHash => "source_ip_hash",
            Self::LeastRequest(_) => "least_request",
            Self::PeakEwma(_) => "peak_ewma",
            Self::RingHash(_) => "ring_hash",
            Self::Maglev(_) => "maglev",
            Self::BackendLoad(_) => "backend_load",
        }
    }
}
