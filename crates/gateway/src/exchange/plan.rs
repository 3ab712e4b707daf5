//! What is to be done with a request: the route, its limits, and the upstreams in the order in which they are tried.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{HOST, HeaderValue, LOCATION};
use http::uri::PathAndQuery;
use http::{HeaderMap, Method, StatusCode};
use smallvec::SmallVec;
use tidegate_core::Scope;
use tidegate_keys::account::Permit;
use tidegate_llm::{Fault, FaultKind};
use tidegate_route::path::normalize;
use tidegate_route::{
    Abort, Action, Destination, FaultDecision, Forward, Model, ProviderIndex, RequestView,
    Resolution, Target, UpstreamIndex,
};
use tidegate_wire::grpc::{GrpcStatus, http_to_grpc_status};
use tidegate_wire::headers::Scheme;

use super::attempt::Planned;
use super::instead::Instead;
use super::reply::Problem;
use super::{Context, Incoming, Running, head};
use crate::builtin::Builtin;
use crate::limits::Busy;
use crate::provider::accounts;
use crate::provider::front::Read;
use crate::provider::listing::Listing;
use crate::provider::talk::Talk;
use crate::provider::target::Asked;
use crate::snapshot::RouteState;
use crate::stats::LimitKind;
use crate::worker::Worker;

/// Times that one request may pass through this instance before it is taken for a loop.
const MAX_VISITS: usize = 3;

/// A request that goes on.
pub(crate) struct Plan {
    pub(crate) state: Arc<RouteState>,
    pub(crate) targets: SmallVec<[Planned; 2]>,
    /// Path and query as the endpoint sees them.
    pub(crate) path: PathAndQuery,
    pub(crate) mirror: Option<UpstreamIndex>,
    /// Injected.
    pub(crate) delay: Option<Duration>,
    /// Held while the exchange runs.
    pub(crate) busy: Option<Busy>,
    /// The body, where it was read for this plan.
    pub(crate) read: Option<Box<Read>>,
    /// The caller's virtual key.
    pub(crate) permit: Option<Box<Permit>>,
}

/// What is known of a request when it is planned.
pub(crate) struct Seen {
    /// The caller, as far as it can be trusted.
    source: Option<IpAddr>,
    scheme: Scheme,
    read: Option<Box<Read>>,
    /// The route, or the first that may be it.
    state: Option<Arc<RouteState>>,
    needs_model: bool,
    /// What the route's limits said, once they were asked.
    entered: Option<Entered>,
}

/// A request that its route has let in.
struct Entered {
    /// Leading bytes of the path that the route's match stands for.
    matched: usize,
    /// The path is as routes see it.
    normal: bool,
    busy: Option<Busy>,
    fault: FaultDecision,
    permit: Option<Box<Permit>>,
}

impl Seen {
    /// The route, or the first that may be it.
    pub(crate) fn state(&self) -> Option<&Arc<RouteState>> {
        self.state.as_ref()
    }

    /// Which route it is depends on the model.
    pub(crate) fn needs_model(&self) -> bool {
        self.needs_model
    }

    pub(crate) fn read(&mut self, read: Read) {
        self.read = Some(Box::new(read));
    }
}

/// Routes the request and applies the route's limits.
pub(crate) fn plan(
    context: Context<'_>,
    request: &mut Incoming,
    running: &mut Running<'_>,
) -> Result<Plan, Box<Instead>> {
    let worker = context.worker;
    running.count_as(&worker.shared.unrouted);
    if request.method == Method::CONNECT {
        return Err(Problem::new(
            StatusCode::METHOD_NOT_ALLOWED,
            GrpcStatus::Unimplemented,
            "connect-refused",
            "CONNECT makes a forward proxy; this is a reverse one",
        )
        .into());
    }
    if worker.shared.via.visits(&request.headers) >= MAX_VISITS {
        return Err(Problem::new(
            StatusCode::LOOP_DETECTED,
            GrpcStatus::Internal,
            "loop-detected",
            "the request has come back here through its own upstream",
        )
        .into());
    }
    let (source, scheme) = caller_of(context, request);
    let seen = Seen {
        source,
        scheme,
        read: None,
        state: None,
        needs_model: false,
        entered: None,
    };
    resume(context, request, running, seen)
}

