//! The answer of an endpoint on its way to the caller, and the verdict on the endpoint when it is over.
//!
//! In two parts, because every exchange pays for all that is kept while its body moves: the head, at once; then the body.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{self, Poll, Waker};
use std::time::Duration;

use http::{HeaderMap, StatusCode};
use tidegate_core::{FailureKind, InFlight, Permit, Pick, Verdict};
use tidegate_wire::grpc::{self, GrpcStatus};
use tidegate_wire::h1::BodyLength;

use super::attempt::{Deadline, Won, count};
use super::relay::{Answer, BodyEnd};
use super::source::{Cursor, Source};
use super::timer::Timer;
use super::websocket::{self, Handshake, Unfit};
use super::{Context, Running, head, load, outcome, tunnel};
use crate::clock;
use crate::down::Down;
use crate::snapshot::RouteState;
use crate::trace::Settled;
use crate::up::Up;
use crate::upstream::{Target, Upstream};
use crate::watch::Watch;

/// An answer that took this long begins its idle time anew; others have hardly used any of it.
const LONG: Duration = Duration::from_secs(1);

/// What comes after the head of an answer.
pub(super) enum Begun {
    Body(Rest),
    /// Protocols were switched.
    Tunnel(Switched),
    /// It must not reach the caller.
    Unfit(Unfit),
    /// The caller left.
    Gone,
}

/// An answer whose head the caller has.
pub(super) struct Rest {
    up: Up,
    cursor: Cursor,
    pick: Pick<Arc<Target>>,
    /// From the attempt's start to the head.
    latency: Duration,
    upstream: Arc<Upstream>,
    status: StatusCode,
    grpc: Option<u16>,
    /// There is no body.
    end: bool,
    /// The answer ends with trailers whatever happens.
    trailing: bool,
    _permit: Permit,
}

/// A tunnel that is open.
pub(super) struct Switched {
    up: Up,
    /// What the tunnel carries says nothing about the endpoint, but it is in flight there as long as it is open.
    _in_flight: InFlight<Arc<Target>>,
    _permit: Permit,
}

/// How long an answer's body may take.
pub(super) struct Until {
    pub(super) deadline: Deadline,
    /// The deadline's.
    pub(super) timer: Timer,
    /// Without a byte either way.
    pub(super) idle: Option<Duration>,
}

/// Gives the caller the answer's head.
pub(super) fn begin(
    context: Context<'_>,
    state: &RouteState,
    won: Won,
    handshake: Option<&Handshake>,
    source: &mut Source,
    down: &mut Down<'_>,
    running: &mut Running<'_>,
) -> Begun {
    let Context {
        worker,
        watch,
        is_grpc,
        ..
    } = context;
    let Won {
        up,
        mut cursor,
        mut response,
        pick,
        latency,
        upstream,
        traffic,
        permit,
        asking: _,
    } = won;
    running.count_as(&traffic);
    let recorded = running.is_recorded();
    let report = &mut running.report;
    if recorded {
        report.upstream = Some(upstream.name.clone());
        report.member = Some(pick.member().id().clone());
    }
    let mut status = response.status;
    let grpc = if is_grpc {
        outcome::grpc_code(&response.headers)
    } else {
        None
    };
    if upstream.wants_load {
        load::report(&response.headers, &pick, worker.now());
    }
    head::response(&mut response.headers, status, down.is_h2());
    let switched = status == StatusCode::SWITCHING_PROTOCOLS;
    match websocket::answer(handshake, up.is_h2(), status, &mut response.headers) {
        Ok(callers) => status = callers,
        Err(unfit) => {
            up.cancel();
            let verdict = unfit.verdict();
            if let Some(trace) = report.trace() {
                let settled = Settled::answered(status.as_u16(), None, &verdict, "bad-answer");
                trace.settle(pick.member().key(), settled);
            }
            count(&upstream.attempts, worker.index, &verdict);
            pick.finish(verdict, Some(latency), worker.now());
            return Begun::Unfit(unfit);
        }
    }
    if let (Some(reason), Down::H1(d)) = (response.reason.take(), &mut *down) {
        d.say(reason);
    }
    state.route.response_headers.apply(&mut response.headers);
    source.commit(&mut cursor);
    report.status = status.as_u16();
    if latency > LONG {
        // A head is a sign of life too.
        watch.set(state.route.idle_timeout.map(|t| clock::now() + t));
    }
    if switched {
        if let Some(trace) = report.trace() {
            // It lasts as long as the tunnel does.
            trace.switched(pick.member().key(), response.status.as_u16());
        }
        let begun = down.head(status, response.headers, response.body, false);
        count(&upstream.attempts, worker.index, &Verdict::Ok);
        let in_flight = pick.finish_held(Verdict::Ok, Some(latency), worker.now());
        return match begun {
            Ok(()) => Begun::Tunnel(Switched {
                up,
                _in_flight: in_flight,
                _permit: permit,
            }),
            Err(_) => Begun::Gone,
        };
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
        if let Some(trace) = report.trace() {
            let settled =
                Settled::answered(status.as_u16(), grpc, &Verdict::Neutral, "caller-gone");
            trace.settle(pick.member().key(), settled);
        }
        count(&upstream.attempts, worker.index, &Verdict::Neutral);
        pick.finish(Verdict::Neutral, Some(latency), worker.now());
        report.status = 0;
        return Begun::Gone;
    }
    Begun::Body(Rest {
        up,
        cursor,
        pick,
        latency,
        upstream,
        status,
        grpc,
        end,
        trailing,
        _permit: permit,
    })
}

