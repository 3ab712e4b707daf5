//! The host: all services of a process, and what is done to them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tidegate_config::model::Service;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::board::Board;
use crate::call::Model;
use crate::checks::Checks;
use crate::events::Events;
use crate::model::Slot;
use crate::sdk;
use crate::service::Serving;
use crate::state::{InstanceState, ServiceCounts};
use crate::worker::accept::Acceptor;
use crate::worker::memory;
use crate::worker::process::Spawner;

/// How often memory and calls of instances are looked at for whoever watches.
const LOOK: Duration = Duration::from_secs(1);
/// Time for those who send requests to a port to see that another took its place.
const SETTLE: Duration = Duration::from_millis(500);
/// Time for killed processes to be reaped.
const REAPED_WITHIN: Duration = Duration::from_secs(5);

/// What a host needs to know.
#[derive(Debug, Clone)]
pub struct HostOptions {
    /// Folder for sockets and the copy of the Python SDK; its path should be short, since sockets' paths are at most 107 bytes.
    pub run_dir: PathBuf,
    /// Folder for uploads that may be resumed; another host may have the same.
    pub spool_dir: PathBuf,
    /// Folder of this host alone for inputs and results that travel as files; emptied at the start.
    pub own_dir: PathBuf,
    /// What relative paths of services are relative to.
    pub base_dir: PathBuf,
    /// Takes events.
    pub events: Arc<dyn Events>,
    /// Asks programs whether they are ready.
    pub checks: Arc<dyn Checks>,
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
    /// Something newer came before it was done.
    #[error("`{0}` was not reloaded: a newer change came before")]
    Superseded(String),
}

/// Hosts services. Dropping it ends all workers at once; [`Host::drain`] ends them well.
#[derive(Debug)]
pub struct Host {
    shared: Arc<Shared>,
    services: Mutex<BTreeMap<String, Serving>>,
    look: tokio::task::JoinHandle<()>,
}

/// What all services use.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) acceptor: Acceptor,
    pub(crate) spawner: Spawner,
    pub(crate) events: Arc<dyn Events>,
    pub(crate) checks: Arc<dyn Checks>,
    pub(crate) board: Board,
    pub(crate) run_dir: PathBuf,
    pub(crate) spool_dir: PathBuf,
    pub(crate) own_dir: PathBuf,
    pub(crate) base_dir: PathBuf,
    /// Where the Python SDK is.
    pub(crate) sdk: PathBuf,
    /// For results that are files: a folder a worker.
    pub(crate) results: PathBuf,
    pub(crate) workers_over_tcp: bool,
    pub(crate) settle: Duration,
    /// Counts workers.
    pub(crate) members: AtomicU64,
    /// Old workers that finish their calls.
    pub(crate) retiring: Retiring,
    pub(crate) slots: Slots,
}

impl Host {
    /// Starts hosting. Returns when the sockets are there; workers become ready later.
    ///
    /// # Errors
    /// [`HostError::Folder`].
    pub async fn start(options: HostOptions) -> Result<Self, HostError> {
        Self::start_on(options, None).await
    }

    /// As [`Self::start`], with workers that connect over TCP and share no files with the host, as those of other machines do.
    ///
    /// # Errors
    /// [`HostError::Folder`].
    pub async fn start_over_tcp(
        options: HostOptions,
        listen: SocketAddr,
    ) -> Result<Self, HostError> {
        Self::start_on(options, Some(listen)).await
    }

    async fn start_on(options: HostOptions, tcp: Option<SocketAddr>) -> Result<Self, HostError> {
        let HostOptions {
            run_dir,
            spool_dir,
            own_dir,
            base_dir,
            events,
            checks,
            services,
        } = options;
        let folder = |path: &PathBuf| {
            let path = path.clone();
            move |source| HostError::Folder { path, source }
        };
        std::fs::create_dir_all(&run_dir).map_err(folder(&run_dir))?;
        // What an earlier host left there nobody waits for.
        let _ = std::fs::remove_dir_all(&own_dir);
        let results = own_dir.join(".results");
        std::fs::create_dir_all(&results).map_err(folder(&results))?;
        let sdk = sdk::unpack(&run_dir).map_err(folder(&run_dir))?;
        let socket = run_dir.join("workers.sock");
        let acceptor = Acceptor::listen(&socket, tcp)
            .await
            .map_err(folder(&socket))?;
        let spawner = Spawner::start().map_err(folder(&run_dir))?;
        let shared = Arc::new(Shared {
            acceptor,
            spawner,
            events,
            checks,
            board: Board::new(),
            run_dir,
            spool_dir,
            own_dir,
            base_dir,
            sdk,
            results,
            workers_over_tcp: tcp.is_some(),
            settle: SETTLE,
            members: AtomicU64::new(0),
            retiring: Retiring::default(),
            slots: Slots::default(),
        });
        let look = tokio::spawn(look(Arc::downgrade(&shared)));
        let host = Self {
            shared,
            services: Mutex::default(),
            look,
        };
        for made in host.aim(services) {
            if let Ok(made) = made.await {
                made?;
            }
        }
        Ok(host)
    }

