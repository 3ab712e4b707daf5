//! What must hold for any bytes that reach the HTTP/1.1 codec. Shared by the fuzz targets and by
//! the tests that run the committed corpus.

#![allow(dead_code, reason = "each fuzz target uses one of the checks")]

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Method};
use tidegate_wire::h1::{
    BodyDecoder, BodyLength, CHUNK_END, ConnectionIntent, Decoded, HeadReader, Limits, RequestHead,
    ResponseExtras, ResponseHead, Version, encode_chunk_head, encode_last_chunk,
    encode_request_head, encode_response_head, is_valid_host,
};

/// Small enough that a fuzzer reaches them.
const LIMITS: Limits = Limits {
    head_bytes: 2048,
    headers: 24,
};

/// Sizes of the pieces in which the same bytes are fed again.
const PIECES: [usize; 3] = [1, 3, 17];

/// A connection of requests: the same whatever the pieces, agreed upon by httparse, framed in one
/// way only, and the same again after it was written and read.
pub(crate) fn h1_request(data: &[u8]) {
    let whole = requests(data, usize::MAX);
    for size in PIECES {
        assert_eq!(requests(data, size), whole, "in pieces of {size}");
    }
    let mut rest = BytesMut::from(data);
    let before = rest.clone();
    if let Ok(Some(head)) = HeadReader::new().request(&mut rest, &LIMITS, &mut HeaderMap::new()) {
        let consumed = before.len() - rest.len();
        second_opinion_on_request(&head, &before[..consumed]);
        request_is_unambiguous(&head);
        request_survives_the_encoder(&head);
    }
}

/// As [`h1_request`], for responses to each method that changes how they are read.
pub(crate) fn h1_response(data: &[u8]) {
    for method in [Method::GET, Method::HEAD, Method::CONNECT] {
        let whole = responses(data, usize::MAX, &method);
        for size in PIECES {
            assert_eq!(responses(data, size, &method), whole, "in pieces of {size}");
        }
        let mut rest = BytesMut::from(data);
        if let Ok(Some(head)) =
            HeadReader::new().response(&mut rest, &method, &LIMITS, &mut HeaderMap::new())
        {
            second_opinion_on_response(&head, &data[..data.len() - rest.len()]);
            response_survives_the_encoder(&head, &method);
        }
    }
}

/// A chunked body: the same whatever the pieces, as a slow and simple reader has it, and the same
/// again after it was written and read.
pub(crate) fn h1_chunked(data: &[u8]) {
    let whole = body_in_pieces(data, usize::MAX);
    for size in PIECES {
        assert_eq!(body_in_pieces(data, size), whole, "in pieces of {size}");
    }
    assert!(whole.content.len() <= data.len());
    let simple = simple_chunked(data);
    if whole.end == End::Complete {
        let simple = simple.expect("what the decoder accepts, the simple reader accepts");
        assert_eq!(
            (simple.content, simple.left),
            (whole.content.clone(), whole.left)
        );
    } else {
        let plain = simple.is_some_and(|simple| simple.plain);
        assert!(!plain, "a body without anything strange is accepted");
    }
    content_survives_the_encoder(&whole.content);
}

/// How reading ended. What exactly was wrong may depend on how much had arrived; that it was wrong
/// may not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Complete,
    NeedsMore,
    Refused,
}

#[derive(Debug, PartialEq, Eq)]
struct Body {
    content: Vec<u8>,
    trailers: Vec<String>,
    end: End,
    /// Bytes behind the body.
    left: usize,
}

/// Feeds `data` in pieces of `size` bytes to `step` until it stops asking for more.
fn feed(data: &[u8], size: usize, mut step: impl FnMut(&mut BytesMut) -> End) -> (End, usize) {
    let mut buf = BytesMut::new();
    let mut fed = 0;
    for piece in data.chunks(size.min(data.len().max(1))) {
        buf.extend_from_slice(piece);
        fed += piece.len();
        let end = step(&mut buf);
        if end != End::NeedsMore {
            return (end, buf.len() + data.len() - fed);
        }
    }
    (End::NeedsMore, buf.len())
}

