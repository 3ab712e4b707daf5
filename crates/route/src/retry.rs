//! Retries: when another attempt may be made, how long to wait before it, and how attempts are hedged.
//!
//! Three questions are kept apart. *Is it safe?* ([`may_replay`]) depends on the method and on what the peer can have
//! seen. *Is it wanted?* ([`RetryPolicy::should_retry`]) is the route's `retry.on`; safe retries and resets under a
//! request that may be replayed need not be named there. *Is there room?* is the number of
//! attempts, here, and the budget and the buffer, which the gateway holds. [`RetryPolicy::decide`] puts the first two
//! and the number together.

use std::time::Duration;

use http::{HeaderMap, Method};

/// gRPC A6: a service config may ask for more, five attempts are made at most.
pub const GRPC_MAX_ATTEMPTS: u32 = 5;

/// Safe retries (nothing of the request was processed) that one request may use beyond its counted attempts. They
/// need no policy, so something must keep a request from walking through a dead cluster member by member.
pub const MAX_SAFE_RETRIES: u32 = 4;

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

/// Whether the peer certainly did not process the request.
fn is_safe(outcome: &AttemptOutcome) -> bool {
    matches!(
        outcome,
        AttemptOutcome::ConnectFailure
            | AttemptOutcome::Refused
            | AttemptOutcome::Reset {
                written: Written::Nothing
            }
    )
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    const UNAVAILABLE: AttemptOutcome = AttemptOutcome::Grpc {
        code: 14,
        pushback: Pushback::Absent,
    };
    const RESET: AttemptOutcome = AttemptOutcome::Reset {
        written: Written::Some,
    };
    const FIRST: Tries = Tries {
        counted: 1,
        safe: 0,
    };

    fn on(conditions: &[Condition]) -> RetryPolicy {
        RetryPolicy {
            attempts: 3,
            on: RetryOn::new(conditions.iter().copied(), Vec::new()),
            ..RetryPolicy::none()
        }
    }

    fn is_retry(decision: Decision) -> bool {
        matches!(decision, Decision::Retry(_))
    }

    #[test]
    fn a_request_that_was_not_processed_is_retried_whatever_method_and_policy_say() {
        let policy = RetryPolicy::none();
        for outcome in [
            AttemptOutcome::ConnectFailure,
            AttemptOutcome::Refused,
            AttemptOutcome::Reset {
                written: Written::Nothing,
            },
        ] {
            assert!(may_replay(&outcome, &Method::POST, false));
            assert_eq!(
                policy.decide(&outcome, &Method::POST, false, FIRST, 0),
                Decision::Safe
            );
        }
    }

    #[test]
    fn safe_retries_are_bounded_and_then_count() {
        let used_up = Tries {
            counted: 1,
            safe: MAX_SAFE_RETRIES,
        };
        let none = RetryPolicy::none().decide(
            &AttemptOutcome::ConnectFailure,
            &Method::GET,
            false,
            used_up,
            0,
        );
        assert_eq!(none, Decision::GiveUp(GiveUp::NotWanted));
        let some = on(&[Condition::ConnectFailure]);
        assert!(is_retry(some.decide(
            &AttemptOutcome::ConnectFailure,
            &Method::POST,
            false,
            used_up,
            0
        )));
    }

    #[test]
    fn written_but_unanswered_is_sent_again_only_if_idempotent_or_marked_replayable() {
        let mut policy = on(&[Condition::Reset, Condition::PerTryTimeout]);
        for outcome in [
            RESET,
            AttemptOutcome::PerTryTimeout {
                written: Written::Some,
            },
        ] {
            policy.replay = false;
            let post = policy.decide(&outcome, &Method::POST, false, FIRST, 0);
            assert_eq!(post, Decision::GiveUp(GiveUp::NotReplayable));
            assert!(is_retry(policy.decide(
                &outcome,
                &Method::PUT,
                false,
                FIRST,
                0
            )));
            policy.replay = true;
            assert!(is_retry(policy.decide(
                &outcome,
                &Method::POST,
                false,
                FIRST,
                0
            )));
        }
    }

    #[test]
    fn a_reset_is_retried_without_being_named_where_it_may_be_replayed() {
        let mut policy = on(&[Condition::Unavailable]);
        assert!(is_retry(policy.decide(
            &RESET,
            &Method::GET,
            false,
            FIRST,
            0
        )));
        let post = policy.decide(&RESET, &Method::POST, false, FIRST, 0);
        assert_eq!(post, Decision::GiveUp(GiveUp::NotReplayable));
        policy.replay = true;
        assert!(is_retry(policy.decide(
            &RESET,
            &Method::POST,
            false,
            FIRST,
            0
        )));
        // A timeout may be slowness that a second try doubles: it must be named.
        let timeout = AttemptOutcome::PerTryTimeout {
            written: Written::Some,
        };
        assert_eq!(
            policy.decide(&timeout, &Method::GET, false, FIRST, 0),
            Decision::GiveUp(GiveUp::NotWanted)
        );
    }

    #[test]
    fn only_idempotent_or_replayable_requests_are_hedged() {
        let mut policy = RetryPolicy::none();
        assert!(policy.may_hedge(&Method::GET));
        assert!(!policy.may_hedge(&Method::POST));
        policy.replay = true;
        assert!(policy.may_hedge(&Method::POST));
    }

    #[test]
    fn an_answered_error_is_retried_by_policy_alone() {
        let policy = on(&[Condition::GatewayError, Condition::Unavailable]);
        assert!(is_retry(policy.decide(
            &AttemptOutcome::Status(503),
            &Method::POST,
            false,
            FIRST,
            0
        )));
        assert!(is_retry(policy.decide(
            &UNAVAILABLE,
            &Method::POST,
            true,
            FIRST,
            0
        )));
        let no = policy.decide(&AttemptOutcome::Status(500), &Method::GET, false, FIRST, 0);
        assert_eq!(no, Decision::GiveUp(GiveUp::NotWanted));
    }

    #[test]
    fn unavailable_is_the_grpc_status_and_not_503() {
        let policy = on(&[Condition::Unavailable]);
        assert!(policy.should_retry(&UNAVAILABLE));
        assert!(!policy.should_retry(&AttemptOutcome::Status(503)));
    }

    #[test]
    fn conditions_cover_what_envoys_cover() {
        let timeout = AttemptOutcome::PerTryTimeout {
            written: Written::Some,
        };
        let table: [(Condition, &[AttemptOutcome], &[AttemptOutcome]); 5] = [
            (
                Condition::Status5xx,
                &[
                    AttemptOutcome::Status(500),
                    AttemptOutcome::ConnectFailure,
                    RESET,
                    timeout,
                    AttemptOutcome::Refused,
                ],
                &[AttemptOutcome::Status(499), UNAVAILABLE],
            ),
            (
                Condition::GatewayError,
                &[
                    AttemptOutcome::Status(502),
                    AttemptOutcome::Status(504),
                    RESET,
                ],
                &[AttemptOutcome::Status(500), AttemptOutcome::Status(505)],
            ),
            (
                Condition::Reset,
                &[RESET, AttemptOutcome::Refused],
                &[timeout, AttemptOutcome::Status(503)],
            ),
            (Condition::PerTryTimeout, &[timeout], &[RESET]),
            (
                Condition::ConnectFailure,
                &[AttemptOutcome::ConnectFailure],
                &[RESET, AttemptOutcome::Refused],
            ),
        ];
        for (condition, yes, no) in table {
            let policy = on(&[condition]);
            assert!(
                yes.iter().all(|outcome| policy.should_retry(outcome)),
                "{condition:?}"
            );
            assert!(
                !no.iter().any(|outcome| policy.should_retry(outcome)),
                "{condition:?}"
            );
        }
        let named = RetryPolicy {
            on: RetryOn::new([], vec![429]),
            ..RetryPolicy::none()
        };
        assert!(named.should_retry(&AttemptOutcome::Status(429)));
        assert!(!named.should_retry(&AttemptOutcome::Status(503)));
    }

    #[test]
    fn a_success_is_never_retried() {
        let policy = on(&[
            Condition::Status5xx,
            Condition::Unavailable,
            Condition::Internal,
        ]);
        for outcome in [
            AttemptOutcome::Status(200),
            AttemptOutcome::Grpc {
                code: 0,
                pushback: Pushback::Absent,
            },
        ] {
            assert_eq!(
                policy.decide(&outcome, &Method::GET, true, FIRST, 0),
                Decision::GiveUp(GiveUp::NotWanted)
            );
        }
    }

    #[test]
    fn attempts_are_the_total_and_grpc_makes_five_at_most() {
        let policy = RetryPolicy {
            attempts: 9,
            ..on(&[Condition::Status5xx, Condition::Unavailable])
        };
        let made = |counted| Tries { counted, safe: 0 };
        assert!(is_retry(policy.decide(
            &AttemptOutcome::Status(500),
            &Method::GET,
            false,
            made(8),
            0
        )));
        let end = Decision::GiveUp(GiveUp::NoAttemptsLeft);
        assert_eq!(
            policy.decide(
                &AttemptOutcome::Status(500),
                &Method::GET,
                false,
                made(9),
                0
            ),
            end
        );
        assert!(is_retry(policy.decide(
            &UNAVAILABLE,
            &Method::POST,
            true,
            made(4),
            0
        )));
        assert_eq!(
            policy.decide(&UNAVAILABLE, &Method::POST, true, made(5), 0),
            end
        );
    }

    #[test]
    fn pushback_replaces_the_back_off_or_forbids_the_retry() {
        let policy = on(&[Condition::Unavailable]);
        let with = |values: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append("grpc-retry-pushback-ms", HeaderValue::from_static(value));
            }
            let outcome = AttemptOutcome::Grpc {
                code: 14,
                pushback: Pushback::from_headers(&headers),
            };
            policy.decide(&outcome, &Method::POST, true, FIRST, 0)
        };
        assert_eq!(
            with(&["1500"]),
            Decision::Retry(Duration::from_millis(1500))
        );
        assert_eq!(with(&["0"]), Decision::Retry(Duration::ZERO));
        let never = Decision::GiveUp(GiveUp::Pushback);
        assert_eq!(with(&["-1"]), never);
        assert_eq!(with(&["soon"]), never);
        assert_eq!(with(&["99999999999999"]), never);
        assert_eq!(with(&["1", "2"]), never);
        assert!(is_retry(with(&[])));
    }

    proptest! {
        #[test]
        fn back_off_doubles_up_to_its_ceiling_within_twenty_percent(number in 1u32..100, random: u64) {
            let backoff = Backoff { initial: Duration::from_millis(25), max: Duration::from_secs(1) };
            let base = (0.025 * 2f64.powi(number as i32 - 1)).min(1.0);
            let delay = backoff.delay(number, random).as_secs_f64();
            prop_assert!(delay >= base * 0.799_999 && delay <= base * 1.200_001, "{} {}", base, delay);
        }
    }
}
