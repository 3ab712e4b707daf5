//! What well-formed messages mean.

use bytes::BytesMut;
use http::{HeaderMap, HeaderValue, Method};
use tidegate_wire::h1::{
    BodyDecoder, BodyError, BodyLength, Decoded, FramingError, HeadReader, Limits, RequestHead,
    ResponseError, ResponseHead, Version, parse_request, parse_response,
};

fn request(text: &str) -> RequestHead {
    let mut buf = BytesMut::from(text);
    let head = parse_request(&mut buf, &Limits::default(), &mut HeaderMap::new());
    head.expect("accepted").expect("whole")
}

fn response_to(method: &Method, text: &str) -> Result<ResponseHead, ResponseError> {
    let mut buf = BytesMut::from(text);
    parse_response(&mut buf, method, &Limits::default(), &mut HeaderMap::new())
        .map(|head| head.expect("whole"))
}

fn response(text: &str) -> ResponseHead {
    response_to(&Method::GET, text).expect("accepted")
}

// --- requests ---

#[test]
fn a_request_is_read_with_values_trimmed_and_names_lower_cased() {
    let head = request(
        "POST /a?b=c HTTP/1.1\r\nHost: h:80\r\nX-Y:  \t v w \t\r\nEmpty:\r\nContent-Length: 12\r\n\r\n",
    );
    assert_eq!(head.method, Method::POST);
    assert_eq!(head.target, "/a?b=c");
    assert_eq!(head.version, Version::Http11);
    assert_eq!(head.headers["host"], "h:80");
    assert_eq!(head.headers["x-y"], "v w");
    assert_eq!(head.headers["empty"], "");
    assert_eq!(head.body, BodyLength::Exact(12));
    assert!(head.keep_alive && !head.expect_continue && !head.upgrade);
}

#[test]
fn what_follows_the_head_stays_in_the_buffer() {
    let mut buf = BytesMut::from("\r\nGET / HTTP/1.1\r\nhost: a\r\n\r\nbody");
    assert!(matches!(
        parse_request(&mut buf, &Limits::default(), &mut HeaderMap::new()),
        Ok(Some(_))
    ));
    assert_eq!(buf, "body");
}

#[test]
fn the_scratch_map_is_reused_and_nothing_of_an_earlier_request_stays() {
    let mut reader = HeadReader::new();
    let mut scratch = HeaderMap::with_capacity(64);
    let capacity = scratch.capacity();
    scratch.insert("left-over", HeaderValue::from_static("x"));
    let mut buf = BytesMut::from("GET / HTTP/1.1\r\nhost: a\r\n\r\n");
    let head = reader.request(&mut buf, &Limits::default(), &mut scratch);
    let head = head.expect("accepted").expect("whole");
    assert_eq!(head.headers.len(), 1);
    assert_eq!(head.headers.capacity(), capacity);
}

#[test]
fn a_head_in_progress_is_told_from_an_idle_connection() {
    let mut reader = HeadReader::new();
    let (limits, mut scratch) = (Limits::default(), HeaderMap::new());
    let mut buf = BytesMut::new();
    assert!(matches!(
        reader.request(&mut buf, &limits, &mut scratch),
        Ok(None)
    ));
    assert!(!reader.is_mid_head());
    buf.extend_from_slice(b"\r\n");
    assert!(matches!(
        reader.request(&mut buf, &limits, &mut scratch),
        Ok(None)
    ));
    assert!(!reader.is_mid_head());
    buf.extend_from_slice(b"GET /");
    assert!(matches!(
        reader.request(&mut buf, &limits, &mut scratch),
        Ok(None)
    ));
    assert!(reader.is_mid_head());
    buf.extend_from_slice(b" HTTP/1.1\r\nhost: a\r\n\r\n");
    assert!(matches!(
        reader.request(&mut buf, &limits, &mut scratch),
        Ok(Some(_))
    ));
    assert!(!reader.is_mid_head());
}

