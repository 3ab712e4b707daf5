//! A made-up gateway for tests and for the dashboard's development: a small world of upstreams, routes and traffic that
//! is driven from outside, so that every number in it is known.

#![allow(dead_code, unused_imports, reason = "each test uses its part")]

pub(crate) mod document;
pub(crate) mod http;
mod source;
mod traffic;
mod views;

use std::sync::{Mutex, MutexGuard};

use tidegate_gateway::StoreError;
use tidegate_gateway::view::{
    ConfigView, EventView, ListenerView, MemberView, ProviderView, Readiness, RouteView,
    ServiceView, StoreView, UpstreamView, VirtualKeyView,
};

pub(crate) use traffic::BOUNDS;
pub(crate) use views::{
    cause_count, evidence, health, key, key_model, member, provider, virtual_key,
};
use views::{now_ms, route, service, upstream};

/// The made-up gateway.
#[derive(Debug)]
pub(crate) struct World(Mutex<State>);

/// All of it, open to the test that drives it.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) upstreams: Vec<UpstreamView>,
    pub(crate) providers: Vec<ProviderView>,
    pub(crate) services: Vec<ServiceView>,
    pub(crate) store: StoreView,
    /// `Err`: the store is away.
    pub(crate) virtual_keys: Result<Vec<VirtualKeyView>, StoreError>,
    pub(crate) routes: Vec<RouteView>,
    pub(crate) listeners: Vec<ListenerView>,
    pub(crate) config: ConfigView,
    pub(crate) events: Vec<EventView>,
    pub(crate) readiness: Readiness,
    /// What the next reload answers: `Err` with diagnostics or `Ok`.
    pub(crate) reload: Result<(), String>,
    /// Requests by route, target and code.
    pub(crate) requests: Vec<(String, String, u16, u64)>,
    /// Durations by route and target: bucket counts (not cumulative, the last is +Inf) and the sum in seconds.
    pub(crate) durations: Vec<(String, String, [u64; 17], f64)>,
    /// Extra factor on a member's latency, and share of its answers that fail.
    pub(crate) faults: Vec<(String, f64, f64)>,
    random: u64,
}

impl World {
    pub(crate) fn new() -> Self {
        let zones = ["a", "b", "c"];
        let range = |prefix: &str, n: usize| -> Vec<MemberView> {
            (0..n)
                .map(|i| member(&format!("{prefix}.{}:8500", i + 1), 1, zones[i % 3]))
                .collect()
        };
        let config = serde_json::json!({
            "node": { "region": "eu", "zone": "a" },
            "admin": { "address": "127.0.0.1:9900", "token": "sha256:1f3a…" },
            "listeners": [{ "name": "main", "address": "0.0.0.0:8080" }],
        });
        Self(Mutex::new(State {
            upstreams: vec![
                upstream("ranker-v1", "peak_ewma", "static", range("10.0.1", 4)),
                upstream("ranker-v2", "peak_ewma", "static", range("10.0.2", 2)),
                upstream("sentiment", "least_request", "consul", range("10.0.3", 6)),
                upstream("embeddings", "round_robin", "dns", range("10.0.4", 24)),
                upstream(
                    "chat",
                    "ring_hash",
                    "file",
                    vec![member("unix:/run/models/chat.sock", 1, "a")],
                ),
            ],
            providers: vec![
                provider(
                    "qwen",
                    "qwen",
                    ["sk-…9f3c", "sk-…77aa", "sk-…0e1b"].map(key).into(),
                ),
                provider("claude", "anthropic", vec![key("sk-…c1a0")]),
            ],
            services: vec![service("sentiment")],
            store: StoreView {
                url: "redis://cache:6379/1".into(),
                connected: true,
            },
            virtual_keys: Ok(vec![virtual_key("vk-0123456789ab", "team search")]),
            routes: vec![
                route(
                    "ranker",
                    "hosts ranker.local, path /v1/models/*",
                    "ranker-v1 90%, ranker-v2 10%",
                ),
                route(
                    "sentiment",
                    "grpc inference.GRPCInferenceService/ModelInfer",
                    "sentiment",
                ),
                route("embeddings", "path /v2/embeddings, POST", "embeddings"),
                route(
                    "chat",
                    "path /v1/chat/completions, header x-tenant",
                    "chat, then ranker-v1",
                ),
            ],
            listeners: vec![
                ListenerView {
                    name: "main".into(),
                    address: "0.0.0.0:8080".into(),
                    tls: false,
                    connections: 41,
                },
                ListenerView {
                    name: "secure".into(),
                    address: "0.0.0.0:8443".into(),
                    tls: true,
                    connections: 7,
                },
            ],
            config: ConfigView {
                generation: 1,
                hash: "9f2c41d07be3".into(),
                loaded_at_ms: now_ms(),
                files: vec!["/etc/tidegate/tidegate.yaml".into()],
                config,
                refused: None,
            },
            events: Vec::new(),
            readiness: Readiness {
                ready: true,
                reason: String::new(),
            },
            reload: Ok(()),
            requests: Vec::new(),
            durations: Vec::new(),
            faults: Vec::new(),
            random: 0x9e37_79b9_7f4a_7c15,
        }))
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no holder panics")
    }
}

