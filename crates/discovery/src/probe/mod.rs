//! Active health checks: each endpoint is asked regularly, once a process.
//!
//! A new endpoint is asked at once, and as long as it has never been fit its checks start a second apart (growing to the
//! interval), so that an instance that registers before it listens is used soon after it does. The upstream's pool keeps an
//! endpoint *warming* until its first success.

mod check;
mod count;
mod grpc;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tidegate_config::model::{HealthCheck, Probe, Protocol, Upstream};
use tokio::sync::Semaphore;

use check::{Check, Kind};
use count::Count;

use crate::connect::Connector;
use crate::endpoint::{Address, Endpoint, EndpointId};
use crate::jitter::between;
use crate::resolve::Resolver;
use crate::source::Task;
use crate::tls::{SetupError, client_tls};

/// Checks of one upstream that run at once; further ones wait, before their time starts to count.
const AT_ONCE: usize = 256;
/// The first pause of an endpoint that has never been fit.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// A check's result, as it stands after counting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// Whether the endpoint is fit, after `healthy_after` and `unhealthy_after`.
    pub healthy: bool,
    /// Whether that differs from the result before (always so for the first).
    pub changed: bool,
    /// Why the last check failed; none when it succeeded. (An endpoint stays healthy until `unhealthy_after` failures.)
    pub cause: Option<String>,
}

/// See [`Prober::start`].
type OnHealth = dyn Fn(&EndpointId, &Health) + Send + Sync;

/// Checks the endpoints of one upstream. Dropping it ends the checks.
pub struct Prober {
    shared: Arc<Shared>,
    runtime: tokio::runtime::Handle,
    running: Mutex<HashMap<EndpointId, (Address, Task)>>,
}

impl std::fmt::Debug for Prober {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Prober")
            .field("check", &self.shared.check)
            .finish_non_exhaustive()
    }
}

struct Shared {
    check: Check,
    interval: Duration,
    healthy_after: u32,
    unhealthy_after: u32,
    permits: Semaphore,
    on_health: Box<OnHealth>,
}

/// Asks one endpoint once, as an upstream's checks do.
///
/// # Errors
/// Why it is not fit, in words.
pub async fn check_once(
    upstream: &Upstream,
    health: &HealthCheck,
    resolver: &Resolver,
    address: &Address,
) -> Result<(), String> {
    let check = prepared(upstream, health, resolver).map_err(|error| error.to_string())?;
    check.run(address).await
}

/// How endpoints of an upstream are checked.
fn prepared(
    upstream: &Upstream,
    health: &HealthCheck,
    resolver: &Resolver,
) -> Result<Check, SetupError> {
    let kind = match &health.probe {
        Probe::Http(path) => Kind::Http {
            path: path.clone(),
            expected: health.expected_statuses.clone(),
            prior_knowledge: upstream.protocol == Protocol::Http2,
        },
        Probe::Grpc(service) => Kind::Grpc {
            service: service.clone(),
        },
        Probe::Tcp(_) => Kind::Tcp,
    };
    let alpn: &[&[u8]] = match (&kind, upstream.protocol) {
        (Kind::Grpc { .. }, _) | (_, Protocol::Http2) => &[b"h2"],
        (_, Protocol::Http1) => &[b"http/1.1"],
        (_, Protocol::Auto) => &[b"h2", b"http/1.1"],
    };
    let tls = upstream
        .tls
        .as_ref()
        .map(|tls| client_tls(tls, alpn))
        .transpose()?;
    let connector = Connector {
        resolver: resolver.clone(),
        tls,
        timeout: health.timeout,
    };
    Ok(Check {
        connector,
        kind,
        port: health.port,
        host: health.host.clone(),
        timeout: health.timeout,
    })
}

impl Prober {
    /// Prepares the checks of an upstream; [`Prober::set`] starts them. `health` is usually `upstream.health_check`;
    /// `on_health` is called after every check, on the control runtime, and must not block.
    ///
    /// # Errors
    /// When the upstream's TLS cannot be set up.
    pub fn start(
        upstream: &Upstream,
        health: &HealthCheck,
        resolver: &Resolver,
        on_health: impl Fn(&EndpointId, &Health) + Send + Sync + 'static,
    ) -> Result<Self, SetupError> {
        let shared = Shared {
            check: prepared(upstream, health, resolver)?,
            interval: health.interval,
            healthy_after: health.healthy_after,
            unhealthy_after: health.unhealthy_after,
            permits: Semaphore::new(AT_ONCE),
            on_health: Box::new(on_health),
        };
        Ok(Self {
            shared: Arc::new(shared),
            runtime: resolver.runtime().clone(),
            running: Mutex::default(),
        })
    }

    /// Checks exactly these endpoints from now on. Those that were checked before go on without a gap; no result of a removed
    /// one is reported after this returns (one whose callback is running at that moment excepted).
    pub fn set(&self, endpoints: &[Endpoint]) {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let mut before = std::mem::take(&mut *running);
        for endpoint in endpoints {
            let task = match before.remove(&endpoint.id) {
                Some((address, task)) if address == endpoint.address && !task.is_finished() => task,
                _ => Task::spawn(
                    &self.runtime,
                    run(
                        self.shared.clone(),
                        endpoint.id.clone(),
                        endpoint.address.clone(),
                    ),
                ),
            };
            running.insert(endpoint.id.clone(), (endpoint.address.clone(), task));
        }
    }
}

async fn run(shared: Arc<Shared>, id: EndpointId, address: Address) {
    let mut count = Count::New;
    let mut ever_fit = false;
    let mut first_pause = FIRST_PAUSE;
    let mut first = true;
    loop {
        let result = {
            let Ok(_permit) = shared.permits.acquire().await else {
                return;
            };
            shared.check.run(&address).await
        };
        let (healthy, changed) =
            count.result(result.is_ok(), shared.healthy_after, shared.unhealthy_after);
        let cause = result.err();
        if changed {
            tracing::debug!(member = &*id, healthy, cause, "health check");
        }
        (shared.on_health)(
            &id,
            &Health {
                healthy,
                changed,
                cause,
            },
        );
        ever_fit |= healthy;
        let pause = if ever_fit {
            shared.interval
        } else {
            first_pause.min(shared.interval)
        };
        if !ever_fit {
            first_pause = first_pause.saturating_mul(2);
        }
        // The second check comes anywhere within the interval, so that endpoints found together drift apart at once.
        let (from, to) = if std::mem::take(&mut first) {
            (0.5, 1.0)
        } else {
            (0.9, 1.1)
        };
        tokio::time::sleep(between(pause, from, to)).await;
    }
}
