//! A request that goes on: attempts until one answers, then the answer relayed to its end.
//!
//! What is rare (errors, tunnels) is boxed: every exchange pays for the largest state of this future.

use std::future::poll_fn;
use std::task::{self, Poll, Waker};
use std::time::{Duration, Instant};

use http::header::HOST;
use http::uri::{Authority, Scheme as UriScheme};
use http::{HeaderMap, StatusCode};
use smallvec::SmallVec;
use tidegate_core::{FailureKind, NoPick, Time, Verdict};
use tidegate_wire::grpc::{self, GrpcStatus};
use tidegate_wire::h1::BodyLength;
use tidegate_wire::headers::{REQUEST_ID, Scheme};

use super::attempt::{Deadline, Loop, Lost, Won, count};
use super::instead::fail;
use super::plan::Plan;
use super::relay::{Answer, BodyEnd};
use super::reply::Problem;
use super::source::Source;
use super::timer::{Gone, Timer, rest};
use super::websocket::{self, Handshake};
use super::{Context, Incoming, Running, head, mirror, outcome, tunnel};
use crate::clock;
use crate::down::Down;
use crate::io::spare;
use crate::provider;
use crate::provider::heartbeat::Heartbeat;
use crate::provider::resume::Again;
use crate::snapshot::RouteState;
use crate::up::{OutRequest, UpError};

/// An answer that took this long begins its idle time anew; others have hardly used any of it.
const LONG: Duration = Duration::from_secs(1);

/// Runs the plan.
pub(crate) async fn forward(
    context: Context<'_>,
    plan: Plan,
    mut request: Incoming,
    down: &mut Down<'_>,
    running: &mut Running<'_>,
) {
    let Context {
        worker,
        watch,
        started,
        is_grpc,
        ..
    } = context;
    let Plan {
        state,
        targets,
        path,
        mirror,
        delay,
        busy,
        read,
        permit: _,
    } = plan;
    let route = &state.route;
    let _busy = busy;
    // A body that was read has had its time.
    let since = if read.is_some() {
        clock::now()
    } else {
        started
    };
    watch.set(route.idle_timeout.map(|t| since + t));
    let deadline = deadline(&state, &request.headers, context);
    if let Some(delay) = delay {
        if let Err(lost) = injected(started + delay, deadline, down).await {
            return Box::pin(lose(context, lost, down, running)).await;
        }
        watch.set(route.idle_timeout.map(|t| clock::now() + t));
    }
    head::request(
        &mut request.headers,
        request.version,
        request.upgrade,
        worker,
    );
    if running.logged {
        running.report.request_id = request.headers.get(&REQUEST_ID).cloned();
    }
    let mut out = outgoing(context, &state, request, path);
    if is_grpc && let Some(at) = deadline.at {
        head::shorten_deadline(&mut out.headers, at.saturating_duration_since(clock::now()));
    }
    let limit = route
        .body_bytes
        .unwrap_or(context.caller.listener.body_bytes);
    if limit > 0 && matches!(out.body, BodyLength::Exact(n) if n > limit) {
        return Box::pin(lose(context, Lost::TooLarge, down, running)).await;
    }
    let copy = mirror.map(|index| mirror::Copy::new(context, index, &out));
    let call = read.as_ref().and_then(|read| read.call().ok());
    let mut beat = call.and_then(|call| Heartbeat::of(&state, call));
    let keep = if may_retry(&state) || copy.is_some() {
        route.retry.buffer
    } else {
        0
    };
    let handshake = Handshake::of(&out, down.is_h2());
    let (mut source, kept) = match read.and_then(|read| read.source()) {
        Some((source, kept)) => (source, Some(kept)),
        None => (Source::new(keep, limit, out.body == BodyLength::None), None),
    };
    let mut timer = Timer::default();
    let attempts = Loop {
        worker,
        snapshot: context.snapshot,
        down,
        state: &state,
        request: &mut out,
        source: &mut source,
        grpc: is_grpc,
        deadline,
        watch,
        timer: &mut timer,
        beat: &mut beat,
        made: &mut running.report.attempts,
    };
    let result = attempts.run(&targets).await;
    if let Some(copy) = copy {
        copy.send(&source);
    }
    running.report.bytes_up = source.taken();
    if let (Some(talk), Some(beat)) = (&mut running.report.talk, &beat) {
        talk.begun = beat.begun();
    }
    match result {
        Ok(won) if won.asking.is_some() => {
            // No further attempt will need the request, unless one is to go on with an answer that broke off.
            drop(source);
            let (targets, _kept) = match state.config.continue_stream {
                true => (targets, kept),
                false => {
                    drop((targets, kept));
                    (SmallVec::new(), None)
                }
            };
            let again = Again {
                targets: &targets,
                request: &mut out,
                timer,
            };
            provider::resume::relay(context, &state, won, again, deadline, down, running).await
        }
        Ok(won) => {
            let handshake = handshake.as_ref();
            relay(
                context, &state, won, handshake, source, deadline, timer, down, running,
            )
            .await
        }
        Err((lost, traffic)) => {
            if let Some(traffic) = traffic {
                running.count_as(&traffic);
            }
            if let Some(last) = targets.last() {
                if let Some(asked) = &last.asked
                    && lost.is_refusal()
                {
                    asked.unused();
                }
                match (&last.asked, &mut running.report.talk) {
                    (Some(asked), Some(talk)) => asked.tell(talk),
                    _ => running.report.upstream = Some(last.upstream.name.clone()),
                }
            }
            Box::pin(lose(context, lost, down, running)).await;
        }
    }
    spare::put_map(out.headers);
}

