//! From what happened to what it means for the key: the scope, the engine's verdict, and what the request does next.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::time::Duration;

use tidegate_core::{FailureKind, Scope, Time, Verdict};
use tidegate_llm::classify::{Class, Evidence, LimitScope};

use crate::failover::Failover;

/// First and longest stay away from a limited key whose provider does not say how long.
const FIRST_LIMIT: Duration = Duration::from_secs(5);
const LONGEST_LIMIT: Duration = Duration::from_secs(60);
/// Without a word of the provider, a used-up quota or a model that the key may not use is looked at again after this.
/// Probes do so earlier.
const QUOTA: Duration = Duration::from_secs(3600);
/// A provider's word is taken for no more than this; a header that says "in ten years" is a mistake of somebody.
const LONGEST_WORD: Duration = Duration::from_secs(31 * 86_400);

/// How an attempt ended.
#[derive(Clone, Copy, Debug)]
pub enum Outcome<'a> {
    /// There was an answer, whole or not, and it was classified.
    Answer(&'a Evidence),
    /// There was none.
    NoAnswer(NoAnswer),
    /// The caller left, or the attempt was given up for another reason of ours: says nothing.
    Cancelled,
}

/// Why there was no answer. All of them count, whatever status is made of them for the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NoAnswer {
    /// No connection: refused, name unknown, TLS.
    Connect,
    /// Nothing came in time.
    Timeout,
    /// The connection broke before the answer was whole.
    Reset,
    /// A kept connection ended when it was used again, or the provider refused the stream: nothing was processed, as far as can
    /// be told.
    Stale,
    /// The gateway refused to try (no slot for a connection, a breaker): a 503 of our own.
    Refused,
}

impl NoAnswer {
    /// Words for people and labels.
    pub const fn as_str(self) -> &'static str {
        match self {
            NoAnswer::Connect => "connect_failure",
            NoAnswer::Timeout => "timeout",
            NoAnswer::Reset => "reset",
            NoAnswer::Stale => "stale_connection",
            NoAnswer::Refused => "refused_here",
        }
    }
}

/// What the request does after an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Next {
    /// Nothing: the answer, good or the caller's own fault, is the caller's.
    Done,
    /// Another key at once. It costs nothing of the retry budget: the pool is the budget, each such key is tried once.
    Rotate,
    /// Another key at once, and at no cost, although this one only failed: there is one that the request has not tried. A few times.
    Another,
    /// Another attempt if the route's retry budget has one, preferably with another key.
    Retry,
    /// Another key of this provider would meet the same: the next provider in line.
    Elsewhere,
}

/// What an outcome means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// Whose health it is: the key's for one model, or ([`Scope::EMPTY`]) for all.
    pub scope: Scope,
    /// For the engine.
    pub verdict: Verdict,
    /// For the request.
    pub next: Next,
}

/// A class in one word, for labels and the status page.
pub const fn class_name(class: &Class) -> &'static str {
    match class {
        Class::Ok => "ok",
        Class::CallerFault => "caller_fault",
        Class::KeyDead => "key_dead",
        Class::ModelDenied => "model_denied",
        Class::Limited { .. } => "limited",
        Class::QuotaExhausted { .. } => "quota_exhausted",
        Class::ProviderDown => "provider_down",
        Class::Region => "region",
        Class::Broken => "broken",
    }
}

/// A cause in a line, everywhere: `limited (429 rate_limit_exceeded, seen by eu-2)`. `status`: 0 if there was no answer.
pub(crate) fn cause(class: &str, status: u16, code: Option<&str>, seen_by: Option<&str>) -> String {
    let mut text = class.replace('_', " ");
    let mut told = String::new();
    if status != 0 {
        let _ = write!(told, "{status}");
    }
    if let Some(code) = code {
        let _ = write!(told, "{}{code}", if told.is_empty() { "" } else { " " });
    }
    if let Some(replica) = seen_by {
        let comma = if told.is_empty() { "" } else { ", " };
        let _ = write!(told, "{comma}seen by {replica}");
    }
    if !told.is_empty() {
        let _ = write!(text, " ({told})");
    }
    text
}

fn words(evidence: &Evidence) -> String {
    let code = evidence.code.as_deref();
    cause(class_name(&evidence.class), evidence.status, code, None)
}

