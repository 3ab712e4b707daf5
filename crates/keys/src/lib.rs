//! Tidegate's room for API keys: a dead, limited or exhausted key is never the caller's problem.
//!
//! A key is a member of a pool like any endpoint, with the model as its scope; the engine of `tidegate-core` decides who is
//! fit. This room adds what is particular to keys and does no I/O of its own but through the
//! [`Store`](tidegate_state::Store) and the [`Probe`](probe::Probe) that it is given.

#![cfg_attr(not(test), warn(clippy::unwrap_used, clippy::expect_used))]

mod choice;
mod clock;
mod counts;
mod failover;
mod identity;
mod judge;
mod key;
mod mapping;
mod notes;
mod outbox;
mod provider;
mod registry;
mod rotation;
mod settings;

pub mod account;
pub mod probe;
pub mod share;
pub mod status;

pub use choice::Choice;
pub use clock::{Clock, MonotonicClock};
pub use counts::Counts;
pub use failover::{Failover, Statuses};
pub use identity::{Identity, KeyId};
pub use judge::{Judgement, Next, NoAnswer, Outcome, class_name};
pub use key::{ApiKey, Fingerprint, Token};
pub use mapping::Mapping;
pub use notes::Note;
pub use outbox::Slot;
pub use provider::{Live, Provider};
pub use registry::{KeyEvent, Keys};
pub use rotation::{AllOut, KeyPick, OutCause, Rotation};
pub use settings::{Settings, SettingsError};
