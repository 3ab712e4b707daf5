//! A request that goes on: attempts until one answers, then the answer relayed to its end.
//!
//! What is rare (errors, tunnels) is boxed: every exchange pays for the largest state of this future.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::HOST;
use http::uri::{Authority, Scheme as UriScheme};
use http::{HeaderMap, StatusCode};
use smallvec::SmallVec;
use tidegate_core::{NoPick, Time};
use tidegate_keys::account::Permit;
use tidegate_wire::grpc::GrpcStatus;
use tidegate_wire::h1::BodyLength;
use tidegate_wire::headers::{REQUEST_ID, Scheme};

use super::attempt::{Deadline, Loop, Lost, Planned};
use super::deliver::{self, Begun, Until};
use super::instead::fail;
use super::plan::Plan;
use super::reply::Problem;
use super::source::Source;
use super::timer::{Gone, Timer, rest};
use super::websocket::Handshake;
use super::{Context, Incoming, Running, head, mirror};
use crate::clock;
use crate::down::Down;
use crate::io::spare;
use crate::limits::Busy;
use crate::provider;
use crate::provider::bodies::Kept;
use crate::provider::heartbeat::Heartbeat;
use crate::provider::resume::Again;
use crate::snapshot::RouteState;
use crate::up::{OutRequest, UpError};

/// A request that is ready to go, and what its attempts are made with.
pub(crate) struct Ready {
    state: Arc<RouteState>,
    targets: SmallVec<[Planned; 2]>,
    request: OutRequest,
    source: Source,
    /// The share of the memory of a body that was read.
    kept: Option<Kept>,
    copy: Option<Box<mirror::Copy>>,
    beat: Option<Box<Heartbeat>>,
    handshake: Option<Box<Handshake>>,
    deadline: Deadline,
    /// Held while the exchange runs.
    _busy: Option<Busy>,
    _permit: Option<Box<Permit>>,
}

impl Ready {
    /// Makes the endpoint's request of the caller's, whose head is used up.
    ///
    /// # Errors
    /// The body is longer than the route allows.
    pub(crate) fn new(
        context: Context<'_>,
        plan: Plan,
        request: &mut Incoming,
        to_h2: bool,
        running: &mut Running<'_>,
    ) -> Result<Self, Lost> {
        let Plan {
            state,
            targets,
            path,
            mirror,
            delay,
            busy,
            read,
            permit,
        } = plan;
        let route = &state.route;
        // A body that was read, or a delay, has had its time.
        let since = if read.is_some() || delay.is_some() {
            clock::now()
        } else {
            context.started
        };
        context.watch.set(route.idle_timeout.map(|t| since + t));
        let deadline = Deadline::of(&state, &request.headers, context);
        let asks_only = mirror.is_none() && targets.iter().all(|target| target.asked.is_some());
        head::request(
            &mut request.headers,
            request.version,
            request.upgrade,
            running.is_recorded() || !asks_only,
            running.report.trace().is_some(),
            context.worker,
        );
        if running.is_recorded() {
            running.report.request_id = request.headers.get(&REQUEST_ID).cloned();
        }
        let mut request = outgoing(context, &state, request, path);
        if context.is_grpc
            && let Some(at) = deadline.at
        {
            let left = at.saturating_duration_since(clock::now());
            head::shorten_deadline(&mut request.headers, left);
        }
        let limit = route
            .body_bytes
            .unwrap_or(context.caller.listener.body_bytes);
        if limit > 0 && matches!(request.body, BodyLength::Exact(n) if n > limit) {
            return Err(Lost::TooLarge);
        }
        let copy = mirror.map(|index| Box::new(mirror::Copy::new(context, index, &request)));
        let call = read.as_ref().and_then(|read| read.call().ok());
        let beat = call.and_then(|call| Heartbeat::of(&state, call));
        let keep = if may_retry(&state) || copy.is_some() {
            route.retry.buffer
        } else {
            0
        };
        let handshake = Handshake::of(&request, to_h2).map(Box::new);
        let (source, kept) = match read.and_then(|read| read.source()) {
            Some((source, kept)) => (source, Some(kept)),
            None => {
                let is_empty = request.body == BodyLength::None;
                (Source::new(keep, limit, is_empty), None)
            }
        };
        Ok(Self {
            targets,
            request,
            source,
            kept,
            copy,
            beat,
            handshake,
            deadline,
            _busy: busy,
            _permit: permit,
            state,
        })
    }
}

