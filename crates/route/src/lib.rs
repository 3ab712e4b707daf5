//! The route room: which route a request takes and what the route makes of it.
//!
//! Pure: no I/O, no clock, no randomness but what is handed in. A checked configuration is compiled once into an
//! immutable [`Router`]; per request nothing is allocated. The order of use:
//!
//! 1. [`path::normalize`] the path (before matching, and what is forwarded), or answer 400.
//! 2. [`Router::find`] a [`Route`], or answer 404.
//! 3. [`Fault::decide`]; [`LimitKey::extract`] for [`RateLimit`] and [`Concurrency`].
//! 4. By [`Action`]: answer, or [`Split::choose`] a [`Target`] and [`Target::resolve`] it, the fallbacks after it.
//! 5. [`Rewrite::path`], [`HeaderEdits::apply`], then attempts; after each, [`RetryPolicy::decide`].
//!
//! Matching follows Istio's VirtualService: routes in order, the first of which a match holds is taken; inside a match
//! all conditions must hold. Exact and prefix are case-sensitive; a prefix is a plain string prefix as in Istio and
//! Envoy (`/a` matches `/ab`; write `/a/` for whole segments); a regular expression is RE2-like and must match the
//! whole text. Hosts are compared without port, letter case and final dot; `*.x` stands for one or more labels before
//! `.x`. How 10,000 routes cost no more per request than 10 is told in the `index` module.

#[cfg(test)]
mod agreement;
mod compile;
mod conditions;
mod describe;
pub mod fault;
pub mod hash;
mod index;
pub mod limit;
pub mod path;
mod radix;
pub mod request;
pub mod retry;
pub mod rewrite;
mod route;
mod router;
pub mod split;

pub use compile::{CompileError, Problem, hash_key, request_hash};
pub use fault::{Abort, Fault, FaultDecision, PerMillion};
pub use hash::{HashKey, stable_hash};
pub use index::Effort;
pub use limit::{Concurrency, LimitAlgorithm, LimitKey, RateLimit};
pub use path::{EscapedSlashes, PathPolicy, PathRefused};
pub use request::{Model, RequestView};
pub use retry::{
    AttemptOutcome, Backoff, Condition, Decision, GiveUp, HedgePolicy, Pushback, RetryPolicy,
    Tries, Written,
};
pub use rewrite::{HeaderEdits, PathRewrite, Redirect, Rewrite, shadow_authority};
pub use route::{Action, Description, Forward, Mirror, Respond, Route};
pub use router::{Found, Router};
pub use split::{Destination, ProviderIndex, Resolution, Split, Target, UpstreamIndex};
