//! The admin port of the gateway role: served on the supervisor's socket, moved when a reload moves it.

use std::fmt;
use std::sync::Arc;

use tidegate_admin::keys::CreatedKey;
use tidegate_admin::{AdminHandle, AdminOptions, Answer, Prepared, Source, Token};
use tidegate_config::Config;
use tidegate_gateway::view::{
    ConfigView, EventView, Family, ListenerView, ProviderView, Readiness, RouteView, ServiceView,
    StoreView, UpstreamView, VirtualKeyView,
};
use tidegate_gateway::{Handle, KeyError, KeyRequest, KeyUpdate, RestoreError, StoreError};
use tokio::sync::{mpsc, oneshot};

use super::RoleError;
use super::gateway_link::Held;
use crate::plan;
use crate::sockets::{SocketId, Use};

/// A reload that somebody asked for, with where the answer goes.
pub(super) type ReloadRequest = oneshot::Sender<Result<ConfigView, String>>;

/// The gateway as the admin API sees it. Only reloads take another way: through the role, which has the sockets of
/// new listeners bound first.
pub(super) struct RoleSource {
    handle: Handle,
    reloads: mpsc::Sender<ReloadRequest>,
}

impl RoleSource {
    pub(super) fn new(handle: Handle, reloads: mpsc::Sender<ReloadRequest>) -> Arc<Self> {
        Arc::new(Self { handle, reloads })
    }
}

impl fmt::Debug for RoleSource {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("RoleSource").finish_non_exhaustive()
    }
}

impl Source for RoleSource {
    fn upstreams(&self) -> Vec<UpstreamView> {
        self.handle.upstreams()
    }
    fn routes(&self) -> Vec<RouteView> {
        self.handle.routes()
    }
    fn listeners(&self) -> Vec<ListenerView> {
        self.handle.listeners()
    }
    fn config(&self) -> ConfigView {
        self.handle.config()
    }
    fn events(&self, after: u64, limit: usize) -> Vec<EventView> {
        self.handle.events(after, limit)
    }
    fn readiness(&self) -> Readiness {
        self.handle.readiness()
    }
    fn providers(&self) -> Vec<ProviderView> {
        self.handle.providers()
    }
    fn services(&self) -> Vec<ServiceView> {
        self.handle.services()
    }
    fn store(&self) -> StoreView {
        self.handle.store()
    }
    fn restore_key(&self, provider: &str, key: &str) -> Result<(), RestoreError> {
        self.handle.restore_key(provider, key)
    }
    fn virtual_keys(&self) -> Result<Vec<VirtualKeyView>, StoreError> {
        self.handle.virtual_keys()
    }
    fn create_virtual_key<'a>(
        &'a self,
        request: &'a KeyRequest,
    ) -> Answer<'a, Result<CreatedKey, KeyError>> {
        Box::pin(async move {
            let (key, token) = self.handle.create_virtual_key(request).await?;
            let token = token.expose().to_owned();
            Ok(CreatedKey { key, token })
        })
    }
    fn update_virtual_key<'a>(
        &'a self,
        id: &'a str,
        update: &'a KeyUpdate,
    ) -> Answer<'a, Result<VirtualKeyView, KeyError>> {
        Box::pin(self.handle.update_virtual_key(id, update))
    }
    fn revoke_virtual_key<'a>(
        &'a self,
        id: &'a str,
    ) -> Answer<'a, Result<VirtualKeyView, KeyError>> {
        Box::pin(self.handle.revoke_virtual_key(id))
    }
    fn metrics(&self) -> Vec<Family> {
        self.handle.metrics()
    }
    fn reload(&self) -> Answer<'_, Result<ConfigView, String>> {
        Box::pin(async {
            let (reply, answer) = oneshot::channel();
            let draining = || "the gateway is draining".to_owned();
            self.reloads.send(reply).await.map_err(|_| draining())?;
            answer.await.map_err(|_| draining())?
        })
    }
}

/// The admin port as it is served now, if it is.
#[derive(Debug)]
pub(super) struct AdminPort {
    source: Arc<RoleSource>,
    served: Option<Served>,
}

#[derive(Debug)]
struct Served {
    what: What,
    handle: AdminHandle,
}

/// What is served: another one is another server.
#[derive(Debug, PartialEq, Eq)]
struct What {
    id: SocketId,
    token: Option<String>,
}

/// The admin port as another configuration wants it, with everything done that may fail.
#[derive(Debug)]
pub(super) enum Next {
    /// As it is.
    Same,
    /// Not served at all.
    Closed,
    /// Elsewhere, or with another token.
    Other(Box<Other>),
}

#[derive(Debug)]
pub(super) struct Other {
    what: What,
    prepared: Prepared,
}

impl AdminPort {
    /// Serves it as the configuration says.
    ///
    /// # Errors
    /// When its socket cannot be used.
    pub(super) fn open(
        source: Arc<RoleSource>,
        config: &Config,
        held: &Held,
    ) -> Result<Self, RoleError> {
        let mut port = Self {
            source,
            served: None,
        };
        let next = port.prepare(config, held)?;
        port.apply(next);
        Ok(port)
    }

    /// Makes ready to serve it as another configuration says. What is served meanwhile is not touched.
    ///
    /// # Errors
    /// When its socket cannot be used.
    pub(super) fn prepare(&self, config: &Config, held: &Held) -> Result<Next, RoleError> {
        let id = plan::sockets(config)
            .into_iter()
            .find(|id| id.usage == Use::Admin);
        let Some(id) = id else {
            return Ok(Next::Closed);
        };
        let token = config
            .admin
            .as_ref()
            .and_then(|admin| admin.token.as_ref())
            .map(|token| token.expose().to_owned());
        let what = What { id, token };
        if self.served.as_ref().is_some_and(|now| now.what == what) {
            return Ok(Next::Same);
        }
        let Some(socket) = held.get(&what.id) else {
            return Err(RoleError::Socket(format!("{}: no socket", what.id)));
        };
        let options = AdminOptions {
            token: what.token.as_deref().and_then(Token::new),
            ..AdminOptions::default()
        };
        let prepared = tidegate_admin::prepare(socket?, options)?;
        Ok(Next::Other(Box::new(Other { what, prepared })))
    }

    /// Serves it so. What is under way on the old port finishes, the request for this very reload included.
    pub(super) fn apply(&mut self, next: Next) {
        if matches!(next, Next::Same) {
            return;
        }
        self.close();
        if let Next::Other(other) = next {
            let source = Arc::clone(&self.source) as Arc<dyn Source>;
            self.served = Some(Served {
                what: other.what,
                handle: other.prepared.serve(source),
            });
        }
    }

    /// Takes no more requests; those under way finish by themselves.
    pub(super) fn close(&mut self) {
        if let Some(served) = self.served.take() {
            tokio::spawn(served.handle.shutdown());
        }
    }

    /// Takes no more requests and waits for those under way (two seconds at most).
    pub(super) async fn shutdown(mut self) {
        if let Some(served) = self.served.take() {
            served.handle.shutdown().await;
        }
    }
}
