//! Callers' faults and the operator's affairs, as callers are told of them.

mod support;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use support::{answer, call, feed, joined, prepare, short};
use tidegate_llm::classify::Class;
use tidegate_llm::{Answer, ProviderKind, Step};

/// The answer to a status and a body.
fn refused(target: &str, name: &str, kind: ProviderKind, status: u16, body: &str) -> Answer {
    let prepared = prepare(&call(target, short(name, false)).unwrap(), kind, "m").unwrap();
    let mut answer = Answer::new(prepared.plan, Some("sk-canary".into()), 0);
    answer.head(StatusCode::from_u16(status).unwrap(), HeaderMap::new());
    let mut out = Vec::new();
    answer.data(Bytes::copy_from_slice(body.as_bytes()), &mut out);
    assert_eq!(answer.end(&mut out), Step::Failed);
    assert!(out.is_empty());
    answer
}

#[test]
fn a_callers_fault_is_told_in_the_providers_words_and_the_callers_dialect() {
    let body = r#"{"type":"error","error":{"type":"invalid_request_error","message":"max_tokens: too large"}}"#;
    let answer = refused(
        "/v1/chat/completions",
        "chat",
        ProviderKind::Anthropic,
        400,
        body,
    );
    assert_eq!(answer.evidence().unwrap().class, Class::CallerFault);
    let error = answer.error_answer();
    assert_eq!(error.status, 400);
    assert_eq!(
        error.body,
        r#"{"error":{"message":"max_tokens: too large","type":"invalid_request_error","param":null,"code":null}}"#.as_bytes()
    );
    let same = refused(
        "/v1/messages",
        "messages",
        ProviderKind::Anthropic,
        400,
        body,
    );
    assert_eq!(same.error_answer().body, body.as_bytes());
}

#[test]
fn what_is_the_operators_affair_is_not_told_to_callers() {
    let body = r#"{"error":{"message":"Incorrect API key provided: sk-canary","type":"invalid_request_error","code":"invalid_api_key"}}"#;
    let answer = refused(
        "/v1/chat/completions",
        "chat",
        ProviderKind::OpenAi,
        401,
        body,
    );
    assert_eq!(answer.evidence().unwrap().class, Class::KeyDead);
    let error = answer.error_answer();
    assert_eq!(error.status, 503);
    assert!(!joined(&[error.body]).contains("sk-canary"));
    assert!(!format!("{:?}", answer.evidence()).contains("sk-canary"));
}

#[test]
fn a_key_that_the_provider_echoes_in_a_callers_fault_does_not_reach_the_caller() {
    let body = r#"{"error":{"message":"bad field with sk-canary-1","type":"invalid_request_error","code":"sk-canary-1"}}"#;
    for (path, stem) in [
        ("/v1/chat/completions", "chat"),
        ("/v1/messages", "messages"),
    ] {
        let call = call(path, short(stem, false)).unwrap();
        let prepared = prepare(&call, ProviderKind::DeepSeek, "m").unwrap();
        let mut answer = Answer::new(prepared.plan, Some("sk-canary-1".into()), 0);
        let mut headers = HeaderMap::new();
        headers.insert("x-echo", "key=sk-canary-1".parse().unwrap());
        answer.head(StatusCode::BAD_REQUEST, headers);
        let mut out = Vec::new();
        answer.data(Bytes::from_static(body.as_bytes()), &mut out);
        assert_eq!(answer.end(&mut out), Step::Failed);
        let error = answer.error_answer();
        assert_eq!(error.status, 400);
        let shown = format!("{:?} {:?}", error.headers, error.body);
        assert!(shown.contains("bad field with [redacted]"), "{shown}");
        assert!(!shown.contains("canary"), "{shown}");
    }
}

#[test]
fn a_callers_fault_within_a_stream_is_told_in_the_providers_words() {
    let prepared = prepare(
        &call("/v1/messages", short("messages", true)).unwrap(),
        ProviderKind::DeepSeek,
        "m",
    )
    .unwrap();
    let mut answer = answer(&prepared, "text/event-stream");
    let frame = b"data: {\"error\":{\"message\":\"This model's maximum context length is 10 tokens\",\"type\":\"invalid_request_error\",\"code\":\"context_length_exceeded\"}}\n\n";
    assert_eq!(feed(&mut answer, &[frame]), (String::new(), Step::Failed));
    assert_eq!(answer.evidence().unwrap().class, Class::CallerFault);
    let error = answer.error_answer();
    assert_eq!(error.status, 400);
    assert_eq!(
        joined(&[error.body]),
        r#"{"type":"error","error":{"type":"invalid_request_error","message":"This model's maximum context length is 10 tokens"}}"#
    );
}
