//! Where the admin API's answers come from.

use std::fmt;
use std::future::Future;
use std::pin::Pin;

use tidegate_gateway::view::{
    ConfigView, EventView, Family, ListenerView, ProviderView, Readiness, RouteView, StoreView,
    UpstreamView, VirtualKeyView,
};
use tidegate_gateway::{Handle, KeyError, KeyRequest, RestoreError, StoreError};

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
    fn providers(&self) -> Vec<ProviderView> {
        Handle::providers(self)
    }
    fn store(&self) -> StoreView {
        Handle::store(self)
    }
    fn restore_key(&self, provider: &str, key: &str) -> Result<(), RestoreError> {
        Handle::restore_key(self, provider, key)
    }
    fn virtual_keys(&self) -> Result<Vec<VirtualKeyView>, StoreError> {
        Handle::virtual_keys(self)
    }
    fn create_virtual_key<'a>(
        &'a self,
        request: &'a KeyRequest,
    ) -> Answer<'a, Result<CreatedKey, KeyError>> {
        Box::pin(async move {
            let (key, token) = Handle::create_virtual_key(self, request).await?;
            let token = token.expose().to_owned();
            Ok(CreatedKey { key, token })
        })
    }
    fn revoke_virtual_key<'a>(
        &'a self,
        id: &'a str,
    ) -> Answer<'a, Result<VirtualKeyView, KeyError>> {
        Box::pin(Handle::revoke_virtual_key(self, id))
    }
    fn metrics(&self) -> Vec<Family> {
        Handle::metrics(self)
    }
    fn reload(&self) -> Answer<'_, Result<ConfigView, String>> {
        Box::pin(Handle::reload(self))
    }
}
