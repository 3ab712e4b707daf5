//! Keys that are no keys to a provider but accounts that get access tokens: kept fresh by a task of the gateway, used from memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use arc_swap::ArcSwap;
use tidegate_core::Time;
use tidegate_llm::service_account::{AccessToken, ServiceAccount};
use tokio::sync::Notify;

/// A token is replaced so long before its end, or after three quarters of a short one.
const AHEAD: Duration = Duration::from_secs(300);
/// Pauses after a question that gave no token: the first, and the longest.
const AGAIN: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(60);

/// An account with the token that it has now.
#[derive(Debug)]
pub struct Access {
    account: ServiceAccount,
    state: ArcSwap<State>,
    asking: AtomicBool,
    changed: Notify,
}

#[derive(Clone, Debug, Default)]
struct State {
    token: Option<Given>,
    /// Why the last question gave none.
    why: Option<Refusal>,
    /// When the token endpoint is asked next.
    next: Time,
    failed: u32,
}

#[derive(Clone)]
struct Given {
    token: Arc<str>,
    ends: Time,
}

impl std::fmt::Debug for Given {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Given(until {:?})", self.ends)
    }
}

/// Why there is no token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// In words, without secrets.
    pub words: String,
    /// The endpoint itself said that the account gets none; else it could not be asked.
    pub by_endpoint: bool,
}

impl Access {
    pub(crate) fn new(account: ServiceAccount) -> Access {
        Access {
            account,
            state: ArcSwap::default(),
            asking: AtomicBool::new(false),
            changed: Notify::new(),
        }
    }

    /// The account.
    pub fn account(&self) -> &ServiceAccount {
        &self.account
    }

    /// The token, unless it has ended or never came.
    pub(crate) fn token(&self, now: Time) -> Option<Arc<str>> {
        let state = self.state.load();
        let given = state.token.as_ref().filter(|given| given.ends > now)?;
        Some(given.token.clone())
    }

    /// Why there is no token; `None`: nobody has asked yet.
    pub fn refusal(&self) -> Option<Refusal> {
        self.state.load().why.clone()
    }

    /// Whether the token endpoint is to be asked now. Who is told so asks, and tells the outcome to [`Access::told`].
    pub fn is_due(&self, now: Time) -> bool {
        self.state.load().next <= now && !self.asking.swap(true, Relaxed)
    }

    /// What the token endpoint said.
    pub fn told(&self, outcome: Result<AccessToken, Refusal>, now: Time) {
        let before = self.state.load();
        let state = match outcome {
            Ok(given) => State {
                next: now + (given.lasts - AHEAD.min(given.lasts / 4)),
                token: Some(Given {
                    token: given.token.into(),
                    ends: now + given.lasts,
                }),
                why: None,
                failed: 0,
            },
            Err(why) => State {
                // One that has not ended yet is still good.
                token: before.token.clone(),
                why: Some(why),
                next: now + AGAIN.saturating_mul(1 << before.failed.min(6)).min(LONGEST),
                failed: before.failed + 1,
            },
        };
        self.state.store(Arc::new(state));
        self.asking.store(false, Relaxed);
        self.changed.notify_waiters();
    }

    /// Waits until the token endpoint has been asked once.
    pub(crate) async fn asked(&self) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // Before the look: what comes in between is not missed.
            changed.as_mut().enable();
            let state = self.state.load();
            if state.token.is_some() || state.why.is_some() {
                return;
            }
            drop(state);
            changed.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access() -> Access {
        let file = include_str!("../../llm/tests/fixtures/service_account.json");
        Access::new(ServiceAccount::parse(file).unwrap())
    }

    fn given(lasts: u64) -> Result<AccessToken, Refusal> {
        Ok(AccessToken {
            token: format!("for-{lasts}"),
            lasts: Duration::from_secs(lasts),
        })
    }

    fn refused() -> Result<AccessToken, Refusal> {
        Err(Refusal {
            words: "400 invalid_grant".into(),
            by_endpoint: true,
        })
    }

    #[test]
    fn a_token_is_replaced_before_its_end_by_one_question_at_a_time() {
        let access = access();
        let at = Time::from_secs;
        assert!(access.is_due(at(100)) && !access.is_due(at(100)));
        assert_eq!((access.token(at(100)), access.refusal()), (None, None));
        access.told(given(3600), at(100));
        assert_eq!(access.token(at(100)).as_deref(), Some("for-3600"));
        assert!(!access.is_due(at(100 + 3299)));
        assert!(access.is_due(at(100 + 3300)));
        // It could not be replaced, and is good until its end.
        access.told(refused(), at(3400));
        assert!(access.token(at(3699)).is_some() && access.token(at(3700)).is_none());
        assert!(access.refusal().is_some_and(|why| why.by_endpoint));
        // A short one.
        assert!(access.is_due(at(3401)));
        access.told(given(4), at(3401));
        assert_eq!(access.refusal(), None);
        assert!(!access.is_due(at(3403)) && access.is_due(at(3404)));
    }

    #[test]
    fn who_gets_none_asks_more_and_more_seldom() {
        let access = access();
        let mut now = Time::from_secs(1);
        let mut pauses = Vec::new();
        for _ in 0..9 {
            assert!(access.is_due(now));
            access.told(refused(), now);
            let begin = now;
            while !access.is_due(now) {
                now = now + Duration::from_secs(1);
            }
            access.asking.store(false, Relaxed);
            pauses.push(now.since(begin).as_secs());
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
    }
}
