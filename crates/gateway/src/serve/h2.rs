//! A caller's connection of HTTP/2: each stream is an exchange of its own.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::time::{Duration, Instant};

use ::h2::server::{Builder, Connection, SendResponse};
use ::h2::{Reason, RecvStream};
use bytes::Bytes;
use http::header::{CONTENT_LENGTH, HOST};
use http::{Method, Request, StatusCode};
use tidegate_wire::grpc::GrpcStatus;
use tidegate_wire::h1::{self, BodyLength};
use tokio::io::{AsyncRead, AsyncWrite};

use super::old_at;
use crate::clock;
use crate::down::Down;
use crate::down::h2::H2Stream;
use crate::exchange::reply::{self, Problem};
use crate::exchange::websocket::{self, Asked};
use crate::exchange::{Caller, Incoming, handle};
use crate::io::late;
use crate::io::pulse::{Link, Pulse};
use crate::io::window::CALLER;
use crate::watch::Watch;
use crate::worker::Worker;

const MAX_FRAME: u32 = 64 * 1024;
/// Bytes of one stream waiting for the socket.
const SEND_BUFFER: usize = 256 * 1024;
/// Bookkeeping that small frames may cost on one connection while nothing takes them.
const SMALL_FRAMES: usize = 2 * 1024 * 1024;
/// How long streams may take to end after the connection was told to, beyond the drain's own bound.
const LAST_GASP: Duration = Duration::from_secs(5);

/// What the streams tell their connection.
#[derive(Debug)]
struct Streams {
    active: Cell<usize>,
    last: Cell<Instant>,
    link: Rc<Link>,
}

struct Active(Rc<Streams>);

impl Drop for Active {
    fn drop(&mut self) {
        self.0.active.set(self.0.active.get() - 1);
        self.0.last.set(Instant::now());
    }
}

/// Serves the connection to its end.
pub(super) async fn serve<I, G>(worker: Rc<Worker>, caller: Rc<Caller>, io: I, guards: G)
where
    I: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let limits = &caller.listener.config.limits;
    let handshake = Builder::new()
        .initial_window_size(CALLER.stream)
        .initial_connection_window_size(CALLER.connection)
        .data_frame_budget(SMALL_FRAMES)
        .enable_connect_protocol()
        .max_frame_size(MAX_FRAME)
        .max_send_buffer_size(SEND_BUFFER)
        .max_concurrent_streams(limits.streams)
        .max_header_list_size(u32::try_from(limits.header_bytes.bytes()).unwrap_or(u32::MAX))
        .handshake::<I, Bytes>(io);
    let Ok(Ok(mut conn)) = tokio::time::timeout(limits.header_timeout, handshake).await else {
        return;
    };
    let streams = Rc::new(Streams {
        active: Cell::new(0),
        last: Cell::new(Instant::now()),
        link: Rc::default(),
    });
    let mut pulse = conn
        .ping_pong()
        .map(|pings| Pulse::new(pings, streams.link.clone(), CALLER, None));
    let watch = Watch::new(&worker.watches);
    let born = Instant::now();
    let mut life = Life {
        leaving: None,
        old_at: old_at(&caller.listener, born),
        idle: limits.idle_timeout,
        requests: 0,
    };
    let max_requests = caller.listener.config.max_requests_per_connection;
    loop {
        let accepted = poll_fn(|cx| {
            life.look(&worker, &watch, &streams, &mut conn);
            if watch.poll_over(cx).is_ready() {
                // The deadline that was over has been acted upon; the next is set.
                life.look(&worker, &watch, &streams, &mut conn);
                let _ = watch.poll_over(cx);
            }
            let accepted = conn.poll_accept(cx);
            // Without keepalive no peer is ever given up.
            if accepted.is_pending()
                && let Some(pulse) = &mut pulse
            {
                let _ = pulse.poll(&mut conn, cx);
            }
            accepted
        })
        .await;
        let Some(Ok((request, respond))) = accepted else {
            break;
        };
        life.requests += 1;
        if max_requests > 0 && life.requests >= max_requests && life.leaving.is_none() {
            life.leave(&mut conn);
        }
        streams.active.set(streams.active.get() + 1);
        let active = Active(streams.clone());
        // Boxed: the runtime moves what it is given several times.
        tokio::task::spawn_local(Box::pin(stream(
            worker.clone(),
            caller.clone(),
            request,
            respond,
            active,
        )));
    }
    // Nothing more is accepted; what was accepted is still written.
    let _ = poll_fn(|cx| conn.poll_closed(cx)).await;
    drop(guards);
}

/// How much longer a connection is to live.
struct Life {
    /// Set when the peer was told that no further stream is taken.
    leaving: Option<Instant>,
    old_at: Option<Instant>,
    idle: Option<Duration>,
    requests: u64,
}

