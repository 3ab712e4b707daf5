//! What the tests stand on: servers in this process that do exactly as told, and conditions to wait for.

#![allow(dead_code, reason = "every test file uses another part")]
#![allow(unreachable_pub, reason = "every test file is a crate of its own")]

pub mod consul;
pub mod dns;
pub mod grpc;
pub mod http;
pub mod tls;

use std::time::Duration;

use tidegate_config::model::{ConsulRegistration, Upstream};
use tidegate_discovery::{Resolver, Update, Watch};
use tokio::sync::watch;

/// Longest wait for a condition: far beyond what any of them takes on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// The only upstream of a configuration, given as the YAML of its keys beside `name`.
pub fn upstream(keys: &str) -> Upstream {
    let indented: String = keys
        .trim()
        .lines()
        .map(|line| format!("    {line}\n"))
        .collect();
    let text = format!("upstreams:\n  - name: u\n{indented}");
    let loaded = tidegate_config::load_str("test.yaml", &text)
        .unwrap_or_else(|problems| panic!("{problems}\n{text}"));
    loaded
        .config
        .upstreams
        .into_iter()
        .next()
        .expect("one upstream")
}

/// A listener's `register: { consul: { … } }`, given as the YAML between its braces.
pub fn registration(keys: &str) -> ConsulRegistration {
    let text = format!(
        "listeners:\n  - name: main\n    address: 127.0.0.1:8080\n    register:\n      consul: {{ {keys} }}\n"
    );
    let loaded = tidegate_config::load_str("test.yaml", &text)
        .unwrap_or_else(|problems| panic!("{problems}\n{text}"));
    let listener = loaded.config.listeners.into_iter().next();
    listener
        .and_then(|listener| listener.register)
        .expect("registered")
        .consul
}

pub fn resolver() -> Resolver {
    Resolver::system()
}

pub fn watch(keys: &str) -> Watch {
    tidegate_discovery::watch(&upstream(keys), &resolver()).expect("a source")
}

/// Waits until a source's state is as wanted.
pub async fn until(
    updates: &mut watch::Receiver<Update>,
    wanted: impl FnMut(&Update) -> bool,
) -> Update {
    let in_time = tokio::time::timeout(PATIENCE, updates.wait_for(wanted)).await;
    let found = in_time.map(|update| update.expect("the source is at work").clone());
    found.unwrap_or_else(|_| panic!("not in time; the state is {:?}", *updates.borrow()))
}

/// Identities and weights, in order.
pub fn ids(update: &Update) -> Vec<String> {
    update
        .endpoints
        .iter()
        .map(|endpoint| endpoint.id.to_string())
        .collect()
}

/// Waits for a future that must not take long.
pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("not in time: {what}"),
    }
}
