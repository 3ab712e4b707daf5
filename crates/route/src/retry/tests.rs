//! Retry decisions, row by row.

use http::{HeaderMap, HeaderValue};
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
