//! The running configuration in the form that the request path reads: compiled once, immutable, swapped as a whole.

use std::collections::HashMap;
use std::sync::Arc;

use tidegate_config::values::ListenAddress;
use tidegate_config::{Config, Loaded, model};
use tidegate_core as core;
use tidegate_core::RetryBudget;
use tidegate_discovery::{ListenerFacts, Registration, Resolver};
use tidegate_keys::Keys;
use tidegate_route::{
    Action, Destination, PathPolicy, ProviderIndex, Route, Router, UpstreamIndex,
};

use crate::access::OpenError;
use crate::limits::{RouteConcurrency, RouteRate};
use crate::listener::ListenerState;
use crate::provider::Provider;
use crate::provider::setup::{self, ProviderError};
use crate::service::{self, Service};
use crate::stats::{Limits, Registry, Traffic};
use crate::tls::TlsError;
use crate::trace::{self, Exports, Tracing};
use crate::upstream::{self, Upstream, UpstreamError};

/// One configuration at work.
#[derive(Debug)]
pub(crate) struct Snapshot {
    /// Counts the accepted loads from 1.
    pub(crate) generation: u64,
    /// When it was put to work, seconds since 1970.
    pub(crate) loaded_at: u64,
    pub(crate) loaded: Arc<Loaded>,
    pub(crate) router: Router,
    /// By `Route::index`.
    pub(crate) routes: Vec<Arc<RouteState>>,
    /// By `UpstreamIndex`: those of the configuration, then those behind services.
    pub(crate) upstreams: Vec<Arc<Upstream>>,
    /// In the order of the configuration.
    pub(crate) services: Vec<Arc<Service>>,
    /// By `ProviderIndex`.
    pub(crate) providers: Vec<Arc<Provider>>,
    pub(crate) listeners: HashMap<String, Arc<ListenerState>>,
    pub(crate) paths: PathPolicy,
    /// Where this Tidegate runs.
    pub(crate) local: core::Locality,
    /// Which requests are traced, if any are.
    pub(crate) tracing: Option<Arc<Tracing>>,
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
    /// By provider, sorted by index. If there is one, requests are read whole before they go anywhere.
    asked: Vec<(ProviderIndex, Arc<Traffic>)>,
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

impl Snapshot {
    /// Every upstream, those behind providers included.
    pub(crate) fn pools(&self) -> impl Iterator<Item = &Arc<Upstream>> {
        let behind = self.providers.iter().map(|p| &p.upstream);
        self.upstreams.iter().chain(behind)
    }

    /// The service behind an upstream, if it is one's.
    pub(crate) fn service(&self, upstream: UpstreamIndex) -> Option<&Arc<Service>> {
        let own = self.upstreams.len() - self.services.len();
        self.services.get(upstream.get().checked_sub(own)?)
    }

