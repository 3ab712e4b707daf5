//! Signatures and event streams against the vectors that AWS publishes.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use aws_smithy_eventstream::frame::write_message_to;
use aws_smithy_types::event_stream::{Header, HeaderValue, Message as Frame};
use http::{HeaderMap, HeaderName, Method};
use proptest::prelude::*;
use tidegate_llm::aws::{
    Credentials, CredentialsError, Decoder, Fault, MESSAGE_LIMIT, Message, sign,
};

/// 2015-08-30T12:36:00Z, the time of the test suite.
const THEN: u64 = 1_440_938_160;
const KEY: &str = "AKIDEXAMPLE:wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";

/// A case of AWS's SigV4 test suite (awslabs/aws-c-auth, `tests/aws-signing-test-suite/v4`).
struct Case {
    name: &'static str,
    key: &'static str,
    method: Method,
    host: &'static str,
    path: &'static str,
    headers: &'static [(&'static str, &'static str)],
    credential: &'static str,
    signed: &'static str,
    signature: &'static str,
}

const EXAMPLE: Case = Case {
    name: "get-vanilla",
    key: KEY,
    method: Method::GET,
    host: "example.amazonaws.com",
    path: "/",
    headers: &[],
    credential: "AKIDEXAMPLE",
    signed: "host;x-amz-date",
    signature: "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31",
};

#[test]
fn signatures_are_those_of_the_test_suite() {
    let cases = [
        EXAMPLE,
        Case {
            name: "get-vanilla-with-session-token",
            key: "AKIDEXAMPLE:wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY:6e86291e8372ff2a2260956d9b8aae1d763fbf315fa00fa31553b73ebf194267",
            signed: "host;x-amz-date;x-amz-security-token",
            signature: "07ec1639c89043aa0e3e2de82b96708f198cceab042d4a97044c66dd9f74e7f8",
            ..EXAMPLE
        },
        Case {
            name: "post-vanilla",
            method: Method::POST,
            signature: "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b",
            ..EXAMPLE
        },
        Case {
            name: "get-vanilla-query-order-key-case",
            path: "/?Param2=value2&Param1=value1",
            signature: "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500",
            ..EXAMPLE
        },
        Case {
            name: "post-header-key-sort",
            method: Method::POST,
            headers: &[("my-header1", "value1")],
            signed: "host;my-header1;x-amz-date",
            signature: "c5410059b04c1ee005303aed430f6e6645f61f4dc9e1461ec8f8916fdf18852c",
            ..EXAMPLE
        },
        // A path with an escape is escaped again: Bedrock's models have colons.
        Case {
            name: "double-encode-path",
            key: "ANOTREAL:notrealrnrELgWzOk3IfjzDKtFBhDby",
            method: Method::POST,
            host: "tj9n5r0m12.execute-api.us-east-1.amazonaws.com",
            path: "/test/@connections/JBDvjfGEIAMCERw%3D",
            credential: "ANOTREAL",
            signature: "57d157672191bac40bae387e48bbe14b15303c001fdbb01f4abf295dccb09705",
            ..EXAMPLE
        },
    ];
    for case in cases {
        let mut headers = HeaderMap::new();
        headers.insert("host", case.host.parse().unwrap());
        for (name, value) in case.headers {
            headers.insert(HeaderName::from_static(name), value.parse().unwrap());
        }
        // What proxies change is not signed.
        headers.insert("user-agent", "curl/8".parse().unwrap());
        headers.insert("content-length", "0".parse().unwrap());
        let key = Credentials::parse(case.key).unwrap();
        sign(
            &key,
            "us-east-1",
            "service",
            &case.method,
            case.host,
            case.path,
            &mut headers,
            b"",
            THEN,
        )
        .unwrap();
        let expected = format!(
            "AWS4-HMAC-SHA256 Credential={}/20150830/us-east-1/service/aws4_request, SignedHeaders={}, Signature={}",
            case.credential, case.signed, case.signature
        );
        assert_eq!(headers["authorization"], expected, "{}", case.name);
        assert_eq!(headers["x-amz-date"], "20150830T123600Z");
        assert!(headers["authorization"].is_sensitive());
    }
}

