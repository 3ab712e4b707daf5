//! What providers are asked: fixtures for each pair, and what must not change.

mod support;

use bytes::Bytes;
use proptest::prelude::*;
use support::{CALLERS, OPTIONS, PROVIDERS, call, fixture, golden, prepare, pretty, spec};
use tidegate_llm::{FaultKind, PrepareOptions, ProviderKind, Secret};

#[test]
fn each_callers_request_is_written_for_each_provider() {
    for name in [
        "chat",
        "chat-thinks",
        "responses",
        "messages",
        "gemini",
        "completions",
    ] {
        let path = match name {
            "chat-thinks" => "/v1/chat/completions",
            name => {
                CALLERS
                    .iter()
                    .find(|caller| caller.name == name)
                    .unwrap()
                    .stream
            }
        };
        let call = call(path, fixture(&format!("requests/{name}.json"))).unwrap();
        for (provider, kind) in PROVIDERS {
            let prepared = prepare(&call, *kind, "their-model").unwrap();
            if prepared.plan.is_relay() {
                continue;
            }
            let text = format!("{}\n{}", prepared.target, pretty(&prepared.body));
            golden(&format!("requests/{name}.to.{provider}.txt"), &text);
            // Whatever is written is JSON.
            serde_json::from_slice::<serde_json::Value>(&prepared.body).unwrap();
        }
    }
}

