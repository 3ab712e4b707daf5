//! What callers are told: fixtures for each pair, whole and as streams.

mod support;

use bytes::Bytes;
use http::HeaderMap;
use proptest::prelude::*;
use support::{
    CALLERS, OPTIONS, PROVIDERS, answer, call, feed, fixture, golden, joined, prepare, pretty,
    short, spec, stream,
};
use tidegate_llm::classify::Class;
use tidegate_llm::{Broke, PrepareOptions, ProviderKind, Secret, Step};

#[test]
fn a_whole_answer_of_each_provider_is_told_to_each_caller() {
    for caller in CALLERS {
        for (provider, kind) in PROVIDERS {
            let call = call(caller.whole, short(caller.name, false)).unwrap();
            let prepared = prepare(&call, *kind, "their-model").unwrap();
            let mut answer = answer(&prepared, "application/json");
            let body = fixture(&format!("answers/{provider}.json"));
            let (text, step) = feed(&mut answer, &[&body[..40], &body[40..]]);
            assert_eq!(
                step,
                Step::Done,
                "{} from {provider}: {:?}",
                caller.name,
                answer.evidence()
            );
            let usage = answer.usage().unwrap();
            assert_eq!(
                (usage.input, usage.output, usage.cached),
                (20, 10, if *provider == "cohere" { 0 } else { 4 })
            );
            if prepared.plan.is_relay() {
                assert_eq!(text.as_bytes(), body);
                continue;
            }
            serde_json::from_str::<serde_json::Value>(&text).unwrap();
            golden(
                &format!("answers/{}.from.{provider}.txt", caller.name),
                &pretty(text.as_bytes()),
            );
        }
    }
}

/// A translated stream, cut at places.
fn translated(
    caller: &support::Caller,
    provider: &str,
    kind: ProviderKind,
    cuts: &[usize],
) -> String {
    let path = format!("{}?alt=sse", caller.stream);
    let call = call(&path, short(caller.name, true)).unwrap();
    let prepared = prepare(&call, kind, "their-model").unwrap();
    let (content_type, bytes) = stream(provider);
    let mut answer = answer(&prepared, content_type);
    let mut pieces = Vec::new();
    let mut rest = &bytes[..];
    for cut in cuts {
        let (piece, tail) = rest.split_at((*cut).min(rest.len()));
        pieces.push(piece);
        rest = tail;
    }
    pieces.push(rest);
    let (text, step) = feed(&mut answer, &pieces);
    assert_eq!(
        step,
        Step::Done,
        "{} from {provider}: {:?}",
        caller.name,
        answer.evidence()
    );
    assert!(answer.content_begun() && answer.take_head().is_some());
    assert_eq!(answer.usage().unwrap().total(), 30);
    text
}

#[test]
fn a_stream_of_each_provider_is_told_to_each_caller() {
    for caller in CALLERS {
        for (provider, kind) in PROVIDERS {
            let text = translated(caller, provider, *kind, &[]);
            let call = call(caller.stream, short(caller.name, true)).unwrap();
            if prepare(&call, *kind, "m").unwrap().plan.is_relay() {
                // Not a byte is another.
                assert_eq!(text.as_bytes(), stream(provider).1);
            } else {
                golden(
                    &format!("streams/{}.from.{provider}.txt", caller.name),
                    &text,
                );
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases / 5, ..ProptestConfig::default() })]
    #[test]
    fn wherever_a_stream_is_cut_the_caller_gets_the_same(
        cuts in proptest::collection::vec(0usize..120, 0..40),
        caller in 0..CALLERS.len(),
        provider in 0..PROVIDERS.len(),
    ) {
        let (name, kind) = PROVIDERS[provider];
        let whole = translated(&CALLERS[caller], name, kind, &[]);
        prop_assert_eq!(translated(&CALLERS[caller], name, kind, &cuts), whole);
    }

    #[test]
    fn any_bytes_of_a_provider_never_panic(
        bytes in proptest::collection::vec(any::<u8>(), 0..300),
        json in "[ {}\\[\\]:,\"a-z0-9]{0,80}",
        caller in 0..CALLERS.len(),
        provider in 0..PROVIDERS.len(),
    ) {
        let caller = &CALLERS[caller];
        let (_, kind) = PROVIDERS[provider];
        for streams in [true, false] {
            let call = call(if streams { caller.stream } else { caller.whole }, short(caller.name, streams)).unwrap();
            let prepared = prepare(&call, kind, "m").unwrap();
            for body in [bytes.clone(), format!("data: {json}\n\n").into_bytes()] {
                let mut answer = answer(&prepared, if streams { "text/event-stream" } else { "application/json" });
                feed(&mut answer, &[&body]);
                let _ = (answer.terminal_error(), answer.error_answer());
            }
        }
    }
}

