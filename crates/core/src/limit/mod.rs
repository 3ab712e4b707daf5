//! Rate limiters: so many per time, exact over all threads of the process.
//!
//! The default is the generic cell rate algorithm ([`Gcra`]): one number, no timer, and no window at whose boundary twice
//! the limit gets through (the trap of [`FixedWindow`], which is there for those who must match a fixed-window service).
//! A limiter by key (a user, a source address) is a [`KeyedLimiter`] with a bounded table.

mod gcra;
mod keyed;
mod window;

use std::time::Duration;

pub use gcra::Gcra;
pub use keyed::KeyedLimiter;
pub use window::FixedWindow;

use crate::time::Time;

/// How a rate is enforced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Algorithm {
    /// A steady rate with a burst. The default.
    #[default]
    Gcra,
    /// So many in each window since the origin of time.
    FixedWindow,
}

/// A limit: `requests` per `per`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// How many; 0: none at all.
    pub requests: u32,
    /// In what time; at least a nanosecond.
    pub per: Duration,
    /// How many at once, for GCRA; `None`: as many as `requests`.
    pub burst: Option<u32>,
    /// How.
    pub algorithm: Algorithm,
}

impl Rate {
    /// So many per time, by GCRA with a burst of as many.
    pub const fn new(requests: u32, per: Duration) -> Rate {
        Rate {
            requests,
            per,
            burst: None,
            algorithm: Algorithm::Gcra,
        }
    }
}

/// A limiter's answer: what the `x-ratelimit-*` headers need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Whether the request is let in.
    pub allowed: bool,
    /// The limit: most that can ever be let in at once.
    pub limit: u32,
    /// How many more would be let in now.
    pub remaining: u32,
    /// Until the limiter is as if never used.
    pub reset_after: Duration,
    /// Until the same request would be let in; zero if it was. `None`: never, it asks for more than the limit.
    pub retry_after: Option<Duration>,
}

/// One rate for everybody.
#[derive(Debug)]
pub enum RateLimiter {
    /// By the generic cell rate algorithm.
    Gcra(Gcra),
    /// By fixed windows.
    FixedWindow(FixedWindow),
}

impl RateLimiter {
    /// A limiter for a rate.
    pub fn new(rate: Rate) -> RateLimiter {
        match rate.algorithm {
            Algorithm::Gcra => RateLimiter::Gcra(Gcra::new(rate.requests, rate.per, rate.burst)),
            Algorithm::FixedWindow => {
                RateLimiter::FixedWindow(FixedWindow::new(rate.requests, rate.per))
            }
        }
    }

    /// Asks for `cost` at once (0: only looks). All or nothing. Lock-free.
    pub fn check(&self, cost: u32, now: Time) -> Decision {
        match self {
            RateLimiter::Gcra(gcra) => gcra.check(cost, now),
            RateLimiter::FixedWindow(window) => window.check(cost, now),
        }
    }
}
