//! Listeners: what holds for all connections of one, and the loop that accepts them.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwapOption;
use rustls::ServerConfig;
use tidegate_config::model::{Listener as Config, ListenerTls};
use tidegate_wire::h1::Limits;
use tidegate_wire::headers::ForwardedPolicy;
use tokio::sync::Notify;

use crate::ListenSocket;
use crate::tls::{TlsError, server_config};
use crate::worker::{Accepted, Door, Stream};

/// Pause after an accept that failed for want of descriptors or memory: the condition needs time, not more calls.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// One listener of the running configuration.
#[derive(Debug)]
pub(crate) struct ListenerState {
    pub(crate) name: String,
    pub(crate) config: Config,
    pub(crate) limits: Limits,
    pub(crate) forwarded: ForwardedPolicy,
    pub(crate) body_bytes: u64,
    /// Swapped when the files change.
    pub(crate) tls: ArcSwapOption<ServerConfig>,
    pub(crate) live: Arc<Live>,
}

/// What outlives a reload.
#[derive(Debug, Default)]
pub(crate) struct Live {
    pub(crate) open: AtomicU64,
    freed: Notify,
}

/// A connection of a listener, counted while it is open.
#[derive(Debug)]
pub(crate) struct OpenConnection(Arc<Live>);

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::AcqRel);
        self.0.freed.notify_one();
    }
}

impl ListenerState {
    pub(crate) fn build(
        wanted: &Config,
        old: Option<&Arc<ListenerState>>,
    ) -> Result<Arc<Self>, TlsError> {
        let tls = wanted.tls.as_ref().map(server_config).transpose()?;
        Ok(Arc::new(Self {
            name: wanted.name.clone(),
            limits: Limits {
                head_bytes: wanted.limits.header_bytes.bytes() as usize,
                headers: wanted.limits.headers as usize,
            },
            forwarded: ForwardedPolicy {
                trusted_hops: wanted.trusted_hops as usize,
                x_forwarded: true,
                forwarded: false,
            },
            body_bytes: wanted.limits.body_bytes.bytes(),
            tls: ArcSwapOption::new(tls),
            live: old.map(|o| o.live.clone()).unwrap_or_default(),
            config: wanted.clone(),
        }))
    }

    /// Reads the TLS files again; connections made from now on use them.
    pub(crate) fn renew_tls(&self) -> Result<(), TlsError> {
        if let Some(tls) = &self.config.tls {
            self.tls.store(Some(server_config(tls)?));
        }
        Ok(())
    }

    /// When the TLS files last changed, for noticing that they did.
    pub(crate) fn tls_changed(&self) -> Vec<Option<SystemTime>> {
        let changed = |path: &PathBuf| std::fs::metadata(path).and_then(|m| m.modified()).ok();
        match &self.config.tls {
            None => Vec::new(),
            Some(ListenerTls {
                certificate,
                key,
                client_ca,
                ..
            }) => [Some(certificate), Some(key), client_ca.as_ref()]
                .into_iter()
                .flatten()
                .map(changed)
                .collect(),
        }
    }
}

/// Accepts until `stop` is set, giving each connection to the worker with the least load.
pub(crate) async fn accept(
    socket: Socket,
    state: impl Fn() -> Option<Arc<ListenerState>>,
    door: Arc<Door>,
    stop: Arc<Notify>,
) {
    loop {
        let Some(listener) = state() else {
            return;
        };
        let full = listener.live.open.load(Ordering::Acquire)
            >= u64::from(listener.config.limits.connections);
        if full {
            // Further callers wait in the kernel's queue.
            tokio::select! {
                () = listener.live.freed.notified() => continue,
                () = stop.notified() => return,
            }
        }
        let accepted = tokio::select! {
            accepted = socket.accept() => accepted,
            () = stop.notified() => return,
        };
        match accepted {
            Ok((stream, peer)) => {
                listener.live.open.fetch_add(1, Ordering::AcqRel);
                let open = OpenConnection(listener.live.clone());
                door.enter(Accepted {
                    stream,
                    peer,
                    listener,
                    open,
                });
            }
            Err(e) => match e.kind() {
                // The caller gave up while it waited.
                io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted => {}
                _ => {
                    tracing::warn!(listener = %listener.name, cause = %e, "accept failed");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
}

/// A listening socket on the control runtime.
#[derive(Debug)]
pub(crate) enum Socket {
    Tcp(tokio::net::TcpListener),
    Unix(tokio::net::UnixListener),
}

impl Socket {
    /// Must be called inside the control runtime.
    pub(crate) fn register(socket: &ListenSocket) -> io::Result<Self> {
        match socket {
            ListenSocket::Tcp(l) => {
                let l = l.try_clone()?;
                l.set_nonblocking(true)?;
                tokio::net::TcpListener::from_std(l).map(Self::Tcp)
            }
            ListenSocket::Unix(l) => {
                let l = l.try_clone()?;
                l.set_nonblocking(true)?;
                tokio::net::UnixListener::from_std(l).map(Self::Unix)
            }
        }
    }

    /// The connection leaves this runtime at once: it belongs to a worker's.
    async fn accept(&self) -> io::Result<(Stream, Option<SocketAddr>)> {
        match self {
            Self::Tcp(l) => {
                let (stream, peer) = l.accept().await?;
                Ok((Stream::Tcp(stream.into_std()?), Some(peer)))
            }
            Self::Unix(l) => {
                let (stream, _) = l.accept().await?;
                Ok((Stream::Unix(stream.into_std()?), None))
            }
        }
    }
}
