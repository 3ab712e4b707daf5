//! Retries: when another attempt may be made, how long to wait before it, and how attempts are hedged.
//!
//! Three questions are kept apart. *Is it safe?* ([`may_replay`]) depends on the method and on what the peer can have
//! seen. *Is it wanted?* ([`RetryPolicy::should_retry`]) is the route's `retry.on`; safe retries and resets under a
//! request that may be replayed need not be named there. *Is there room?* is the number of
//! attempts, here, and the budget and the buffer, which the gateway holds. [`RetryPolicy::decide`] puts the first two
//! and the number together.

use std::time::Duration;

use http::Method;

mod outcome;

use outcome::is_safe;
pub use outcome::{AttemptOutcome, Pushback, Written, is_idempotent, may_replay};

/// gRPC A6: a service config may ask for more, five attempts are made at most.
pub const GRPC_MAX_ATTEMPTS: u32 = 5;

/// Safe retries (nothing of the request was processed) that one request may use beyond its counted attempts. They
/// need no policy, so something must keep a request from walking through a dead cluster member by member.
pub const MAX_SAFE_RETRIES: u32 = 4;

/// One thing that `retry.on` names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Condition {
    /// `connect-failure`.
    ConnectFailure,
    /// `refused-stream`.
    RefusedStream,
    /// `reset`: the connection or stream ended before the response's head.
    Reset,
    /// `per-try-timeout`.
    PerTryTimeout,
    /// `5xx`: a status of 500 or more, or no answer at all.
    Status5xx,
    /// `gateway-error`: 502, 503, 504, or no answer at all.
    GatewayError,
    /// `cancelled` (gRPC 1).
    Cancelled,
    /// `deadline-exceeded` (gRPC 4).
    DeadlineExceeded,
    /// `resource-exhausted` (gRPC 8).
    ResourceExhausted,
    /// `internal` (gRPC 13).
    Internal,
    /// `unavailable` (gRPC 14).
    Unavailable,
}

/// A set of conditions, and statuses named one by one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RetryOn {
    conditions: u16,
    statuses: Box<[u16]>,
}

impl RetryOn {
    /// These conditions and these HTTP statuses (`retriable-status-codes`).
    pub fn new(
        conditions: impl IntoIterator<Item = Condition>,
        statuses: impl Into<Box<[u16]>>,
    ) -> RetryOn {
        let conditions = conditions
            .into_iter()
            .fold(0, |set, condition| set | 1 << condition as u8);
        RetryOn {
            conditions,
            statuses: statuses.into(),
        }
    }

    /// Whether the condition is in the set.
    pub fn has(&self, condition: Condition) -> bool {
        self.conditions & 1 << condition as u8 != 0
    }

    fn any(&self, conditions: &[Condition]) -> bool {
        conditions.iter().any(|&condition| self.has(condition))
    }
}

/// Back-off between counted attempts: exponential, ±20% (gRPC A6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// Before the first retry.
    pub initial: Duration,
    /// Ceiling, before the jitter.
    pub max: Duration,
}

impl Backoff {
    /// The pause before retry `number` (the first is 1), with the jitter drawn from a uniformly random number.
    pub fn delay(&self, number: u32, random: u64) -> Duration {
        let doublings = number.saturating_sub(1).min(31);
        let base = self.initial.saturating_mul(1 << doublings).min(self.max);
        let jitter = 0.8 + 0.4 * (random >> 11) as f64 / (1u64 << 53) as f64;
        base.mul_f64(jitter)
    }
}

/// How much of an upstream's traffic may be retries.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RetryBudget {
    /// Retries in flight over requests in flight, 0 to 100.
    pub percent: f64,
    /// Retries in flight that are allowed in any case.
    pub min: u32,
}

/// A route's `retry`.
#[derive(Clone, Debug, PartialEq)]
pub struct RetryPolicy {
    /// Attempts in total, the first included; at least 1.
    pub attempts: u32,
    /// What is retried.
    pub on: RetryOn,
    /// Time for one attempt up to the response's head, if limited.
    pub per_try_timeout: Option<Duration>,
    /// Pauses.
    pub backoff: Backoff,
    /// How much of an upstream's traffic may be retries, if bounded.
    pub budget: Option<RetryBudget>,
    /// Bytes of the request body kept for a retry; beyond them the attempt commits.
    pub buffer: usize,
    /// Whether a request that was written but not answered may be sent again whatever its method.
    pub replay: bool,
}

/// Further attempts before the first has answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HedgePolicy {
    /// Wait before each further attempt.
    pub delay: Duration,
    /// Attempts at once, the first included.
    pub attempts: u32,
}

/// Attempts that a request has made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tries {
    /// Attempts that count against `attempts`, the running one included.
    pub counted: u32,
    /// Safe retries made.
    pub safe: u32,
}