impl State {
    pub(crate) fn event(&mut self, kind: &str, subject: &str, member: &str, cause: &str) {
        let seq = self.events.last().map_or(1, |event| event.seq + 1);
        let (kind, subject, member, cause) =
            (kind.into(), subject.into(), member.into(), cause.into());
        self.events.push(EventView {
            seq,
            at_ms: now_ms(),
            kind,
            subject,
            member,
            cause,
        });
        if self.events.len() > 1000 {
            self.events.remove(0);
        }
    }

    /// Puts a member into a state, with its event.
    pub(crate) fn set(
        &mut self,
        upstream: &str,
        id: &str,
        state: &str,
        cause: &str,
        returns_in_ms: Option<u64>,
    ) {
        let pool = self
            .upstreams
            .iter_mut()
            .find(|u| u.name == upstream)
            .expect("a known upstream");
        let member = pool
            .members
            .iter_mut()
            .find(|m| m.id == id)
            .expect("a known member");
        (member.state, member.cause, member.since_ms) = (state.into(), cause.into(), 0);
        member.returns_in_ms = returns_in_ms;
        member.ejections += u64::from(state == "ejected");
        let kind = match state {
            "healthy" => "member_returned".to_owned(),
            state => format!("member_{state}"),
        };
        self.event(&kind, upstream, id, cause);
    }

    /// Puts a provider's key into a state, with its event.
    pub(crate) fn set_key(
        &mut self,
        provider: &str,
        name: &str,
        state: &str,
        cause: &str,
        returns_in_ms: Option<u64>,
    ) {
        let found = self.providers.iter_mut().find(|p| p.name == provider);
        let keys = &mut found.expect("a known provider").keys;
        let key = keys.iter_mut().find(|k| k.name == name);
        let key = key.expect("a known key");
        key.health = health(state, cause, returns_in_ms);
        key.ejections += u64::from(state == "ejected");
        let kind = match state {
            "healthy" => "member_returned".to_owned(),
            state => format!("member_{state}"),
        };
        self.event(&kind, provider, name, cause);
    }
}

/// The made-up gateway behind a real admin port on loopback.
pub(crate) struct Served {
    pub(crate) world: std::sync::Arc<World>,
    pub(crate) handle: tidegate_admin::AdminHandle,
    pub(crate) address: std::net::SocketAddr,
}

impl Served {
    pub(crate) fn new() -> Self {
        Self::with(tidegate_admin::AdminOptions::default())
    }

    pub(crate) fn with(options: tidegate_admin::AdminOptions) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("its address");
        let world = std::sync::Arc::new(World::new());
        let handle = tidegate_admin::serve(
            tidegate_admin::ListenSocket::Tcp(listener),
            std::sync::Arc::clone(&world) as _,
            options,
        )
        .expect("loopback is served");
        Self {
            world,
            handle,
            address,
        }
    }
}
