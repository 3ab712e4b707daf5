//! Heads and chunk framing onto the wire.
//!
//! Everything is appended to the caller's buffer with plain copies: no formatting machinery, no
//! allocation beyond the buffer's own growth. Framing and connection headers are written from the
//! arguments; any in the map are skipped, so that what was parsed from one peer can't frame a
//! message for another.

use bytes::{BufMut, BytesMut};
use http::header::{CONNECTION, CONTENT_LENGTH, HOST, TE, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};

use super::trailers::is_forbidden_trailer;
use super::{BodyLength, Version};

/// What follows the data of each chunk.
pub const CHUNK_END: &[u8] = b"\r\n";

/// What the sender of a request wants of the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectionIntent {
    /// Keep it open afterwards; otherwise `connection: close` is written.
    pub keep_alive: bool,
    /// Pass the map's `upgrade` on and write `connection: upgrade`.
    pub upgrade: bool,
}

impl Default for ConnectionIntent {
    fn default() -> Self {
        Self {
            keep_alive: true,
            upgrade: false,
        }
    }
}

/// The rarer things about a response head.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ResponseExtras<'a> {
    /// The reason phrase, if not the usual one. Control characters in it are written as spaces.
    pub reason: Option<&'a [u8]>,
    /// This answers HEAD: the map's `content-length` is the answer, not framing, and is kept.
    pub to_head: bool,
}

/// Appends a request head of version 1.1.
///
/// `target` is the request target as it goes on the wire (path and query, authority or `*`).
/// `host`, if given, replaces the map's. `body` is what the caller will send:
/// [`BodyLength::None`] writes `content-length: 0` for methods that usually have a body, as servers
/// answer 411 otherwise. Requests can't end with the connection, so [`BodyLength::UntilClose`] is
/// written as chunked.
///
/// The caller vouches for `target` and `host`; any byte in them that could end a line early is
/// left out.
pub fn encode_request_head(
    out: &mut BytesMut,
    method: &Method,
    target: &str,
    host: Option<&[u8]>,
    headers: &HeaderMap,
    body: BodyLength,
    connection: ConnectionIntent,
) {
    debug_assert!(
        body != BodyLength::UntilClose,
        "a request body has a length or is chunked"
    );
    let method_text = method.as_str().as_bytes();
    out.reserve(
        method_text.len() + target.len() + host.map_or(0, <[u8]>::len) + 96 + estimate(headers),
    );
    out.put_slice(method_text);
    out.put_u8(b' ');
    put_clean(out, target.as_bytes());
    out.put_slice(b" HTTP/1.1\r\n");
    if let Some(host) = host {
        out.put_slice(b"host: ");
        put_clean(out, host);
        out.put_slice(b"\r\n");
    }

    let mut te = false;
    for (name, value) in headers {
        match classify(name) {
            Class::Plain => put_header(out, name, value),
            Class::Host if host.is_none() => put_header(out, name, value),
            Class::Upgrade if connection.upgrade => put_header(out, name, value),
            Class::Te => {
                te = true;
                put_header(out, name, value);
            }
            _ => {}
        }
    }

    match body {
        BodyLength::None if expects_body(method) => out.put_slice(b"content-length: 0\r\n"),
        BodyLength::None => {}
        BodyLength::Exact(length) => put_length(out, length),
        BodyLength::Chunked | BodyLength::UntilClose => {
            out.put_slice(b"transfer-encoding: chunked\r\n")
        }
    }
    if !connection.keep_alive || connection.upgrade || te {
        let close = !connection.keep_alive && !connection.upgrade;
        put_connection(
            out,
            [
                (close, b"close"),
                (connection.upgrade, b"upgrade"),
                (te, b"te"),
            ],
        );
    }
    out.put_slice(b"\r\n");
}

/// Appends a response head, interim ones included.
///
/// The status line always says HTTP/1.1, our own version (RFC 9110 §6.2); `version` is the caller's
/// and decides how a kept connection is announced. `body` is what the caller will send
/// ([`BodyLength::framed_for`] gives what `version` can read): [`BodyLength::None`] writes
/// `content-length: 0` where a body would be expected.
pub fn encode_response_head(
    out: &mut BytesMut,
    version: Version,
    status: StatusCode,
    headers: &HeaderMap,
    body: BodyLength,
    keep_alive: bool,
    extras: ResponseExtras<'_>,
) {
    out.reserve(128 + extras.reason.map_or(0, <[u8]>::len) + estimate(headers));
    put_status_line(out, status, extras.reason);

    let interim = status.is_informational();
    let bodiless = interim
        || status == StatusCode::NO_CONTENT
        || status == StatusCode::NOT_MODIFIED
        || extras.to_head;
    // The length of what a GET would have got is information here, not framing.
    let keep_length = status == StatusCode::NOT_MODIFIED || extras.to_head;
    let upgrade =
        status == StatusCode::SWITCHING_PROTOCOLS || status == StatusCode::UPGRADE_REQUIRED;
    let mut upgrades = false;
    for (name, value) in headers {
        match classify(name) {
            Class::Plain | Class::Host => put_header(out, name, value),
            Class::Length
                if keep_length && super::framing::parse_length(value.as_bytes()).is_some() =>
            {
                put_header(out, name, value);
            }
            Class::Upgrade if upgrade => {
                upgrades = true;
                put_header(out, name, value);
            }
            _ => {}
        }
    }

    if !bodiless {
        match body {
            BodyLength::None => out.put_slice(b"content-length: 0\r\n"),
            BodyLength::Exact(length) => put_length(out, length),
            BodyLength::Chunked => out.put_slice(b"transfer-encoding: chunked\r\n"),
            BodyLength::UntilClose => {}
        }
    }
    let close = !interim && (!keep_alive || (body == BodyLength::UntilClose && !bodiless));
    let announce = !interim && !close && version == Version::Http10;
    if close || announce || upgrades {
        put_connection(
            out,
            [
                (close, b"close"),
                (announce, b"keep-alive"),
                (upgrades, b"upgrade"),
            ],
        );
    }
    out.put_slice(b"\r\n");
}

