//! What a request gets that does not go on to a target.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use tidegate_llm::Fault;

use super::plan::Seen;
use super::reply::{self, Problem};
use super::{Context, Running};
use crate::builtin::Builtin;
use crate::down::Down;
use crate::provider::listing::Listing;
use crate::provider::talk;
use crate::snapshot::RouteState;

/// Why a request does not go on, and what is answered.
pub(crate) enum Instead {
    Problem(Problem),
    /// An answer from the config.
    Answer {
        status: StatusCode,
        headers: HeaderMap,
        body: Bytes,
        state: Arc<RouteState>,
    },
    /// A call of a service that every listener has, and the caller's deadline.
    Builtin(Builtin, Option<Instant>),
    /// It goes on when its body has been read: see [`resume`](super::plan::resume).
    Unread(Seen),
    /// A call that no provider can be asked.
    Fault(Fault),
    /// The list of a route's models.
    Listing(Box<Listing>),
}

impl From<Fault> for Box<Instead> {
    fn from(fault: Fault) -> Self {
        Box::new(Instead::Fault(fault))
    }
}

impl From<Problem> for Box<Instead> {
    fn from(problem: Problem) -> Self {
        Box::new(Instead::Problem(problem))
    }
}

/// Answers a request that does not go on.
pub(crate) async fn answer(
    context: Context<'_>,
    instead: Instead,
    down: &mut Down<'_>,
    running: &mut Running<'_>,
) {
    match instead {
        Instead::Problem(problem) => fail(context, &problem, down, running).await,
        Instead::Answer {
            status,
            mut headers,
            body,
            state,
        } => {
            state.route.response_headers.apply(&mut headers);
            if let Ok(sent) = reply::whole(down, status, headers, body, context.is_head).await {
                running.report.status = status.as_u16();
                running.report.bytes_down = sent;
            }
        }
        Instead::Builtin(builtin, deadline) => {
            builtin.answer(context, deadline, down, running).await
        }
        Instead::Fault(fault) => Box::pin(talk::fault(context, &fault, down, running)).await,
        // Both are looked after where they come up: in front of a provider.
        Instead::Unread(_) | Instead::Listing(_) => {}
    }
}

/// Tells the caller of a problem.
pub(crate) async fn fail(
    context: Context<'_>,
    problem: &Problem,
    down: &mut Down<'_>,
    running: &mut Running<'_>,
) {
    if running.report.talk.is_some() {
        return Box::pin(talk::problem(context, problem, down, running)).await;
    }
    let report = &mut running.report;
    report.code = problem.code;
    report.error = problem.status.is_server_error();
    if let Ok(sent) = reply::problem(down, problem, context.is_grpc, context.is_head).await {
        report.bytes_down = sent;
        let as_grpc = context.is_grpc && down.is_h2();
        report.status = if as_grpc {
            200
        } else {
            problem.status.as_u16()
        };
        report.grpc = as_grpc.then(|| u16::from(problem.grpc.code()));
    }
}
