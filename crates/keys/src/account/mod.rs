//! Virtual keys: what callers get instead of a provider's key, with limits and budgets of their own.
//!
//! A virtual key lies in the store as a hash; each replica has a copy of all of them in memory and follows changes, so that a
//! request is authorised without I/O. What is spent is counted in the store's counters, by leases: a replica takes a part of what
//! is left in advance, spends it locally, and takes more before it is used up.
//!
//! # How far a limit can be overshot
//!
//! Let *R* be the number of replicas, *L* a limit (of requests or tokens in a minute, of tokens or money in a day or a month), *C*
//! its slack (a tenth of a limit per minute, a hundredth of a budget, at least 1), and *M* the
//! largest reservation of one request. While the store can be reached, what is admitted in one window is at most
//!
//! > **L + R × (C + M)**, counted in reservations,
//!
//! because leases never add up to more than *L*, and a replica runs ahead of its lease by at most *C* and the request that crosses
//! it (what it owes beyond its lease is noted in the store, limit or not, and nothing is admitted on it). No request reserves more
//! than *L*, whatever `max_tokens` it names. A replica that begins anew within a window counts once more in *R*. The slack is there so that the first request after a pause does not wait for the store. What is really used differs by what
//! requests use beyond their reservation (a reservation is the estimate of the prompt plus `max_tokens`; without `max_tokens` it
//! is a guess).
//!
//! A replica that is cut off from the store goes on: it spends what was left of the limit when it last heard, so that *R* cut-off
//! replicas, with what was admitted before and requests under way, admit at most *R* × (*L* + *M*) + *L* together. A replica that [leaves](leave) gives the rest of its lease back and notes what it owes. One
//! that is killed takes both with it: the others miss at most one lease until the window ends, and do not hear of what it had spent
//! beyond it (at most *C* + *M*).
//!
//! A limit that is changed counts on: what was spent in its window stays spent. One that is lowered is held by a replica from the
//! moment that it hears of it; what it had taken of the higher one in advance goes back to the store first.
//!
//! Windows are aligned to the calendar (UTC), by each replica's clock.

mod book;
mod key;
mod manage;
mod meter;
mod request;
#[cfg(test)]
mod sim;
mod sync;
mod window;
mod words;

pub use book::{Accounts, Denied, Estimate, Permit, Refused, Reservation, Spending};
pub use key::{Amount, Budget, Limits, Secret, VirtualKey};
pub use manage::KeyError;
pub use request::{BudgetChange, KeyRequest, KeyUpdate, LimitsUpdate, NewAmount};
pub use sync::{Parted, leave, run};
pub use window::Span;
pub use words::{money, used_of};