#[test]
fn what_is_wrong_is_told_with_the_names_of_the_callers_own_fields() {
    let gemini = "/v1beta/models/m:generateContent";
    for (path, body, param) in [
        (
            "/v1/chat/completions",
            r#"{"model":"m","messages":[]}"#,
            "messages",
        ),
        ("/v1/responses", r#"{"model":"m","input":[]}"#, "input"),
        (gemini, r#"{"contents":[]}"#, "contents"),
        (
            gemini,
            r#"{"contents":[{"parts":[{"text":"hi"}]}],"generationConfig":{"candidateCount":2}}"#,
            "generationConfig.candidateCount",
        ),
        (
            "/v1/chat/completions",
            r#"{"model":"m","messages":[{"role":"user","content":"hi"}],"n":2}"#,
            "n",
        ),
    ] {
        let call = call(path, body.to_owned()).unwrap();
        for kind in [ProviderKind::Bedrock, ProviderKind::Cohere] {
            let fault = prepare(&call, kind, "m").unwrap_err();
            assert_eq!(fault.param.as_deref(), Some(param), "{body}: {fault}");
            assert!(fault.message.contains(param), "{fault}");
        }
    }
}

#[test]
fn the_same_dialect_passes_byte_for_byte_but_for_the_model() {
    let body: &[u8] = b" { \"x\" : [1.0, 1e2 ,\"\\u00e4\"],\t\"model\" : \"m\" , \"messages\":[{\"role\":\"user\",\"content\":\"hi\"}],\"unknown\":{\"z\":1,\"a\":2} } ";
    let call = call("/v1/chat/completions", body).unwrap();
    let prepared = prepare(&call, ProviderKind::OpenAi, "gpt-\"x\"").unwrap();
    let expected = String::from_utf8(body.to_vec())
        .unwrap()
        .replace("\"m\"", "\"gpt-\\\"x\\\"\"");
    assert_eq!(prepared.body, expected.as_bytes());
    let same = prepare(&call, ProviderKind::OpenAi, "m").unwrap();
    assert_eq!(same.body, body);
    // Not even copied.
    assert_eq!(same.body.as_ptr(), call.body().as_ptr());
}

#[test]
fn a_form_passes_with_its_boundary_and_the_models_name_changed() {
    let body = "--b\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nwhisper-1\r\n--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a\"\r\n\r\n\x00\x01\r\n--b--\r\n";
    let mut headers = http::HeaderMap::new();
    headers.insert(
        "content-type",
        "multipart/form-data; boundary=b".parse().unwrap(),
    );
    let front = tidegate_llm::Front::recognise(
        &http::Method::POST,
        "/v1/audio/transcriptions",
        None,
        &headers,
    )
    .unwrap();
    let call = tidegate_llm::Call::read(&front, &headers, Bytes::from(body)).unwrap();
    assert_eq!(call.model(), "whisper-1");
    let prepared = prepare(&call, ProviderKind::OpenAi, "w2").unwrap();
    assert_eq!(prepared.body, body.replace("whisper-1", "w2").as_bytes());
    assert_eq!(
        prepared.headers["content-type"],
        "multipart/form-data; boundary=b"
    );
    assert_eq!(prepared.target, "/v1/audio/transcriptions");
}

#[test]
fn what_a_variant_does_not_take_is_renamed_or_left_out_in_place() {
    let prepared = |body: &'static str| {
        let call = call("/v1/chat/completions", body.as_bytes()).unwrap();
        let prepared = prepare(&call, ProviderKind::Mistral, "m").unwrap();
        String::from_utf8(prepared.body.to_vec()).unwrap()
    };
    assert_eq!(
        prepared(
            r#"{"user":"u","model":"m","store":true, "metadata":{},"max_completion_tokens":5,"messages":[] ,"seed":1,"stream_options":{}}"#
        ),
        r#"{"model":"m","max_tokens":5,"messages":[] ,"random_seed":1}"#
    );
    assert_eq!(
        prepared(r#"{"model":"m","user":"u","store":1}"#),
        r#"{"model":"m"}"#
    );
    // One that is there already is not written twice.
    assert_eq!(
        prepared(r#"{"model":"m","max_tokens":1,"max_completion_tokens":2}"#),
        r#"{"model":"m","max_tokens":1,"max_completion_tokens":2}"#
    );
}

#[test]
fn usage_is_asked_for_on_our_own_account_only_where_the_caller_did_not() {
    let with = |body: &'static str| {
        let call = call("/v1/chat/completions", body.as_bytes()).unwrap();
        let options = PrepareOptions {
            count_usage: true,
            ..OPTIONS
        };
        let prepared = call
            .prepare(
                &spec(ProviderKind::OpenAi),
                Secret::None,
                "m",
                &http::HeaderMap::new(),
                options,
            )
            .unwrap();
        String::from_utf8(prepared.body.to_vec()).unwrap()
    };
    assert_eq!(
        with(r#"{"model":"m","stream":true}"#),
        r#"{"stream_options":{"include_usage":true},"model":"m","stream":true}"#
    );
    assert_eq!(
        with(r#"{"model":"m","stream":true,"stream_options":null}"#),
        r#"{"model":"m","stream":true,"stream_options":{"include_usage":true}}"#
    );
    for body in [
        r#"{"model":"m"}"#,
        r#"{"model":"m","stream":true,"stream_options":{"include_usage":true,"x":1}}"#,
    ] {
        assert_eq!(with(body), body);
    }
}

#[test]
fn a_models_name_is_no_way_to_another_path() {
    for name in [
        "..",
        ".",
        "../tunedModels/x",
        "a/../../b",
        "models/..",
        "a/.",
    ] {
        let generate = call(
            "/v1/chat/completions",
            serde_json::json!({ "model": name, "messages": [{ "role": "user", "content": "hi" }] })
                .to_string(),
        )
        .unwrap();
        for kind in [
            ProviderKind::Gemini,
            ProviderKind::Bedrock,
            ProviderKind::Azure,
        ] {
            let path = prepare(&generate, kind, name).map(|prepared| prepared.target);
            // Where a slash is escaped it is one segment.
            match (kind, name.contains('/')) {
                (ProviderKind::Bedrock | ProviderKind::Azure, true) => {
                    assert!(path.unwrap().as_str().contains("%2F"), "{kind:?} {name}");
                }
                _ => {
                    let fault = path.unwrap_err();
                    assert_eq!(fault.kind, FaultKind::BadField, "{kind:?} {name}");
                    assert_eq!(fault.param.as_deref(), Some("model"));
                }
            }
        }
        // Where it stands in the body alone it may be what it is.
        prepare(&generate, ProviderKind::OpenAi, name).unwrap();
    }
    let dots = call("/v1/chat/completions", fixture("requests/chat.json")).unwrap();
    let path = prepare(&dots, ProviderKind::Gemini, "tunedModels/a..b.1")
        .unwrap()
        .target;
    assert!(path.as_str().contains("/tunedModels/a..b.1:"), "{path}");
}

#[test]
fn what_cannot_be_said_is_refused_with_its_place() {
    for (path, body, kind, fault, param) in [
        (
            "/v1/chat/completions",
            r#"{"model":"m","messages":[{"role":"user","content":"x"}],"n":2}"#,
            ProviderKind::Anthropic,
            FaultKind::Untranslatable,
            "n",
        ),
        (
            "/v1/responses",
            r#"{"model":"m","input":"x","previous_response_id":"r"}"#,
            ProviderKind::Anthropic,
            FaultKind::Untranslatable,
            "previous_response_id",
        ),
        (
            "/v1/responses",
            r#"{"model":"m","input":"x","tools":[{"type":"web_search"}]}"#,
            ProviderKind::DeepSeek,
            FaultKind::Untranslatable,
            "tools[0].type",
        ),
        (
            "/v1/messages",
            r#"{"model":"m","messages":[{"role":"user","content":7}]}"#,
            ProviderKind::OpenAi,
            FaultKind::BadField,
            "messages[0].content",
        ),
        (
            "/v1/messages",
            r#"{"model":"m"}"#,
            ProviderKind::OpenAi,
            FaultKind::BadField,
            "messages",
        ),
        (
            "/v1/chat/completions",
            r#"{"model":"m","messages":[]}"#,
            ProviderKind::Gemini,
            FaultKind::BadField,
            "messages",
        ),
        (
            "/v1/chat/completions",
            r#"{"model":"m","messages":[{"role":"robot","content":"x"}]}"#,
            ProviderKind::Gemini,
            FaultKind::BadField,
            "messages[0].role",
        ),
        (
            "/v1/embeddings",
            r#"{"model":"m","input":[[1,2]]}"#,
            ProviderKind::Gemini,
            FaultKind::Untranslatable,
            "input",
        ),
    ] {
        let call = call(path, body.as_bytes()).unwrap();
        let got = prepare(&call, kind, "m").unwrap_err();
        assert_eq!(
            (got.kind, got.param.as_deref()),
            (fault, Some(param)),
            "{body}"
        );
    }
    let images = call("/v1/images/generations", &br#"{"model":"m"}"#[..]).unwrap();
    let fault = prepare(&images, ProviderKind::Anthropic, "m").unwrap_err();
    assert_eq!(fault.kind, FaultKind::UnsupportedEndpoint);
}

#[test]
fn a_probe_is_a_request_like_any_other() {
    let probe = tidegate_llm::Call::probe("gpt-3");
    let prepared = prepare(&probe, ProviderKind::OpenAi, "gpt-4o-mini").unwrap();
    assert_eq!(
        prepared.body,
        &br#"{"model":"gpt-4o-mini","messages":[{"role":"user","content":"hi"}],"max_tokens":1}"#[..]
    );
    for (_, kind) in PROVIDERS {
        prepare(&probe, *kind, "m").unwrap();
    }
}

fn any_json() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i32>().prop_map(Into::into),
        any::<i16>().prop_map(|n| (f64::from(n) / 4.0).into()),
        prop_oneof![
            "[a-z_]{0,8}",
            Just("user".to_owned()),
            Just("assistant".to_owned()),
            Just("tool".to_owned()),
            Just("text".to_owned()),
            Just("image_url".to_owned()),
            Just("function".to_owned()),
            Just("tool_use".to_owned()),
            Just("data:image/png;base64,AA".to_owned()),
        ]
        .prop_map(Into::into),
    ];
    let key = prop_oneof![
        Just("model"),
        Just("messages"),
        Just("content"),
        Just("role"),
        Just("type"),
        Just("text"),
        Just("tools"),
        Just("tool_calls"),
        Just("function"),
        Just("name"),
        Just("arguments"),
        Just("input"),
        Just("contents"),
        Just("parts"),
        Just("system"),
        Just("source"),
        Just("stream"),
        Just("image_url"),
        Just("url"),
        Just("parameters"),
        Just("functionCall"),
        Just("prompt"),
        Just("stop"),
        Just("choices"),
        Just("delta"),
        Just("candidates"),
        Just("usage"),
        Just("index"),
        Just("x"),
    ];
    leaf.prop_recursive(5, 64, 6, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..5).prop_map(Into::into),
            proptest::collection::vec((key.clone(), inner), 0..6).prop_map(|fields| {
                serde_json::Value::Object(
                    fields.into_iter().map(|(k, v)| (k.to_owned(), v)).collect(),
                )
            }),
        ]
    })
}

