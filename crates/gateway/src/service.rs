//! Services: upstreams whose members are instances that Tidegate itself runs.
//!
//! An instance comes and goes as its host says (see [`crate::control`]'s `instances`); here is what a request finds of it. One that comes
//! while no instance is ready waits for one: it is told when members change, and asks nobody meanwhile.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use http::Method;
use tidegate_config::model;
use tidegate_config::values::Percent;
use tokio::sync::Notify;

use crate::up::OutRequest;

/// How long an instance is left alone that took no connection, or `refused` a request, unless it is told anew before.
pub(crate) fn spared(refused: bool) -> Duration {
    match refused {
        true => Duration::from_millis(100),
        false => Duration::from_secs(1),
    }
}

/// A service as requests see it.
#[derive(Debug)]
pub(crate) struct Service {
    pub(crate) name: Arc<str>,
    /// A class, whose host speaks the protocols of model servers; else a program.
    pub(crate) is_model: bool,
    /// Methods that may run twice, as its host told last.
    retryable: Arc<ArcSwap<BTreeSet<String>>>,
    /// Longest time that a request waits for an instance.
    pub(crate) patience: Duration,
    /// Told whenever the members change.
    pub(crate) changed: Arc<Notify>,
    /// Whether there ever was a ready instance.
    seen: Arc<AtomicBool>,
    /// When this process first heard of it.
    begun: Instant,
}

impl Service {
    /// Takes over from the running one of the same name whoever waits there.
    pub(crate) fn new(wanted: &model::Service, before: Option<&Self>) -> Self {
        Self {
            name: wanted.name.as_str().into(),
            is_model: matches!(wanted.run, model::Run::Python(_)),
            retryable: before.map_or_else(Arc::default, |before| before.retryable.clone()),
            patience: wanted.start_timeout,
            changed: before.map_or_else(Arc::default, |before| before.changed.clone()),
            seen: before.map_or_else(Arc::default, |before| before.seen.clone()),
            begun: before.map_or_else(Instant::now, |before| before.begun),
        }
    }

    /// Its members have changed; `any`: there is one.
    pub(crate) fn change(&self, any: bool) {
        if any {
            self.seen.store(true, Ordering::Relaxed);
        }
        self.changed.notify_waiters();
    }

    /// These of its methods may run twice.
    pub(crate) fn learn(&self, retryable: BTreeSet<String>) {
        if **self.retryable.load() != retryable {
            self.retryable.store(Arc::new(retryable));
        }
    }

    /// Whether a request may be given to another instance when the one that has it went away without an answer: the method that it calls
    /// says so, or the caller.
    pub(crate) fn may_repeat(&self, request: &OutRequest) -> bool {
        if !self.is_model {
            return false;
        }
        if request.headers.contains_key("idempotency-key") {
            return true;
        }
        let func = request.headers.get("x-func-name");
        let func = func.and_then(|name| name.to_str().ok());
        match called(&self.name, &request.method, request.path.path(), func) {
            Called::Method(name) => self.retryable.load().contains(name),
            Called::Look => true,
            Called::Other => false,
        }
    }

    /// Whether its first instance is still awaited.
    pub(crate) fn is_starting(&self) -> bool {
        !self.seen.load(Ordering::Relaxed) && self.begun.elapsed() < self.patience
    }
}

/// What a request asks of a hosted model.
#[derive(Debug, PartialEq, Eq)]
enum Called<'a> {
    /// A run of this method.
    Method(&'a str),
    /// Only how things are.
    Look,
    Other,
}

/// Reads it from the words of the protocols; `func` is the caller's `x-func-name`.
fn called<'a>(service: &str, method: &Method, path: &'a str, func: Option<&'a str>) -> Called<'a> {
    let predict = Called::Method("predict");
    if *method != Method::POST {
        return Called::Other;
    }
    let Some((first, rest)) = path.strip_prefix('/').and_then(|path| path.split_once('/')) else {
        return Called::Other;
    };
    match (first, rest) {
        ("ai.AI", "chaos") => func.map_or(Called::Other, Called::Method),
        ("ai.AI", name) => Called::Method(name),
        ("inference.GRPCInferenceService", "ModelInfer") => predict,
        (
            "inference.GRPCInferenceService",
            "ServerLive" | "ServerReady" | "ModelReady" | "ServerMetadata" | "ModelMetadata"
            | "RepositoryIndex",
        ) => Called::Look,
        ("grpc.health.v1.Health", _) => Called::Look,
        ("v2", rest) if rest.starts_with("models/") && rest.ends_with("/infer") => predict,
        ("v2", "repository/index") => Called::Look,
        ("v1", rest) if rest.starts_with("models/") && rest.ends_with(":predict") => predict,
        (name, method) if name == service && !method.contains('/') => Called::Method(method),
        _ => Called::Other,
    }
}

/// The upstream behind a service. Instances that are not ready are no members, and what a model answers says nothing about its worker's
/// health: nothing is ejected here. The host bounds what waits and runs, so that the bounds here are wide.
pub fn implicit(service: &model::Service) -> model::Upstream {
    model::Upstream {
        name: service.name.clone(),
        endpoints: Vec::new(),
        discover: None,
        protocol: service.spoken(),
        tls: None,
        balance: model::Balance::LeastRequest(model::LeastRequest::default()),
        bounded_load: None,
        connection_pool: model::ConnectionPool {
            max_connections: 100_000,
            max_pending_requests: 1_000_000,
            max_requests: 1_000_000,
            ..model::ConnectionPool::default()
        },
        http2: model::Http2::default(),
        outlier_detection: None,
        health_check: service.health_check.clone(),
        slow_start: None,
        panic_threshold: Percent::ZERO,
        locality: model::LocalityPolicy {
            prefer: model::Prefer::None,
            ..model::LocalityPolicy::default()
        },
        when_exhausted: model::WhenExhausted::Error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_method_of_a_model_is_read_from_every_protocol() {
        let post = |path, func| called("m", &Method::POST, path, func);
        let method = Called::Method;
        for (path, func, wanted) in [
            ("/ai.AI/predict", None, method("predict")),
            ("/ai.AI/train", None, method("train")),
            ("/ai.AI/chaos", Some("score"), method("score")),
            ("/ai.AI/chaos", None, Called::Other),
            (
                "/inference.GRPCInferenceService/ModelInfer",
                None,
                method("predict"),
            ),
            (
                "/inference.GRPCInferenceService/ModelMetadata",
                None,
                Called::Look,
            ),
            (
                "/inference.GRPCInferenceService/RepositoryModelLoad",
                None,
                Called::Other,
            ),
            ("/v2/models/m/versions/1/infer", None, method("predict")),
            ("/v2/repository/models/m/load", None, Called::Other),
            ("/v1/models/m:predict", None, method("predict")),
            ("/m/score", None, method("score")),
            ("/m/score/x", None, Called::Other),
            ("/other/score", None, Called::Other),
            ("/", None, Called::Other),
        ] {
            assert_eq!(post(path, func), wanted, "{path}");
        }
        assert_eq!(called("m", &Method::PATCH, "/m/score", None), Called::Other);
    }
}
