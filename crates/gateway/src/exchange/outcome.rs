//! Classifying: what an answer or its absence means for the endpoint, and for retrying.

use http::HeaderMap;
use tidegate_core::{FailureKind, Verdict};
use tidegate_route::retry::{AttemptOutcome, Pushback, Written};
use tidegate_wire::grpc;

use crate::up::{UpError, UpResponse};

/// For the retry policy: an answer's head.
pub(crate) fn of_head(response: &UpResponse, is_grpc: bool) -> AttemptOutcome {
    if is_grpc && let Some(code) = grpc_code(&response.headers) {
        // A headers-only answer; with a body the status comes in the trailers, after the commit point.
        return AttemptOutcome::Grpc {
            code,
            pushback: Pushback::from_headers(&response.headers),
        };
    }
    AttemptOutcome::Status(response.status.as_u16())
}

/// For the retry policy: no answer.
pub(crate) fn of_error(e: UpError) -> AttemptOutcome {
    match e {
        UpError::Connect
        | UpError::ConnectTimeout
        | UpError::Overflow
        | UpError::Unsent
        | UpError::NoTunnel => AttemptOutcome::ConnectFailure,
        UpError::Refused => AttemptOutcome::Refused,
        UpError::Reset | UpError::Malformed => AttemptOutcome::Reset {
            written: Written::Some,
        },
    }
}

/// What the endpoint is charged with when it did not answer.
pub(crate) fn blame(e: UpError) -> Option<FailureKind> {
    match e {
        UpError::Connect | UpError::ConnectTimeout | UpError::Reset => {
            Some(FailureKind::LocalOrigin)
        }
        UpError::Malformed => Some(FailureKind::Gateway),
        // A breaker of ours, a connection that was closed while idle, a polite refusal, something that it never said it could:
        // nothing against the endpoint.
        UpError::Overflow | UpError::Unsent | UpError::Refused | UpError::NoTunnel => None,
    }
}

/// The verdict on a whole answer.
pub(crate) fn verdict(status: u16, grpc: Option<u16>) -> Verdict {
    match grpc {
        Some(code) => verdict_of_grpc(code),
        None => verdict_of_status(status),
    }
}

/// The endpoint said that it has too much to do (429, RESOURCE_EXHAUSTED): nothing against its health, but latency-aware balancers
/// should look elsewhere for a while.
pub(crate) fn is_overload(status: u16, grpc: Option<u16>) -> bool {
    match grpc {
        Some(code) => code == 8,
        None => status == 429,
    }
}

fn verdict_of_status(status: u16) -> Verdict {
    match status {
        502..=504 => Verdict::Failure(FailureKind::Gateway),
        // Not implemented says that the caller asked for what does not exist.
        501 => Verdict::Neutral,
        500.. => Verdict::Failure(FailureKind::Status5xx),
        400..=499 => Verdict::Neutral,
        _ => Verdict::Ok,
    }
}

/// gRPC statuses as Envoy maps them to HTTP for outlier detection, with the caller's own faults left out.
fn verdict_of_grpc(code: u16) -> Verdict {
    match code {
        0 => Verdict::Ok,
        // UNKNOWN, INTERNAL, DATA_LOSS.
        2 | 13 | 15 => Verdict::Failure(FailureKind::Status5xx),
        // DEADLINE_EXCEEDED, UNAVAILABLE.
        4 | 14 => Verdict::Failure(FailureKind::Gateway),
        _ => Verdict::Neutral,
    }
}

/// `grpc-status` of a headers-only answer or of trailers.
pub(crate) fn grpc_code(headers: &HeaderMap) -> Option<u16> {
    grpc::grpc_status_of(headers).map(|status| u16::from(status.code()))
}
