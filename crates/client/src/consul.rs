//! Addresses from Consul.

use std::sync::Arc;
use std::time::Duration;

use tidegate_config::model::ConsulDiscovery;
use tidegate_config::values::Secret;
use tidegate_discovery::{Resolver, Watch};
use tokio::task::JoinHandle;

use crate::Error;
use crate::balance::Members;
use crate::client::{Settings, set};

/// A service in Consul whose passing instances are called.
#[derive(Debug, Clone)]
pub struct Consul {
    /// The agent: `http://127.0.0.1:8500`.
    pub agent: String,
    /// Name of the service.
    pub service: String,
    /// Tags that an instance must all have.
    pub tags: Vec<String>,
    /// Default: the agent's own.
    pub datacenter: Option<String>,
    /// ACL token.
    pub token: Option<String>,
}

impl Consul {
    /// A service at an agent.
    pub fn new(agent: impl Into<String>, service: impl Into<String>) -> Self {
        Self {
            agent: agent.into(),
            service: service.into(),
            tags: Vec::new(),
            datacenter: None,
            token: None,
        }
    }
}

/// Follows the list until it is dropped.
#[derive(Debug)]
pub(crate) struct Source {
    _watch: Watch,
    task: JoinHandle<()>,
}

impl Drop for Source {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Source {
    pub(crate) fn start(
        consul: Consul,
        members: &Arc<Members>,
        settings: &Arc<Settings>,
    ) -> Result<Self, Error> {
        let agent = consul.agent;
        let wrong = |message: String| Error::Address {
            address: agent.clone(),
            message,
        };
        let discovery = ConsulDiscovery {
            address: agent
                .parse()
                .map_err(|error: tidegate_config::values::Wrong| {
                    wrong(format!("{}; {}", error.problem, error.help))
                })?,
            service: consul.service,
            tags: consul.tags,
            datacenter: consul.datacenter,
            token: consul.token.map(Secret::new),
            passing: true,
            stale: true,
            wait: Duration::from_secs(300),
        };
        let resolver = Resolver::system();
        let watch = tidegate_discovery::watch_consul(&discovery, &resolver)
            .map_err(|error| wrong(error.to_string()))?;
        let (mut updates, members, settings) =
            (watch.updates(), Arc::clone(members), Arc::clone(settings));
        let task = tokio::spawn(async move {
            loop {
                {
                    let update = updates.borrow_and_update();
                    if update.known {
                        // Its addresses were checked by who read them.
                        let _ = set(
                            &members,
                            &settings,
                            update
                                .endpoints
                                .as_slice()
                                .iter()
                                .map(|endpoint| endpoint.id.to_string()),
                        );
                    }
                }
                if updates.changed().await.is_err() {
                    return;
                }
            }
        });
        Ok(Self {
            _watch: watch,
            task,
        })
    }
}
