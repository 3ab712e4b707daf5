//! Tidegate's room for language models: dialects, providers, translation, and what an outcome means.
//!
//! Bytes and events in, bytes and events out. Nothing here does I/O, reads a clock or knows a runtime.

pub mod aws;
pub mod classify;
pub mod dialect;
pub mod price;
pub mod registry;
pub mod sse;
pub mod usage;

mod answer;
mod anthropic;
mod bedrock;
mod call;
mod cohere;
mod fault;
mod gemini;
mod ir;
mod json;
mod models;
mod openai;
mod prepare;

pub use answer::{Answer, Broke, Step};
pub use call::Call;
pub use dialect::{Dialect, Endpoint, Front};
pub use fault::{ErrorAnswer, Fault, FaultKind};
pub use prepare::{Plan, PrepareOptions, Prepared};
pub use registry::{ProviderKind, ProviderSpec, Secret, SpecError};
