//! The gateway role: listeners, router, attempt loop, upstream connections.
//!
//! A worker is one thread with one current-thread runtime and its own upstream connections; control work (discovery,
//! probes, reload) runs on the caller's multi-thread runtime. See [`start`].
//!
//! The way of a request: `listener` accepts, `worker` takes the connection, `serve` reads heads, `exchange` routes, attempts and relays,
//! with the caller's side in `down` and the endpoint's in `up`.

mod access;
mod builtin;
mod clock;
mod control;
mod down;
mod events;
mod exchange;
#[cfg(debug_assertions)]
mod fault;
mod instance;
mod io;
mod limits;
mod listener;
mod observe;
mod provider;
mod record;
mod serve;
mod service;
mod service_view;
mod snapshot;
mod stats;
mod tls;
mod trace;
mod up;
mod upstream;
pub mod view;
mod watch;
mod worker;

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use arc_swap::ArcSwap;
use tidegate_core::Time;
use tidegate_discovery::Resolver;
use tidegate_wire::headers::Via;

pub use instance::{FailingRecord, HostReport, InstanceRecord, InstanceReport, ServiceReport};
pub use provider::view::RestoreError;
pub use service::implicit as upstream_of_service;
pub use tidegate_keys::account::{
    KeyError, KeyRequest, KeyUpdate, Secret as VirtualKeyToken, Span, used_of,
};
pub use tidegate_state::Error as StoreError;
pub use tls::TlsError;

use control::{Control, lines};
use snapshot::Draft;
use stats::Registry;
use worker::Shared;

/// A listening socket handed in by the supervisor, by the listener's name in the config.
#[derive(Debug)]
pub enum ListenSocket {
    /// TCP.
    Tcp(std::net::TcpListener),
    /// Unix domain socket (`unix:PATH`).
    Unix(std::os::unix::net::UnixListener),
}

/// What the gateway is started with.
#[derive(Debug)]
pub struct Options {
    /// The checked configuration.
    pub config: tidegate_config::Loaded,
    /// Listening sockets by listener name. A listener without one is bound by the gateway itself.
    pub sockets: Vec<(String, ListenSocket)>,
    /// Worker threads, at least 1.
    pub workers: usize,
    /// How the store that the configuration names is reached, where it needs one. Also asked by a reload that names another.
    pub store: StoreOpener,
}

/// How stores are reached: the embedded one has another process for its owner.
#[derive(Clone)]
pub struct StoreOpener {
    open: Arc<OpenStore>,
    /// Whose instances are this gateway's members.
    node: String,
}

type OpenStore = dyn Fn(
        &tidegate_config::values::StateUrl,
    ) -> Result<Arc<dyn tidegate_state::Store>, tidegate_state::OpenError>
    + Send
    + Sync;

/// A running gateway: cheap to clone, asked by the admin API and the supervisor's wiring.
#[derive(Clone, Debug)]
pub struct Handle {
    control: Arc<Control>,
    threads: Arc<Mutex<Vec<std::thread::JoinHandle<()>>>>,
}

