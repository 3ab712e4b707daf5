//! A made-up gateway for tests and for the dashboard's development: a small world of upstreams, routes and traffic that
//! is driven from outside, so that every number in it is known.

#![allow(dead_code, reason = "each test uses its part")]

pub(crate) mod http;

use std::sync::{Mutex, MutexGuard};
use std::time::{SystemTime, UNIX_EPOCH};

use tidegate_admin::keys::CreatedKey;
use tidegate_admin::{Answer, Source};
use tidegate_gateway::view::{
    CauseCount, ConfigView, EventView, EvidenceView, Family, InstanceView, KeyHealth, KeyModelView,
    KeyView, Kind, ListenerView, MemberView, ProviderView, Readiness, RouteView, Sample,
    ServiceView, SpendingView, StoreView, UpstreamView, Value, VirtualKeyView,
};
use tidegate_gateway::{KeyError, KeyRequest, KeyUpdate, RestoreError, StoreError};

/// Upper bounds of the histogram, seconds.
pub(crate) const BOUNDS: [f64; 16] = [
    0.0005, 0.001, 0.0025, 0.005, 0.0075, 0.01, 0.015, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 1.0,
    2.5, 10.0,
];

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

pub(crate) fn member(id: &str, weight: u32, zone: &str) -> MemberView {
    MemberView {
        id: id.into(),
        weight,
        region: "eu".into(),
        zone: zone.into(),
        state: "healthy".into(),
        cause: String::new(),
        since_ms: 60_000,
        returns_in_ms: None,
        inflight: 0,
        attempts: 0,
        failures: 0,
        ejections: 0,
        ewma_us: 0,
        connections: 2,
    }
}

fn upstream(name: &str, balance: &str, source: &str, members: Vec<MemberView>) -> UpstreamView {
    UpstreamView {
        name: name.into(),
        balance: balance.into(),
        source: source.into(),
        source_error: None,
        panic: false,
        inflight: 0,
        members,
    }
}

pub(crate) fn health(state: &str, cause: &str, returns_in_ms: Option<u64>) -> KeyHealth {
    KeyHealth {
        state: state.into(),
        cause: cause.into(),
        since_ms: 12_000,
        returns_in_ms,
        evidence: None,
    }
}

pub(crate) fn evidence(class: &str, status: u16, code: &str, excerpt: &str) -> EvidenceView {
    EvidenceView {
        class: class.into(),
        status: Some(status),
        code: Some(code.into()),
        excerpt: excerpt.into(),
        model: Some("qwen-max".into()),
        seen_by: None,
        ago_ms: 12_400,
    }
}

pub(crate) fn cause_count(cause: &str, count: u64) -> CauseCount {
    let cause = cause.into();
    CauseCount { cause, count }
}

pub(crate) fn key_model(model: &str, health: KeyHealth) -> KeyModelView {
    let model = model.into();
    KeyModelView { model, health }
}

pub(crate) fn key(fingerprint: &str) -> KeyView {
    KeyView {
        name: fingerprint.into(),
        fingerprint: fingerprint.into(),
        weight: 1,
        health: health("healthy", "", None),
        inflight: 0,
        attempts: 0,
        failures: 0,
        ejections: 0,
        models: Vec::new(),
    }
}

pub(crate) fn provider(name: &str, kind: &str, keys: Vec<KeyView>) -> ProviderView {
    ProviderView {
        name: name.into(),
        kind: kind.into(),
        origin: format!("https://{name}.example.com"),
        choose: "random".into(),
        models: vec!["gpt-4o".into()],
        inflight: 0,
        exhausted: 0,
        failovers: Vec::new(),
        input_tokens: 0,
        output_tokens: 0,
        keys,
    }
}

pub(crate) fn virtual_key(id: &str, name: &str) -> VirtualKeyView {
    VirtualKeyView {
        id: id.into(),
        name: name.into(),
        fingerprint: "tg-…a1B2".into(),
        limits: serde_json::from_str(
            r#"{"models": ["gpt-4*"], "requests_per_minute": 60, "budgets": [{"micros": 5000000, "per": "month"}]}"#,
        )
        .expect("limits"),
        created_at_ms: now_ms(),
        expires_at_ms: None,
        used: vec![
            SpendingView {
                unit: "requests".into(),
                per: "minute".into(),
                limit: 60,
                used: 12,
                currency: None,
            },
            SpendingView {
                unit: "micros".into(),
                per: "month".into(),
                limit: 5_000_000,
                used: 1_250_000,
                currency: Some("EUR".into()),
            },
        ],
    }
}

