//! The routes of the admin port and their answers.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::body::Body;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, delete, get, patch, post};
use axum::{Json, Router, middleware};
use http::{HeaderMap, Method, Request, StatusCode, header};
use serde::{Deserialize, Serialize};
use tidegate_gateway::view::{ConfigView, ListenerView, RouteView, UpstreamView};
use tokio::sync::{Mutex, Semaphore, watch};
use tokio::time::Instant;

use crate::overview::{ConfigSummary, Overview, route_traffic};
use crate::problem::Problem;
use crate::server::AdminOptions;
use crate::{Source, assets, events, guard, keys, metrics, openapi, process, providers, services};

/// What the handlers share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) source: Arc<dyn Source>,
    pub(crate) options: AdminOptions,
    /// Whether the listener is TCP: browsers reach it.
    pub(crate) tcp: bool,
    /// Changes with every start.
    pub(crate) instance: String,
    /// Slots of requests that wait for events.
    pub(crate) waiting: Arc<Semaphore>,
    /// True when the server ends.
    pub(crate) closed: watch::Receiver<bool>,
    started: Instant,
    /// The configuration can be large and seldom changes: viewers share a summary for a second.
    summary: Mutex<Option<(Instant, ConfigSummary)>>,
}

/// How long a [`ConfigSummary`] is shared.
const SUMMARY_AGE: Duration = Duration::from_secs(1);

/// Events in an answer, if the request does not say.
pub(crate) const DEFAULT_EVENTS: usize = 200;

const RESTORE: &str = "/api/v1/providers/{name}/keys/{key}/restore";

type Endpoint = (Method, &'static str, MethodRouter<Arc<Shared>>);

/// Every route, one method each; the OpenAPI document is tested against this.
fn endpoints() -> Vec<Endpoint> {
    vec![
        (Method::GET, "/", get(assets::index)),
        (Method::GET, "/assets/{file}", get(assets::asset)),
        (Method::GET, "/livez", get(livez)),
        (Method::GET, "/readyz", get(readyz)),
        (Method::GET, "/metrics", get(metrics_text)),
        (Method::GET, "/api/openapi.json", get(openapi_document)),
        (Method::GET, "/api/v1/overview", get(overview)),
        (Method::GET, "/api/v1/upstreams", get(upstreams)),
        (Method::GET, "/api/v1/upstreams/{name}", get(upstream)),
        (Method::GET, "/api/v1/providers", get(providers::list)),
        (Method::GET, "/api/v1/providers/{name}", get(providers::one)),
        (Method::POST, RESTORE, post(providers::restore)),
        (Method::GET, "/api/v1/services", get(services::list)),
        (Method::GET, "/api/v1/services/{name}", get(services::one)),
        (Method::GET, "/api/v1/keys", get(keys::list)),
        (Method::POST, "/api/v1/keys", post(keys::create)),
        (Method::GET, "/api/v1/keys/{id}", get(keys::one)),
        (Method::PATCH, "/api/v1/keys/{id}", patch(keys::update)),
        (Method::DELETE, "/api/v1/keys/{id}", delete(keys::revoke)),
        (Method::GET, "/api/v1/routes", get(routes)),
        (Method::GET, "/api/v1/listeners", get(listeners)),
        (Method::GET, "/api/v1/config", get(config)),
        (Method::POST, "/api/v1/config/reload", post(reload)),
        (Method::GET, "/api/v1/events", get(events::events)),
    ]
}

/// The whole admin port as a service.
pub(crate) fn router(
    source: Arc<dyn Source>,
    options: AdminOptions,
    tcp: bool,
    closed: watch::Receiver<bool>,
) -> Router {
    let shared = Arc::new(Shared {
        source,
        tcp,
        // The hasher's keys are random and new in every process; that is all the randomness a name needs.
        instance: format!("{:016x}", RandomState::new().hash_one(std::process::id())),
        waiting: Arc::new(Semaphore::new(options.limits.waiting)),
        options,
        closed,
        started: Instant::now(),
        summary: Mutex::new(None),
    });
    let mut router = Router::new();
    for (_, path, handler) in endpoints() {
        router = router.route(path, handler);
    }
    router
        .fallback(async || {
            Problem::new(
                StatusCode::NOT_FOUND,
                "not_found",
                "there is nothing under this path",
            )
        })
        .method_not_allowed_fallback(async |request: Request<Body>| {
            let detail = format!("this path does not take {}", request.method());
            Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", detail)
        })
        .layer(middleware::from_fn_with_state(
            Arc::clone(&shared),
            guard::guard,
        ))
        .with_state(shared)
}

/// Which moment of which run an answer shows.
#[derive(Serialize)]
pub(crate) struct Stamp {
    pub(crate) instance: String,
    pub(crate) at_ms: u64,
    pub(crate) uptime_ms: u64,
}

impl Shared {
    pub(crate) fn stamp(&self) -> Stamp {
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        Stamp {
            instance: self.instance.clone(),
            at_ms: millis(
                SystemTime::now()
                    .duration_since(UNIX_EPOCH)
                    .unwrap_or_default(),
            ),
            uptime_ms: millis(self.started.elapsed()),
        }
    }

    async fn summary(&self) -> ConfigSummary {
        let mut cached = self.summary.lock().await;
        match &*cached {
            Some((at, summary)) if at.elapsed() < SUMMARY_AGE => summary.clone(),
            _ => {
                let summary = ConfigSummary::from(&self.source.config());
                *cached = Some((Instant::now(), summary.clone()));
                summary
            }
        }
    }
}

#[derive(Serialize)]
struct Upstreams {
    #[serde(flatten)]
    stamp: Stamp,
    upstreams: Vec<UpstreamView>,
}

#[derive(Serialize)]
struct Routes {
    #[serde(flatten)]
    stamp: Stamp,
    routes: Vec<RouteView>,
}

#[derive(Serialize)]
struct Listeners {
    #[serde(flatten)]
    stamp: Stamp,
    listeners: Vec<ListenerView>,
}

async fn livez() -> &'static str {
    "ok\n"
}

