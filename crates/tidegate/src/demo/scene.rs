//! What the script does at the moment and what came of it: written by the script, read by the view and the report.

use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::Serialize;

use super::fleet::Fleet;
use super::model::Version;

/// What one event of the script did, as the report tells it.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Outcome {
    /// `kill`, `slow`, `hang`, `break`, `reset`, `add`, `drain`, `key_revoked`, `key_limited`, `worker_kill`,
    /// `gateway_kill`, `reload`, `rolling_restart`, `upgrade`.
    pub(crate) event: &'static str,
    /// What was done, in words.
    pub(crate) what: String,
    /// What came of it, in words.
    pub(crate) result: String,
    /// Seconds from the start of the demo to the event.
    pub(crate) at_s: f64,
    /// Milliseconds from the fault to the ejection of the instance or key; `None` where nothing is to be ejected, or where nothing was in time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ejected_after_ms: Option<u64>,
    /// Why the gateway ejected it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) cause: Option<String>,
    /// Milliseconds until the new, restarted or recovered instance, key or worker answered its first request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) used_after_ms: Option<u64>,
    /// Milliseconds that the change took as a whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) took_ms: Option<u64>,
    /// Milliseconds without an answer while the gateway's process was gone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) gap_ms: Option<u64>,
    /// The instance's share of its version's traffic before and during the event, 0 to 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) share: Option<[f64; 2]>,
    /// Calls that ran again after the death of a worker.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reruns: Option<u64>,
    /// Requests answered during the event.
    pub(crate) requests: u64,
    /// Requests that failed during the event.
    pub(crate) failures: u64,
    /// Attempts after the first during the event, at another instance or with another key.
    pub(crate) retries: u64,
}

impl Outcome {
    /// Whether the gateway did what the event asks of it.
    pub(crate) fn is_good(&self) -> bool {
        let shown = match self.event {
            "kill" | "hang" | "break" | "reset" | "key_revoked" | "key_limited" => {
                self.ejected_after_ms.is_some() && self.used_after_ms.is_some()
            }
            "add" | "worker_kill" => self.used_after_ms.is_some(),
            "slow" => self
                .share
                .is_some_and(|[before, during]| during < before / 2.0),
            "gateway_kill" => self.gap_ms.is_some(),
            _ => self.took_ms.is_some(),
        };
        shown && self.failures == 0
    }
}

/// What happens now.
#[derive(Clone, Debug, Default)]
pub(crate) struct Now {
    /// What is done, in a few words.
    pub(crate) title: String,
    /// What it means, a sentence a line.
    pub(crate) lines: Vec<String>,
    /// The instance, key or worker concerned.
    pub(crate) member: Option<String>,
}

/// An instance as the demo knows it.
#[derive(Clone, Debug)]
pub(crate) struct Shown {
    /// Its name.
    pub(crate) name: String,
    /// Its version.
    pub(crate) version: Version,
    /// Its identity at the gateway.
    pub(crate) address: String,
}

/// All of it.
#[derive(Debug, Default)]
pub(crate) struct Scene {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    now: Now,
    outcomes: Vec<Outcome>,
    members: Vec<Shown>,
    weights: [u32; 2],
    log: Vec<String>,
}

impl Scene {
    /// Something begins.
    pub(crate) fn begin(&self, title: &str, lines: &[&str], member: Option<&str>) {
        let mut inner = self.lock();
        inner.now = Now {
            title: title.to_owned(),
            lines: lines.iter().map(|&line| line.to_owned()).collect(),
            member: member.map(str::to_owned),
        };
        inner.log.push(title.to_owned());
    }

    /// What is seen of it meanwhile.
    pub(crate) fn tell(&self, line: &str) {
        self.lock().now.lines.push(line.to_owned());
    }

    /// What came of it.
    pub(crate) fn finish(&self, outcome: Outcome) {
        let mut inner = self.lock();
        inner.log.push(format!("  {}", outcome.result));
        inner.outcomes.push(outcome);
    }

    /// Attempts that became good ones elsewhere, as far as they are counted by events: calls that ran again.
    pub(crate) fn reruns(&self) -> u64 {
        self.lock().outcomes.iter().filter_map(|o| o.reruns).sum()
    }

    /// The instances are these now.
    pub(crate) fn set_members(&self, fleet: &Fleet) {
        self.lock().members = fleet
            .members()
            .map(|member| Shown {
                name: member.name.clone(),
                version: member.version,
                address: member.address(),
            })
            .collect();
    }

    /// The weights are these now.
    pub(crate) fn set_weights(&self, weights: [u32; 2]) {
        self.lock().weights = weights;
    }

    /// What happens now.
    pub(crate) fn now(&self) -> Now {
        self.lock().now.clone()
    }

    /// What came of the events so far.
    pub(crate) fn outcomes(&self) -> Vec<Outcome> {
        self.lock().outcomes.clone()
    }

    /// The instances.
    pub(crate) fn members(&self) -> Vec<Shown> {
        self.lock().members.clone()
    }

    /// The weights of v1 and v2.
    pub(crate) fn weights(&self) -> [u32; 2] {
        self.lock().weights
    }

    /// The log's lines from this one on.
    pub(crate) fn log(&self, from: usize) -> Vec<String> {
        self.lock().log.get(from..).unwrap_or_default().to_vec()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
