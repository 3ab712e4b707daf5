//! One request on a connection of HTTP/1.1.

use std::io;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use http::{HeaderMap, Method, StatusCode};
use tidegate_route::retry::is_idempotent;
use tidegate_wire::h1::{
    self, BodyDecoder, BodyLength, ConnectionIntent, Decoded, HeadReader, Limits,
};

use super::conns::EndpointConns;
use super::slots::Slot;
use super::{OutRequest, UpError, UpHead, UpResponse};
use crate::down::Part;
use crate::io::buffer::{ReadBuf, WriteBuf};
use crate::io::{Transport, spare};

/// Bounds of an answer's head.
pub(crate) const RESPONSE_LIMITS: Limits = Limits {
    head_bytes: 256 * 1024,
    headers: 256,
};

/// A connection to an endpoint, idle or leased.
#[derive(Debug)]
pub(crate) struct H1Conn {
    pub(crate) io: Transport,
    pub(crate) read: ReadBuf,
    pub(crate) write: WriteBuf,
    pub(crate) idle_since: Instant,
    /// When it is to be replaced.
    pub(crate) old_at: Option<Instant>,
    /// Requests begun on it.
    pub(crate) requests: u32,
    pub(crate) _slot: Slot,
    pub(crate) _open: super::conns::OpenConn,
}

impl H1Conn {
    /// False when the peer has closed it, or sent something that nobody asked for.
    pub(crate) fn is_quiet(&mut self) -> bool {
        if !self.read.bytes.is_empty() {
            return false;
        }
        // Costs no system call unless the reactor has seen the socket become readable.
        let mut cx = Context::from_waker(std::task::Waker::noop());
        if self.io.is_plain() && self.io.poll_read_ready(&mut cx).is_pending() {
            return true;
        }
        let mut probe = [0; 1];
        let mut probe = tokio::io::ReadBuf::new(&mut probe);
        let io = std::pin::Pin::new(&mut self.io);
        tokio::io::AsyncRead::poll_read(io, &mut cx, &mut probe).is_pending()
    }
}

/// A leased connection and the request on it.
#[derive(Debug)]
pub(crate) struct H1Up {
    conn: Box<H1Conn>,
    home: Rc<EndpointConns>,
    method: Method,
    /// It may be sent twice.
    replay: bool,
    decoder: BodyDecoder,
    reader: HeadReader,
    chunked: bool,
    sent: bool,
    body_done: bool,
    reusable: bool,
    tunnel: bool,
}

impl H1Up {
    /// Writes the head (into the buffer; the socket gets it with the first flush).
    pub(crate) fn start(
        mut conn: Box<H1Conn>,
        home: Rc<EndpointConns>,
        request: &OutRequest,
    ) -> Self {
        conn.write.start();
        conn.requests += 1;
        let authority = request.authority.as_ref().map(|a| a.as_str().as_bytes());
        let host = authority.or_else(|| request.headers.get(HOST).map(|h| h.as_bytes()));
        h1::encode_request_head(
            conn.write.tail(),
            &request.method,
            request.path.as_str(),
            host,
            &request.headers,
            request.body,
            ConnectionIntent {
                keep_alive: true,
                upgrade: request.upgrade,
            },
        );
        Self {
            conn,
            home,
            replay: request.replay || is_idempotent(&request.method),
            method: request.method.clone(),
            decoder: BodyDecoder::new(BodyLength::None),
            reader: HeadReader::new(),
            chunked: request.body == BodyLength::Chunked,
            sent: request.body == BodyLength::None,
            body_done: false,
            reusable: true,
            tunnel: false,
        }
    }

    /// Why there is no answer. A kept connection that ends without a byte of one was closed by the peer while the request was on
    /// its way to it, as far as anybody can tell; a request that may be sent twice is then sent again as if it had not been written
    /// (RFC 9112 §9.3.1). A peer that does so on purpose is found out on the next connection, which is a fresh one.
    fn lost(&self) -> UpError {
        let stale = self.conn.requests > 1 && self.conn.read.bytes.is_empty() && self.replay;
        if self.conn.write.wrote() && !stale {
            UpError::Reset
        } else {
            UpError::Unsent
        }
    }