#[test]
fn lifecycle_frames_are_held_until_the_first_content() {
    for (target, body, kind, frames, begins) in [
        (
            "/v1/chat/completions",
            short("chat", true),
            ProviderKind::OpenAi,
            "openai",
            1,
        ),
        (
            "/v1/messages",
            short("messages", true),
            ProviderKind::Anthropic,
            "anthropic",
            3,
        ),
        (
            "/v1beta/models/m:streamGenerateContent?alt=sse",
            short("gemini", true),
            ProviderKind::Gemini,
            "gemini",
            0,
        ),
        (
            "/v1/messages",
            short("messages", true),
            ProviderKind::DeepSeek,
            "openai",
            1,
        ),
        (
            "/v1/chat/completions",
            short("chat", true),
            ProviderKind::Anthropic,
            "anthropic",
            3,
        ),
        (
            "/v1/chat/completions",
            short("chat", true),
            ProviderKind::Cohere,
            "cohere",
            1,
        ),
    ] {
        let prepared = prepare(&call(target, body).unwrap(), kind, "m").unwrap();
        let mut answer = answer(&prepared, "text/event-stream");
        let bytes = String::from_utf8(stream(frames).1).unwrap();
        let mut out = Vec::new();
        for (at, frame) in bytes.split_inclusive("\n\n").enumerate().take(begins + 1) {
            assert!(
                out.is_empty() && !answer.content_begun() && answer.take_head().is_none(),
                "{kind:?}"
            );
            let step = answer.data(Bytes::copy_from_slice(frame.as_bytes()), &mut out);
            let ping = frame.contains("\"ping\"");
            assert_eq!(
                step,
                if ping { Step::Ping } else { Step::Progress },
                "{kind:?} {at}"
            );
        }
        assert!(answer.content_begun(), "{kind:?}");
        assert!(!out.is_empty());
    }
}

#[test]
fn comments_of_the_provider_feed_no_idle_timer() {
    for kind in [ProviderKind::OpenAi, ProviderKind::Anthropic] {
        let prepared = prepare(
            &call("/v1/chat/completions", short("chat", true)).unwrap(),
            kind,
            "m",
        )
        .unwrap();
        let mut answer = answer(&prepared, "text/event-stream");
        let mut out = Vec::new();
        for _ in 0..3 {
            let ping = Bytes::from_static(b": OPENROUTER PROCESSING\n\n");
            assert_eq!(answer.data(ping, &mut out), Step::Ping);
        }
        assert!(out.is_empty());
    }
}

#[test]
fn usage_that_was_not_asked_for_is_kept_from_the_caller() {
    let body = br#"{"model":"m","messages":[{"role":"user","content":"hi"}],"stream":true}"#;
    let call = call("/v1/chat/completions", &body[..]).unwrap();
    let options = PrepareOptions {
        count_usage: true,
        ..OPTIONS
    };
    let prepared = call
        .prepare(
            &spec(ProviderKind::OpenAi),
            Secret::None,
            "m",
            &HeaderMap::new(),
            options,
        )
        .unwrap();
    let bytes = String::from_utf8(stream("openai").1).unwrap();
    let expected: String = bytes
        .split_inclusive("\n\n")
        .filter(|frame| !frame.contains("\"choices\":[]"))
        .collect();
    for size in [1, 7, 100, bytes.len()] {
        let mut answer = answer(&prepared, "text/event-stream");
        let pieces: Vec<&[u8]> = bytes.as_bytes().chunks(size).collect();
        let (text, step) = feed(&mut answer, &pieces);
        assert_eq!((text.as_str(), step), (expected.as_str(), Step::Done));
        assert_eq!(answer.usage().unwrap().total(), 30);
    }
}