#[test]
fn persistence_follows_version_and_connection() {
    for (version, connection, expected) in [
        ("1.1", "", true),
        ("1.1", "connection: close\r\n", false),
        ("1.1", "connection: x, CLOSE\r\n", false),
        (
            "1.1",
            "connection: keep-alive\r\nconnection: close\r\n",
            false,
        ),
        ("1.0", "", false),
        ("1.0", "connection: Keep-Alive\r\n", true),
        ("1.0", "connection: keep-alive, close\r\n", false),
    ] {
        let head = request(&format!(
            "GET / HTTP/{version}\r\nhost: a\r\n{connection}\r\n"
        ));
        assert_eq!(head.keep_alive, expected, "{version} {connection}");
    }
}

#[test]
fn an_expectation_counts_only_with_a_body_and_in_http_11() {
    let expects = |text: &str| request(text).expect_continue;
    assert!(expects(
        "PUT / HTTP/1.1\r\nhost: a\r\nexpect: 100-Continue\r\ncontent-length: 1\r\n\r\n"
    ));
    assert!(expects(
        "PUT / HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ntransfer-encoding: chunked\r\n\r\n"
    ));
    assert!(!expects(
        "PUT / HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 0\r\n\r\n"
    ));
    assert!(!expects(
        "GET / HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\n\r\n"
    ));
    assert!(!expects(
        "PUT / HTTP/1.0\r\nexpect: 100-continue\r\ncontent-length: 1\r\n\r\n"
    ));
    assert!(!expects(
        "PUT / HTTP/1.0\r\nexpect: whatever\r\ncontent-length: 1\r\n\r\n"
    ));
}

#[test]
fn an_expectation_of_http_10_is_not_passed_on() {
    for expect in ["100-continue", "whatever"] {
        let head = request(&format!(
            "PUT / HTTP/1.0\r\nexpect: {expect}\r\ncontent-length: 1\r\n\r\n"
        ));
        assert!(!head.headers.contains_key("expect"), "{expect}");
    }
}

#[test]
fn an_upgrade_needs_both_headers_and_is_never_to_http_or_tls() {
    let upgrade =
        |lines: &str| request(&format!("GET / HTTP/1.1\r\nhost: a\r\n{lines}\r\n")).upgrade;
    assert!(upgrade(
        "connection: keep-alive, Upgrade\r\nupgrade: websocket\r\n"
    ));
    assert!(!upgrade("upgrade: websocket\r\n"));
    assert!(!upgrade("connection: upgrade\r\n"));
    for refused in [
        "h2c",
        "H2C",
        "websocket, h2c",
        "h2c, websocket",
        "HTTP/2.0",
        "TLS/1.2",
        "h2",
    ] {
        assert!(
            !upgrade(&format!("connection: upgrade\r\nupgrade: {refused}\r\n")),
            "{refused}"
        );
    }
    assert!(!upgrade(
        "connection: upgrade\r\nupgrade: h2c\r\nupgrade: websocket\r\n"
    ));
    assert!(
        !request("GET / HTTP/1.0\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n").upgrade
    );
}

#[test]
fn the_authority_of_an_absolute_target_replaces_host() {
    let head = request("GET HTTP://real.example:81/p?q HTTP/1.1\r\nHost: other.example\r\n\r\n");
    assert_eq!(
        head.headers.get_all("host").iter().collect::<Vec<_>>(),
        ["real.example:81"]
    );
    assert_eq!(
        head.target.path_and_query().map(|p| p.as_str()),
        Some("/p?q")
    );
    let head = request("GET http://real.example HTTP/1.0\r\n\r\n");
    assert_eq!(head.headers["host"], "real.example");
    assert_eq!(head.target.path(), "/");
}

#[test]
fn connect_and_options_have_their_own_targets() {
    let head = request("CONNECT [::1]:443 HTTP/1.1\r\nhost: other\r\n\r\n");
    assert_eq!(
        head.target.authority().map(|a| a.as_str()),
        Some("[::1]:443")
    );
    assert_eq!(head.headers["host"], "[::1]:443");
    let head = request("OPTIONS * HTTP/1.1\r\nhost: a\r\n\r\n");
    assert_eq!(head.target.path(), "*");
}

