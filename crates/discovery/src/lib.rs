//! Discovery: where endpoints are, whether they are fit, and how others find us.
//!
//! - [`watch`] follows an upstream's endpoints: a fixed list, a file, DNS or Consul. The last good list stays in use whatever
//!   happens to the source; the trouble is told beside it.
//! - [`Prober`] checks endpoints actively (HTTP, gRPC, TCP), each once a process.
//! - [`Registration`] keeps a listener registered with Consul until it drains.
//! - [`connect`] and [`tls`] make the connections for all of these and for the gateway's data path; [`client`] is the HTTP client of control
//!   work.
//!
//! All tasks run on one control runtime: the one in which the [`Resolver`] was made. Nothing here runs on a data thread
//! but [`Connector::connect`] itself. Dropping a handle ends its tasks.

#![warn(missing_docs)]

pub mod client;
pub mod connect;
mod consul;
mod dns;
pub mod endpoint;
mod file;
pub mod jitter;
mod probe;
pub mod resolve;
mod source;
pub mod tls;

use tidegate_config::model::{ConsulDiscovery, Discover, Upstream};

pub use connect::{ClientTls, ConnectError, Connector, Plain, Stream};
pub use consul::{ListenerFacts, RegisterError, Registration, RegistrationState};
pub use endpoint::{Address, Endpoint, EndpointId, EndpointSet};
pub use probe::{Health, Prober, check_once};
pub use resolve::{ResolveError, Resolver};
pub use source::{Update, Watch};
pub use tls::SetupError;

/// Whether [`watch`] and [`Prober::start`] would work for this upstream, without starting anything.
///
/// # Errors
/// The mistake that they would report.
pub fn check(upstream: &Upstream, resolver: &Resolver) -> Result<(), SetupError> {
    match &upstream.discover {
        Some(Discover::Consul(consul)) => consul::check(consul, resolver)?,
        Some(Discover::Dns(dns)) => dns::check(dns)?,
        None | Some(Discover::File(_)) => {}
    }
    match &upstream.health_check {
        // It asks nobody before it is given endpoints.
        Some(health) => Prober::start(upstream, health, resolver, |_, _| ()).map(drop),
        None => Ok(()),
    }
}

/// Follows the instances of a service in Consul until the handle is dropped. May be called from any runtime.
///
/// # Errors
/// Mistakes that make asking impossible, as with [`watch`].
pub fn watch_consul(discovery: &ConsulDiscovery, resolver: &Resolver) -> Result<Watch, SetupError> {
    consul::follow(discovery, resolver)
}

/// Follows the endpoints of an upstream until the handle is dropped. May be called from any runtime.
///
/// A fixed list is known at once. An endpoint that is written as a name is one member, connected by happy eyeballs to any of
/// its addresses; to have each address as a member, use `discover: { dns: … }`.
///
/// # Errors
/// Mistakes of the configuration that make asking impossible. A source that is merely away is no error: it is told as
/// [`Update::error`].
pub fn watch(upstream: &Upstream, resolver: &Resolver) -> Result<Watch, SetupError> {
    match &upstream.discover {
        None => Ok(Watch::fixed(
            upstream.endpoints.iter().map(Endpoint::from).collect(),
        )),
        Some(Discover::Consul(consul)) => consul::follow(consul, resolver),
        Some(Discover::Dns(dns)) => dns::follow(dns, resolver),
        Some(Discover::File(path)) => Ok(file::follow(path, resolver)),
    }
}
