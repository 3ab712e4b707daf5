//! What is changed within a body that is passed on in the provider's own dialect, and that nothing else is.

mod support;

use support::{OPTIONS, call, prepare, spec};
use tidegate_llm::{ProviderKind, Secret};

#[test]
fn a_developer_is_the_system_where_the_provider_knows_no_other() {
    let body = r#"{"model":"m","messages":[ {"content":"be \"developer\"" , "role": "developer"},{"role":"user","content":[{"type":"text","text":"x","role":"developer"}]},{"role":"developer","content":"y"}]}"#;
    let call = call("/v1/chat/completions", body.as_bytes()).unwrap();
    let text = |kind| String::from_utf8(prepare(&call, kind, "m").unwrap().body.to_vec()).unwrap();
    for kind in [ProviderKind::OpenAi, ProviderKind::Groq] {
        assert_eq!(text(kind), body);
    }
    // The roles of messages alone are others.
    let expected = r#"{"model":"m","messages":[ {"content":"be \"developer\"" , "role": "system"},{"role":"user","content":[{"type":"text","text":"x","role":"developer"}]},{"role":"system","content":"y"}]}"#;
    for kind in [
        ProviderKind::Qwen,
        ProviderKind::DeepSeek,
        ProviderKind::Vllm,
    ] {
        assert_eq!(text(kind), expected);
    }
    // Callers who speak the provider's own dialect are not helped.
    let mut original = spec(ProviderKind::DeepSeek);
    original.original = true;
    let headers = http::HeaderMap::new();
    let same = call.prepare(&original, Secret::None, "m", &headers, OPTIONS);
    assert_eq!(same.unwrap().body, body.as_bytes());
}

#[test]
fn without_a_developer_the_body_is_not_even_copied() {
    let body = r#"{"model":"m","messages":[{"role":"system","content":"x"},{"role":"user","content":"a developer"}]}"#;
    let call = call("/v1/chat/completions", body.as_bytes()).unwrap();
    let same = prepare(&call, ProviderKind::Qwen, "m").unwrap();
    assert_eq!(same.body.as_ptr(), call.body().as_ptr());
}

#[test]
fn thoughts_without_a_proof_are_never_sent_to_anthropic() {
    let asked = r#"{"role":"user","content":"x"}"#;
    let unsigned = r#"{"type":"thinking","thinking":"a","signature":""}"#;
    let bare = r#"{"type":"thinking","thinking":"b"}"#;
    let signed = r#"{"type":"thinking","thinking":"c","signature":"Ep=="}"#;
    let said = r#"{"type":"text","text":"thinking"}"#;
    let sent = |messages: &str, path| {
        let body = format!(r#"{{"model":"m","max_tokens":9,"messages":[{messages}]}}"#);
        let prepared = prepare(&call(path, body).unwrap(), ProviderKind::Anthropic, "m").unwrap();
        let text = String::from_utf8(prepared.body.to_vec()).unwrap();
        let (_, list) = text.split_once(r#""messages":["#).unwrap();
        list.strip_suffix("]}").unwrap().to_owned()
    };
    let turn = |blocks: &[&str]| {
        format!(
            r#"{{"role":"assistant","content":[{}]}}"#,
            blocks.join(", ")
        )
    };
    for path in ["/v1/messages", "/v1/messages/count_tokens"] {
        for (before, after) in [
            (vec![unsigned, said], vec![said]),
            (vec![bare, unsigned, said], vec![said]),
            (vec![said, unsigned], vec![said]),
            (vec![signed, unsigned, said], vec![signed, said]),
            (vec![signed, said], vec![signed, said]),
        ] {
            let before = format!("{asked} , {},{asked}", turn(&before));
            let after = format!("{asked} , {},{asked}", turn(&after));
            assert_eq!(sent(&before, path), after);
        }
        // Nothing is left of the turn.
        assert_eq!(
            sent(
                &format!("{asked},{},{asked}", turn(&[unsigned, bare])),
                path
            ),
            format!("{asked},{asked}")
        );
        assert_eq!(sent(&format!("{asked},{}", turn(&[unsigned])), path), asked);
    }
    // Written anew, they are left out as well.
    let chat = r#"{"model":"m","messages":[{"role":"user","content":"x"},{"role":"assistant","reasoning_content":"a","content":"b"},{"role":"user","content":"x"}]}"#;
    let chat = call("/v1/chat/completions", chat.as_bytes()).unwrap();
    for kind in [ProviderKind::Anthropic, ProviderKind::Bedrock] {
        let text = String::from_utf8(prepare(&chat, kind, "m").unwrap().body.to_vec()).unwrap();
        assert!(
            !text.contains("thinking") && !text.contains("reasoning"),
            "{text}"
        );
    }
    let claude = format!(
        r#"{{"model":"m","max_tokens":9,"messages":[{asked},{},{asked}]}}"#,
        turn(&[unsigned, said])
    );
    let claude = call("/v1/messages", claude).unwrap();
    let text = prepare(&claude, ProviderKind::Bedrock, "m").unwrap().body;
    assert!(!text.windows(9).any(|window| window == b"signature"));
}
