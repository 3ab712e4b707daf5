//! The server of the admin port: accepts, bounds, and hands requests to the router of `api`.
//!
//! On hyper directly, not on `axum::serve`, because that bounds neither connections nor the time of a request's head or
//! of an answer that nobody reads; each would let one careless client take the readiness probe down.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tidegate_gateway::ListenSocket;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, Sleep};

use crate::{Source, Token, api};

/// How the admin port is served.
#[derive(Clone, Debug, Default)]
pub struct AdminOptions {
    /// Asked of every request but `/`, `/assets/…`, `/livez` and `/readyz`. Needed off loopback.
    pub token: Option<Token>,
    /// Further names that a request's `host` may have when there is no token (loopback names are always fine).
    pub hosts: Vec<String>,
    /// Bounds, with defaults that fit a monitoring port.
    pub limits: Limits,
}

/// What one admin port spends at most.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Connections at once; one more is answered 503 and closed.
    pub connections: usize,
    /// Requests that wait for events at once (long polls and event streams).
    pub waiting: usize,
    /// Bytes of a request's head, at least 8192.
    pub header_bytes: usize,
    /// Bytes of a request's body.
    pub body_bytes: u64,
    /// Time for a request's head, and for the next request on an idle connection.
    pub header_timeout: Duration,
    /// Time until a request's answer begins.
    pub request_timeout: Duration,
    /// Time that an answer may make no progress because the client does not read.
    pub write_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 256,
            waiting: 64,
            header_bytes: 16 << 10,
            body_bytes: 64 << 10,
            header_timeout: Duration::from_secs(30),
            request_timeout: Duration::from_secs(75),
            write_timeout: Duration::from_secs(30),
        }
    }
}

/// Why the admin port is not served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Everybody who reaches the address could read the state and reload.
    #[error(
        "admin address {0} is not on loopback and has no token: set admin.token or listen on 127.0.0.1"
    )]
    TokenRequired(SocketAddr),
    /// The socket cannot be used.
    #[error("cannot use the admin listener: {0}")]
    Listener(#[from] io::Error),
}

/// A served admin port. Dropping it ends the server; [`AdminHandle::shutdown`] also waits for it.
#[derive(Debug)]
#[must_use = "dropping the handle ends the server"]
pub struct AdminHandle {
    address: Option<SocketAddr>,
    closing: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl AdminHandle {
    /// The address listened on; `None` for a Unix socket.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        self.address
    }

    /// Accepts no more, ends event streams, lets answers under way finish (two seconds at most).
    pub async fn shutdown(self) {
        let _ = self.closing.send(true);
        let _ = self.task.await;
    }
}

/// An admin port that can be served: everything that may fail was done, and nobody is answered yet.
#[derive(Debug)]
pub struct Prepared {
    listener: Listener,
    address: Option<SocketAddr>,
    options: AdminOptions,
}

/// Serves the admin API of `source` on `listener`. Must be called inside a tokio runtime, whose tasks it uses.
///
/// # Errors
/// See [`prepare`].
pub fn serve(
    listener: ListenSocket,
    source: Arc<dyn Source>,
    options: AdminOptions,
) -> Result<AdminHandle, ServeError> {
    Ok(prepare(listener, options)?.serve(source))
}

/// Makes ready to serve on `listener`. Must be called inside the tokio runtime that will serve.
///
/// # Errors
/// [`ServeError::TokenRequired`] for a TCP listener off loopback without a token; the system's error when the
/// socket cannot be used.
pub fn prepare(listener: ListenSocket, options: AdminOptions) -> Result<Prepared, ServeError> {
    let (listener, address) = match listener {
        ListenSocket::Tcp(tcp) => {
            tcp.set_nonblocking(true)?;
            let address = tcp.local_addr()?;
            if options.token.is_none() && !is_loopback(address.ip()) {
                return Err(ServeError::TokenRequired(address));
            }
            (
                Listener::Tcp(tokio::net::TcpListener::from_std(tcp)?),
                Some(address),
            )
        }
        ListenSocket::Unix(unix) => {
            unix.set_nonblocking(true)?;
            (
                Listener::Unix(tokio::net::UnixListener::from_std(unix)?),
                None,
            )
        }
    };
    Ok(Prepared {
        listener,
        address,
        options,
    })
}

impl Prepared {
    /// Answers from now on. Must be called inside a tokio runtime, whose tasks it uses.
    pub fn serve(self, source: Arc<dyn Source>) -> AdminHandle {
        let Self {
            listener,
            address,
            options,
        } = self;
        let (closing, closed) = watch::channel(false);
        let limits = options.limits.clone();
        let router = api::router(source, options, address.is_some(), closed.clone());
        let task = tokio::spawn(accept_loop(listener, router, limits, closed));
        AdminHandle {
            address,
            closing,
            task,
        }
    }
}

pub(crate) fn is_loopback(ip: IpAddr) -> bool {
    ip.to_canonical().is_loopback()
}

#[derive(Debug)]
enum Listener {
    Tcp(tokio::net::TcpListener),
    Unix(tokio::net::UnixListener),
}

#[derive(Debug)]
enum Stream {
    Tcp(tokio::net::TcpStream),
    Unix(tokio::net::UnixStream),
}

impl Listener {
    async fn accept(&self) -> io::Result<Stream> {
        match self {
            Self::Tcp(listener) => {
                let stream = listener.accept().await?.0;
                let _ = stream.set_nodelay(true);
                Ok(Stream::Tcp(stream))
            }
            Self::Unix(listener) => Ok(Stream::Unix(listener.accept().await?.0)),
        }
    }
}

