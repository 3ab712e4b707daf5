//! Tidegate's engine: pools, balancers, health, breakers, budgets, limiters.
//!
//! Everything that can serve a request is a *member* (an endpoint, an API key, a model instance, a cluster), and all
//! failover is one engine over pools of members: pick → attempt → classify the outcome → record it → perhaps pick
//! another. This crate is that engine and nothing else. It does no I/O, reads no clock, starts no thread and draws no
//! chance of its own: [`Time`] and [`Rng`] come in, so [`sim`] runs a thousand members through a week in a second.
//!
//! # A pool in use
//!
//! ```
//! use std::time::Duration;
//! use tidegate_core::*;
//!
//! let now = Time::from_secs(1);
//! let mut rng = SmallRng::new(42);
//! let policy = PoolPolicy { balance: Balance::RoundRobin, ..PoolPolicy::default() };
//! let members = ["10.0.0.1:8500", "10.0.0.2:8500", "10.0.0.3:8500"];
//! let pool = Pool::new(policy, members.map(|id| MemberSpec::new(id, id.to_owned())).to_vec(), 7, now);
//!
//! // An attempt: the pick is in flight until it is dropped or finished.
//! let pick = pool.pick(&PickRequest::default(), now, &mut rng)?;
//! let first = pick.member().key();
//! assert_eq!(pick.member().inflight(), 1);
//! let took = Duration::from_millis(3);
//! pick.finish(Verdict::Failure(FailureKind::LocalOrigin), Some(took), now + took);
//!
//! // The next attempt of the same request goes elsewhere.
//! let tried = [first];
//! let pick = pool.pick(&PickRequest { exclude: &tried, ..PickRequest::default() }, now, &mut rng)?;
//! assert_ne!(pick.member().key(), first);
//! pick.finish(Verdict::Ok, Some(took), now + took);
//!
//! // An active check found the first one dead: out at once, until a check succeeds.
//! pool.report(first, &Scope::EMPTY, Verdict::Evidence { cause: "check: refused".into(), until: None }, now);
//! for _ in 0..10 {
//!     assert_ne!(pool.pick(&PickRequest::default(), now, &mut rng)?.member().key(), first);
//! }
//! pool.report(first, &Scope::EMPTY, Verdict::Ok, now);
//!
//! // Somebody calls this about every 100 ms, or when it says.
//! let next = pool.tick(now);
//! assert!(next > now);
//! for event in pool.drain_events() {
//!     println!("{:?} {} {} → {}: {}", event.at, event.member, event.from, event.to, event.cause);
//! }
//! # Ok::<(), NoPick>(())
//! ```
//!
//! # What is where
//!
//! | | |
//! |---|---|
//! | [`Pool`], [`Pick`], [`PickRequest`] | members, their choice, the request in flight |
//! | [`PoolPolicy`] | everything a pool is told: [`Balance`], [`OutlierDetection`], slow start, localities, panic |
//! | [`Verdict`] | what an outcome means: ok, neutral, failure (statistical), evidence (acts at once) |
//! | [`Gate`], [`RetryBudget`], [`CircuitBreakers`] | limits on how many at a time, exact over all threads |
//! | [`RateLimiter`], [`KeyedLimiter`] | limits on how many per time, exact over all threads |
//! | [`StripedCounter`] | per-worker counts, added when read |
//! | [`hash`] | the stable hash for sticky choices |
//! | [`sim`] | pools under load in virtual time |
//!
//! # Where this is more than its outline
//!
//! - [`Pool::new`] takes a seed for the pool's own few dice (enforcing percentages, jitter of ejection times).
//! - `Ok` through [`Pool::report`] is a passed active check and brings a member back from anything; `Ok` of an attempt
//!   only resets counters (a passed check does not: who answers checks well and requests badly must be found out), and ends the probation of a member that was on trial *when it was picked*: a late answer to
//!   a request from before the ejection proves nothing.
//! - [`Pick::finish_in`] records an outcome in another scope than the pick's (a dead key is dead for every model),
//!   [`Pick::observe`] a first byte before the end, [`Pick::overloaded`] a 429 that must not count as a failure.
//! - A returning member is [`Probing`](MemberState::Probing): one trial request at a time ([`Probation`], on by default).
//! - Statistical ejections end on the sweep, evidence at its own time.
//! - Counters of scopes are made at the first failure in a scope; a scope without one follows the member as a whole.
//! - `max_ejection_percent: 100` also switches the panic threshold off unless one is given: all may go then.
//! - Should evidence take the last fit member, the statistically ejected ones are used again (unless all may go).
//! - [`Pool::owner`] tells whose a key is, without a pick.
//! - Hash tables hold unfit members too: an ejection moves no key of another member, and rebuilds nothing.
//!
//! # What it costs
//!
//! [`Pool::pick`] and [`Pick::finish`] take no lock and allocate nothing unless the outcome changes somebody's state.
//! They read one immutable snapshot and, of each member looked at, one cache line. `cargo bench -p tidegate-core`
//! prints nanoseconds; a test counts allocations.

#![cfg_attr(not(test), warn(clippy::unwrap_used, clippy::expect_used))]

mod balance;
mod budget;
mod gate;
mod health;
mod limit;
mod member;
mod policy;
mod pool;
mod rng;
mod stripe;
mod time;
mod verdict;

pub mod hash;
pub mod sim;

pub use budget::{CircuitBreakers, RetryBudget, RetryPermit};
pub use gate::{Gate, Permit};
pub use limit::{Algorithm, Decision, FixedWindow, Gcra, KeyedLimiter, Rate, RateLimiter};
pub use member::{HealthStatus, Locality, Member, MemberKey, MemberSpec, MemberStatus, Scope};
pub use policy::{
    BackendLoad, Balance, ErrorsWithin, FailurePercentage, LocalityPolicy, Maglev,
    OutlierDetection, PeakEwma, Percent, PoolPolicy, Probation, RingHash, SlowStart, Start,
    SuccessRate, WhenExhausted,
};
pub use pool::{Change, InFlight, NoPick, Pick, PickRequest, Pool, PoolStatus, PoolSummary};
pub use rng::{Rng, SmallRng};
pub use stripe::StripedCounter;
pub use time::Time;
pub use verdict::{Cause, FailureKind, MemberState, PoolEvent, Verdict};