/// Makes attempts until one answers, and relays the answer.
pub(crate) async fn forward(
    context: Context<'_>,
    ready: &mut Ready,
    down: &mut Down<'_>,
    running: &mut Running<'_>,
) {
    let deadline = ready.deadline;
    let mut timer = Timer::default();
    let mut attempts = Loop {
        worker: context.worker,
        snapshot: context.snapshot,
        down,
        state: &ready.state,
        request: &mut ready.request,
        source: &mut ready.source,
        grpc: context.is_grpc,
        deadline,
        watch: context.watch,
        timer: &mut timer,
        beat: &mut ready.beat,
        report: &mut running.report,
    };
    let result = attempts.run(&ready.targets).await;
    if let Some(copy) = ready.copy.take() {
        copy.send(&ready.source);
    }
    running.report.bytes_up = ready.source.taken();
    if let (Some(talk), Some(beat)) = (&mut running.report.talk, &ready.beat) {
        talk.begun = beat.begun();
    }
    match result {
        Ok(won) if won.asking.is_some() => {
            // No further attempt will need the request, unless one is to go on with an answer that broke off.
            ready.source = Source::of_whole(Bytes::new(), None);
            if !ready.state.config.continue_stream {
                ready.targets.clear();
                ready.kept = None;
            }
            let again = Again {
                targets: &ready.targets,
                request: &mut ready.request,
                timer,
            };
            provider::resume::relay(context, &ready.state, won, again, deadline, down, running)
                .await;
        }
        Ok(won) => {
            // An upstream answered, so no provider did.
            if let Some(asked) = ready
                .targets
                .iter()
                .find_map(|target| target.asked.as_ref())
            {
                asked.unused();
            }
            let begun = deliver::begin(
                context,
                &ready.state,
                won,
                ready.handshake.as_deref(),
                &mut ready.source,
                down,
                running,
            );
            let idle = ready.state.route.idle_timeout;
            match begun {
                Begun::Body(rest) => {
                    let until = Until {
                        deadline,
                        timer,
                        idle,
                    };
                    deliver::body(context, rest, until, &mut ready.source, down, running).await;
                }
                Begun::Tunnel(switched) => {
                    Box::pin(switched.tunnel(context.watch, idle, down, running)).await;
                }
                Begun::Unfit(unfit) => {
                    let told = async move { fail(context, &unfit.problem(), down, running).await };
                    Box::pin(told).await;
                }
                Begun::Gone => {}
            }
        }
        Err((lost, traffic)) => {
            if let Some(traffic) = traffic {
                running.count_as(&traffic);
            }
            let asked = ready
                .targets
                .iter()
                .find_map(|target| target.asked.as_ref());
            if let Some(asked) = asked.filter(|_| lost.is_refusal()) {
                asked.unused();
            }
            if let Some(last) = ready.targets.last() {
                match (&last.asked, &mut running.report.talk) {
                    (Some(asked), Some(talk)) => asked.tell(talk),
                    _ => running.report.upstream = Some(last.upstream.name.clone()),
                }
            }
            Box::pin(lose(context, lost, down, running)).await;
        }
    }
    spare::put_map(std::mem::take(&mut ready.request.headers));
}

/// Waits for the end of an injected delay: not beyond the deadline, and not for a caller who has left.
pub(crate) async fn injected(
    context: Context<'_>,
    state: &RouteState,
    delay: Duration,
    headers: &HeaderMap,
    down: &mut Down<'_>,
) -> Result<(), Lost> {
    context
        .watch
        .set(state.route.idle_timeout.map(|t| context.started + t));
    let over = context.started + delay;
    let deadline = Deadline::of(state, headers, context);
    let late = deadline.at.filter(|at| *at <= over);
    match rest(late.unwrap_or(over), down).await {
        Ok(()) if late.is_some() => Err(Lost::Deadline),
        Ok(()) => Ok(()),
        Err(Gone) => Err(Lost::Gone),
    }
}

