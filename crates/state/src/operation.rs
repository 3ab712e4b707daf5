//! Operations as data: what the trait's methods become on their way to a ledger, a thread or another process.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::error::Error;
use crate::key::{Key, Prefix};
use crate::ledger::{LARGEST_COUNT, whole_ms};
use crate::store::{
    Add, Entry, Epoch, Guard, LARGEST_VALUE, LONGEST_HOLDER, LONGEST_TTL, Lease, LeaseView,
    Listing, Store, Version,
};
use crate::watch::{Feed, Watch};

/// How long an operation may take before its caller is told that the store is not available.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);

/// What can be asked of a backend. Times to live are whole milliseconds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum Operation {
    Get {
        key: Key,
    },
    List {
        prefix: Prefix,
    },
    Put {
        key: Key,
        #[serde(with = "crate::remote::bytes")]
        value: Bytes,
        ttl_ms: Option<u64>,
        guard: Guard,
    },
    Delete {
        key: Key,
        guard: Guard,
    },
    Acquire {
        name: Key,
        holder: String,
        ttl_ms: u64,
    },
    Renew {
        name: Key,
        holder: String,
        epoch: Epoch,
        ttl_ms: u64,
    },
    Release {
        name: Key,
        holder: String,
        epoch: Epoch,
    },
    Lease {
        name: Key,
    },
    Add {
        adds: Vec<Add>,
    },
}

impl Operation {
    /// Whether doing it again after an answer was lost is as good as doing it once.
    pub(crate) fn is_repeatable(&self) -> bool {
        match self {
            Self::Get { .. }
            | Self::List { .. }
            | Self::Lease { .. }
            | Self::Acquire { .. }
            | Self::Renew { .. }
            | Self::Release { .. } => true,
            Self::Put { .. } | Self::Delete { .. } | Self::Add { .. } => false,
        }
    }
}

/// What comes back.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum Answer {
    Entry(Option<Entry>),
    Listing(Listing),
    Written(Version),
    Deleted(bool),
    Acquired(Epoch),
    Renewed,
    Released,
    Lease(Option<LeaseView>),
    Added(Vec<u64>),
}

/// What a backend has to offer; the trait that users see follows from it.
#[async_trait]
pub(crate) trait Backend: std::fmt::Debug + Send + Sync + 'static {
    async fn execute(&self, operation: Operation) -> Result<Answer, Error>;
    /// Where its changes are published.
    fn feed(&self) -> &Feed;
}

/// A backend behind the trait that users see.
#[derive(Debug)]
pub(crate) struct Front<B>(pub(crate) Arc<B>);

/// A backend that answers something else than it was asked: a peer of another version, at most.
fn mixed_up() -> Error {
    Error::unavailable("the store's answer does not fit the question")
}

fn ttl_ms(ttl: Duration) -> Result<u64, Error> {
    if ttl.is_zero() || ttl > LONGEST_TTL {
        return Err(Error::Invalid(format!(
            "a time to live of {ttl:?} is out of range: more than zero, at most ten years"
        )));
    }
    Ok(whole_ms(ttl))
}

fn holder_name(holder: &str) -> Result<String, Error> {
    if holder.is_empty() || holder.len() > LONGEST_HOLDER {
        return Err(Error::Invalid(format!(
            "a holder's name has 1 to {LONGEST_HOLDER} bytes"
        )));
    }
    Ok(holder.to_owned())
}

#[async_trait]
impl<B: Backend> Store for Front<B> {
    async fn get(&self, key: &Key) -> Result<Option<Entry>, Error> {
        match self.0.execute(Operation::Get { key: key.clone() }).await? {
            Answer::Entry(entry) => Ok(entry),
            _ => Err(mixed_up()),
        }
    }

    async fn list(&self, prefix: &Prefix) -> Result<Listing, Error> {
        list(&*self.0, prefix).await
    }