proptest! {
    #[test]
    fn any_json_is_written_or_refused_and_never_panics(mut body in any_json()) {
        if let Some(object) = body.as_object_mut() {
            object.insert("model".into(), "m".into());
            object.remove("stream");
        }
        let bytes = serde_json::to_vec(&body).unwrap();
        for caller in CALLERS {
            let Ok(call) = call(caller.whole, bytes.clone()) else { continue };
            let _ = call.prefix_hash();
            for (_, kind) in PROVIDERS {
                if let Ok(prepared) = prepare(&call, *kind, "m2") {
                    prop_assert!(serde_json::from_slice::<serde_json::Value>(&prepared.body).is_ok());
                    if prepared.plan.is_relay() {
                        // Nothing but the model is another.
                        let mut now: serde_json::Value = serde_json::from_slice(&prepared.body).unwrap();
                        if let (Some(now), Some(body)) = (now.as_object_mut(), body.as_object())
                            && caller.name != "gemini"
                        {
                            now.insert("model".into(), "m".into());
                            prop_assert_eq!(&*now, body);
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn any_bytes_are_a_fault_or_a_call(body in proptest::collection::vec(any::<u8>(), 0..200)) {
        for caller in CALLERS {
            let _ = call(caller.whole, body.clone());
        }
    }
}

#[test]
fn ids_of_calls_are_made_plain_where_they_must_be() {
    let body = br#"{"model":"m","messages":[{"role":"user","content":"x"},{"role":"assistant","tool_calls":[{"id":"functions.look:0","type":"function","function":{"name":"look","arguments":"{}"}}]},{"role":"tool","tool_call_id":"functions.look:0","content":"y"}]}"#;
    let call = call("/v1/chat/completions", &body[..]).unwrap();
    for kind in [ProviderKind::Anthropic, ProviderKind::Bedrock] {
        let prepared = prepare(&call, kind, "m").unwrap();
        let text = String::from_utf8(prepared.body.to_vec()).unwrap();
        assert_eq!(text.matches("\"functions_look_0_").count(), 2, "{text}");
        assert!(!text.contains("functions.look"));
    }
}

/// A conversation in chat's words, as it comes back from each translation: adjacent messages of one side are one.
fn any_conversation() -> impl Strategy<Value = serde_json::Value> {
    use serde_json::json;
    let text = "[a-zäß\"\\\\\n{}é]{1,12}";
    let turn = (text, text, text, 0..3u8, any::<bool>());
    (proptest::collection::vec(turn, 1..5), proptest::option::of(text)).prop_map(|(turns, system)| {
        let mut messages = Vec::new();
        if let Some(system) = system {
            messages.push(json!({"role": "system", "content": system}));
        }
        let mut calls = 0;
        for (asked, said, result, tools, picture) in turns {
            messages.push(if picture {
                json!({"role": "user", "content": [
                    {"type": "text", "text": asked},
                    {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
                ]})
            } else {
                json!({"role": "user", "content": asked})
            });
            if tools == 0 {
                messages.push(json!({"role": "assistant", "content": said}));
                continue;
            }
            let first = calls;
            calls += usize::from(tools);
            let made: Vec<_> = (first..calls)
                .map(|n| json!({"id": format!("call_{n}"), "type": "function", "function": {"name": format!("f{n}"), "arguments": json!({"x": said}).to_string()}}))
                .collect();
            messages.push(json!({"role": "assistant", "content": said, "tool_calls": made}));
            // A result that is an object goes to Gemini as that object: blanks are no part of it.
            let object = serde_json::from_str::<serde_json::Map<_, _>>(&result);
            let result = object.map_or(result, |object| json!(object).to_string());
            for n in first..calls {
                messages.push(json!({"role": "tool", "tool_call_id": format!("call_{n}"), "content": result}));
            }
            messages.push(json!({"role": "assistant", "content": "so"}));
        }
        json!({
            "model": "m",
            "messages": messages,
            "tools": [{"type": "function", "function": {"name": "f0", "description": "d", "parameters": {"type": "object", "properties": {"x": {"type": "string"}}}}}],
            "tool_choice": "required",
            "max_tokens": 50,
            "temperature": 0.5,
            "stop": ["END"],
            "response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": {"type": "object"}}},
        })
    })
}

proptest! {
    #[test]
    fn a_conversation_comes_back_from_another_dialect_as_it_went(body in any_conversation()) {
        for (kind, path) in [
            (ProviderKind::Anthropic, "/v1/messages"),
            (ProviderKind::Gemini, "/v1beta/models/m:generateContent"),
        ] {
            let there = prepare(&call("/v1/chat/completions", body.to_string()).unwrap(), kind, "m").unwrap();
            let back = prepare(&call(path, there.body).unwrap(), ProviderKind::DeepSeek, "m").unwrap();
            let mut now: serde_json::Value = serde_json::from_slice(&back.body).unwrap();
            // What one of the two has no place for.
            if let Some(format) = now.pointer_mut("/response_format/json_schema").and_then(|format| format.as_object_mut()) {
                format.remove("strict");
            }
            prop_assert_eq!(&now, &body);
        }
    }
}