/// Why the gateway did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A listener's address could not be bound.
    #[error("listener {name}: cannot listen on {address}: {source}")]
    Bind {
        /// Listener name.
        name: String,
        /// Address asked for.
        address: String,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The configuration names what can't be used: TLS material, a header name, a log file.
    #[error("{0}")]
    Config(String),
    /// A thread or runtime could not be started.
    #[error("cannot start workers: {0}")]
    Runtime(#[from] std::io::Error),
}

/// Starts workers and control tasks. Must be called inside a multi-thread tokio runtime, which then runs the control work.
///
/// # Errors
/// See [`StartError`]; nothing is left running then.
pub async fn start(options: Options) -> Result<Handle, StartError> {
    let workers = options.workers.max(1);
    let resolver = Resolver::system();
    let stats = Registry::new(workers);
    let epoch = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |d| d.as_nanos() as u64);
    let loaded = Arc::new(options.config);
    // Two instances must not take each other for themselves when they look for loops.
    let via = Via::new(&format!("tidegate-{:08x}", limits::secret() as u32))
        .map_err(|e| StartError::Config(e.to_string()))?;
    let draft = Draft::new(loaded, None, &resolver)
        .map_err(|problems| StartError::Config(lines(&problems)))?;
    let access = access::AccessLog::default();
    let log = access
        .open(draft.loaded.config.access_log.as_ref())
        .map_err(|e| StartError::Config(e.to_string()))?;
    access.switch(log);
    let providers = provider::Shared::new();
    let memory = draft.loaded.config.request_bodies.memory;
    providers.bodies.set_max(memory.bytes());
    let exports = trace::Exports::new();
    let snapshot = draft.commit(None, &stats, &providers.keys, &exports, Time(epoch));
    let shared = Arc::new(Shared {
        unrouted: stats.traffic("", ""),
        snapshot: ArcSwap::from_pointee(snapshot),
        stats,
        events: events::Events::default(),
        access,
        exports,
        providers,
        via,
        origin: (Instant::now(), epoch),
        draining: AtomicBool::new(false),
    });
    let (door, threads) = worker::start(&shared, workers)?;
    let control = Control::new(
        shared,
        Arc::new(door),
        resolver,
        options.sockets,
        options.store,
    );
    if let Err(e) = control.begin().await {
        control.door.stop();
        return Err(e);
    }
    Ok(Handle {
        control,
        threads: Arc::new(Mutex::new(threads)),
    })
}

/// Everything that [`start`] would refuse of a configuration that loads, without starting, asking or writing anything; whether its
/// addresses are free is not looked at. Must be called inside a tokio runtime.
///
/// # Errors
/// Every problem, in words.
pub fn check(config: &tidegate_config::Loaded) -> Result<(), Vec<String>> {
    let resolver = Resolver::system();
    let draft = Draft::new(Arc::new(config.clone()), None, &resolver);
    let mut problems = draft.err().unwrap_or_default();
    if let Some(Err(e)) = config
        .config
        .access_log
        .as_ref()
        .map(access::AccessLog::check)
    {
        problems.push(e.into());
    }
    match problems.is_empty() {
        true => Ok(()),
        false => Err(problems.iter().map(ToString::to_string).collect()),
    }
}

/// Looks whether every worker goes round; see [`Handle::pulse`].
#[derive(Debug)]
pub struct Pulse(worker::Pulse);

impl Pulse {
    /// A worker whose thread has ended, or that has not gone round since the last look; readiness fails as long as there is one. Workers
    /// go round four times a second: look at least a second apart.
    pub fn look(&mut self) -> Option<usize> {
        self.0.look()
    }
}

impl Handle {
    /// Gives listening sockets, by listener name, for the next [`Handle::reload`]: the supervisor binds those of listeners that are new or
    /// whose address changed, so that they outlive this process. A listener without one is bound by the gateway itself; what a reload does
    /// not use is dropped with it.
    pub fn offer_sockets(&self, sockets: Vec<(String, ListenSocket)>) {
        self.control.offer(sockets);
    }

    /// Puts another configuration in the place of the running one as a whole, or refuses it as a whole. An `Err` is what could not be
    /// read or served, in words: it is counted, told and kept as a configuration that was refused.
    ///
    /// # Errors
    /// What is wrong, as text; the running configuration stays.
    pub async fn reload(
        &self,
        wanted: Result<tidegate_config::Loaded, String>,
    ) -> Result<view::ConfigView, String> {
        self.control.reload(wanted).await?;
        Ok(self.config())
    }

    /// For whoever watches over this process: whether its workers go round.
    pub fn pulse(&self) -> Pulse {
        Pulse(worker::Pulse::new(self.control.door.clone()))
    }

    /// Readiness fails, no new connections, GOAWAY and `connection: close`, requests in flight finish within the
    /// config's `shutdown.grace`; returns when all are done or the grace is over, with the number of connections cut.
    pub async fn drain(&self) -> u64 {
        let cut = self.control.drain().await;
        let threads = match self.threads.lock() {
            Ok(mut threads) => std::mem::take(&mut *threads),
            Err(_) => Vec::new(),
        };
        // Joined off the runtime: a worker may take a moment to drop what it holds.
        let _ =
            tokio::task::spawn_blocking(move || threads.into_iter().for_each(|t| drop(t.join())))
                .await;
        cut
    }
}