#[test]
fn a_stream_without_alt_sse_is_one_array() {
    for (provider, kind) in PROVIDERS {
        let prepared = prepare(
            &call(
                "/v1beta/models/m:streamGenerateContent",
                short("gemini", true),
            )
            .unwrap(),
            *kind,
            "m",
        )
        .unwrap();
        let (content_type, bytes) = stream(provider);
        let mut answer = answer(&prepared, content_type);
        let pieces: Vec<&[u8]> = bytes.chunks(11).collect();
        let (text, step) = feed(&mut answer, &pieces);
        assert_eq!(step, Step::Done);
        let items: Vec<serde_json::Value> = serde_json::from_str(&text).expect(&text);
        assert!(items.len() > 2);
        assert_eq!(
            answer.take_head().unwrap().1["content-type"],
            "application/json"
        );
    }
}

#[test]
fn faults_before_content_can_be_mended_unseen() {
    let sse = "text/event-stream";
    for (target, name, kind, body, class) in [
        (
            "/v1/chat/completions",
            "chat",
            ProviderKind::OpenAi,
            "data: {\"error\":{\"message\":\"overloaded\",\"type\":\"server_error\"}}\n\n",
            Class::ProviderDown,
        ),
        (
            "/v1/chat/completions",
            "chat",
            ProviderKind::Anthropic,
            "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"Overloaded\"}}\n\n",
            Class::ProviderDown,
        ),
        (
            "/v1/messages",
            "messages",
            ProviderKind::Anthropic,
            "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"Overloaded\"}}\n\n",
            Class::ProviderDown,
        ),
        (
            "/v1/chat/completions",
            "chat",
            ProviderKind::OpenAi,
            "data: {\"id\":\"x\",\"choices\":[{\"delta\":{\"role\":\"assistant\"}}]}\n\n",
            Class::Broken,
        ),
        (
            "/v1/chat/completions",
            "chat",
            ProviderKind::OpenAi,
            "data: {\"id\":\n\n",
            Class::Broken,
        ),
        (
            "/v1/chat/completions",
            "chat",
            ProviderKind::Gemini,
            "data: nonsense\n\n",
            Class::Broken,
        ),
        (
            "/v1/messages",
            "messages",
            ProviderKind::DeepSeek,
            "",
            Class::Broken,
        ),
        (
            "/v1/chat/completions",
            "chat",
            ProviderKind::OpenAi,
            "data: [DONE]\n\n",
            Class::Broken,
        ),
        // Without the line end that some leave out.
        (
            "/v1/chat/completions",
            "chat",
            ProviderKind::OpenAi,
            "data: [DONE]",
            Class::Broken,
        ),
        (
            "/v1/messages",
            "messages",
            ProviderKind::DeepSeek,
            "data: [DONE]",
            Class::Broken,
        ),
    ] {
        let prepared = prepare(&call(target, short(name, true)).unwrap(), kind, "m").unwrap();
        let mut answer = answer(&prepared, sse);
        let (text, step) = feed(&mut answer, &[body.as_bytes()]);
        assert_eq!((text.as_str(), step), ("", Step::Failed), "{body}");
        assert!(!answer.content_begun());
        assert_eq!(answer.evidence().unwrap().class, class, "{body}");
        let error = answer.error_answer();
        assert!(error.status.is_server_error());
        assert!(error.headers.contains_key("x-tidegate-error"));
    }
}

