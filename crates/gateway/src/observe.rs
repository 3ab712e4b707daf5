//! What is shown of the gateway: views and metrics, added up when somebody asks.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tidegate_core::{MemberState, MemberStatus, Scope};

use crate::Handle;
use crate::snapshot::Snapshot;
use crate::stats::{AttemptKind, LimitKind, TrafficTotal};
use crate::upstream::Upstream;
use crate::view::{
    ConfigView, EventView, Family, Kind, ListenerView, MemberView, Readiness, RouteView, Sample,
    UpstreamView, Value,
};

/// Upper bounds of the duration histogram in seconds.
const BOUNDS: [f64; 18] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
    60.0, 300.0, 600.0,
];

impl Handle {
    fn snapshot(&self) -> Arc<Snapshot> {
        self.control.shared.snapshot.load_full()
    }

    /// Upstreams with their members.
    pub fn upstreams(&self) -> Vec<UpstreamView> {
        self.snapshot()
            .upstreams
            .iter()
            .map(|u| self.upstream(u, u.live.pool.status(self.control.shared.now())))
            .collect()
    }

    fn upstream(&self, upstream: &Upstream, status: Vec<MemberStatus>) -> UpstreamView {
        let now = self.control.shared.now();
        let pool = &upstream.live.pool;
        let source = self.control.source_status(&upstream.name);
        let members = pool.members();
        let open: HashMap<&str, u64> = members
            .iter()
            .map(|m| (&**m.id(), m.payload().open.load(Relaxed)))
            .collect();
        UpstreamView {
            name: upstream.name.to_string(),
            balance: pool.policy().balance.name().to_owned(),
            source: source.as_ref().map_or("static", |s| s.kind).to_owned(),
            source_error: source.and_then(|s| s.error),
            panic: pool.summary(&Scope::EMPTY).panic,
            inflight: pool.inflight(),
            members: status
                .iter()
                .map(|m| member(m, open.get(&*m.id).copied().unwrap_or_default(), now))
                .collect(),
        }
    }

    /// Routes with their traffic.
    pub fn routes(&self) -> Vec<RouteView> {
        self.snapshot()
            .routes
            .iter()
            .map(|state| {
                let mut total = TrafficTotal::default();
                state.all_traffic().for_each(|t| t.add_to(&mut total));
                let words = state.route.describe();
                RouteView {
                    name: state.route.name.to_string(),
                    matches: words.matches.clone(),
                    to: words.to.clone(),
                    requests: total.requests,
                    errors: total.errors,
                    inflight: total.inflight,
                    p50_us: total.duration.quantile(0.5),
                    p99_us: total.duration.quantile(0.99),
                }
            })
            .collect()
    }

    /// Listeners with their connections.
    pub fn listeners(&self) -> Vec<ListenerView> {
        let snapshot = self.snapshot();
        snapshot
            .loaded
            .config
            .listeners
            .iter()
            .filter_map(|config| snapshot.listeners.get(&config.name))
            .map(|l| ListenerView {
                name: l.name.clone(),
                address: l.config.address.to_string(),
                tls: l.config.tls.is_some(),
                connections: l.live.open.load(Relaxed),
            })
            .collect()
    }

    /// The running configuration, secrets as fingerprints.
    pub fn config(&self) -> ConfigView {
        let snapshot = self.snapshot();
        let (loaded_at_ms, refused) = self.control.last_load();
        ConfigView {
            generation: snapshot.generation,
            hash: snapshot.loaded.hash.clone(),
            loaded_at_ms,
            files: snapshot
                .loaded
                .files
                .iter()
                .map(|f| f.display().to_string())
                .collect(),
            config: serde_json::to_value(&snapshot.loaded.config).unwrap_or_default(),
            refused,
        }
    }

    /// Events with a sequence number above `after`, oldest first, at most `limit`.
    pub fn events(&self, after: u64, limit: usize) -> Vec<EventView> {
        self.control.shared.events.after(after, limit)
    }

    /// Whether traffic is taken.
    pub fn readiness(&self) -> Readiness {
        if self.control.shared.is_draining() {
            return Readiness {
                ready: false,
                reason: "draining".into(),
            };
        }
        if let Some(worker) = self.control.door.unwell() {
            return Readiness {
                ready: false,
                reason: format!("worker {worker} does not answer"),
            };
        }
        if let Some(service) = self.starting_service() {
            return Readiness {
                ready: false,
                reason: format!("service {service} has no ready instance yet"),
            };
        }
        Readiness {
            ready: true,
            reason: String::new(),
        }
    }

    /// All metric families, summed over the workers now.
    pub fn metrics(&self) -> Vec<Family> {
        let mut families = self.traffic_metrics();
        families.extend(self.pool_metrics());
        families.extend(self.provider_metrics());
        families.extend(self.service_metrics());
        families.extend(self.process_metrics());
        families
    }

