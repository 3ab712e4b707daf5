//! The trait that every backend offers, and its vocabulary.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::error::Error;
use crate::key::{Key, Prefix};
use crate::watch::Watch;

/// Largest value, in bytes.
pub const LARGEST_VALUE: usize = 1 << 20;
/// Longest time to live.
pub const LONGEST_TTL: Duration = Duration::from_secs(10 * 366 * 86_400);
/// Longest holder name, in bytes.
pub const LONGEST_HOLDER: usize = 256;

/// The mark of one write. Every write of a store gets a higher one than all before it, whatever its key, also across
/// restarts and after a deletion; so an entry that was deleted and made again is not mistaken for the old one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Version(pub u64);

/// The number of one holding of a lease. It only grows: whoever sees a lower one than before sees a holder of the
/// past. Numbers are not consecutive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Epoch(pub u64);

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A value with what the store knows of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// At most [`LARGEST_VALUE`] bytes.
    #[serde(with = "crate::remote::bytes")]
    pub value: Bytes,
    /// The write that made it.
    pub version: Version,
    /// Time to live that was left when the store answered; `None`: it stays.
    pub expires_in: Option<Duration>,
}

/// The entries below a prefix at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listing {
    /// The store's last write before that moment, whatever its key.
    pub version: Version,
    /// In the order of their keys.
    pub entries: Vec<(Key, Entry)>,
}

/// What a write expects to find.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Expect {
    /// Anything or nothing.
    #[default]
    Any,
    /// No entry.
    Absent,
    /// Exactly what this write made.
    Version(Version),
}

/// A lease that a write depends on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fence {
    /// The lease's name.
    pub lease: Key,
    /// The epoch of the writer.
    pub epoch: Epoch,
}

/// The conditions of a write; they and the write are one atomic step. The default has none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Guard {
    /// Refused with [`Error::Conflict`] otherwise.
    pub expect: Expect,
    /// Refused with [`Error::Fenced`] when the epoch is not the latest one granted, or was released. A lease that ran
    /// out and that nobody else has taken still carries its writes: there is nobody to get in the way of.
    pub fence: Option<Fence>,
}

impl Guard {
    /// No conditions.
    pub const NONE: Self = Self {
        expect: Expect::Any,
        fence: None,
    };

    /// Only when there is no entry.
    pub fn absent() -> Self {
        Self {
            expect: Expect::Absent,
            fence: None,
        }
    }

    /// Only over exactly this write.
    pub fn version(version: Version) -> Self {
        Self {
            expect: Expect::Version(version),
            fence: None,
        }
    }

    /// And only while the lease is the caller's.
    #[must_use]
    pub fn fenced(self, lease: &Lease) -> Self {
        Self {
            fence: Some(lease.fence()),
            ..self
        }
    }
}

/// A lease that the caller holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Its name.
    pub name: Key,
    /// Who holds it.
    pub holder: String,
    /// The number of this holding.
    pub epoch: Epoch,
    /// How long it lasts from every renewal on.
    pub ttl: Duration,
    /// Until when nobody else can have it: counted from before the request, so that it is never later than what the
    /// store counts. Past it the holder stops acting as one, unless every act is fenced.
    pub until: Instant,
}

impl Lease {
    /// What a write that depends on this lease carries.
    pub fn fence(&self) -> Fence {
        Fence {
            lease: self.name.clone(),
            epoch: self.epoch,
        }
    }
}

/// A lease as others see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseView {
    /// The latest epoch that was granted.
    pub epoch: Epoch,
    /// Who holds it and how long yet; `None` when it ran out or was released.
    pub held: Option<(String, Duration)>,
}

/// One addition to a counter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Add {
    /// The counter. Counters are a space of their own: neither listed nor watched, and no entry's neighbour.
    pub key: Key,
    /// What is added; zero only reads. The value stays within `0..=2^53`: it stops there.
    pub delta: i64,
    /// An addition (not a subtraction) that would go past it is refused.
    pub ceiling: Option<u64>,
    /// How long the counter lives from the addition that makes it; later ones do not prolong it. `None`: it stays.
    pub ttl: Option<Duration>,
}

