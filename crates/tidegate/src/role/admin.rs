//! The admin port of the gateway role: served on the supervisor's socket, moved when a reload moves it.

use std::fmt;
use std::sync::Arc;

use tidegate_admin::keys::CreatedKey;
use tidegate_admin::{AdminHandle, AdminOptions, Answer, Source, Token};
use tidegate_config::Config;
use tidegate_gateway::view::{
    ConfigView, EventView, Family, ListenerView, ProviderView, Readiness, RouteView, StoreView,
    UpstreamView, VirtualKeyView,
};
use tidegate_gateway::{Handle, KeyError, KeyRequest, RestoreError, StoreError};
use tokio::sync::{mpsc, oneshot};

use super::RoleError;
use super::link::Held;
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
        Source::create_virtual_key(&self.handle, request)
    }
    fn revoke_virtual_key<'a>(
        &'a self,
        id: &'a str,
    ) -> Answer<'a, Result<VirtualKeyView, KeyError>> {
        Source::revoke_virtual_key(&self.handle, id)
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
    id: SocketId,
    token: Option<String>,
    handle: AdminHandle,
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
        port.apply(config, held)?;
        Ok(port)
    }

    /// Serves it as a reloaded configuration says. What is under way on the old port finishes, the request for this
    /// very reload included.
    ///
    /// # Errors
    /// When its socket cannot be used; the port is then not served.
    pub(super) fn apply(&mut self, config: &Config, held: &Held) -> Result<(), RoleError> {
        let id = plan::sockets(config)
            .into_iter()
            .find(|id| id.usage == Use::Admin);
        let token = config
            .admin
            .as_ref()
            .and_then(|admin| admin.token.as_ref())
            .map(|token| token.expose().to_owned());
        let same = |served: &Served| Some(&served.id) == id.as_ref() && served.token == token;
        if self.served.as_ref().is_some_and(same) {
            return Ok(());
        }
        self.close();
        let Some(id) = id else { return Ok(()) };
        let Some(socket) = held.get(&id) else {
            return Err(RoleError::Socket(format!("{id}: no socket")));
        };
        let options = AdminOptions {
            token: token.as_deref().and_then(Token::new),
            ..AdminOptions::default()
        };
        let handle = tidegate_admin::serve(
            socket?,
            Arc::clone(&self.source) as Arc<dyn Source>,
            options,
        )?;
        self.served = Some(Served { id, token, handle });
        Ok(())
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
