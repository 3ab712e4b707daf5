//! Services: upstreams whose members are instances that Tidegate itself runs.
//!
//! An instance comes and goes as its host says (see [`crate::control`]'s `instances`); here is what a request finds of it. One that comes
//! while no instance is ready waits for one: it is told when members change, and asks nobody meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tidegate_config::model;
use tidegate_config::values::Percent;
use tokio::sync::Notify;

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

    /// Whether its first instance is still awaited.
    pub(crate) fn is_starting(&self) -> bool {
        !self.seen.load(Ordering::Relaxed) && self.begun.elapsed() < self.patience
    }
}

/// The upstream behind a service. Instances that are not ready are no members, and what a model answers says nothing about its worker's
/// health: nothing is ejected here. The host bounds what waits and runs, so that the bounds here are wide.
pub(crate) fn implicit(service: &model::Service) -> model::Upstream {
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
        health_check: None,
        slow_start: None,
        panic_threshold: Percent::ZERO,
        locality: model::LocalityPolicy {
            prefer: model::Prefer::None,
            ..model::LocalityPolicy::default()
        },
        when_exhausted: model::WhenExhausted::Error,
    }
}
