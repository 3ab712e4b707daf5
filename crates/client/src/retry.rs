//! When a call is tried again, as gRPC's proposal A6 has it. Pure: the clock's time and chance come in.

use std::time::Duration;

use tonic::Code;

/// Most attempts of a call, whatever is asked for (A6).
pub const MAX_ATTEMPTS: u32 = 5;

/// How often and how fast a failed call is tried again.
#[derive(Debug, Clone, PartialEq)]
pub struct Retry {
    /// Attempts in all, the first included; 1 is no retry, more than [`MAX_ATTEMPTS`] is that.
    pub attempts: u32,
    /// Wait before the second attempt, before ±20% of jitter.
    pub initial: Duration,
    /// Longest wait.
    pub max: Duration,
    /// Factor from one wait to the next.
    pub multiplier: f64,
    /// Codes that are tried again.
    pub codes: Vec<Code>,
    /// Bounds retries when most calls fail. Default: 100 tokens and a tenth of one back, enough for many callers that meet one restart.
    pub throttling: Option<Throttling>,
}

impl Default for Retry {
    /// Five attempts, 1 s doubled up to 30 s, on UNAVAILABLE, INTERNAL and UNKNOWN. Where Tidegate's host says what went wrong (a reason
    /// beside INTERNAL: the model failed), it would again, and only UNAVAILABLE is tried again.
    fn default() -> Self {
        Self {
            attempts: MAX_ATTEMPTS,
            initial: Duration::from_secs(1),
            max: Duration::from_secs(30),
            multiplier: 2.0,
            codes: vec![Code::Unavailable, Code::Internal, Code::Unknown],
            throttling: Some(Throttling {
                tokens: 100,
                ratio: 0.1,
            }),
        }
    }
}

impl Retry {
    /// One attempt.
    #[must_use]
    pub fn never() -> Self {
        Self {
            attempts: 1,
            ..Self::default()
        }
    }

    /// The wait before the next attempt, or `None` when the failure is to be told.
    ///
    /// `made` counts the attempts so far (from 1); `chance` is from 0 to 1.
    #[must_use]
    pub fn next(
        &self,
        made: u32,
        code: Code,
        pushback: Pushback,
        committed: bool,
        chance: f64,
    ) -> Option<Duration> {
        if committed || made >= self.attempts.min(MAX_ATTEMPTS) || !self.codes.contains(&code) {
            return None;
        }
        match pushback {
            Pushback::Never => None,
            Pushback::After(wait) => Some(wait),
            Pushback::None => {
                let power = self
                    .multiplier
                    .powi(made.saturating_sub(1).try_into().unwrap_or(i32::MAX));
                let wait = (self.initial.as_secs_f64() * power).min(self.max.as_secs_f64());
                Some(Duration::from_secs_f64(
                    wait * (0.8 + 0.4 * chance.clamp(0.0, 1.0)),
                ))
            }
        }
    }
}

/// What the server asked for with `grpc-retry-pushback-ms`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pushback {
    /// Nothing.
    None,
    /// The next attempt after this time, without jitter.
    After(Duration),
    /// No further attempt: a negative number, or none.
    Never,
}

impl Pushback {
    /// Reads the header's text.
    #[must_use]
    pub fn read(text: Option<&str>) -> Self {
        match text.map(str::parse::<i64>) {
            None => Self::None,
            Some(Ok(ms)) => {
                u64::try_from(ms).map_or(Self::Never, |ms| Self::After(Duration::from_millis(ms)))
            }
            Some(Err(_)) => Self::Never,
        }
    }
}

/// Bounds the load of retries when most calls fail (A6's `retryThrottling`): a failure takes a token, a success gives a part of one
/// back, and a retry needs more than half of the tokens.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Throttling {
    /// Tokens at most, and at the beginning; up to 1000.
    pub tokens: u32,
    /// Part of a token that a success gives back.
    pub ratio: f64,
}

/// The tokens of a client.
#[derive(Debug)]
pub(crate) struct Tokens {
    limit: Option<Throttling>,
    left: f64,
}

impl Tokens {
    pub(crate) fn new(limit: Option<Throttling>) -> Self {
        let left = limit.map_or(0.0, |limit| f64::from(limit.tokens));
        Self { limit, left }
    }

    pub(crate) fn succeeded(&mut self) {
        if let Some(limit) = self.limit {
            self.left = (self.left + limit.ratio).min(f64::from(limit.tokens));
        }
    }

    /// Counts a failure; whether a retry may follow.
    pub(crate) fn failed(&mut self) -> bool {
        self.left = (self.left - 1.0).max(0.0);
        self.limit
            .is_none_or(|limit| self.left > f64::from(limit.tokens) / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waits(retry: &Retry, chance: f64) -> Vec<u128> {
        (1..10)
            .map_while(|made| retry.next(made, Code::Unavailable, Pushback::None, false, chance))
            .map(|wait| wait.as_millis())
            .collect()
    }

    #[test]
    fn waits_double_up_to_the_longest_with_a_fifth_of_jitter() {
        let retry = Retry {
            max: Duration::from_secs(5),
            ..Retry::default()
        };
        assert_eq!(waits(&retry, 0.5), [1000, 2000, 4000, 5000]);
        assert_eq!(waits(&retry, 0.0), [800, 1600, 3200, 4000]);
        assert_eq!(waits(&retry, 1.0), [1200, 2400, 4800, 6000]);
    }

    #[test]
    fn attempts_are_five_at_most_and_count_the_first() {
        let many = Retry {
            attempts: 100,
            ..Retry::default()
        };
        assert_eq!(waits(&many, 0.5).len(), 4);
        assert!(waits(&Retry::never(), 0.5).is_empty());
    }

    #[test]
    fn only_the_named_codes_and_only_before_an_answer() {
        let retry = Retry::default();
        assert!(
            retry
                .next(1, Code::NotFound, Pushback::None, false, 0.5)
                .is_none()
        );
        assert!(
            retry
                .next(1, Code::Unavailable, Pushback::None, true, 0.5)
                .is_none()
        );
    }

    #[test]
    fn the_server_may_name_the_wait_or_forbid_a_retry() {
        let retry = Retry::default();
        let next = |text| retry.next(1, Code::Unavailable, Pushback::read(text), false, 0.0);
        assert_eq!(next(Some("70")), Some(Duration::from_millis(70)));
        assert_eq!(next(Some("0")), Some(Duration::ZERO));
        assert_eq!(next(Some("-1")), None);
        assert_eq!(next(Some("soon")), None);
        assert!(next(None).is_some());
    }

    #[test]
    fn retries_stop_when_most_calls_fail() {
        let mut tokens = Tokens::new(Some(Throttling {
            tokens: 10,
            ratio: 0.1,
        }));
        let allowed = (0..10).take_while(|_| tokens.failed()).count();
        assert_eq!(allowed, 4);
        for _ in 0..25 {
            tokens.succeeded();
        }
        assert!(tokens.failed());
        let mut unbounded = Tokens::new(None);
        assert!((0..100).all(|_| unbounded.failed()));
    }
}
