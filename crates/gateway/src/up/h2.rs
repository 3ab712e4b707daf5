//! One request on a stream of HTTP/2, and the connection that carries many.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Instant;

use ::h2::client::{Builder, ResponseFuture, SendRequest};
use ::h2::ext::Protocol;
use ::h2::{Reason, RecvStream, SendStream};
use bytes::Bytes;
use http::header::HOST;
use http::uri::Authority;
use http::{HeaderMap, Method, Request, StatusCode, Uri, Version};
use tidegate_wire::h1::BodyLength;
use tokio::io::{AsyncRead, AsyncWrite};

use super::conns::{EndpointConns, OpenConn};
use super::slots::Slot;
use super::{OutRequest, UpError, UpHead, UpResponse};
use crate::down::Part;
use crate::down::h2::send_within_window;
use crate::exchange::websocket;
use crate::io::pulse::{Keepalive, Link, Pulse};
use crate::io::window::{ENDPOINT, room};

const MAX_FRAME: u32 = 64 * 1024;
/// Bytes that one stream may have waiting for the socket.
const SEND_BUFFER: usize = 256 * 1024;
/// Bookkeeping that small frames may cost on one connection while their callers do not read them. The codec's own default would end
/// the connection, and with it everybody's streams, over one caller that does not read a stream of small events.
const SMALL_FRAMES: usize = 16 * 1024 * 1024;
/// Largest header list of an answer.
const HEADER_LIST: u32 = 256 * 1024;

/// A connection of HTTP/2, shared by the requests of this worker.
#[derive(Debug)]
pub(crate) struct H2Conn {
    send: RefCell<SendRequest<Bytes>>,
    pub(crate) active: Cell<usize>,
    /// No further streams: the peer said GOAWAY, the connection broke or is too old.
    pub(crate) closed: Cell<bool>,
    /// When it is to be replaced.
    pub(crate) old_at: Option<Instant>,
    pub(crate) idle_since: Cell<Instant>,
    pub(crate) streams: Cell<u64>,
    /// Streams that it must expect when as many requests are under way as may be, on as few connections.
    expected: usize,
    link: Rc<Link>,
}

impl H2Conn {
    /// Shakes hands and starts the task that drives the connection until its end.
    pub(crate) async fn open<I>(
        io: I,
        home: &Rc<EndpointConns>,
        slot: Slot,
        open: OpenConn,
        keepalive: Option<Keepalive>,
    ) -> Result<Rc<Self>, UpError>
    where
        I: AsyncRead + AsyncWrite + Unpin + 'static,
    {
        let (send, mut connection) = Builder::new()
            .initial_window_size(ENDPOINT.stream)
            .initial_connection_window_size(ENDPOINT.connection)
            .data_frame_budget(SMALL_FRAMES)
            .max_frame_size(MAX_FRAME)
            .max_send_buffer_size(SEND_BUFFER)
            .max_header_list_size(HEADER_LIST)
            .enable_push(false)
            .handshake::<I, Bytes>(io)
            .await
            .map_err(|_| UpError::Connect)?;
        let now = Instant::now();
        let pool = &home.upstream.config.connection_pool;
        let conn = Rc::new(Self {
            expected: pool.max_requests.div_ceil(pool.max_connections.max(1)) as usize,
            send: RefCell::new(send),
            active: Cell::new(0),
            closed: Cell::new(false),
            old_at: home.old_at(now),
            idle_since: Cell::new(now),
            streams: Cell::new(0),
            link: Rc::default(),
        });
        let mut pulse = connection
            .ping_pong()
            .map(|pings| Pulse::new(pings, conn.link.clone(), ENDPOINT, keepalive));
        let weak = Rc::downgrade(&conn);
        let home = Rc::downgrade(home);
        tokio::task::spawn_local(async move {
            poll_fn(|cx| {
                if Pin::new(&mut connection).poll(cx).is_ready() {
                    return Poll::Ready(());
                }
                match &mut pulse {
                    Some(pulse) => pulse.poll(&mut connection, cx),
                    None => Poll::Pending,
                }
            })
            .await;
            // Their streams end with it, and whoever waits for its settings.
            drop((connection, pulse));
            if let Some(conn) = weak.upgrade() {
                conn.closed.set(true);
            }
            if let Some(home) = home.upgrade() {
                home.forget_closed();
            }
            drop((slot, open));
        });
        Ok(conn)
    }