/// What follows a failed attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Another attempt at once, on another member: the request was certainly not processed. The failed attempt does
    /// not count, the retry budget is not asked.
    Safe,
    /// A counted retry after this pause, if the retry budget gives leave.
    Retry(Duration),
    /// The outcome goes to the caller.
    GiveUp(GiveUp),
}

/// Why no further attempt is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GiveUp {
    /// `retry.on` does not name it (a success is such an outcome).
    NotWanted,
    /// All attempts are made.
    NoAttemptsLeft,
    /// The peer may have processed it, and sending it again is not allowed (`retry.replay`).
    NotReplayable,
    /// The server said not to (`grpc-retry-pushback-ms`).
    Pushback,
}

impl RetryPolicy {
    /// No counted retries at all; safe ones are made all the same.
    pub fn none() -> RetryPolicy {
        RetryPolicy {
            attempts: 1,
            on: RetryOn::default(),
            per_try_timeout: None,
            backoff: Backoff {
                initial: Duration::from_millis(25),
                max: Duration::from_secs(1),
            },
            budget: Some(RetryBudget {
                percent: 20.0,
                min: 3,
            }),
            buffer: 64 << 10,
            replay: false,
        }
    }

    /// Attempts in total for a call: at most five for gRPC (A6).
    pub fn attempts_for(&self, grpc: bool) -> u32 {
        if grpc {
            self.attempts.min(GRPC_MAX_ATTEMPTS)
        } else {
            self.attempts
        }
    }

    /// Whether a further attempt may start while the first is still under way: both may be processed.
    pub fn may_hedge(&self, method: &Method) -> bool {
        self.replay || is_idempotent(method)
    }

    /// Whether `retry.on` names this outcome (Envoy's `retry_on` and `retry_grpc_on`).
    pub fn should_retry(&self, outcome: &AttemptOutcome) -> bool {
        use Condition::{
            Cancelled, ConnectFailure, DeadlineExceeded, GatewayError, Internal, PerTryTimeout,
            RefusedStream, Reset, ResourceExhausted, Status5xx, Unavailable,
        };
        match outcome {
            AttemptOutcome::ConnectFailure => {
                self.on
                    .any(&[ConnectFailure, Status5xx, GatewayError, Reset])
            }
            AttemptOutcome::Refused => {
                self.on
                    .any(&[RefusedStream, Status5xx, GatewayError, Reset])
            }
            AttemptOutcome::Reset { .. } => self.on.any(&[Reset, Status5xx, GatewayError]),
            AttemptOutcome::PerTryTimeout { .. } => {
                self.on.any(&[PerTryTimeout, Status5xx, GatewayError])
            }
            AttemptOutcome::Status(status) => {
                (*status >= 500 && self.on.has(Status5xx))
                    || (matches!(status, 502..=504) && self.on.has(GatewayError))
                    || self.on.statuses.contains(status)
            }
            AttemptOutcome::Grpc { code, .. } => match code {
                1 => self.on.has(Cancelled),
                4 => self.on.has(DeadlineExceeded),
                8 => self.on.has(ResourceExhausted),
                13 => self.on.has(Internal),
                14 => self.on.has(Unavailable),
                _ => false,
            },
        }
    }

    /// What follows an attempt with this outcome, before the commit point and while the body is still kept.
    ///
    /// `random` is uniform and draws the jitter. The gateway asks its retry budget before it makes a
    /// [`Decision::Retry`], and makes none that the total timeout would not let finish.
    pub fn decide(
        &self,
        outcome: &AttemptOutcome,
        method: &Method,
        grpc: bool,
        tries: Tries,
        random: u64,
    ) -> Decision {
        if is_safe(outcome) && tries.safe < MAX_SAFE_RETRIES {
            return Decision::Safe;
        }
        // A connection that ends under a request that may be sent twice is no policy's business: in the race of a kept
        // connection that the peer just closes, the caller would see an error that nobody made.
        if !matches!(outcome, AttemptOutcome::Reset { .. }) && !self.should_retry(outcome) {
            return Decision::GiveUp(GiveUp::NotWanted);
        }
        if !may_replay(outcome, method, self.replay) {
            return Decision::GiveUp(GiveUp::NotReplayable);
        }
        if tries.counted >= self.attempts_for(grpc) {
            return Decision::GiveUp(GiveUp::NoAttemptsLeft);
        }
        match outcome {
            AttemptOutcome::Grpc {
                pushback: Pushback::Never,
                ..
            } => Decision::GiveUp(GiveUp::Pushback),
            AttemptOutcome::Grpc {
                pushback: Pushback::After(pause),
                ..
            } => Decision::Retry(*pause),
            _ => Decision::Retry(self.backoff.delay(tries.counted, random)),
        }
    }
}

#[cfg(test)]
mod tests;