impl Failover {
    /// What an outcome of an attempt for `model` (the provider's name) means. `last` is how long the key was spared before
    /// the trial that this attempt was: a limit that goes on without a word of its length doubles it.
    pub fn judge(
        &self,
        outcome: Outcome<'_>,
        model: &Scope,
        last: Option<Duration>,
        now: Time,
    ) -> Judgement {
        match outcome {
            Outcome::Cancelled => Judgement {
                scope: model.clone(),
                verdict: Verdict::Neutral,
                next: Next::Done,
            },
            Outcome::NoAnswer(why) => Judgement {
                // Who can't be reached can't be reached for any model; who is slow may be so for one.
                scope: match why {
                    NoAnswer::Connect | NoAnswer::Refused => Scope::EMPTY,
                    NoAnswer::Timeout | NoAnswer::Reset | NoAnswer::Stale => model.clone(),
                },
                // No key has been asked: a burst beyond our own limits is no reason to be without any.
                verdict: Verdict::Failure(match why {
                    NoAnswer::Refused => FailureKind::Refused,
                    _ => FailureKind::LocalOrigin,
                }),
                next: Next::Retry,
            },
            Outcome::Answer(evidence) => self.judge_answer(evidence, model, last, now),
        }
    }

    fn judge_answer(
        &self,
        evidence: &Evidence,
        model: &Scope,
        last: Option<Duration>,
        now: Time,
    ) -> Judgement {
        let class = &evidence.class;
        use LimitScope::Key;
        let scope = match class {
            Class::KeyDead => Scope::EMPTY,
            Class::Limited { scope: Key, .. } | Class::QuotaExhausted { scope: Key, .. } => {
                Scope::EMPTY
            }
            _ => model.clone(),
        };
        let next = match class {
            Class::Ok => Next::Done,
            Class::CallerFault if evidence.try_other => Next::Rotate,
            Class::CallerFault => Next::Done,
            Class::KeyDead
            | Class::ModelDenied
            | Class::Limited { .. }
            | Class::QuotaExhausted { .. } => Next::Rotate,
            Class::ProviderDown | Class::Broken => Next::Retry,
            Class::Region => Next::Elsewhere,
        };
        let verdict = match &self.statuses {
            Some(statuses) => {
                let counts = match class {
                    Class::Ok => false,
                    // The caller's own mistake evicts no key, unless this very status was named.
                    Class::CallerFault => statuses.names(evidence.status),
                    // An answer that broke off or was no answer has no status that says so.
                    Class::Broken => true,
                    _ => statuses.matches(evidence.status) || evidence.status < 400,
                };
                match (told_until(class, now), counts) {
                    // A provider that says until when is believed at once: more requests can only fail.
                    (Some(until), true) => Verdict::Evidence {
                        cause: Cow::Owned(words(evidence)),
                        until: Some(until),
                    },
                    (_, true) => failure(evidence.status),
                    (_, false) if *class == Class::Ok => Verdict::Ok,
                    (_, false) => Verdict::Neutral,
                }
            }
            None => match class {
                Class::Ok => Verdict::Ok,
                Class::CallerFault => Verdict::Neutral,
                Class::ProviderDown | Class::Region | Class::Broken => failure(evidence.status),
                // One request may be what was refused: no word about the key, until others meet the same.
                Class::ModelDenied if !evidence.says_why() => failure(evidence.status),
                Class::KeyDead
                | Class::ModelDenied
                | Class::Limited { .. }
                | Class::QuotaExhausted { .. } => Verdict::Evidence {
                    cause: Cow::Owned(words(evidence)),
                    until: told_until(class, now).or_else(|| self.untold_until(class, last, now)),
                },
            },
        };
        Judgement {
            scope,
            verdict,
            next,
        }
    }

    /// Where the provider does not say until when. A dead key stays out until a probe passes.
    fn untold_until(&self, class: &Class, last: Option<Duration>, now: Time) -> Option<Time> {
        if self.cooldown > Duration::ZERO {
            return Some(now + self.cooldown);
        }
        match class {
            Class::Limited { .. } => {
                let time = last.map_or(FIRST_LIMIT, |last| last.saturating_mul(2));
                Some(now + time.clamp(FIRST_LIMIT, LONGEST_LIMIT))
            }
            Class::QuotaExhausted { .. } | Class::ModelDenied => Some(now + QUOTA),
            _ => None,
        }
    }
}

