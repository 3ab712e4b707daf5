//! What is written for a message: framed by what the caller says, never by what the map holds.

use bytes::BytesMut;
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use tidegate_wire::h1::{
    BodyLength, ConnectionIntent, ResponseExtras, Version, encode_chunk_head, encode_last_chunk,
    encode_request_head, encode_response_head,
};

fn text(out: &BytesMut) -> &str {
    std::str::from_utf8(out).expect("ascii")
}

fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in lines {
        map.append(*name, HeaderValue::from_static(value));
    }
    map
}

#[test]
fn a_request_is_framed_by_the_arguments_and_not_by_the_map() {
    let map = headers(&[
        ("host", "old"),
        ("content-length", "999"),
        ("transfer-encoding", "gzip"),
        ("connection", "close"),
        ("keep-alive", "timeout=1"),
        ("proxy-connection", "close"),
        ("upgrade", "websocket"),
        ("x", "1"),
        ("x", "2"),
    ]);
    let mut out = BytesMut::new();
    let intent = ConnectionIntent::default();
    encode_request_head(
        &mut out,
        &Method::GET,
        "/a?b",
        Some(b"new:81"),
        &map,
        BodyLength::Exact(70),
        intent,
    );
    assert_eq!(
        text(&out),
        "GET /a?b HTTP/1.1\r\nhost: new:81\r\nx: 1\r\nx: 2\r\ncontent-length: 70\r\n\r\n"
    );
    out.clear();
    let intent = ConnectionIntent {
        keep_alive: false,
        upgrade: false,
    };
    encode_request_head(
        &mut out,
        &Method::PUT,
        "*",
        None,
        &map,
        BodyLength::Chunked,
        intent,
    );
    assert_eq!(
        text(&out),
        "PUT * HTTP/1.1\r\nhost: old\r\nx: 1\r\nx: 2\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n"
    );
}

#[test]
fn an_upgrade_and_te_are_announced_in_connection() {
    let map = headers(&[("upgrade", "websocket"), ("te", "trailers")]);
    let mut out = BytesMut::new();
    let intent = ConnectionIntent {
        keep_alive: true,
        upgrade: true,
    };
    encode_request_head(
        &mut out,
        &Method::GET,
        "/",
        Some(b"a"),
        &map,
        BodyLength::None,
        intent,
    );
    assert_eq!(
        text(&out),
        "GET / HTTP/1.1\r\nhost: a\r\nupgrade: websocket\r\nte: trailers\r\nconnection: upgrade, te\r\n\r\n"
    );
}

#[test]
fn a_request_that_usually_has_a_body_says_that_it_has_none() {
    let encode = |method: &Method| {
        let mut out = BytesMut::new();
        let intent = ConnectionIntent::default();
        encode_request_head(
            &mut out,
            method,
            "/",
            Some(b"a"),
            &HeaderMap::new(),
            BodyLength::None,
            intent,
        );
        out
    };
    for method in [Method::POST, Method::PUT, Method::PATCH] {
        assert!(
            text(&encode(&method)).contains("\r\ncontent-length: 0\r\n"),
            "{method}"
        );
    }
    for method in [Method::GET, Method::DELETE, Method::HEAD, Method::OPTIONS] {
        assert!(
            !text(&encode(&method)).contains("content-length"),
            "{method}"
        );
    }
}

fn encoded(
    version: Version,
    status: u16,
    map: &HeaderMap,
    body: BodyLength,
    keep_alive: bool,
    to_head: bool,
) -> String {
    let mut out = BytesMut::new();
    let status = StatusCode::from_u16(status).expect("a status");
    let extras = ResponseExtras {
        reason: None,
        to_head,
    };
    encode_response_head(&mut out, version, status, map, body, keep_alive, extras);
    text(&out).to_owned()
}

