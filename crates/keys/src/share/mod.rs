//! Replicas agree on which keys are out.
//!
//! Each replica counts failures on its own and shares what follows from them through the store, as
//! the exchange describes (`share/exchange.rs`); [`share`] is the task that does it. A verdict reaches the others in the time of one write and one
//! notification of the store, milliseconds where it is near. While the store is away everybody goes on with what it knows, and
//! tells the rest later. After a restart the store's entries are the beginning.

mod exchange;
mod record;
#[cfg(test)]
mod sim;
mod task;

#[cfg(test)]
pub(crate) use exchange::Exchange;
pub use task::{Sharing, identity, share};