#[test]
fn the_body_is_signed() {
    let key = Credentials::parse(KEY).unwrap();
    let signed = |body: &[u8]| {
        let mut headers = HeaderMap::new();
        let path = "/model/amazon.nova-pro-v1%3A0/converse";
        sign(
            &key,
            "eu-west-1",
            "bedrock",
            &Method::POST,
            "h",
            path,
            &mut headers,
            body,
            THEN,
        )
        .unwrap();
        headers["authorization"].clone()
    };
    assert_ne!(signed(b"{}"), signed(b"{ }"));
    assert_eq!(signed(b"{}"), signed(b"{}"));
}

#[test]
fn an_access_key_is_read_and_not_shown() {
    for bad in ["", "AKID", "AKID:", ":secret", "AKID:secret:"] {
        assert_eq!(Credentials::parse(bad), Err(CredentialsError), "{bad:?}");
    }
    let key = Credentials::parse(" AKID:canary-secret:canary:session \n").unwrap();
    assert_eq!(key.id(), "AKID");
    assert!(!format!("{key:?}").contains("canary"));
    let mut headers = HeaderMap::new();
    let error = sign(
        &key,
        "r",
        "bedrock",
        &Method::GET,
        "no host",
        "/",
        &mut headers,
        b"",
        THEN,
    )
    .unwrap_err();
    assert!(!format!("{error} {error:?}").contains("canary"));
}

/// Takes part in everything and remembers how often.
#[derive(Clone, Default)]
struct Listener(Arc<AtomicUsize>);