fn service(name: &str) -> ServiceView {
    let instance = |n: u32, state: &str, cause: &str| InstanceView {
        name: format!("{name}-{n}"),
        host: "1f2e3d4c".into(),
        state: state.into(),
        cause: cause.into(),
        since_ms: 42_000,
        revision: 1,
        pid: Some(4_000 + n),
        address: Some(format!("unix:/run/i-{name}-{n}.sock")),
        restarts: u64::from(n),
        versions: vec!["v1".into()],
        in_flight: 1,
        memory: 812 << 20,
    };
    ServiceView {
        name: name.into(),
        runs: "model:Sentiment".into(),
        version: "v1".into(),
        replicas: 2,
        ready: 1,
        calls: 1_234,
        faults: [("model_error".to_owned(), 3)].into(),
        retries: 1,
        deaths: 1,
        loads: 2,
        evictions: 0,
        batches: 0,
        batched: 0,
        waiting: 0,
        running: 1,
        mean_wait_us: 120,
        mean_run_us: 8_400,
        instances: vec![
            instance(0, "ready", ""),
            instance(1, "crash_loop", "killed by signal 9"),
        ],
    }
}

fn route(name: &str, matches: &str, to: &str) -> RouteView {
    RouteView {
        name: name.into(),
        matches: matches.into(),
        to: to.into(),
        requests: 0,
        errors: 0,
        inflight: 0,
        p50_us: 0,
        p99_us: 0,
    }
}

fn now_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| d.as_millis() as u64)
}

type Traffic = (&'static str, &'static [(&'static str, f64)], f64, f64);

/// Route, its targets with weights, requests a second, typical latency in milliseconds.
const TRAFFIC: [Traffic; 4] = [
    (
        "ranker",
        &[("ranker-v1", 90.0), ("ranker-v2", 10.0)],
        240.0,
        6.0,
    ),
    ("sentiment", &[("sentiment", 1.0)], 75.0, 18.0),
    ("embeddings", &[("embeddings", 1.0)], 420.0, 2.2),
    ("chat", &[("chat", 1.0)], 3.5, 900.0),
];

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

    /// A number in 0..1.
    fn random(&mut self) -> f64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 11) as f64 / (1u64 << 53) as f64
    }

    /// `seconds` of traffic, `at` seconds after the start.
    pub(crate) fn pass(&mut self, at: f64, seconds: f64) {
        for upstream in &mut self.upstreams {
            for member in &mut upstream.members {
                let ms = (seconds * 1e3) as u64;
                member.since_ms += ms;
                member.returns_in_ms = member.returns_in_ms.map(|left| left.saturating_sub(ms));
                member.inflight = 0;
            }
        }
        for (n, (route, targets, per_second, ms)) in TRAFFIC.into_iter().enumerate() {
            let wave = 1.0 + 0.25 * (at / 23.0 + n as f64).sin() + 0.12 * (at / 5.0).cos();
            let requests = (per_second * wave * seconds + self.random()) as u64;
            for _ in 0..requests {
                let whole: f64 = targets.iter().map(|(_, weight)| weight).sum();
                let mut at = self.random() * whole;
                let target = targets
                    .iter()
                    .find(|(_, weight)| {
                        at -= weight;
                        at < 0.0
                    })
                    .map_or(targets[0].0, |t| t.0);
                self.request(route, target, ms);
            }
            let inflight = (per_second * wave * ms / 1e3).round() as u64;
            let found = self
                .routes
                .iter()
                .position(|r| r.name == route)
                .expect("a known route");
            self.routes[found].inflight = inflight;
            for (target, _) in targets {
                let found = self
                    .upstreams
                    .iter()
                    .position(|u| u.name == *target)
                    .expect("a known upstream");
                let fit = self.upstreams[found]
                    .members
                    .iter()
                    .filter(|m| m.state == "healthy")
                    .count() as u64;
                let extra = (self.random() * 3.0) as u64;
                let upstream = &mut self.upstreams[found];
                for (i, member) in upstream
                    .members
                    .iter_mut()
                    .filter(|m| m.state == "healthy")
                    .enumerate()
                {
                    member.inflight = inflight / fit.max(1) + u64::from(i as u64 == extra);
                }
                upstream.inflight = upstream.members.iter().map(|m| m.inflight).sum();
            }
        }
        for (n, provider) in self.providers.iter_mut().enumerate() {
            let made = (seconds * (12.0 + 7.0 * n as f64)).round() as u64;
            provider.input_tokens += made * 900;
            provider.output_tokens += made * 120;
            let fit = provider
                .keys
                .iter_mut()
                .filter(|k| k.health.state == "healthy");
            fit.for_each(|key| {
                key.attempts += made;
                key.inflight = 2;
            });
            for key in &mut provider.keys {
                let ms = (seconds * 1e3) as u64;
                key.health.since_ms += ms;
                let left = key.health.returns_in_ms;
                key.health.returns_in_ms = left.map(|left| left.saturating_sub(ms));
                if key.health.state != "healthy" {
                    key.inflight = 0;
                }
            }
            provider.inflight = provider.keys.iter().map(|k| k.inflight).sum();
        }
        self.listeners[0].connections = (41.0 + 8.0 * (at / 9.0).sin()) as u64;
    }

    fn request(&mut self, route: &str, target: &str, typical_ms: f64) {
        let pool = self
            .upstreams
            .iter()
            .position(|u| u.name == target)
            .expect("a known upstream");
        let fit: Vec<usize> = (0..self.upstreams[pool].members.len())
            .filter(|&i| {
                matches!(
                    self.upstreams[pool].members[i].state.as_str(),
                    "healthy" | "probing"
                )
            })
            .collect();
        let (mut code, mut took) = (503, 0.0004);
        if !fit.is_empty() {
            let pick = fit[(self.random() * fit.len() as f64) as usize];
            let id = self.upstreams[pool].members[pick].id.clone();
            let fault = self
                .faults
                .iter()
                .find(|(m, _, _)| *m == id)
                .map(|(_, slow, fail)| (*slow, *fail));
            let (slow, fail) = fault.unwrap_or((1.0, 0.0005));
            let spread = (self.random() + self.random() + self.random() - 1.5) * 0.9;
            let tail = if self.random() < 0.02 { 4.0 } else { 1.0 };
            took = typical_ms / 1e3 * spread.exp() * tail * slow;
            let failed = self.random() < fail;
            // Most failures are absorbed by another attempt.
            code = if failed && self.random() < 0.15 {
                503
            } else {
                200
            };
            let member = &mut self.upstreams[pool].members[pick];
            member.attempts += 1;
            member.failures += u64::from(failed);
            member.ewma_us = (member.ewma_us as f64 * 0.95 + took * 1e6 * 0.05) as u64;
        }
        self.count(route, target, code, took);
    }

    /// Counts one answered request.
    pub(crate) fn count(&mut self, route: &str, target: &str, code: u16, seconds: f64) {
        match self
            .requests
            .iter_mut()
            .find(|(r, t, c, _)| r == route && t == target && *c == code)
        {
            Some((_, _, _, n)) => *n += 1,
            None => self.requests.push((route.into(), target.into(), code, 1)),
        }
        let found = self
            .durations
            .iter()
            .position(|(r, t, _, _)| r == route && t == target)
            .unwrap_or_else(|| {
                self.durations
                    .push((route.into(), target.into(), [0; 17], 0.0));
                self.durations.len() - 1
            });
        let bucket = BOUNDS
            .iter()
            .position(|bound| seconds <= *bound)
            .unwrap_or(16);
        self.durations[found].2[bucket] += 1;
        self.durations[found].3 += seconds;
        if let Some(view) = self.routes.iter_mut().find(|r| r.name == route) {
            view.requests += 1;
            view.errors += u64::from(code >= 500);
            view.p50_us = 6_000;
            view.p99_us = 41_000;
        }
    }
}

