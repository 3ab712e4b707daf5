//! Callers' connections: which protocol they speak, and one loop for each protocol.

mod h1;
mod h2;

use std::future::poll_fn;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use tidegate_config::values::ListenAddress;
use tidegate_wire::headers::{Peer, Scheme};
use tokio_rustls::TlsAcceptor;

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
pub(crate) async fn connection<G>(
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
    let caller = Rc::new(Caller {
        peer: peer.map(|p| Peer::new(p.ip(), scheme)),
        port: match &listener.config.address {
            ListenAddress::Ip(at) => Some(at.port()),
            ListenAddress::Unix(_) => None,
        },
        listener,
        scheme,
    });
    match tls {
        None => cleartext(worker, raw, caller).await,
        Some(config) => Box::pin(encrypted(worker, raw, caller, config)).await,
    }
    drop(guards);
}

async fn encrypted(
    worker: Rc<Worker>,
    raw: Raw,
    caller: Rc<Caller>,
    config: Arc<rustls::ServerConfig>,
) {
    let limit = caller.listener.config.limits.header_timeout;
    let accepting = TlsAcceptor::from(config).accept(Turn::new(raw));
    let tls = match tokio::time::timeout(limit, accepting).await {
        Ok(Ok(tls)) => tls,
        Ok(Err(e)) => {
            tracing::debug!(listener = %caller.listener.name, cause = %e, "tls handshake failed");
            return;
        }
        Err(_) => return,
    };
    if tls.get_ref().1.alpn_protocol() == Some(b"h2") {
        tls.get_ref().0.gather();
        h2::serve(worker, caller, Guarded::new(tls, bytes::Bytes::new())).await;
    } else {
        let conn = H1Exchange::new(Transport::TlsServer(Box::new(tls)), worker.shared.clone());
        h1::serve(worker, caller, Box::new(conn)).await;
    }
}

/// Finds out by the first bytes whether HTTP/2 is spoken by prior knowledge.
async fn cleartext(worker: Rc<Worker>, mut raw: Raw, caller: Rc<Caller>) {
    let watch = Watch::new(&worker.watches);
    let limits = &caller.listener.config.limits;
    watch.set(limits.idle_timeout.map(|t| Instant::now() + t));
    let mut read = ReadBuf::default();
    // No buffer before the first byte: a connection that says nothing costs next to nothing, and does not hold up a drain.
    let mut lingering = false;
    let spoken = poll_fn(|cx| {
        if worker.shared.is_draining() && !lingering {
            lingering = true;
            watch.set(Some(Instant::now() + DRAIN_LINGER));
        }
        if watch.poll_over(cx).is_ready() {
            return Poll::Ready(false);
        }
        raw.poll_read_ready(cx).map(|ready| ready.is_ok())
    })
    .await;
    if !spoken {
        return;
    }
    watch.set(Some(Instant::now() + limits.header_timeout));
    let spoken = poll_fn(|cx| {
        loop {
            if watch.poll_over(cx).is_ready() {
                return Poll::Ready(false);
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
    drop(watch);
    if !spoken {
        return;
    }
    if read.bytes.starts_with(PREFACE) {
        let turn = Turn::new(raw);
        turn.gather();
        Box::pin(h2::serve(
            worker,
            caller,
            Guarded::new(turn, read.bytes.freeze()),
        ))
        .await;
    } else {
        let mut conn = H1Exchange::new(Transport::Plain(raw), worker.shared.clone());
        conn.read = read;
        h1::serve(worker, caller, Box::new(conn)).await;
    }
}

/// The moment from which a connection should not take further requests, if its listener bounds its age.
fn old_at(caller: &Caller, born: Instant) -> Option<Instant> {
    caller
        .listener
        .config
        .max_connection_age
        .map(|age| born + age)
}
