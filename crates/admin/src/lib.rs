//! Seeing a gateway: the admin API, the metrics text, the dashboard and `tidegate status`.
//!
//! Nothing here is on the request path. [`serve`] puts an HTTP server on one listener over anything
//! that is a [`Source`] (the running gateway's handle, or made-up data in tests). It is bounded in connections, header
//! bytes and time, because a monitoring port that can be exhausted takes the readiness probe down with it.
//!
//! The other direction lives here too: [`client`] asks a running Tidegate, [`status`] renders its answers as tables.
//! Both ends share the types of [`overview`] and of `tidegate_gateway::view`, so that they cannot drift apart.

mod api;
mod assets;
pub mod client;
mod events;
mod guard;
pub mod keys;
pub mod metrics;
pub mod openapi;
pub mod overview;
mod problem;
mod process;
mod providers;
mod server;
mod services;
mod source;
pub mod status;
mod token;

pub use problem::Problem;
pub use server::{AdminHandle, AdminOptions, Limits, Prepared, ServeError, prepare, serve};
pub use source::{Answer, Source};
pub use tidegate_gateway::ListenSocket;
pub use token::Token;