#[test]
fn faults_after_content_are_a_typed_error_and_no_good_end() {
    for caller in CALLERS {
        for (provider, kind) in PROVIDERS {
            let path = format!("{}?alt=sse", caller.stream);
            let prepared =
                prepare(&call(&path, short(caller.name, true)).unwrap(), *kind, "m").unwrap();
            let (content_type, bytes) = stream(provider);
            for (fault, broke) in [
                ("cut", None),
                ("reset", Some(Broke::Connection)),
                ("stall", Some(Broke::Idle)),
            ] {
                let mut answer = answer(&prepared, content_type);
                let mut out = Vec::new();
                // In the middle of a frame behind the first content.
                let at = bytes.len() * 2 / 3;
                answer.data(Bytes::copy_from_slice(&bytes[..at]), &mut out);
                assert!(answer.content_begun(), "{} {provider}", caller.name);
                let step = match broke {
                    None => answer.end(&mut out),
                    Some(broke) => answer.broken(broke),
                };
                assert_eq!(step, Step::Failed, "{} {provider} {fault}", caller.name);
                assert_eq!(answer.evidence().unwrap().class, Class::Broken);
                let text = joined(&out) + &joined(&[answer.terminal_error()]);
                for end in [
                    "[DONE]",
                    "message_stop",
                    "response.completed",
                    "finishReason",
                ] {
                    assert!(
                        !text.contains(end),
                        "{} {provider} {fault}: {text}",
                        caller.name
                    );
                }
                // Only whole frames went out, the last of them the error.
                let last = text
                    .strip_suffix("\n\n")
                    .unwrap()
                    .rsplit("\n\n")
                    .next()
                    .unwrap();
                assert!(last.contains("\"error\""), "{last}");
                for frame in text.strip_suffix("\n\n").unwrap().split("\n\n") {
                    let data = frame.lines().find_map(|line| line.strip_prefix("data: "));
                    if let Some(data) = data {
                        serde_json::from_str::<serde_json::Value>(data).expect(frame);
                    }
                }
            }
        }
    }
}

