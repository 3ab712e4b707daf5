//! The running configuration in the form that the request path reads: compiled once, immutable, swapped as a whole.

use std::collections::HashMap;
use std::sync::Arc;

use tidegate_config::{Config, Loaded, model};
use tidegate_core as core;
use tidegate_core::RetryBudget;
use tidegate_discovery::Resolver;
use tidegate_route::{Action, Destination, PathPolicy, Route, Router, UpstreamIndex};

use crate::limits::{RouteConcurrency, RouteRate};
use crate::listener::ListenerState;
use crate::stats::{Limits, Registry, Traffic};
use crate::tls::TlsError;
use crate::upstream::{Upstream, UpstreamError};

/// One configuration at work.
#[derive(Debug)]
pub(crate) struct Snapshot {
    /// Counts the accepted loads from 1.
    pub(crate) generation: u64,
    pub(crate) loaded: Arc<Loaded>,
    pub(crate) router: Router,
    /// By `Route::index`.
    pub(crate) routes: Vec<Arc<RouteState>>,
    /// By `UpstreamIndex`.
    pub(crate) upstreams: Vec<Arc<Upstream>>,
    pub(crate) listeners: HashMap<String, Arc<ListenerState>>,
    pub(crate) paths: PathPolicy,
    /// Where this Tidegate runs.
    pub(crate) local: core::Locality,
}

/// A route and what is kept for it.
#[derive(Debug)]
pub(crate) struct RouteState {
    pub(crate) route: Arc<Route>,
    pub(crate) config: Arc<model::Route>,
    pub(crate) rate: Option<Arc<RouteRate>>,
    pub(crate) concurrency: Option<Arc<RouteConcurrency>>,
    pub(crate) budget: Budget,
    pub(crate) limits: Arc<Limits>,
    /// Answered by Tidegate itself.
    pub(crate) own: Arc<Traffic>,
    /// By upstream, sorted by index: few for each route.
    traffic: Vec<(UpstreamIndex, Arc<Traffic>)>,
}

/// The retry budget of a route, or none.
#[derive(Debug, Clone)]
pub(crate) enum Budget {
    Unbounded,
    Bounded(Arc<RetryBudget>),
}

/// A retry in flight.
#[derive(Debug)]
pub(crate) enum Spent {
    Free,
    Counted { _retry: core::RetryPermit },
}

impl Budget {
    /// Leave for one retry while `active` requests are under way to the upstream; given back when dropped.
    pub(crate) fn try_retry(&self, active: u64) -> Option<Spent> {
        match self {
            Budget::Unbounded => Some(Spent::Free),
            Budget::Bounded(budget) => budget
                .try_retry(active)
                .map(|retry| Spent::Counted { _retry: retry }),
        }
    }
}

impl RouteState {
    /// The counters for requests that go to this upstream.
    pub(crate) fn traffic(&self, upstream: UpstreamIndex) -> &Arc<Traffic> {
        match self
            .traffic
            .binary_search_by_key(&upstream, |(index, _)| *index)
        {
            Ok(at) => &self.traffic[at].1,
            Err(_) => &self.own,
        }
    }

    pub(crate) fn all_traffic(&self) -> impl Iterator<Item = &Arc<Traffic>> {
        self.traffic.iter().map(|(_, t)| t).chain([&self.own])
    }
}

