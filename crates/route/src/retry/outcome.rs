//! How an attempt ended, and whether the request may be sent again for safety's sake.

use std::time::Duration;

use http::{HeaderMap, Method};

/// How an attempt ended, as far as retrying is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttemptOutcome {
    /// No connection: nothing was written. Also a kept connection that the peer had closed before a byte was written.
    ConnectFailure,
    /// The peer says that it did not process the request: REFUSED_STREAM, or GOAWAY with a lower last stream id.
    Refused,
    /// The connection or stream ended before the response's head.
    Reset {
        /// What of the request had been written.
        written: Written,
    },
    /// The attempt was given up after `per_try_timeout`.
    PerTryTimeout {
        /// What of the request had been written.
        written: Written,
    },
    /// The response's head, with this status. For gRPC answers use `Grpc`.
    Status(u16),
    /// The gRPC status of a headers-only answer, or of trailers before any message.
    Grpc {
        /// The code; unknown numbers count as 2 (UNKNOWN).
        code: u16,
        /// What `grpc-retry-pushback-ms` said.
        pushback: Pushback,
    },
}

/// How much of a request the peer may have seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// Not a byte of it.
    Nothing,
    /// At least a byte: the peer may be working on it.
    Some,
}

/// `grpc-retry-pushback-ms` (gRPC A6).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pushback {
    /// Not sent.
    #[default]
    Absent,
    /// Retry after exactly this time instead of the back-off.
    After(Duration),
    /// Do not retry: negative or not a number.
    Never,
}

impl Pushback {
    /// Reads it from a headers-only answer or from trailers. More than one value is no number.
    pub fn from_headers(headers: &HeaderMap) -> Pushback {
        let mut values = headers.get_all("grpc-retry-pushback-ms").iter();
        let Some(value) = values.next() else {
            return Pushback::Absent;
        };
        if values.next().is_some() {
            return Pushback::Never;
        }
        // A signed 32-bit number: what does not fit is no valid pushback.
        match value
            .to_str()
            .ok()
            .and_then(|text| text.trim().parse::<i32>().ok())
        {
            Some(millis @ 0..) => {
                Pushback::After(Duration::from_millis(millis.unsigned_abs().into()))
            }
            _ => Pushback::Never,
        }
    }
}
/// Methods that may be sent twice with the effect of once (RFC 9110 §9.2.2). gRPC calls are POST, hence are not.
pub fn is_idempotent(method: &Method) -> bool {
    matches!(
        *method,
        Method::GET | Method::HEAD | Method::PUT | Method::DELETE | Method::OPTIONS | Method::TRACE
    )
}

/// Whether a request may be sent again, for safety's sake alone.
///
/// Yes whatever the method if nothing was written or the peer says that it did not process it. Written but unanswered:
/// only if the method is idempotent or the route says `retry.replay: true`. Answered with an error: the policy decides,
/// as the peer has told what became of it.
pub fn may_replay(outcome: &AttemptOutcome, method: &Method, replay: bool) -> bool {
    match outcome {
        AttemptOutcome::ConnectFailure | AttemptOutcome::Refused => true,
        AttemptOutcome::Reset { written } | AttemptOutcome::PerTryTimeout { written } => {
            *written == Written::Nothing || replay || is_idempotent(method)
        }
        AttemptOutcome::Status(_) | AttemptOutcome::Grpc { .. } => true,
    }
}
/// Whether the peer certainly did not process the request.
pub(super) fn is_safe(outcome: &AttemptOutcome) -> bool {
    matches!(
        outcome,
        AttemptOutcome::ConnectFailure
            | AttemptOutcome::Refused
            | AttemptOutcome::Reset {
                written: Written::Nothing
            }
    )
}
