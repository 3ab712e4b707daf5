//! The callers: steady traffic over kept connections, each answer compared with what the model must say.
//!
//! They are ordinary clients. A request that could not be sent because its kept connection had been closed goes over a
//! new one, as every HTTP library does. A connection that is cut under a request is a failure, with one exception that
//! is counted apart: the demo kills the gateway's process, and with it the connections that it held. What was in
//! flight there is sent again once (the method may be repeated), on a connection that the supervisor's socket keeps
//! waiting until the next gateway accepts it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode, Version as Protocol, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use super::model::{Example, Model, Prediction, Version, held_out};
use super::traffic::{Answer, Traffic};
use super::wire::{self, Opinion, Question};

/// Callers with a connection of their own that speak HTTP/1.1 and JSON.
const JSON_CALLERS: usize = 12;
/// Callers that speak gRPC, all over one connection, as one long-lived client would.
const GRPC_CALLERS: usize = 4;
/// All callers.
pub(crate) const CALLERS: usize = JSON_CALLERS + GRPC_CALLERS;
/// After this a request counts as failed.
const PATIENCE: Duration = Duration::from_secs(20);
/// Closed connections that one request may meet before it is sent.
const MOST_UNSENT: u32 = 5;

/// What all callers share.
#[derive(Debug)]
pub(crate) struct Callers {
    port: u16,
    rate: u32,
    traffic: Arc<Traffic>,
    texts: Vec<Asked>,
    next: AtomicUsize,
    /// Grows when a gateway process is killed on purpose: connections that are older may be cut.
    kills: AtomicU64,
    /// Connections opened so far: their ids.
    opened: AtomicU64,
    stop: AtomicBool,
}

/// A text with what the models say about it.
#[derive(Debug)]
struct Asked {
    example: Example,
    json: Bytes,
    grpc: Bytes,
    expected: [Prediction; 2],
}

/// Why an exchange did not end with an answer.
#[derive(Debug)]
enum Broken {
    /// Nothing was sent.
    Unsent(String),
    /// It was sent, and the connection ended.
    Cut(String),
    /// What came is not right.
    Wrong(String),
}

/// One kind of connection.
enum Connection {
    Json(http1::SendRequest<Full<Bytes>>),
    Grpc(http2::SendRequest<Full<Bytes>>),
}

/// An open connection.
struct Open {
    id: u64,
    /// Gateways that had been killed when it was opened.
    kills: u64,
    connection: Connection,
}

impl Open {
    /// What other callers may use meanwhile: streams share a connection, HTTP/1.1 requests do not.
    fn shared(&self) -> Option<Open> {
        match &self.connection {
            Connection::Json(_) => None,
            Connection::Grpc(sender) => Some(Open {
                id: self.id,
                kills: self.kills,
                connection: Connection::Grpc(sender.clone()),
            }),
        }
    }
}

/// The connection that one caller, or several gRPC callers together, keep between requests.
type Kept = Arc<tokio::sync::Mutex<Option<Open>>>;

impl Callers {
    /// Callers of the gateway at this port, `rate` requests a second together.
    pub(crate) fn new(port: u16, rate: u32, models: &[Model; 2], traffic: Arc<Traffic>) -> Self {
        let texts = held_out()
            .map(|example| Asked {
                example,
                json: json(example.text),
                grpc: wire::encode_question(example.text),
                expected: [
                    models[0].predict(example.text),
                    models[1].predict(example.text),
                ],
            })
            .collect();
        Self {
            port,
            rate,
            traffic,
            texts,
            next: AtomicUsize::new(0),
            kills: AtomicU64::new(0),
            opened: AtomicU64::new(0),
            stop: AtomicBool::new(false),
        }
    }

    /// Sends until [`Callers::stop`]; every request that was begun is finished.
    pub(crate) async fn run(self: Arc<Self>) {
        let mut callers = JoinSet::new();
        let shared = Arc::new(tokio::sync::Mutex::new(None));
        for caller in 0..CALLERS {
            let this = Arc::clone(&self);
            if caller < JSON_CALLERS {
                callers.spawn(this.call(caller, Arc::default(), false));
            } else {
                callers.spawn(this.call(caller, Arc::clone(&shared), true));
            }
        }
        while callers.join_next().await.is_some() {}
    }

    /// Begins no more requests.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// To be called right before a gateway process is killed; how many that makes.
    pub(crate) fn gateway_dies(&self) -> u64 {
        self.kills.fetch_add(1, Ordering::SeqCst) + 1
    }