fn may_retry(state: &RouteState) -> bool {
    let route = &state.route;
    route.retry.attempts > 1
        || route.hedge.is_some()
        || route.forward().is_some_and(|f| !f.fallback.is_empty())
}

/// The request as endpoints see it.
fn outgoing(
    context: Context<'_>,
    state: &RouteState,
    request: &mut Incoming,
    path: http::uri::PathAndQuery,
) -> OutRequest {
    let route = &state.route;
    let mut headers = std::mem::take(&mut request.headers);
    let mut authority = std::mem::take(&mut request.target).into_parts().authority;
    if let Some(host) = &route.rewrite.host {
        authority = Authority::try_from(host.as_bytes()).ok();
        headers.insert(HOST, host.clone());
    }
    route.request_headers.apply(&mut headers);
    OutRequest {
        method: std::mem::take(&mut request.method),
        scheme: match context.caller.scheme {
            Scheme::Http => UriScheme::HTTP,
            Scheme::Https => UriScheme::HTTPS,
        },
        authority,
        path,
        headers,
        body: request.body,
        upgrade: request.upgrade,
        replay: route.retry.replay,
    }
}

/// Tells the caller why there is no answer.
pub(crate) async fn lose(
    context: Context<'_>,
    lost: Lost,
    down: &mut Down<'_>,
    running: &mut Running<'_>,
) {
    let unavailable = |code, detail| {
        Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            GrpcStatus::Unavailable,
            code,
            detail,
        )
    };
    let bad_gateway = |code, detail| {
        Problem::new(
            StatusCode::BAD_GATEWAY,
            GrpcStatus::Unavailable,
            code,
            detail,
        )
    };
    let late = |code, detail| {
        Problem::new(
            StatusCode::GATEWAY_TIMEOUT,
            GrpcStatus::DeadlineExceeded,
            code,
            detail,
        )
    };
    let problem = match lost {
        Lost::Gone => {
            // Nobody is left to be told.
            if let Down::H1(d) = down {
                d.close_after();
            }
            return;
        }
        Lost::NoneFit(none) => Problem {
            retry_after: returns_in(none, context.worker.now()),
            ..unavailable("no-endpoint", "no endpoint of the upstream is fit")
        },
        Lost::NotReady => unavailable(
            "service-not-ready",
            "no instance of the service became ready in time",
        ),
        Lost::Overflow | Lost::Up(UpError::Overflow) => unavailable(
            "overload",
            "a limit of the upstream's connection pool is reached",
        ),
        Lost::Up(e @ (UpError::Connect | UpError::Unsent | UpError::Refused)) => {
            unavailable("connect-failure", e.describe())
        }
        Lost::Up(e @ UpError::ConnectTimeout) => late(e.code(), e.describe()),
        Lost::Up(e @ (UpError::Reset | UpError::Malformed | UpError::NoTunnel)) => {
            bad_gateway(e.code(), e.describe())
        }
        Lost::PerTryTimeout => late("per-try-timeout", "the endpoint did not answer in time"),
        Lost::Deadline => late("timeout", "the request was not answered in time"),
        Lost::Idle => late("idle-timeout", "nothing moved for too long"),
        Lost::Malformed(detail) => Problem::bad_request("bad-body", detail),
        Lost::TooLarge => too_large(),
        Lost::Refused(refusal) => {
            return provider::talk::refused(context, &refusal, down, running).await;
        }
    };
    fail(context, &problem, down, running).await;
}

/// When the first member returns, if that is known.
fn returns_in(none: NoPick, now: Time) -> Option<Duration> {
    match none {
        NoPick::NoneFit { returns_at } => returns_at.map(|at| now.until(at)),
        _ => None,
    }
}

fn too_large() -> Problem {
    Problem::new(
        StatusCode::PAYLOAD_TOO_LARGE,
        GrpcStatus::ResourceExhausted,
        "body-too-large",
        "the request body is larger than the route allows",
    )
}
