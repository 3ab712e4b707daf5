//! Members: what a pool is made of, and the names that people and requests use for them.

use std::fmt;
use std::sync::atomic::{
    AtomicU32, AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};
use std::sync::{Arc, Weak};
use std::time::Duration;

use crate::balance::ewma::Ewma;
use crate::balance::orca::LoadReport;
use crate::health::cell::Cell;
use crate::pool::{Inner, Tuning};
use crate::time::Time;
use crate::verdict::{Cause, MemberState};

/// Identity of a member object: unique in the process and never used again. Goes into [`PickRequest::exclude`](crate::PickRequest).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MemberKey(pub(crate) u64);

impl MemberKey {
    pub(crate) fn next() -> MemberKey {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        MemberKey(NEXT.fetch_add(1, Relaxed))
    }
}

/// A part of a member whose health is kept apart: empty for endpoints, the model for keys, the version for workers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Scope(Option<Arc<str>>);

impl Scope {
    /// The member as a whole.
    pub const EMPTY: Scope = Scope(None);

    /// A scope by name; the empty name is [`Scope::EMPTY`].
    pub fn new(name: &str) -> Scope {
        Scope((!name.is_empty()).then(|| Arc::from(name)))
    }

    /// The name, empty for the whole member.
    pub fn as_str(&self) -> &str {
        self.0.as_deref().unwrap_or("")
    }

    /// True for the whole member.
    pub const fn is_empty(&self) -> bool {
        self.0.is_none()
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Where something is. Either part may be unknown (empty).
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Locality {
    region: Option<Arc<str>>,
    zone: Option<Arc<str>>,
}

impl Locality {
    /// Unknown: everything is equally far.
    pub const NOWHERE: Locality = Locality {
        region: None,
        zone: None,
    };

    /// A region and a zone in it; empty means unknown.
    pub fn new(region: &str, zone: &str) -> Locality {
        let known = |s: &str| (!s.is_empty()).then(|| Arc::from(s));
        Locality {
            region: known(region),
            zone: known(zone),
        }
    }

    /// The region, empty if unknown.
    pub fn region(&self) -> &str {
        self.region.as_deref().unwrap_or("")
    }

    /// The zone, empty if unknown.
    pub fn zone(&self) -> &str {
        self.zone.as_deref().unwrap_or("")
    }
}

/// What the pool is told about a member.
#[derive(Clone, Debug)]
pub struct MemberSpec<T> {
    /// Identity within the pool: `HOST:PORT`, `unix:PATH`, a key's keyed hash. Also what the hash balancers hash.
    pub id: Arc<str>,
    /// Share of picks relative to the others; 0: none.
    pub weight: u32,
    /// Where it is.
    pub locality: Locality,
    /// Lower is preferred; a higher one gets what the lower ones can't take. Default 0.
    pub priority: u32,
    /// What the caller needs to use it. If it differs from the one in place, the member is a new one.
    pub payload: T,
}

impl<T> MemberSpec<T> {
    /// A member of weight 1, priority 0, nowhere in particular.
    pub fn new(id: impl Into<Arc<str>>, payload: T) -> MemberSpec<T> {
        MemberSpec {
            id: id.into(),
            weight: 1,
            locality: Locality::NOWHERE,
            priority: 0,
            payload,
        }
    }

    /// With another weight.
    #[must_use]
    pub fn weight(mut self, weight: u32) -> Self {
        self.weight = weight;
        self
    }

    /// In another place.
    #[must_use]
    pub fn locality(mut self, locality: Locality) -> Self {
        self.locality = locality;
        self
    }

    /// With another priority.
    #[must_use]
    pub fn priority(mut self, priority: u32) -> Self {
        self.priority = priority;
        self
    }
}

/// A member: the payload and the counters that every thread shares.
///
/// What a pick reads of a member is in the first line of 64 bytes of `hot`; a pair of lines (what the processor fetches
/// together) belongs to one member, so that members do not slow each other down.
pub struct Member<T> {
    pub(crate) hot: Hot,
    pub(crate) tuning: Arc<Tuning>,
    pub(crate) pool: Weak<Inner<T>>,
    key: MemberKey,
    id: Arc<str>,
    payload: T,
}

/// The counters, hottest first.
#[repr(C, align(128))]
#[derive(Default)]
pub(crate) struct Hot {
    /// Requests begun and ended. Their difference is what is in flight: one addition each, where a count in flight
    /// and one of attempts would be two at every pick.
    begun: AtomicU64,
    ended: AtomicU64,
    pub(crate) ewma: Ewma,
    /// Of those in flight, trials taken while probing.
    pub(crate) trials: AtomicU32,
    pub(crate) failures: AtomicU64,
    /// Health counters of the empty scope.
    pub(crate) cell: Cell,
    pub(crate) load: LoadReport,
}

impl Hot {
    #[inline]
    pub(crate) fn begin(&self) {
        self.begun.fetch_add(1, Relaxed);
    }

    #[inline]
    pub(crate) fn end(&self) {
        // Release, with the acquire below: who sees the end has seen the beginning.
        self.ended.fetch_add(1, Release);
    }

    /// Requests in flight. The ended ones are read first: another thread's request may be counted that has just ended,
    /// none is ever missed.
    #[inline]
    pub(crate) fn inflight(&self) -> u32 {
        let ended = self.ended.load(Acquire);
        u32::try_from(self.begun.load(Relaxed).wrapping_sub(ended)).unwrap_or(u32::MAX)
    }

    pub(crate) fn attempts(&self) -> u64 {
        self.begun.load(Relaxed)
    }
}

impl<T> Member<T> {
    pub(crate) fn new(
        id: Arc<str>,
        payload: T,
        tuning: Arc<Tuning>,
        pool: Weak<Inner<T>>,
    ) -> Member<T> {
        Member {
            hot: Hot::default(),
            tuning,
            pool,
            key: MemberKey::next(),
            id,
            payload,
        }
    }

    /// Its key.
    pub fn key(&self) -> MemberKey {
        self.key
    }

    /// Its identity within the pool.
    pub fn id(&self) -> &Arc<str> {
        &self.id
    }

    /// What the caller put in.
    pub fn payload(&self) -> &T {
        &self.payload
    }

    /// Requests in flight, exact over all threads.
    pub fn inflight(&self) -> u32 {
        self.hot.inflight()
    }

    /// What the backend says of its load (ORCA): `utilization` (application or CPU; 1.0 is full), queries and errors per
    /// second. For [`Balance::BackendLoad`](crate::Balance::BackendLoad); lock-free. A report without queries or utilization tells nothing and is left out, as in A58.
    pub fn report_load(&self, utilization: f32, qps: f32, eps: f32, now: Time) {
        self.hot
            .load
            .report(utilization, qps, eps, self.tuning.error_penalty(), now);
    }
}

impl<T> fmt::Debug for Member<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Member")
            .field("id", &self.id)
            .field("key", &self.key)
            .field("inflight", &self.inflight())
            .finish_non_exhaustive()
    }
}