    fn traffic_metrics(&self) -> Vec<Family> {
        let stats = &self.control.shared.stats;
        let mut requests = family(
            "tidegate_requests_total",
            "Requests answered, by route, target and HTTP status.",
            Kind::Counter,
        );
        let mut grpc = family(
            "tidegate_grpc_requests_total",
            "gRPC calls answered, by route, target and gRPC status.",
            Kind::Counter,
        );
        let mut duration = family(
            "tidegate_request_duration_seconds",
            "Duration of whole exchanges, from the request's head to the last byte of the answer.",
            Kind::Histogram,
        );
        let mut inflight = family("tidegate_inflight", "Requests in flight.", Kind::Gauge);
        for ((route, target), traffic) in stats.all_traffic() {
            let total = traffic.total();
            let labels = || vec![("route", route.clone()), ("target", target.clone())];
            if total.requests == 0 && total.inflight == 0 {
                continue;
            }
            for (code, n) in &total.codes {
                let mut labels = labels();
                labels.push(("code", code.to_string()));
                requests.samples.push(number(labels, *n as f64));
            }
            for (code, n) in &total.grpc {
                let mut labels = labels();
                labels.push(("grpc_status", code.to_string()));
                grpc.samples.push(number(labels, *n as f64));
            }
            inflight
                .samples
                .push(number(labels(), total.inflight as f64));
            duration.samples.push(Sample {
                labels: labels(),
                value: Value::Histogram {
                    buckets: total.duration.cumulative(&BOUNDS),
                    sum: Duration::from_micros(total.duration.sum_us).as_secs_f64(),
                    count: total.duration.count,
                },
            });
        }
        let mut limits = family(
            "tidegate_ratelimit_total",
            "Decisions of the routes' limits.",
            Kind::Counter,
        );
        for (route, counts) in stats.all_limits() {
            for (decision, kind) in [
                ("ok", LimitKind::Ok),
                ("over_limit", LimitKind::Over),
                ("too_many_in_flight", LimitKind::Busy),
            ] {
                let n = counts.total(kind);
                if n > 0 {
                    limits.samples.push(number(
                        vec![("route", route.clone()), ("decision", decision.into())],
                        n as f64,
                    ));
                }
            }
        }
        vec![requests, grpc, duration, inflight, limits]
    }

