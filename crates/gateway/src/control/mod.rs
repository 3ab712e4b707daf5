//! Control work of the gateway: reload, discovery, probes, the engine's ticks, drain. It runs on the caller's runtime, never on a worker.
//!
//! - [`sockets`] listens, [`sources`] follows where members are, [`clock`] moves what time moves, [`registration`] tells others of us;
//! - [`store`] keeps what outlives the process;
//! - [`reload`] changes the configuration as a whole, [`drain`] ends.

mod clock;
mod drain;
pub(crate) mod instances;
mod registration;
mod reload;
mod sockets;
mod sources;
mod store;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tidegate_discovery::Resolver;
use tokio::task::JoinHandle;

use crate::events::unix_ms;
use crate::snapshot::Snapshot;
use crate::worker::{Door, Shared};
use crate::{ListenSocket, StartError, StoreOpener};

use registration::Registered;
pub(crate) use reload::lines;
use sockets::Acceptor;
use sources::Source;

/// How long traffic waits for the members of an upstream that is new. Fixed lists and fast sources are known at once.
const MEMBERS: Duration = Duration::from_secs(1);

/// Everything that is not on the request path.
#[derive(Debug)]
pub(crate) struct Control {
    pub(crate) shared: Arc<Shared>,
    pub(crate) door: Arc<Door>,
    resolver: Resolver,
    opener: StoreOpener,
    pub(crate) instances: Arc<instances::Instances>,
    pub(crate) reports: crate::service_view::Reports,
    /// One reload at a time.
    reloading: tokio::sync::Mutex<()>,
    /// Held while catalogues are told, which may take seconds.
    registered: tokio::sync::Mutex<Vec<Registered>>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    sources: HashMap<String, Source>,
    acceptors: HashMap<String, Acceptor>,
    offered: Vec<(String, ListenSocket)>,
    loaded_at_ms: u64,
    refused: Option<String>,
    /// Configurations that are no longer the running one; requests that began under them may be under way.
    replaced: Vec<Weak<Snapshot>>,
    ticking: Option<JoinHandle<()>>,
    kept: Option<store::Kept>,
}

impl Control {
    pub(crate) fn new(
        shared: Arc<Shared>,
        door: Arc<Door>,
        resolver: Resolver,
        sockets: Vec<(String, ListenSocket)>,
        opener: StoreOpener,
    ) -> Arc<Self> {
        let state = State {
            offered: sockets,
            loaded_at_ms: unix_ms(),
            ..State::default()
        };
        Arc::new(Self {
            shared,
            door,
            resolver,
            opener,
            instances: Arc::default(),
            reports: Default::default(),
            reloading: tokio::sync::Mutex::default(),
            registered: tokio::sync::Mutex::default(),
            state: Mutex::new(state),
        })
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts listening, discovery, probes and ticks for the snapshot in place.
    pub(crate) async fn begin(self: &Arc<Self>) -> Result<(), StartError> {
        let snapshot = self.shared.snapshot.load_full();
        let config = &snapshot.loaded.config;
        let store = self
            .open_store(config)
            .map_err(|e| StartError::Config(e.to_string()))?;
        let sockets = self.bind(config, self.take_offered())?;
        self.use_store(store, config).await;
        self.follow(&snapshot);
        let accounts = self.wait_for_accounts(config, MEMBERS);
        tokio::join!(self.wait_for_members(MEMBERS), accounts);
        self.listen(&snapshot, sockets);
        self.reregister();
        let control = Arc::downgrade(self);
        self.state().ticking = Some(tokio::spawn(clock::tick(control)));
        Ok(())
    }

    /// When the running configuration was accepted, and why the last one was refused.
    pub(crate) fn last_load(&self) -> (u64, Option<String>) {
        let state = self.state();
        (state.loaded_at_ms, state.refused.clone())
    }
}
