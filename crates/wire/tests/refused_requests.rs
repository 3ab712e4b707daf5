//! Every request that two parsers could read in two ways is refused, each with the right status.
//! One test a case: the name says what is sent.

use bytes::BytesMut;
use http::{HeaderMap, StatusCode};
use tidegate_wire::h1::{
    BodyDecoder, BodyError, BodyLength, Decoded, Limits, RequestError, parse_request,
};

fn parse(bytes: &[u8]) -> Result<Option<tidegate_wire::h1::RequestHead>, RequestError> {
    parse_request(
        &mut BytesMut::from(bytes),
        &Limits::default(),
        &mut HeaderMap::new(),
    )
}

#[track_caller]
fn assert_refused(bytes: &[u8], status: u16) {
    let text = bytes.escape_ascii();
    match parse(bytes) {
        Err(error) => assert_eq!(error.status().as_u16(), status, "{text}: {error}"),
        Ok(head) => panic!("{text} was accepted: {head:?}"),
    }
}

macro_rules! refused {
    ($($name:ident: $status:literal <= $bytes:expr;)*) => {
        $(#[test] fn $name() { assert_refused($bytes, $status); })*
    };
}

/// A POST to `a` with these header lines.
macro_rules! post {
    ($lines:literal) => {
        concat!("POST / HTTP/1.1\r\nhost: a\r\n", $lines, "\r\n").as_bytes()
    };
}

refused! {
    // --- where the body ends ---
    length_and_chunked: 400 <= post!("content-length: 5\r\ntransfer-encoding: chunked\r\n");
    chunked_and_length: 400 <= post!("transfer-encoding: chunked\r\ncontent-length: 5\r\n");
    length_and_unknown_coding: 400 <= post!("content-length: 5\r\ntransfer-encoding: gzip\r\n");
    two_different_lengths: 400 <= post!("content-length: 5\r\ncontent-length: 6\r\n");
    two_equal_lengths: 400 <= post!("content-length: 5\r\ncontent-length: 5\r\n");
    a_list_of_equal_lengths: 400 <= post!("content-length: 5, 5\r\n");
    a_length_with_a_plus: 400 <= post!("content-length: +5\r\n");
    a_length_with_a_minus: 400 <= post!("content-length: -5\r\n");
    a_length_with_a_space_inside: 400 <= post!("content-length: 5 5\r\n");
    an_empty_length: 400 <= post!("content-length:\r\n");
    a_hexadecimal_length: 400 <= post!("content-length: 0x5\r\n");
    a_fractional_length: 400 <= post!("content-length: 5.0\r\n");
    a_length_with_an_underscore: 400 <= post!("content-length: 1_0\r\n");
    a_length_just_above_64_bits: 400 <= post!("content-length: 18446744073709551616\r\n");
    a_length_of_a_hundred_digits: 400 <= post!("content-length: 0000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000005\r\n");
    a_length_in_wide_digits: 400 <= post!("content-length: \u{ff15}\r\n");
    an_unknown_coding: 501 <= post!("transfer-encoding: gzip\r\n");
    an_unknown_coding_before_chunked: 501 <= post!("transfer-encoding: gzip, chunked\r\n");
    identity_coding: 501 <= post!("transfer-encoding: identity\r\n");
    a_coding_that_only_ends_in_chunked: 501 <= post!("transfer-encoding: xchunked\r\n");
    chunked_twice_in_one_line: 400 <= post!("transfer-encoding: chunked, chunked\r\n");
    chunked_twice_in_two_lines: 400 <= post!("transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n");
    chunked_not_last: 400 <= post!("transfer-encoding: chunked, gzip\r\n");
    chunked_then_identity_in_two_lines: 400 <= post!("transfer-encoding: chunked\r\ntransfer-encoding: identity\r\n");
    chunked_with_a_parameter: 400 <= post!("transfer-encoding: chunked;q=1\r\n");
    chunked_in_quotes: 400 <= post!("transfer-encoding: \"chunked\"\r\n");
    chunked_with_a_vertical_tab: 400 <= post!("transfer-encoding: \u{b}chunked\r\n");
    chunked_with_a_trailing_comma: 400 <= post!("transfer-encoding: chunked,\r\n");
    an_empty_coding: 400 <= post!("transfer-encoding:\r\n");
    chunked_with_a_space_inside: 400 <= post!("transfer-encoding: chun ked\r\n");
    chunked_in_http_10: 400 <= b"POST / HTTP/1.0\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n";

    // --- line ends ---
    a_bare_lf_after_the_request_line: 400 <= b"GET / HTTP/1.1\nhost: a\r\n\r\n";
    a_bare_lf_after_a_header: 400 <= b"GET / HTTP/1.1\r\nhost: a\nx: y\r\n\r\n";
    a_bare_lf_as_the_empty_line: 400 <= b"GET / HTTP/1.1\r\nhost: a\r\n\n";
    bare_lfs_only: 400 <= b"GET / HTTP/1.1\nhost: a\n\n";
    a_bare_lf_before_the_request: 400 <= b"\nGET / HTTP/1.1\r\nhost: a\r\n\r\n";
    a_bare_cr_in_a_value: 400 <= b"GET / HTTP/1.1\r\nhost: a\r\nx: y\rcontent-length: 5\r\n\r\n";
    a_bare_cr_in_a_name: 400 <= b"GET / HTTP/1.1\r\nhost: a\r\nx\r: y\r\n\r\n";
    a_bare_cr_in_the_request_line: 400 <= b"GET /\rx HTTP/1.1\r\nhost: a\r\n\r\n";
    a_double_cr: 400 <= b"GET / HTTP/1.1\r\nhost: a\r\r\n\r\n";
    a_double_cr_after_the_request_line: 400 <= b"GET / HTTP/1.1\r\r\nhost: a\r\n\r\n";

    // --- header lines ---
    a_folded_header: 400 <= post!("x: y\r\n z\r\n");
    a_header_folded_with_a_tab: 400 <= post!("x: y\r\n\tz\r\n");
    a_folded_transfer_encoding: 400 <= post!("transfer-encoding:\r\n chunked\r\n");
    white_space_before_the_first_header: 400 <= b"GET / HTTP/1.1\r\n host: a\r\n\r\n";
    a_line_of_white_space: 400 <= post!(" \r\n");
    a_space_before_the_colon: 400 <= post!("content-length : 5\r\n");
    a_tab_before_the_colon: 400 <= post!("content-length\t: 5\r\n");
    a_space_in_a_name: 400 <= post!("content length: 5\r\n");
    a_header_without_a_colon: 400 <= post!("content-length 5\r\n");
    an_empty_name: 400 <= post!(": 5\r\n");
    a_nul_in_a_name: 400 <= post!("x\0y: 5\r\n");
    a_control_character_in_a_name: 400 <= post!("x\u{1}: 5\r\n");
    a_byte_above_ascii_in_a_name: 400 <= post!("\u{e9}: 5\r\n");
    a_delimiter_in_a_name: 400 <= post!("x(y): 5\r\n");
    a_nul_in_a_value: 400 <= post!("x: a\0b\r\n");
    a_delete_in_a_value: 400 <= post!("x: a\u{7f}b\r\n");
    an_escape_in_a_value: 400 <= post!("x: a\u{1b}b\r\n");

    // --- the request line ---
    no_version: 400 <= b"GET /\r\nhost: a\r\n\r\n";
    no_target: 400 <= b"GET HTTP/1.1\r\nhost: a\r\n\r\n";
    only_a_method: 400 <= b"GET\r\nhost: a\r\n\r\n";
    two_spaces_after_the_method: 400 <= b"GET  / HTTP/1.1\r\nhost: a\r\n\r\n";
    two_spaces_before_the_version: 400 <= b"GET /  HTTP/1.1\r\nhost: a\r\n\r\n";
    a_space_in_the_target: 400 <= b"GET /a b HTTP/1.1\r\nhost: a\r\n\r\n";
    a_tab_for_a_space: 400 <= b"GET\t/\tHTTP/1.1\r\nhost: a\r\n\r\n";
    a_space_after_the_version: 400 <= b"GET / HTTP/1.1 \r\nhost: a\r\n\r\n";
    a_space_before_the_method: 400 <= b" GET / HTTP/1.1\r\nhost: a\r\n\r\n";
    a_method_that_is_no_token: 400 <= b"GE(T / HTTP/1.1\r\nhost: a\r\n\r\n";
    a_lower_case_version: 400 <= b"GET / http/1.1\r\nhost: a\r\n\r\n";
    a_two_digit_minor_version: 400 <= b"GET / HTTP/1.10\r\nhost: a\r\n\r\n";
    a_version_without_a_minor: 400 <= b"GET / HTTP/1\r\nhost: a\r\n\r\n";
    http_2_in_the_clear_on_a_line: 505 <= b"GET / HTTP/2.0\r\nhost: a\r\n\r\n";
    http_0_9_with_a_version: 505 <= b"GET / HTTP/0.9\r\nhost: a\r\n\r\n";
    http_1_2: 505 <= b"GET / HTTP/1.2\r\nhost: a\r\n\r\n";
    the_http_2_preface: 505 <= b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    a_tls_hello: 400 <= b"\x16\x03\x01\x02\x00\x01\x00";
    a_fragment_in_the_target: 400 <= b"GET /a#b HTTP/1.1\r\nhost: a\r\n\r\n";
    a_nul_in_the_target: 400 <= b"GET /\0 HTTP/1.1\r\nhost: a\r\n\r\n";
    a_raw_byte_above_ascii_in_the_target: 400 <= b"GET /\xe9 HTTP/1.1\r\nhost: a\r\n\r\n";
    a_target_without_a_slash: 400 <= b"GET index.html HTTP/1.1\r\nhost: a\r\n\r\n";
    an_asterisk_for_get: 400 <= b"GET * HTTP/1.1\r\nhost: a\r\n\r\n";
    connect_to_a_path: 400 <= b"CONNECT / HTTP/1.1\r\nhost: a\r\n\r\n";
    connect_without_a_port: 400 <= b"CONNECT a HTTP/1.1\r\nhost: a\r\n\r\n";
    connect_with_an_empty_port: 400 <= b"CONNECT a: HTTP/1.1\r\nhost: a\r\n\r\n";
    connect_to_a_url: 400 <= b"CONNECT http://a:80/ HTTP/1.1\r\nhost: a\r\n\r\n";
    an_authority_for_get: 400 <= b"GET a:80 HTTP/1.1\r\nhost: a\r\n\r\n";
    a_foreign_scheme: 400 <= b"GET ftp://a/ HTTP/1.1\r\nhost: a\r\n\r\n";
    user_information_in_the_target: 400 <= b"GET http://user@a/ HTTP/1.1\r\nhost: a\r\n\r\n";
    an_absolute_target_without_a_host: 400 <= b"GET http:///x HTTP/1.1\r\nhost: a\r\n\r\n";
    many_empty_lines_before_the_request: 400 <= b"\r\n\r\n\r\nGET / HTTP/1.1\r\nhost: a\r\n\r\n";

    // --- host ---
    no_host: 400 <= b"GET / HTTP/1.1\r\nx: y\r\n\r\n";
    no_headers_at_all: 400 <= b"GET / HTTP/1.1\r\n\r\n";
    an_empty_host: 400 <= b"GET / HTTP/1.1\r\nhost:\r\n\r\n";
    two_hosts: 400 <= b"GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n";
    two_equal_hosts: 400 <= b"GET / HTTP/1.1\r\nhost: a\r\nHost: a\r\n\r\n";
    two_hosts_in_one_line: 400 <= b"GET / HTTP/1.1\r\nhost: a, b\r\n\r\n";
    two_hosts_in_http_10: 400 <= b"GET / HTTP/1.0\r\nhost: a\r\nhost: b\r\n\r\n";
    a_host_with_a_path: 400 <= b"GET / HTTP/1.1\r\nhost: a/b\r\n\r\n";
    a_host_with_user_information: 400 <= b"GET / HTTP/1.1\r\nhost: x@a\r\n\r\n";
    a_host_with_a_space: 400 <= b"GET / HTTP/1.1\r\nhost: a b\r\n\r\n";
    a_host_with_a_bad_port: 400 <= b"GET / HTTP/1.1\r\nhost: a:80x\r\n\r\n";
    an_absolute_target_without_a_host_header: 400 <= b"GET http://a/ HTTP/1.1\r\nx: y\r\n\r\n";

    // --- expectations ---
    an_unknown_expectation: 417 <= post!("expect: 200-ok\r\n");
    two_expectations_in_one_line: 417 <= post!("expect: 100-continue, x\r\n");
    two_expectations_in_two_lines: 417 <= post!("expect: 100-continue\r\nexpect: 100-continue\r\n");
}

#[test]
fn a_head_beyond_the_byte_limit_is_431_as_soon_as_it_is() {
    let mut bytes = b"GET / HTTP/1.1\r\nhost: a\r\nx: ".to_vec();
    bytes.resize(Limits::default().head_bytes - 1, b'x');
    assert!(matches!(parse(&bytes), Ok(None)));
    bytes.push(b'x');
    assert_refused(&bytes, 431);
}

#[test]
fn a_head_of_exactly_the_byte_limit_is_accepted() {
    let limits = Limits::default();
    let mut bytes = b"GET / HTTP/1.1\r\nhost: a\r\nx: ".to_vec();
    bytes.resize(limits.head_bytes - 4, b'x');
    bytes.extend_from_slice(b"\r\n\r\n");
    assert!(matches!(parse(&bytes), Ok(Some(_))));
    bytes.insert(bytes.len() - 4, b'x');
    assert_refused(&bytes, 431);
}

#[test]
fn a_body_behind_the_head_does_not_count_towards_the_limit() {
    let mut bytes = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 200000\r\n\r\n".to_vec();
    bytes.resize(200_000, b'x');
    assert!(matches!(parse(&bytes), Ok(Some(_))));
}

#[test]
fn a_target_that_never_ends_is_414() {
    let mut bytes = b"GET /".to_vec();
    bytes.resize(Limits::default().head_bytes, b'x');
    assert_refused(&bytes, 414);
}

#[test]
fn one_header_too_many_is_431_before_the_head_is_whole() {
    let limits = Limits::default();
    let mut bytes = b"GET / HTTP/1.1\r\nhost: a\r\n".to_vec();
    for _ in 1..limits.headers {
        bytes.extend_from_slice(b"x: y\r\n");
    }
    let mut whole = bytes.clone();
    whole.extend_from_slice(b"\r\n");
    assert!(matches!(parse(&whole), Ok(Some(head)) if head.headers.len() == limits.headers));
    bytes.extend_from_slice(b"x: y\r\n");
    assert_refused(&bytes, 431);
}

#[test]
fn a_bare_lf_is_refused_before_the_head_is_whole() {
    assert_refused(b"GET / HTTP/1.1\n", 400);
}

/// Reads a chunked body to its end.
fn chunked(bytes: &[u8]) -> Result<(Vec<u8>, usize), BodyError> {
    let mut buf = BytesMut::from(bytes);
    let mut body = BodyDecoder::new(BodyLength::Chunked);
    let mut content = Vec::new();
    loop {
        match body.decode(&mut buf)? {
            Decoded::Data(data) => content.extend_from_slice(&data),
            Decoded::Trailers(_) => {}
            Decoded::End => return Ok((content, buf.len())),
            Decoded::NeedMore => {
                body.eof()?;
                panic!("a chunked body does not end with the connection");
            }
        }
    }
}

macro_rules! bad_chunks {
    ($($name:ident: $error:pat = $bytes:expr;)*) => {
        $(#[test] fn $name() {
            let result = chunked($bytes);
            assert!(matches!(result, Err($error)), "{}: {result:?}", $bytes.escape_ascii());
        })*
    };
}

