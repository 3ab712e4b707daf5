//! Hosts models: starts worker processes, keeps versions of a model loaded, and answers the protocols of model servers
//! on one socket an instance.
//!
//! A door (`door`) turns a request of any protocol into a [`Call`]; a group of workers (`group`) runs it and gives
//! an [`Answer`] or a [`Fault`]; neither knows of the other more than the [`Model`] trait.

mod backoff;
mod blocking;
mod board;
mod call;
mod checks;
pub mod door;
mod doorway;
mod events;
mod frame;
mod group;
mod host;
mod instance;
mod message;
mod model;
mod progress;
pub mod proto;
mod sdk;
mod service;
mod socket;
pub mod spool;
mod state;
mod versions;
mod worker;

pub use call::*;
pub use checks::Checks;
pub use events::{Event, Events, Release, Stream, Traced, What};
pub use host::{Host, HostError, HostOptions};
pub use progress::Progress;
pub use state::{Address, InstanceState, ServiceCounts, State, Unwell};
