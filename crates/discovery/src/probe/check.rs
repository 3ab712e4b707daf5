//! One check of one endpoint, from the connection to the verdict.

use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST, TE, USER_AGENT};
use http::{HeaderMap, Request, Uri};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tidegate_config::values::{Address, HostPort, StatusRange};

use super::grpc;
use crate::connect::{Connector, Stream};
use crate::endpoint::authority;
use crate::source::Task;

/// How endpoints of one upstream are checked.
#[derive(Clone, Debug)]
pub(super) struct Check {
    pub(super) connector: Connector,
    pub(super) kind: Kind,
    pub(super) port: Option<u16>,
    pub(super) host: Option<String>,
    pub(super) timeout: Duration,
}

#[derive(Clone, Debug)]
pub(super) enum Kind {
    Http {
        path: String,
        expected: Vec<StatusRange>,
        prior_knowledge: bool,
    },
    Grpc {
        service: String,
    },
    Tcp,
}

impl Check {
    /// # Errors
    /// Why the endpoint is not fit, in words.
    pub(super) async fn run(&self, address: &Address) -> Result<(), String> {
        match tokio::time::timeout(self.timeout, self.unlimited(address)).await {
            Ok(result) => result,
            Err(_) => Err(format!("no answer within {:?}", self.timeout)),
        }
    }

    async fn unlimited(&self, address: &Address) -> Result<(), String> {
        let at = match (self.port, address) {
            (Some(port), Address::Ip(at)) => Address::Ip((at.ip(), port).into()),
            (Some(port), Address::Name(name)) => Address::Name(HostPort {
                host: name.host.clone(),
                port,
            }),
            (_, other) => other.clone(),
        };
        let stream = self
            .connector
            .connect(&at)
            .await
            .map_err(|error| error.to_string())?;
        let host = self.host.clone().unwrap_or_else(|| authority(address));
        match &self.kind {
            Kind::Tcp => Ok(()),
            Kind::Http {
                path,
                expected,
                prior_knowledge,
            } => {
                let status = get(stream, &host, path, *prior_knowledge).await?;
                match expected.iter().any(|range| range.contains(status)) {
                    true => Ok(()),
                    false => Err(format!("HTTP {status} from {path}")),
                }
            }
            Kind::Grpc { service } => {
                if matches!(stream, Stream::Tls(_)) && stream.alpn() != Some(b"h2") {
                    return Err(
                        "the server does not offer HTTP/2 (ALPN), which gRPC needs".to_owned()
                    );
                }
                ask_health(stream, &host, service).await
            }
        }
    }
}

fn broken(error: hyper::Error) -> String {
    let cause = std::error::Error::source(&error)
        .map(|source| format!(": {source}"))
        .unwrap_or_default();
    format!("no HTTP answer: {error}{cause}")
}

async fn get(stream: Stream, host: &str, path: &str, prior_knowledge: bool) -> Result<u16, String> {
    let over_h2 = stream.alpn() == Some(b"h2") || (prior_knowledge && stream.alpn().is_none());
    let uri = if over_h2 {
        format!("{}://{host}{path}", scheme(&stream))
    } else {
        path.to_owned()
    };
    let mut request = Request::get(uri).header(USER_AGENT, "tidegate-probe");
    if !over_h2 {
        request = request.header(HOST, host);
    }
    let request = request
        .body(Full::default())
        .map_err(|error| format!("the probe's host or path is unusable: {error}"))?;
    let answer = if over_h2 {
        exchange_h2(stream, request).await?.0
    } else {
        let (mut sender, driver) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(broken)?;
        let _driver = drive(driver);
        sender.send_request(request).await.map_err(broken)?
    };
    // The head says it; the body, however long, is left unread.
    Ok(answer.status().as_u16())
}

async fn ask_health(stream: Stream, host: &str, service: &str) -> Result<(), String> {
    let uri: Uri = format!("{}://{host}{}", scheme(&stream), grpc::PATH)
        .parse()
        .map_err(|error| format!("the probe's host is unusable: {error}"))?;
    let request = Request::post(uri)
        .header(CONTENT_TYPE, "application/grpc")
        .header(TE, "trailers")
        .header(USER_AGENT, "tidegate-probe")
        .body(Full::new(grpc::request(service)))
        .map_err(|error| format!("the probe's host is unusable: {error}"))?;
    let (answer, _driver) = exchange_h2(stream, request).await?;
    let (head, mut body) = answer.into_parts();
    if head.status != http::StatusCode::OK {
        return Err(format!(
            "gRPC health: HTTP {} from a server that does not speak gRPC",
            head.status.as_u16()
        ));
    }
    let mut message = Vec::new();
    let mut trailers = None;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(broken)?;
        match frame.into_data() {
            Ok(data) if message.len() + data.len() > grpc::MAX_ANSWER => {
                return Err("gRPC health: the answer is too long to be one".to_owned());
            }
            Ok(data) => message.extend_from_slice(&data),
            Err(frame) => trailers = frame.into_trailers().ok(),
        }
    }
    // Without trailers the answer is "trailers only": the status is in the head.
    let status = trailers.as_ref().unwrap_or(&head.headers);
    match text(status, "grpc-status") {
        Some("0") => grpc::serving(&message),
        Some(code) => Err(grpc::refused(
            code,
            text(status, "grpc-message").unwrap_or_default(),
        )),
        None => Err("gRPC health: the answer has no status".to_owned()),
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

fn scheme(stream: &Stream) -> &'static str {
    if matches!(stream, Stream::Tls(_)) {
        "https"
    } else {
        "http"
    }
}

async fn exchange_h2(
    stream: Stream,
    request: Request<Full<Bytes>>,
) -> Result<(http::Response<Incoming>, Task), String> {
    let (mut sender, driver) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .map_err(broken)?;
    let driver = drive(driver);
    Ok((sender.send_request(request).await.map_err(broken)?, driver))
}

/// Runs a connection until the check is over.
fn drive(connection: impl Future<Output = hyper::Result<()>> + Send + 'static) -> Task {
    Task::spawn(&tokio::runtime::Handle::current(), async move {
        // Its errors are told by the exchange that meets them.
        let _ = connection.await;
    })
}