/// One step of a body; pushes what it yields.
fn read_body(
    body: &mut BodyDecoder,
    buf: &mut BytesMut,
    content: &mut Vec<u8>,
    trailers: &mut Vec<String>,
) -> End {
    loop {
        let promised = body.remaining();
        match body.decode(buf) {
            Ok(Decoded::Data(data)) => {
                assert!(!data.is_empty(), "data is never empty");
                if let Some(promised) = promised.filter(|left| *left > 0) {
                    assert!(
                        data.len() as u64 <= promised,
                        "no more than the framing says"
                    );
                }
                content.extend_from_slice(&data);
            }
            Ok(Decoded::Trailers(map)) => {
                assert!(!map.is_empty() && map.len() <= 64);
                trailers.extend(map.iter().map(|(name, value)| format!("{name}: {value:?}")));
            }
            Ok(Decoded::End) => {
                assert!(body.is_done() && body.eof().is_ok());
                return End::Complete;
            }
            Ok(Decoded::NeedMore) => return End::NeedsMore,
            Err(_) => return End::Refused,
        }
    }
}

fn body_in_pieces(data: &[u8], size: usize) -> Body {
    let mut body = BodyDecoder::new(BodyLength::Chunked);
    let (mut content, mut trailers) = (Vec::new(), Vec::new());
    let (end, left) = feed(data, size, |buf| {
        read_body(&mut body, buf, &mut content, &mut trailers)
    });
    // What is left in the buffer of an unfinished or refused body depends on the pieces.
    let left = if end == End::Complete { left } else { 0 };
    Body {
        content,
        trailers,
        end,
        left,
    }
}

/// All messages of a connection as text.
fn requests(data: &[u8], size: usize) -> (End, Vec<String>) {
    let mut reader = HeadReader::new();
    let mut scratch = HeaderMap::new();
    let mut read = Connection::default();
    let (end, _) = feed(data, size, |buf| {
        read.messages(buf, |buf| {
            match reader.request(buf, &LIMITS, &mut scratch) {
                Ok(Some(head)) => Ok(Some((format!("{head:?}"), head.body))),
                Ok(None) => Ok(None),
                Err(_) => Err(()),
            }
        })
    });
    (end, read.log)
}

fn responses(data: &[u8], size: usize, method: &Method) -> (End, Vec<String>) {
    let mut reader = HeadReader::new();
    let mut scratch = HeaderMap::new();
    let mut read = Connection::default();
    let (end, _) = feed(data, size, |buf| {
        read.messages(buf, |buf| {
            match reader.response(buf, method, &LIMITS, &mut scratch) {
                Ok(Some(head)) => Ok(Some((format!("{head:?}"), head.body))),
                Ok(None) => Ok(None),
                Err(_) => Err(()),
            }
        })
    });
    (end, read.log)
}

#[derive(Default)]
struct Connection {
    log: Vec<String>,
    body: Option<BodyDecoder>,
    content: Vec<u8>,
}

impl Connection {
    fn messages<F>(&mut self, buf: &mut BytesMut, mut head: F) -> End
    where
        F: FnMut(&mut BytesMut) -> Result<Option<(String, BodyLength)>, ()>,
    {
        loop {
            if let Some(body) = &mut self.body {
                let end = read_body(body, buf, &mut self.content, &mut self.log);
                if end != End::Complete {
                    return end;
                }
                self.log.push(format!(
                    "{:?}",
                    Bytes::from(std::mem::take(&mut self.content))
                ));
                self.body = None;
            }
            match head(buf) {
                Ok(Some((text, length))) => {
                    self.log.push(text);
                    self.body = Some(BodyDecoder::new(length));
                }
                Ok(None) => return End::NeedsMore,
                Err(()) => return End::Refused,
            }
        }
    }
}

