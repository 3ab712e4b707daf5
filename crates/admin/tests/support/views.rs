//! What the made-up gateway is made of: views with a few words each.

use std::time::{SystemTime, UNIX_EPOCH};

use tidegate_gateway::view::{
    CauseCount, EvidenceView, InstanceView, KeyHealth, KeyModelView, KeyView, MemberView,
    ProviderView, RouteView, ServiceView, SpendingView, UpstreamView, VirtualKeyView,
};

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

pub(super) fn upstream(
    name: &str,
    balance: &str,
    source: &str,
    members: Vec<MemberView>,
) -> UpstreamView {
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

pub(super) fn service(name: &str) -> ServiceView {
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

pub(super) fn route(name: &str, matches: &str, to: &str) -> RouteView {
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

pub(super) fn now_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| d.as_millis() as u64)
}
