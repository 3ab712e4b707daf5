//! From the typed configuration to the compiled router.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use http::StatusCode;
use http::header::{HeaderName, HeaderValue};
use tidegate_config::Config;
use tidegate_config::model;
use tidegate_config::values::{self, HostPattern};

use crate::conditions::{
    Conditions, GrpcRule, HostRule, ModelRule, PathRule, Rule, SourceRule, TextRule,
};
use crate::describe::describe;
use crate::fault::{Abort, Fault, PerMillion};
use crate::hash::HashKey;
use crate::index::Index;
use crate::limit::{Concurrency, LimitAlgorithm, LimitKey, LimitPart, RateLimit};
use crate::path::normal_literal;
use crate::retry::{Backoff, Condition, HedgePolicy, RetryBudget, RetryOn, RetryPolicy};
use crate::rewrite::{HeaderEdits, PathRewrite, Redirect, Rewrite};
use crate::route::{Action, Forward, Mirror, Respond, Route};
use crate::router::Router;
use crate::split::{Destination, ProviderIndex, Split, Target, UpstreamFrom, UpstreamIndex};

/// Why routes could not be compiled. A checked configuration does not get here but for what only compiling shows.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("route {route}: {problem}")]
pub struct CompileError {
    /// Name of the route.
    pub route: String,
    /// What is wrong with it.
    pub problem: Problem,
}

/// What is wrong with a route.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// A regular expression is malformed or too large.
    #[error("the expression `{0}` cannot be used: it is malformed or too large")]
    Pattern(String),
    /// A path holds what no path can hold, so that no request would ever match or no upstream understand it.
    #[error(
        "`{0}` is not a path: it holds `?`, `#`, `\\`, a space, a control character or a broken escape"
    )]
    Path(String),
    /// Not a header's name or value.
    #[error("`{0}` cannot be sent as a header")]
    Header(String),
    /// Not a method.
    #[error("`{0}` is not a method")]
    Method(String),
    /// Not a status.
    #[error("{0} is not a status")]
    Status(u16),
    /// Neither destination nor redirect nor response.
    #[error("it has none of `to`, `redirect` and `respond`")]
    NoAction,
}

/// Where the names of targets stand in the config.
struct Names<'a> {
    upstreams: BTreeMap<&'a str, UpstreamIndex>,
    services: BTreeMap<&'a str, UpstreamIndex>,
    providers: BTreeMap<&'a str, ProviderIndex>,
}

impl Names<'_> {
    fn upstream(&self, name: &str) -> Destination {
        pool(&self.upstreams, name)
    }

    /// A service is an upstream whose members Tidegate itself starts.
    fn service(&self, name: &str) -> Destination {
        pool(&self.services, name)
    }

    fn provider(&self, name: &str, model: Option<&String>) -> Destination {
        match self.providers.get(name) {
            Some(index) => Destination::Provider {
                name: name.into(),
                index: *index,
                model: model.map(|model| model.as_str().into()),
            },
            None => Destination::Missing { name: name.into() },
        }
    }
}

fn pool(names: &BTreeMap<&str, UpstreamIndex>, name: &str) -> Destination {
    match names.get(name) {
        Some(index) => Destination::Upstream {
            name: name.into(),
            index: *index,
        },
        None => Destination::Missing { name: name.into() },
    }
}

