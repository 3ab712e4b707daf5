//! Tells the gateways of this node where instances are: the store holds what this host last said, as soon as it can.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tidegate_gateway::{FailingRecord, InstanceRecord};
use tidegate_host::InstanceState;
use tidegate_state::{Guard, Key, Prefix, Store};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::hostdir;

/// Wait before the store is tried again.
const AGAIN: Duration = Duration::from_millis(100);
/// How long the end waits for the store.
const PATIENCE: Duration = Duration::from_secs(1);

/// What is to be told of this host's instances.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// As they are.
    Live,
    /// That they drain.
    Draining,
    /// Nothing any more.
    Gone,
}

/// Publishes until it is dropped; then the records stay until the next host removes them.
#[derive(Debug)]
pub(super) struct Publisher {
    phase: watch::Sender<Phase>,
    /// The phase that is in the store.
    told: watch::Receiver<Phase>,
    task: JoinHandle<()>,
}

impl Drop for Publisher {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Publisher {
    pub(super) fn start(
        store: Arc<dyn Store>,
        node: String,
        host: String,
        run: PathBuf,
        instances: watch::Receiver<Arc<Vec<InstanceState>>>,
    ) -> Self {
        let (phase, wanted) = watch::channel(Phase::Live);
        let (tell, told) = watch::channel(Phase::Live);
        let work = Work {
            store,
            node,
            host,
            published: BTreeMap::new(),
        };
        let task = tokio::spawn(work.run(run, instances, wanted, tell));
        Self { phase, told, task }
    }

    /// Tells that all instances drain. Returns when that is known, or the store is away.
    pub(super) async fn drain(&mut self) {
        self.reach(Phase::Draining).await;
    }

    /// Takes everything back. Returns when that is done, or the store is away.
    pub(super) async fn remove(&mut self) {
        self.reach(Phase::Gone).await;
    }

    async fn reach(&mut self, phase: Phase) {
        self.phase.send_replace(phase);
        let reached = self.told.wait_for(|told| *told == phase);
        if tokio::time::timeout(PATIENCE, reached).await.is_err() {
            tracing::warn!(?phase, "the store is away: gateways find out by themselves");
        }
    }
}

struct Work {
    store: Arc<dyn Store>,
    node: String,
    host: String,
    /// What the store holds of this host.
    published: BTreeMap<Key, InstanceRecord>,
}

impl Work {
    async fn run(
        mut self,
        run: PathBuf,
        mut instances: watch::Receiver<Arc<Vec<InstanceState>>>,
        mut phase: watch::Receiver<Phase>,
        told: watch::Sender<Phase>,
    ) {
        let mut clean = false;
        loop {
            let (at, now) = (
                *phase.borrow_and_update(),
                instances.borrow_and_update().clone(),
            );
            let wanted = match at {
                Phase::Gone => BTreeMap::new(),
                at => self.records(&now, at == Phase::Draining),
            };
            let mut done = self.publish(wanted).await;
            if done {
                told.send_replace(at);
            }
            if !clean {
                clean = self.remove_stale(&run).await;
                done &= clean;
            }
            tokio::select! {
                Ok(()) = instances.changed() => {}
                Ok(()) = phase.changed() => {}
                () = tokio::time::sleep(AGAIN), if !done => {}
                else => return,
            }
        }
    }

    fn records(
        &self,
        instances: &[InstanceState],
        draining: bool,
    ) -> BTreeMap<Key, InstanceRecord> {
        instances
            .iter()
            .filter_map(|instance| {
                let mut record = record(&self.host, instance);
                if draining {
                    record.state = InstanceRecord::DRAINING.into();
                }
                let key = record.key(&self.node, &instance.service).ok()?;
                Some((key, record))
            })
            .collect()
    }

    /// Whether the store holds what is wanted.
    async fn publish(&mut self, wanted: BTreeMap<Key, InstanceRecord>) -> bool {
        for (key, record) in &wanted {
            if self.published.get(key) == Some(record) {
                continue;
            }
            let Ok(value) = serde_json::to_vec(record) else {
                continue;
            };
            if let Err(error) = self.store.put(key, value.into(), None, &Guard::NONE).await {
                tracing::debug!(%key, %error, "an instance is not told");
                return false;
            }
            self.published.insert(key.clone(), record.clone());
        }
        let gone: Vec<Key> = self
            .published
            .keys()
            .filter(|key| !wanted.contains_key(*key))
            .cloned()
            .collect();
        for key in gone {
            if self.store.delete(&key, &Guard::NONE).await.is_err() {
                return false;
            }
            self.published.remove(&key);
        }
        true
    }

