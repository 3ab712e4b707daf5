//! What a store may answer instead of a result.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::key::{InvalidKey, Key};
use crate::store::{Epoch, Version};

/// Why a store did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The store cannot be reached or cannot write. Trying again later may help; the caller goes on with what it
    /// knows. A write may or may not have been done: read before a compare-and-set is repeated.
    #[error("the store is not available: {cause}")]
    Unavailable {
        /// What happened, for people.
        cause: String,
    },
    /// The entry is not what the write expected.
    #[error("{key} is not what was expected: it {}", current.map_or("does not exist".to_owned(), |version| format!("has version {version}")))]
    Conflict {
        /// The entry.
        key: Key,
        /// What is there now; `None`: nothing.
        current: Option<Version>,
    },
    /// The lease is no longer the caller's: somebody else has or had it, or it was released.
    #[error("the lease {lease} of epoch {epoch} is lost{}", current.map(|current| format!(" (now {current})")).unwrap_or_default())]
    Fenced {
        /// The lease's name.
        lease: Key,
        /// The caller's epoch.
        epoch: Epoch,
        /// The latest epoch that was granted, if any was.
        current: Option<Epoch>,
    },
    /// Somebody else holds the lease.
    #[error("the lease {lease} is held by {holder} for another {} ms", remaining.as_millis())]
    Held {
        /// The lease's name.
        lease: Key,
        /// Who holds it.
        holder: String,
        /// When it ends unless it is renewed, by the store's clock.
        remaining: Duration,
    },
    /// The counter would have passed its ceiling; nothing was added, to none of the counters asked for.
    #[error("{key} is at {value} and may not pass {ceiling}")]
    Ceiling {
        /// The counter.
        key: Key,
        /// Its value, unchanged.
        value: u64,
        /// The ceiling it was asked to respect.
        ceiling: u64,
    },
    /// The caller's mistake: a value, a time to live or a name out of range.
    #[error("{0}")]
    Invalid(String),
}

impl Error {
    /// Whether trying again later may help.
    pub fn is_unavailable(&self) -> bool {
        matches!(self, Self::Unavailable { .. })
    }

    pub(crate) fn unavailable(cause: impl ToString) -> Self {
        Self::Unavailable {
            cause: cause.to_string(),
        }
    }
}

impl From<InvalidKey> for Error {
    fn from(error: InvalidKey) -> Self {
        Self::Invalid(error.to_string())
    }
}
