//! What a host publishes of its instances: the meeting point of host and gateway in the store.

use serde::{Deserialize, Serialize};
use tidegate_state::{InvalidKey, Key};

/// An instance as its host publishes it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct InstanceRecord {
    /// Which host process has it.
    pub host: String,
    /// Its name.
    pub instance: String,
    /// Where it answers, `unix:PATH` or `127.0.0.1:PORT`; `None`: nowhere yet.
    pub address: Option<String>,
    /// Counts the reloads and changes of its service.
    pub revision: u64,
    /// `starting`, `ready`, `draining`, `crash_loop`. One that fails its checks stays `ready`: gateways ask by themselves.
    pub state: String,
    /// When it entered that state, milliseconds since the Unix epoch.
    pub since_ms: u64,
    /// Process id of its worker.
    pub pid: Option<u32>,
    /// Deaths of its workers.
    pub restarts: u64,
    /// Why the last worker died or did not start.
    pub cause: Option<String>,
    /// Set while it is ready and fails its checks.
    pub failing: Option<FailingRecord>,
    /// Versions of the model in memory.
    pub versions: Vec<String>,
    /// Methods of its model that may run twice; `None` where no worker has told yet.
    pub retryable: Option<Vec<String>>,
}

/// That an instance fails its checks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct FailingRecord {
    /// What its last check said.
    pub cause: String,
    /// Since when, milliseconds since the Unix epoch.
    pub since_ms: u64,
}

impl InstanceRecord {
    /// First segment of the keys.
    pub const PREFIX: &str = "instances";
    /// The state of those that take requests.
    pub const READY: &str = "ready";
    /// What is shown of those that are ready and fail their checks.
    pub const FAILING: &str = "failing";
    /// The state of those that finish what they have.
    pub const DRAINING: &str = "draining";
    /// The state of those whose workers die again and again.
    pub const CRASH_LOOP: &str = "crash_loop";

    /// The key that it is published under.
    ///
    /// # Errors
    /// The parts make no key.
    pub fn key(&self, node: &str, service: &str) -> Result<Key, InvalidKey> {
        let name = format!("{}.{}", self.host, self.instance);
        Key::of(&[Self::PREFIX, node, service, &name])
    }
}

/// What a host tells about every second to whoever listens: what changes too often for the store.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct HostReport {
    /// Which host process it is.
    pub host: String,
    /// Its process id.
    pub pid: u32,
    /// Its services.
    pub services: Vec<ServiceReport>,
    /// Its instances.
    pub instances: Vec<InstanceReport>,
}

/// Counts of a service since its host began, and what is under way.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ServiceReport {
    /// Name of the service.
    pub service: String,
    /// Calls that came.
    pub calls: u64,
    /// Calls that failed, by the reason of the fault.
    pub faults: std::collections::BTreeMap<String, u64>,
    /// Calls that ran again after the death of a worker.
    pub retries: u64,
    /// Batches sent to workers.
    pub batches: u64,
    /// Calls in them.
    pub batched: u64,
    /// Deaths of workers.
    pub deaths: u64,
    /// Loads of versions.
    pub loads: u64,
    /// Versions released to make room.
    pub evictions: u64,
    /// Calls that wait for a worker.
    pub waiting: u64,
    /// Calls in workers.
    pub running: u64,
    /// Microseconds that finished calls waited for a worker, all together.
    pub waited_us: u64,
    /// Microseconds that finished calls took in workers, all together.
    pub ran_us: u64,
}

/// What is under way in an instance.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct InstanceReport {
    /// Name of the instance.
    pub instance: String,
    /// Calls in its worker.
    pub in_flight: u64,
    /// Resident memory of its worker, bytes.
    pub memory: u64,
}
