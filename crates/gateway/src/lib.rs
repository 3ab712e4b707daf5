//! The gateway role: listeners, router, attempt loop, upstream connections.
//!
//! A worker is one thread with one current-thread runtime and its own upstream connections; control work (discovery,
//! probes, reload) runs on the caller's multi-thread runtime. See `start`.

pub mod view;

use std::path::PathBuf;
use std::sync::Arc;

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
    /// The files or folders it was loaded from: read again on reload.
    pub paths: Vec<PathBuf>,
    /// Listening sockets by listener name. A listener without one is bound by the gateway itself.
    pub sockets: Vec<(String, ListenSocket)>,
    /// Worker threads, at least 1.
    pub workers: usize,
}

/// A running gateway: cheap to clone, asked by the admin API and the supervisor's wiring.
#[derive(Clone, Debug)]
pub struct Handle {
    #[allow(dead_code)]
    inner: Arc<()>,
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
    /// TLS material that cannot be used.
    #[error("{0}")]
    Tls(String),
    /// A thread or runtime could not be started.
    #[error("cannot start workers: {0}")]
    Runtime(#[from] std::io::Error),
}

/// Starts workers and control tasks. Must be called inside a multi-thread tokio runtime, which then runs the control work.
///
/// # Errors
/// See [`StartError`]; nothing is left running then.
pub async fn start(options: Options) -> Result<Handle, StartError> {
    let _ = options;
    Err(StartError::Tls("not built yet".into()))
}

impl Handle {
    /// Upstreams with their members.
    pub fn upstreams(&self) -> Vec<view::UpstreamView> {
        Vec::new()
    }
    /// Routes with their traffic.
    pub fn routes(&self) -> Vec<view::RouteView> {
        Vec::new()
    }
    /// Listeners with their connections.
    pub fn listeners(&self) -> Vec<view::ListenerView> {
        Vec::new()
    }
    /// The running configuration, secrets as fingerprints.
    pub fn config(&self) -> view::ConfigView {
        unreachable!("built with the gateway")
    }
    /// Events with a sequence number above `after`, oldest first, at most `limit`.
    pub fn events(&self, after: u64, limit: usize) -> Vec<view::EventView> {
        let _ = (after, limit);
        Vec::new()
    }
    /// Whether traffic is taken.
    pub fn readiness(&self) -> view::Readiness {
        view::Readiness { ready: false, reason: "starting".into() }
    }
    /// All metric families, summed over the workers now.
    pub fn metrics(&self) -> Vec<view::Family> {
        Vec::new()
    }
    /// Gives listening sockets, by listener name, for the next [`Handle::reload`]: the supervisor binds those of listeners that are new or
    /// whose address changed, so that they outlive this process. A listener without one is bound by the gateway itself; what a reload does
    /// not use is dropped with it.
    pub fn offer_sockets(&self, sockets: Vec<(String, ListenSocket)>) {
        let _ = sockets;
    }
    /// Reads the configuration again and applies it as a whole, or refuses it as a whole.
    ///
    /// # Errors
    /// The diagnostics as text; the running configuration stays.
    pub async fn reload(&self) -> Result<view::ConfigView, String> {
        Err("not built yet".into())
    }
    /// Readiness fails, no new connections, GOAWAY and `connection: close`, requests in flight finish within the
    /// config's `shutdown.grace`; returns when all are done or the grace is over, with the number of requests cut.
    pub async fn drain(&self) -> u64 {
        0
    }
}