async fn readyz(State(shared): State<Arc<Shared>>) -> Response {
    let readiness = shared.source.readiness();
    if readiness.ready {
        "ready\n".into_response()
    } else {
        Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "not_ready",
            readiness.reason,
        )
        .into_response()
    }
}

async fn metrics_text(State(shared): State<Arc<Shared>>, headers: HeaderMap) -> Response {
    let accept = headers
        .get_all(header::ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok());
    let format = metrics::Format::from_accept(&accept.collect::<Vec<_>>().join(","));
    let mut families = shared.source.metrics();
    families.extend(process::families());
    (
        [(header::CONTENT_TYPE, format.content_type())],
        metrics::render(&families, format),
    )
        .into_response()
}

async fn openapi_document() -> Response {
    (
        [(header::CONTENT_TYPE, "application/json")],
        openapi::document(),
    )
        .into_response()
}

async fn upstreams(State(shared): State<Arc<Shared>>) -> Response {
    Json(Upstreams {
        stamp: shared.stamp(),
        upstreams: shared.source.upstreams(),
    })
    .into_response()
}

async fn upstream(
    State(shared): State<Arc<Shared>>,
    name: Result<Path<String>, PathRejection>,
) -> Result<Json<UpstreamView>, Problem> {
    let name = path(name)?;
    match shared
        .source
        .upstreams()
        .into_iter()
        .find(|upstream| upstream.name == name)
    {
        Some(upstream) => Ok(Json(upstream)),
        None => {
            let detail = format!("no upstream has the name {name:?}; /api/v1/upstreams lists them");
            Err(Problem::new(
                StatusCode::NOT_FOUND,
                "no_such_upstream",
                detail,
            ))
        }
    }
}

async fn routes(State(shared): State<Arc<Shared>>) -> Response {
    Json(Routes {
        stamp: shared.stamp(),
        routes: shared.source.routes(),
    })
    .into_response()
}

async fn listeners(State(shared): State<Arc<Shared>>) -> Response {
    Json(Listeners {
        stamp: shared.stamp(),
        listeners: shared.source.listeners(),
    })
    .into_response()
}

async fn config(State(shared): State<Arc<Shared>>) -> Json<ConfigView> {
    Json(shared.source.config())
}

async fn reload(State(shared): State<Arc<Shared>>) -> Result<Json<ConfigSummary>, Problem> {
    // In a task of its own: a caller that hangs up does not stop a reload half way.
    let source = Arc::clone(&shared.source);
    let outcome = tokio::spawn(async move { source.reload().await }).await;
    *shared.summary.lock().await = None;
    match outcome {
        Ok(Ok(view)) => Ok(Json(ConfigSummary::from(&view))),
        Ok(Err(diagnostics)) => {
            let detail = "the configuration was refused; the running one stays";
            Err(
                Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "config_refused", detail)
                    .with_diagnostics(diagnostics),
            )
        }
        Err(_) => {
            let detail = "the reload ended without an answer; the log says why";
            Err(Problem::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                "reload_failed",
                detail,
            ))
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OverviewQuery {
    after: Option<u64>,
}

async fn overview(
    State(shared): State<Arc<Shared>>,
    query: Result<Query<OverviewQuery>, QueryRejection>,
) -> Result<Json<Overview>, Problem> {
    let query = parsed(query)?;
    let config = shared.summary().await;
    let Stamp {
        instance,
        at_ms,
        uptime_ms,
    } = shared.stamp();
    let source = &shared.source;
    let events = events::read(&**source, query.after, DEFAULT_EVENTS);
    Ok(Json(Overview {
        instance,
        version: env!("CARGO_PKG_VERSION").into(),
        at_ms,
        uptime_ms,
        readiness: source.readiness(),
        config,
        process: process::read(),
        listeners: source.listeners(),
        upstreams: source.upstreams(),
        providers: source.providers(),
        services: source.services(),
        store: source.store(),
        routes: route_traffic(source.routes(), &source.metrics()),
        last_event: events
            .last()
            .map_or(query.after.unwrap_or(0), |event| event.seq),
        events,
    }))
}

/// A path that does not fit is the caller's mistake, told as such.
pub(crate) fn path<T>(path: Result<Path<T>, PathRejection>) -> Result<T, Problem> {
    path.map(|Path(path)| path)
        .map_err(|error| Problem::new(StatusCode::BAD_REQUEST, "bad_path", error.body_text()))
}

/// A query string that does not fit is the caller's mistake, told as such.
pub(crate) fn parsed<T>(query: Result<Query<T>, QueryRejection>) -> Result<T, Problem> {
    query
        .map(|Query(query)| query)
        .map_err(|error| Problem::new(StatusCode::BAD_REQUEST, "bad_query", error.body_text()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn the_openapi_document_lists_exactly_the_routes() {
        let document: serde_json::Value = serde_json::from_str(&openapi::document()).unwrap();
        let listed: BTreeSet<(String, String)> = document["paths"]
            .as_object()
            .unwrap()
            .iter()
            .flat_map(|(path, item)| {
                item.as_object()
                    .unwrap()
                    .keys()
                    .map(move |method| (method.to_uppercase(), path.clone()))
            })
            .collect();
        let real = endpoints()
            .into_iter()
            .map(|(method, path, _)| (method.to_string(), path.to_owned()))
            .collect();
        assert_eq!(listed, real);
        assert_eq!(document["info"]["version"], env!("CARGO_PKG_VERSION"));
    }
}