    async fn put(
        &self,
        key: &Key,
        value: Bytes,
        ttl: Option<Duration>,
        guard: &Guard,
    ) -> Result<Version, Error> {
        if value.len() > LARGEST_VALUE {
            return Err(Error::Invalid(format!(
                "{key}: a value of {} bytes is over the limit of {LARGEST_VALUE}",
                value.len()
            )));
        }
        let put = Operation::Put {
            key: key.clone(),
            value,
            ttl_ms: ttl.map(ttl_ms).transpose()?,
            guard: guard.clone(),
        };
        match self.0.execute(put).await? {
            Answer::Written(version) => Ok(version),
            _ => Err(mixed_up()),
        }
    }

    async fn delete(&self, key: &Key, guard: &Guard) -> Result<bool, Error> {
        let delete = Operation::Delete {
            key: key.clone(),
            guard: guard.clone(),
        };
        match self.0.execute(delete).await? {
            Answer::Deleted(existed) => Ok(existed),
            _ => Err(mixed_up()),
        }
    }

    fn watch(&self, prefix: &Prefix) -> Watch {
        Watch::new(self.0.clone(), prefix.clone())
    }

    async fn acquire(&self, name: &Key, holder: &str, ttl: Duration) -> Result<Lease, Error> {
        let holder = holder_name(holder)?;
        let asked = Instant::now();
        let acquire = Operation::Acquire {
            name: name.clone(),
            holder: holder.clone(),
            ttl_ms: ttl_ms(ttl)?,
        };
        match self.0.execute(acquire).await? {
            Answer::Acquired(epoch) => Ok(Lease {
                name: name.clone(),
                holder,
                epoch,
                ttl,
                until: asked + ttl,
            }),
            _ => Err(mixed_up()),
        }
    }

    async fn renew(&self, lease: &Lease) -> Result<Lease, Error> {
        let asked = Instant::now();
        let renew = Operation::Renew {
            name: lease.name.clone(),
            holder: holder_name(&lease.holder)?,
            epoch: lease.epoch,
            ttl_ms: ttl_ms(lease.ttl)?,
        };
        match self.0.execute(renew).await? {
            Answer::Renewed => Ok(Lease {
                until: asked + lease.ttl,
                ..lease.clone()
            }),
            _ => Err(mixed_up()),
        }
    }

    async fn release(&self, lease: &Lease) -> Result<(), Error> {
        let release = Operation::Release {
            name: lease.name.clone(),
            holder: holder_name(&lease.holder)?,
            epoch: lease.epoch,
        };
        match self.0.execute(release).await? {
            Answer::Released => Ok(()),
            _ => Err(mixed_up()),
        }
    }

    async fn lease(&self, name: &Key) -> Result<Option<LeaseView>, Error> {
        let name = name.clone();
        match self.0.execute(Operation::Lease { name }).await? {
            Answer::Lease(view) => Ok(view),
            _ => Err(mixed_up()),
        }
    }

    async fn add_all(&self, adds: &[Add]) -> Result<Vec<u64>, Error> {
        let mut adds = adds.to_vec();
        for add in &mut adds {
            add.ttl.map(ttl_ms).transpose()?;
            // Beyond this the value stops anyway; and all backends count exactly up to here.
            let most = LARGEST_COUNT as i64;
            add.delta = add.delta.clamp(-most, most);
            add.ceiling = add.ceiling.map(|ceiling| ceiling.min(LARGEST_COUNT));
        }
        let asked = adds.len();
        match self.0.execute(Operation::Add { adds }).await? {
            Answer::Added(values) if values.len() == asked => Ok(values),
            _ => Err(mixed_up()),
        }
    }

    fn connected(&self) -> bool {
        self.0.feed().is_live()
    }
}

pub(crate) async fn list(backend: &dyn Backend, prefix: &Prefix) -> Result<Listing, Error> {
    let prefix = prefix.clone();
    match backend.execute(Operation::List { prefix }).await? {
        Answer::Listing(listing) => Ok(listing),
        _ => Err(mixed_up()),
    }
}
