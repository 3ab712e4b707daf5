//! Asking a running Tidegate: a small HTTP/1.1 client for `tidegate status` and for tests.
//!
//! One connection, kept between requests; every request is bounded in time and in bytes.

use std::io;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::{TcpStream, UnixStream};

use crate::{Problem, Token};

/// An answer of a thousand upstreams has about 300 KB; this is far above any that is meant.
const MAX_BODY: usize = 64 << 20;

/// Where an admin port is: `http://HOST:PORT`, `HOST:PORT` or `unix:PATH`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AdminUrl {
    /// `HOST:PORT`.
    Tcp(String),
    /// Path of a Unix socket.
    Unix(PathBuf),
}

impl FromStr for AdminUrl {
    type Err = ClientError;

    fn from_str(text: &str) -> Result<Self, ClientError> {
        let bad = || ClientError::Url(text.to_owned());
        match text.strip_prefix("unix:") {
            Some("") => return Err(bad()),
            Some(path) => return Ok(Self::Unix(path.into())),
            None => {}
        }
        let authority = text
            .strip_prefix("http://")
            .unwrap_or(text)
            .trim_end_matches('/');
        let parsed: http::uri::Authority = authority.parse().map_err(|_| bad())?;
        if parsed.as_str().contains('@') || parsed.host().is_empty() {
            return Err(bad());
        }
        Ok(Self::Tcp(if parsed.port().is_some() {
            parsed.to_string()
        } else {
            format!("{parsed}:80")
        }))
    }
}

impl std::fmt::Display for AdminUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(authority) => write!(f, "http://{authority}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Why an answer did not come.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The address cannot be one.
    #[error("{0:?} is no admin address: http://HOST:PORT, HOST:PORT or unix:PATH")]
    Url(String),
    /// Nothing answers there.
    #[error("no admin port answers at {url}: {source}")]
    Connect {
        /// Where.
        url: String,
        /// The system's answer.
        source: io::Error,
    },
    /// The connection broke, or what came was not HTTP.
    #[error("the answer of {url} broke off: {source}")]
    Broken {
        /// Where.
        url: String,
        /// What happened.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// No answer in time.
    #[error("no answer from {url} within {} s", limit.as_secs_f32())]
    Timeout {
        /// Where.
        url: String,
        /// The limit.
        limit: Duration,
    },
    /// An error answer.
    #[error("{} answered {}: {}{}", url, problem.status, problem.detail, hint(problem))]
    Problem {
        /// Where.
        url: String,
        /// The answer's body.
        problem: Box<Problem>,
    },
    /// An answer that is not what was asked for: another program, or another version.
    #[error("the answer of {url} is not Tidegate's: {source}")]
    Content {
        /// Where.
        url: String,
        /// What does not fit.
        source: serde_json::Error,
    },
}

fn hint(problem: &Problem) -> &'static str {
    if &*problem.code == "token_required" {
        " (--token, or TIDEGATE_ADMIN_TOKEN)"
    } else {
        ""
    }
}

/// A client of one admin port.
#[derive(Debug)]
pub struct Client {
    url: AdminUrl,
    token: Option<Token>,
    timeout: Duration,
    connection: Option<SendRequest<Full<Bytes>>>,
}

impl Client {
    /// A client that connects when first asked; each request takes `timeout` at most.
    #[must_use]
    pub fn new(url: AdminUrl, token: Option<Token>, timeout: Duration) -> Self {
        Self {
            url,
            token,
            timeout,
            connection: None,
        }
    }

    /// Where it asks.
    #[must_use]
    pub fn url(&self) -> &AdminUrl {
        &self.url
    }

    /// The JSON answer of a path.
    ///
    /// # Errors
    /// [`ClientError`]; error answers as [`ClientError::Problem`].
    pub async fn get<T: DeserializeOwned>(&mut self, path: &str) -> Result<T, ClientError> {
        self.send(Method::GET, path, None::<&()>).await
    }