#[test]
fn a_response_is_framed_by_the_arguments_and_not_by_the_map() {
    use BodyLength::{Chunked, Exact, None, UntilClose};
    use Version::{Http10, Http11};
    let map = headers(&[
        ("content-length", "9"),
        ("transfer-encoding", "gzip"),
        ("upgrade", "x"),
        ("connection", "x"),
        ("x", "1"),
    ]);
    for (version, status, body, keep_alive, to_head, expected) in [
        (
            Http11,
            200,
            Exact(5),
            true,
            false,
            "200 OK\r\nx: 1\r\ncontent-length: 5\r\n\r\n",
        ),
        (
            Http11,
            200,
            Chunked,
            true,
            false,
            "200 OK\r\nx: 1\r\ntransfer-encoding: chunked\r\n\r\n",
        ),
        (
            Http11,
            200,
            None,
            true,
            false,
            "200 OK\r\nx: 1\r\ncontent-length: 0\r\n\r\n",
        ),
        (
            Http11,
            404,
            Exact(5),
            false,
            false,
            "404 Not Found\r\nx: 1\r\ncontent-length: 5\r\nconnection: close\r\n\r\n",
        ),
        (
            Http11,
            200,
            UntilClose,
            true,
            false,
            "200 OK\r\nx: 1\r\nconnection: close\r\n\r\n",
        ),
        (
            Http10,
            200,
            Exact(5),
            true,
            false,
            "200 OK\r\nx: 1\r\ncontent-length: 5\r\nconnection: keep-alive\r\n\r\n",
        ),
        (
            Http10,
            200,
            UntilClose,
            false,
            false,
            "200 OK\r\nx: 1\r\nconnection: close\r\n\r\n",
        ),
        (
            Http11,
            204,
            None,
            true,
            false,
            "204 No Content\r\nx: 1\r\n\r\n",
        ),
        (
            Http11,
            204,
            Exact(5),
            true,
            false,
            "204 No Content\r\nx: 1\r\n\r\n",
        ),
        (
            Http11,
            304,
            None,
            true,
            false,
            "304 Not Modified\r\ncontent-length: 9\r\nx: 1\r\n\r\n",
        ),
        (
            Http11,
            200,
            None,
            true,
            true,
            "200 OK\r\ncontent-length: 9\r\nx: 1\r\n\r\n",
        ),
        (
            Http11,
            103,
            None,
            true,
            false,
            "103 Early Hints\r\nx: 1\r\n\r\n",
        ),
        (
            Http11,
            100,
            None,
            false,
            false,
            "100 Continue\r\nx: 1\r\n\r\n",
        ),
        (
            Http11,
            101,
            None,
            true,
            false,
            "101 Switching Protocols\r\nupgrade: x\r\nx: 1\r\nconnection: upgrade\r\n\r\n",
        ),
        (
            Http11,
            426,
            None,
            true,
            false,
            "426 Upgrade Required\r\nupgrade: x\r\nx: 1\r\ncontent-length: 0\r\nconnection: upgrade\r\n\r\n",
        ),
    ] {
        let found = encoded(version, status, &map, body, keep_alive, to_head);
        assert_eq!(
            found,
            format!("HTTP/1.1 {expected}"),
            "{version:?} {status} {body:?}"
        );
    }
}

#[test]
fn a_reason_cannot_begin_another_line() {
    let mut out = BytesMut::new();
    let extras = ResponseExtras {
        reason: Some(b"fine\r\nx: y"),
        to_head: false,
    };
    encode_response_head(
        &mut out,
        Version::Http11,
        StatusCode::OK,
        &HeaderMap::new(),
        BodyLength::None,
        true,
        extras,
    );
    assert_eq!(
        text(&out),
        "HTTP/1.1 200 fine  x: y\r\ncontent-length: 0\r\n\r\n"
    );
}

#[test]
fn framing_for_a_caller_is_what_its_version_can_read() {
    use BodyLength::{Chunked, Exact, None, UntilClose};
    use Version::{Http10, Http11};
    for (body, version, expected) in [
        (UntilClose, Http11, Chunked),
        (Chunked, Http11, Chunked),
        (Chunked, Http10, UntilClose),
        (UntilClose, Http10, UntilClose),
        (Exact(3), Http10, Exact(3)),
        (None, Http11, None),
    ] {
        assert_eq!(body.framed_for(version), expected);
    }
}

#[test]
fn chunks_are_written_in_hexadecimal_and_an_empty_one_is_not_an_end() {
    let mut out = BytesMut::new();
    encode_chunk_head(&mut out, 0);
    encode_chunk_head(&mut out, 1);
    encode_chunk_head(&mut out, 0x1f_a0);
    encode_chunk_head(&mut out, usize::MAX);
    encode_last_chunk(&mut out, None);
    assert_eq!(text(&out), "1\r\n1fa0\r\nffffffffffffffff\r\n0\r\n\r\n");
}

#[test]
fn trailers_are_written_without_what_may_not_stand_there() {
    let map = headers(&[("grpc-status", "0"), ("content-length", "5"), ("host", "b")]);
    let mut out = BytesMut::new();
    encode_last_chunk(&mut out, Some(&map));
    assert_eq!(text(&out), "0\r\ngrpc-status: 0\r\n\r\n");
}