    /// Counts a stream more or less.
    fn set_active(&self, active: usize) {
        self.active.set(active);
        self.link.shared_by(active.max(self.expected));
    }

    /// Streams whose callers may all stop reading without holding up another.
    pub(crate) fn room(&self) -> usize {
        room(self.link.window())
    }

    /// Streams that the peer allows at once.
    pub(crate) fn peer_limit(&self) -> usize {
        self.send.borrow().current_max_send_streams()
    }
}

/// Whether no stream can be opened any more: the connection is over or has used up its numbers. The codec refuses single requests as
/// well, for their headers or because one waits already for the peer's limit, and those say nothing of the others.
fn takes_no_more(send: &mut SendRequest<Bytes>) -> bool {
    matches!(
        send.poll_ready(&mut Context::from_waker(Waker::noop())),
        Poll::Ready(Err(_))
    )
}

/// A reserved place on a connection, given back when dropped.
#[derive(Debug)]
pub(crate) struct Lease {
    conn: Rc<H2Conn>,
    home: Rc<EndpointConns>,
}

impl Lease {
    pub(crate) fn new(conn: Rc<H2Conn>, home: Rc<EndpointConns>) -> Self {
        conn.set_active(conn.active.get() + 1);
        conn.streams.set(conn.streams.get() + 1);
        Self { conn, home }
    }

    /// Ready once the peer has said what it can do.
    pub(crate) fn poll_settled(&self, cx: &Context<'_>) -> Poll<()> {
        self.conn.link.poll_settled(cx)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let active = self.conn.active.get() - 1;
        self.conn.set_active(active);
        if active == 0 {
            self.conn.idle_since.set(Instant::now());
        }
        self.home.stream_over();
    }
}

/// One request.
#[derive(Debug)]
pub(crate) struct H2Up {
    lease: Lease,
    response: ResponseFuture,
    send: SendStream<Bytes>,
    recv: Option<RecvStream>,
    waiting: Option<(Bytes, bool)>,
    sent: bool,
    data_over: bool,
    body_done: bool,
    /// An extended CONNECT: success opens a tunnel.
    connect: bool,
    /// The tunnel is open.
    tunnel: bool,
}

impl H2Up {
    /// Begins the stream.
    pub(crate) fn start(lease: Lease, request: &OutRequest) -> Result<Self, UpError> {
        let mut headers = request.headers.clone();
        // HTTP/2 names the host in `:authority`.
        let host = headers.remove(HOST);
        let authority = request
            .authority
            .clone()
            .or_else(|| Authority::try_from(host?.as_bytes()).ok());
        let uri = Uri::builder()
            .scheme(request.scheme.clone())
            .authority(authority.unwrap_or_else(|| Authority::from_static("localhost")))
            .path_and_query(request.path.clone());
        let mut head = Request::new(());
        *head.uri_mut() = uri.build().map_err(|_| UpError::Unsent)?;
        *head.method_mut() = request.method.clone();
        *head.version_mut() = Version::HTTP_2;
        let connect = websocket::opens(request);
        if request.upgrade {
            // An offer of another protocol that HTTP/2 has no form for goes unheard (RFC 9110 §7.8).
            websocket::strip(&mut headers);
        }
        if connect {
            if !lease
                .conn
                .send
                .borrow()
                .is_extended_connect_protocol_enabled()
            {
                return Err(match lease.conn.closed.get() {
                    true => UpError::Unsent,
                    false => UpError::NoTunnel,
                });
            }
            *head.method_mut() = Method::CONNECT;
            let protocol = Protocol::from_static("websocket");
            head.extensions_mut().insert(protocol);
        }
        *head.headers_mut() = headers;
        let end = request.body == BodyLength::None && !connect;
        let sent = lease.conn.send.borrow_mut().send_request(head, end);
        let (response, send) = match sent {
            Ok(pair) => pair,
            Err(_) => {
                // Nothing was written.
                if takes_no_more(&mut lease.conn.send.borrow_mut()) {
                    lease.conn.closed.set(true);
                }
                return Err(UpError::Unsent);
            }
        };
        Ok(Self {
            lease,
            response,
            send,
            recv: None,
            waiting: None,
            sent: end,
            data_over: false,
            body_done: false,
            connect,
            tunnel: false,
        })
    }

