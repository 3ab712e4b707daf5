//! Connections to endpoints: TCP by happy eyeballs (RFC 8305), Unix sockets, TLS on top of either.
//!
//! Used by probes, the Consul client and the gateway's data path alike; it spawns onto the current runtime and needs
//! nothing else of it, so it works in a worker's current-thread runtime as well.

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::JoinSet;
use tokio_rustls::client::TlsStream;

use crate::endpoint::{Address, server_name};
use crate::resolve::{ResolveError, Resolver};

/// RFC 8305's recommended "Connection Attempt Delay": the next address gets its turn when the one before has not answered
/// by then; at once when it has failed.
pub const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// Why there is no connection. Nothing of a request was written in any of these, so another endpoint may always be tried.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The endpoint's name gave no address.
    #[error("cannot resolve {0}")]
    Resolve(#[from] ResolveError),
    /// No address took the connection; the error is that of the address tried first.
    #[error("cannot connect to {address}: {source}")]
    Connect {
        /// The endpoint.
        address: Address,
        /// The system's answer.
        source: io::Error,
    },
    /// Connected, but TLS failed.
    #[error("TLS with {address} failed: {source}")]
    Tls {
        /// The endpoint.
        address: Address,
        /// What the TLS layer says.
        source: io::Error,
    },
    /// Resolving, connecting and TLS together took longer than allowed.
    #[error("no connection to {address} within {timeout:?}")]
    Timeout {
        /// The endpoint.
        address: Address,
        /// The limit.
        timeout: Duration,
    },
}

/// TLS towards an endpoint.
#[derive(Clone, Debug)]
pub struct ClientTls {
    /// Roots, client certificate and ALPN, from [`crate::tls::client_config`].
    pub config: Arc<rustls::ClientConfig>,
    /// The name to ask for and to check; without one the endpoint's own host.
    pub server_name: Option<ServerName<'static>>,
}

/// Connects to endpoints of one upstream. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Connector {
    /// Looks names up.
    pub resolver: Resolver,
    /// TLS, if the upstream speaks it.
    pub tls: Option<ClientTls>,
    /// Limit for resolving, connecting and TLS together.
    pub timeout: Duration,
}

impl Connector {
    /// Connects. On return the connection is ready for the first byte of the protocol (see [`Stream::alpn`]).
    ///
    /// # Errors
    /// See [`ConnectError`].
    pub async fn connect(&self, address: &Address) -> Result<Stream, ConnectError> {
        let connecting = async {
            let plain = connect_plain(address, &self.resolver).await?;
            match &self.tls {
                None => Ok(Stream::Plain(plain)),
                Some(tls) => connect_tls(plain, address, tls).await,
            }
        };
        match tokio::time::timeout(self.timeout, connecting).await {
            Ok(result) => result,
            Err(_) => Err(ConnectError::Timeout {
                address: address.clone(),
                timeout: self.timeout,
            }),
        }
    }
}

async fn connect_tls(
    plain: Plain,
    address: &Address,
    tls: &ClientTls,
) -> Result<Stream, ConnectError> {
    let failed = |source| ConnectError::Tls {
        address: address.clone(),
        source,
    };
    let name = match &tls.server_name {
        Some(name) => name.clone(),
        None => ServerName::try_from(server_name(address))
            .map_err(|error| failed(io::Error::new(io::ErrorKind::InvalidInput, error)))?,
    };
    let connector = tokio_rustls::TlsConnector::from(tls.config.clone());
    Ok(Stream::Tls(Box::new(
        connector.connect(name, plain).await.map_err(failed)?,
    )))
}

/// Connects without TLS and without a limit of its own (the system's apply).
///
/// # Errors
/// [`ConnectError::Resolve`] and [`ConnectError::Connect`].
pub async fn connect_plain(address: &Address, resolver: &Resolver) -> Result<Plain, ConnectError> {
    let failed = |source| ConnectError::Connect {
        address: address.clone(),
        source,
    };
    match address {
        Address::Unix(path) => UnixStream::connect(path)
            .await
            .map(Plain::Unix)
            .map_err(failed),
        Address::Ip(at) => connect_tcp(*at).await.map(Plain::Tcp).map_err(failed),
        Address::Name(name) => {
            let ips = resolver.addresses(&name.host).await?;
            let order = interleave(&ips)
                .into_iter()
                .map(|ip| SocketAddr::new(ip, name.port))
                .collect();
            race(order, ATTEMPT_DELAY, connect_tcp)
                .await
                .map(Plain::Tcp)
                .map_err(failed)
        }
    }
}

