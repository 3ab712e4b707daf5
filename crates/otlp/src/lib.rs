//! Spans on their way to a collector, by OpenTelemetry's protocol over HTTP with protocol buffers.
//!
//! Who records hands over a [`Record`] without waiting: [`Queue::give`] drops it, and counts that, when too many wait. A task of the control
//! runtime makes spans of the records, sends them in batches, tries again what the protocol says may be tried again, and says so once when
//! the collector can't be reached, and once when it can.
//!
//! ```text
//! Queue::give → (bounded) → export: batches → Collector: one request each, again after a while → counted
//! ```

mod collector;
mod export;
pub mod span;

pub use collector::{Collector, Refused, SetupError};
pub use export::{Counts, Exporter, Queue, Record};

/// OpenTelemetry's messages.
#[allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    reason = "generated from proto/"
)]
mod messages {
    include!(concat!(env!("OUT_DIR"), "/otlp.rs"));
}

pub use messages::opentelemetry::proto;
