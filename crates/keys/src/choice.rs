//! How a key is chosen among the fit ones, and the memory of sessions that stick to theirs.
//!
//! A provider caches prompts by key, so a session should keep its key: also through the failure of another one, and also
//! when the key that it would have had comes back (each move throws a cache away). Rendezvous hashing gives a session its
//! key without any memory, on every replica the same; the table below remembers where sessions really are, so that one
//! that had to move stays where it is until it has been quiet for the time to live.
//!
//! The table is an array of words of fixed size, read and written without a lock. What it forgets (more sessions than
//! places, two threads in one place) costs a cached prompt, never correctness.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tidegate_config::model as config;
use tidegate_core::{MemberKey, Time, hash};

/// How a key is chosen among the fit ones.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Choice {
    /// Any.
    #[default]
    Random,
    /// In turn.
    RoundRobin,
    /// Any, by weight.
    Weighted,
    /// The one with the fewest requests in flight.
    LeastUsed,
    /// The same one for the same caller.
    Sticky {
        /// What makes a caller the same; the gateway computes the hash from it.
        by: config::StickyBy,
        /// How long after its last request a caller is remembered.
        ttl: Duration,
    },
}

impl Choice {
    /// The word that the configuration uses for it.
    pub const fn name(&self) -> &'static str {
        match self {
            Choice::Random => "random",
            Choice::RoundRobin => "round_robin",
            Choice::Weighted => "weighted",
            Choice::LeastUsed => "least_used",
            Choice::Sticky { .. } => "sticky",
        }
    }

    /// Takes over the configuration's.
    pub fn of(choose: &config::Choose) -> Choice {
        match choose {
            config::Choose::Random => Choice::Random,
            config::Choose::RoundRobin => Choice::RoundRobin,
            config::Choose::Weighted => Choice::Weighted,
            config::Choose::LeastUsed => Choice::LeastUsed,
            config::Choose::Sticky(sticky) => Choice::Sticky {
                by: sticky.by.clone(),
                ttl: sticky.ttl,
            },
        }
    }
}

/// Sets of the table, and places in each.
const SETS: usize = 4096;
const WAYS: usize = 4;
/// Bits of a place: who (session), where (member), until when (seconds).
const TAG_BITS: u32 = 20;
const MEMBER_BITS: u32 = 24;
const TIME_BITS: u32 = 20;
/// Half of the range of seconds: what is further ahead lies behind.
const HALF: u64 = 1 << (TIME_BITS - 1);
/// Longest time to live that the seconds can tell from the past: six days.
const LONGEST: Duration = Duration::from_secs(HALF - 1);

/// Where sessions are: at most 16,384 of them, the one that ends soonest makes room.
pub(crate) struct Sessions {
    places: Box<[[AtomicU64; WAYS]]>,
}

/// A member in the table: 24 bits of its id's hash, never 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MemberTag(u64);

impl MemberTag {
    pub(crate) fn of(id: &str) -> MemberTag {
        MemberTag((hash::hash64(id.as_bytes(), 1) & ((1 << MEMBER_BITS) - 1)).max(1))
    }
}

/// The members of a pool by tag.
pub(crate) type Roster = Vec<(MemberTag, MemberKey)>;

impl Default for Sessions {
    fn default() -> Sessions {
        Sessions {
            places: (0..SETS).map(|_| Default::default()).collect(),
        }
    }
}

fn seconds(at: Time) -> u64 {
    (at.0 / 1_000_000_000) & ((1 << TIME_BITS) - 1)
}

/// Seconds that are left, 0 if it is over.
fn left(until: u64, now: u64) -> u64 {
    let left = until.wrapping_sub(now) & ((1 << TIME_BITS) - 1);
    if left < HALF { left } else { 0 }
}

impl Sessions {
    fn set(&self, session: u64) -> (&[AtomicU64; WAYS], u64) {
        let tag = session >> (64 - TAG_BITS);
        (&self.places[(session % SETS as u64) as usize], tag)
    }

    fn unpack(word: u64) -> (u64, MemberTag, u64) {
        (
            word >> (MEMBER_BITS + TIME_BITS),
            MemberTag(word >> TIME_BITS & ((1 << MEMBER_BITS) - 1)),
            word & ((1 << TIME_BITS) - 1),
        )
    }