impl Router {
    /// Compiles the routes of a configuration. A destination that names no upstream is kept: it costs its own share of
    /// the requests only. The upstreams behind services stand after those of the configuration, in the order of `services`.
    ///
    /// # Errors
    /// The first route that cannot be compiled.
    pub fn compile(config: &Config) -> Result<Router, CompileError> {
        let names = Names {
            upstreams: config
                .upstreams
                .iter()
                .map(|upstream| upstream.name.as_str())
                .zip((0..).map(UpstreamIndex))
                .collect(),
            services: config
                .services
                .iter()
                .map(|service| service.name.as_str())
                .zip(
                    (config.upstreams.len()..)
                        .filter_map(|at| Some(UpstreamIndex(at.try_into().ok()?))),
                )
                .collect(),
            providers: config
                .providers
                .iter()
                .map(|provider| provider.name.as_str())
                .zip((0..).map(ProviderIndex))
                .collect(),
        };
        let mut routes = Vec::with_capacity(config.routes.len());
        let mut rules = Vec::with_capacity(config.routes.len());
        for (index, route) in config.routes.iter().enumerate() {
            let failed = |problem| CompileError {
                route: route.name.clone(),
                problem,
            };
            routes.push(Arc::new(
                compile_route(index, route, &names).map_err(failed)?,
            ));
            // A route without a match holds for every request.
            let everything = [model::Match::default()];
            let matches = if route.matches.is_empty() {
                &everything[..]
            } else {
                &route.matches[..]
            };
            for one in matches {
                rules.push(compile_match(index as u32, one).map_err(failed)?);
            }
        }
        let index = Index::new(&rules);
        let hash_keys = config
            .upstreams
            .iter()
            .map(|upstream| hash_key(&upstream.balance))
            .chain(config.services.iter().map(|_| None))
            .collect();
        Ok(Router {
            routes,
            rules,
            index,
            hash_keys,
        })
    }
}

/// What a balancer hashes, if it is one that hashes.
pub fn hash_key(balance: &model::Balance) -> Option<HashKey> {
    match balance {
        model::Balance::SourceIpHash => Some(HashKey::SourceIp),
        model::Balance::RingHash(ring) => compile_hash_key(&ring.hash).ok(),
        model::Balance::Maglev(maglev) => compile_hash_key(&maglev.hash).ok(),
        model::Balance::RoundRobin
        | model::Balance::Random
        | model::Balance::WeightedRoundRobin
        | model::Balance::WeightedRandom
        | model::Balance::LeastRequest(_)
        | model::Balance::PeakEwma(_)
        | model::Balance::BackendLoad(_) => None,
    }
}

fn compile_match(route: u32, one: &model::Match) -> Result<Rule, Problem> {
    let hosts = one.hosts.iter().map(|host| match host {
        HostPattern::Any => HostRule::Any,
        HostPattern::Exact(name) => HostRule::Exact(lower_name(name)),
        HostPattern::Suffix(suffix) => HostRule::Below(lower_name(suffix.trim_start_matches('.'))),
    });
    let hosts: Box<[HostRule]> = if one.hosts.is_empty() {
        [HostRule::Any].into()
    } else {
        hosts.collect()
    };
    let path = match &one.path {
        None => PathRule::Any,
        Some(model::PathMatch::Exact(path)) => PathRule::Exact(literal(path)?.into()),
        Some(model::PathMatch::Prefix(path)) => PathRule::Prefix(literal(path)?.into()),
        Some(model::PathMatch::Regex(pattern)) => PathRule::Regex(anchored(pattern.as_str())?),
    };
    let source = one.source.as_ref().map(|source| SourceRule {
        networks: source.cidr.iter().copied().collect(),
        region: source.region.as_deref().map(Box::from),
        zone: source.zone.as_deref().map(Box::from),
    });
    let grpc = one.grpc.as_ref().map(|grpc| GrpcRule {
        service: grpc.service.as_deref().map(Box::from),
        method: grpc.method.as_deref().map(Box::from),
    });
    let headers = one
        .headers
        .iter()
        .map(|(name, text)| Ok((header_name(name)?, compile_text(text)?)))
        .collect::<Result<_, _>>()?;
    let query = one
        .query
        .iter()
        .map(|(name, text)| Ok((Box::from(name.as_str()), compile_text(text)?)))
        .collect::<Result<_, _>>()?;
    let methods = one
        .methods
        .iter()
        .map(|method| {
            method
                .as_str()
                .parse()
                .map_err(|_| Problem::Method(method.as_str().to_owned()))
        })
        .collect::<Result<_, _>>()?;
    let models = one
        .model
        .iter()
        .map(compile_model)
        .collect::<Result<_, _>>()?;
    Ok(Rule {
        route,
        hosts,
        path,
        conditions: Conditions {
            grpc,
            methods,
            headers,
            query,
            source,
            models,
        },
    })
}

fn lower_name(name: &str) -> Box<str> {
    name.strip_suffix('.')
        .unwrap_or(name)
        .to_ascii_lowercase()
        .into()
}

