//! A small HTTP/1.1 client for control work: one connection that is kept, answers bounded in size.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_TYPE, HOST};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use socket2::{SockRef, TcpKeepalive};

use crate::connect::{ConnectError, Connector, Plain};
use crate::endpoint::Address;
use crate::source::Task;

/// A peer that vanished without a word (power, network) is noticed within about 30 seconds although a blocking query has
/// nothing to say for minutes.
const KEEPALIVE: TcpKeepalive = TcpKeepalive::new()
    .with_time(Duration::from_secs(15))
    .with_interval(Duration::from_secs(5));

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// There is no connection.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// It broke off, or what came is no HTTP.
    #[error("{}", with_causes(.0))]
    Exchange(#[from] hyper::Error),
    /// The answer's body is longer than the client reads.
    #[error("the answer is longer than {0} bytes")]
    TooLong(usize),
    /// The whole exchange took longer than it may.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
}

/// hyper's texts name the step that failed; what happened is in the sources.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}

/// An answer, read to its end.
#[derive(Debug)]
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
}

impl Answer {
    /// The beginning of the body as one line of text, for messages.
    pub fn excerpt(&self) -> String {
        let text = String::from_utf8_lossy(&self.body[..self.body.len().min(200)]);
        text.split_whitespace().collect::<Vec<_>>().join(" ")
    }
}

/// Where a client sends.
#[derive(Clone, Debug)]
pub struct Server {
    /// Where to connect.
    pub address: Address,
    /// `Host`.
    pub authority: String,
    /// Sent with every request, beside `Host`. Without a type among them, bodies are JSON.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// How to connect.
    pub connector: Connector,
}

/// One connection at a time to one server.
#[derive(Debug)]
pub struct Client {
    server: Server,
    connection: Option<Connection>,
    /// Longest answer that is read.
    limit: usize,
}

#[derive(Debug)]
struct Connection {
    sender: SendRequest<Full<Bytes>>,
    local_ip: Option<std::net::IpAddr>,
    _driver: Task,
}

impl Client {
    /// A client without a connection yet, which reads answers up to `limit` bytes.
    pub fn new(server: Server, limit: usize) -> Self {
        Self {
            server,
            connection: None,
            limit,
        }
    }

    /// This side's address of the connection, once there was an answer.
    pub(crate) fn local_ip(&self) -> Option<std::net::IpAddr> {
        self.connection
            .as_ref()
            .and_then(|connection| connection.local_ip)
    }

    /// One exchange. A kept connection that turns out to be closed is replaced once; requests here can all be repeated.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn exchange(
        &mut self,
        method: Method,
        path_and_query: &str,
        body: Option<Bytes>,
        timeout: Duration,
    ) -> Result<Answer, ClientError> {
        let exchange = async {
            let reused = self
                .connection
                .as_ref()
                .is_some_and(|connection| !connection.sender.is_closed());
            match self.once(&method, path_and_query, body.clone()).await {
                Err(ClientError::Exchange(error))
                    if reused
                        && (error.is_canceled()
                            || error.is_closed()
                            || error.is_incomplete_message()) =>
                {
                    self.connection = None;
                    self.once(&method, path_and_query, body).await
                }
                result => result,
            }
        };
        let result = tokio::time::timeout(timeout, exchange)
            .await
            .unwrap_or(Err(ClientError::Timeout(timeout)));
        if result.is_err() {
            // Whatever state it is in, it is not the beginning of an answer.
            self.connection = None;
        }
        result
    }

    async fn once(
        &mut self,
        method: &Method,
        path_and_query: &str,
        body: Option<Bytes>,
    ) -> Result<Answer, ClientError> {
        let mut connection = match self.connection.take() {
            Some(kept) if !kept.sender.is_closed() => kept,
            _ => self.open().await?,
        };
        let mut request = Request::builder()
            .method(method)
            .uri(path_and_query)
            .header(HOST, &self.server.authority);
        for (name, value) in &self.server.headers {
            request = request.header(name, value);
        }
        let typed = |(name, _): &(HeaderName, HeaderValue)| *name == CONTENT_TYPE;
        if body.is_some() && !self.server.headers.iter().any(typed) {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        let request = request.body(Full::new(body.unwrap_or_default())).expect(
            "paths and queries are percent-encoded, header values were checked when they were made",
        );
        connection.sender.ready().await?;
        let (head, mut incoming) = connection.sender.send_request(request).await?.into_parts();
        let mut body = BytesMut::new();
        while let Some(frame) = incoming.frame().await {
            if let Ok(data) = frame?.into_data() {
                if body.len() + data.len() > self.limit {
                    return Err(ClientError::TooLong(self.limit));
                }
                body.extend_from_slice(&data);
            }
        }
        self.connection = Some(connection);
        Ok(Answer {
            status: head.status,
            headers: head.headers,
            body: body.freeze(),
        })
    }

    async fn open(&self) -> Result<Connection, ClientError> {
        let stream = self.server.connector.connect(&self.server.address).await?;
        if let Plain::Tcp(tcp) = stream.plain()
            && let Err(error) = SockRef::from(tcp).set_tcp_keepalive(&KEEPALIVE)
        {
            tracing::debug!(%error, "no keepalive on a control connection");
        }
        let local_ip = stream.plain().local_ip();
        let (sender, driver) = handshake(TokioIo::new(stream)).await?;
        let driver = Task::spawn(&tokio::runtime::Handle::current(), async move {
            // Its errors are told by the exchange that meets them.
            let _ = driver.await;
        });
        Ok(Connection {
            sender,
            local_ip,
            _driver: driver,
        })
    }
}

/// Percent-encodes all but unreserved characters (RFC 3986), for path segments and query values.
pub(crate) fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                out.push(char::from(byte))
            }
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_silent_server_costs_its_time_and_the_next_exchange_begins_anew() {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a port");
        let address = listener.local_addr().expect("bound");
        let resolver = crate::resolve::Resolver::with_servers(&[]).expect("never asked");
        let connector = Connector {
            resolver,
            tls: None,
            timeout: Duration::from_secs(5),
        };
        let server = Server {
            address: Address::Ip(address),
            authority: address.to_string(),
            headers: vec![],
            connector,
        };
        let mut client = Client::new(server, 100);
        let silent = client.exchange(Method::GET, "/a", None, Duration::from_millis(50));
        assert!(matches!(silent.await, Err(ClientError::Timeout(_))));
        let (_first, _) = listener.accept().await.expect("a connection");
        let answering = tokio::spawn(async move {
            let (mut second, _) = listener.accept().await.expect("another connection");
            let mut head = [0; 10];
            second.read_exact(&mut head).await.expect("a request");
            second
                .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
                .await
                .expect("written");
            head
        });
        let answer = client
            .exchange(Method::GET, "/bcd?e", None, Duration::from_secs(10))
            .await
            .expect("an answer");
        assert_eq!(
            (&answer.body[..], &answering.await.expect("served")),
            (&b"ok"[..], b"GET /bcd?e")
        );
    }

    #[test]
    fn names_cannot_escape_their_place_in_a_url() {
        assert_eq!(encode("a b/c?d&é"), "a%20b%2Fc%3Fd%26%C3%A9");
        assert_eq!(encode("ranker-v1.x_~"), "ranker-v1.x_~");
    }
}
