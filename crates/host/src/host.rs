//! The host: all services of a process, and what is done to them.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tidegate_config::model::Service;
use tokio::sync::watch;

use crate::events::Events;
use crate::state::{InstanceState, ServiceCounts};

/// What a host needs to know.
#[derive(Debug, Clone)]
pub struct HostOptions {
    /// Folder for sockets and the copy of the Python SDK; its path should be short, since sockets' paths are at most 107 bytes.
    pub run_dir: PathBuf,
    /// Folder for uploads and results that travel as files.
    pub spool_dir: PathBuf,
    /// What relative paths of services are relative to.
    pub base_dir: PathBuf,
    /// Takes events.
    pub events: Arc<dyn Events>,
    /// What is hosted at the start.
    pub services: Vec<Service>,
}

/// What can't be done with the host.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// A folder or socket can't be made.
    #[error("cannot use {}: {source}", path.display())]
    Folder {
        /// Which.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// There is no such service.
    #[error("no service is named `{0}`")]
    UnknownService(String),
    /// A new worker did not become ready; the old ones go on.
    #[error("`{instance}` was not reloaded: {cause}; its old worker goes on")]
    Reload {
        /// Which instance.
        instance: String,
        /// Why.
        cause: String,
    },
}

/// Hosts services. Dropping it ends all workers at once; [`Host::drain`] ends them well.
#[derive(Debug)]
pub struct Host {
    states: watch::Sender<Arc<Vec<InstanceState>>>,
}

impl Host {
    /// Starts hosting. Returns when the sockets are there; workers become ready later.
    ///
    /// # Errors
    /// [`HostError::Folder`].
    pub async fn start(options: HostOptions) -> Result<Self, HostError> {
        let _ = options;
        Ok(Self {
            states: watch::Sender::new(Arc::new(Vec::new())),
        })
    }

    /// Hosts these services from now on: new ones start, missing ones drain, changed ones are replaced worker by worker
    /// without a lost call. Returns when that is under way; a change that does not become ready leaves the old workers.
    pub fn apply(&self, services: Vec<Service>) {
        let _ = services;
    }

    /// Replaces the workers of a service (`None`: of all) one by one. Returns when it is done.
    ///
    /// # Errors
    /// [`HostError::UnknownService`]; [`HostError::Reload`] when a new worker does not become ready.
    pub async fn reload(&self, service: Option<&str>) -> Result<(), HostError> {
        let _ = service;
        Ok(())
    }

    /// Ends everything: no new calls, running ones finish within `grace`, workers end. Returns when no process is left.
    pub async fn drain(&self, grace: Duration) {
        let _ = grace;
    }

    /// Instances as they stand, and their changes.
    #[must_use]
    pub fn instances(&self) -> watch::Receiver<Arc<Vec<InstanceState>>> {
        self.states.subscribe()
    }

    /// Counts of every service.
    #[must_use]
    pub fn counts(&self) -> Vec<ServiceCounts> {
        Vec::new()
    }
}