/// Until when the provider itself wants to be left alone: a floor.
fn told_until(class: &Class, now: Time) -> Option<Time> {
    let (Class::Limited { retry_after, .. } | Class::QuotaExhausted { retry_after, .. }) = class
    else {
        return None;
    };
    let word = (*retry_after)?;
    Some(now + word.clamp(Duration::from_secs(1), LONGEST_WORD))
}

fn failure(status: u16) -> Verdict {
    Verdict::Failure(match status {
        502..=504 => FailureKind::Gateway,
        _ => FailureKind::Status5xx,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failover::Statuses;
    use proptest::prelude::*;

    pub(crate) fn evidence(class: Class, status: u16) -> Evidence {
        Evidence {
            class,
            try_other: class != Class::CallerFault,
            status,
            code: None,
            excerpt: String::new(),
            rule: "test",
        }
    }

    fn limited(scope: LimitScope, retry_after: Option<u64>) -> Class {
        Class::Limited {
            scope,
            retry_after: retry_after.map(Duration::from_secs),
        }
    }

    fn by_status(patterns: &[&str]) -> Failover {
        Failover {
            statuses: Some(Statuses::new(patterns.iter().copied()).unwrap()),
            ..Failover::default()
        }
    }

    const NOW: Time = Time::from_secs(100);

    fn judge(policy: &Failover, class: Class, status: u16) -> Judgement {
        policy.judge(
            Outcome::Answer(&evidence(class, status)),
            &Scope::new("m"),
            None,
            NOW,
        )
    }

    fn until(judgement: &Judgement) -> Option<Option<u64>> {
        match &judgement.verdict {
            Verdict::Evidence { until, .. } => Some(until.map(|at| at.since(NOW).as_secs())),
            _ => None,
        }
    }

    #[test]
    fn by_class_each_outcome_counts_where_it_belongs() {
        let policy = Failover::default();
        let (key, model) = (Scope::EMPTY, Scope::new("m"));
        let told = |class: Class, status| {
            let judgement = judge(&policy, class, status);
            (judgement.scope.clone(), until(&judgement), judgement.next)
        };
        use Next::{Done, Elsewhere, Retry, Rotate};
        assert_eq!(told(Class::Ok, 200), (model.clone(), None, Done));
        assert_eq!(told(Class::CallerFault, 400), (model.clone(), None, Done));
        let other = Evidence {
            try_other: true,
            ..evidence(Class::CallerFault, 404)
        };
        let other = policy.judge(Outcome::Answer(&other), &model, None, NOW);
        assert_eq!((other.verdict, other.next), (Verdict::Neutral, Rotate));
        assert_eq!(told(Class::KeyDead, 401), (key.clone(), Some(None), Rotate));
        assert_eq!(
            told(Class::ModelDenied, 403),
            (model.clone(), Some(Some(3600)), Rotate)
        );
        assert_eq!(
            told(limited(LimitScope::Key, Some(30)), 429),
            (key.clone(), Some(Some(30)), Rotate)
        );
        assert_eq!(
            told(limited(LimitScope::Model, None), 429),
            (model.clone(), Some(Some(5)), Rotate)
        );
        let quota = |word: Option<u64>| Class::QuotaExhausted {
            scope: LimitScope::Key,
            retry_after: word.map(Duration::from_secs),
        };
        assert_eq!(
            told(quota(Some(9)), 429),
            (key.clone(), Some(Some(9)), Rotate)
        );
        assert_eq!(told(quota(None), 402), (key, Some(Some(3600)), Rotate));
        assert_eq!(told(Class::ProviderDown, 503), (model.clone(), None, Retry));
        assert_eq!(told(Class::Region, 403), (model.clone(), None, Elsewhere));
        assert_eq!(told(Class::Broken, 200), (model, None, Retry));
        assert_eq!(
            judge(&policy, Class::CallerFault, 400).verdict,
            Verdict::Neutral
        );
        assert_eq!(
            judge(&policy, Class::Broken, 200).verdict,
            Verdict::Failure(FailureKind::Status5xx)
        );
        assert_eq!(
            judge(&policy, Class::ProviderDown, 503).verdict,
            Verdict::Failure(FailureKind::Gateway)
        );
    }

    #[test]
    fn a_403_without_a_word_of_why_counts_and_is_no_word_about_the_key() {
        let unsaid = Evidence {
            rule: "forbidden",
            ..evidence(Class::ModelDenied, 403)
        };
        let model = Scope::new("m");
        let judgement = Failover::default().judge(Outcome::Answer(&unsaid), &model, None, NOW);
        assert_eq!(
            (judgement.scope, judgement.verdict, judgement.next),
            (
                model,
                Verdict::Failure(FailureKind::Status5xx),
                Next::Rotate
            )
        );
    }

    #[test]
    fn a_cause_has_one_form() {
        let code = Some("rate_limit_exceeded");
        for (told, text) in [
            (
                cause("limited", 429, code, None),
                "limited (429 rate_limit_exceeded)",
            ),
            (cause("key_dead", 401, None, None), "key dead (401)"),
            (cause("timeout", 0, None, None), "timeout"),
            (cause("timeout", 0, None, Some("b")), "timeout (seen by b)"),
            (
                cause("limited", 429, code, Some("b")),
                "limited (429 rate_limit_exceeded, seen by b)",
            ),
        ] {
            assert_eq!(told, text);
        }
    }

    #[test]
    fn a_limit_without_a_word_doubles_up_to_a_minute() {
        let policy = Failover::default();
        let evidence = evidence(limited(LimitScope::Model, None), 429);
        let next = |last: u64| {
            let last = Some(Duration::from_secs(last));
            until(&policy.judge(Outcome::Answer(&evidence), &Scope::new("m"), last, NOW))
        };
        assert_eq!(
            [next(5), next(20), next(50), next(0)],
            [
                Some(Some(10)),
                Some(Some(40)),
                Some(Some(60)),
                Some(Some(5))
            ]
        );
    }

    #[test]
    fn by_status_what_matches_counts_whatever_its_class() {
        let policy = by_status(&["4..", "5.."]);
        let verdict = |class, status| judge(&policy, class, status).verdict;
        assert_eq!(
            verdict(Class::KeyDead, 401),
            Verdict::Failure(FailureKind::Status5xx)
        );
        assert_eq!(
            verdict(limited(LimitScope::Key, None), 429),
            Verdict::Failure(FailureKind::Status5xx)
        );
        assert_eq!(
            verdict(Class::ProviderDown, 503),
            Verdict::Failure(FailureKind::Gateway)
        );
        assert_eq!(verdict(Class::Ok, 200), Verdict::Ok);
        let narrow = by_status(&["429"]);
        assert_eq!(
            judge(&narrow, Class::KeyDead, 401).verdict,
            Verdict::Neutral
        );
        assert_eq!(judge(&narrow, Class::KeyDead, 401).next, Next::Rotate);
    }

    #[test]
    fn by_status_a_callers_fault_counts_only_where_its_status_is_named() {
        assert_eq!(
            judge(&by_status(&["4.*", "5.*"]), Class::CallerFault, 404).verdict,
            Verdict::Neutral
        );
        assert_eq!(
            judge(&by_status(&["404"]), Class::CallerFault, 404).verdict,
            Verdict::Failure(FailureKind::Status5xx)
        );
    }

    #[test]
    fn by_status_an_answer_that_broke_within_a_200_counts() {
        let policy = by_status(&["5.."]);
        assert_eq!(
            judge(&policy, Class::Broken, 200).verdict,
            Verdict::Failure(FailureKind::Status5xx)
        );
        // An error event in a stream that began with 200, classified by what it said.
        assert_eq!(
            judge(&policy, Class::ProviderDown, 200).verdict,
            Verdict::Failure(FailureKind::Status5xx)
        );
    }

    proptest! {
        #[test]
        fn what_a_provider_says_is_a_floor_in_both_ways(seconds in 1u64..1_000_000, key: bool, cooldown in 0u64..10, by: bool) {
            let mut policy = if by { by_status(&["429"]) } else { Failover::default() };
            policy.cooldown = Duration::from_secs(cooldown);
            let scope = if key { LimitScope::Key } else { LimitScope::Model };
            let judgement = judge(&policy, limited(scope, Some(seconds)), 429);
            prop_assert_eq!(until(&judgement), Some(Some(seconds)));
        }

        #[test]
        fn no_answer_always_counts(why in prop::sample::select(vec![NoAnswer::Connect, NoAnswer::Timeout, NoAnswer::Reset, NoAnswer::Stale, NoAnswer::Refused]), by: bool) {
            let policy = if by { by_status(&["5.."]) } else { Failover::default() };
            let judgement = policy.judge(Outcome::NoAnswer(why), &Scope::new("m"), None, NOW);
            prop_assert!(matches!(judgement.verdict, Verdict::Failure(_)));
            prop_assert_eq!(judgement.next, Next::Retry);
        }
    }
}