    fn pool_metrics(&self) -> Vec<Family> {
        let mut attempts = family(
            "tidegate_attempts_total",
            "Attempts, by pool and verdict.",
            Kind::Counter,
        );
        let mut retries = family(
            "tidegate_retries_total",
            "Further attempts of a request, by pool and kind.",
            Kind::Counter,
        );
        let mut refused = family(
            "tidegate_pool_refused_total",
            "Requests that a pool did not take, by cause.",
            Kind::Counter,
        );
        for (pool, counts) in self.control.shared.stats.all_attempts() {
            let sample = |name: &'static str, word: &str, kind| {
                number(
                    vec![("pool", pool.clone()), (name, word.to_owned())],
                    counts.total(kind) as f64,
                )
            };
            attempts.samples.extend([
                sample("verdict", "ok", AttemptKind::Ok),
                sample("verdict", "neutral", AttemptKind::Neutral),
                sample("verdict", "failure", AttemptKind::Failure),
                sample("verdict", "evidence", AttemptKind::Evidence),
            ]);
            retries.samples.extend([
                sample("kind", "retry", AttemptKind::Retry),
                sample("kind", "hedge", AttemptKind::Hedge),
                sample("kind", "budget_denied", AttemptKind::BudgetDenied),
            ]);
            refused.samples.extend([
                sample("cause", "none_fit", AttemptKind::NoneFit),
                sample("cause", "overflow", AttemptKind::Overflow),
            ]);
        }
        let mut state = family(
            "tidegate_member_state",
            "1 for the state that a member is in.",
            Kind::Gauge,
        );
        let mut ejections = family(
            "tidegate_ejections_total",
            "Ejections of members; without a member, of those that are no longer in the pool.",
            Kind::Counter,
        );
        let mut busy = family(
            "tidegate_member_inflight",
            "Requests in flight at a member.",
            Kind::Gauge,
        );
        let mut open = family(
            "tidegate_member_connections",
            "Open connections to a member.",
            Kind::Gauge,
        );
        for upstream in &self.snapshot().upstreams {
            let whole = upstream.live.pool.whole_status(self.control.shared.now());
            if whole.gone_ejections > 0 {
                let labels = vec![("pool", upstream.name.to_string())];
                ejections
                    .samples
                    .push(number(labels, whole.gone_ejections as f64));
            }
            let view = self.upstream(upstream, whole.members);
            for m in &view.members {
                let labels = || vec![("pool", view.name.clone()), ("member", m.id.clone())];
                for word in STATES {
                    let mut labels = labels();
                    labels.push(("state", word.to_owned()));
                    state
                        .samples
                        .push(number(labels, f64::from(u8::from(m.state == word))));
                }
                ejections.samples.push(number(labels(), m.ejections as f64));
                busy.samples.push(number(labels(), m.inflight as f64));
                open.samples.push(number(labels(), m.connections as f64));
            }
        }
        self.key_attempts(&mut attempts);
        self.key_metrics(&mut state, &mut ejections, &mut busy);
        vec![attempts, retries, refused, state, ejections, busy, open]
    }

    fn process_metrics(&self) -> Vec<Family> {
        let control = &self.control;
        let process = &control.shared.stats.process;
        let one = |name, help, kind, value: f64| Family {
            samples: vec![number(Vec::new(), value)],
            ..family(name, help, kind)
        };
        let mut open = family(
            "tidegate_connections",
            "Open connections of callers.",
            Kind::Gauge,
        );
        for l in self.listeners() {
            open.samples
                .push(number(vec![("listener", l.name)], l.connections as f64));
        }
        let counter = Kind::Counter;
        let value = |n: &std::sync::atomic::AtomicU64| n.load(Relaxed) as f64;
        vec![
            open,
            one(
                "tidegate_connections_accepted_total",
                "Connections accepted.",
                counter,
                value(&control.door.accepted),
            ),
            one(
                "tidegate_bad_requests_total",
                "Heads that were refused as malformed, too large or too slow.",
                counter,
                value(&process.bad_requests),
            ),
            one(
                "tidegate_mirrored_total",
                "Copies sent to shadow upstreams.",
                counter,
                value(&process.mirrored),
            ),
            one(
                "tidegate_mirror_dropped_total",
                "Copies not sent: the body was larger than retry.buffer, or too many were under way.",
                counter,
                value(&process.mirror_dropped),
            ),
            one(
                "tidegate_config_reloads_total",
                "Configurations loaded after the first.",
                counter,
                value(&process.reloads),
            ),
            one(
                "tidegate_config_refused_total",
                "Configurations refused.",
                counter,
                value(&process.reloads_refused),
            ),
            one(
                "tidegate_config_generation",
                "Number of the running configuration.",
                Kind::Gauge,
                self.snapshot().generation as f64,
            ),
            one(
                "tidegate_access_log_dropped_total",
                "Lines lost because the log's writer was too slow.",
                counter,
                value(&control.shared.access.dropped),
            ),
            self.trace_spans(),
        ]
    }
}

impl Handle {
    /// What became of spans.
    fn trace_spans(&self) -> Family {
        let counts = &self.control.shared.exports.counts;
        let mut spans = family(
            "tidegate_trace_spans_total",
            "Spans, by what became of them: exported, dropped (too many waited), failed (not delivered), rejected (by the collector).",
            Kind::Counter,
        );
        for (result, n) in [
            ("exported", &counts.exported),
            ("dropped", &counts.dropped),
            ("failed", &counts.failed),
            ("rejected", &counts.rejected),
        ] {
            let labels = vec![("result", result.to_owned())];
            spans.samples.push(number(labels, n.load(Relaxed) as f64));
        }
        spans
    }
}

pub(crate) const STATES: [&str; 5] = ["warming", "healthy", "ejected", "probing", "draining"];

pub(crate) fn family(name: &'static str, help: &'static str, kind: Kind) -> Family {
    Family {
        name,
        help,
        kind,
        samples: Vec::new(),
    }
}

pub(crate) fn number(labels: Vec<(&'static str, String)>, value: f64) -> Sample {
    Sample {
        labels,
        value: Value::Number(value),
    }
}

fn member(m: &MemberStatus, connections: u64, now: tidegate_core::Time) -> MemberView {
    let healthy = m.health.state == MemberState::Healthy;
    MemberView {
        id: m.id.to_string(),
        weight: m.weight,
        region: m.locality.region().to_owned(),
        zone: m.locality.zone().to_owned(),
        state: m.health.state.as_str().to_owned(),
        cause: if healthy {
            String::new()
        } else {
            m.health
                .cause
                .as_ref()
                .map(ToString::to_string)
                .unwrap_or_default()
        },
        since_ms: now.since(m.health.since).as_millis() as u64,
        returns_in_ms: m
            .health
            .returns_at
            .map(|at| now.until(at).as_millis() as u64),
        inflight: u64::from(m.inflight),
        attempts: m.attempts,
        failures: m.failures,
        ejections: m.health.ejections,
        ewma_us: m.ewma.map_or(0, |e| e.as_micros() as u64),
        connections,
    }
}