fn second_opinion_on_request(head: &RequestHead, bytes: &[u8]) {
    let mut lines = [httparse::EMPTY_HEADER; 64];
    let mut other = httparse::Request::new(&mut lines);
    let read = other.parse(bytes).expect("httparse is more lenient");
    assert_eq!(
        read,
        httparse::Status::Complete(bytes.len()),
        "the head ends in one place"
    );
    assert_eq!(other.method, Some(head.method.as_str()));
    assert_eq!(other.version == Some(1), head.version == Version::Http11);
    // The host of an absolute target replaces or adds a line; HTTP/1.0 loses its expectation.
    let expects = other
        .headers
        .iter()
        .any(|header| header.name.eq_ignore_ascii_case("expect"));
    if head.target.authority().is_none() && !(expects && head.version == Version::Http10) {
        assert_eq!(other.path, Some(head.target.to_string().as_str()));
        same_lines(&head.headers, other.headers);
    }
}

fn second_opinion_on_response(head: &ResponseHead, bytes: &[u8]) {
    let mut lines = [httparse::EMPTY_HEADER; 64];
    let mut other = httparse::Response::new(&mut lines);
    let read = other.parse(bytes).expect("httparse is more lenient");
    assert_eq!(
        read,
        httparse::Status::Complete(bytes.len()),
        "the head ends in one place"
    );
    assert_eq!(other.code, Some(head.status.as_u16()));
    same_lines(&head.headers, other.headers);
}

