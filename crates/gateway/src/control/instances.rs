//! Instances of services, as their host publishes them: which of them are members, and what is told and shown of them.
//!
//! The host writes `instances/NODE/SERVICE/HOST.INSTANCE`; only those of this gateway's own node are followed. Members are those that are
//! ready. While the store is away the last known ones stay.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tidegate_discovery::{Address, Endpoint, Update, Watch};
use tidegate_state::{Entry, Event, Key, Prefix, Store};
use tokio::sync::watch;

use crate::events::Events;
use crate::instance::InstanceRecord;

/// What tells one life of an instance from another at the same address.
pub(super) const LIFE: &str = "life";

/// Methods that may run twice, see [`BETWEEN_METHODS`].
pub(super) const RETRYABLE: &str = "retryable";
/// Names of methods are identifiers.
pub(super) const BETWEEN_METHODS: &str = " ";

/// Every instance of this node that is known.
#[derive(Debug, Default)]
pub(crate) struct Instances {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// Whether the store ever told.
    known: bool,
    /// By service and the last part of the key.
    table: BTreeMap<String, BTreeMap<String, InstanceRecord>>,
    feeds: HashMap<String, watch::Sender<Update>>,
}

impl Instances {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Follows the ready instances of a service.
    pub(super) fn watch(&self, service: &str) -> Watch {
        let mut inner = self.lock();
        let now = inner.update(service);
        let feed = inner
            .feeds
            .entry(service.to_owned())
            .or_insert_with(|| watch::Sender::new(now.clone()));
        feed.send_if_modified(|was| std::mem::replace(was, now.clone()) != now);
        Watch::fed("instances", feed.subscribe())
    }

    /// What is known of a service's instances, in the order of their names.
    pub(crate) fn of(&self, service: &str) -> Vec<InstanceRecord> {
        let inner = self.lock();
        let instances = inner.table.get(service).into_iter().flatten();
        let mut instances: Vec<_> = instances.map(|(_, record)| record.clone()).collect();
        instances
            .sort_by(|a, b| (natural(&a.instance), &a.host).cmp(&(natural(&b.instance), &b.host)));
        instances
    }

    fn event(&self, node: &str, event: Event, events: &Events) {
        let mut inner = self.lock();
        match event {
            Event::Resync(entries) => {
                let mut table: BTreeMap<String, BTreeMap<String, InstanceRecord>> = BTreeMap::new();
                for (key, entry) in &entries {
                    if let Some((service, name)) = place(node, key)
                        && let Some(record) = read(key, entry)
                    {
                        table.entry(service).or_default().insert(name, record);
                    }
                }
                // At the first look nothing has happened.
                if inner.known {
                    for (service, instances) in &table {
                        for (name, record) in instances {
                            let before = inner.table.get(service).and_then(|s| s.get(name));
                            tell(events, service, before, record);
                        }
                    }
                }
                inner.table = table;
                inner.known = true;
                let services: Vec<String> = inner.feeds.keys().cloned().collect();
                services.iter().for_each(|service| inner.feed(service));
            }
            Event::Put(key, entry) => {
                let Some((service, name)) = place(node, &key) else {
                    return;
                };
                let Some(record) = read(&key, &entry) else {
                    return;
                };
                let instances = inner.table.entry(service.clone()).or_default();
                tell(events, &service, instances.get(&name), &record);
                instances.insert(name, record);
                inner.feed(&service);
            }
            Event::Delete(key, _) => {
                let Some((service, name)) = place(node, &key) else {
                    return;
                };
                if let Some(instances) = inner.table.get_mut(&service) {
                    if let Some(gone) = instances.remove(&name) {
                        events.push("instance_gone", &service, &gone.instance, "");
                    }
                    if instances.is_empty() {
                        inner.table.remove(&service);
                    }
                }
                inner.feed(&service);
            }
        }
    }
}

impl Inner {
    /// The members of a service.
    fn update(&self, service: &str) -> Update {
        let ready = self
            .table
            .get(service)
            .into_iter()
            .flatten()
            .filter(|(_, record)| record.state == InstanceRecord::READY)
            .filter_map(|(_, record)| {
                let address: Address = record.address.as_deref()?.parse().ok()?;
                let mut endpoint = Endpoint::new(address);
                let life = format!(
                    "{} {} {}",
                    record.host,
                    record.since_ms,
                    record.pid.unwrap_or(0)
                );
                endpoint.metadata.insert(LIFE.into(), life);
                if let Some(methods) = &record.retryable {
                    let methods = methods.join(BETWEEN_METHODS);
                    endpoint.metadata.insert(RETRYABLE.into(), methods);
                }
                Some(endpoint)
            });
        Update {
            endpoints: ready.collect(),
            known: self.known,
            error: None,
        }
    }

    fn feed(&self, service: &str) {
        if let Some(feed) = self.feeds.get(service) {
            let now = self.update(service);
            feed.send_if_modified(|was| {
                let changed = *was != now;
                *was = now;
                changed
            });
        }
    }
}

/// Follows the instances of `node` until it is dropped.
pub(super) async fn follow(
    store: Arc<dyn Store>,
    node: String,
    instances: Arc<Instances>,
    shared: Arc<crate::worker::Shared>,
) {
    let Ok(prefix) = Prefix::of(&[InstanceRecord::PREFIX, &node]) else {
        return;
    };
    let mut watch = store.watch(&prefix);
    loop {
        let event = watch.next().await;
        instances.event(&node, event, &shared.events);
    }
}

