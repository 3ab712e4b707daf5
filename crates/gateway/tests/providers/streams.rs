//! Streams that fail before and after their first content, and what keeps waiting callers.

use std::time::Duration;

use serde_json::json;

use crate::key;
use crate::support::{Do, Gateway, Provider, Then, answer, delta, role, stop, stream};

/// What may happen to a stream.
fn faults(before: &[String]) -> Vec<(&'static str, Vec<String>, Then)> {
    let with = |frame: &str| [before, &[frame.to_owned()]].concat();
    let event = "data: {\"error\":{\"message\":\"boom\",\"type\":\"server_error\"}}\n\n";
    vec![
        ("error event", with(event), Then::End),
        ("end", before.to_vec(), Then::End),
        ("cut", before.to_vec(), Then::Cut),
        ("stall", before.to_vec(), Then::Stall),
        ("malformed", with("data: {\"choices\": [\n\n"), Then::End),
    ]
}

async fn streams(frames: Vec<String>, then: Then) -> (Provider, Gateway) {
    let provider = Provider::start(move |asked| match asked.key == key("bad") {
        true => Do::Stream(frames.clone(), then),
        false => stream("hello"),
    })
    .await;
    let gateway = Gateway::start(&json!({
        "providers": [{"name": "p", "type": "openai", "base_url": provider.base(),
            "api_tokens": [key("bad"), key("good")], "choose": "round_robin",
            "timeouts": {"first_content": "300ms", "idle": "300ms"}}],
    }))
    .await;
    (provider, gateway)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_fails_before_content_is_begun_anew_unseen() {
    for (name, frames, then) in faults(&[role()]) {
        let (provider, gateway) = streams(frames, then).await;
        for _ in 0..4 {
            let reply = gateway.chat(json!({"stream": true})).await;
            assert_eq!(reply.status, 200, "{name}");
            assert_eq!(reply.streamed(), "hello", "{name}: {reply:?}");
            assert!(
                reply.whole && reply.body.contains("[DONE]"),
                "{name}: {reply:?}"
            );
            assert!(!reply.body.contains("error"), "{name}: {reply:?}");
        }
        assert!(provider.asked()[&key("bad")] > 0, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_fails_after_content_ends_with_an_error_and_never_as_done() {
    for (name, frames, then) in faults(&[role(), delta("hel")]) {
        let (provider, gateway) = streams(frames, then).await;
        let mut broken = 0;
        for _ in 0..4 {
            let reply = gateway.chat(json!({"stream": true})).await;
            assert_eq!(reply.status, 200, "{name}");
            assert!(reply.whole, "{name}: {reply:?}");
            if reply.streamed() == "hello" {
                assert!(reply.body.contains("[DONE]"), "{name}: {reply:?}");
                continue;
            }
            broken += 1;
            assert_eq!(reply.streamed(), "hel", "{name}: {reply:?}");
            assert!(!reply.body.contains("[DONE]"), "{name}: {reply:?}");
            let last = reply.body.lines().rfind(|l| l.starts_with("data: "));
            assert!(
                last.is_some_and(|l| l.contains("\"error\"")),
                "{name}: {reply:?}"
            );
        }
        assert_eq!(broken, provider.asked()[&key("bad")], "{name}");
        assert!(broken > 0, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pings_do_not_feed_the_idle_timer() {
    let pings = std::iter::repeat_n(": ping\n\n".to_owned(), 3);
    let frames = [role(), delta("hel")].into_iter().chain(pings).collect();
    let (_provider, gateway) = streams(frames, Then::Stall).await;
    let begun = std::time::Instant::now();
    for _ in 0..2 {
        let reply = gateway.chat(json!({"stream": true})).await;
        assert_ne!(reply.streamed(), "", "{reply:?}");
    }
    assert!(begun.elapsed() < Duration::from_secs(20));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_in_one_piece_that_is_cut_after_it_was_begun_is_seen_as_cut() {
    // Too long to be kept back.
    let provider = Provider::start(|_| {
        let long = "x".repeat(1_500_000);
        Do::Short(format!(
            "{{\"choices\":[{{\"message\":{{\"content\":\"{long}\"}}}}]}}"
        ))
    })
    .await;
    let gateway = Gateway::start(&json!({
        "providers": [{"name": "p", "type": "openai", "base_url": provider.base(), "api_tokens": [key("a")]}],
    }))
    .await;
    let reply = gateway.chat(json!({})).await;
    assert_eq!(reply.status, 200);
    assert!(!reply.whole);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heartbeats_commit_to_nothing() {
    let provider = Provider::start(|asked| {
        match (asked.key == key("slow"), asked.body["hopeless"].is_null()) {
            (true, true) => Do::Hang,
            (false, true) => stream("hello"),
            (_, false) => Do::Hang,
        }
    })
    .await;
    let gateway = Gateway::start(&json!({
        "routes": [{"name": "r", "to": [{"provider": "p"}], "heartbeat": "50ms"}],
        "providers": [{"name": "p", "type": "openai", "base_url": provider.base(),
            "api_tokens": [key("slow"), key("good")], "choose": "round_robin",
            "timeouts": {"first_content": "400ms"}}],
    }))
    .await;
    let mut beaten = 0;
    for _ in 0..4 {
        let reply = gateway.chat(json!({"stream": true})).await;
        assert_eq!(
            (reply.status, &*reply.streamed()),
            (200, "hello"),
            "{reply:?}"
        );
        assert!(
            reply.whole && reply.body.trim_end().ends_with("[DONE]"),
            "{reply:?}"
        );
        beaten += usize::from(reply.body.starts_with(": ping"));
    }
    assert!(beaten > 0);
    let reply = gateway
        .chat(json!({"stream": true, "hopeless": true}))
        .await;
    assert_eq!(reply.status, 200, "the head was sent long before");
    assert!(reply.whole && reply.body.contains("\"error\""), "{reply:?}");
    assert!(!reply.body.contains("[DONE]"), "{reply:?}");
    // A whole answer has no place for them: nothing is sent before it.
    let reply = gateway.chat(json!({"hopeless": true})).await;
    assert!(
        reply.status >= 500 && reply.body.starts_with('{'),
        "{reply:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_that_was_kept_waiting_by_heartbeats_is_told_that_nothing_moved() {
    let provider = Provider::start(|_| Do::Hang).await;
    let gateway = Gateway::start(&json!({
        "routes": [{"name": "r", "to": [{"provider": "p"}], "heartbeat": "50ms", "idle_timeout": "500ms"}],
        "providers": [{"name": "p", "type": "openai", "base_url": provider.base(), "api_tokens": [key("a")]}],
    }))
    .await;
    let reply = gateway.chat(json!({"stream": true})).await;
    assert!(reply.body.starts_with(": ping"), "{reply:?}");
    assert!(reply.whole && reply.body.contains("\"error\""), "{reply:?}");
    assert!(!reply.body.contains("[DONE]"), "{reply:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_in_one_piece_is_no_stream() {
    let provider = Provider::start(|asked| match asked.key == key("bad") {
        true => answer("no stream"),
        false => stream("hello"),
    })
    .await;
    for heartbeat in ["1ms", "10s"] {
        let gateway = Gateway::start(&json!({
            "routes": [{"name": "r", "to": [{"provider": "p"}], "heartbeat": heartbeat}],
            "providers": [{"name": "p", "type": "openai", "base_url": provider.base(),
                "api_tokens": [key("bad"), key("good")], "choose": "round_robin"}],
        }))
        .await;
        for _ in 0..2 {
            let reply = gateway.chat(json!({"stream": true})).await;
            assert_eq!(reply.streamed(), "hello", "{reply:?}");
            assert!(
                reply.whole && !reply.body.contains("no stream"),
                "{reply:?}"
            );
        }
        // One that is asked for comes as it is.
        let reply = gateway.chat(json!({"stream": false})).await;
        assert_eq!(reply.status, 200, "{reply:?}");
    }
    assert!(provider.asked()[&key("bad")] > 0);
}

/// A caller over HTTP/2 who takes a little at a time.
async fn read_slowly(gateway: &Gateway, body: &serde_json::Value) -> String {
    let socket = tokio::net::TcpStream::connect(gateway.address).await;
    let (mut client, connection) = h2::client::Builder::new()
        .initial_window_size(10_000)
        .handshake::<_, bytes::Bytes>(socket.expect("connected"))
        .await
        .expect("HTTP/2");
    let connection = tokio::spawn(connection);
    let request = http::Request::post("http://h/v1/chat/completions")
        .header("content-type", "application/json")
        .body(())
        .expect("a request");
    let (answer, mut send) = client.send_request(request, false).expect("a stream");
    send.send_data(body.to_string().into(), true).expect("sent");
    let mut answer = answer.await.expect("an answer").into_body();
    let mut read = Vec::new();
    while let Some(piece) = answer.data().await {
        let piece = piece.expect("more of the answer");
        read.extend_from_slice(&piece);
        let given = answer.flow_control().release_capacity(piece.len());
        given.expect("a window");
    }
    connection.abort();
    String::from_utf8(read).expect("text")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_over_http2_with_a_small_window_gets_every_byte_in_order() {
    let said = (0..60_000).map(|n| format!("{n} ")).collect::<String>();
    let tokens: Vec<String> = said.split_inclusive(' ').map(str::to_owned).collect();
    let whole = said.clone();
    let provider = Provider::start(move |asked| match asked.body["stream"] == true {
        false => answer(&whole),
        true => {
            // Many frames in a chunk, and frames across chunks.
            let frames: String = tokens.iter().map(|token| delta(token)).collect();
            let frames = format!("{}{frames}{}", role(), stop());
            let bytes: Vec<String> = frames
                .as_bytes()
                .chunks(7919)
                .map(|chunk| String::from_utf8(chunk.to_vec()).expect("ASCII"))
                .collect();
            Do::Stream(bytes, Then::End)
        }
    })
    .await;
    for kind in ["openai", "deepseek"] {
        let gateway = Gateway::start(&json!({
            "providers": [{"name": "p", "type": kind, "base_url": provider.base(), "api_tokens": [key("a")]}],
        }))
        .await;
        let ask = |stream: bool| json!({"model": "m", "stream": stream, "messages": [{"role": "user", "content": "hi"}]});
        let reply: serde_json::Value =
            serde_json::from_str(&read_slowly(&gateway, &ask(false)).await).expect("JSON");
        assert!(reply["choices"][0]["message"]["content"] == *said);
        let text = read_slowly(&gateway, &ask(true)).await;
        assert!(text.ends_with("data: [DONE]\n\n"));
        let read: String = text
            .lines()
            .filter_map(|line| line.strip_prefix("data: "))
            .filter_map(|data| serde_json::from_str::<serde_json::Value>(data).ok())
            .filter_map(|chunk| {
                chunk["choices"][0]["delta"]["content"]
                    .as_str()
                    .map(str::to_owned)
            })
            .collect();
        assert!(read == said);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_go_on_one_connection_after_another_without_a_new_one_each() {
    let provider =
        Provider::start(|_| Do::Stream(vec![role(), delta("a"), stop()], Then::End)).await;
    let gateway = Gateway::start(&json!({
        "providers": [{"name": "p", "type": "openai", "base_url": provider.base(), "api_tokens": [key("a")],
            "connection_pool": {"max_connections": 2}}],
    }))
    .await;
    for _ in 0..20 {
        let reply = gateway.chat(json!({"stream": true})).await;
        assert_eq!((reply.status, &*reply.streamed()), (200, "a"), "{reply:?}");
    }
}
