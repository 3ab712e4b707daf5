//! Request heads.

use bytes::{Buf, Bytes, BytesMut};
use http::header::{EXPECT, HOST};
use http::{HeaderMap, HeaderValue, Method, Uri};

use super::error::{FramingError, RequestError};
use super::fields::{self, Keep};
use super::framing::{Coding, Expect, Facts, Host, Upgrade, may_begin_request};
use super::scan::{Extent, ScanError};
use super::{BodyLength, HeadReader, Limits, Version, host};

/// Empty lines that are ignored before a request (RFC 9112 §2.2: at least one; old clients send one
/// after a body).
const LEADING_EMPTY_LINES: u8 = 2;

/// Fields that a gateway adds to a request, at most: the map should not grow for them.
const ADDED: usize = 6;

/// A request's head: everything before the body.
#[derive(Debug, Clone)]
pub struct RequestHead {
    /// The method; any token.
    pub method: Method,
    /// The target in the form it came in: origin (`/path?query`), absolute (`http://host/path`),
    /// authority (`host:port`, CONNECT only) or asterisk (`*`, OPTIONS only).
    pub target: Uri,
    /// The caller's version.
    pub version: Version,
    /// All header lines, framing headers included. `host` is the target's authority when the target
    /// has one (RFC 9112 §3.2.2), whatever the caller's `host` said.
    pub headers: HeaderMap,
    /// Where the body ends. Never [`BodyLength::UntilClose`].
    pub body: BodyLength,
    /// Whether the caller keeps the connection open after this exchange.
    pub keep_alive: bool,
    /// Whether the caller waits for `100 Continue` before it sends the body.
    pub expect_continue: bool,
    /// Whether the caller asks to switch protocols, and to one that may be tunnelled. Never set for
    /// `h2c`, `HTTP/…` and `TLS/…`: requests inside would go past routing.
    pub upgrade: bool,
}

/// Parses one request head from the front of `buf`, without memory of earlier calls: for whole
/// messages. A connection keeps a [`HeadReader`] instead, so that a head that trickles in is not
/// searched again from its beginning with every byte.
///
/// # Errors
/// See [`HeadReader::request`].
pub fn parse_request(
    buf: &mut BytesMut,
    limits: &Limits,
    scratch: &mut HeaderMap,
) -> Result<Option<RequestHead>, RequestError> {
    HeadReader::new().request(buf, limits, scratch)
}

impl HeadReader {
    /// Parses one request head from the front of `buf` and consumes it; `Ok(None)`: more bytes are
    /// needed. `scratch` is a map whose capacity is reused; it is taken into the head (hand
    /// `head.headers` back as `scratch` later) and left in place otherwise.
    ///
    /// # Errors
    /// The head is refused: answer with [`RequestError::status`] and close.
    #[inline]
    pub fn request(
        &mut self,
        buf: &mut BytesMut,
        limits: &Limits,
        scratch: &mut HeaderMap,
    ) -> Result<Option<RequestHead>, RequestError> {
        if !self.is_mid_head() {
            self.skip_empty_lines(buf)?;
            match buf.first() {
                None => return Ok(None),
                Some(b'\r') if buf.len() == 1 => return Ok(None),
                Some(b) if !may_begin_request(*b) => return Err(RequestError::RequestLine),
                Some(_) => {}
            }
        }
        let max_lines = limits.headers.saturating_add(1);
        let extent = match self.find_end(buf, limits, max_lines) {
            Ok(Some(extent)) => extent,
            Ok(None) => return Ok(None),
            Err(error) => return Err(scan_error(error)),
        };
        let head = buf.split_to(extent.len).freeze();
        scratch.clear();
        scratch.reserve(extent.lines + ADDED);
        parse_head(&head, &extent, scratch).map(Some)
    }

    fn skip_empty_lines(&mut self, buf: &mut BytesMut) -> Result<(), RequestError> {
        while buf.starts_with(b"\r\n") {
            let skipped = self.skipped_mut();
            if *skipped == LEADING_EMPTY_LINES {
                return Err(RequestError::LeadingEmptyLines);
            }
            *skipped += 1;
            buf.advance(2);
        }
        Ok(())
    }
}

#[cold]
fn scan_error(error: ScanError) -> RequestError {
    match error {
        ScanError::BareLf => RequestError::Field(super::FieldError::BareLf),
        ScanError::TooLarge { first_line: true } => RequestError::TargetTooLong,
        ScanError::TooLarge { first_line: false } => RequestError::HeadTooLarge,
        ScanError::TooManyLines => RequestError::TooManyHeaders,
    }
}