impl Switched {
    /// Carries bytes both ways until one side ends.
    pub(super) async fn tunnel(
        self,
        watch: &Watch,
        idle: Option<Duration>,
        down: &mut Down<'_>,
        running: &mut Running<'_>,
    ) {
        let moved = tunnel::tunnel(self.up, down, watch, idle).await;
        running.report.bytes_up += moved.up;
        running.report.bytes_down = moved.down;
    }
}

/// Relays the answer's body to its end, and gives the verdict.
///
/// Not an `async fn`: that keeps its arguments twice.
pub(super) fn body<'a>(
    context: Context<'a>,
    mut rest: Rest,
    mut until: Until,
    source: &'a mut Source,
    down: &'a mut Down<'_>,
    running: &'a mut Running<'_>,
) -> impl Future<Output = ()> {
    let mut answer = Answer::new(rest.end);
    async move {
        let mut silent = false;
        let ended = poll_fn(|cx| {
            let watch = context.watch;
            if until.timer.is_over(until.deadline.at, watch, cx) || watch.poll_over(cx).is_ready() {
                // The endpoint's silence only if it has the whole request and the caller takes what comes.
                silent = rest.cursor.done && down.poll_room(cx).is_ready();
                return Poll::Ready(None);
            }
            let mut moved = false;
            let polled = answer.poll(&mut rest.up, down, source, &mut rest.cursor, &mut moved, cx);
            if moved && polled.is_pending() {
                context.watch.set(until.idle.map(|t| clock::now() + t));
            }
            polled.map(Some)
        })
        .await;
        running.report.bytes_up = source.taken();
        running.report.bytes_down = answer.bytes;
        let silent = silent && !until.deadline.callers;
        rest.end(context, ended, silent, down, running);
    }
}

impl Rest {
    /// Gives the verdict on the endpoint, and lets go of it. `silent`: time ran out, and it is to blame.
    fn end(
        self,
        context: Context<'_>,
        ended: Option<BodyEnd>,
        silent: bool,
        down: &mut Down<'_>,
        running: &mut Running<'_>,
    ) {
        let Context {
            worker, is_grpc, ..
        } = context;
        let report = &mut running.report;
        let Self {
            up,
            cursor,
            pick,
            latency,
            upstream,
            status,
            mut grpc,
            trailing,
            ..
        } = self;
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
                if silent {
                    Verdict::Failure(FailureKind::LocalOrigin)
                } else {
                    Verdict::Neutral
                }
            }
        };
        report.error |= status.is_server_error() || matches!(verdict, Verdict::Failure(_));
        let code = report.code;
        if let Some(trace) = report.trace() {
            let settled = Settled::answered(status.as_u16(), grpc, &verdict, code);
            trace.settle(pick.member().key(), settled);
        }
        count(&upstream.attempts, worker.index, &verdict);
        pick.finish(verdict, Some(latency), worker.now());
    }
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
fn stop(up: Up, down: &mut Down<'_>) {
    up.finish();
    match down {
        Down::H1(d) => d.close_after(),
        Down::H2(d) => d.stop_request(),
    }
}