    pub(crate) fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), UpError>> {
        if !self.conn.write.is_full() {
            return Poll::Ready(Ok(()));
        }
        self.poll_flush(cx)
    }

    pub(crate) fn data(&mut self, data: Bytes, end: bool) -> Result<(), UpError> {
        let write = &mut self.conn.write;
        if self.chunked && !self.tunnel {
            if !data.is_empty() {
                h1::encode_chunk_head(write.tail(), data.len());
                write.push(data);
                write.tail().extend_from_slice(h1::CHUNK_END);
            }
            if end {
                h1::encode_last_chunk(write.tail(), None);
            }
        } else {
            write.push(data);
        }
        self.sent |= end;
        Ok(())
    }

    pub(crate) fn trailers(&mut self, trailers: HeaderMap) -> Result<(), UpError> {
        if self.chunked {
            h1::encode_last_chunk(self.conn.write.tail(), Some(&trailers));
        }
        self.sent = true;
        Ok(())
    }

    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), UpError>> {
        let conn = &mut *self.conn;
        let flushed = ready!(conn.write.poll_flush(&mut conn.io, cx));
        Poll::Ready(self.flushed(flushed))
    }

    pub(crate) fn poll_flush_late(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), UpError>> {
        let conn = &mut *self.conn;
        let flushed = ready!(conn.write.poll_flush_late(&mut conn.io, cx));
        Poll::Ready(self.flushed(flushed))
    }

    pub(crate) fn is_put_off(&self) -> bool {
        self.conn.write.is_put_off()
    }

    fn flushed(&mut self, flushed: io::Result<()>) -> Result<(), UpError> {
        let write = &mut self.conn.write;
        match flushed {
            Ok(()) => Ok(()),
            // The endpoint may have answered before it stopped reading: the answer is read first.
            Err(e) if write.wrote() && is_closed_by_peer(&e) => {
                *write = WriteBuf::default();
                write.mark_wrote();
                self.reusable = false;
                self.sent = true;
                Ok(())
            }
            Err(_) => Err(self.lost()),
        }
    }

    pub(crate) fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<UpHead, UpError>> {
        loop {
            let conn = &mut *self.conn;
            if !conn.read.bytes.is_empty() {
                let mut scratch = spare::take_map();
                match self.reader.response(
                    &mut conn.read.bytes,
                    &self.method,
                    &RESPONSE_LIMITS,
                    &mut scratch,
                ) {
                    Ok(Some(head)) => {
                        self.reader = HeadReader::new();
                        if head.status.is_informational()
                            && head.status != StatusCode::SWITCHING_PROTOCOLS
                        {
                            return Poll::Ready(Ok(UpHead::Interim(head.status, head.headers)));
                        }
                        self.decoder = BodyDecoder::new(head.body);
                        self.body_done = head.body.is_empty();
                        // A server that names a body where none belongs (to HEAD, with 204 and 304) may send it all the same, when it
                        // likes: no time without a byte proves that it will not be taken for the next answer.
                        let doubtful = head.body.is_empty() && names_a_body(&head.headers);
                        self.reusable &=
                            head.keep_alive && head.body != BodyLength::UntilClose && !doubtful;
                        return Poll::Ready(Ok(UpHead::Final(UpResponse {
                            status: head.status,
                            headers: head.headers,
                            body: head.body,
                            reason: head.reason.map(Box::new),
                        })));
                    }
                    Ok(None) => {}
                    Err(_) => {
                        self.reusable = false;
                        return Poll::Ready(Err(UpError::Malformed));
                    }
                }
            }
            match ready!(conn.read.poll_fill(&mut conn.io, cx)) {
                Ok(0) | Err(_) => {
                    self.reusable = false;
                    return Poll::Ready(Err(self.lost()));
                }
                Ok(_) => {}
            }
        }
    }

    pub(crate) fn poll_part(&mut self, cx: &mut Context<'_>) -> Poll<Result<Part, UpError>> {
        loop {
            let conn = &mut *self.conn;
            if self.tunnel {
                if !conn.read.bytes.is_empty() {
                    return Poll::Ready(Ok(Part::Data(conn.read.bytes.split().freeze())));
                }
            } else {
                match self.decoder.decode(&mut conn.read.bytes) {
                    Ok(Decoded::Data(data)) => {
                        self.body_done = self.decoder.is_done();
                        return Poll::Ready(Ok(Part::Data(data)));
                    }
                    Ok(Decoded::Trailers(trailers)) => {
                        self.body_done = true;
                        return Poll::Ready(Ok(Part::Trailers(trailers)));
                    }
                    Ok(Decoded::End) => {
                        self.body_done = true;
                        return Poll::Ready(Ok(Part::End));
                    }
                    Ok(Decoded::NeedMore) => {}
                    Err(_) => {
                        self.reusable = false;
                        return Poll::Ready(Err(UpError::Malformed));
                    }
                }
            }
            match ready!(conn.read.poll_fill(&mut conn.io, cx)) {
                Ok(0) if self.tunnel || self.decoder.eof().is_ok() => {
                    self.body_done = true;
                    return Poll::Ready(Ok(Part::End));
                }
                Ok(0) | Err(_) => {
                    self.reusable = false;
                    return Poll::Ready(Err(UpError::Reset));
                }
                Ok(_) => {}
            }
        }
    }

    pub(crate) fn body_done(&self) -> bool {
        self.body_done
    }

    /// Gives the connection back if another request may follow on it.
    pub(crate) fn finish(self) {
        let Self {
            mut conn,
            home,
            sent,
            body_done,
            reusable,
            tunnel,
            ..
        } = self;
        if reusable
            && sent
            && body_done
            && !tunnel
            && conn.write.is_empty()
            && conn.read.bytes.is_empty()
        {
            conn.read.release();
            conn.write.release();
            home.put_h1(conn);
        }
    }

    /// In a tunnel: tells the peer that nothing more will come. An error means that it knows.
    pub(crate) fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        tokio::io::AsyncWrite::poll_shutdown(std::pin::Pin::new(&mut self.conn.io), cx).map(|_| ())
    }

    pub(crate) fn tunnel(&mut self) {
        self.tunnel = true;
        self.body_done = false;
        self.chunked = false;
    }
}

fn names_a_body(headers: &HeaderMap) -> bool {
    headers.contains_key(TRANSFER_ENCODING)
        || headers
            .get(CONTENT_LENGTH)
            .is_some_and(|length| length != "0")
}

fn is_closed_by_peer(e: &io::Error) -> bool {
    matches!(
        e.kind(),
        io::ErrorKind::BrokenPipe
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
    )
}