/// Goes on with what has been read of the request.
pub(crate) fn resume(
    context: Context<'_>,
    request: &mut Incoming,
    running: &mut Running<'_>,
    mut seen: Seen,
) -> Result<Plan, Box<Instead>> {
    let Context {
        worker,
        snapshot,
        caller,
        ..
    } = context;
    let path = match &seen.entered {
        Some(entered) if entered.normal => Cow::Borrowed(raw_path(request)),
        _ => normalize(raw_path(request), snapshot.paths)
            .map_err(|why| Problem::bad_request("bad-path", why.to_string()))?,
    };
    let model = seen
        .read
        .as_ref()
        .map_or(Model::Unread, |read| read.model());
    let view = view(context, request, seen.source, &path, model);
    let found = match (&seen.entered, &seen.state) {
        // It is in already: only its body had to be read.
        (Some(entered), Some(state)) => Some((state.clone(), entered.matched)),
        _ => match snapshot.router.find(&view) {
            Some(found) if found.needs_model => {
                seen.needs_model = true;
                seen.state = Some(snapshot.routes[found.route.index].clone());
                return Err(Box::new(Instead::Unread(seen)));
            }
            Some(found) => Some((snapshot.routes[found.route.index].clone(), found.matched)),
            None => None,
        },
    };
    let Some((state, matched)) = found else {
        if context.is_grpc
            && let Some(builtin) = Builtin::find(request)
        {
            let deadline = head::grpc_deadline(&request.headers, context.started);
            return Err(Box::new(Instead::Builtin(builtin, deadline)));
        }
        if let Some(Err(fault)) = seen.read.as_ref().map(|read| read.call())
            && fault.kind != FaultKind::UnsupportedEndpoint
        {
            return Err(fault.into());
        }
        if let Model::Named(model) = view.model {
            let words = format!("no route takes the model {model:?}");
            return Err(Fault::new(FaultKind::UnknownModel, words)
                .at("model")
                .into());
        }
        return Err(Problem::new(
            StatusCode::NOT_FOUND,
            GrpcStatus::Unimplemented,
            "no-route",
            "no route matches this request",
        )
        .into());
    };
    let route = &state.route;
    if seen.entered.is_none() {
        running.report.route = Some(route.name.clone());
        running.count_as(&state.own);
    }
    if context.is_grpc
        && let Action::Forward(forward) = &route.action
        && let [target] = forward.split.targets()
        && let Some(index) = upstream(target.resolve(&request.headers))
        && let Some(service) = snapshot.service(index)
    {
        let serves = || {
            let pool = &snapshot.upstreams[index.get()].live.pool;
            !worker.shared.is_draining() && pool.summary(&Scope::EMPTY).fit > 0
        };
        if let Some(builtin) = Builtin::instead_of_service(request, service, serves) {
            let deadline = head::grpc_deadline(&request.headers, context.started);
            return Err(Box::new(Instead::Builtin(builtin, deadline)));
        }
    }
    let asks = state.providers().len() > 0;
    if asks && running.report.talk.is_none() {
        running.report.talk = Some(Talk::of(request));
    }
    let entered = match seen.entered.take() {
        Some(entered) => entered,
        None => {
            let permit = match asks {
                true => accounts::admit(context, &state, request)?,
                false => None,
            };
            let busy = limits(worker, &state, &view)?;
            let fault = route
                .fault
                .as_ref()
                .map(|f| f.decide(worker.random()))
                .unwrap_or_default();
            Entered {
                matched,
                normal: matches!(path, Cow::Borrowed(_)),
                busy,
                fault,
                permit: permit.map(Box::new),
            }
        }
    };
    if let Some(abort) = entered.fault.abort {
        return Err(aborted(abort).into());
    }
    if asks {
        let Some(read) = &seen.read else {
            seen.state = Some(state);
            seen.entered = Some(entered);
            return Err(Box::new(Instead::Unread(seen)));
        };
        if let Some(model) = read.listing() {
            return Err(Box::new(Instead::Listing(Box::new(Listing {
                state,
                model: model.map(str::to_owned),
                permit: entered.permit.map(|permit| *permit),
            }))));
        }
    }
    match &route.action {
        Action::Forward(forward) => {
            let changed = route
                .rewrite
                .path(&path, matched)
                .map_err(|why| Problem::bad_request("bad-path", why.to_string()))?;
            let path = if *changed == *request.target.path() {
                request
                    .target
                    .path_and_query()
                    .cloned()
                    .unwrap_or(PathAndQuery::from_static("/"))
            } else {
                joined(&changed, request.target.query())?
            };
            if asks && let Some(read) = &seen.read {
                read.pass_on(request, &path);
                // What no dialect knows may name no model: then it is none that the key is bound to.
                if let (Some(permit), Ok(call)) = (&entered.permit, read.call()) {
                    accounts::allowed(permit, call.model())?;
                }
            }
            let targets = targets(context, &state, forward, &view, seen.read.as_deref())?;
            let mirror = forward
                .mirror
                .as_ref()
                .filter(|m| m.share.hit(worker.random() as u32));
            Ok(Plan {
                mirror: mirror.and_then(|m| upstream(m.target.resolve(&request.headers))),
                targets,
                path,
                delay: entered.fault.delay,
                busy: entered.busy,
                permit: entered.permit,
                read: seen.read,
                state,
            })
        }
        Action::Redirect(redirect) => {
            let location = redirect
                .location(&view, matched, seen.scheme.as_str(), caller.port)
                .map_err(|why| Problem::bad_request("bad-path", why.to_string()))?;
            let headers = HeaderMap::from_iter([(LOCATION, location)]);
            Err(Box::new(Instead::Answer {
                status: redirect.status,
                headers,
                body: Bytes::new(),
                state: state.clone(),
            }))
        }
        Action::Respond(respond) => {
            let headers = respond.headers.iter().cloned().collect();
            let (status, body) = (respond.status, respond.body.clone());
            Err(Box::new(Instead::Answer {
                status,
                headers,
                body,
                state: state.clone(),
            }))
        }
    }
}

