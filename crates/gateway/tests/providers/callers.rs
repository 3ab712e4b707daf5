//! Callers: their own mistakes, their bodies, what they show, and that they leave.

use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{Do, Gateway, Provider, Then, answer, delta, error, role, until};
use crate::{key, support};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_own_mistakes_are_told_in_the_providers_words_and_evict_nothing() {
    let provider = Provider::start(|asked| match asked.body["temperature"].as_f64() {
        Some(t) if t > 2.0 => error(400, "", "invalid_value"),
        _ => answer("hello"),
    })
    .await;
    let gateway = Gateway::start(&json!({
        "providers": [{"name": "p", "type": "openai", "base_url": provider.base(),
            "api_tokens": [key("one"), key("two")]}],
    }))
    .await;
    for _ in 0..50 {
        let reply = gateway.chat(json!({"temperature": 3.0})).await;
        assert_eq!(reply.status, 400, "{reply:?}");
        assert_eq!(reply.json()["error"]["code"], "invalid_value");
    }
    assert_eq!(
        provider.asked().values().sum::<usize>(),
        50,
        "none was tried twice"
    );
    let states = gateway.states("p");
    assert!(
        states.values().all(|state| state == "healthy"),
        "{states:?}"
    );
    assert_eq!(gateway.chat(json!({})).await.status, 200);
    for (body, status) in [
        ("no json", 400),
        ("{}", 400),
        ("{\"model\": 7}", 400),
        ("[]", 400),
    ] {
        let reply = gateway.post("/v1/chat/completions", &[], body).await;
        assert_eq!(reply.status, status, "{body}: {reply:?}");
        assert!(reply.json()["error"]["message"].is_string(), "{reply:?}");
    }
    let reply = gateway.post("/v1/messages", &[], "{}").await;
    assert_eq!(
        (reply.status, &reply.json()["type"]),
        (400, &json!("error")),
        "{reply:?}"
    );
    let reply = gateway.post("/v1/nothing", &[], "{}").await;
    assert_eq!(reply.status, 404, "{reply:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_over_the_limit_and_one_that_the_memory_has_no_room_for_are_refused() {
    let provider = Provider::start(|asked| match asked.body["wait"].is_null() {
        true => answer("hello"),
        false => Do::Hang,
    })
    .await;
    let gateway = Gateway::start(&json!({
        "request_bodies": {"max": "8KiB", "memory": "16KiB"},
        "providers": [{"name": "p", "type": "openai", "base_url": provider.base(), "api_tokens": [key("a")]}],
    }))
    .await;
    let reply = gateway.chat(json!({"x": "y".repeat(9000)})).await;
    assert_eq!(reply.status, 413, "{reply:?}");
    assert_eq!(
        reply.header("x-tidegate-error").as_deref(),
        Some("body_too_large")
    );
    assert!(reply.json()["error"]["message"].is_string());
    // Two that wait hold nearly all of the memory.
    let body =
        json!({"model": "m", "messages": [], "wait": true, "x": "y".repeat(7000)}).to_string();
    let mut held = Vec::new();
    for _ in 0..2 {
        let mut socket = tokio::net::TcpStream::connect(gateway.address)
            .await
            .expect("connected");
        let request = support::request("POST", "/v1/chat/completions", &[], &body);
        socket.write_all(request.as_bytes()).await.expect("sent");
        held.push(socket);
    }
    until("both are with the provider", || {
        provider.asked().values().sum::<usize>() == 2
    })
    .await;
    let big = json!({"x": "y".repeat(7000)});
    let reply = gateway.chat(big.clone()).await;
    assert_eq!(reply.status, 503, "{reply:?}");
    assert_eq!(
        reply.header("x-tidegate-error").as_deref(),
        Some("overloaded")
    );
    drop(held);
    let mut left = provider.left.clone();
    left.wait_for(|n| *n == 2).await.expect("both have left");
    for _ in 0..100 {
        if gateway.chat(big.clone()).await.status == 200 {
            return;
        }
    }
    panic!("the memory was not given back");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_caller_shows_is_not_shown_to_a_provider() {
    let provider = Provider::start(|_| answer("hello")).await;
    let gateway = Gateway::start(&json!({
        "providers": [{"name": "p", "type": "openai", "base_url": provider.base(), "api_tokens": [key("ours")]}],
    }))
    .await;
    let mine = "sk-of-the-caller";
    let bearer = format!("Bearer {mine}");
    let headers = [
        ("authorization", &*bearer),
        ("x-api-key", mine),
        ("api-key", mine),
        ("x-goog-api-key", mine),
        ("cookie", mine),
        ("x-request-id", "request-7"),
    ];
    let body = json!({"model": "m", "messages": []}).to_string();
    let path = format!("/v1/chat/completions?key={mine}");
    let reply = gateway.post(&path, &headers, &body).await;
    assert_eq!(reply.status, 200, "{reply:?}");
    let seen = provider.seen.lock().expect("seen");
    let (head, _) = &seen[0];
    assert!(!head.contains(mine), "{head}");
    assert!(head.contains(&format!("Bearer {}", key("ours"))), "{head}");
    assert!(head.contains("request-7"), "{head}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_that_leaves_takes_the_request_at_the_provider_with_it() {
    let provider = Provider::start(|asked| match asked.body["begun"].is_null() {
        true => Do::Hang,
        false => Do::Stream(vec![role(), delta("hel")], Then::Stall),
    })
    .await;
    let gateway = Gateway::start(&json!({
        "providers": [{"name": "p", "type": "openai", "base_url": provider.base(), "api_tokens": [key("a")]}],
    }))
    .await;
    for (n, body) in [
        json!({"model": "m", "messages": []}),
        json!({"model": "m", "messages": [], "stream": true, "begun": true}),
    ]
    .iter()
    .enumerate()
    {
        let mut socket = tokio::net::TcpStream::connect(gateway.address)
            .await
            .expect("connected");
        let request = support::request("POST", "/v1/chat/completions", &[], &body.to_string());
        socket.write_all(request.as_bytes()).await.expect("sent");
        until("it is with the provider", || {
            provider.asked().values().sum::<usize>() == n + 1
        })
        .await;
        if n == 1 {
            let mut some = [0; 64];
            let _ = socket.read(&mut some).await.expect("a beginning");
        }
        drop(socket);
        let mut left = provider.left.clone();
        let seen = tokio::time::timeout(
            Duration::from_secs(10),
            left.wait_for(|left| *left == n + 1),
        );
        seen.await.expect("in time").expect("seen");
    }
    let states = gateway.states("p");
    assert!(
        states.values().all(|state| state == "healthy"),
        "{states:?}"
    );
}