/// Service and name of a key below `instances/NODE/`.
fn place(node: &str, key: &Key) -> Option<(String, String)> {
    let rest = key.as_str().strip_prefix(InstanceRecord::PREFIX)?;
    let rest = rest
        .strip_prefix('/')?
        .strip_prefix(node)?
        .strip_prefix('/')?;
    let (service, name) = rest.split_once('/')?;
    Some((service.to_owned(), name.to_owned()))
}

fn read(key: &Key, entry: &Entry) -> Option<InstanceRecord> {
    serde_json::from_slice(&entry.value)
        .map_err(|error| tracing::warn!(%key, %error, "an instance that can't be read"))
        .ok()
}

/// Numbers at the end as numbers: `model-10` after `model-9`.
fn natural(name: &str) -> (&str, u64) {
    match name.rsplit_once('-') {
        Some((stem, number)) => (stem, number.parse().unwrap_or(0)),
        None => (name, 0),
    }
}

/// What happened, from what is told now and was before.
fn tell(events: &Events, service: &str, before: Option<&InstanceRecord>, now: &InstanceRecord) {
    let cause = now.cause.as_deref().unwrap_or_default();
    let instance = &*now.instance;
    let (state, restarts) = before.map_or(("", 0), |b| (&*b.state, b.restarts));
    if now.restarts > restarts {
        events.push("worker_died", service, instance, cause);
    }
    if now.state != state {
        match &*now.state {
            InstanceRecord::READY => events.push("instance_ready", service, instance, ""),
            InstanceRecord::CRASH_LOOP => {
                events.push("instance_crash_loop", service, instance, cause);
            }
            InstanceRecord::DRAINING => events.push("instance_draining", service, instance, ""),
            _ => {}
        }
    }
    if let Some(before) = before {
        let versions = |kind: &str, a: &[String], b: &[String]| {
            for version in a.iter().filter(|version| !b.contains(version)) {
                events.push(kind, service, instance, version);
            }
        };
        if before.pid == now.pid {
            versions("version_loaded", &now.versions, &before.versions);
            versions("version_released", &before.versions, &now.versions);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(state: &str, since_ms: u64) -> InstanceRecord {
        InstanceRecord {
            host: "h1".into(),
            instance: "m-0".into(),
            address: Some("unix:/run/m-0.sock".into()),
            revision: 1,
            state: state.into(),
            since_ms,
            pid: Some(7),
            restarts: 0,
            cause: None,
            failing: None,
            versions: Vec::new(),
            retryable: Some(vec!["log".into(), "predict".into()]),
        }
    }

    async fn put(store: &Arc<dyn Store>, record: &InstanceRecord) {
        let key = record.key("n", "m").expect("a key");
        let value = serde_json::to_vec(record).expect("JSON").into();
        store
            .put(&key, value, None, &tidegate_state::Guard::NONE)
            .await
            .expect("written");
    }

    async fn turn(instances: &Instances, watch: &mut tidegate_state::Watch, events: &Events) {
        let event = watch.next().await;
        instances.event("n", event, events);
    }

    fn kinds(events: &Events) -> Vec<String> {
        events.after(0, 100).into_iter().map(|e| e.kind).collect()
    }

    #[tokio::test]
    async fn only_ready_instances_are_members_and_what_happens_to_them_is_told() {
        let store = tidegate_state::memory();
        let prefix = Prefix::of(&[InstanceRecord::PREFIX, "n"]).expect("a prefix");
        let (instances, events) = (Instances::default(), Events::default());
        let mut watch = store.watch(&prefix);
        let members = instances.watch("m");
        assert!(!members.current().known);
        turn(&instances, &mut watch, &events).await;
        assert!(members.current().known && members.current().endpoints.is_empty());

        put(&store, &record("starting", 1)).await;
        turn(&instances, &mut watch, &events).await;
        assert!(members.current().endpoints.is_empty());

        put(&store, &record("ready", 2)).await;
        turn(&instances, &mut watch, &events).await;
        let endpoint = &members.current().endpoints[0];
        assert_eq!(&*endpoint.id, "unix:/run/m-0.sock");
        assert_eq!(endpoint.metadata[RETRYABLE], "log predict");

        let died = InstanceRecord {
            restarts: 1,
            cause: Some("signal: 9".into()),
            ..record("starting", 3)
        };
        put(&store, &died).await;
        turn(&instances, &mut watch, &events).await;
        assert!(members.current().endpoints.is_empty());
        assert_eq!(kinds(&events), ["instance_ready", "worker_died"]);

        store
            .delete(
                &died.key("n", "m").expect("a key"),
                &tidegate_state::Guard::NONE,
            )
            .await
            .expect("deleted");
        turn(&instances, &mut watch, &events).await;
        assert!(instances.of("m").is_empty());
    }

    #[tokio::test]
    async fn another_life_at_the_same_address_is_another_endpoint() {
        let store = tidegate_state::memory();
        let prefix = Prefix::of(&[InstanceRecord::PREFIX, "n"]).expect("a prefix");
        let (instances, events) = (Instances::default(), Events::default());
        let mut watch = store.watch(&prefix);
        turn(&instances, &mut watch, &events).await;
        put(&store, &record("ready", 1)).await;
        turn(&instances, &mut watch, &events).await;
        let members = instances.watch("m");
        let first = members.current().endpoints[0].clone();
        put(&store, &record("ready", 2)).await;
        turn(&instances, &mut watch, &events).await;
        let second = members.current().endpoints[0].clone();
        assert_eq!(first.id, second.id);
        assert_ne!(first.metadata, second.metadata);
    }
}
