//! The caller's side over HTTP/1.1.
//!
//! One task owns the connection and runs one exchange after the other on it; between exchanges it is parked: a socket and a few
//! words, no buffer.

use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use tidegate_wire::h1::{
    self, BodyDecoder, BodyLength, Decoded, RequestHead, ResponseExtras, Version,
};

use super::{DownError, Part};
use crate::io::buffer::{ReadBuf, WriteBuf};
use crate::io::{Transport, late, spare};
use crate::worker::Shared;

/// Bytes of a following request read while an answer is under way; more is left in the socket.
const READ_AHEAD: usize = 16 * 1024;

/// So much of an answer may be left to the connection when its exchange ends: the socket takes it, unless the caller reads nothing.
const LATE: usize = 16 * 1024;

/// What frames the answer's body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Framing {
    /// Length known or no body: bytes go out as they are.
    Plain,
    Chunked,
    /// The close of the connection ends it.
    Close,
}

/// A connection and the exchange that runs on it.
#[derive(Debug)]
pub(crate) struct H1Exchange {
    pub(crate) io: Transport,
    pub(crate) read: ReadBuf,
    pub(crate) write: WriteBuf,
    decoder: BodyDecoder,
    framing: Framing,
    version: Version,
    head_request: bool,
    /// Another request may follow on this connection.
    keep_alive: bool,
    /// Set by the listener when it drains: this answer says `connection: close`.
    pub(crate) closing: bool,
    remaining: Option<u64>,
    body_done: bool,
    gone: bool,
    tunnel: bool,
    answered: bool,
    /// What the next head says behind its status, where that is not the usual.
    reason: Option<Box<Bytes>>,
    shared: Arc<Shared>,
}

impl H1Exchange {
    pub(crate) fn new(io: Transport, shared: Arc<Shared>) -> Self {
        Self {
            io,
            read: ReadBuf::default(),
            write: WriteBuf::default(),
            decoder: BodyDecoder::new(BodyLength::None),
            framing: Framing::Plain,
            version: Version::Http11,
            head_request: false,
            keep_alive: true,
            closing: false,
            remaining: None,
            body_done: true,
            gone: false,
            tunnel: false,
            answered: false,
            reason: None,
            shared,
        }
    }

    /// The socket alone, for a connection that is parked: nothing is buffered then.
    pub(crate) fn into_io(self: Box<Self>) -> Transport {
        self.io
    }

    /// Prepares for the exchange of `head`.
    pub(crate) fn begin(&mut self, head: &RequestHead) {
        self.decoder = BodyDecoder::new(head.body);
        self.begin_framing(head.version, head.method == Method::HEAD);
        self.keep_alive = head.keep_alive;
        self.body_done = head.body.is_empty();
    }

    fn begin_framing(&mut self, version: Version, head_request: bool) {
        self.version = version;
        self.head_request = head_request;
        self.framing = Framing::Plain;
        self.remaining = None;
        self.answered = false;
        self.write.start();
    }

    /// Whether the next request may be read: the answer is complete and the request's body was taken whole.
    pub(crate) fn may_continue(&self) -> bool {
        self.keep_alive && !self.gone && !self.tunnel && self.body_done && self.answered
    }

    /// Whether what is left to write may be left to whoever reads the next request.
    pub(crate) fn ends_late(&self) -> bool {
        late::is_busy() && self.io.is_plain() && self.write.len() <= LATE && self.may_continue()
    }

    /// What is still to come of a body that nobody wants any more, if it is small enough to be read and thrown away.
    pub(crate) fn unread_body(&self) -> Option<u64> {
        if self.body_done {
            Some(0)
        } else {
            self.decoder.remaining()
        }
    }

