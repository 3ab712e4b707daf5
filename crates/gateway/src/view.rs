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

/// One provider with its keys, as `/api/v1/providers` answers it. Nothing here holds a key, a prompt or an answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ProviderView {
    /// Name from the config.
    pub name: String,
    /// Its type, as the config writes it (`openai`, …).
    #[serde(rename = "type")]
    pub kind: String,
    /// Where it is: scheme, host and port.
    pub origin: String,
    /// How a key is chosen, as the config writes it (`random`, `sticky`, …).
    pub choose: String,
    /// Models that it lists, by callers' names.
    pub models: Vec<String>,
    /// Requests in flight over all keys.
    pub inflight: u64,
    /// Requests that found no fit key.
    pub exhausted: u64,
    /// Attempts after which the request went on to another key, attempt or provider, by cause; causes that never were are left out.
    pub failovers: Vec<CauseCount>,
    /// Tokens of prompts, cached ones included.
    pub input_tokens: u64,
    /// Tokens of answers, reasoning included.
    pub output_tokens: u64,
    /// Keys, in the order of the config.
    pub keys: Vec<KeyView>,
}

/// How often something happened for a cause.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CauseCount {
    /// One word (`limited`, `timeout`).
    pub cause: String,
    /// How often since the start.
    pub count: u64,
}

/// One key of a provider.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct KeyView {
    /// What it is called here, in metrics and in the restore operation: its fingerprint, with a part of its identity behind it
    /// (`sk-…9f3c/1b22ce`) where another key of the provider looks the same.
    pub name: String,
    /// What people may see of it: `sk-…9f3c`.
    pub fingerprint: String,
    /// Share of picks relative to the other keys.
    pub weight: u32,
    /// Health for all models together. The worst of `models` may be worse.
    #[serde(flatten)]
    pub health: KeyHealth,
    /// Requests in flight.
    pub inflight: u64,
    /// Attempts made.
    pub attempts: u64,
    /// Attempts that failed.
    pub failures: u64,
    /// Times it was spared.
    pub ejections: u64,
    /// Health for single models, where there is something to tell.
    pub models: Vec<KeyModelView>,
}

/// A key's health for one model.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct KeyModelView {
    /// By the provider's name.
    pub model: String,
    /// Its health.
    #[serde(flatten)]
    pub health: KeyHealth,
}

/// Health of a key, as a whole or for a model.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct KeyHealth {
    /// `warming`, `healthy`, `ejected`, `probing`, `draining`.
    pub state: String,
    /// Why it is in that state, in words, empty when healthy.
    pub cause: String,
    /// Milliseconds since it entered that state.
    pub since_ms: u64,
    /// Milliseconds until it returns; `None`: it is fit, or only a probe brings it back.
    pub returns_in_ms: Option<u64>,
    /// The last thing that was held against it.
    pub evidence: Option<EvidenceView>,
}

/// What a provider said or did, without secrets.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct EvidenceView {
    /// The class in one word (`key_dead`, `limited`, `timeout`, …).
    pub class: String,
    /// Status of the answer; `None`: there was no answer.
    pub status: Option<u16>,
    /// The provider's own code.
    pub code: Option<String>,
    /// The beginning of what it said.
    pub excerpt: String,
    /// The model that was asked, by the provider's name.
    pub model: Option<String>,
    /// The replica that saw it; `None`: this one.
    pub seen_by: Option<String>,
    /// Milliseconds since then.
    pub ago_ms: u64,
}

/// A virtual key: everything but its token.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct VirtualKeyView {
    /// Its name in this API: `vk-` and twelve digits.
    pub id: String,
    /// For people.
    pub name: String,
    /// What people see of its token: `tg-…a1B2`.
    pub fingerprint: String,
    /// What it may use.
    pub limits: tidegate_keys::account::Limits,
    /// When it was made, milliseconds since the Unix epoch.
    pub created_at_ms: u64,
    /// When it ends by itself, milliseconds since the Unix epoch; `None`: it stays until it is revoked.
    pub expires_at_ms: Option<u64>,
    /// What is used of each limit in its current span, as far as this process knows.
    pub used: Vec<SpendingView>,
}

/// What is used of a limit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpendingView {
    /// `requests`, `tokens`, or `micros` (millionths of the currency's unit).
    pub unit: String,
    /// `minute`, `day`, `month`.
    pub per: String,
    /// The limit.
    pub limit: u64,
    /// What counts in the current span; what other replicas took in advance counts as used.
    pub used: u64,
    /// What money is counted in (`EUR`); `None`: it is no money.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub currency: Option<String>,
}

/// The store of durable state, as far as this process uses it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StoreView {
    /// Where it is, without user and password; empty: nothing needs one.
    pub url: String,
    /// Whether it can be reached.
    pub connected: bool,
}

/// One service with its instances.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ServiceView {
    /// Name from the config.
    pub name: String,
    /// `module:Class`, or the command.
    pub runs: String,
    /// Version that a call without one gets; empty: the one without a name.
    pub version: String,
    /// Instances that are wanted.
    pub replicas: u32,
    /// Instances that take requests.
    pub ready: u32,
    /// Calls that came to workers since their host began; 0 for a command, whose calls are not looked into.
    pub calls: u64,
    /// Of them those that failed, by reason.
    pub faults: std::collections::BTreeMap<String, u64>,
    /// Of them those that ran again after the death of a worker.
    pub retries: u64,
    /// Deaths of workers.
    pub deaths: u64,
    /// Versions loaded.
    pub loads: u64,
    /// Versions released to make room.
    pub evictions: u64,
    /// Batches that calls were gathered into.
    pub batches: u64,
    /// Calls in them.
    pub batched: u64,
    /// Calls that wait for a worker.
    pub waiting: u64,
    /// Calls in workers.
    pub running: u64,
    /// Mean time that a call waited for a worker, microseconds.
    pub mean_wait_us: u64,
    /// Mean time that a call took in its worker, microseconds.
    pub mean_run_us: u64,
    /// Its instances; during a replacement those of both hosts.
    pub instances: Vec<InstanceView>,
}

/// One instance of a service.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct InstanceView {
    /// Its name: the service's and a number.
    pub name: String,
    /// Which host process has it.
    pub host: String,
    /// `starting`, `ready`, `failing` (it was ready and fails its health check), `draining`, `crash_loop`.
    pub state: String,
    /// Why the last worker died or did not start, empty when none did; of one that is failing what its health check says.
    pub cause: String,
    /// Milliseconds since it entered that state.
    pub since_ms: u64,
    /// Counts the reloads and changes of the service.
    pub revision: u64,
    /// Process id of its worker.
    pub pid: Option<u32>,
    /// Where it answers.
    pub address: Option<String>,
    /// Deaths of its workers.
    pub restarts: u64,
    /// Versions of the model in memory.
    pub versions: Vec<String>,
    /// Calls in its worker.
    pub in_flight: u64,
    /// Resident memory of its worker, bytes.
    pub memory: u64,
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