fn compile_model(pattern: &values::ModelPattern) -> Result<ModelRule, Problem> {
    Ok(match pattern {
        values::ModelPattern::Any => ModelRule::Any,
        values::ModelPattern::Exact(name) => ModelRule::Exact(name.as_str().into()),
        values::ModelPattern::Prefix(prefix) => ModelRule::Prefix(prefix.as_str().into()),
        values::ModelPattern::Regex(pattern) => ModelRule::Regex(
            regex::bytes::Regex::new(pattern.as_str())
                .map_err(|_| Problem::Pattern(pattern.to_string()))?,
        ),
    })
}

fn compile_text(text: &model::TextMatch) -> Result<TextRule, Problem> {
    Ok(match text {
        model::TextMatch::Exact(value) => TextRule::Exact(value.as_bytes().into()),
        model::TextMatch::Prefix(value) => TextRule::Prefix(value.as_bytes().into()),
        model::TextMatch::Regex(pattern) => TextRule::Regex(anchored(pattern.as_str())?),
        model::TextMatch::Present(true) => TextRule::Present,
        model::TextMatch::Present(false) => TextRule::Absent,
    })
}

/// An expression that must match the whole text.
fn anchored(pattern: &str) -> Result<regex::bytes::Regex, Problem> {
    let refused = |_| Problem::Pattern(pattern.to_owned());
    // On its own first: `a)|(b` would become a well-formed expression that is anchored at neither end.
    regex::Regex::new(pattern).map_err(refused)?;
    let build = |whole: &str| {
        regex::bytes::RegexBuilder::new(whole)
            .size_limit(2 * values::Pattern::SIZE_LIMIT)
            .build()
    };
    // In `x` mode the pattern may end in a comment, which the line break ends; elsewhere a line break would be matched.
    build(&format!("\\A(?:{pattern})\\z"))
        .or_else(|_| build(&format!("\\A(?:{pattern}\n)\\z")))
        .map_err(refused)
}

fn literal(path: &str) -> Result<String, Problem> {
    normal_literal(path).ok_or_else(|| Problem::Path(path.to_owned()))
}

fn compile_route(index: usize, route: &model::Route, names: &Names<'_>) -> Result<Route, Problem> {
    let mut compiled = Route {
        index,
        name: route.name.as_str().into(),
        action: compile_action(route, names)?,
        rewrite: match &route.rewrite {
            Some(rewrite) => compile_rewrite(rewrite)?,
            None => Rewrite::default(),
        },
        request_headers: compile_edits(&route.request_headers)?,
        response_headers: compile_edits(&route.response_headers)?,
        fault: route.fault.as_ref().map(compile_fault),
        timeout: route.timeout,
        idle_timeout: route.idle_timeout,
        retry: compile_retry(&route.retry),
        hedge: route.hedge.as_ref().map(|hedge| HedgePolicy {
            delay: hedge.delay,
            attempts: hedge.max,
        }),
        rate_limit: route
            .rate_limit
            .as_ref()
            .map(compile_rate_limit)
            .transpose()?,
        concurrency: route
            .concurrency
            .as_ref()
            .map(compile_concurrency)
            .transpose()?,
        body_bytes: route.body_bytes.map(values::ByteSize::bytes),
        description: Default::default(),
    };
    compiled.description = describe(route, &compiled);
    Ok(compiled)
}