/// The route that a request like this one takes for a model, by the caller's name of it.
pub(crate) fn route_for(
    context: Context<'_>,
    request: &Incoming,
    seen: &Seen,
    model: &str,
) -> Option<Arc<RouteState>> {
    let snapshot = context.snapshot;
    let path = normalize(raw_path(request), snapshot.paths).ok()?;
    let view = view(context, request, seen.source, &path, Model::Named(model));
    let found = snapshot.router.find(&view)?;
    Some(snapshot.routes[found.route.index].clone())
}

fn raw_path(request: &Incoming) -> &str {
    match request.target.path() {
        "" => "/",
        path => path,
    }
}

/// What routes may match.
fn view<'v>(
    context: Context<'v>,
    request: &'v Incoming,
    source: Option<IpAddr>,
    path: &'v str,
    model: Model<'v>,
) -> RequestView<'v> {
    let host = match request.target.authority() {
        Some(authority) => authority.host(),
        None => request
            .headers
            .get(HOST)
            .and_then(|h| std::str::from_utf8(h.as_bytes()).ok())
            .map_or("", without_port),
    };
    RequestView {
        host,
        path,
        query: request.target.query(),
        method: &request.method,
        headers: &request.headers,
        source,
        caller_region: context.snapshot.local.region(),
        caller_zone: context.snapshot.local.zone(),
        model,
    }
}

/// Writes the forwarding fields and gives the caller's address and scheme as far as they can be trusted.
fn caller_of(context: Context<'_>, request: &mut Incoming) -> (Option<IpAddr>, Scheme) {
    let caller = context.caller;
    let Some(peer) = &caller.peer else {
        return (None, caller.scheme);
    };
    let authority = request
        .target
        .authority()
        .filter(|_| !request.headers.contains_key(HOST));
    let host = authority.and_then(|a| HeaderValue::from_str(a.as_str()).ok());
    let seen = caller
        .listener
        .forwarded
        .apply(&mut request.headers, peer, host.as_ref());
    (Some(seen.address), seen.scheme)
}

/// The host of a `Host` field.
fn without_port(host: &str) -> &str {
    let bytes = host.as_bytes();
    match bytes.iter().rposition(|b| *b == b':') {
        // The colon of a port comes after the bracket of a literal v6 address.
        Some(at) if !bytes[at..].contains(&b']') => &host[..at],
        _ => host,
    }
}

fn joined(path: &str, query: Option<&str>) -> Result<PathAndQuery, Problem> {
    let made = match query {
        Some(query) => PathAndQuery::try_from(format!("{path}?{query}")),
        None => PathAndQuery::try_from(path),
    };
    made.map_err(|_| Problem::bad_request("bad-path", "the rewritten path is not valid"))
}

fn limits(
    worker: &Worker,
    state: &RouteState,
    view: &RequestView<'_>,
) -> Result<Option<Busy>, Problem> {
    if let (Some(limiter), Some(limit)) = (&state.rate, &state.route.rate_limit)
        && let Some(key) = limit.key.extract(view)
    {
        let decision = limiter.check(key, worker.now());
        if !decision.allowed {
            state.limits.count(worker.index, LimitKind::Over);
            return Err(Problem {
                retry_after: decision.retry_after,
                limit: Some(decision),
                ..Problem::new(
                    StatusCode::TOO_MANY_REQUESTS,
                    GrpcStatus::ResourceExhausted,
                    "rate-limited",
                    "the rate limit of this route is reached",
                )
            });
        }
        state.limits.count(worker.index, LimitKind::Ok);
    }
    if let (Some(limiter), Some(limit)) = (&state.concurrency, &state.route.concurrency)
        && let Some(key) = limit.key.extract(view)
    {
        return match limiter.try_enter(key) {
            Some(permit) => Ok(Some(permit)),
            None => {
                state.limits.count(worker.index, LimitKind::Busy);
                Err(Problem::new(
                    StatusCode::TOO_MANY_REQUESTS,
                    GrpcStatus::ResourceExhausted,
                    "too-many-in-flight",
                    "too many requests of this kind are in flight",
                ))
            }
        };
    }
    Ok(None)
}

