//! What the gateway shows of itself: plain values that the admin API serialises and `tidegate status` reads back.

use serde::{Deserialize, Serialize};

/// One upstream with its members, as `/api/v1/upstreams` answers it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct UpstreamView {
    /// Name from the config.
    pub name: String,
    /// Balancer, as the config writes it (`peak_ewma`, …).
    pub balance: String,
    /// Where the members come from: `static`, `file`, `dns`, `consul`.
    pub source: String,
    /// Trouble of that source, if its last answer was one (the last good list stays in use).
    pub source_error: Option<String>,
    /// True while fewer members are healthy than the panic threshold wants, so that all are used.
    pub panic: bool,
    /// Requests in flight over all members.
    pub inflight: u64,
    /// Members, in the order of the config or the discovery's answer.
    pub members: Vec<MemberView>,
}

/// One member of a pool.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MemberView {
    /// Identity: `HOST:PORT` or `unix:PATH`.
    pub id: String,
    /// Share of picks relative to the other members.
    pub weight: u32,
    /// Region of the member, empty when unknown.
    pub region: String,
    /// Zone of the member, empty when unknown.
    pub zone: String,
    /// `warming`, `healthy`, `ejected`, `probing`, `draining`.
    pub state: String,
    /// Why it is in that state, in words (`5 consecutive 5xx`), empty when healthy.
    pub cause: String,
    /// Milliseconds since it entered that state.
    pub since_ms: u64,
    /// Milliseconds until an ejected member may return, if that is known.
    pub returns_in_ms: Option<u64>,
    /// Requests in flight.
    pub inflight: u64,
    /// Attempts made.
    pub attempts: u64,
    /// Attempts that failed.
    pub failures: u64,
    /// Times it was ejected.
    pub ejections: u64,
    /// Peak-sensitive moving average of the latency, in microseconds.
    pub ewma_us: u64,
    /// Open connections, all workers together.
    pub connections: u64,
}

/// One route with its traffic.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RouteView {
    /// Name from the config.
    pub name: String,
    /// What it matches, in words (`hosts a.local, path /v1/*`).
    pub matches: String,
    /// Where it sends, in words (`ranker-v1 90%, ranker-v2 10%`).
    pub to: String,
    /// Requests answered since the start.
    pub requests: u64,
    /// Of them with a status of 500 or more (or a gRPC status that means the same).
    pub errors: u64,
    /// Requests in flight.
    pub inflight: u64,
    /// Median of the whole exchange's duration since the start, microseconds.
    pub p50_us: u64,
    /// 99th percentile, microseconds.
    pub p99_us: u64,
}

/// One listener.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ListenerView {
    /// Name from the config.
    pub name: String,
    /// Address that it listens on.
    pub address: String,
    /// Whether it speaks TLS.
    pub tls: bool,
    /// Open connections.
    pub connections: u64,
}

/// The running configuration.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ConfigView {
    /// Counts the accepted loads from 1.
    pub generation: u64,
    /// Hash of the accepted text.
    pub hash: String,
    /// When it was accepted, milliseconds since the Unix epoch.
    pub loaded_at_ms: u64,
    /// Files that it came from.
    pub files: Vec<String>,
    /// The configuration itself, secrets shown as fingerprints.
    pub config: serde_json::Value,
    /// Why the last reload was refused, if it was: the diagnostics as text.
    pub refused: Option<String>,
}

/// Something that happened to a member, a pool, the configuration or a listener.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct EventView {
    /// Grows by one with each event.
    pub seq: u64,
    /// Milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// `member_ejected`, `member_returned`, `member_added`, `member_removed`, `config_loaded`, `config_refused`, …
    pub kind: String,
    /// Pool, route or listener concerned, empty if none.
    pub subject: String,
    /// Member concerned, empty if none.
    pub member: String,
    /// Cause in words.
    pub cause: String,
}

/// Whether the gateway takes traffic.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Readiness {
    /// False while starting or draining.
    pub ready: bool,
    /// Why not, in words.
    pub reason: String,
}

/// One metric family in the Prometheus sense.
#[derive(Clone, Debug)]
pub struct Family {
    /// Name, `tidegate_requests_total` and the like.
    pub name: &'static str,
    /// One sentence of help.
    pub help: &'static str,
    /// Counter, gauge or histogram.
    pub kind: Kind,
    /// The samples with their labels.
    pub samples: Vec<Sample>,
}

/// Kind of a metric family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes both ways.
    Gauge,
    /// Cumulative buckets with sum and count.
    Histogram,
}

/// One labelled value.
#[derive(Clone, Debug)]
pub struct Sample {
    /// Label names and values; values are bounded (names from the config).
    pub labels: Vec<(&'static str, String)>,
    /// The value.
    pub value: Value,
}

/// A sample's value.
#[derive(Clone, Debug)]
pub enum Value {
    /// Counter or gauge.
    Number(f64),
    /// Histogram: upper bounds in ascending order (without +Inf) with cumulative counts, the sum and the total count.
    Histogram {
        /// `(upper bound, cumulative count)`.
        buckets: Vec<(f64, u64)>,
        /// Sum of all observations.
        sum: f64,
        /// Number of all observations.
        count: u64,
    },
}