async fn connect_tcp(at: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(at).await?;
    // Requests and frames are written whole: waiting to fill a segment only adds latency.
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// RFC 8305, section 4: alternate the families, beginning with that of the first address.
fn interleave(ips: &[IpAddr]) -> Vec<IpAddr> {
    let Some(first) = ips.first() else {
        return Vec::new();
    };
    let mut ours = ips.iter().filter(|ip| ip.is_ipv4() == first.is_ipv4());
    let mut others = ips.iter().filter(|ip| ip.is_ipv4() != first.is_ipv4());
    let mut order = Vec::with_capacity(ips.len());
    loop {
        match (ours.next(), others.next()) {
            (None, None) => return order,
            (a, b) => order.extend(a.into_iter().chain(b)),
        }
    }
}

/// RFC 8305, section 5: start attempts one after another, each when the one before failed or `delay` has passed; the first
/// success wins and ends the others. When all fail the first attempt's error is told.
async fn race<S, F, Fut>(addresses: Vec<SocketAddr>, delay: Duration, connect: F) -> io::Result<S>
where
    S: Send + 'static,
    F: Fn(SocketAddr) -> Fut,
    Fut: Future<Output = io::Result<S>> + Send + 'static,
{
    // One address is the usual case: no task needed.
    if let [only] = addresses[..] {
        return connect(only).await;
    }
    let mut waiting = addresses.into_iter().enumerate();
    let mut running = JoinSet::new();
    let mut errors: Vec<(usize, io::Error)> = Vec::new();
    loop {
        let next = waiting.next();
        let last = next.is_none();
        if let Some((index, at)) = next {
            let attempt = connect(at);
            running.spawn(async move { (index, attempt.await) });
        }
        let ended = if last {
            running.join_next().await
        } else {
            match tokio::time::timeout(delay, running.join_next()).await {
                Ok(ended) => ended,
                Err(_) => continue,
            }
        };
        match ended {
            Some(Ok((_, Ok(stream)))) => return Ok(stream),
            Some(Ok((index, Err(error)))) => errors.push((index, error)),
            Some(Err(panicked)) => return Err(io::Error::other(panicked)),
            None if last => {
                let first = errors.into_iter().min_by_key(|(index, _)| *index);
                return Err(first.map_or_else(
                    || io::Error::new(io::ErrorKind::AddrNotAvailable, "the name has no address"),
                    |(_, error)| error,
                ));
            }
            None => {}
        }
    }
}

/// A connection without TLS.
#[derive(Debug)]
pub enum Plain {
    /// TCP.
    Tcp(TcpStream),
    /// Unix domain socket.
    Unix(UnixStream),
}

impl Plain {
    /// This side's IP address; none on a Unix socket.
    pub fn local_ip(&self) -> Option<IpAddr> {
        match self {
            Self::Tcp(stream) => stream.local_addr().ok().map(|at| at.ip()),
            Self::Unix(_) => None,
        }
    }
}

/// A connection, ready for the protocol.
#[derive(Debug)]
pub enum Stream {
    /// Without TLS.
    Plain(Plain),
    /// With TLS.
    Tls(Box<TlsStream<Plain>>),
}

impl Stream {
    /// The protocol that ALPN agreed on, if any.
    pub fn alpn(&self) -> Option<&[u8]> {
        match self {
            Self::Plain(_) => None,
            Self::Tls(stream) => stream.get_ref().1.alpn_protocol(),
        }
    }

    /// The connection under TLS, or itself.
    pub fn plain(&self) -> &Plain {
        match self {
            Self::Plain(plain) => plain,
            Self::Tls(stream) => stream.get_ref().0,
        }
    }
}

/// Forwards the I/O traits to whichever variant it is.
macro_rules! forward_io {
    ($type:ident: $($variant:ident),+) => {
        impl AsyncRead for $type {
            fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
                match self.get_mut() { $(Self::$variant(io) => Pin::new(io).poll_read(cx, buf)),+ }
            }
        }

        impl AsyncWrite for $type {
            fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
                match self.get_mut() { $(Self::$variant(io) => Pin::new(io).poll_write(cx, buf)),+ }
            }

            fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                match self.get_mut() { $(Self::$variant(io) => Pin::new(io).poll_flush(cx)),+ }
            }

            fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                match self.get_mut() { $(Self::$variant(io) => Pin::new(io).poll_shutdown(cx)),+ }
            }

            fn poll_write_vectored(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                bufs: &[io::IoSlice<'_>],
            ) -> Poll<io::Result<usize>> {
                match self.get_mut() { $(Self::$variant(io) => Pin::new(io).poll_write_vectored(cx, bufs)),+ }
            }

            fn is_write_vectored(&self) -> bool {
                match self { $(Self::$variant(io) => io.is_write_vectored()),+ }
            }
        }
    };
}