    async fn call(self: Arc<Self>, caller: usize, connection: Kept, grpc: bool) {
        let pace = Duration::from_secs(1) * CALLERS as u32 / self.rate.max(1);
        // Spread over the first pace: sixteen requests at the same moment are no steady traffic.
        let first = tokio::time::Instant::now() + pace * caller as u32 / CALLERS as u32;
        let mut ticks = tokio::time::interval_at(first, pace);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            ticks.tick().await;
            if self.stop.load(Ordering::Relaxed) {
                return;
            }
            // One order for all callers, so that every text is asked as often as the others.
            let text = self.next.fetch_add(1, Ordering::Relaxed) % self.texts.len();
            let asked = &self.texts[text];
            let request = self.request(&connection, asked, grpc);
            match tokio::time::timeout(PATIENCE, request).await {
                Ok(Ok(answer)) => self.traffic.answered(answer),
                Ok(Err(why)) => self.traffic.failed(why),
                Err(_) => {
                    *connection.lock().await = None;
                    let patience = PATIENCE.as_secs();
                    self.traffic
                        .failed(format!("no answer within {patience} s"));
                }
            }
        }
    }

    async fn request(&self, kept: &Kept, asked: &Asked, grpc: bool) -> Result<Answer, String> {
        let sent = Instant::now();
        let mut unsent = 0;
        loop {
            let open = match self.take(kept, grpc).await {
                Ok(open) => open,
                Err(why) => return Err(why),
            };
            let kills = open.kills;
            match self.attempt(kept, open, asked).await {
                Ok(opinion) => return self.judge(asked, opinion, sent, grpc, kills),
                Err(Broken::Wrong(why)) => return Err(why),
                // A connection that was closed while nothing was under way: at most a few in a row.
                Err(Broken::Unsent(why)) => {
                    unsent += 1;
                    if unsent > MOST_UNSENT {
                        return Err(format!("not sent: {why}"));
                    }
                }
                Err(Broken::Cut(why)) => {
                    if kills == self.kills.load(Ordering::SeqCst) {
                        return Err(format!("cut under a request: {why}"));
                    }
                    self.traffic.resent();
                }
            }
        }
    }

    /// The kept connection, or a new one.
    async fn take(&self, kept: &Kept, grpc: bool) -> Result<Open, String> {
        let mut slot = kept.lock().await;
        if let Some(open) = slot.take() {
            *slot = open.shared();
            return Ok(open);
        }
        let kills = self.kills.load(Ordering::SeqCst);
        let connection = self.connect(grpc).await?;
        let id = self.opened.fetch_add(1, Ordering::Relaxed);
        let open = Open {
            id,
            kills,
            connection,
        };
        *slot = open.shared();
        Ok(open)
    }

    /// One exchange. The connection is kept when it is as good as before.
    async fn attempt(&self, kept: &Kept, mut open: Open, asked: &Asked) -> Result<Opinion, Broken> {
        let result = match &mut open.connection {
            Connection::Json(sender) => {
                let result = self.exchange_json(sender, asked).await;
                if result.is_ok() && sender.ready().await.is_ok() {
                    *kept.lock().await = Some(open);
                }
                return result;
            }
            Connection::Grpc(sender) => self.exchange_grpc(sender, asked).await,
        };
        if matches!(result, Err(Broken::Unsent(_) | Broken::Cut(_))) {
            let mut slot = kept.lock().await;
            // Another caller may have opened the next one already.
            if slot.as_ref().is_some_and(|kept| kept.id == open.id) {
                *slot = None;
            }
        }
        result
    }

    async fn connect(&self, grpc: bool) -> Result<Connection, String> {
        let refused = |error: std::io::Error| format!("connection refused: {error}");
        let stream = TcpStream::connect(("127.0.0.1", self.port))
            .await
            .map_err(refused)?;
        stream.set_nodelay(true).map_err(refused)?;
        self.traffic.connected();
        let io = TokioIo::new(stream);
        if grpc {
            let (sender, connection) = http2::handshake(TokioExecutor::new(), io)
                .await
                .map_err(|error| format!("no HTTP/2: {error}"))?;
            tokio::spawn(connection);
            Ok(Connection::Grpc(sender))
        } else {
            let (sender, connection) = http1::handshake(io)
                .await
                .map_err(|error| format!("no HTTP/1.1: {error}"))?;
            tokio::spawn(connection);
            Ok(Connection::Json(sender))
        }
    }

    async fn exchange_json(
        &self,
        sender: &mut http1::SendRequest<Full<Bytes>>,
        asked: &Asked,
    ) -> Result<Opinion, Broken> {
        let request = Request::post(wire::PREDICT)
            .header(header::HOST, "sentiment.demo")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(asked.json.clone()))
            .map_err(wrong)?;
        let (status, body, _) = match sender.try_send_request(request).await {
            Ok(response) => whole(response).await?,
            Err(mut error) => {
                return Err(unanswered(error.take_message().is_some(), error.error()));
            }
        };
        if status != StatusCode::OK {
            return Err(Broken::Wrong(format!("status {status}{}", excerpt(&body))));
        }
        serde_json::from_slice(&body).map_err(wrong)
    }

    async fn exchange_grpc(
        &self,
        sender: &mut http2::SendRequest<Full<Bytes>>,
        asked: &Asked,
    ) -> Result<Opinion, Broken> {
        if let Err(error) = sender.ready().await {
            return Err(unanswered(true, &error));
        }
        let uri = format!("http://sentiment.demo{}", wire::GRPC_PREDICT);
        let request = Request::post(uri)
            .version(Protocol::HTTP_2)
            .header(header::CONTENT_TYPE, "application/grpc")
            .header(header::TE, "trailers")
            .body(Full::new(asked.grpc.clone()))
            .map_err(wrong)?;
        let (status, body, headers) = match sender.try_send_request(request).await {
            Ok(response) => whole(response).await?,
            Err(mut error) => {
                return Err(unanswered(error.take_message().is_some(), error.error()));
            }
        };
        let code = headers
            .get("grpc-status")
            .and_then(|code| code.to_str().ok());
        if status != StatusCode::OK || code != Some("0") {
            let words = headers
                .get("grpc-message")
                .and_then(|words| words.to_str().ok());
            let (code, words) = (code.unwrap_or("none"), words.unwrap_or_default());
            return Err(Broken::Wrong(format!(
                "grpc-status {code} (HTTP {status}) {words}"
            )));
        }
        wire::decode_opinion(&body).ok_or_else(|| Broken::Wrong("not an Opinion".into()))
    }

    /// Only an answer that the named version's model gives to this text is right.
    fn judge(
        &self,
        asked: &Asked,
        opinion: Opinion,
        sent: Instant,
        grpc: bool,
        kills: u64,
    ) -> Result<Answer, String> {
        let version: Version = opinion.version.parse()?;
        let expected = &asked.expected[version.index()];
        let same = opinion.label == expected.label.name()
            && (opinion.confidence - expected.confidence).abs() < 1e-9
            && (grpc || !opinion.because.is_empty() || expected.because.is_empty());
        if !same {
            return Err(format!("not the answer of {}: {opinion:?}", version.name()));
        }
        Ok(Answer {
            text: asked.example.text,
            label: expected.label,
            reason: expected.because.first().cloned(),
            sent,
            done: Instant::now(),
            version,
            hit: expected.label == asked.example.label,
            instance: opinion.instance,
            grpc,
            kills,
        })
    }
}

