//! The caller's side of an exchange: one request and its answer, over HTTP/1.1 or one stream of HTTP/2.
//!
//! The attempt loop sees [`Down`] only. Parts are given and taken in the same shape as at the endpoint's side ([`crate::up::Up`]), so
//! that the relay is written once for all pairs.

pub(crate) mod h1;
pub(crate) mod h2;

use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use tidegate_wire::h1::BodyLength;

/// A piece of a message's body, either way.
#[derive(Debug)]
pub(crate) enum Part {
    Data(Bytes),
    Trailers(HeaderMap),
    /// The body is over, without trailers.
    End,
}

/// Why the caller's side failed.
#[derive(Debug)]
pub(crate) enum DownError {
    /// The caller went away, or reset the stream.
    Gone,
    /// The request's body breaks the framing rules.
    Malformed(&'static str),
}

/// The caller's side.
#[derive(Debug)]
pub(crate) enum Down<'a> {
    H1(&'a mut h1::H1Exchange),
    H2(&'a mut h2::H2Stream),
}

macro_rules! each {
    ($self:ident, $d:ident => $e:expr) => {
        match $self {
            Down::H1($d) => $e,
            Down::H2($d) => $e,
        }
    };
}

impl Down<'_> {
    /// The next piece of the request's body. Not to be called again after `Trailers` or `End`.
    pub(crate) fn poll_part(&mut self, cx: &mut Context<'_>) -> Poll<Result<Part, DownError>> {
        each!(self, d => d.poll_part(cx))
    }

    /// True when no piece will follow those already given.
    pub(crate) fn body_done(&self) -> bool {
        each!(self, d => d.body_done())
    }

    /// Sends an interim answer (1xx other than 101).
    pub(crate) fn informational(&mut self, status: StatusCode, headers: &HeaderMap) {
        each!(self, d => d.informational(status, headers))
    }

    /// Begins the answer; `end` when it has no body.
    pub(crate) fn head(
        &mut self,
        status: StatusCode,
        headers: HeaderMap,
        body: BodyLength,
        end: bool,
    ) -> Result<(), DownError> {
        each!(self, d => d.head(status, headers, body, end))
    }

    /// Ready when another piece may be given without unbounded buffering.
    pub(crate) fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), DownError>> {
        each!(self, d => d.poll_room(cx))
    }

    pub(crate) fn data(&mut self, data: Bytes, end: bool) -> Result<(), DownError> {
        each!(self, d => d.data(data, end))
    }

    pub(crate) fn trailers(&mut self, trailers: HeaderMap) -> Result<(), DownError> {
        each!(self, d => d.trailers(trailers))
    }

    /// Hands everything given so far to the socket or the codec.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), DownError>> {
        each!(self, d => d.poll_flush(cx))
    }

    /// As [`Down::poll_flush`], while the worker is busy not before its turn ends.
    pub(crate) fn poll_flush_late(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), DownError>> {
        match self {
            Down::H1(d) => d.poll_flush_late(cx),
            Down::H2(d) => d.poll_flush(cx),
        }
    }

    /// Whether an answer that was given whole may leave its end to the connection: what stands behind the exchange need not wait for the end of
    /// the worker's turn.
    pub(crate) fn ends_late(&self) -> bool {
        match self {
            Down::H1(d) => d.ends_late(),
            Down::H2(_) => false,
        }
    }

    /// Ready when the caller has left.
    pub(crate) fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        each!(self, d => d.poll_gone(cx))
    }

    /// The answer can't be completed: the caller must see it as cut, never as complete.
    pub(crate) fn cut(&mut self) {
        each!(self, d => d.cut())
    }

    /// True for HTTP/2: heads may be sent with trailers at will.
    pub(crate) fn is_h2(&self) -> bool {
        matches!(self, Down::H2(_))
    }

    /// In a tunnel: tells this side that nothing more will come.
    pub(crate) fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Down::H1(d) => d.poll_close(cx),
            Down::H2(d) => d.poll_close(cx),
        }
    }

    /// From here on bytes pass as they come, both ways (an upgraded connection). In HTTP/2 they are the stream's data, as always.
    pub(crate) fn tunnel(&mut self) {
        if let Down::H1(d) = self {
            d.tunnel();
        }
    }
}