#[test]
fn a_path_of_two_slashes_is_a_path_and_no_authority() {
    let head = request("GET //evil.example/x HTTP/1.1\r\nhost: a\r\n\r\n");
    assert_eq!(head.target.path(), "//evil.example/x");
    assert!(head.target.authority().is_none());
    assert_eq!(head.headers["host"], "a");
}

#[test]
fn http_10_needs_no_host() {
    assert!(request("GET / HTTP/1.0\r\n\r\n").headers.is_empty());
}

#[test]
fn values_above_ascii_are_kept_as_bytes() {
    let mut buf = BytesMut::from(&b"GET / HTTP/1.1\r\nhost: a\r\nx: \xe9\xff\r\n\r\n"[..]);
    let head = parse_request(&mut buf, &Limits::default(), &mut HeaderMap::new());
    assert_eq!(
        head.expect("accepted").expect("whole").headers["x"].as_bytes(),
        b"\xe9\xff"
    );
}

// --- responses ---

#[test]
fn the_body_of_a_response_depends_on_headers_status_and_method() {
    let length = "content-length: 5\r\n";
    let chunked = "transfer-encoding: chunked\r\n";
    for (method, status, lines, body) in [
        (Method::GET, 200, length, BodyLength::Exact(5)),
        (Method::GET, 200, chunked, BodyLength::Chunked),
        (Method::GET, 200, "", BodyLength::UntilClose),
        (Method::HEAD, 200, length, BodyLength::None),
        (Method::HEAD, 200, chunked, BodyLength::None),
        (Method::GET, 304, length, BodyLength::None),
        (Method::GET, 204, "", BodyLength::None),
        (Method::GET, 100, "", BodyLength::None),
        (Method::GET, 103, "", BodyLength::None),
        (Method::GET, 101, "", BodyLength::None),
        (Method::CONNECT, 200, length, BodyLength::None),
        (Method::CONNECT, 407, length, BodyLength::Exact(5)),
        (
            Method::GET,
            200,
            "content-length: 5\r\ncontent-length: 5\r\n",
            BodyLength::Exact(5),
        ),
    ] {
        let head =
            response_to(&method, &format!("HTTP/1.1 {status} X\r\n{lines}\r\n")).expect("accepted");
        assert_eq!(head.body, body, "{method} {status} {lines}");
    }
}

#[test]
fn an_upstream_connection_is_kept_only_when_its_next_byte_begins_a_message() {
    for (text, expected) in [
        ("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n", true),
        ("HTTP/1.1 200 OK\r\n\r\n", false),
        (
            "HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: close\r\n\r\n",
            false,
        ),
        ("HTTP/1.0 200 OK\r\ncontent-length: 5\r\n\r\n", false),
        (
            "HTTP/1.0 200 OK\r\ncontent-length: 5\r\nconnection: keep-alive\r\n\r\n",
            true,
        ),
        ("HTTP/1.1 204 No Content\r\n\r\n", true),
        (
            "HTTP/1.1 204 No Content\r\ncontent-length: 5\r\n\r\n",
            false,
        ),
        (
            "HTTP/1.1 204 No Content\r\ntransfer-encoding: chunked\r\n\r\n",
            false,
        ),
    ] {
        assert_eq!(response(text).keep_alive, expected, "{text}");
    }
}

#[test]
fn a_reason_is_kept_when_it_is_not_the_usual_one() {
    assert_eq!(response("HTTP/1.1 200 OK\r\n\r\n").reason, None);
    assert_eq!(response("HTTP/1.1 200\r\n\r\n").reason, None);
    assert_eq!(response("HTTP/1.1 200 \r\n\r\n").reason, None);
    assert_eq!(
        response("HTTP/1.1 299 Nearly fine\r\n\r\n")
            .reason
            .as_deref(),
        Some(&b"Nearly fine"[..])
    );
}

