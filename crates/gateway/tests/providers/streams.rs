//! Streams that fail before and after their first content, and what keeps waiting callers.

use std::time::Duration;

use serde_json::json;

use crate::key;
use crate::support::{Do, Gateway, Provider, Then, delta, role, stop, stream};

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
