//! How programs are asked whether they are ready: as endpoints of an upstream are.

use std::net::{Ipv4Addr, SocketAddr};

use async_trait::async_trait;
use tidegate_config::model::{HealthCheck, Service};
use tidegate_discovery::{Address, Resolver, check_once};
use tidegate_host::Checks;

/// The checks of upstreams. No name is looked up for them.
#[derive(Debug)]
pub(super) struct Asked(Resolver);

impl Default for Asked {
    fn default() -> Self {
        Self(Resolver::system())
    }
}

#[async_trait]
impl Checks for Asked {
    async fn check(&self, service: &Service, check: &HealthCheck, port: u16) -> Result<(), String> {
        let upstream = tidegate_gateway::upstream_of_service(service);
        let address = Address::Ip(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        check_once(&upstream, check, &self.0, &address).await
    }
}
