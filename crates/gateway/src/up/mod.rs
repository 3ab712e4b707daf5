//! The endpoint's side of an exchange: connections that this worker holds, and one request on one of them.

pub(crate) mod connect;
pub(crate) mod conns;
pub(crate) mod h1;
pub(crate) mod h2;
mod queue;
pub(crate) mod slots;

use std::task::{Context, Poll};

use bytes::Bytes;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, Method, StatusCode};
use tidegate_wire::h1::BodyLength;

use crate::down::Part;

/// The request as it leaves: the same for every attempt but for what belongs to the endpoint.
#[derive(Debug)]
pub(crate) struct OutRequest {
    pub(crate) method: Method,
    pub(crate) scheme: Scheme,
    pub(crate) authority: Option<Authority>,
    pub(crate) path: PathAndQuery,
    pub(crate) headers: HeaderMap,
    pub(crate) body: BodyLength,
    /// The caller wants to switch protocols (WebSocket and the like).
    pub(crate) upgrade: bool,
    /// It may be sent twice, whatever its method.
    pub(crate) replay: bool,
}

/// What came first from the endpoint.
#[derive(Debug)]
pub(crate) enum UpHead {
    /// 1xx: more will follow.
    Interim(StatusCode, HeaderMap),
    Final(UpResponse),
}

/// The head of the answer.
#[derive(Debug)]
pub(crate) struct UpResponse {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: BodyLength,
    /// The words behind an HTTP/1.1 status, where they are not the usual ones. Boxed: rare, and heads are moved about.
    pub(crate) reason: Option<Box<Bytes>>,
}

/// Why the endpoint's side failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum UpError {
    /// No connection could be made.
    Connect,
    /// Nothing of the request reached the endpoint.
    Unsent,
    /// The endpoint said that it did not process the request (REFUSED_STREAM, GOAWAY beyond the id).
    Refused,
    /// The connection or stream ended after something had been written.
    Reset,
    /// The answer breaks the protocol.
    Malformed,
    /// Too many wait or run already: a circuit breaker of ours.
    Overflow,
    /// No connection in time.
    ConnectTimeout,
    /// The request opens a WebSocket and the endpoint speaks HTTP/2 without extended CONNECT.
    NoTunnel,
}

impl UpError {
    /// In one word, for traces and answers.
    pub(crate) fn code(self) -> &'static str {
        match self {
            UpError::Connect => "connect-failure",
            UpError::Unsent => "connection-closed",
            UpError::Refused => "refused-stream",
            UpError::Reset => "upstream-reset",
            UpError::Malformed => "bad-answer",
            UpError::Overflow => "overload",
            UpError::ConnectTimeout => "connect-timeout",
            UpError::NoTunnel => "websocket-unsupported",
        }
    }

    /// In words, for events and answers.
    pub(crate) fn describe(self) -> &'static str {
        match self {
            UpError::Connect => "the connection failed",
            UpError::Unsent => "the connection was closed before the request was sent",
            UpError::Refused => "the endpoint refused the stream",
            UpError::Reset => "the connection was reset before the answer",
            UpError::Malformed => "the answer breaks the protocol",
            UpError::Overflow => "a limit of the connection pool is reached",
            UpError::ConnectTimeout => "no connection within the connect timeout",
            UpError::NoTunnel => "the endpoint takes no WebSocket over HTTP/2",
        }
    }
}

/// One request under way at an endpoint.
#[derive(Debug)]
pub(crate) enum Up {
    H1(h1::H1Up),
    H2(h2::H2Up),
}

macro_rules! each {
    ($self:ident, $u:ident => $e:expr) => {
        match $self {
            Up::H1($u) => $e,
            Up::H2($u) => $e,
        }
    };
}

impl Up {
    /// Ready when another piece of the request may be given.
    pub(crate) fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), UpError>> {
        each!(self, u => u.poll_room(cx))
    }

    pub(crate) fn data(&mut self, data: Bytes, end: bool) -> Result<(), UpError> {
        each!(self, u => u.data(data, end))
    }

    pub(crate) fn trailers(&mut self, trailers: HeaderMap) -> Result<(), UpError> {
        each!(self, u => u.trailers(trailers))
    }

    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), UpError>> {
        each!(self, u => u.poll_flush(cx))
    }

    /// As [`Up::poll_flush`], while the worker is busy not before its turn ends.
    pub(crate) fn poll_flush_late(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), UpError>> {
        match self {
            Up::H1(u) => u.poll_flush_late(cx),
            Up::H2(u) => u.poll_flush(cx),
        }
    }

    /// Whether a write waits for the end of the worker's turn.
    pub(crate) fn is_put_off(&self) -> bool {
        match self {
            Up::H1(u) => u.is_put_off(),
            Up::H2(_) => false,
        }
    }

    /// The next head: interim ones, then the final one.
    pub(crate) fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<UpHead, UpError>> {
        each!(self, u => u.poll_head(cx))
    }

    /// The next piece of the answer's body.
    pub(crate) fn poll_part(&mut self, cx: &mut Context<'_>) -> Poll<Result<Part, UpError>> {
        each!(self, u => u.poll_part(cx))
    }

    /// True when no piece of the answer will follow.
    pub(crate) fn body_done(&self) -> bool {
        each!(self, u => u.body_done())
    }

    /// The exchange is complete: the connection may serve another.
    pub(crate) fn finish(self) {
        match self {
            Up::H1(u) => u.finish(),
            Up::H2(u) => u.finish(),
        }
    }

    /// The caller left or another attempt won: the endpoint learns it at once.
    pub(crate) fn cancel(self) {
        match self {
            // Dropping the connection closes it.
            Up::H1(_) => {}
            Up::H2(u) => u.cancel(),
        }
    }

    /// In a tunnel: tells this side that nothing more will come.
    pub(crate) fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Up::H1(u) => u.poll_close(cx),
            Up::H2(u) => u.poll_close(cx),
        }
    }

    pub(crate) fn is_h2(&self) -> bool {
        matches!(self, Up::H2(_))
    }

    /// From here on bytes pass as they come, both ways. In HTTP/2 they are the stream's data, as always.
    pub(crate) fn tunnel(&mut self) {
        each!(self, u => u.tunnel())
    }
}