    /// Where a session is, if it is remembered.
    pub(crate) fn find(&self, session: u64, now: Time) -> Option<MemberTag> {
        let (set, tag) = self.set(session);
        let now = seconds(now);
        set.iter().find_map(|place| {
            let (whose, member, until) = Sessions::unpack(place.load(Relaxed));
            (whose == tag && member.0 != 0 && left(until, now) > 0).then_some(member)
        })
    }

    /// A session was served there: remembered for `ttl` (whole seconds, at least one, at most six days).
    pub(crate) fn keep(&self, session: u64, member: MemberTag, ttl: Duration, now: Time) {
        let (set, tag) = self.set(session);
        let now = seconds(now);
        let ttl = ttl.min(LONGEST).as_secs().max(1);
        let until = (now + ttl) & ((1 << TIME_BITS) - 1);
        let word = tag << (MEMBER_BITS + TIME_BITS) | member.0 << TIME_BITS | until;
        let place = set.iter().find(|place| {
            let (whose, member, _) = Sessions::unpack(place.load(Relaxed));
            whose == tag && member.0 != 0
        });
        let place = place.or_else(|| {
            set.iter().min_by_key(|place| {
                let (_, member, until) = Sessions::unpack(place.load(Relaxed));
                if member.0 == 0 { 0 } else { left(until, now) }
            })
        });
        if let Some(place) = place {
            place.store(word, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TTL: Duration = Duration::from_secs(300);

    #[test]
    fn a_session_is_remembered_for_the_time_after_its_last_request() {
        let sessions = Sessions::default();
        let member = MemberTag::of("a");
        let start = Time::from_secs(1_000);
        sessions.keep(7, member, TTL, start);
        assert_eq!(
            sessions.find(7, start + Duration::from_secs(299)),
            Some(member)
        );
        sessions.keep(7, member, TTL, start + Duration::from_secs(299));
        assert_eq!(
            sessions.find(7, start + Duration::from_secs(598)),
            Some(member)
        );
        assert_eq!(sessions.find(7, start + Duration::from_secs(600)), None);
        assert_eq!(sessions.find(8, start), None);
    }

    #[test]
    fn the_one_that_ends_soonest_makes_room() {
        let sessions = Sessions::default();
        let now = Time::from_secs(5);
        // Five sessions of one set.
        let session = |i: u64| (i + 1) << (64 - TAG_BITS);
        for i in 0..5 {
            sessions.keep(
                session(i),
                MemberTag::of("m"),
                Duration::from_secs(10 + i),
                now,
            );
        }
        let known: Vec<bool> = (0..5)
            .map(|i| sessions.find(session(i), now).is_some())
            .collect();
        assert_eq!(known, [false, true, true, true, true]);
    }

    #[test]
    fn only_a_provider_whose_callers_stick_has_a_table() {
        for (choose, has) in [("random", false), ("{ sticky: { body: user } }", true)] {
            let text = format!(
                "providers: [{{ name: p, type: openai, api_tokens: [sk-test-0001], choose: {choose} }}]\n\
                 listeners: [{{ name: main, address: 127.0.0.1:8080 }}]\n\
                 routes: [{{ name: r, to: [{{ provider: p }}] }}]\n"
            );
            let config = tidegate_config::load_str("t.yaml", &text).unwrap().config;
            let keys = crate::Keys::new("a", crate::Identity::new([1; 32]));
            let now = Time::from_secs(1);
            keys.apply(
                vec![crate::Settings::of(&config.providers[0]).unwrap()],
                now,
            );
            let provider = keys.provider("p").unwrap();
            assert!(provider.sessions.get().is_none());
            let mut rng = tidegate_core::SmallRng::new(1);
            provider
                .rotation("m", Some(7), 0)
                .next(now, &mut rng)
                .unwrap();
            assert_eq!(provider.sessions.get().is_some(), has, "{choose}");
        }
    }

    proptest! {
        #[test]
        fn the_clock_may_start_anywhere(start in 0u64..10_000_000, session: u64, wait in 0u64..400) {
            let sessions = Sessions::default();
            let at = Time::from_secs(start);
            let member = MemberTag::of("x");
            sessions.keep(session, member, TTL, at);
            let found = sessions.find(session, at + Duration::from_secs(wait));
            prop_assert_eq!(found, (wait < 300).then_some(member));
        }
    }
}