/// Appends the size line of a chunk of `len` bytes. A chunk of 0 bytes would end the body, so for 0
/// nothing is written; [`encode_last_chunk`] ends a body.
pub fn encode_chunk_head(out: &mut BytesMut, len: usize) {
    if len == 0 {
        return;
    }
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = [0u8; 18];
    let mut at = 16;
    text[16] = b'\r';
    text[17] = b'\n';
    let mut rest = len;
    while rest > 0 {
        at -= 1;
        text[at] = DIGITS[rest & 15];
        rest >>= 4;
    }
    out.extend_from_slice(&text[at..]);
}

/// Appends the last chunk, the trailers that may be sent as such, and the end of the body.
pub fn encode_last_chunk(out: &mut BytesMut, trailers: Option<&HeaderMap>) {
    out.extend_from_slice(b"0\r\n");
    if let Some(trailers) = trailers {
        out.reserve(estimate(trailers) + 2);
        for (name, value) in trailers {
            if !is_forbidden_trailer(name) {
                put_header(out, name, value);
            }
        }
    }
    out.extend_from_slice(b"\r\n");
}

/// How the encoder treats a header.
enum Class {
    Plain,
    Host,
    Length,
    Upgrade,
    Te,
    /// Never sent from a map.
    Dropped,
}

/// Lengths first: most names need no comparison.
#[inline]
fn classify(name: &HeaderName) -> Class {
    match name.as_str().len() {
        2 if *name == TE => Class::Te,
        4 if *name == HOST => Class::Host,
        7 if *name == UPGRADE => Class::Upgrade,
        10 if *name == CONNECTION || name.as_str() == "keep-alive" => Class::Dropped,
        14 if *name == CONTENT_LENGTH => Class::Length,
        16 if name.as_str() == "proxy-connection" => Class::Dropped,
        17 if *name == TRANSFER_ENCODING => Class::Dropped,
        _ => Class::Plain,
    }
}

/// Methods whose requests usually carry content (RFC 9110 §8.6).
fn expects_body(method: &Method) -> bool {
    *method == Method::POST || *method == Method::PUT || *method == Method::PATCH
}

/// Enough room for most header sections, so that the buffer grows once.
fn estimate(headers: &HeaderMap) -> usize {
    headers.len() * 48
}

#[inline]
fn put_header(out: &mut BytesMut, name: &HeaderName, value: &HeaderValue) {
    let (name, value) = (name.as_str().as_bytes(), value.as_bytes());
    out.reserve(name.len() + value.len() + 4);
    out.put_slice(name);
    out.put_slice(b": ");
    out.put_slice(value);
    out.put_slice(b"\r\n");
}

fn put_length(out: &mut BytesMut, length: u64) {
    out.put_slice(b"content-length: ");
    put_decimal(out, length);
    out.put_slice(b"\r\n");
}

/// Appends a number in decimal.
pub(crate) fn put_decimal(out: &mut BytesMut, mut number: u64) {
    let mut text = [0u8; 20];
    let mut at = text.len();
    loop {
        at -= 1;
        // A remainder of ten fits a byte.
        text[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&text[at..]);
}

fn put_connection(out: &mut BytesMut, options: [(bool, &[u8]); 3]) {
    out.put_slice(b"connection: ");
    let mut first = true;
    for (_, option) in options.into_iter().filter(|(wanted, _)| *wanted) {
        if !first {
            out.put_slice(b", ");
        }
        first = false;
        out.put_slice(option);
    }
    out.put_slice(b"\r\n");
}

fn put_status_line(out: &mut BytesMut, status: StatusCode, reason: Option<&[u8]>) {
    if reason.is_none() && status == StatusCode::OK {
        out.put_slice(b"HTTP/1.1 200 OK\r\n");
        return;
    }
    out.put_slice(b"HTTP/1.1 ");
    out.put_slice(status.as_str().as_bytes());
    out.put_u8(b' ');
    match reason {
        Some(reason) => {
            for byte in reason {
                out.put_u8(if byte.is_ascii_control() { b' ' } else { *byte });
            }
        }
        None => out.put_slice(status.canonical_reason().unwrap_or_default().as_bytes()),
    }
    out.put_slice(b"\r\n");
}

/// Copies what the caller vouches for, without the bytes that could begin another line or field if
/// the caller is wrong.
fn put_clean(out: &mut BytesMut, text: &[u8]) {
    let mut bad = false;
    for byte in text {
        bad |= *byte <= b' ' || *byte == 0x7f;
    }
    if bad {
        debug_assert!(
            !bad,
            "white space or a control character in a target or host"
        );
        text.iter()
            .filter(|b| **b > b' ' && **b != 0x7f)
            .for_each(|b| out.put_u8(*b));
    } else {
        out.put_slice(text);
    }
}