    pub(crate) fn poll_part(&mut self, cx: &mut Context<'_>) -> Poll<Result<Part, DownError>> {
        loop {
            if self.tunnel {
                if !self.read.bytes.is_empty() {
                    return Poll::Ready(Ok(Part::Data(self.read.bytes.split().freeze())));
                }
            } else {
                match self.decoder.decode(&mut self.read.bytes) {
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
                        self.keep_alive = false;
                        return Poll::Ready(Err(DownError::Malformed(
                            "the request body breaks the chunked framing",
                        )));
                    }
                }
            }
            match ready!(self.read.poll_fill(&mut self.io, cx)) {
                Ok(0) if self.tunnel => {
                    self.body_done = true;
                    return Poll::Ready(Ok(Part::End));
                }
                Ok(0) | Err(_) => {
                    self.gone = true;
                    return Poll::Ready(Err(DownError::Gone));
                }
                Ok(_) => {}
            }
        }
    }

    pub(crate) fn body_done(&self) -> bool {
        self.body_done
    }

    pub(crate) fn informational(&mut self, status: StatusCode, headers: &HeaderMap) {
        // HTTP/1.0 callers don't know interim answers.
        if self.version == Version::Http11 {
            h1::encode_response_head(
                self.write.tail(),
                Version::Http11,
                status,
                headers,
                BodyLength::None,
                true,
                ResponseExtras::default(),
            );
        }
    }

    /// Gives the next head a reason phrase of its own.
    pub(crate) fn say(&mut self, reason: Box<Bytes>) {
        self.reason = Some(reason);
    }

    pub(crate) fn head(
        &mut self,
        status: StatusCode,
        headers: HeaderMap,
        body: BodyLength,
        end: bool,
    ) -> Result<(), DownError> {
        let body = body.framed_for(self.version);
        let bodiless = self.head_request
            || status == StatusCode::NO_CONTENT
            || status == StatusCode::NOT_MODIFIED;
        self.framing = match body {
            _ if bodiless => Framing::Plain,
            BodyLength::Chunked => Framing::Chunked,
            BodyLength::UntilClose => Framing::Close,
            BodyLength::None | BodyLength::Exact(_) => Framing::Plain,
        };
        self.remaining = match body {
            BodyLength::Exact(n) if !bodiless => Some(n),
            _ => None,
        };
        if self.closing || self.shared.is_draining() || self.framing == Framing::Close {
            self.keep_alive = false;
        }
        let reason = self.reason.take();
        let extras = ResponseExtras {
            to_head: self.head_request,
            reason: reason.as_deref().map(|words| &words[..]),
        };
        if status == StatusCode::SWITCHING_PROTOCOLS {
            self.keep_alive = false;
            h1::encode_response_head(
                self.write.tail(),
                self.version,
                status,
                &headers,
                BodyLength::None,
                true,
                extras,
            );
            return Ok(());
        }
        h1::encode_response_head(
            self.write.tail(),
            self.version,
            status,
            &headers,
            body,
            self.keep_alive,
            extras,
        );
        spare::put_map(headers);
        if end {
            self.finish(None);
        }
        Ok(())
    }

    /// Ends the connection after this answer if a large part of the request's body is still to come.
    pub(crate) fn close_if_unread(&mut self) {
        if self.unread_body().is_none_or(|left| left > 64 * 1024) {
            self.keep_alive = false;
        }
    }

    /// Prepares for the answer to a head that could not be understood.
    pub(crate) fn begin_refusal(&mut self) {
        self.begin_framing(Version::Http11, false);
        self.body_done = true;
        self.keep_alive = false;
    }

    /// Whether the answer was given whole.
    pub(crate) fn is_answered(&self) -> bool {
        self.answered && !self.gone
    }

    pub(crate) fn keeps_alive(&self) -> bool {
        self.keep_alive && !self.gone
    }

    /// The answer will not be followed by another exchange.
    pub(crate) fn close_after(&mut self) {
        self.keep_alive = false;
    }

    fn finish(&mut self, trailers: Option<&HeaderMap>) {
        if self.framing == Framing::Chunked {
            h1::encode_last_chunk(self.write.tail(), trailers);
        }
        // Less than was announced: the caller must not wait for it, nor take what follows for it.
        if self.remaining.is_some_and(|left| left > 0) {
            self.keep_alive = false;
        }
        self.answered = true;
    }

    pub(crate) fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), DownError>> {
        if !self.write.is_full() {
            return Poll::Ready(Ok(()));
        }
        self.poll_flush(cx)
    }

    pub(crate) fn data(&mut self, data: Bytes, end: bool) -> Result<(), DownError> {
        if self.head_request {
            // An answer to HEAD has no body, whatever the endpoint sends.
        } else if self.framing == Framing::Chunked {
            if !data.is_empty() {
                h1::encode_chunk_head(self.write.tail(), data.len());
                self.write.push(data);
                self.write.tail().extend_from_slice(h1::CHUNK_END);
            }
        } else {
            if let Some(left) = &mut self.remaining {
                *left = left.saturating_sub(data.len() as u64);
            }
            self.write.push(data);
        }
        if end {
            self.finish(None);
        }
        Ok(())
    }

    pub(crate) fn trailers(&mut self, trailers: HeaderMap) -> Result<(), DownError> {
        self.finish(Some(&trailers));
        Ok(())
    }

    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), DownError>> {
        let flushed = ready!(self.write.poll_flush(&mut self.io, cx));
        Poll::Ready(self.flushed(flushed))
    }

    pub(crate) fn poll_flush_late(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), DownError>> {
        let flushed = ready!(self.write.poll_flush_late(&mut self.io, cx));
        Poll::Ready(self.flushed(flushed))
    }

    fn flushed(&mut self, flushed: std::io::Result<()>) -> Result<(), DownError> {
        flushed.map_err(|_| {
            self.gone = true;
            DownError::Gone
        })
    }

    pub(crate) fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.gone {
            return Poll::Ready(());
        }
        // Only the end of the stream says that the caller left; what comes before it, of this request or the next, is kept for later.
        while !self.tunnel && self.read.bytes.len() < READ_AHEAD {
            match ready!(self.read.poll_fill(&mut self.io, cx)) {
                Ok(0) | Err(_) => {
                    self.gone = true;
                    return Poll::Ready(());
                }
                Ok(_) => {}
            }
        }
        Poll::Pending
    }

    pub(crate) fn cut(&mut self) {
        self.keep_alive = false;
        self.gone = true;
        // With the close as the only framing, a plain end would look complete.
        if self.framing == Framing::Close {
            self.io.set_reset_on_close();
        }
    }

    /// In a tunnel: tells the peer that nothing more will come. An error means that it knows.
    pub(crate) fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        tokio::io::AsyncWrite::poll_shutdown(std::pin::Pin::new(&mut self.io), cx).map(|_| ())
    }

    pub(crate) fn tunnel(&mut self) {
        self.tunnel = true;
        self.body_done = false;
        self.framing = Framing::Plain;
        self.remaining = None;
    }

    /// In a tunnel: nothing more will be written.
    pub(crate) fn is_tunnel(&self) -> bool {
        self.tunnel
    }
}