fn aborted(abort: Abort) -> Problem {
    let (status, grpc) = match abort {
        Abort::Http(status) => {
            let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            (status, http_to_grpc_status(status))
        }
        Abort::Grpc(code) => {
            let grpc = GrpcStatus::from_code(u32::from(code));
            (grpc.to_http(), grpc)
        }
    };
    Problem::new(
        status,
        grpc,
        "fault-injected",
        "a fault was injected by the configuration",
    )
}

/// The split's choice, then the fallbacks.
fn targets(
    context: Context<'_>,
    state: &RouteState,
    forward: &Forward,
    view: &RequestView<'_>,
    read: Option<&Read>,
) -> Result<SmallVec<[Planned; 2]>, Box<Instead>> {
    let sticky = forward.split.sticky().and_then(|key| key.extract(view));
    let chosen = forward
        .split
        .choose(sticky, context.worker.random())
        .map(|at| &forward.split.targets()[at]);
    let mut targets: SmallVec<[Planned; 2]> = SmallVec::new();
    let mut refused = None;
    for (at, target) in chosen.into_iter().chain(&forward.fallback).enumerate() {
        let first = at == 0 && chosen.is_some();
        match target.resolve(view.headers) {
            Resolution::Upstream(index) => targets.push(Planned {
                upstream: context.snapshot.upstreams[index.get()].clone(),
                traffic: state.traffic(index).clone(),
                hash: context
                    .snapshot
                    .router
                    .hash_key(index)
                    .and_then(|key| key.extract(view)),
                asked: None,
                service: context.snapshot.service(index).cloned(),
            }),
            Resolution::Provider(index) => match asked(context, state, target, index, view, read) {
                Ok(planned) => targets.push(planned),
                Err(fault) => refused = Some(fault),
            },
            // Its own share fails, the others do not; a fallback takes it over.
            Resolution::Missing => {}
            Resolution::HeaderAbsent if first => {
                return Err(Problem::new(
                    StatusCode::NOT_FOUND,
                    GrpcStatus::NotFound,
                    "upstream-not-named",
                    "the header that names the upstream is missing",
                )
                .into());
            }
            Resolution::NotAllowed if first => {
                return Err(Problem::new(
                    StatusCode::NOT_FOUND,
                    GrpcStatus::NotFound,
                    "upstream-not-allowed",
                    "the header does not name an upstream of this route",
                )
                .into());
            }
            Resolution::HeaderAbsent | Resolution::NotAllowed => {}
        }
    }
    if !targets.is_empty() {
        return Ok(targets);
    }
    if let Some(fault) = refused {
        return Err(fault.into());
    }
    Err(Problem::new(
        StatusCode::INTERNAL_SERVER_ERROR,
        GrpcStatus::Internal,
        "no-target",
        "the route's target does not exist",
    )
    .into())
}

/// A provider as a target of this request.
fn asked(
    context: Context<'_>,
    state: &RouteState,
    target: &Target,
    index: ProviderIndex,
    view: &RequestView<'_>,
    read: Option<&Read>,
) -> Result<Planned, Fault> {
    let unread = || Fault::new(FaultKind::Internal, "the request's body was not read");
    let call = read.ok_or_else(unread)?.call()?;
    let model = match &target.to {
        Destination::Provider { model, .. } => model.as_deref(),
        _ => None,
    };
    let provider = &context.snapshot.providers[index.get()];
    Ok(Planned {
        upstream: provider.upstream.clone(),
        traffic: state.asked(index).clone(),
        hash: None,
        asked: Some(Box::new(Asked::new(
            provider,
            call,
            model,
            view,
            context.worker.index,
            state.config.continue_stream,
        ))),
        service: None,
    })
}

pub(crate) fn upstream(resolution: Resolution) -> Option<UpstreamIndex> {
    match resolution {
        Resolution::Upstream(index) => Some(index),
        Resolution::Provider(_)
        | Resolution::Missing
        | Resolution::HeaderAbsent
        | Resolution::NotAllowed => None,
    }
}
