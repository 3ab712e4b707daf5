//! The callers: steady traffic over kept connections, each answer compared with what the model must say.
//!
//! They are ordinary clients. A request that could not be sent because its kept connection had been closed goes over a
//! new one, as every HTTP library does. A connection that is cut under a request is a failure, with one exception that
//! is counted apart: the demo kills the gateway's process, and with it the connections that it held. What was in
//! flight there is sent again once (the method may be repeated), on a connection that the supervisor's socket keeps
//! waiting until the next gateway accepts it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Version as Protocol, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use super::ask::{Ask, Asks, Kind, Reply, Said};
use super::traffic::{Answer, Traffic};

/// Callers by what they ask. Those that speak gRPC share one connection, as one long-lived client would; each of the
/// others has its own.
const CALLERS: [(Kind, usize); 4] = [
    (Kind::Json, 12),
    (Kind::Grpc, 4),
    (Kind::Chat, 3),
    (Kind::Hosted, 3),
];
/// What callers take the gateway for.
const HOST: &str = "sentiment.demo";
/// After this a request counts as failed.
const PATIENCE: Duration = Duration::from_secs(20);
/// Closed connections that one request may meet before it is sent.
const MOST_UNSENT: u32 = 5;

/// What all callers share.
#[derive(Debug)]
pub(crate) struct Callers {
    port: u16,
    rate: u32,
    hosted: bool,
    traffic: Arc<Traffic>,
    asks: Asks,
    /// Grows when a gateway process is killed on purpose: connections that are older may be cut.
    kills: AtomicU64,
    /// Connections opened so far: their ids.
    opened: AtomicU64,
    stop: AtomicBool,
}

/// Why an exchange did not end with an answer.
#[derive(Debug)]
enum Broken {
    /// Nothing was sent.
    Unsent(String),
    /// It was sent, and the connection ended.
    Cut(String),
    /// It can't be sent at all.
    Wrong(String),
}

/// One kind of connection.
enum Connection {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
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
            Connection::Http1(_) => None,
            Connection::Http2(sender) => Some(Open {
                id: self.id,
                kills: self.kills,
                connection: Connection::Http2(sender.clone()),
            }),
        }
    }
}

/// The connection that one caller, or several gRPC callers together, keep between requests.
type Kept = Arc<tokio::sync::Mutex<Option<Open>>>;

/// How many callers there are, with or without the hosted model.
pub(crate) fn count(hosted: bool) -> usize {
    callers(hosted).count()
}

fn callers(hosted: bool) -> impl Iterator<Item = Kind> {
    CALLERS
        .into_iter()
        .filter(move |(kind, _)| hosted || *kind != Kind::Hosted)
        .flat_map(|(kind, count)| std::iter::repeat_n(kind, count))
}

impl Callers {
    /// Callers of the gateway at this port, `rate` requests a second together.
    pub(crate) fn new(
        port: u16,
        rate: u32,
        hosted: bool,
        asks: Asks,
        traffic: Arc<Traffic>,
    ) -> Self {
        Self {
            port,
            rate,
            hosted,
            traffic,
            asks,
            kills: AtomicU64::new(0),
            opened: AtomicU64::new(0),
            stop: AtomicBool::new(false),
        }
    }

    /// Sends until [`Callers::stop`]; every request that was begun is finished.
    pub(crate) async fn run(self: Arc<Self>) {
        let mut tasks = JoinSet::new();
        let shared = Kept::default();
        for (caller, kind) in callers(self.hosted).enumerate() {
            let connection = match kind {
                Kind::Grpc => Arc::clone(&shared),
                _ => Kept::default(),
            };
            tasks.spawn(Arc::clone(&self).call(caller, connection, kind));
        }
        while tasks.join_next().await.is_some() {}
    }

    /// Begins no more requests.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// To be called right before a gateway process is killed; how many that makes.
    pub(crate) fn gateway_dies(&self) -> u64 {
        self.kills.fetch_add(1, Ordering::SeqCst) + 1
    }

    async fn call(self: Arc<Self>, caller: usize, connection: Kept, kind: Kind) {
        let callers = count(self.hosted) as u32;
        let pace = Duration::from_secs(1) * callers / self.rate.max(1);
        // Spread over the first pace: all requests at the same moment are no steady traffic.
        let first = tokio::time::Instant::now() + pace * caller as u32 / callers;
        let mut ticks = tokio::time::interval_at(first, pace);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            ticks.tick().await;
            if self.stop.load(Ordering::Relaxed) {
                return;
            }
            let request = self.request(&connection, self.asks.next(kind));
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

    async fn request(&self, kept: &Kept, ask: Ask<'_>) -> Result<Answer, String> {
        let sent = Instant::now();
        let mut unsent = 0;
        loop {
            let open = self.take(kept, ask.is_grpc()).await?;
            let kills = open.kills;
            match self.attempt(kept, open, ask).await {
                Ok(reply) => {
                    let Said { what, instance } = ask.judge(&reply)?;
                    return Ok(Answer {
                        what,
                        instance,
                        sent,
                        done: Instant::now(),
                        kills,
                    });
                }
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
    async fn attempt(&self, kept: &Kept, mut open: Open, ask: Ask<'_>) -> Result<Reply, Broken> {
        let result = match &mut open.connection {
            Connection::Http1(sender) => {
                let result = exchange_json(sender, ask).await;
                if result.is_ok() && sender.ready().await.is_ok() {
                    *kept.lock().await = Some(open);
                }
                return result;
            }
            Connection::Http2(sender) => exchange_grpc(sender, ask).await,
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
            Ok(Connection::Http2(sender))
        } else {
            let (sender, connection) = http1::handshake(io)
                .await
                .map_err(|error| format!("no HTTP/1.1: {error}"))?;
            tokio::spawn(connection);
            Ok(Connection::Http1(sender))
        }
    }
}

async fn exchange_json(
    sender: &mut http1::SendRequest<Full<Bytes>>,
    ask: Ask<'_>,
) -> Result<Reply, Broken> {
    let request = Request::post(ask.path())
        .header(header::HOST, HOST)
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::new(ask.body()))
        .map_err(wrong)?;
    match sender.try_send_request(request).await {
        Ok(response) => whole(response).await,
        Err(mut error) => Err(unanswered(error.take_message().is_some(), error.error())),
    }
}

async fn exchange_grpc(
    sender: &mut http2::SendRequest<Full<Bytes>>,
    ask: Ask<'_>,
) -> Result<Reply, Broken> {
    if let Err(error) = sender.ready().await {
        return Err(unanswered(true, &error));
    }
    let request = Request::post(format!("http://{HOST}{}", ask.path()))
        .version(Protocol::HTTP_2)
        .header(header::CONTENT_TYPE, "application/grpc")
        .header(header::TE, "trailers")
        .body(Full::new(ask.body()))
        .map_err(wrong)?;
    match sender.try_send_request(request).await {
        Ok(response) => whole(response).await,
        Err(mut error) => Err(unanswered(error.take_message().is_some(), error.error())),
    }
}

async fn whole(response: http::Response<Incoming>) -> Result<Reply, Broken> {
    let (mut head, body) = response.into_parts();
    let cut = |error: hyper::Error| Broken::Cut(format!("in the answer: {error}"));
    let body = body.collect().await.map_err(cut)?;
    if let Some(trailers) = body.trailers() {
        head.headers.extend(trailers.clone());
    }
    Ok(Reply {
        status: head.status,
        headers: head.headers,
        body: body.to_bytes(),
    })
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