/// Why a configuration that was read can't be put to work.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BuildError {
    #[error("{0}")]
    Route(#[from] tidegate_route::CompileError),
    #[error("{0}")]
    Upstream(#[from] UpstreamError),
    #[error("listener {name}: {source}")]
    Tls { name: String, source: TlsError },
}

impl Snapshot {
    /// Compiles `loaded`. What `old` has that did not change is taken over: pools with health and statistics, limiters, listeners.
    pub(crate) fn build(
        loaded: Arc<Loaded>,
        old: Option<&Snapshot>,
        registry: &Registry,
        resolver: &Resolver,
        now: core::Time,
    ) -> Result<Snapshot, BuildError> {
        let config = &loaded.config;
        let router = Router::compile(config)?;
        // Listeners first: building an upstream may change the policy of a living pool, which must not happen for a config
        // that is refused after all.
        let listeners = listeners(config, old)?;
        let before: HashMap<&str, &Arc<Upstream>> = old
            .iter()
            .flat_map(|o| &o.upstreams)
            .map(|u| (&*u.name, u))
            .collect();
        for wanted in &config.upstreams {
            Upstream::check(wanted, resolver)?;
        }
        let upstreams = config
            .upstreams
            .iter()
            .map(|wanted| {
                Upstream::build(
                    wanted,
                    before.get(&*wanted.name).copied(),
                    registry,
                    resolver,
                    now,
                )
            })
            .collect::<Result<Vec<_>, _>>()?;
        let before: HashMap<&str, &Arc<RouteState>> = old
            .iter()
            .flat_map(|o| &o.routes)
            .map(|r| (&*r.route.name, r))
            .collect();
        let routes = router
            .routes()
            .iter()
            .zip(&config.routes)
            .map(|(route, wanted)| {
                Arc::new(route_state(
                    route,
                    wanted,
                    before.get(&*route.name).copied(),
                    &upstreams,
                    registry,
                ))
            })
            .collect();
        Ok(Snapshot {
            generation: old.map_or(0, |o| o.generation) + 1,
            paths: PathPolicy::default(),
            local: core::Locality::new(&config.node.region, &config.node.zone),
            loaded: loaded.clone(),
            router,
            routes,
            upstreams,
            listeners,
        })
    }
}

fn listeners(
    config: &Config,
    old: Option<&Snapshot>,
) -> Result<HashMap<String, Arc<ListenerState>>, BuildError> {
    config
        .listeners
        .iter()
        .map(|wanted| {
            let before = old.and_then(|o| o.listeners.get(&wanted.name));
            ListenerState::build(wanted, before)
                .map(|state| (wanted.name.clone(), state))
                .map_err(|source| BuildError::Tls {
                    name: wanted.name.clone(),
                    source,
                })
        })
        .collect()
}

fn route_state(
    route: &Arc<Route>,
    wanted: &model::Route,
    old: Option<&Arc<RouteState>>,
    upstreams: &[Arc<Upstream>],
    registry: &Registry,
) -> RouteState {
    let rate = route.rate_limit.as_ref().map(|limit| match old {
        Some(old) if old.config.rate_limit == wanted.rate_limit && old.rate.is_some() => old
            .rate
            .clone()
            .unwrap_or_else(|| Arc::new(RouteRate::new(limit))),
        _ => Arc::new(RouteRate::new(limit)),
    });
    let concurrency =
        route
            .concurrency
            .as_ref()
            .map(|limit| match old.and_then(|o| o.concurrency.clone()) {
                Some(kept) if old.is_some_and(|o| o.config.concurrency == wanted.concurrency) => {
                    kept
                }
                _ => Arc::new(RouteConcurrency::new(limit)),
            });
    let budget = match old {
        Some(old) if old.config.retry.budget == wanted.retry.budget => old.budget.clone(),
        _ => match &route.retry.budget {
            None => Budget::Unbounded,
            Some(budget) => Budget::Bounded(Arc::new(RetryBudget::new(
                budget.percent.round() as u32,
                budget.min,
            ))),
        },
    };
    let mut reachable: Vec<UpstreamIndex> = match &route.action {
        Action::Forward(forward) => forward
            .split
            .targets()
            .iter()
            .chain(&forward.fallback)
            .flat_map(|target| match &target.to {
                Destination::Upstream { index, .. } => vec![*index],
                Destination::Missing { .. } => Vec::new(),
                Destination::FromHeader(from) => from.indices().collect(),
            })
            .collect(),
        Action::Redirect(_) | Action::Respond(_) => Vec::new(),
    };
    reachable.sort_unstable();
    reachable.dedup();
    RouteState {
        traffic: reachable
            .into_iter()
            .map(|index| {
                (
                    index,
                    registry.traffic(&route.name, &upstreams[index.get()].name),
                )
            })
            .collect(),
        own: registry.traffic(&route.name, ""),
        limits: registry.limits(&route.name),
        route: route.clone(),
        config: Arc::new(wanted.clone()),
        rate,
        concurrency,
        budget,
    }
}