forward_io!(Plain: Tcp, Unix);
forward_io!(Stream: Plain, Tls);

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;
    use tokio::time::Instant;

    fn ips(texts: &[&str]) -> Vec<IpAddr> {
        texts
            .iter()
            .map(|text| text.parse().expect("address"))
            .collect()
    }

    #[test]
    fn families_alternate_beginning_with_the_first() {
        assert_eq!(
            interleave(&ips(&["::1", "::2", "::3", "1.1.1.1"])),
            ips(&["::1", "1.1.1.1", "::2", "::3"])
        );
        assert_eq!(
            interleave(&ips(&["1.1.1.1", "2.2.2.2", "::1"])),
            ips(&["1.1.1.1", "::1", "2.2.2.2"])
        );
        assert!(interleave(&[]).is_empty());
    }

    fn at(port: u16) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1], port))
    }

    /// Port 1 hangs, port 2 refuses, port 3 answers after 40 ms, port 4 answers at once.
    async fn act(at: SocketAddr) -> io::Result<u16> {
        match at.port() {
            1 => std::future::pending().await,
            2 => Err(io::Error::from(io::ErrorKind::ConnectionRefused)),
            3 => {
                tokio::time::sleep(Duration::from_millis(40)).await;
                Ok(3)
            }
            port => Ok(port),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_address_costs_one_delay_only() {
        let start = Instant::now();
        assert_eq!(
            race(vec![at(1), at(4)], ATTEMPT_DELAY, act)
                .await
                .expect("second"),
            4
        );
        assert_eq!(start.elapsed(), ATTEMPT_DELAY);
    }

    #[tokio::test(start_paused = true)]
    async fn a_refused_address_costs_nothing() {
        let start = Instant::now();
        assert_eq!(
            race(vec![at(2), at(2), at(4)], ATTEMPT_DELAY, act)
                .await
                .expect("third"),
            4
        );
        assert_eq!(start.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn an_earlier_attempt_still_wins_when_it_answers_first() {
        let started = Mutex::new(Vec::new());
        let won = race(vec![at(3), at(4)], ATTEMPT_DELAY, |address| {
            started.lock().expect("not poisoned").push(address.port());
            act(address)
        });
        assert_eq!(won.await.expect("first"), 3);
        assert_eq!(
            *started.lock().expect("not poisoned"),
            [3],
            "the second was not needed"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn when_all_fail_the_first_addresses_error_is_told() {
        let fails = |address: SocketAddr| async move {
            if address.port() == 1 {
                tokio::time::sleep(Duration::from_millis(300)).await;
                return Err::<(), _>(io::Error::other("first"));
            }
            Err(io::Error::other("second"))
        };
        let error = race(vec![at(1), at(2)], ATTEMPT_DELAY, fails)
            .await
            .expect_err("all fail");
        assert_eq!(error.to_string(), "first");
        let none = race(vec![], ATTEMPT_DELAY, act)
            .await
            .expect_err("nothing to try");
        assert_eq!(none.kind(), io::ErrorKind::AddrNotAvailable);
    }
}
