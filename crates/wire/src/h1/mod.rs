//! HTTP/1.0 and HTTP/1.1 message syntax (RFC 9112), bytes in and bytes out.
//!
//! # Strictness
//!
//! Whatever the RFC lets a recipient repair is refused here when another recipient might repair it
//! differently: a message that two parsers read in two ways is how requests are smuggled past a
//! gateway. So no bare LF or CR as a line end, no obs-fold, no space before a colon, one
//! `content-length` of digits only, `transfer-encoding` exactly `chunked`, never both, one `host`.
//! Each refusal is a variant of [`RequestError`], [`ResponseError`] or [`BodyError`] that knows its
//! status code.
//!
//! # Cost
//!
//! A head is searched for its line ends once (SIMD), frozen, and cut into header values that share
//! its memory; the [`http::HeaderMap`] is reused from message to message. A partial head is never
//! searched twice when one [`HeadReader`] is kept per connection, so a client that sends a byte at
//! a time costs the same as one that sends a kilobyte at a time.

mod body;
mod encode;
mod error;
mod fields;
mod framing;
mod host;
mod names;
mod request;
mod response;
mod scan;
mod trailers;

pub(crate) use encode::put_decimal;
pub(crate) use fields::is_token;
pub(crate) use framing::{list, trim};

pub use body::{BodyDecoder, Decoded};
pub use encode::{
    CHUNK_END, ConnectionIntent, ResponseExtras, encode_chunk_head, encode_last_chunk,
    encode_request_head, encode_response_head,
};
pub use error::{BodyError, FieldError, FramingError, RequestError, ResponseError};
pub use host::is_valid_host;
pub use request::{RequestHead, parse_request};
pub use response::{ResponseHead, parse_response};
pub use scan::HeadReader;
pub use trailers::is_forbidden_trailer;

/// Bounds on one message head. A head beyond them is refused, never truncated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Largest head in bytes, from the first byte of the start line to the empty line inclusive.
    pub head_bytes: usize,
    /// Largest number of header lines.
    pub headers: usize,
}

impl Default for Limits {
    /// 64 KiB and 100 lines: what the listeners default to.
    fn default() -> Self {
        Self {
            head_bytes: 64 * 1024,
            headers: 100,
        }
    }
}

/// The protocol version of a message. Others are refused with 505.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Version {
    /// HTTP/1.0: no chunked coding, connections close unless `keep-alive` is asked for.
    Http10,
    /// HTTP/1.1.
    Http11,
}

/// How the end of a message's body is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BodyLength {
    /// There is no body and no framing header.
    None,
    /// `content-length`: this many bytes.
    Exact(u64),
    /// `transfer-encoding: chunked`.
    Chunked,
    /// Until the peer closes. Responses only.
    UntilClose,
}

impl BodyLength {
    /// Whether no byte of body follows the head.
    #[must_use]
    pub fn is_empty(self) -> bool {
        matches!(self, Self::None | Self::Exact(0))
    }

    /// The framing to use towards a recipient of `version` for a *response* body that came with
    /// this framing: a body of unknown length goes chunked to HTTP/1.1, so that a cut is seen as a
    /// cut, and until close to HTTP/1.0, which has no chunks (the caller must then close).
    #[must_use]
    pub fn framed_for(self, version: Version) -> Self {
        match (self, version) {
            (Self::UntilClose | Self::Chunked, Version::Http11) => Self::Chunked,
            (Self::UntilClose | Self::Chunked, Version::Http10) => Self::UntilClose,
            (known, _) => known,
        }
    }
}
