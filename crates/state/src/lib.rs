//! Durable state that several processes share: the [`Store`] trait and its backends.
//!
//! A store has three kinds of things, each in a space of its own:
//!
//! - *entries*: small values under slash paths, with versions for compare-and-set, times to live, and watches;
//! - *leases*: who does what only one process may do. A holding has an [`Epoch`] that only grows; a write that carries
//!   it is refused once somebody else has the lease;
//! - *counters*: additions with a ceiling, for accounts.
//!
//! ```
//! use tidegate_state::{Error, Guard, Key, memory};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Error> {
//! let store = memory();
//! let key = Key::of(&["providers", "qwen", "keys", "3f2a"])?;
//! let first = store.put(&key, "limited".into(), None, &Guard::absent()).await?;
//! store.put(&key, "healthy".into(), None, &Guard::version(first)).await?;
//! let late = store.put(&key, "dead".into(), None, &Guard::version(first)).await;
//! assert!(matches!(late, Err(Error::Conflict { .. })));
//! # Ok(())
//! # }
//! ```

mod clock;
mod error;
mod file;
mod key;
mod lead;
mod ledger;
mod memory;
mod open;
mod operation;
mod redis;
mod remote;
mod store;
mod watch;

pub use error::Error;
pub use file::file;
pub use key::{InvalidKey, Key, Prefix};
pub use lead::Candidate;
pub use memory::memory;
pub use open::{FILE_NAME, OpenError, StateUrl, open};
pub use redis::redis;
pub use remote::{Server, remote};
pub use store::{
    Add, Entry, Epoch, Expect, Fence, Guard, LARGEST_VALUE, LONGEST_HOLDER, LONGEST_TTL, Lease,
    LeaseView, Listing, Store, Version,
};
pub use watch::{Event, Watch};