bad_chunks! {
    an_empty_chunk_size: BodyError::ChunkSize = b"\r\nhello\r\n0\r\n\r\n";
    a_chunk_size_that_is_no_number: BodyError::ChunkSize = b"x\r\n";
    a_chunk_size_with_a_plus: BodyError::ChunkSize = b"+5\r\nhello\r\n0\r\n\r\n";
    a_chunk_size_with_a_minus: BodyError::ChunkSize = b"-5\r\nhello\r\n0\r\n\r\n";
    a_chunk_size_with_a_prefix: BodyError::ChunkSize = b"0x5\r\nhello\r\n0\r\n\r\n";
    a_chunk_size_with_an_underscore: BodyError::ChunkSize = b"1_0\r\n";
    a_chunk_size_with_a_leading_space: BodyError::ChunkSize = b" 5\r\nhello\r\n0\r\n\r\n";
    a_chunk_size_with_a_trailing_space: BodyError::ChunkSize = b"5 \r\nhello\r\n0\r\n\r\n";
    a_chunk_size_with_a_trailing_tab: BodyError::ChunkSize = b"5\t\r\nhello\r\n0\r\n\r\n";
    a_chunk_size_above_64_bits: BodyError::ChunkSize = b"10000000000000005\r\nhello\r\n0\r\n\r\n";
    a_chunk_size_of_many_zeros: BodyError::ChunkSize = b"00000000000000005\r\nhello\r\n0\r\n\r\n";
    a_chunk_size_with_a_nul: BodyError::ChunkSize = b"5\0\r\nhello\r\n0\r\n\r\n";
    a_chunk_size_ended_by_a_bare_lf: BodyError::ChunkEnd = b"5\nhello\r\n0\r\n\r\n";
    a_chunk_size_with_a_bare_cr: BodyError::ChunkSize = b"5\rX\r\nhello\r\n0\r\n\r\n";
    a_last_chunk_ended_by_a_bare_lf: BodyError::ChunkEnd = b"0\n\r\n";
    chunk_data_longer_than_its_size: BodyError::ChunkEnd = b"4\r\nhello\r\n0\r\n\r\n";
    chunk_data_shorter_than_its_size: BodyError::ChunkEnd = b"7\r\nhello\r\n0\r\n\r\n";
    chunk_data_ended_by_a_bare_lf: BodyError::ChunkEnd = b"5\r\nhello\n0\r\n\r\n";
    chunk_data_ended_by_a_bare_cr: BodyError::ChunkEnd = b"5\r\nhello\r0\r\n\r\n";
    an_extension_ended_by_a_bare_lf: BodyError::ChunkEnd = b"5;a=b\nhello\r\n0\r\n\r\n";
    an_extension_with_a_bare_cr: BodyError::ChunkExtension = b"5;a\rb\r\nhello\r\n0\r\n\r\n";
    an_extension_with_a_quoted_line_end: BodyError::ChunkExtension = b"5;a=\"\r\n\"\r\nhello\r\n0\r\n\r\n";
    an_extension_with_a_quoted_lf: BodyError::ChunkEnd = b"5;a=\"x\n\"\r\nhello\r\n0\r\n\r\n";
    an_extension_with_an_escaped_cr: BodyError::ChunkExtension = b"5;a=\"\\\r\"\r\nhello\r\n0\r\n\r\n";
    an_extension_without_a_name: BodyError::ChunkExtension = b"5;\r\nhello\r\n0\r\n\r\n";
    an_extension_without_a_value: BodyError::ChunkExtension = b"5;a=\r\nhello\r\n0\r\n\r\n";
    an_extension_with_spaces: BodyError::ChunkExtension = b"5; a\r\nhello\r\n0\r\n\r\n";
    an_extension_with_an_open_quote: BodyError::ChunkExtension = b"5;a=\"b\r\nhello\r\n0\r\n\r\n";
    a_trailer_with_a_bare_lf: BodyError::Field(_) = b"0\r\nx: y\n\r\n";
    a_folded_trailer: BodyError::Field(_) = b"0\r\nx: y\r\n z\r\n\r\n";
    a_trailer_with_a_space_before_the_colon: BodyError::Field(_) = b"0\r\nx : y\r\n\r\n";
    a_trailer_without_a_colon: BodyError::Field(_) = b"0\r\nGET / HTTP/1.1\r\n\r\n";
    a_missing_last_chunk: BodyError::Truncated = b"5\r\nhello\r\n";
    a_cut_chunk: BodyError::Truncated = b"5\r\nhel";
    a_missing_end_of_the_trailers: BodyError::Truncated = b"0\r\n";
}