/// Resolves when the server ends; also when its handle was dropped.
pub(crate) async fn ended(closed: &mut watch::Receiver<bool>) {
    let _ = closed.wait_for(|closing| *closing).await;
}

async fn accept_loop(
    listener: Listener,
    router: Router,
    limits: Limits,
    mut closed: watch::Receiver<bool>,
) {
    let slots = Arc::new(Semaphore::new(limits.connections));
    let lingering = Arc::new(Semaphore::new(LINGERING));
    loop {
        let stream = tokio::select! {
            biased;
            () = ended(&mut closed) => break,
            accepted = listener.accept() => match accepted {
                Ok(stream) => stream,
                Err(error) => {
                    // Out of descriptors, most likely: waiting gives others the time to close some.
                    tracing::warn!(%error, "admin_accept_failed");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            },
        };
        let Ok(slot) = Arc::clone(&slots).try_acquire_owned() else {
            tracing::warn!(
                connections = limits.connections,
                "admin_connections_exhausted"
            );
            if let Ok(slot) = Arc::clone(&lingering).try_acquire_owned() {
                tokio::spawn(refuse(stream, limits.connections, slot));
            }
            continue;
        };
        let (router, limits, closed) = (router.clone(), limits.clone(), closed.clone());
        match stream {
            Stream::Tcp(io) => tokio::spawn(connection(io, router, limits, closed, slot)),
            Stream::Unix(io) => tokio::spawn(connection(io, router, limits, closed, slot)),
        };
    }
    drop(listener);
    // All slots free: all connections have ended. They end by themselves within `GRACE`.
    let all = u32::try_from(limits.connections).unwrap_or(u32::MAX);
    let _ = slots.acquire_many(all).await;
}

/// Refused connections that are told why at once; more are only closed.
const LINGERING: usize = 32;
/// Time that a refused client gets to take its answer.
const LINGER: Duration = Duration::from_secs(1);

/// Tells a client that there is no room, then reads what it still sends: a socket closed with unread bytes is reset, and
/// the reset would take the answer with it.
async fn refuse(mut stream: Stream, connections: usize, _slot: OwnedSemaphorePermit) {
    let body = format!(
        "{{\"type\":\"about:blank\",\"title\":\"Service Unavailable\",\"status\":503,\"code\":\"too_many_connections\",\
         \"detail\":\"the admin port has its {connections} connections\"}}"
    );
    let answer = format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/problem+json\r\nx-tidegate-error: \
         too_many_connections\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let _ = tokio::time::timeout(LINGER, async {
        match &mut stream {
            Stream::Tcp(io) => say_and_drain(io, &answer).await,
            Stream::Unix(io) => say_and_drain(io, &answer).await,
        }
    })
    .await;
}

async fn say_and_drain<I: AsyncRead + AsyncWrite + Unpin>(
    io: &mut I,
    answer: &str,
) -> io::Result<()> {
    io.write_all(answer.as_bytes()).await?;
    io.shutdown().await?;
    let mut rest = [0; 1024];
    while io.read(&mut rest).await? > 0 {}
    Ok(())
}

/// Time that answers under way get when the server ends.
const GRACE: Duration = Duration::from_secs(2);

async fn connection<I>(
    io: I,
    router: Router,
    limits: Limits,
    mut closed: watch::Receiver<bool>,
    _slot: OwnedSemaphorePermit,
) where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let io = TokioIo::new(StallGuard {
        io,
        limit: limits.write_timeout,
        timer: None,
    });
    let mut connection = pin!(
        hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(limits.header_timeout)
            .max_buf_size(limits.header_bytes.max(8192))
            .max_headers(64)
            .serve_connection(io, TowerToHyperService::new(router))
    );
    tokio::select! {
        // A client's broken connection is its own affair.
        _ = connection.as_mut() => {}
        () = ended(&mut closed) => {
            connection.as_mut().graceful_shutdown();
            let _ = tokio::time::timeout(GRACE, connection).await;
        }
    }
}

/// Fails a write that makes no progress for `limit`: a client that asks and does not read holds a slot no longer.
struct StallGuard<I> {
    io: I,
    limit: Duration,
    timer: Option<Pin<Box<Sleep>>>,
}

impl<I> StallGuard<I> {
    fn watch<T>(
        &mut self,
        context: &mut Context<'_>,
        polled: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            self.timer = None;
            return polled;
        }
        let limit = self.limit;
        let timer = self
            .timer
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(Instant::now() + limit)));
        match timer.as_mut().poll(context) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for StallGuard<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(context, buffer)
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for StallGuard<I> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.io).poll_write(context, bytes);
        self.watch(context, polled)
    }
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.io).poll_write_vectored(context, slices);
        self.watch(context, polled)
    }
    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.io).poll_flush(context);
        self.watch(context, polled)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_write_that_nobody_reads_fails_after_the_limit() {
        let (near, _far) = tokio::io::duplex(8);
        let mut guarded = StallGuard {
            io: near,
            limit: Duration::from_secs(30),
            timer: None,
        };
        let begun = Instant::now();
        let error = guarded.write_all(&[0; 64]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(begun.elapsed().as_secs(), 30);
    }

    #[test]
    fn mapped_addresses_are_loopback_too() {
        assert!(is_loopback("::ffff:127.0.0.1".parse().unwrap()));
        assert!(is_loopback("::1".parse().unwrap()));
        assert!(!is_loopback("0.0.0.0".parse().unwrap()));
    }
}