impl Source for World {
    fn upstreams(&self) -> Vec<UpstreamView> {
        self.state().upstreams.clone()
    }
    fn routes(&self) -> Vec<RouteView> {
        self.state().routes.clone()
    }
    fn listeners(&self) -> Vec<ListenerView> {
        self.state().listeners.clone()
    }
    fn config(&self) -> ConfigView {
        self.state().config.clone()
    }
    fn events(&self, after: u64, limit: usize) -> Vec<EventView> {
        self.state()
            .events
            .iter()
            .filter(|event| event.seq > after)
            .take(limit)
            .cloned()
            .collect()
    }
    fn readiness(&self) -> Readiness {
        self.state().readiness.clone()
    }
    fn providers(&self) -> Vec<ProviderView> {
        self.state().providers.clone()
    }
    fn services(&self) -> Vec<ServiceView> {
        self.state().services.clone()
    }
    fn store(&self) -> StoreView {
        self.state().store.clone()
    }
    fn restore_key(&self, provider: &str, key: &str) -> Result<(), RestoreError> {
        let mut state = self.state();
        let alike = {
            let known = state.providers.iter().find(|p| p.name == provider);
            let known = known.ok_or_else(|| RestoreError::Provider(provider.into()))?;
            let fits = |k: &&KeyView| k.name == key || k.fingerprint == key;
            known
                .keys
                .iter()
                .filter(fits)
                .map(|k| k.name.clone())
                .collect::<Vec<_>>()
        };
        let (at, wanted) = (provider.to_owned(), key.to_owned());
        match &alike[..] {
            [name] => {
                state.set_key(provider, name, "healthy", "restored", None);
                Ok(())
            }
            [] => Err(RestoreError::Key {
                provider: at,
                key: wanted,
            }),
            _ => Err(RestoreError::Ambiguous {
                provider: at,
                key: wanted,
            }),
        }
    }
    fn virtual_keys(&self) -> Result<Vec<VirtualKeyView>, StoreError> {
        self.state().virtual_keys.clone()
    }
    fn create_virtual_key<'a>(
        &'a self,
        request: &'a KeyRequest,
    ) -> Answer<'a, Result<CreatedKey, KeyError>> {
        Box::pin(async move {
            let mut state = self.state();
            if request.limits.requests_per_minute == Some(0) {
                return Err(KeyError::Invalid("limits: at least 1".into()));
            }
            let keys = state
                .virtual_keys
                .as_mut()
                .map_err(|e| KeyError::Store(e.clone()))?;
            if keys.iter().any(|key| key.name == request.name) {
                return Err(KeyError::NameTaken(request.name.clone()));
            }
            let mut key = virtual_key(&format!("vk-{:012}", keys.len()), &request.name);
            key.limits = request.limits.clone();
            keys.push(key.clone());
            let token = "tg-0123456789abcdefghijklmnopqrstuvwxyzABCD".into();
            Ok(CreatedKey { key, token })
        })
    }
    fn update_virtual_key<'a>(
        &'a self,
        id: &'a str,
        update: &'a KeyUpdate,
    ) -> Answer<'a, Result<VirtualKeyView, KeyError>> {
        Box::pin(async move {
            let mut state = self.state();
            let keys = state
                .virtual_keys
                .as_mut()
                .map_err(|e| KeyError::Store(e.clone()))?;
            let key = keys.iter_mut().find(|key| key.id == id);
            let key = key.ok_or_else(|| KeyError::Unknown(id.to_owned()))?;
            if let Some(name) = &update.name {
                key.name.clone_from(name);
            }
            update.limits.apply(&mut key.limits);
            Ok(key.clone())
        })
    }
    fn revoke_virtual_key<'a>(
        &'a self,
        id: &'a str,
    ) -> Answer<'a, Result<VirtualKeyView, KeyError>> {
        Box::pin(async move {
            let mut state = self.state();
            let keys = state
                .virtual_keys
                .as_mut()
                .map_err(|e| KeyError::Store(e.clone()))?;
            let at = keys.iter().position(|key| key.id == id);
            let at = at.ok_or_else(|| KeyError::Unknown(id.to_owned()))?;
            Ok(keys.remove(at))
        })
    }
    fn metrics(&self) -> Vec<Family> {
        let state = self.state();
        let text = |s: &String| s.clone();
        let requests = state
            .requests
            .iter()
            .map(|(route, target, code, n)| Sample {
                labels: vec![
                    ("route", text(route)),
                    ("target", text(target)),
                    ("code", code.to_string()),
                ],
                value: Value::Number(*n as f64),
            });
        let durations = state.durations.iter().map(|(route, target, counts, sum)| {
            let mut running = 0;
            let buckets = BOUNDS.iter().zip(counts).map(|(bound, n)| {
                running += n;
                (*bound, running)
            });
            Sample {
                labels: vec![("route", text(route)), ("target", text(target))],
                value: Value::Histogram {
                    buckets: buckets.collect(),
                    sum: *sum,
                    count: counts.iter().sum(),
                },
            }
        });
        let members = state.upstreams.iter().flat_map(|upstream| {
            upstream.members.iter().map(|member| Sample {
                labels: vec![
                    ("pool", text(&upstream.name)),
                    ("member", text(&member.id)),
                    ("state", text(&member.state)),
                ],
                value: Value::Number(1.0),
            })
        });
        vec![
            Family {
                name: "tidegate_requests_total",
                help: "Requests answered.",
                kind: Kind::Counter,
                samples: requests.collect(),
            },
            Family {
                name: "tidegate_request_duration_seconds",
                help: "Duration of the whole exchange.",
                kind: Kind::Histogram,
                samples: durations.collect(),
            },
            Family {
                name: "tidegate_member_state",
                help: "1 for the state that a member is in.",
                kind: Kind::Gauge,
                samples: members.collect(),
            },
        ]
    }
    fn reload(&self) -> Answer<'_, Result<ConfigView, String>> {
        Box::pin(async move {
            let mut state = self.state();
            match state.reload.clone() {
                Ok(()) => {
                    state.config.generation += 1;
                    state.config.loaded_at_ms = now_ms();
                    state.config.refused = None;
                    let cause = format!("generation {}", state.config.generation);
                    state.event("config_loaded", "", "", &cause);
                    Ok(state.config.clone())
                }
                Err(diagnostics) => {
                    state.config.refused = Some(diagnostics.clone());
                    state.event(
                        "config_refused",
                        "",
                        "",
                        diagnostics.lines().next().unwrap_or_default(),
                    );
                    Err(diagnostics)
                }
            }
        })
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
