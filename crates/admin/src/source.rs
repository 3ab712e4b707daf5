//! Where the admin API's answers come from.

use std::fmt;
use std::future::Future;
use std::pin::Pin;

use tidegate_gateway::Handle;
use tidegate_gateway::view::{
    ConfigView, EventView, Family, ListenerView, Readiness, RouteView, UpstreamView,
};

/// Something that can be looked at: a running gateway, or made-up data in tests and in the dashboard's development.
///
/// The methods answer at once (they read counters); only [`Source::reload`] waits.
pub trait Source: fmt::Debug + Send + Sync + 'static {
    /// Upstreams with their members.
    fn upstreams(&self) -> Vec<UpstreamView>;
    /// Routes with their traffic.
    fn routes(&self) -> Vec<RouteView>;
    /// Listeners with their connections.
    fn listeners(&self) -> Vec<ListenerView>;
    /// The running configuration, secrets as fingerprints.
    fn config(&self) -> ConfigView;
    /// Events with a sequence number above `after`, oldest first, at most `limit`.
    fn events(&self, after: u64, limit: usize) -> Vec<EventView>;
    /// Whether traffic is taken.
    fn readiness(&self) -> Readiness;
    /// All metric families.
    fn metrics(&self) -> Vec<Family>;
    /// Reads the configuration again; the diagnostics as text when it is refused.
    fn reload(&self) -> Pin<Box<dyn Future<Output = Result<ConfigView, String>> + Send + '_>>;
}

impl Source for Handle {
    fn upstreams(&self) -> Vec<UpstreamView> {
        Handle::upstreams(self)
    }
    fn routes(&self) -> Vec<RouteView> {
        Handle::routes(self)
    }
    fn listeners(&self) -> Vec<ListenerView> {
        Handle::listeners(self)
    }
    fn config(&self) -> ConfigView {
        Handle::config(self)
    }
    fn events(&self, after: u64, limit: usize) -> Vec<EventView> {
        Handle::events(self, after, limit)
    }
    fn readiness(&self) -> Readiness {
        Handle::readiness(self)
    }
    fn metrics(&self) -> Vec<Family> {
        Handle::metrics(self)
    }
    fn reload(&self) -> Pin<Box<dyn Future<Output = Result<ConfigView, String>> + Send + '_>> {
        Box::pin(Handle::reload(self))
    }
}
