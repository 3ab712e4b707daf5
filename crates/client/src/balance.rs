//! Which of several addresses a call goes to.

use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use tonic::transport::Channel;

/// How an address is chosen for a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Balance {
    /// One after the other.
    #[default]
    RoundRobin,
    /// The one with the fewest calls of this client under way.
    LeastRequests,
}

/// First and longest time that an address which can't be reached is left alone.
const AWAY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(20));

/// One address with its connection, which is made when it is needed and again when it is lost.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) address: Arc<str>,
    pub(crate) channel: Channel,
    calls: AtomicU32,
    away: Mutex<Away>,
}

#[derive(Debug, Default)]
struct Away {
    failures: u32,
    until: Option<Instant>,
}

impl Member {
    pub(crate) fn new(address: Arc<str>, channel: Channel) -> Arc<Self> {
        Arc::new(Self {
            address,
            channel,
            calls: AtomicU32::new(0),
            away: Mutex::default(),
        })
    }

    /// The connection failed: others come first for a while.
    pub(crate) fn failed(&self, now: Instant) {
        let mut away = self.away.lock().unwrap_or_else(PoisonError::into_inner);
        let time = AWAY
            .0
            .saturating_mul(1 << away.failures.min(10))
            .min(AWAY.1);
        away.failures = away.failures.saturating_add(1);
        away.until = Some(now + time);
    }

    /// It answered, whatever it said.
    pub(crate) fn answered(&self) {
        *self.away.lock().unwrap_or_else(PoisonError::into_inner) = Away::default();
    }

    fn away_until(&self, now: Instant) -> Option<Instant> {
        let away = self.away.lock().unwrap_or_else(PoisonError::into_inner);
        away.until.filter(|until| *until > now)
    }
}

/// A call under way at a member; counted until it is dropped.
#[derive(Debug)]
pub(crate) struct Picked(pub(crate) Arc<Member>);

impl Picked {
    fn of(member: &Arc<Member>) -> Self {
        member.calls.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(member))
    }
}

impl Drop for Picked {
    fn drop(&mut self) {
        self.0.calls.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The members of a client.
#[derive(Debug)]
pub(crate) struct Members {
    balance: Balance,
    list: RwLock<Arc<[Arc<Member>]>>,
    next: AtomicUsize,
}

impl Members {
    pub(crate) fn new(balance: Balance, list: Vec<Arc<Member>>) -> Self {
        Self {
            balance,
            list: RwLock::new(list.into()),
            next: AtomicUsize::new(0),
        }
    }

    pub(crate) fn list(&self) -> Arc<[Arc<Member>]> {
        Arc::clone(&self.list.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn replace(&self, list: Vec<Arc<Member>>) {
        *self.list.write().unwrap_or_else(PoisonError::into_inner) = list.into();
    }

    /// The member of this address, if it is one and can be reached.
    pub(crate) fn at(&self, address: &str, now: Instant) -> Option<Picked> {
        let list = self.list();
        let member = list.iter().find(|member| &*member.address == address)?;
        member.away_until(now).is_none().then(|| Picked::of(member))
    }

    /// A member for the next attempt: one that can be reached and was not tried yet, where there is one. `None` only without members.
    pub(crate) fn pick(&self, tried: &[Arc<str>], now: Instant) -> Option<Picked> {
        let list = self.list();
        if list.is_empty() {
            return None;
        }
        let first = self.next.fetch_add(1, Ordering::Relaxed) % list.len();
        let best = (0..list.len())
            .map(|offset| &list[(first + offset) % list.len()])
            .enumerate()
            .min_by_key(|(turn, member)| {
                let load = match self.balance {
                    Balance::RoundRobin => 0,
                    Balance::LeastRequests => member.calls.load(Ordering::Relaxed),
                };
                // `None` sorts before any time: who can be reached comes first, then who comes back first.
                (
                    member.away_until(now),
                    tried.contains(&member.address),
                    load,
                    *turn,
                )
            })
            .map(|(_, member)| member)?;
        Some(Picked::of(best))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic::transport::Endpoint;

    /// Channels spawn their tasks when they are made.
    fn members(balance: Balance) -> (tokio::runtime::Runtime, Members) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let list = {
            let _inside = runtime.enter();
            ["a", "b", "c"]
                .map(|name| {
                    Member::new(
                        name.into(),
                        Endpoint::from_static("http://127.0.0.1:1").connect_lazy(),
                    )
                })
                .to_vec()
        };
        (runtime, Members::new(balance, list))
    }

    fn name(picked: &Picked) -> String {
        picked.0.address.to_string()
    }

    #[test]
    fn round_robin_gives_each_its_turn() {
        let (_runtime, members) = members(Balance::RoundRobin);
        let now = Instant::now();
        let names: String = (0..6)
            .filter_map(|_| members.pick(&[], now))
            .map(|picked| name(&picked))
            .collect();
        assert_eq!(names, "abcabc");
    }

    #[test]
    fn least_requests_takes_the_one_with_the_fewest_calls() {
        let (_runtime, members) = members(Balance::LeastRequests);
        let now = Instant::now();
        let mut held: Vec<Picked> = (0..3).filter_map(|_| members.pick(&[], now)).collect();
        let freed = name(&held.remove(1));
        assert_eq!(name(&members.pick(&[], now).unwrap()), freed);
    }

    #[test]
    fn another_attempt_goes_to_another_member() {
        let (_runtime, members) = members(Balance::RoundRobin);
        let tried: Vec<Arc<str>> = vec!["a".into(), "c".into()];
        for _ in 0..6 {
            assert_eq!(name(&members.pick(&tried, Instant::now()).unwrap()), "b");
        }
    }

    #[test]
    fn a_member_that_failed_is_left_alone_and_comes_back() {
        let (_runtime, members) = members(Balance::RoundRobin);
        let now = Instant::now();
        let sick = members.list()[1].clone();
        sick.failed(now);
        let during: Vec<String> = (0..6)
            .filter_map(|_| members.pick(&[], now))
            .map(|picked| name(&picked))
            .collect();
        assert!(!during.contains(&"b".to_owned()), "{during:?}");
        let later: Vec<String> = (0..6)
            .filter_map(|_| members.pick(&[], now + AWAY.0))
            .map(|picked| name(&picked))
            .collect();
        assert!(later.contains(&"b".to_owned()), "{later:?}");
    }

    #[test]
    fn when_all_have_failed_the_one_that_comes_back_first_is_used() {
        let (_runtime, members) = members(Balance::RoundRobin);
        let now = Instant::now();
        for member in members.list().iter() {
            member.failed(now);
            member.failed(now);
        }
        let first = members.list()[2].clone();
        first.answered();
        first.failed(now);
        assert_eq!(name(&members.pick(&[], now).unwrap()), "c");
    }
}