fn compile_action(route: &model::Route, names: &Names<'_>) -> Result<Action, Problem> {
    if let Some(redirect) = &route.redirect {
        return Ok(Action::Redirect(Redirect {
            status: status(redirect.status)?,
            scheme: redirect.scheme.as_deref().map(Box::from),
            host: redirect.host.as_deref().map(Box::from),
            port: redirect.port,
            path: compile_path_rewrite(redirect.path.as_deref(), redirect.prefix.as_deref(), None)?,
        }));
    }
    if let Some(respond) = &route.respond {
        return Ok(Action::Respond(Respond {
            status: status(respond.status)?,
            headers: compile_fields(&respond.headers)?,
            body: Bytes::copy_from_slice(respond.body.as_bytes()),
        }));
    }
    if route.to.is_empty() {
        return Err(Problem::NoAction);
    }
    let targets = route.to.iter().map(|target| {
        let to = match &target.destination {
            model::Destination::Upstream(name) => names.upstream(name),
            model::Destination::Service(name) => names.service(name),
            model::Destination::Provider(name) => names.provider(name, target.model.as_ref()),
            model::Destination::UpstreamFrom(from) => Destination::FromHeader(UpstreamFrom::new(
                header_name(&from.header)?,
                from.allow
                    .iter()
                    .map(|name| (name.as_str(), names.upstreams.get(name.as_str()).copied())),
            )),
        };
        Ok(Target::new(to, target.weight))
    });
    let sticky = route
        .split
        .as_ref()
        .map(|split| compile_hash_key(&split.hash))
        .transpose()?;
    Ok(Action::Forward(Forward {
        split: Split::new(targets.collect::<Result<_, _>>()?, sticky),
        fallback: route
            .fallback
            .iter()
            .map(|target| {
                let to = match &target.destination {
                    model::FallbackDestination::Upstream(name) => names.upstream(name),
                    model::FallbackDestination::Service(name) => names.service(name),
                    model::FallbackDestination::Provider(name) => {
                        names.provider(name, target.model.as_ref())
                    }
                };
                Target::new(to, 1)
            })
            .collect(),
        mirror: route.mirror.as_ref().map(|mirror| Mirror {
            target: Target::new(
                match &mirror.destination {
                    model::MirrorDestination::Upstream(name) => names.upstream(name),
                    model::MirrorDestination::Service(name) => names.service(name),
                },
                1,
            ),
            share: share(mirror.percent),
        }),
    }))
}

fn compile_rewrite(rewrite: &model::Rewrite) -> Result<Rewrite, Problem> {
    let host = rewrite.host.as_deref();
    Ok(Rewrite {
        path: compile_path_rewrite(
            rewrite.path.as_deref(),
            rewrite.prefix.as_deref(),
            rewrite.regex.as_ref(),
        )?,
        host: host
            .map(|host| host.parse().map_err(|_| Problem::Header(host.to_owned())))
            .transpose()?,
    })
}

fn compile_path_rewrite(
    path: Option<&str>,
    prefix: Option<&str>,
    regex: Option<&model::RegexRewrite>,
) -> Result<Option<PathRewrite>, Problem> {
    if let Some(path) = path {
        let path = literal(path)?;
        let path = if path.starts_with('/') {
            path
        } else {
            format!("/{path}")
        };
        return Ok(Some(PathRewrite::Full(path.into())));
    }
    if let Some(prefix) = prefix {
        return Ok(Some(PathRewrite::Prefix(literal(prefix)?.into())));
    }
    regex
        .map(|regex| {
            let source = regex.pattern.as_str();
            Ok(PathRewrite::Regex {
                pattern: regex::Regex::new(source)
                    .map_err(|_| Problem::Pattern(source.to_owned()))?,
                with: literal(&regex.with)?.into(),
            })
        })
        .transpose()
}

fn compile_edits(edits: &model::HeaderEdits) -> Result<HeaderEdits, Problem> {
    Ok(HeaderEdits {
        remove: edits
            .remove
            .iter()
            .map(header_name)
            .collect::<Result<_, _>>()?,
        set: compile_fields(&edits.set)?,
        add: compile_fields(&edits.add)?,
    })
}

fn compile_fields(
    fields: &BTreeMap<values::HeaderName, values::HeaderText>,
) -> Result<Box<[(HeaderName, HeaderValue)]>, Problem> {
    fields
        .iter()
        .map(|(name, text)| {
            // The value may be a secret: the message names the header only.
            let mut value = HeaderValue::from_str(text.expose())
                .map_err(|_| Problem::Header(name.as_str().to_owned()))?;
            value.set_sensitive(text.is_sensitive());
            Ok((header_name(name)?, value))
        })
        .collect()
}

fn header_name(name: &values::HeaderName) -> Result<HeaderName, Problem> {
    name.as_str()
        .parse()
        .map_err(|_| Problem::Header(name.as_str().to_owned()))
}

fn status(status: u16) -> Result<StatusCode, Problem> {
    StatusCode::from_u16(status).map_err(|_| Problem::Status(status))
}

fn share(percent: values::Percent) -> PerMillion {
    PerMillion::from_percent(percent.percent())
}