/// Waits for the end of an injected delay: not beyond the deadline, and not for a caller who has left.
async fn injected(over: Instant, deadline: Deadline, down: &mut Down<'_>) -> Result<(), Lost> {
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

/// The earlier of the route's timeout and the caller's own deadline.
fn deadline(state: &RouteState, headers: &HeaderMap, context: Context<'_>) -> Deadline {
    let routes = state
        .route
        .timeout
        .and_then(|t| context.started.checked_add(t));
    let callers = if context.is_grpc {
        head::grpc_deadline(headers, context.started)
    } else {
        None
    };
    match (routes, callers) {
        (Some(r), Some(c)) if c < r => Deadline {
            at: Some(c),
            callers: true,
        },
        (None, Some(c)) => Deadline {
            at: Some(c),
            callers: true,
        },
        (routes, _) => Deadline {
            at: routes,
            callers: false,
        },
    }
}

/// The request as endpoints see it.
fn outgoing(
    context: Context<'_>,
    state: &RouteState,
    request: Incoming,
    path: http::uri::PathAndQuery,
) -> OutRequest {
    let route = &state.route;
    let mut headers = request.headers;
    let mut authority = request.target.into_parts().authority;
    if let Some(host) = &route.rewrite.host {
        authority = Authority::try_from(host.as_bytes()).ok();
        headers.insert(HOST, host.clone());
    }
    route.request_headers.apply(&mut headers);
    OutRequest {
        method: request.method,
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

/// Relays the answer and gives the verdict.
#[allow(clippy::too_many_arguments)]
async fn relay(
    context: Context<'_>,
    state: &RouteState,
    won: Won,
    handshake: Option<&Handshake>,
    mut source: Source,
    deadline: Deadline,
    mut timer: Timer,
    down: &mut Down<'_>,
    running: &mut Running<'_>,
) {
    let Context {
        worker,
        watch,
        is_grpc,
        ..
    } = context;
    let Won {
        mut up,
        mut cursor,
        mut response,
        pick,
        latency,
        upstream,
        traffic,
        permit,
        asking: _,
    } = won;
    let _permit = permit;
    running.count_as(&traffic);
    let report = &mut running.report;
    if running.logged {
        report.upstream = Some(upstream.name.clone());
        report.member = Some(pick.member().id().clone());
    }
    let mut status = response.status;
    let mut grpc = if is_grpc {
        outcome::grpc_code(&response.headers)
    } else {
        None
    };
    if upstream.wants_load {
        super::load::report(&response.headers, &pick, worker.now());
    }
    head::response(&mut response.headers, status, down.is_h2());
    let switched = status == StatusCode::SWITCHING_PROTOCOLS;
    match websocket::answer(handshake, up.is_h2(), status, &mut response.headers) {
        Ok(callers) => status = callers,
        Err(unfit) => {
            up.cancel();
            let verdict = unfit.verdict();
            count(&upstream.attempts, worker.index, &verdict);
            pick.finish(verdict, Some(latency), worker.now());
            let told = async move { fail(context, &unfit.problem(), down, running).await };
            return Box::pin(told).await;
        }
    }
    if let (Some(reason), Down::H1(d)) = (response.reason.take(), &mut *down) {
        d.say(reason);
    }
    state.route.response_headers.apply(&mut response.headers);
    source.commit(&mut cursor);
    report.status = status.as_u16();
    let idle = state.route.idle_timeout;
    if latency > LONG {
        // A head is a sign of life too.
        watch.set(idle.map(|t| clock::now() + t));
    }

    if switched {
        let begun = down
            .head(status, response.headers, response.body, false)
            .is_ok();
        count(&upstream.attempts, worker.index, &Verdict::Ok);
        // What the tunnel carries says nothing about the endpoint, but it is in flight there as long as it is open.
        let _in_flight = pick.finish_held(Verdict::Ok, Some(latency), worker.now());
        if begun {
            let moved = Box::pin(tunnel::tunnel(up, down, watch, idle)).await;
            report.bytes_up += moved.up;
            report.bytes_down = moved.down;
        }
        return;
    }

    let end = up.body_done();
    // A call ends with trailers whatever happens, unless its length was promised.
    let trailing = is_grpc
        && down.is_h2()
        && status == StatusCode::OK
        && !matches!(response.body, BodyLength::Exact(_));
    if down
        .head(status, response.headers, response.body, end)
        .is_err()
    {
        up.cancel();
        count(&upstream.attempts, worker.index, &Verdict::Neutral);
        pick.finish(Verdict::Neutral, Some(latency), worker.now());
        report.status = 0;
        return;
    }
    let mut answer = Answer::new(end);
    let mut silent = false;
    let ended = poll_fn(|cx| {
        if timer.is_over(deadline.at, cx) || watch.poll_over(cx).is_ready() {
            // The endpoint's silence only if it has the whole request and the caller takes what comes.
            silent = cursor.done && down.poll_room(cx).is_ready();
            return Poll::Ready(None);
        }
        let mut moved = false;
        let polled = answer.poll(&mut up, down, &mut source, &mut cursor, &mut moved, cx);
        if moved && polled.is_pending() {
            watch.set(idle.map(|t| clock::now() + t));
        }
        polled.map(Some)
    })
    .await;
    report.bytes_up = source.taken();
    report.bytes_down = answer.bytes;
    let verdict = match ended {
        Some(BodyEnd::Whole(trailers)) => {
            if let Some(trailers) = &trailers
                && is_grpc
            {
                grpc = outcome::grpc_code(trailers).or(grpc);
            }
            // A gRPC call that ends without any status has not been answered (the caller sees UNKNOWN).
            if is_grpc && grpc.is_none() && status == StatusCode::OK {
                grpc = Some(u16::from(GrpcStatus::Unknown.code()));
            }
            report.grpc = grpc;
            if outcome::is_overload(status.as_u16(), grpc) {
                pick.overloaded(Some(latency), worker.now());
            }
            if cursor.done {
                up.finish()
            } else {
                stop(up, down)
            }
            outcome::verdict(status.as_u16(), grpc)
        }
        Some(BodyEnd::Cut(e)) => {
            report.error = true;
            report.code = "upstream-cut";
            let told = trailing.then_some((
                GrpcStatus::Unavailable,
                "the upstream died before the call was complete",
            ));
            report.grpc = break_off(down, told);
            drop(up);
            Verdict::Failure(outcome::blame(e).unwrap_or(FailureKind::LocalOrigin))
        }
        Some(BodyEnd::Gone) => {
            up.cancel();
            Verdict::Neutral
        }
        Some(BodyEnd::Refused) => {
            report.code = "bad-body";
            up.cancel();
            Verdict::Neutral
        }
        None => {
            report.error = true;
            report.code = "timeout";
            let told = trailing.then_some((
                GrpcStatus::DeadlineExceeded,
                "the call was not complete in time",
            ));
            report.grpc = break_off(down, told);
            up.cancel();
            if silent && !deadline.callers {
                Verdict::Failure(FailureKind::LocalOrigin)
            } else {
                Verdict::Neutral
            }
        }
    };
    report.error |= status.is_server_error() || matches!(verdict, Verdict::Failure(_));
    count(&upstream.attempts, worker.index, &verdict);
    pick.finish(verdict, Some(latency), worker.now());
}

/// Ends an answer that will not be whole so that nobody takes it for one: by the trailers `told` where a gRPC call may end with them, by
/// breaking it off otherwise. Gives the status that the caller gets.
#[cold]
fn break_off(down: &mut Down<'_>, told: Option<(GrpcStatus, &str)>) -> Option<u16> {
    // What came before the break is passed on.
    let cx = &mut task::Context::from_waker(Waker::noop());
    let flushed = matches!(down.poll_flush(cx), Poll::Ready(Ok(())));
    if let Some((status, message)) = told.filter(|_| flushed) {
        let mut trailers = HeaderMap::with_capacity(2);
        grpc::insert_status(&mut trailers, status, message);
        if down.trailers(trailers).is_ok() {
            return Some(u16::from(status.code()));
        }
    }
    down.cut();
    None
}

/// The answer is complete although the request is not: both sides are told that the rest is not wanted.
fn stop(up: crate::up::Up, down: &mut Down<'_>) {
    up.finish();
    match down {
        Down::H1(d) => d.close_after(),
        Down::H2(d) => d.stop_request(),
    }
}

/// Tells the caller why there is no answer.
async fn lose(context: Context<'_>, lost: Lost, down: &mut Down<'_>, running: &mut Running<'_>) {
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
        Lost::Up(e @ UpError::ConnectTimeout) => late("connect-timeout", e.describe()),
        Lost::Up(e @ UpError::Reset) => bad_gateway("upstream-reset", e.describe()),
        Lost::Up(e @ UpError::Malformed) => bad_gateway("bad-answer", e.describe()),
        Lost::Up(e @ UpError::NoTunnel) => bad_gateway("websocket-unsupported", e.describe()),
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
