//! Tidegate: the `core` room.
#![cfg_attr(not(test), warn(clippy::unwrap_used, clippy::expect_used))]

mod balance;
mod health;
mod member;
mod policy;
mod pool;
mod rng;
mod time;
mod verdict;

pub mod hash;

pub use member::{HealthStatus, Locality, Member, MemberKey, MemberSpec, MemberStatus, Scope};
pub use policy::{
    BackendLoad, Balance, ErrorsWithin, FailurePercentage, LocalityPolicy, Maglev,
    OutlierDetection, PeakEwma, Percent, PoolPolicy, Probation, RingHash, SlowStart, Start,
    SuccessRate, WhenExhausted,
};
pub use pool::{Change, NoPick, Pick, PickRequest, Pool, PoolSummary};
pub use rng::{Rng, SmallRng};
pub use time::Time;
pub use verdict::{Cause, FailureKind, MemberState, PoolEvent, Verdict};
