//! A new connection to an endpoint: TCP or Unix, TLS, and which protocol it speaks.

use tidegate_discovery::connect::{ConnectError, Plain, connect_plain};
use tidegate_discovery::endpoint::server_name;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::UpError;
use crate::io::{Raw, Transport, Turn};
use crate::upstream::{Protocol, Target, Upstream};

/// A connection ready for its first request.
#[derive(Debug)]
pub(crate) enum Fresh {
    H1(Transport),
    /// Cleartext HTTP/2.
    H2(Turn),
    /// HTTP/2 under TLS.
    H2Tls(Box<tokio_rustls::client::TlsStream<Turn>>),
}

/// Connects within the upstream's `connect_timeout`, resolving and TLS included.
pub(crate) async fn connect(
    upstream: &Upstream,
    target: &Target,
    protocol: Protocol,
) -> Result<Fresh, UpError> {
    match timeout(
        upstream.settings.connect_timeout,
        establish(upstream, target, protocol),
    )
    .await
    {
        Ok(done) => done,
        Err(_) => Err(UpError::ConnectTimeout),
    }
}

async fn establish(
    upstream: &Upstream,
    target: &Target,
    protocol: Protocol,
) -> Result<Fresh, UpError> {
    let plain = connect_plain(&target.address, &upstream.settings.resolver)
        .await
        .map_err(|e| refused(upstream, &e))?;
    let raw = match plain {
        Plain::Tcp(s) => Raw::Tcp(s),
        Plain::Unix(s) => Raw::Unix(s),
    };
    raw.set_nodelay();
    raw.set_keepalive(upstream.settings.tcp_keepalive);
    let Some(tls) = &upstream.settings.tls else {
        return Ok(match protocol {
            Protocol::Http2 => {
                let turn = Turn::new(raw);
                turn.gather();
                Fresh::H2(turn)
            }
            _ => Fresh::H1(Transport::Plain(raw)),
        });
    };
    let config = match protocol {
        Protocol::Http1 => &tls.http1,
        Protocol::Http2 => &tls.http2,
        Protocol::Auto => &tls.either,
    };
    let name = match &tls.server_name {
        Some(name) => name.clone(),
        None => rustls::pki_types::ServerName::try_from(server_name(&target.address))
            .map_err(|_| UpError::Connect)?,
    };
    let stream = TlsConnector::from(config.clone()).connect(name, Turn::new(raw)).await.map_err(|e| {
        tracing::debug!(upstream = %upstream.name, member = %target.id, cause = %e, "tls to endpoint failed");
        UpError::Connect
    })?;
    if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
        stream.get_ref().0.gather();
        Ok(Fresh::H2Tls(Box::new(stream)))
    } else if protocol == Protocol::Http2 {
        // Asked for HTTP/2 and the endpoint did not agree.
        Err(UpError::Connect)
    } else {
        Ok(Fresh::H1(Transport::TlsClient(Box::new(stream))))
    }
}

fn refused(upstream: &Upstream, e: &ConnectError) -> UpError {
    tracing::debug!(upstream = %upstream.name, cause = %e, "connect failed");
    match e {
        ConnectError::Timeout { .. } => UpError::ConnectTimeout,
        _ => UpError::Connect,
    }
}
