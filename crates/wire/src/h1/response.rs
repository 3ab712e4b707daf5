//! Response heads, as an upstream sends them.

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Method, StatusCode};

use super::error::{FramingError, ResponseError};
use super::fields::{self, Keep};
use super::framing::{Coding, Facts};
use super::request::keep_alive;
use super::scan::{Extent, ScanError};
use super::{BodyLength, HeadReader, Limits, Version};

/// A response's head.
#[derive(Debug, Clone)]
pub struct ResponseHead {
    /// The status, 100 to 999. 1xx other than 101 are interim: another head follows.
    pub status: StatusCode,
    /// The upstream's version.
    pub version: Version,
    /// The reason phrase, when it is not the usual one of this status.
    pub reason: Option<Bytes>,
    /// All header lines, framing headers included.
    pub headers: HeaderMap,
    /// Where the body ends, with the request's method and the status taken into account.
    pub body: BodyLength,
    /// Whether the upstream connection may carry another request after this response.
    pub keep_alive: bool,
}

/// Parses one response head from the front of `buf`, without memory of earlier calls; see
/// [`HeadReader::response`], which a connection uses.
///
/// # Errors
/// See [`HeadReader::response`].
pub fn parse_response(
    buf: &mut BytesMut,
    request_method: &Method,
    limits: &Limits,
    scratch: &mut HeaderMap,
) -> Result<Option<ResponseHead>, ResponseError> {
    HeadReader::new().response(buf, request_method, limits, scratch)
}

impl HeadReader {
    /// Parses one response head from the front of `buf` and consumes it; `Ok(None)`: more bytes are
    /// needed. `request_method` decides whether a body follows (HEAD, CONNECT). `scratch` is
    /// a map whose capacity is reused, taken into the head.
    ///
    /// # Errors
    /// The response must not be passed on: answer 502 and close the upstream connection.
    #[inline]
    pub fn response(
        &mut self,
        buf: &mut BytesMut,
        request_method: &Method,
        limits: &Limits,
        scratch: &mut HeaderMap,
    ) -> Result<Option<ResponseHead>, ResponseError> {
        if let Some(first) = buf.first()
            && *first != b'H'
        {
            return Err(ResponseError::StatusLine);
        }
        let max_lines = limits.headers.saturating_add(1);
        let extent = match self.find_end(buf, limits, max_lines) {
            Ok(Some(extent)) => extent,
            Ok(None) => return Ok(None),
            Err(ScanError::BareLf) => return Err(super::FieldError::BareLf.into()),
            Err(ScanError::TooLarge { .. }) => return Err(ResponseError::HeadTooLarge),
            Err(ScanError::TooManyLines) => return Err(ResponseError::TooManyHeaders),
        };
        let head = buf.split_to(extent.len).freeze();
        scratch.clear();
        scratch.reserve(extent.lines);
        parse_head(&head, &extent, request_method, scratch).map(Some)
    }
}

fn parse_head(
    head: &Bytes,
    extent: &Extent,
    method: &Method,
    scratch: &mut HeaderMap,
) -> Result<ResponseHead, ResponseError> {
    // A bare CR within the line is refused with the part that it stands in.
    let line_end = extent
        .line_feed(head, 0, 0)
        .and_then(|at| at.checked_sub(1))
        .ok_or(ResponseError::StatusLine)?;
    let line = &head[..line_end];
    let version = match line.get(..9) {
        Some(b"HTTP/1.1 ") => Version::Http11,
        Some(b"HTTP/1.0 ") => Version::Http10,
        Some([b'H', b'T', b'T', b'P', b'/', _, b'.', _, b' ']) => {
            return Err(ResponseError::Version);
        }
        _ => return Err(ResponseError::StatusLine),
    };
    let digits = line.get(9..12).ok_or(ResponseError::StatusLine)?;
    let status = StatusCode::from_bytes(digits).map_err(|_| ResponseError::StatusLine)?;
    let reason = match &line[12..] {
        [] => None,
        [b' ', reason @ ..]
            if reason
                .iter()
                .all(|b| matches!(b, b'\t' | 0x20..=0x7e | 0x80..)) =>
        {
            let usual = status.canonical_reason().unwrap_or_default().as_bytes();
            (reason != usual && !reason.is_empty()).then(|| head.slice(13..line_end))
        }
        _ => return Err(ResponseError::StatusLine),
    };

    let mut facts = Facts::default();
    fields::parse(head, extent, 1, line_end + 2, scratch, |name, value| {
        facts.note(name, value)?;
        Ok::<_, ResponseError>(Keep::Yes)
    })?;

    let declared = declared_length(&facts, version)?;
    let (body, clean) = body_length(declared, method, status);
    Ok(ResponseHead {
        status,
        version,
        reason,
        headers: std::mem::take(scratch),
        body,
        keep_alive: clean && body != BodyLength::UntilClose && keep_alive(&facts, version),
    })
}

/// What the headers say, before method and status have their word. Two equal `content-length` are
/// tolerated from an upstream (RFC 9110 §8.6 allows it; they are replaced by one).
fn declared_length(facts: &Facts, version: Version) -> Result<BodyLength, FramingError> {
    match (facts.coding, facts.content_length) {
        (Coding::Absent, None) => Ok(BodyLength::UntilClose),
        (Coding::Absent, Some(length)) => Ok(BodyLength::Exact(length)),
        (_, Some(_)) => Err(FramingError::LengthAndCoding),
        (_, None) if version == Version::Http10 => Err(FramingError::CodingInHttp10),
        (Coding::Chunked, None) => Ok(BodyLength::Chunked),
        (Coding::Bad(error), None) => Err(error),
    }
}

/// The body by RFC 9112 §6.3, and whether the connection can be trusted to stand at a message
/// boundary afterwards: an upstream that declares a body where none may be might send it, too.
fn body_length(declared: BodyLength, method: &Method, status: StatusCode) -> (BodyLength, bool) {
    let quiet = matches!(declared, BodyLength::UntilClose | BodyLength::Exact(0));
    if status.is_informational() || status == StatusCode::NO_CONTENT {
        (BodyLength::None, quiet)
    } else if *method == Method::HEAD
        || status == StatusCode::NOT_MODIFIED
        || (*method == Method::CONNECT && status.is_success())
    {
        (BodyLength::None, true)
    } else {
        (declared, true)
    }
}