fn parse_head(
    head: &Bytes,
    extent: &Extent,
    scratch: &mut HeaderMap,
) -> Result<RequestHead, RequestError> {
    // A bare CR within the line is refused with the part that it stands in.
    let line_end = extent
        .line_feed(head, 0, 0)
        .and_then(|at| at.checked_sub(1))
        .ok_or(RequestError::RequestLine)?;
    let line = &head[..line_end];
    let method_end = memchr::memchr(b' ', line).ok_or(RequestError::RequestLine)?;
    let target_end = memchr::memrchr(b' ', line).ok_or(RequestError::RequestLine)?;
    if target_end <= method_end + 1 {
        return Err(RequestError::RequestLine);
    }
    let version = parse_version(&line[target_end + 1..])?;
    let method = Method::from_bytes(&line[..method_end]).map_err(|_| RequestError::Method)?;
    let target = parse_target(&method, head.slice(method_end + 1..target_end))?;

    let mut facts = Facts::default();
    fields::parse(head, extent, 1, line_end + 2, scratch, |name, value| {
        facts.note(name, value)?;
        Ok::<_, RequestError>(Keep::Yes)
    })?;

    let body = body_length(&facts, version)?;
    check_host(&facts, &target, version, scratch)?;
    match (version, facts.expect) {
        (Version::Http11, Expect::Other) => return Err(RequestError::Expectation),
        // Ignored (RFC 9110 §10.1.1), and not passed on either: behind us it would be HTTP/1.1.
        (Version::Http10, Expect::Other | Expect::Continue) => {
            scratch.remove(EXPECT);
        }
        (_, Expect::Absent | Expect::Continue) => {}
    }
    Ok(RequestHead {
        method,
        target,
        version,
        headers: std::mem::take(scratch),
        body,
        keep_alive: keep_alive(&facts, version),
        // HTTP/1.0 knows no interim responses (RFC 9110 §10.1.1), and without a body nobody waits.
        expect_continue: facts.expect == Expect::Continue
            && version == Version::Http11
            && !body.is_empty(),
        upgrade: facts.upgrade_option
            && facts.upgrade == Upgrade::Offered
            && version == Version::Http11,
    })
}

fn parse_version(text: &[u8]) -> Result<Version, RequestError> {
    match text {
        b"HTTP/1.1" => Ok(Version::Http11),
        b"HTTP/1.0" => Ok(Version::Http10),
        [b'H', b'T', b'T', b'P', b'/', major, b'.', minor]
            if major.is_ascii_digit() && minor.is_ascii_digit() =>
        {
            Err(RequestError::Version)
        }
        _ => Err(RequestError::RequestLine),
    }
}

/// The target in one of its four forms (RFC 9112 §3.2).
fn parse_target(method: &Method, raw: Bytes) -> Result<Uri, RequestError> {
    // Visible ASCII without the fragment mark: a fragment is never sent, and the URI type would drop it.
    let mut bad = false;
    for byte in &raw {
        bad |= !matches!(byte, 0x21..=0x7e) || *byte == b'#';
    }
    if bad {
        return Err(RequestError::Target);
    }
    let allowed = if *method == Method::CONNECT {
        matches!(host::split(&raw), Some((_, Some(port))) if !port.is_empty())
    } else if raw.first() == Some(&b'/') {
        true
    } else if raw.as_ref() == b"*" {
        *method == Method::OPTIONS
    } else {
        absolute_authority(&raw).is_some_and(host::is_valid_host)
    };
    if !allowed {
        return Err(RequestError::Target);
    }
    if raw.len() > usize::from(u16::MAX - 1) {
        return Err(RequestError::TargetTooLong);
    }
    Uri::from_maybe_shared(raw).map_err(|_| RequestError::Target)
}

/// The authority of an absolute target; only `http` and `https` are ours to serve.
fn absolute_authority(raw: &[u8]) -> Option<&[u8]> {
    let colon = memchr::memchr(b':', raw)?;
    let (scheme, rest) = raw.split_at(colon);
    if !scheme.eq_ignore_ascii_case(b"http") && !scheme.eq_ignore_ascii_case(b"https") {
        return None;
    }
    let rest = rest.strip_prefix(b"://")?;
    let end = rest
        .iter()
        .position(|b| matches!(b, b'/' | b'?'))
        .unwrap_or(rest.len());
    Some(&rest[..end])
}

fn body_length(facts: &Facts, version: Version) -> Result<BodyLength, FramingError> {
    if facts.repeated_length {
        return Err(FramingError::DuplicateLength);
    }
    match (facts.coding, facts.content_length) {
        (Coding::Absent, None) => Ok(BodyLength::None),
        (Coding::Absent, Some(length)) => Ok(BodyLength::Exact(length)),
        (_, Some(_)) => Err(FramingError::LengthAndCoding),
        (_, None) if version == Version::Http10 => Err(FramingError::CodingInHttp10),
        (Coding::Chunked, None) => Ok(BodyLength::Chunked),
        (Coding::Bad(error), None) => Err(error),
    }
}

fn check_host(
    facts: &Facts,
    target: &Uri,
    version: Version,
    headers: &mut HeaderMap,
) -> Result<(), RequestError> {
    match facts.host {
        _ if facts.hosts > 1 => return Err(RequestError::DuplicateHost),
        Host::Absent if version == Version::Http11 => return Err(RequestError::MissingHost),
        Host::Absent | Host::Good => {}
        Host::Empty => return Err(RequestError::MissingHost),
        Host::Bad => return Err(RequestError::BadHost),
    }
    if let Some(authority) = target.authority() {
        let same = headers
            .get(HOST)
            .is_some_and(|value| value.as_bytes() == authority.as_str().as_bytes());
        if !same {
            let value =
                HeaderValue::from_str(authority.as_str()).map_err(|_| RequestError::Target)?;
            headers.insert(HOST, value);
        }
    }
    Ok(())
}

/// Whether the connection persists (RFC 9112 §9.3); `close` wins over everything.
pub(super) fn keep_alive(facts: &Facts, version: Version) -> bool {
    match version {
        _ if facts.close => false,
        Version::Http11 => true,
        Version::Http10 => facts.keep_alive,
    }
}
