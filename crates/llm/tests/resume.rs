//! Requests that go on from an answer that broke off.

mod support;

use support::{OPTIONS, call, prepare, spec};
use tidegate_llm::{
    Continue, Fault, FaultKind, PrepareOptions, ProviderKind, ProviderSpec, Secret,
};

fn goes_on(
    path: &str,
    body: &str,
    spec: &ProviderSpec,
    model: &str,
    partial: &str,
) -> Result<tidegate_llm::Prepared, Fault> {
    let options = PrepareOptions {
        continue_from: Some(partial),
        ..OPTIONS
    };
    let headers = http::HeaderMap::new();
    call(path, body.as_bytes().to_vec())?.prepare(spec, Secret::None, model, &headers, options)
}

const CHAT: &str = r#"{"model":"m","messages":[{"role":"user","content":"x"}]}"#;
const CLAUDE: &str = r#"{"model":"m","max_tokens":9,"messages":[{"role":"user","content":"x"} ]}"#;

#[test]
fn each_provider_is_told_in_its_own_way_to_go_on() {
    use ProviderKind::*;
    let said = |kind, path: &str, body: &str| {
        let prepared = goes_on(path, body, &spec(kind), "claude-haiku-4-5", "so \"far").unwrap();
        (
            prepared.target.to_string(),
            String::from_utf8(prepared.body.to_vec()).unwrap(),
            prepared.plan.repeats(),
        )
    };
    let chat = "/v1/chat/completions";
    for (kind, target, mark, repeats) in [
        (DeepSeek, "/beta/chat/completions", "prefix", false),
        (Mistral, "/v1/chat/completions", "prefix", true),
        (Moonshot, "/v1/chat/completions", "partial", false),
        (
            Qwen,
            "/compatible-mode/v1/chat/completions",
            "partial",
            false,
        ),
    ] {
        let message = format!(r#"{{"role":"assistant","content":"so \"far","{mark}":true}}"#);
        let now = CHAT
            .replace("}]}", &format!("}},{message}]}}"))
            .replace("\"m\"", "\"claude-haiku-4-5\"");
        assert_eq!(said(kind, chat, CHAT), (target.to_owned(), now, repeats));
        // Written anew.
        let (path, body, _) = said(kind, "/v1/messages", CLAUDE);
        assert_eq!(path, target);
        assert!(body.contains(&format!(",{message}]")), "{body}");
    }
    let (_, body, _) = said(Vllm, chat, CHAT);
    assert_eq!(
        body,
        r#"{"continue_final_message":true,"add_generation_prompt":false,"model":"claude-haiku-4-5","messages":[{"role":"user","content":"x"},{"role":"assistant","content":"so \"far"}]}"#
    );
    let (_, body, _) = said(Vllm, "/v1/messages", CLAUDE);
    assert!(body.contains(r#"{"role":"assistant","content":"so \"far"}]"#));
    assert!(body.contains(r#""continue_final_message":true,"add_generation_prompt":false"#));
    let (_, body, _) = said(Anthropic, "/v1/messages", CLAUDE);
    assert!(
        body.contains(
            r#"{"role":"user","content":"x"} ,{"role":"assistant","content":"so \"far"}]"#
        )
    );
    let (_, body, _) = said(Anthropic, chat, CHAT);
    assert!(body.contains(r#"{"role":"assistant","content":[{"type":"text","text":"so \"far"}]}"#));
    let model = "anthropic.claude-3-5-sonnet-20241022-v2:0";
    let bedrock = goes_on(chat, CHAT, &spec(Bedrock), model, "so far").unwrap();
    let body = String::from_utf8(bedrock.body.to_vec()).unwrap();
    assert!(
        body.contains(r#"{"role":"assistant","content":[{"text":"so far"}]}"#),
        "{body}"
    );
}

#[test]
fn an_answer_never_begins_anew_where_it_was_to_go_on() {
    let chat = "/v1/chat/completions";
    let refused = |path, body: &str, spec: &ProviderSpec, model: &str, partial: &str| {
        let fault = goes_on(path, body, spec, model, partial).unwrap_err();
        assert_eq!(fault.kind, FaultKind::Untranslatable, "{body}");
    };
    // Providers that are not known to go on.
    for kind in ProviderKind::ALL {
        let known = kind.row().quirks.go_on != Continue::Never;
        let model = "claude-haiku-4-5";
        let done = goes_on(chat, CHAT, &spec(*kind), model, "so far");
        assert_eq!(done.is_ok(), known, "{}", kind.name());
        // Nothing came yet: a request like any other.
        let first = goes_on(chat, CHAT, &spec(*kind), model, "").unwrap();
        let plain = prepare(&call(chat, CHAT).unwrap(), *kind, model).unwrap();
        assert_eq!((first.body, first.target), (plain.body, plain.target));
    }
    // Models that do not.
    let anthropic = spec(ProviderKind::Anthropic);
    refused(chat, CHAT, &anthropic, "claude-opus-4-6", "so far");
    refused(
        "/v1/messages",
        CLAUDE,
        &anthropic,
        "claude-sonnet-5",
        "so far",
    );
    refused(
        chat,
        CHAT,
        &spec(ProviderKind::Bedrock),
        "amazon.nova-pro-v1:0",
        "so far",
    );
    // What Anthropic refuses.
    refused(
        "/v1/messages",
        CLAUDE,
        &anthropic,
        "claude-haiku-4-5",
        "so far ",
    );
    let thinks = CLAUDE.replace(
        "\"max",
        r#""thinking":{"type":"enabled","budget_tokens":1024},"max"#,
    );
    refused(
        "/v1/messages",
        &thinks,
        &anthropic,
        "claude-haiku-4-5",
        "so far",
    );
    let off = thinks.replace("enabled", "disabled");
    goes_on(
        "/v1/messages",
        &off,
        &anthropic,
        "claude-haiku-4-5",
        "so far",
    )
    .unwrap();
    // Not one answer, the caller's own beginning, no conversation, an endpoint without any.
    let moonshot = spec(ProviderKind::Moonshot);
    for body in [
        CHAT.replace("\"m\"", r#""m","n":2"#),
        CHAT.replace("user", "assistant"),
        CHAT.replace(r#"{"role":"user","content":"x"}"#, ""),
        CHAT.replace("messages", "message"),
    ] {
        refused(chat, &body, &moonshot, "m", "so far");
    }
    let prefilled = CLAUDE.replace("user", "assistant");
    refused("/v1/messages", &prefilled, &moonshot, "m", "so far");
    let prompt = r#"{"model":"m","prompt":"x"}"#;
    refused(
        "/v1/completions",
        prompt,
        &spec(ProviderKind::Vllm),
        "m",
        "so far",
    );
    let flagged = CHAT.replace("\"m\"", r#""m","continue_final_message":false"#);
    refused(chat, &flagged, &spec(ProviderKind::Vllm), "m", "so far");
    // An address that has no place for DeepSeek's beta.
    let at = |base| ProviderSpec::new(ProviderKind::DeepSeek, Some(base), None, None).unwrap();
    refused(chat, CHAT, &at("http://h/deepseek"), "m", "so far");
    for base in ["http://h/beta", "http://h/v1", "http://h"] {
        let prepared = goes_on(chat, CHAT, &at(base), "m", "so far").unwrap();
        assert_eq!(prepared.target, "/beta/chat/completions");
    }
    let mut original = spec(ProviderKind::Moonshot);
    original.original = true;
    refused(chat, CHAT, &original, "m", "so far");
}
