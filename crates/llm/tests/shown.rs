//! What a provider sees of keys and of what a caller sends beside its body; requests that pass as they are.

mod support;

use bytes::Bytes;
use support::{OPTIONS, call, fixture, prepare, spec};
use tidegate_llm::{FaultKind, ProviderKind, Secret};

#[test]
fn the_key_is_shown_as_the_provider_wants_it_and_the_callers_own_goes_nowhere() {
    let mut callers = http::HeaderMap::new();
    for (name, value) in [
        ("authorization", "Bearer tg-virtual"),
        ("x-api-key", "tg-virtual"),
        ("x-goog-api-key", "tg-virtual"),
        ("cookie", "a=b"),
        ("x-forwarded-for", "10.0.0.1"),
        ("anthropic-beta", "x"),
        ("x-trace", "1"),
        ("accept-encoding", "gzip"),
    ] {
        callers.insert(name, value.parse().unwrap());
    }
    for (kind, path, body, name, value) in [
        (
            ProviderKind::OpenAi,
            "/v1/messages",
            &br#"{"model":"m","max_tokens":1,"messages":[{"role":"user","content":"x"}]}"#[..],
            "authorization",
            "Bearer sk-1",
        ),
        (
            ProviderKind::Anthropic,
            "/v1/messages",
            br#"{"model":"m"}"#,
            "x-api-key",
            "sk-1",
        ),
        (
            ProviderKind::Gemini,
            "/v1beta/models/m:generateContent",
            b"{}",
            "x-goog-api-key",
            "sk-1",
        ),
        (
            ProviderKind::Azure,
            "/v1/chat/completions",
            br#"{"model":"m"}"#,
            "api-key",
            "sk-1",
        ),
    ] {
        let call = call(path, body).unwrap();
        let prepared = call
            .prepare(&spec(kind), Secret::of("sk-1"), "m", &callers, OPTIONS)
            .unwrap();
        let headers = &prepared.headers;
        assert_eq!(headers[name], value);
        assert!(headers[name].is_sensitive());
        assert!(
            !format!("{headers:?}").contains("tg-virtual"),
            "{headers:?}"
        );
        assert!(!headers.contains_key("cookie") && !headers.contains_key("x-forwarded-for"));
        assert_eq!(headers["x-trace"], "1");
        assert_eq!(headers["accept-encoding"], "identity");
        assert_eq!(
            headers.contains_key("anthropic-beta"),
            prepared.plan.is_relay()
        );
    }
}

#[test]
fn bedrock_is_signed_or_shown_an_api_key() {
    let call = call("/v1/chat/completions", fixture("requests/chat-thinks.json")).unwrap();
    let with = |secret| {
        call.prepare(
            &spec(ProviderKind::Bedrock),
            Secret::of(secret),
            "m",
            &http::HeaderMap::new(),
            OPTIONS,
        )
        .unwrap()
        .headers
    };
    let signed = with("AKIDEXAMPLE:secret");
    assert!(signed["authorization"].to_str().unwrap().starts_with(
        "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20231114/us-east-1/bedrock/aws4_request"
    ));
    assert_eq!(with("ABSKapi")["authorization"], "Bearer ABSKapi");
}

#[test]
fn what_a_caller_sends_that_cannot_be_signed_is_left_out() {
    let call = call("/v1/chat/completions", fixture("requests/chat.json")).unwrap();
    let mut headers = http::HeaderMap::new();
    headers.insert("x-title", "Café".parse().unwrap());
    headers.insert("x-other", "plain".parse().unwrap());
    let prepared = |secret| {
        let spec = spec(ProviderKind::Bedrock);
        call.prepare(&spec, Secret::of(secret), "m", &headers, OPTIONS)
            .unwrap()
            .headers
    };
    let signed = prepared("AKIDEXAMPLE:secret");
    let told = signed["authorization"].to_str().unwrap();
    assert!(
        told.contains("x-other") && !told.contains("x-title"),
        "{told}"
    );
    assert!(!signed.contains_key("x-title"));
    assert!(prepared("ABSKapi").contains_key("x-title"));
}

#[test]
fn a_callers_key_in_the_query_of_an_original_request_goes_nowhere() {
    let mut spec = spec(ProviderKind::Gemini);
    spec.original = true;
    for (target, goes) in [
        ("/v1beta/files?key=tg-1", "/v1beta/files"),
        (
            "/v1beta/files?a=1&key=tg-1&monkey=2",
            "/v1beta/files?a=1&monkey=2",
        ),
        ("/v1beta/files?keys=1", "/v1beta/files?keys=1"),
    ] {
        let dialect = tidegate_llm::Dialect::Gemini;
        let call = tidegate_llm::Call::original(http::Method::GET, target, dialect, Bytes::new());
        let headers = http::HeaderMap::new();
        let prepared = call
            .prepare(&spec, Secret::Key("k"), "", &headers, OPTIONS)
            .unwrap();
        assert!(
            prepared.target.as_str().ends_with(goes),
            "{}",
            prepared.target
        );
    }
}

#[test]
fn an_original_request_passes_with_its_path_and_only_the_key_is_another() {
    let mut spec = spec(ProviderKind::Cohere);
    spec.original = true;
    let mut callers = http::HeaderMap::new();
    callers.insert("authorization", "Bearer tg-virtual".parse().unwrap());
    callers.insert("content-type", "application/json".parse().unwrap());
    let call = tidegate_llm::Call::original(
        http::Method::POST,
        "/v2/classify?x=1",
        tidegate_llm::Dialect::OpenAi,
        Bytes::from_static(br#"{"inputs":["a"],"model":"m"}"#),
    );
    assert_eq!(call.model(), "m");
    let prepared = call
        .prepare(&spec, Secret::of("co-1"), "m2", &callers, OPTIONS)
        .unwrap();
    assert_eq!(
        (prepared.method, prepared.target.as_str()),
        (http::Method::POST, "/v2/classify?x=1")
    );
    assert_eq!(prepared.body, &br#"{"inputs":["a"],"model":"m2"}"#[..]);
    assert_eq!(prepared.headers["authorization"], "Bearer co-1");
    assert_eq!(prepared.headers["content-type"], "application/json");
    let get = tidegate_llm::Call::original(
        http::Method::GET,
        "/v1/models/command-r:x/y",
        tidegate_llm::Dialect::OpenAi,
        Bytes::new(),
    );
    assert_eq!(get.model(), "command-r");
    // To a provider that is not `original` there is no such endpoint.
    assert_eq!(
        prepare(&get, ProviderKind::OpenAi, "m").unwrap_err().kind,
        FaultKind::UnsupportedEndpoint
    );
}