impl Life {
    /// Tells the peer to go when it is time, and sets the watch to when to look again.
    fn look<I>(
        &mut self,
        worker: &Worker,
        watch: &Watch,
        streams: &Streams,
        conn: &mut Connection<I, Bytes>,
    ) where
        I: AsyncRead + AsyncWrite + Unpin,
    {
        let now = Instant::now();
        if let Some(since) = self.leaving {
            // A peer that neither ends its streams nor the connection is cut in the end.
            if streams.active.get() == 0 && now.duration_since(since) > LAST_GASP {
                conn.abrupt_shutdown(Reason::NO_ERROR);
            }
            watch.set(Some(now + LAST_GASP));
            return;
        }
        let old = self.old_at.is_some_and(|at| now >= at);
        let idle_at = self.idle.map(|t| streams.last.get() + t);
        let idle = streams.active.get() == 0 && idle_at.is_some_and(|at| now >= at);
        if worker.shared.is_draining() || old || idle {
            self.leave(conn);
            watch.set(Some(now + LAST_GASP));
            return;
        }
        let next_look = match (
            idle_at.map(|at| at.max(now + Duration::from_secs(1))),
            self.old_at,
        ) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        watch.set(next_look);
    }

    fn leave<I>(&mut self, conn: &mut Connection<I, Bytes>)
    where
        I: AsyncRead + AsyncWrite + Unpin,
    {
        conn.graceful_shutdown();
        self.leaving = Some(Instant::now());
    }
}

/// One exchange.
///
/// Not an `async fn`: that keeps its arguments twice.
fn stream(
    worker: Rc<Worker>,
    caller: Rc<Caller>,
    request: Request<RecvStream>,
    respond: SendResponse<Bytes>,
    active: Active,
) -> impl Future<Output = ()> {
    let (mut parts, recv) = request.into_parts();
    let asked = websocket::asked(&parts);
    // What follows an extended CONNECT is no body.
    let body = if recv.is_end_stream() || asked != Asked::Nothing {
        BodyLength::None
    } else {
        match parts
            .headers
            .get(CONTENT_LENGTH)
            .and_then(|v| v.to_str().ok())
            .and_then(|v| v.parse().ok())
        {
            Some(length) => BodyLength::Exact(length),
            None => BodyLength::Chunked,
        }
    };
    let mut side = H2Stream::new(recv, respond, active.0.link.clone());
    let refused = refusal(&parts, caller.listener.limits.headers).map(Box::new);
    if asked == Asked::WebSocket {
        let nonce = u128::from(worker.random()) << 64 | u128::from(worker.random());
        websocket::from_connect(&mut parts, nonce);
    }
    let mut incoming = Incoming {
        method: parts.method,
        target: parts.uri,
        version: parts.version,
        headers: parts.headers,
        body,
        upgrade: asked == Asked::WebSocket,
    };
    async move {
        let _active = active;
        let mut down = Down::H2(&mut side);
        if let Some(problem) = refused {
            let is_grpc = tidegate_wire::grpc::is_grpc(&incoming.headers);
            let is_head = incoming.method == Method::HEAD;
            let told = reply::problem(&mut down, &problem, is_grpc, is_head);
            let _ = Box::pin(told).await;
            side.stop_request();
            return;
        }
        let watch = Watch::new(&worker.watches);
        {
            let mut exchange = pin!(handle(&worker, &caller, &mut incoming, &mut down, &watch));
            poll_fn(|cx| {
                // Its endpoint may speak HTTP/1.1.
                late::count_poll();
                clock::stand_still(|| exchange.as_mut().poll(cx))
            })
            .await;
        }
        side.stop_request();
    }
}

/// What the codec lets through and we do not.
fn refusal(parts: &http::request::Parts, max_headers: usize) -> Option<Problem> {
    if websocket::asked(parts) == Asked::Other {
        return Some(Problem::new(
            StatusCode::NOT_IMPLEMENTED,
            GrpcStatus::Unimplemented,
            "unknown-protocol",
            "of the protocols for an extended CONNECT only websocket is known",
        ));
    }
    if parts.headers.len() > max_headers {
        return Some(Problem::new(
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            GrpcStatus::ResourceExhausted,
            "too-many-headers",
            "the request has more header fields than the listener allows",
        ));
    }
    if parts.uri.path() == "*" && parts.method != Method::OPTIONS {
        return Some(Problem::bad_request(
            "bad-target",
            "only OPTIONS may ask for *",
        ));
    }
    // RFC 9113 §8.3.1: what names the authority must be one host, whichever field holds it. Another in `host` is a way
    // past routing, and none at all would go on as an HTTP/1.1 request without one.
    let mut hosts = parts.headers.get_all(HOST).iter();
    let host = hosts.next().map(http::HeaderValue::as_bytes);
    if hosts.next().is_some() {
        return Some(Problem::bad_request(
            "bad-host",
            "host is given more than once",
        ));
    }
    let authority = parts.uri.authority().map(|a| a.as_str().as_bytes());
    match (authority, host) {
        (Some(authority), Some(host)) if !host.eq_ignore_ascii_case(authority) => Some(
            Problem::bad_request("bad-host", "host and :authority differ"),
        ),
        (Some(name), _) | (None, Some(name)) if h1::is_valid_host(name) => None,
        _ => Some(Problem::bad_request(
            "bad-host",
            "the authority is missing or malformed",
        )),
    }
}