fn compile_fault(fault: &model::Fault) -> Fault {
    Fault {
        delay: fault
            .delay
            .as_ref()
            .map(|delay| (delay.duration, share(delay.percent))),
        abort: fault.abort.as_ref().map(|abort| {
            let answer = match abort.with {
                model::AbortWith::Status(status) => Abort::Http(status),
                model::AbortWith::GrpcStatus(status) => Abort::Grpc(status.code().into()),
            };
            (answer, share(abort.percent))
        }),
    }
}

fn compile_retry(retry: &model::Retry) -> RetryPolicy {
    let mut conditions = Vec::new();
    let mut statuses = Vec::new();
    for on in &retry.on {
        conditions.push(match on {
            values::RetryOn::ConnectFailure => Condition::ConnectFailure,
            values::RetryOn::RefusedStream => Condition::RefusedStream,
            values::RetryOn::Unavailable => Condition::Unavailable,
            values::RetryOn::Status5xx => Condition::Status5xx,
            values::RetryOn::GatewayError => Condition::GatewayError,
            values::RetryOn::Reset => Condition::Reset,
            values::RetryOn::PerTryTimeout => Condition::PerTryTimeout,
            values::RetryOn::Cancelled => Condition::Cancelled,
            values::RetryOn::DeadlineExceeded => Condition::DeadlineExceeded,
            values::RetryOn::Internal => Condition::Internal,
            values::RetryOn::ResourceExhausted => Condition::ResourceExhausted,
            values::RetryOn::Status(status) => {
                statuses.push(*status);
                continue;
            }
        });
    }
    RetryPolicy {
        attempts: retry.attempts.max(1),
        on: RetryOn::new(conditions, statuses),
        per_try_timeout: retry.per_try_timeout,
        backoff: Backoff {
            initial: retry.backoff.initial,
            max: retry.backoff.max,
        },
        budget: retry.budget.as_ref().map(|budget| RetryBudget {
            percent: budget.percent.percent(),
            min: budget.min,
        }),
        buffer: usize::try_from(retry.buffer.bytes()).unwrap_or(usize::MAX),
        replay: retry.replay,
    }
}

fn compile_rate_limit(limit: &model::RateLimit) -> Result<RateLimit, Problem> {
    Ok(RateLimit {
        requests: limit.requests.max(1),
        per: limit.per.0,
        burst: limit.burst.unwrap_or(limit.requests).max(1),
        algorithm: match limit.algorithm {
            model::LimitAlgorithm::Gcra => LimitAlgorithm::Gcra,
            model::LimitAlgorithm::FixedWindow => LimitAlgorithm::FixedWindow,
        },
        key: compile_limit_key(&limit.key)?,
        max_keys: limit.max_keys,
    })
}

fn compile_concurrency(limit: &model::Concurrency) -> Result<Concurrency, Problem> {
    Ok(Concurrency {
        requests: limit.requests.max(1),
        key: compile_limit_key(&limit.key)?,
        max_keys: limit.max_keys,
    })
}

fn compile_limit_key(parts: &[values::LimitKey]) -> Result<LimitKey, Problem> {
    let parts = parts.iter().map(|part| {
        Ok(match part {
            values::LimitKey::Header(name) => LimitPart::Header(header_name(name)?),
            values::LimitKey::Cookie(name) => LimitPart::Cookie(name.as_str().into()),
            values::LimitKey::Query(name) => LimitPart::Query(name.as_str().into()),
            values::LimitKey::SourceIp => LimitPart::SourceIp,
            values::LimitKey::Host => LimitPart::Host,
            values::LimitKey::Path => LimitPart::Path,
            values::LimitKey::Method => LimitPart::Method,
        })
    });
    Ok(LimitKey::new(parts.collect::<Result<Box<[_]>, _>>()?))
}

/// What a request is hashed by, as the configuration says it. None: a header name that no request can have.
pub fn request_hash(key: &values::HashKey) -> Option<HashKey> {
    compile_hash_key(key).ok()
}

fn compile_hash_key(key: &values::HashKey) -> Result<HashKey, Problem> {
    Ok(match key {
        values::HashKey::Header(name) => HashKey::Header(header_name(name)?),
        values::HashKey::Cookie(name) => HashKey::Cookie(name.as_str().into()),
        values::HashKey::Query(name) => HashKey::Query(name.as_str().into()),
        values::HashKey::SourceIp => HashKey::SourceIp,
    })
}