/// Durable state that several processes share: entries with compare-and-set and watch, leases with fencing epochs,
/// and counters with a ceiling.
///
/// - Every operation is atomic, and all of them have one order (linearizable), whoever asks. Redis: as long as no
///   failover of Redis itself forgets writes.
/// - A write that was acknowledged survives a crash of any Tidegate process. Counters: the embedded file may forget
///   the additions of the last 100 ms; Redis and memory are as durable as they are.
/// - Times to live and leases are counted by the store's clock, in milliseconds (rounded up).
/// - No operation waits longer than a few seconds; then it answers [`Error::Unavailable`].
#[async_trait]
pub trait Store: fmt::Debug + Send + Sync + 'static {
    /// The entry, if there is one.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    async fn get(&self, key: &Key) -> Result<Option<Entry>, Error>;

    /// The entries below a prefix, all of one moment.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    async fn list(&self, prefix: &Prefix) -> Result<Listing, Error>;

    /// Writes an entry. Its time to live starts anew; `None`: it stays.
    ///
    /// # Errors
    /// [`Error::Fenced`], [`Error::Conflict`] (looked at in this order), [`Error::Unavailable`], [`Error::Invalid`].
    async fn put(
        &self,
        key: &Key,
        value: Bytes,
        ttl: Option<Duration>,
        guard: &Guard,
    ) -> Result<Version, Error>;

    /// Removes an entry. Returns whether there was one.
    ///
    /// # Errors
    /// As [`Store::put`].
    async fn delete(&self, key: &Key, guard: &Guard) -> Result<bool, Error>;

    /// Follows the entries below a prefix, from now until it is dropped. See [`Watch`].
    fn watch(&self, prefix: &Prefix) -> Watch;

    /// Takes a lease that is free, or that ran out. A holder that has it gets it again, prolonged, with the same
    /// epoch: so asking again after an answer that was lost is safe, and `holder` must be unique to one process and
    /// one start of it.
    ///
    /// # Errors
    /// [`Error::Held`] by somebody else, [`Error::Unavailable`], [`Error::Invalid`].
    async fn acquire(&self, name: &Key, holder: &str, ttl: Duration) -> Result<Lease, Error>;

    /// Prolongs a lease by its time to live. One that ran out can be prolonged as long as nobody else took it.
    ///
    /// # Errors
    /// [`Error::Fenced`] when it is lost, [`Error::Unavailable`].
    async fn renew(&self, lease: &Lease) -> Result<Lease, Error>;

    /// Gives a lease back: the next one gets it at once. Nothing happens when it is not the caller's any more.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    async fn release(&self, lease: &Lease) -> Result<(), Error>;

    /// Who holds a lease; `None` when nobody ever did.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    async fn lease(&self, name: &Key) -> Result<Option<LeaseView>, Error>;

    /// Adds to several counters, all or none, and returns their values in the same order.
    ///
    /// # Errors
    /// [`Error::Ceiling`] of the first counter that would pass its own, [`Error::Unavailable`], [`Error::Invalid`].
    async fn add_all(&self, adds: &[Add]) -> Result<Vec<u64>, Error>;

    /// Adds to one counter and returns its value. See [`Add`].
    ///
    /// # Errors
    /// As [`Store::add_all`].
    async fn add(
        &self,
        key: &Key,
        delta: i64,
        ceiling: Option<u64>,
        ttl: Option<Duration>,
    ) -> Result<u64, Error> {
        let add = Add {
            key: key.clone(),
            delta,
            ceiling,
            ttl,
        };
        let values = self.add_all(std::slice::from_ref(&add)).await?;
        values
            .first()
            .copied()
            .ok_or_else(|| Error::unavailable("the answer holds no value"))
    }

    /// Whether watches are fed right now; false while the store is away. For status pages: an operation may still
    /// find out otherwise.
    fn connected(&self) -> bool;
}
