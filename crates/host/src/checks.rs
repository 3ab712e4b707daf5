//! Whether a program answers as its `health_check` asks.

use std::fmt;

use async_trait::async_trait;
use tidegate_config::model::{HealthCheck, Service};

/// Asks programs that `command` runs. Whoever embeds the host has the protocols for it.
#[async_trait]
pub trait Checks: fmt::Debug + Send + Sync + 'static {
    /// Asks the one that listens on this port of 127.0.0.1, once.
    ///
    /// # Errors
    /// Why it is not ready, in words.
    async fn check(&self, service: &Service, check: &HealthCheck, port: u16) -> Result<(), String>;
}
