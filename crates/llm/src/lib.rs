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

mod anthropic;
mod answer;
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

pub use dialect::{Dialect, Endpoint};
pub use registry::ProviderKind;