/// A member as [`Pool::status`](crate::Pool::status) shows it.
#[derive(Clone, Debug)]
pub struct MemberStatus {
    /// Identity.
    pub id: Arc<str>,
    /// Key.
    pub key: MemberKey,
    /// Weight as configured.
    pub weight: u32,
    /// Share of the weight in force (slow start), 0.0 to 1.0.
    pub weight_factor: f64,
    /// Where it is.
    pub locality: Locality,
    /// Priority.
    pub priority: u32,
    /// Health of the member as a whole.
    pub health: HealthStatus,
    /// Scopes that are not healthy or have failures on record.
    pub scopes: Vec<(Scope, HealthStatus)>,
    /// Ejections in scopes that are no longer remembered: with those of `health` and `scopes`, all since it was added.
    pub forgotten_ejections: u64,
    /// Requests in flight.
    pub inflight: u32,
    /// Attempts made since it was added.
    pub attempts: u64,
    /// Of them failed (failures and evidence).
    pub failures: u64,
    /// Peak-sensitive average of the latency, decayed to now; `None` before the first measurement.
    pub ewma: Option<Duration>,
}

/// Health of one member in one scope.
#[derive(Clone, Debug)]
pub struct HealthStatus {
    /// State.
    pub state: MemberState,
    /// Why it is in that state; `None` where there was no change yet.
    pub cause: Option<Cause>,
    /// When it entered the state.
    pub since: Time,
    /// When an ejected member may return; `None` if not ejected, or if only a check brings it back.
    pub returns_at: Option<Time>,
    /// True where evidence holds it out.
    pub evidence: bool,
    /// True where statistics hold it out; both may.
    pub statistics: bool,
    /// How often it was ejected.
    pub ejections: u64,
    /// Factor of the next ejection's time, minus one.
    pub multiplier: u32,
}
