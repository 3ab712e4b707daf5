//! Callers' connections: which protocol they speak, and one loop for each protocol.

mod h1;
mod h2;

use std::future::poll_fn;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use tidegate_config::values::ListenAddress;
use tidegate_wire::headers::{Peer, Scheme};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::down::h1::H1Exchange;
use crate::exchange::Caller;
use crate::io::buffer::ReadBuf;
use crate::io::flood::Guarded;
use crate::io::{Raw, Transport, Turn};
use crate::listener::ListenerState;
use crate::watch::Watch;
use crate::worker::Worker;

/// What an HTTP/2 client says first (RFC 9113 §3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// After a drain has begun, an idle connection may still bring a request that was on its way; it is answered with
/// `connection: close`. After this time without one it is closed.
const DRAIN_LINGER: Duration = Duration::from_secs(2);

/// Serves one accepted connection to its end. `guards` are held as long.
///
/// What is found out first (TLS, protocol) takes a large state for a short time; the connection then goes on in a task of its own, whose
/// state is small while it is parked.
pub(crate) async fn connection<G: 'static>(
    worker: Rc<Worker>,
    raw: Raw,
    peer: Option<SocketAddr>,
    listener: Arc<ListenerState>,
    guards: G,
) {
    let tls = listener.tls.load_full();
    let scheme = if tls.is_some() {
        Scheme::Https
    } else {
        Scheme::Http
    };
    let origin = Origin {
        listener,
        peer: peer.map(|p| p.ip()),
        scheme,
    };
    let spoken = match tls {
        None => cleartext(&worker, raw, &origin.listener).await,
        Some(config) => encrypted(&worker, raw, &origin.listener, config).await,
    };
    match spoken {
        Some(Spoken::H1(conn)) => {
            tokio::task::spawn_local(h1::serve(worker, origin, conn, guards));
        }
        Some(Spoken::H2(io)) => {
            let caller = Rc::new(origin.caller());
            tokio::task::spawn_local(h2::serve(worker, caller, io, guards));
        }
        Some(Spoken::H2Tls(io)) => {
            let caller = Rc::new(origin.caller());
            tokio::task::spawn_local(h2::serve(worker, caller, io, guards));
        }
        None => {}
    }
}

/// Where a connection comes from: all that a parked one keeps of its [`Caller`].
struct Origin {
    listener: Arc<ListenerState>,
    peer: Option<IpAddr>,
    scheme: Scheme,
}

impl Origin {
    fn caller(&self) -> Caller {
        Caller {
            peer: self.peer.map(|address| Peer::new(address, self.scheme)),
            port: match &self.listener.config.address {
                ListenAddress::Ip(at) => Some(at.port()),
                ListenAddress::Unix(_) => None,
            },
            listener: self.listener.clone(),
            scheme: self.scheme,
        }
    }
}

/// A connection whose protocol is known.
enum Spoken {
    H1(Box<H1Exchange>),
    H2(Guarded<Turn>),
    H2Tls(Box<Guarded<TlsStream<Turn>>>),
}

async fn encrypted(
    worker: &Rc<Worker>,
    raw: Raw,
    listener: &ListenerState,
    config: Arc<rustls::ServerConfig>,
) -> Option<Spoken> {
    let limit = listener.config.limits.header_timeout;
    let accepting = TlsAcceptor::from(config).accept(Turn::new(raw));
    let tls = match tokio::time::timeout(limit, accepting).await {
        Ok(Ok(tls)) => tls,
        Ok(Err(e)) => {
            tracing::debug!(listener = %listener.name, cause = %e, "tls handshake failed");
            return None;
        }
        Err(_) => return None,
    };
    if tls.get_ref().1.alpn_protocol() == Some(b"h2") {
        tls.get_ref().0.gather();
        let io = Guarded::new(tls, bytes::Bytes::new());
        return Some(Spoken::H2Tls(Box::new(io)));
    }
    let io = Transport::TlsServer(Box::new(tls));
    Some(Spoken::H1(Box::new(H1Exchange::new(
        io,
        worker.shared.clone(),
    ))))
}

/// Finds out by the first bytes whether HTTP/2 is spoken by prior knowledge.
async fn cleartext(worker: &Rc<Worker>, mut raw: Raw, listener: &ListenerState) -> Option<Spoken> {
    let watch = Watch::new(&worker.watches);
    let limits = &listener.config.limits;
    watch.set(limits.idle_timeout.map(|t| Instant::now() + t));
    let mut read = ReadBuf::default();
    let mut draining = false;
    let spoken = poll_fn(|cx| {
        if worker.shared.is_draining() && !draining {
            draining = true;
            watch.set(Some(Instant::now() + DRAIN_LINGER));
        }
        loop {
            if watch.poll_over(cx).is_ready() {
                return Poll::Ready(false);
            }
            if read.bytes.is_empty() {
                // No buffer before the first byte: a connection that says nothing costs next to nothing.
                match std::task::ready!(raw.poll_read_ready(cx)) {
                    Ok(()) => watch.set(Some(Instant::now() + limits.header_timeout)),
                    Err(_) => return Poll::Ready(false),
                }
            }
            match std::task::ready!(read.poll_fill(&mut raw, cx)) {
                Ok(0) | Err(_) => return Poll::Ready(false),
                Ok(_) => {
                    let seen = &read.bytes[..read.bytes.len().min(PREFACE.len())];
                    if !PREFACE.starts_with(seen) || seen.len() == PREFACE.len() {
                        return Poll::Ready(true);
                    }
                }
            }
        }
    })
    .await;
    if !spoken {
        return None;
    }
    if read.bytes.starts_with(PREFACE) {
        let turn = Turn::new(raw);
        turn.gather();
        return Some(Spoken::H2(Guarded::new(turn, read.bytes.freeze())));
    }
    let mut conn = Box::new(H1Exchange::new(
        Transport::Plain(raw),
        worker.shared.clone(),
    ));
    conn.read = read;
    Some(Spoken::H1(conn))
}

/// The moment from which a connection should not take further requests, if its listener bounds its age.
fn old_at(listener: &ListenerState, born: Instant) -> Option<Instant> {
    listener.config.max_connection_age.map(|age| born + age)
}