#[test]
fn well_formed_extensions_are_read_over() {
    let body = b"5;a\r\nhello\r\n6;b=c;d=\"e; \\\" f\"\r\n world\r\n0;last\r\n\r\nGET";
    assert_eq!(
        chunked(body).expect("well formed"),
        (b"hello world".to_vec(), 3)
    );
}

#[test]
fn one_long_extension_is_refused() {
    let mut body = b"5;".to_vec();
    body.resize(2 + 255, b'a');
    let mut whole = body.clone();
    whole.extend_from_slice(b"\r\nhello\r\n0\r\n\r\n");
    assert!(chunked(&whole).is_ok());
    body.push(b'a');
    body.extend_from_slice(b"\r\nhello\r\n0\r\n\r\n");
    assert_eq!(chunked(&body), Err(BodyError::ChunkExtensionTooLong));
    // And before its line end has arrived.
    assert_eq!(
        chunked(&[b"5;".to_vec(), vec![b'a'; 400]].concat()),
        Err(BodyError::ChunkExtensionTooLong)
    );
}

#[test]
fn extensions_that_outweigh_the_content_are_refused() {
    let chunk = [b"1;".to_vec(), vec![b'a'; 200], b"\r\nx\r\n".to_vec()].concat();
    assert_eq!(
        chunked(&chunk.repeat(100)),
        Err(BodyError::ChunkExtensionTooLong)
    );
}

#[test]
fn trailers_beyond_their_limits_are_refused() {
    let many = [b"0\r\n".to_vec(), b"x: y\r\n".repeat(65), b"\r\n".to_vec()].concat();
    assert_eq!(chunked(&many), Err(BodyError::TrailersTooLarge));
    let long = [b"0\r\nx: ".to_vec(), vec![b'y'; 17_000]].concat();
    assert_eq!(chunked(&long), Err(BodyError::TrailersTooLarge));
    assert_eq!(
        BodyError::TrailersTooLarge.status(),
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE
    );
}