    /// The service of this name.
    pub(crate) fn service_named(&self, name: &str) -> Option<&Arc<Service>> {
        self.services.iter().find(|service| &*service.name == name)
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

    /// The counters for requests that go to this provider.
    pub(crate) fn asked(&self, provider: ProviderIndex) -> &Arc<Traffic> {
        let found = self
            .asked
            .binary_search_by_key(&provider, |(index, _)| *index);
        found.map_or(&self.own, |at| &self.asked[at].1)
    }

    /// Providers that requests may go to.
    pub(crate) fn providers(&self) -> impl ExactSizeIterator<Item = ProviderIndex> {
        self.asked.iter().map(|(index, _)| *index)
    }

    pub(crate) fn all_traffic(&self) -> impl Iterator<Item = &Arc<Traffic>> {
        let upstreams = self.traffic.iter().map(|(_, t)| t);
        let providers = self.asked.iter().map(|(_, t)| t);
        upstreams.chain(providers).chain([&self.own])
    }
}

/// One reason why a configuration that was read can't be put to work.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Problem {
    #[error("{0}")]
    Route(#[from] tidegate_route::CompileError),
    #[error("{0}")]
    Upstream(#[from] UpstreamError),
    #[error("{0}")]
    Provider(#[from] ProviderError),
    #[error("listener {name}: {source}")]
    Tls { name: String, source: TlsError },
    #[error("{0}")]
    Register(#[from] tidegate_discovery::RegisterError),
    #[error("{0}")]
    AccessLog(#[from] OpenError),
    #[error("tracing: {0}")]
    Tracing(tidegate_discovery::SetupError),
}

/// A configuration that can be put to work: what may fail was done, and nothing that runs was touched.
#[derive(Debug)]
pub(crate) struct Draft {
    pub(crate) loaded: Arc<Loaded>,
    router: Router,
    listeners: HashMap<String, Arc<ListenerState>>,
    upstreams: Vec<upstream::Draft>,
    providers: Vec<setup::Draft>,
    tracing: trace::Draft,
}

impl Draft {
    /// Compiles `loaded`. What `old` has that did not change will be taken over: pools with health and statistics, limiters, listeners.
    ///
    /// # Errors
    /// Everything that is wrong.
    pub(crate) fn new(
        loaded: Arc<Loaded>,
        old: Option<&Snapshot>,
        resolver: &Resolver,
    ) -> Result<Draft, Vec<Problem>> {
        let config = &loaded.config;
        let mut problems = Vec::new();
        let router = keep(Router::compile(config), &mut problems);
        let listeners = listeners(config, old, resolver, &mut problems);
        let before: HashMap<&str, &Arc<Upstream>> = old
            .iter()
            .flat_map(|o| &o.upstreams)
            .map(|u| (&*u.name, u))
            .collect();
        let behind: Vec<_> = config.services.iter().map(service::implicit).collect();
        let upstreams = config
            .upstreams
            .iter()
            .chain(&behind)
            .filter_map(|wanted| {
                let before = before.get(&*wanted.name).copied();
                keep(
                    upstream::Draft::new(wanted, before, resolver),
                    &mut problems,
                )
            })
            .collect();
        let before: HashMap<&str, &Arc<Provider>> = old
            .iter()
            .flat_map(|o| &o.providers)
            .map(|p| (&**p.name(), p))
            .collect();
        let providers = config
            .providers
            .iter()
            .filter_map(|wanted| {
                let before = before.get(&*wanted.name).copied();
                keep(setup::Draft::new(wanted, before, resolver), &mut problems)
            })
            .collect();
        let running = old.and_then(|o| o.tracing.as_ref());
        let tracing = trace::Draft::new(config, running, resolver).map_err(Problem::Tracing);
        match (router, keep(tracing, &mut problems)) {
            (Some(router), Some(tracing)) if problems.is_empty() => Ok(Draft {
                loaded,
                router,
                listeners,
                upstreams,
                providers,
                tracing,
            }),
            _ => Err(problems),
        }
    }

    /// Puts it to work in the place of `old`. The caller makes it the running one at once.
    pub(crate) fn commit(
        self,
        old: Option<&Snapshot>,
        registry: &Registry,
        keys: &Keys,
        exports: &Exports,
        now: core::Time,
    ) -> Snapshot {
        let Draft {
            loaded,
            router,
            listeners,
            upstreams,
            providers,
            tracing,
        } = self;
        let config = &loaded.config;
        let upstreams: Vec<_> = upstreams
            .into_iter()
            .map(|draft| draft.commit(registry, now))
            .collect();
        let providers = setup::commit(providers, keys, registry, now);
        let services = config
            .services
            .iter()
            .map(|wanted| {
                let before = old.and_then(|o| o.service_named(&wanted.name));
                Arc::new(Service::new(wanted, before.map(|b| &**b)))
            })
            .collect();
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
                    &providers,
                    registry,
                ))
            })
            .collect();
        Snapshot {
            generation: old.map_or(0, |o| o.generation) + 1,
            // The engine's time counts from the Unix epoch as it was at the start.
            loaded_at: now.0 / 1_000_000_000,
            paths: PathPolicy::default(),
            local: core::Locality::new(&config.node.region, &config.node.zone),
            loaded: loaded.clone(),
            router,
            routes,
            upstreams,
            services,
            providers,
            listeners,
            tracing: tracing.commit(exports),
        }
    }
}

fn keep<T, E: Into<Problem>>(result: Result<T, E>, problems: &mut Vec<Problem>) -> Option<T> {
    result.map_err(|e| problems.push(e.into())).ok()
}

fn listeners(
    config: &Config,
    old: Option<&Snapshot>,
    resolver: &Resolver,
    problems: &mut Vec<Problem>,
) -> HashMap<String, Arc<ListenerState>> {
    let mut listeners = HashMap::new();
    for wanted in &config.listeners {
        let before = old.and_then(|o| o.listeners.get(&wanted.name));
        let state = ListenerState::build(wanted, before).map_err(|source| Problem::Tls {
            name: wanted.name.clone(),
            source,
        });
        if let Some(state) = keep(state, problems) {
            listeners.insert(wanted.name.clone(), state);
        }
        if let Some(register) = &wanted.register {
            let facts = ListenerFacts {
                name: wanted.name.clone(),
                address: match wanted.address {
                    ListenAddress::Ip(at) => Some(at),
                    ListenAddress::Unix(_) => None,
                },
                tls: wanted.tls.is_some(),
            };
            keep(
                Registration::check(&register.consul, &facts, resolver),
                problems,
            );
        }
    }
    listeners
}

fn route_state(
    route: &Arc<Route>,
    wanted: &model::Route,
    old: Option<&Arc<RouteState>>,
    upstreams: &[Arc<Upstream>],
    providers: &[Arc<Provider>],
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
    let mut reachable: Vec<UpstreamIndex> = Vec::new();
    let mut asked: Vec<ProviderIndex> = Vec::new();
    if let Action::Forward(forward) = &route.action {
        for target in forward.split.targets().iter().chain(&forward.fallback) {
            match &target.to {
                Destination::Upstream { index, .. } => reachable.push(*index),
                Destination::Provider { index, .. } => asked.push(*index),
                Destination::Missing { .. } => {}
                Destination::FromHeader(from) => reachable.extend(from.indices()),
            }
        }
    }
    reachable.sort_unstable();
    reachable.dedup();
    asked.sort_unstable();
    asked.dedup();
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
        asked: asked
            .into_iter()
            .map(|index| {
                let name = providers[index.get()].name();
                (index, registry.traffic(&route.name, name))
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