#[test]
fn an_error_within_a_stream_of_aws_is_classified() {
    let prepared = prepare(
        &call("/v1/chat/completions", short("chat", true)).unwrap(),
        ProviderKind::Bedrock,
        "m",
    )
    .unwrap();
    let mut bytes = Vec::new();
    support::aws_event("messageStart", r#"{"role":"assistant"}"#, &mut bytes);
    support::aws_event(
        "throttlingException",
        r#"{"message":"Too many tokens"}"#,
        &mut bytes,
    );
    let mut answer = answer(&prepared, "application/vnd.amazon.eventstream");
    assert_eq!(feed(&mut answer, &[&bytes]).1, Step::Failed);
    assert!(matches!(
        answer.evidence().unwrap().class,
        Class::Limited { .. }
    ));
}

#[test]
fn a_cut_json_answer_is_not_given_out() {
    let prepared = prepare(
        &call("/v1/chat/completions", short("chat", false)).unwrap(),
        ProviderKind::OpenAi,
        "m",
    )
    .unwrap();
    let body = fixture("answers/openai.json");
    let mut answer = answer(&prepared, "application/json");
    let (text, step) = feed(&mut answer, &[&body[..body.len() / 2]]);
    assert_eq!((text.as_str(), step), ("", Step::Failed));
    assert_eq!(answer.evidence().unwrap().class, Class::Broken);
}

#[test]
fn an_answer_in_one_piece_is_no_stream_whatever_its_length() {
    for (target, name, kind, fixed) in [
        (
            "/v1/chat/completions",
            "chat",
            ProviderKind::OpenAi,
            "openai",
        ),
        (
            "/v1/messages",
            "messages",
            ProviderKind::Anthropic,
            "anthropic",
        ),
        ("/v1/messages", "messages", ProviderKind::OpenAi, "openai"),
    ] {
        let prepared = prepare(&call(target, short(name, true)).unwrap(), kind, "m").unwrap();
        let short = fixture(&format!("answers/{fixed}.json"));
        let long = [&vec![b' '; 1_200_000][..], &short].concat();
        for body in [short, long] {
            let mut answer = answer(&prepared, "application/json");
            let (text, step) = feed(&mut answer, &[&body]);
            assert_eq!((text.as_str(), step), ("", Step::Failed), "{name}");
            assert_eq!(answer.evidence().unwrap().class, Class::Broken, "{name}");
        }
    }
}

#[test]
fn a_choice_that_ends_twice_ends_once_for_a_caller_of_gemini() {
    let call = call(
        "/v1beta/models/m:streamGenerateContent?alt=sse",
        short("gemini", true),
    )
    .unwrap();
    let prepared = prepare(&call, ProviderKind::DeepSeek, "m").unwrap();
    let mut answer = answer(&prepared, "text/event-stream");
    let end = "data: {\"id\":\"c\",\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n";
    let said = "data: {\"id\":\"c\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"a\"}}]}\n\n";
    let stream = format!("{said}{end}{end}data: [DONE]\n\n");
    let (text, step) = feed(&mut answer, &[stream.as_bytes()]);
    assert_eq!(step, Step::Done);
    assert_eq!(text.matches("finishReason").count(), 1, "{text}");
}

#[test]
fn a_page_in_the_place_of_an_answer_is_none() {
    for stream in [true, false] {
        let call = call("/v1/chat/completions", short("chat", stream)).unwrap();
        let prepared = prepare(&call, ProviderKind::OpenAi, "m").unwrap();
        let mut answer = answer(&prepared, "text/html");
        let (text, step) = feed(&mut answer, &[b"<html>Log in</html>"]);
        assert_eq!((text.as_str(), step), ("", Step::Failed));
        assert_eq!(answer.evidence().unwrap().class, Class::Broken);
    }
}

#[test]
fn a_long_answer_is_passed_on_and_its_usage_read_from_its_end() {
    let image = "A".repeat(1_200_000);
    let usage = r#""usage":{"input_tokens":3,"output_tokens":4}"#;
    let call = call(
        "/v1/images/generations",
        &br#"{"model":"m","prompt":"x"}"#[..],
    )
    .unwrap();
    let prepared = prepare(&call, ProviderKind::OpenAi, "m").unwrap();
    for (body, counted) in [
        (
            format!(r#"{{"data":[{{"b64_json":"{image}"}}],{usage}}}"#),
            true,
        ),
        // Where it is not at the end it is not seen.
        (
            format!(r#"{{{usage},"data":[{{"b64_json":"{image}"}}]}}"#),
            false,
        ),
    ] {
        for size in [1000, 700_000, 2_000_000] {
            let mut answer = answer(&prepared, "application/json");
            let pieces: Vec<&[u8]> = body.as_bytes().chunks(size).collect();
            let (out, step) = feed(&mut answer, &pieces);
            assert_eq!(step, Step::Done);
            assert!(out == body);
            let seen = answer.usage().map(|usage| (usage.input, usage.output));
            assert_eq!(seen, counted.then_some((3, 4)), "{size}");
        }
    }
}

#[test]
fn an_answer_that_is_not_text_passes_as_it_comes() {
    let call = call("/v1/audio/speech", &br#"{"model":"tts","input":"hi"}"#[..]).unwrap();
    let prepared = prepare(&call, ProviderKind::OpenAi, "tts").unwrap();
    let mut answer = answer(&prepared, "audio/mpeg");
    let mut out = Vec::new();
    answer.data(Bytes::from_static(b"\xff\xfb"), &mut out);
    assert!(answer.content_begun());
    assert_eq!(out, [Bytes::from_static(b"\xff\xfb")]);
    assert_eq!(answer.take_head().unwrap().1["content-type"], "audio/mpeg");
    assert_eq!(answer.end(&mut out), Step::Done);
}

#[test]
fn embeddings_are_translated_and_packed_as_asked() {
    for (kind, theirs) in [
        (
            ProviderKind::Gemini,
            r#"{"embeddings":[{"values":[0.5,-1]},{"values":[2,0.25]}]}"#,
        ),
        (
            ProviderKind::Cohere,
            r#"{"id":"x","embeddings":{"float":[[0.5,-1],[2,0.25]]},"meta":{"billed_units":{"input_tokens":4}}}"#,
        ),
    ] {
        for (format, first) in [("float", "[0.5,-1.0]"), ("base64", "\"AAAAPwAAgL8=\"")] {
            let body = format!(
                r#"{{"model":"m","input":["a","b"],"encoding_format":"{format}","dimensions":2}}"#
            );
            let call = call("/v1/embeddings", body).unwrap();
            let prepared = prepare(&call, kind, "their-model").unwrap();
            let mut answer = answer(&prepared, "application/json");
            let (text, step) = feed(&mut answer, &[theirs.as_bytes()]);
            assert_eq!(step, Step::Done);
            assert!(
                text.starts_with(&format!(r#"{{"object":"list","data":[{{"object":"embedding","index":0,"embedding":{first}}}"#)),
                "{text}"
            );
        }
    }
}