    /// Removes what hosts of this node left that do not live. Returns whether it is done.
    async fn remove_stale(&self, run: &Path) -> bool {
        let Ok(prefix) = Prefix::of(&[InstanceRecord::PREFIX, &self.node]) else {
            return true;
        };
        let Ok(listing) = self.store.list(&prefix).await else {
            return false;
        };
        // Looked at after the listing: a host that begins meanwhile is not in it.
        let living = hostdir::living(run);
        for (key, _) in listing.entries {
            let host = key.last().split('.').next().unwrap_or_default();
            let lives = host == self.host || living.iter().any(|place| place.id == host);
            if !lives && self.store.delete(&key, &Guard::NONE).await.is_err() {
                return false;
            }
        }
        true
    }
}

fn unix_ms(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_millis() as u64)
}

fn record(host: &str, instance: &InstanceState) -> InstanceRecord {
    InstanceRecord {
        host: host.to_owned(),
        instance: instance.instance.to_string(),
        address: instance.address.as_ref().map(ToString::to_string),
        revision: instance.revision,
        state: instance.state.as_str().to_owned(),
        since_ms: unix_ms(instance.since),
        pid: instance.pid,
        restarts: instance.restarts,
        cause: instance.cause.clone(),
        failing: instance.unwell.as_ref().map(|unwell| FailingRecord {
            cause: unwell.cause.clone(),
            since_ms: unix_ms(unwell.since),
        }),
        versions: instance.versions.clone(),
        retryable: instance.retryable.clone(),
    }
}

#[cfg(test)]
mod tests {
    use tidegate_host::{Address, State};

    use super::*;

    fn instance(state: State) -> InstanceState {
        InstanceState {
            service: "m".into(),
            instance: "m-0".into(),
            address: Some(Address::Unix("/run/m-0.sock".into())),
            revision: 1,
            state,
            since: SystemTime::now(),
            pid: Some(7),
            restarts: 0,
            cause: None,
            unwell: None,
            certain: false,
            versions: Vec::new(),
            retryable: None,
            in_flight: 0,
            memory: 0,
        }
    }

    async fn states(store: &Arc<dyn Store>) -> Vec<String> {
        let prefix = Prefix::of(&[InstanceRecord::PREFIX, "n"]).unwrap();
        let entries = store.list(&prefix).await.unwrap().entries;
        let record = |value: &[u8]| serde_json::from_slice::<InstanceRecord>(value).unwrap();
        entries
            .iter()
            .map(|(key, entry)| format!("{} {}", key.last(), record(&entry.value).state))
            .collect()
    }

    #[tokio::test]
    async fn the_store_follows_the_instances_and_forgets_hosts_that_died() {
        let state = tempfile::tempdir().unwrap();
        let store = tidegate_state::memory();
        let dead = Key::of(&[InstanceRecord::PREFIX, "n", "m", "dead.m-0"]).unwrap();
        let other = Key::of(&[InstanceRecord::PREFIX, "elsewhere", "m", "dead.m-0"]).unwrap();
        for key in [&dead, &other] {
            store
                .put(key, "{}".into(), None, &Guard::NONE)
                .await
                .unwrap();
        }
        let prefix = Prefix::of(&[InstanceRecord::PREFIX]).unwrap();
        let mut watch = store.watch(&prefix);
        let (instances, seen) = watch::channel(Arc::new(vec![instance(State::Starting)]));
        let run = state.path().to_owned();
        let mut publisher = Publisher::start(store.clone(), "n".into(), "h".into(), run, seen);
        while states(&store).await != ["h.m-0 starting"] {
            watch.next().await;
        }
        instances.send_replace(Arc::new(vec![instance(State::Ready)]));
        while states(&store).await != ["h.m-0 ready"] {
            watch.next().await;
        }
        publisher.drain().await;
        assert_eq!(states(&store).await, ["h.m-0 draining"]);
        publisher.remove().await;
        assert!(states(&store).await.is_empty());
        assert!(store.get(&other).await.unwrap().is_some());
    }
}