impl tracing::Subscriber for Listener {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }
    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        self.0.fetch_add(1, Ordering::Relaxed);
        tracing::span::Id::from_u64(1)
    }
    fn event(&self, _: &tracing::Event<'_>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

#[test]
fn the_signer_writes_no_log_at_any_level() {
    let listener = Listener::default();
    tracing::subscriber::with_default(listener.clone(), || {
        tracing::trace!("the listener hears");
        let key = Credentials::parse(KEY).unwrap();
        let mut headers = HeaderMap::new();
        sign(
            &key,
            "r",
            "bedrock",
            &Method::POST,
            "h",
            "/",
            &mut headers,
            b"a prompt",
            THEN,
        )
        .unwrap();
    });
    assert_eq!(listener.0.load(Ordering::Relaxed), 1);
}

/// Vectors of awslabs/aws-c-event-stream, as aws/aws-sdk-js-v3 carries them.
const PLAIN: &[u8] = &[0, 0, 0, 16, 0, 0, 0, 0, 5, 194, 72, 235, 125, 152, 200, 255];
const JSON: &[u8] = b"\0\0\0\x3d\0\0\0\x20\x07\xfd\x83\x96\x0ccontent-type\x07\0\x10application/json{'foo':'bar'}\x8d\x9c\x08\xb1";
const NUMBER: &[u8] = b"\0\0\0\x2b\0\0\0\x0e\x34\x8b\xec\x7b\x08event-id\x04\0\0\xa0\x0c{'foo':'bar'}\xd3\x89\x02\x85";
const NO_HEADERS: &[u8] = b"\0\0\0\x1d\0\0\0\0\xfd\x52\x8c\x5a{'foo':'bar'}\xc3\x65\x39\x36";

fn decoded(chunks: &[&[u8]], limit: usize) -> Result<Vec<Message>, Fault> {
    let mut decoder = Decoder::new(limit);
    let mut messages = Vec::new();
    for chunk in chunks {
        decoder.push(chunk);
        while let Some(message) = decoder.next()? {
            messages.push(message);
        }
    }
    decoder.finish()?;
    Ok(messages)
}

#[test]
fn messages_are_those_of_the_vectors() {
    let foo = || b"{'foo':'bar'}".as_slice().into();
    let plain = |payload| Message {
        name: String::new(),
        is_error: false,
        payload,
    };
    let all = [PLAIN, JSON, NUMBER, NO_HEADERS].concat();
    let expected = vec![
        plain(bytes::Bytes::new()),
        plain(foo()),
        plain(foo()),
        plain(foo()),
    ];
    assert_eq!(decoded(&[&all], MESSAGE_LIMIT).unwrap(), expected);
    assert_eq!(
        decoded(&all.chunks(1).collect::<Vec<_>>(), MESSAGE_LIMIT).unwrap(),
        expected
    );
}

#[test]
fn damage_is_found_before_bytes_are_waited_for() {
    let damaged = |at: usize, value: u8, of: &[u8]| {
        let mut bytes = of.to_vec();
        bytes[at] = value;
        decoded(&[&bytes], MESSAGE_LIMIT)
    };
    // The vectors corrupted_length, corrupted_header_len, corrupted_headers and corrupted_payload.
    for (at, value, of) in [
        (0, 1, NO_HEADERS),
        (6, 1, JSON),
        (19, b'+', JSON),
        (24, b'\x8d', NO_HEADERS),
    ] {
        assert!(
            matches!(damaged(at, value, of), Err(Fault::Damaged(_))),
            "byte {at}"
        );
    }
    assert_eq!(decoded(&[&JSON[..40]], MESSAGE_LIMIT), Err(Fault::Cut));
    assert_eq!(
        decoded(&[JSON], 60),
        Err(Fault::TooLong {
            length: 61,
            limit: 60
        })
    );
    let mut decoder = Decoder::new(60);
    decoder.push(JSON);
    let fault = decoder.next().unwrap_err();
    decoder.push(PLAIN);
    assert_eq!(decoder.next(), Err(fault), "the stream is over");
}

fn frame(headers: &[(&'static str, &'static str)], payload: &'static str) -> Vec<u8> {
    let headers = headers
        .iter()
        .map(|(name, value)| Header::new(*name, HeaderValue::String((*value).into())));
    let message = Frame::new_from_parts(headers.collect(), payload.as_bytes());
    let mut bytes = Vec::new();
    write_message_to(&message, &mut bytes).unwrap();
    bytes
}

#[test]
fn events_exceptions_and_errors_are_told_apart() {
    let event = frame(
        &[
            (":event-type", "contentBlockDelta"),
            (":content-type", "application/json"),
            (":message-type", "event"),
        ],
        r#"{"contentBlockIndex":0,"delta":{"text":"hi"}}"#,
    );
    let exception = frame(
        &[
            (":exception-type", "throttlingException"),
            (":message-type", "exception"),
        ],
        r#"{"message":"Too many requests"}"#,
    );
    let error = frame(
        &[
            (":message-type", "error"),
            (":error-code", "InternalFailure"),
            (":error-message", "gone \"away\""),
        ],
        "",
    );
    let messages = decoded(&[&event, &exception, &error], MESSAGE_LIMIT).unwrap();
    let seen: Vec<_> = messages
        .iter()
        .map(|one| (one.name.as_str(), one.is_error, &*one.payload))
        .collect();
    assert_eq!(
        seen,
        [
            (
                "contentBlockDelta",
                false,
                br#"{"contentBlockIndex":0,"delta":{"text":"hi"}}"#.as_slice()
            ),
            (
                "throttlingException",
                true,
                br#"{"message":"Too many requests"}"#
            ),
            ("InternalFailure", true, br#"{"message":"gone \"away\""}"#),
        ]
    );
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_do_not_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), cut in 1usize..50, limit in 0usize..300) {
        let _ = decoded(&bytes.chunks(cut).collect::<Vec<_>>(), limit);
        // The lengths right, the rest anything.
        let mut whole = (bytes.len() as u32 + 16).to_be_bytes().to_vec();
        whole.extend((bytes.len() as u32 / 2).to_be_bytes());
        whole.extend(crc32fast::hash(&whole).to_be_bytes());
        whole.extend(&bytes);
        whole.extend(crc32fast::hash(&whole).to_be_bytes());
        let _ = decoded(&whole.chunks(cut).collect::<Vec<_>>(), MESSAGE_LIMIT);
    }

    #[test]
    fn any_request_is_signed_or_refused(
        host in "\\PC{0,20}", path in "\\PC{0,40}", value in prop::collection::vec(any::<u8>(), 0..20), now in any::<u64>(),
    ) {
        let mut headers = HeaderMap::new();
        if let Ok(value) = http::HeaderValue::from_bytes(&value) {
            headers.insert("x-any", value);
        }
        let key = Credentials::parse(KEY).unwrap();
        let signed = sign(&key, "eu-west-1", "bedrock", &Method::POST, &host, &path, &mut headers, b"{}", now);
        prop_assert_eq!(signed.is_ok(), headers.contains_key("authorization"));
    }
}