/// Status, body and headers with the trailers among them.
async fn whole(
    response: http::Response<Incoming>,
) -> Result<(StatusCode, Bytes, HeaderMap), Broken> {
    let (mut head, body) = response.into_parts();
    let cut = |error: hyper::Error| Broken::Cut(format!("in the answer: {error}"));
    let body = body.collect().await.map_err(cut)?;
    if let Some(trailers) = body.trailers() {
        head.headers.extend(trailers.clone());
    }
    Ok((head.status, body.to_bytes(), head.headers))
}

/// Whether the peer said that it did not process this stream: a GOAWAY that crossed the request on its way. Every gRPC
/// client sends such a call again on a new connection.
fn is_refused(error: &hyper::Error) -> bool {
    let source = std::error::Error::source(error);
    source
        .and_then(|source| source.downcast_ref::<h2::Error>())
        .is_some_and(|error| {
            error.is_remote() && error.is_go_away() && error.reason() == Some(h2::Reason::NO_ERROR)
        })
}

fn unanswered(unsent: bool, error: &hyper::Error) -> Broken {
    let why = match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    };
    if unsent || is_refused(error) {
        Broken::Unsent(why)
    } else {
        Broken::Cut(why)
    }
}

fn wrong(error: impl std::fmt::Display) -> Broken {
    Broken::Wrong(error.to_string())
}

fn excerpt(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(&body[..body.len().min(160)]);
    let text = text.trim();
    if text.is_empty() {
        String::new()
    } else {
        format!(": {text}")
    }
}

fn json(text: &str) -> Bytes {
    let question = Question {
        text: text.to_owned(),
    };
    serde_json::to_vec(&question).map_or_else(|_| Bytes::new(), Bytes::from)
}