fn same_lines(ours: &HeaderMap, theirs: &[httparse::Header<'_>]) {
    assert_eq!(ours.len(), theirs.len());
    for header in theirs {
        let name = header.name.to_ascii_lowercase();
        assert!(
            ours.get_all(name.as_str())
                .iter()
                .any(|value| value.as_bytes() == header.value),
            "{name} is read in one way"
        );
    }
}

fn request_is_unambiguous(head: &RequestHead) {
    let count = |name: &str| head.headers.get_all(name).iter().count();
    let (lengths, codings) = (count("content-length"), count("transfer-encoding"));
    match head.body {
        BodyLength::None => assert_eq!((lengths, codings), (0, 0)),
        BodyLength::Exact(length) => {
            assert_eq!((lengths, codings), (1, 0));
            let text = head.headers["content-length"].to_str().expect("digits");
            assert!(text.bytes().all(|b| b.is_ascii_digit()));
            assert_eq!(text.parse(), Ok(length));
        }
        BodyLength::Chunked => {
            assert_eq!((lengths, codings), (0, 1));
            assert_eq!(head.version, Version::Http11);
            assert!(
                head.headers["transfer-encoding"]
                    .as_bytes()
                    .eq_ignore_ascii_case(b"chunked")
            );
        }
        BodyLength::UntilClose => panic!("a request does not end with the connection"),
    }
    match count("host") {
        0 => assert_eq!(head.version, Version::Http10),
        1 => assert!(is_valid_host(head.headers["host"].as_bytes())),
        _ => panic!("two hosts"),
    }
    if let Some(authority) = head.target.authority() {
        assert_eq!(head.headers["host"], authority.as_str());
    }
}

/// Header lines that are not written from the map.
fn end_to_end(headers: &HeaderMap) -> Vec<(String, Vec<u8>)> {
    const SKIPPED: [&str; 6] = [
        "connection",
        "content-length",
        "keep-alive",
        "proxy-connection",
        "transfer-encoding",
        "upgrade",
    ];
    let mut lines: Vec<_> = headers
        .iter()
        .filter(|(name, _)| !SKIPPED.contains(&name.as_str()))
        .map(|(name, value)| (name.to_string(), value.as_bytes().to_vec()))
        .collect();
    lines.sort();
    lines
}

fn request_survives_the_encoder(head: &RequestHead) {
    let target = match head.target.path_and_query() {
        Some(path) => path.as_str(),
        None => head.target.authority().expect("a CONNECT").as_str(),
    };
    // The target of OPTIONS without a path, and of queries without one, is not to be sent as it is.
    if !target.starts_with('/') && head.method != Method::CONNECT && target != "*" {
        return;
    }
    let host = head
        .headers
        .get("host")
        .map_or(&b"default"[..], |host| host.as_bytes());
    let mut out = BytesMut::new();
    let intent = ConnectionIntent {
        keep_alive: head.keep_alive,
        upgrade: head.upgrade,
    };
    encode_request_head(
        &mut out,
        &head.method,
        target,
        Some(host),
        &head.headers,
        head.body,
        intent,
    );
    let limits = Limits::default();
    let again = HeadReader::new().request(&mut out, &limits, &mut HeaderMap::new());
    let again = again.expect("what we write we accept").expect("whole");
    assert!(out.is_empty(), "one message was written");
    assert_eq!(again.method, head.method);
    let same_body = again.body == head.body || (again.body.is_empty() && head.body.is_empty());
    assert!(same_body, "{:?} became {:?}", head.body, again.body);
    assert_eq!(again.upgrade, head.upgrade);
    let mut expected = end_to_end(&head.headers);
    if !head.headers.contains_key("host") {
        expected.push(("host".to_owned(), host.to_vec()));
        expected.sort();
    }
    assert_eq!(end_to_end(&again.headers), expected);
}

fn response_survives_the_encoder(head: &ResponseHead, method: &Method) {
    if method == Method::CONNECT {
        return;
    }
    let mut out = BytesMut::new();
    let extras = ResponseExtras {
        reason: head.reason.as_deref(),
        to_head: method == Method::HEAD,
    };
    encode_response_head(
        &mut out,
        Version::Http11,
        head.status,
        &head.headers,
        head.body,
        head.keep_alive,
        extras,
    );
    let limits = Limits::default();
    let again = HeadReader::new().response(&mut out, method, &limits, &mut HeaderMap::new());
    let again = again.expect("what we write we accept").expect("whole");
    assert!(out.is_empty(), "one message was written");
    assert_eq!(again.status, head.status);
    let same_body = again.body == head.body || (again.body.is_empty() && head.body.is_empty());
    assert!(same_body, "{:?} became {:?}", head.body, again.body);
    assert_eq!(end_to_end(&again.headers), end_to_end(&head.headers));
}

fn content_survives_the_encoder(content: &[u8]) {
    let mut out = BytesMut::new();
    for piece in content.chunks(5) {
        encode_chunk_head(&mut out, piece.len());
        out.extend_from_slice(piece);
        out.extend_from_slice(CHUNK_END);
    }
    encode_last_chunk(&mut out, None);
    let again = body_in_pieces(&out, usize::MAX);
    assert_eq!(
        (again.content.as_slice(), again.end, again.left),
        (content, End::Complete, 0)
    );
}

/// What the simple reader makes of a chunked body.
struct Simple {
    content: Vec<u8>,
    /// Bytes behind the body.
    left: usize,
    /// Sizes of at most 16 hexadecimal digits, no extension and no trailer.
    plain: bool,
}

/// Reads a whole chunked body the slow way.
fn simple_chunked(mut rest: &[u8]) -> Option<Simple> {
    let mut content = Vec::new();
    let mut plain = true;
    loop {
        let (line, after) = simple_line(rest)?;
        let digits = line.split(';').next()?;
        let hexadecimal = digits.bytes().all(|b| b.is_ascii_hexdigit());
        plain &= hexadecimal && digits.len() == line.len() && digits.len() <= 16;
        let size = usize::from_str_radix(digits, 16).ok()?;
        rest = after;
        if size == 0 {
            break;
        }
        content.extend_from_slice(rest.get(..size)?);
        rest = rest.get(size..)?.strip_prefix(b"\r\n")?;
    }
    loop {
        let end = rest.windows(2).position(|pair| pair == b"\r\n")?;
        rest = &rest[end + 2..];
        if end == 0 {
            return Some(Simple {
                content,
                left: rest.len(),
                plain,
            });
        }
        plain = false;
    }
}

fn simple_line(bytes: &[u8]) -> Option<(String, &[u8])> {
    let end = bytes.windows(2).position(|pair| pair == b"\r\n")?;
    let line = bytes[..end].iter().map(|b| char::from(*b)).collect();
    Some((line, &bytes[end + 2..]))
}