    /// The JSON answer of an operation.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn send<T: DeserializeOwned>(
        &mut self,
        method: Method,
        path: &str,
        body: Option<&(impl Serialize + Sync)>,
    ) -> Result<T, ClientError> {
        let content = |source| ClientError::Content {
            url: self.url.to_string(),
            source,
        };
        let body = body.map(serde_json::to_vec).transpose().map_err(content)?;
        let answer = self.bounded(method, path, body.map(Bytes::from)).await?;
        serde_json::from_slice(&answer).map_err(|source| ClientError::Content {
            url: self.url.to_string(),
            source,
        })
    }

    /// The body of a path's answer.
    ///
    /// # Errors
    /// [`ClientError`]; error answers as [`ClientError::Problem`].
    pub async fn request(&mut self, method: Method, path: &str) -> Result<Bytes, ClientError> {
        self.bounded(method, path, None).await
    }

    async fn bounded(
        &mut self,
        method: Method,
        path: &str,
        body: Option<Bytes>,
    ) -> Result<Bytes, ClientError> {
        let (url, limit) = (self.url.to_string(), self.timeout);
        match tokio::time::timeout(limit, self.exchange(method, path, body)).await {
            Ok(Ok((status, body))) if status.is_success() => Ok(body),
            Ok(Ok((status, body))) => {
                let problem = serde_json::from_slice(&body).unwrap_or_else(|_| {
                    Problem::new(status, "unknown", status.canonical_reason().unwrap_or("?"))
                });
                Err(ClientError::Problem {
                    url,
                    problem: Box::new(problem),
                })
            }
            Ok(Err(error)) => {
                self.connection = None;
                Err(error)
            }
            Err(_) => {
                self.connection = None;
                Err(ClientError::Timeout { url, limit })
            }
        }
    }

    async fn exchange(
        &mut self,
        method: Method,
        path: &str,
        body: Option<Bytes>,
    ) -> Result<(StatusCode, Bytes), ClientError> {
        let url = self.url.to_string();
        let broken = |source: Box<dyn std::error::Error + Send + Sync>| ClientError::Broken {
            url: url.clone(),
            source,
        };
        let host = match &self.url {
            AdminUrl::Tcp(authority) => authority.as_str(),
            AdminUrl::Unix(_) => "localhost",
        };
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, host)
            .header(header::ACCEPT, "*/*");
        if let Some(token) = &self.token {
            request = request.header(header::AUTHORIZATION, token.authorization());
        }
        if body.is_some() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        let request = request
            .body(Full::new(body.unwrap_or_default()))
            .map_err(|error| broken(error.into()))?;
        // The other side may have closed a kept connection just now, and a restarted gateway surely has: what was not
        // sent, or only asks, is sent again on a new one.
        let mut answered = None;
        if let Some(mut kept) = self.connection.take() {
            match kept.try_send_request(request.clone()).await {
                Ok(response) => answered = Some((kept, response)),
                Err(mut error) => {
                    let unsent = error.take_message().is_some();
                    if !unsent && request.method() != Method::GET {
                        return Err(broken(error.into_error().into()));
                    }
                }
            }
        }
        let (connection, response) = match answered {
            Some(answered) => answered,
            None => {
                let mut fresh = self.connect().await?;
                let response = fresh
                    .send_request(request)
                    .await
                    .map_err(|error| broken(error.into()))?;
                (fresh, response)
            }
        };
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_BODY)
            .collect()
            .await
            .map_err(broken)?
            .to_bytes();
        self.connection = Some(connection);
        Ok((status, body))
    }

    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>, ClientError> {
        let failed = |source| ClientError::Connect {
            url: self.url.to_string(),
            source,
        };
        let broken = |error: hyper::Error| ClientError::Broken {
            url: self.url.to_string(),
            source: error.into(),
        };
        match &self.url {
            AdminUrl::Tcp(authority) => {
                let stream = TcpStream::connect(authority.as_str())
                    .await
                    .map_err(failed)?;
                let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(broken)?;
                tokio::spawn(connection);
                Ok(sender)
            }
            AdminUrl::Unix(path) => {
                let stream = UnixStream::connect(path).await.map_err(failed)?;
                let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(broken)?;
                tokio::spawn(connection);
                Ok(sender)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_in_their_three_forms() {
        for (text, url) in [
            ("http://127.0.0.1:9900/", "http://127.0.0.1:9900"),
            ("localhost:9900", "http://localhost:9900"),
            ("http://gw.internal", "http://gw.internal:80"),
            ("[::1]:9900", "http://[::1]:9900"),
            ("unix:/run/tidegate.sock", "unix:/run/tidegate.sock"),
        ] {
            assert_eq!(text.parse::<AdminUrl>().unwrap().to_string(), url);
        }
        for text in [
            "",
            "https://gw:9900",
            "http://a b",
            "unix:",
            "http://user@host:1",
            "http://host:1/path",
        ] {
            assert!(text.parse::<AdminUrl>().is_err(), "{text:?}");
        }
    }
}