macro_rules! refused_responses {
    ($($name:ident: $error:pat = $text:expr;)*) => {
        $(#[test] fn $name() {
            let result = response_to(&Method::GET, $text);
            assert!(matches!(result, Err($error)), "{:?}: {result:?}", $text);
        })*
    };
}

refused_responses! {
    a_response_with_length_and_chunked: ResponseError::Framing(FramingError::LengthAndCoding) =
        "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n";
    a_response_with_two_lengths: ResponseError::Framing(FramingError::DuplicateLength) =
        "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\n";
    a_response_with_a_bad_length: ResponseError::Framing(FramingError::BadLength) =
        "HTTP/1.1 200 OK\r\ncontent-length: 5x\r\n\r\n";
    a_response_with_an_unknown_coding: ResponseError::Framing(FramingError::UnknownCoding) =
        "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n";
    a_response_with_chunked_not_last: ResponseError::Framing(FramingError::BadCoding) =
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked, gzip\r\n\r\n";
    a_chunked_http_10_response: ResponseError::Framing(FramingError::CodingInHttp10) =
        "HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    a_response_with_a_bare_lf: ResponseError::Field(_) = "HTTP/1.1 200 OK\nx: y\r\n\r\n";
    a_response_with_a_folded_header: ResponseError::Field(_) = "HTTP/1.1 200 OK\r\nx: y\r\n z\r\n\r\n";
    a_response_with_a_space_before_a_colon: ResponseError::Field(_) = "HTTP/1.1 200 OK\r\nx : y\r\n\r\n";
    a_response_that_is_none: ResponseError::StatusLine = "SSH-2.0-OpenSSH\r\n\r\n";
    a_response_with_a_short_status: ResponseError::StatusLine = "HTTP/1.1 20\r\n\r\n";
    a_response_with_a_long_status: ResponseError::StatusLine = "HTTP/1.1 2000 OK\r\n\r\n";
    a_response_with_a_status_below_100: ResponseError::StatusLine = "HTTP/1.1 099 OK\r\n\r\n";
    a_response_with_a_bare_cr_in_the_reason: ResponseError::StatusLine = "HTTP/1.1 200 O\rK\r\n\r\n";
    a_response_of_http_2: ResponseError::Version = "HTTP/2.0 200 OK\r\n\r\n";
    bytes_left_over_before_a_response: ResponseError::StatusLine = "\r\nHTTP/1.1 200 OK\r\n\r\n";
}

#[test]
fn a_response_head_beyond_its_limits_is_refused() {
    let limits = Limits {
        head_bytes: 64,
        headers: 2,
    };
    let parse = |text: &str| {
        parse_response(
            &mut BytesMut::from(text),
            &Method::GET,
            &limits,
            &mut HeaderMap::new(),
        )
    };
    let long = format!("HTTP/1.1 200 OK\r\nx: {}", "y".repeat(64));
    assert!(matches!(parse(&long), Err(ResponseError::HeadTooLarge)));
    assert!(matches!(
        parse("HTTP/1.1 200 OK\r\na: 1\r\nb: 2\r\nc: 3\r\n"),
        Err(ResponseError::TooManyHeaders)
    ));
}

// --- bodies ---

#[test]
fn a_body_of_known_length_ends_there_and_leaves_the_rest() {
    let mut body = BodyDecoder::new(BodyLength::Exact(5));
    let mut buf = BytesMut::from("hel");
    assert_eq!(body.remaining(), Some(5));
    assert!(matches!(body.decode(&mut buf), Ok(Decoded::Data(data)) if data == "hel"));
    assert!(matches!(body.decode(&mut buf), Ok(Decoded::NeedMore)));
    assert_eq!(body.remaining(), Some(2));
    assert_eq!(body.eof(), Err(BodyError::Truncated));
    buf.extend_from_slice(b"loGET");
    assert!(matches!(body.decode(&mut buf), Ok(Decoded::Data(data)) if data == "lo"));
    assert!(body.is_done());
    assert!(matches!(body.decode(&mut buf), Ok(Decoded::End)));
    assert_eq!(body.eof(), Ok(()));
    assert_eq!(buf, "GET");
}

