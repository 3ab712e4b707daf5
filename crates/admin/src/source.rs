//! Where the admin API's answers come from.

use std::fmt;
use std::future::Future;
use std::pin::Pin;

use tidegate_gateway::view::{
    ConfigView, EventView, Family, ListenerView, ProviderView, Readiness, RouteView, ServiceView,
    StoreView, UpstreamView, VirtualKeyView,
};
use tidegate_gateway::{KeyError, KeyRequest, KeyUpdate, RestoreError, StoreError};

use crate::keys::CreatedKey;

/// An answer that has to be waited for.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Something that can be looked at: a running gateway, or made-up data in tests and in the dashboard's development.
///
/// The methods answer at once (they read counters), but for those that return an [`Answer`].
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
    /// Providers with their keys.
    fn providers(&self) -> Vec<ProviderView>;
    /// Services with their instances.
    fn services(&self) -> Vec<ServiceView>;
    /// The store of durable state.
    fn store(&self) -> StoreView;
    /// A provider's key is used again, here and on every replica: an operator says that it works.
    ///
    /// # Errors
    /// [`RestoreError`].
    fn restore_key(&self, provider: &str, key: &str) -> Result<(), RestoreError>;
    /// Virtual keys with what they use.
    ///
    /// # Errors
    /// They have not been read from the store yet.
    fn virtual_keys(&self) -> Result<Vec<VirtualKeyView>, StoreError>;
    /// Makes a virtual key.
    fn create_virtual_key<'a>(
        &'a self,
        request: &'a KeyRequest,
    ) -> Answer<'a, Result<CreatedKey, KeyError>>;
    /// Changes a virtual key by its id.
    fn update_virtual_key<'a>(
        &'a self,
        id: &'a str,
        update: &'a KeyUpdate,
    ) -> Answer<'a, Result<VirtualKeyView, KeyError>>;
    /// Revokes a virtual key by its id.
    fn revoke_virtual_key<'a>(
        &'a self,
        id: &'a str,
    ) -> Answer<'a, Result<VirtualKeyView, KeyError>>;
    /// All metric families.
    fn metrics(&self) -> Vec<Family>;
    /// Reads the configuration again; the diagnostics as text when it is refused.
    fn reload(&self) -> Answer<'_, Result<ConfigView, String>>;
}
