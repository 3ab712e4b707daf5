//! What is known of each instance from outside.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use serde::Serialize;

/// How an instance stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Its worker is not ready yet.
    Starting,
    /// It takes calls.
    Ready,
    /// It finishes the calls that it has.
    Draining,
    /// Its workers die again and again; one is started now and then.
    CrashLoop,
}

impl State {
    /// The name as it is published.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Draining => "draining",
            Self::CrashLoop => "crash_loop",
        }
    }
}

/// Where an instance answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// A door: a Unix socket of the host.
    Unix(PathBuf),
    /// A port of 127.0.0.1 that a `command` listens on.
    Port(u16),
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Port(port) => write!(f, "127.0.0.1:{port}"),
        }
    }
}

/// That a program which was ready fails its checks: gateways, which ask by themselves, send it no requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unwell {
    /// What its last check said.
    pub cause: String,
    /// Since when.
    pub since: SystemTime,
}

/// An instance as it stands.
#[derive(Debug, Clone, PartialEq)]
pub struct InstanceState {
    /// Name of the service.
    pub service: Arc<str>,
    /// Name of the instance: the service's, `-` and a number from 0.
    pub instance: Arc<str>,
    /// Where it answers; `None` for a `command` that has no process.
    pub address: Option<Address>,
    /// Counts the reloads and changes of the service, from 1.
    pub revision: u64,
    /// How it stands.
    pub state: State,
    /// Since when.
    pub since: SystemTime,
    /// Process id of the worker.
    pub pid: Option<u32>,
    /// Deaths of workers since the instance was made.
    pub restarts: u64,
    /// Why the last worker died or did not start.
    pub cause: Option<String>,
    /// What a program that is ready fails its checks with.
    pub unwell: Option<Unwell>,
    /// Whether the worker, or the system, said itself why it can't be had: the next start fails likewise.
    pub certain: bool,
    /// Versions in memory.
    pub versions: Vec<String>,
    /// Methods that may run twice; `None` while no worker has told, and for a `command`.
    pub retryable: Option<Vec<String>>,
    /// Calls that the worker runs or that wait in its socket; renewed about every second.
    pub in_flight: usize,
    /// Resident memory of the worker in bytes, 0 if it is not known; renewed about every second.
    pub memory: u64,
}

/// Counts of a service since it was made.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ServiceCounts {
    /// Name of the service.
    pub service: String,
    /// Calls that came.
    pub calls: u64,
    /// Calls that failed, by the reason of the fault.
    pub faults: std::collections::BTreeMap<&'static str, u64>,
    /// Calls that ran again after the death of a worker.
    pub retries: u64,
    /// Batches sent to workers.
    pub batches: u64,
    /// Calls in them.
    pub batched: u64,
    /// Deaths of workers.
    pub deaths: u64,
    /// Loads of versions, those at a start included.
    pub loads: u64,
    /// Versions released to make room.
    pub evictions: u64,
    /// Calls that wait for a worker now.
    pub waiting: usize,
    /// Calls in workers now.
    pub running: usize,
    /// Nanoseconds that finished calls waited for a worker, all together.
    pub waited_ns: u64,
    /// Nanoseconds that finished calls took in workers, all together.
    pub ran_ns: u64,
}