#[test]
fn bytes_read_past_the_decoder_are_counted() {
    let mut body = BodyDecoder::new(BodyLength::Exact(10));
    body.consumed(4);
    assert_eq!(body.remaining(), Some(6));
    body.consumed(6);
    assert!(body.is_done());

    let mut body = BodyDecoder::new(BodyLength::Chunked);
    let mut buf = BytesMut::from("8\r\nab");
    assert_eq!(body.remaining(), None);
    assert!(matches!(body.decode(&mut buf), Ok(Decoded::Data(_))));
    assert_eq!(body.remaining(), Some(6));
    body.consumed(6);
    assert_eq!(body.remaining(), None);
    buf.extend_from_slice(b"\r\n0\r\n\r\n");
    assert!(matches!(body.decode(&mut buf), Ok(Decoded::End)));
}

#[test]
fn no_body_is_done_at_once() {
    for length in [BodyLength::None, BodyLength::Exact(0)] {
        let mut body = BodyDecoder::new(length);
        assert!(body.is_done() && length.is_empty());
        assert!(matches!(
            body.decode(&mut BytesMut::from("GET")),
            Ok(Decoded::End)
        ));
    }
}

#[test]
fn a_body_until_close_ends_with_the_connection_only() {
    let mut body = BodyDecoder::new(BodyLength::UntilClose);
    let mut buf = BytesMut::from("abc");
    assert!(matches!(body.decode(&mut buf), Ok(Decoded::Data(data)) if data == "abc"));
    assert!(matches!(body.decode(&mut buf), Ok(Decoded::NeedMore)));
    assert_eq!(body.eof(), Ok(()));
    assert!(matches!(body.decode(&mut buf), Ok(Decoded::End)));
}

#[test]
fn trailers_are_yielded_without_what_may_not_stand_there() {
    let mut body = BodyDecoder::new(BodyLength::Chunked);
    let mut buf = BytesMut::from(
        "0\r\nGrpc-Status: 0\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\nhost: b\r\nauthorization: x\r\n\
         x-forwarded-for: 1\r\nset-cookie: a\r\ncontent-type: b\r\ncontent-digest: c\r\n\r\nGET",
    );
    let Ok(Decoded::Trailers(trailers)) = body.decode(&mut buf) else {
        panic!("trailers expected");
    };
    let mut names: Vec<_> = trailers.keys().map(|name| name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["content-digest", "grpc-status"]);
    assert!(matches!(body.decode(&mut buf), Ok(Decoded::End)));
    assert_eq!(buf, "GET");
}

#[test]
fn trailers_of_forbidden_fields_only_are_no_trailers() {
    let mut body = BodyDecoder::new(BodyLength::Chunked);
    let mut buf = BytesMut::from("0\r\nhost: b\r\n\r\n");
    assert!(matches!(body.decode(&mut buf), Ok(Decoded::End)));
}

#[test]
fn chunk_sizes_are_hexadecimal_in_either_case_with_leading_zeros() {
    for (size, expected) in [
        ("a", 10),
        ("B", 11),
        ("0f", 15),
        ("1C", 28),
        ("0000000000000001", 1),
    ] {
        let mut body = BodyDecoder::new(BodyLength::Chunked);
        let content = "x".repeat(expected);
        let mut buf = BytesMut::from(format!("{size}\r\n{content}\r\n0\r\n\r\n").as_str());
        assert!(
            matches!(body.decode(&mut buf), Ok(Decoded::Data(data)) if data == content),
            "{size}"
        );
        assert!(matches!(body.decode(&mut buf), Ok(Decoded::End)), "{size}");
    }
}
