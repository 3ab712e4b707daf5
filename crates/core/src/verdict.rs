//! What an attempt's outcome means for the member, and what happened to members because of it.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::member::{MemberKey, Scope};
use crate::time::Time;

/// An outcome, classified. Classifying is the caller's work (the engine knows no HTTP); acting on it is the pool's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The member did its work. Resets consecutive counters; from an active check it brings the member back.
    Ok,
    /// The caller's own fault, or a cancellation: says nothing about the member and moves nothing.
    Neutral,
    /// Statistical: counts towards the thresholds of [`OutlierDetection`](crate::OutlierDetection).
    Failure(FailureKind),
    /// Acts at once and is bound by no percentage: key dead, limited until T, active check failed, peer going away.
    Evidence {
        /// Why, in words for people (`rate limited`, `active check: connection refused`).
        cause: Cow<'static, str>,
        /// When it ends by itself; `None`: only a successful active check (or removal) ends it. A later `until`
        /// extends one already in force, an earlier one changes nothing, and `None` is the latest of all.
        until: Option<Time>,
    },
}

/// Kinds of statistical failure, as outlier detection tells them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FailureKind {
    /// A bad answer that is no gateway failure: HTTP 500, a gRPC status that means the same, a body cut in the middle.
    Status5xx,
    /// 502, 503 or 504, or their gRPC like.
    Gateway,
    /// Nothing came from the member itself: connect failed, timed out, reset.
    LocalOrigin,
    /// It was not tried: a limit of ours was reached. Counts like [`LocalOrigin`](Self::LocalOrigin), but a run or a window that
    /// holds one never takes out the last fit member, even where all may go: what every member meets alike says nothing against the
    /// one that is left. As many failures of its own as a threshold says, with none of these among them, do.
    Refused,
}

/// Where a member is in its life.
///
/// ```text
/// warming → healthy → ejected → probing → healthy          draining → gone
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MemberState {
    /// Added, not yet shown fit by an active check ([`Start::Warming`](crate::Start)).
    Warming,
    /// Picked.
    Healthy,
    /// Not picked until its time is over or a check brings it back.
    Ejected,
    /// Its time is over: a few trial requests decide.
    Probing,
    /// Not picked; requests in flight finish.
    Draining,
    /// Removed and nothing in flight: forgotten after this event.
    Gone,
}

impl MemberState {
    /// Lowercase word, as metrics and the admin API show it.
    pub const fn as_str(self) -> &'static str {
        match self {
            MemberState::Warming => "warming",
            MemberState::Healthy => "healthy",
            MemberState::Ejected => "ejected",
            MemberState::Probing => "probing",
            MemberState::Draining => "draining",
            MemberState::Gone => "gone",
        }
    }
}

impl fmt::Display for MemberState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a member changed its state. `Display` gives it in words.
#[derive(Clone, Debug, PartialEq)]
pub enum Cause {
    /// In the pool for the first time.
    Added,
    /// No longer in the member list.
    Removed,
    /// Draining was asked for, or taken back.
    Asked,
    /// So many bad answers in a row.
    Consecutive5xx(u32),
    /// So many gateway failures in a row.
    ConsecutiveGateway(u32),
    /// So many failures without an answer in a row, whichever rule counted them (they are 5xx and gateway failures too).
    ConsecutiveLocalOrigin(u32),
    /// So many bad answers and failures without an answer in a row.
    ConsecutiveFailures(u32),
    /// So many failures of any kind within a time.
    ErrorsWithin(u32, Duration),
    /// Success rate below the pool's threshold; both in percent.
    SuccessRate {
        /// The member's rate over the last interval.
        rate: f64,
        /// Mean − factor × σ over the members with enough volume.
        threshold: f64,
    },
    /// Share of failures over the last interval, percent.
    FailurePercentage(f64),
    /// What the evidence said.
    Evidence(Cow<'static, str>),
    /// The ejection's time is over.
    TimeOver,
    /// A trial request went well, or no trial failed for an interval.
    TrialPassed,
    /// A trial request failed.
    TrialFailed(FailureKind),
    /// An active check succeeded.
    CheckPassed,
    /// Outlier detection was switched off.
    PolicyChanged,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Cause::Added => f.write_str("added"),
            Cause::Removed => f.write_str("removed"),
            Cause::Asked => f.write_str("asked"),
            Cause::Consecutive5xx(n) => write!(f, "{n} consecutive 5xx"),
            Cause::ConsecutiveGateway(n) => write!(f, "{n} consecutive gateway failures"),
            Cause::ConsecutiveLocalOrigin(n) => write!(f, "{n} consecutive connection failures"),
            Cause::ConsecutiveFailures(n) => write!(f, "{n} consecutive failures"),
            Cause::ErrorsWithin(n, within) => write!(f, "{n} errors within {within:?}"),
            Cause::SuccessRate { rate, threshold } => {
                write!(f, "success rate {rate:.1}% below {threshold:.1}%")
            }
            Cause::FailurePercentage(percent) => write!(f, "{percent:.0}% failures"),
            Cause::Evidence(what) => f.write_str(what),
            Cause::TimeOver => f.write_str("time over"),
            Cause::TrialPassed => f.write_str("trial passed"),
            Cause::TrialFailed(kind) => write!(f, "trial failed ({})", kind.as_str()),
            Cause::CheckPassed => f.write_str("active check passed"),
            Cause::PolicyChanged => f.write_str("policy changed"),
        }
    }
}

impl FailureKind {
    /// Words for people and labels.
    pub const fn as_str(self) -> &'static str {
        match self {
            FailureKind::Status5xx => "5xx",
            FailureKind::Gateway => "gateway",
            FailureKind::LocalOrigin => "local_origin",
            FailureKind::Refused => "refused_here",
        }
    }
}

/// One change of state of one member in one scope.
#[derive(Clone, Debug, PartialEq)]
pub struct PoolEvent {
    /// When.
    pub at: Time,
    /// Identity of the member.
    pub member: Arc<str>,
    /// Its key.
    pub key: MemberKey,
    /// The scope concerned; empty: the whole member.
    pub scope: Scope,
    /// State before.
    pub from: MemberState,
    /// State after.
    pub to: MemberState,
    /// Why.
    pub cause: Cause,
}