    /// Hosts these services from now on: new ones start, missing ones drain, changed ones are replaced worker by worker
    /// without a lost call. Returns when that is under way; a change that does not become ready leaves the old workers.
    pub fn apply(&self, services: Vec<Service>) {
        for made in self.aim(services) {
            tokio::spawn(async move {
                if let Ok(Err(error)) = made.await {
                    tracing::error!(%error, "a service cannot be hosted");
                }
            });
        }
    }

    fn aim(
        &self,
        wanted: Vec<Service>,
    ) -> Vec<tokio::sync::oneshot::Receiver<Result<(), HostError>>> {
        let mut services = self.lock();
        let missing: Vec<String> = services
            .keys()
            .filter(|name| !wanted.iter().any(|service| service.name == **name))
            .cloned()
            .collect();
        for name in missing {
            if let Some(serving) = services.remove(&name) {
                self.shared.retiring.spawn(async move {
                    let _ = serving.end(None).await;
                });
            }
        }
        wanted
            .into_iter()
            .map(|service| {
                services
                    .entry(service.name.clone())
                    .or_insert_with(|| Serving::start(Arc::clone(&self.shared), &service))
                    .apply(service)
            })
            .collect()
    }

    /// Replaces the workers of a service (`None`: of all) one by one. Returns when it is done.
    ///
    /// # Errors
    /// [`HostError::UnknownService`]; [`HostError::Reload`] when a new worker does not become ready.
    pub async fn reload(&self, service: Option<&str>) -> Result<(), HostError> {
        let reloads: Vec<_> = {
            let services = self.lock();
            if let Some(name) = service
                && !services.contains_key(name)
            {
                return Err(HostError::UnknownService(name.to_owned()));
            }
            services
                .iter()
                .filter(|(name, _)| service.is_none_or(|wanted| wanted == *name))
                .map(|(name, serving)| (name.clone(), serving.reload()))
                .collect()
        };
        let mut result = Ok(());
        for (name, done) in reloads {
            let done = done.await.unwrap_or(Err(HostError::Superseded(name)));
            result = result.and(done);
        }
        result
    }

    /// Ends everything: no new calls, running ones finish within `grace`, workers end. Returns when no process is left.
    pub async fn drain(&self, grace: Duration) {
        let services = std::mem::take(&mut *self.lock());
        let ends: Vec<_> = services
            .values()
            .map(|serving| serving.end(Some(grace)))
            .collect();
        for end in ends {
            let _ = end.await;
        }
        self.shared.retiring.finish(grace).await;
        let _ = tokio::time::timeout(REAPED_WITHIN, self.shared.spawner.none_left()).await;
    }

    /// Instances as they stand, and their changes.
    #[must_use]
    pub fn instances(&self) -> watch::Receiver<Arc<Vec<InstanceState>>> {
        self.shared.board.watch()
    }

    /// The model behind an instance's door; `None` where there is no such instance, or it is a `command`'s.
    #[must_use]
    pub fn model(&self, instance: &str) -> Option<Arc<dyn Model>> {
        let slot = self
            .shared
            .slots
            .all()
            .into_iter()
            .find(|slot| *slot.instance == *instance && slot.is_model)?;
        Some(slot)
    }

    /// Counts of every service.
    #[must_use]
    pub fn counts(&self) -> Vec<ServiceCounts> {
        self.lock()
            .values()
            .map(|serving| serving.group.counts())
            .collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Serving>> {
        self.services.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.look.abort();
    }
}

/// Looks now and then what instances do.
async fn look(shared: Weak<Shared>) {
    loop {
        tokio::time::sleep(LOOK).await;
        let Some(shared) = shared.upgrade() else {
            return;
        };
        let doing = shared.slots.all().into_iter().map(|slot| {
            let doing = slot.group.doing(slot.member.load(Ordering::Relaxed));
            (slot.group.service().clone(), slot.number, doing)
        });
        // Groups are asked before the board is held.
        let doing: Vec<_> = doing.collect();
        shared
            .board
            .refresh_all(doing, |state, (versions, in_flight)| {
                state.in_flight = in_flight;
                state.memory = state.pid.and_then(memory::resident).unwrap_or(0);
                if state.state == crate::state::State::Ready {
                    state.versions = versions;
                }
            });
    }
}

/// All slots that there are.
#[derive(Debug, Default)]
pub(crate) struct Slots(Mutex<Vec<Weak<Slot>>>);

impl Slots {
    pub(crate) fn add(&self, slot: &Arc<Slot>) {
        let mut slots = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        slots.retain(|slot| slot.strong_count() > 0);
        slots.push(Arc::downgrade(slot));
    }

    fn all(&self) -> Vec<Arc<Slot>> {
        let slots = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        slots.iter().filter_map(Weak::upgrade).collect()
    }
}

/// Work that goes on after those who began it.
#[derive(Debug, Default)]
pub(crate) struct Retiring(Mutex<JoinSet<()>>);

impl Retiring {
    pub(crate) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        let mut set = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        while set.try_join_next().is_some() {}
        set.spawn(work);
    }

    async fn finish(&self, within: Duration) {
        let mut set = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        let _ =
            tokio::time::timeout(within, async { while set.join_next().await.is_some() {} }).await;
    }
}