    fn classify(&self, e: &::h2::Error) -> UpError {
        if e.is_go_away() && e.is_remote() {
            self.lease.conn.closed.set(true);
            return UpError::Refused;
        }
        match e.reason() {
            Some(Reason::REFUSED_STREAM) if e.is_remote() => UpError::Refused,
            Some(Reason::PROTOCOL_ERROR) if !e.is_remote() => UpError::Malformed,
            _ => UpError::Reset,
        }
    }

    pub(crate) fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), UpError>> {
        while let Some((data, end)) = self.waiting.take() {
            match send_within_window(&mut self.send, data, end) {
                Ok(None) => {}
                Ok(Some(rest)) => {
                    self.waiting = Some((rest, end));
                    match ready!(self.send.poll_capacity(cx)) {
                        Some(Ok(_)) => {}
                        Some(Err(_)) | None => {
                            // The endpoint wants no more of it; its answer or reset comes at `poll_head` and `poll_part`.
                            self.waiting = None;
                            self.sent = true;
                        }
                    }
                }
                Err(()) => self.sent = true,
            }
        }
        Poll::Ready(Ok(()))
    }

    pub(crate) fn data(&mut self, data: Bytes, end: bool) -> Result<(), UpError> {
        // The request has no body; its end is not the tunnel's.
        let closed = self.connect && !self.tunnel;
        if self.sent || closed {
            return Ok(());
        }
        match send_within_window(&mut self.send, data, end) {
            Ok(None) => self.sent = end,
            Ok(Some(rest)) => {
                self.waiting = Some((rest, end));
                self.sent = end;
            }
            Err(()) => self.sent = true,
        }
        Ok(())
    }

    pub(crate) fn trailers(&mut self, trailers: HeaderMap) -> Result<(), UpError> {
        // Refused only when the stream is over already, which is seen when its answer is polled.
        let _ = self.send.send_trailers(trailers);
        self.sent = true;
        Ok(())
    }

    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), UpError>> {
        self.poll_room(cx)
    }

    pub(crate) fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<UpHead, UpError>> {
        if let Poll::Ready(Some(Ok(interim))) = self.response.poll_informational(cx) {
            let (parts, ()) = interim.into_parts();
            return Poll::Ready(Ok(UpHead::Interim(parts.status, parts.headers)));
        }
        match ready!(Pin::new(&mut self.response).poll(cx)) {
            Ok(response) => {
                let (mut parts, recv) = response.into_parts();
                if self.connect && parts.status.is_success() {
                    // As HTTP/1.1 says it; a length has no meaning here.
                    parts.status = StatusCode::SWITCHING_PROTOCOLS;
                    parts.headers.remove(http::header::CONTENT_LENGTH);
                }
                let body = if recv.is_end_stream() {
                    BodyLength::None
                } else {
                    let length = parts
                        .headers
                        .get(http::header::CONTENT_LENGTH)
                        .and_then(|v| v.to_str().ok());
                    length
                        .and_then(|v| v.parse().ok())
                        .map_or(BodyLength::Chunked, BodyLength::Exact)
                };
                self.body_done = recv.is_end_stream();
                self.recv = Some(recv);
                Poll::Ready(Ok(UpHead::Final(UpResponse {
                    status: parts.status,
                    headers: parts.headers,
                    body,
                    reason: None,
                })))
            }
            Err(e) => Poll::Ready(Err(self.classify(&e))),
        }
    }

    pub(crate) fn poll_part(&mut self, cx: &mut Context<'_>) -> Poll<Result<Part, UpError>> {
        let Some(recv) = &mut self.recv else {
            return Poll::Ready(Err(UpError::Reset));
        };
        if !self.data_over {
            match ready!(recv.poll_data(cx)) {
                Some(Ok(data)) => {
                    let _ = recv.flow_control().release_capacity(data.len());
                    self.lease.conn.link.received(data.len());
                    self.body_done = recv.is_end_stream();
                    return Poll::Ready(Ok(Part::Data(data)));
                }
                // An endpoint may end its answer and wave the rest of the request away (RFC 9113 §8.1): that is an end here, not an
                // error. A reset before the end cuts the answer, whatever reason it gives.
                Some(Err(e)) => return Poll::Ready(Err(self.classify(&e))),
                None => self.data_over = true,
            }
        }
        let part = match ready!(recv.poll_trailers(cx)) {
            Ok(Some(trailers)) => Part::Trailers(trailers),
            Ok(None) => Part::End,
            Err(e) => return Poll::Ready(Err(self.classify(&e))),
        };
        self.body_done = true;
        Poll::Ready(Ok(part))
    }

    pub(crate) fn body_done(&self) -> bool {
        self.body_done
    }

    pub(crate) fn finish(mut self) {
        if !self.sent {
            self.send.send_reset(Reason::NO_ERROR);
        }
    }

    pub(crate) fn tunnel(&mut self) {
        self.tunnel = true;
    }

    /// In a tunnel: nothing more will be sent.
    pub(crate) fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let _ = ready!(self.poll_room(cx));
        if !self.sent {
            self.sent = true;
            // Refused only when the stream is over: the peer knows.
            let _ = self.send.send_data(Bytes::new(), true);
        }
        Poll::Ready(())
    }

    pub(crate) fn cancel(mut self) {
        self.send.send_reset(Reason::CANCEL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(connection: Option<&'static str>) -> Request<()> {
        let mut request = Request::get("http://h/").version(Version::HTTP_2);
        if let Some(value) = connection {
            request = request.header(http::header::CONNECTION, value);
        }
        request.body(()).expect("a request")
    }

    #[tokio::test]
    async fn a_refused_request_leaves_the_connection_open_to_others() {
        let (near, far) = tokio::io::duplex(64 * 1024);
        let server = tokio::spawn(async move {
            let mut server = ::h2::server::Builder::new()
                .max_concurrent_streams(1)
                .handshake::<_, Bytes>(far)
                .await
                .expect("a server");
            let mut held = Vec::new();
            while let Some(Ok(stream)) = server.accept().await {
                held.push(stream);
            }
        });
        let (mut send, connection) = ::h2::client::handshake(near).await.expect("a client");
        let driver = tokio::spawn(connection);
        // What no header of HTTP/2 may be.
        assert!(send.send_request(request(Some("close")), true).is_err());
        assert!(!takes_no_more(&mut send));
        let _first = send.send_request(request(None), true).expect("open");
        while send.current_max_send_streams() != 1 {
            tokio::task::yield_now().await;
        }
        // One waits for the peer's limit, so a third is refused.
        let _second = send.send_request(request(None), true).expect("open");
        assert!(send.send_request(request(None), true).is_err());
        assert!(!takes_no_more(&mut send));
        server.abort();
        let _ = driver.await;
        assert!(takes_no_more(&mut send));
    }
}
