//! Keys that fail are not the callers' problem.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::json;
use support::{Do, Gateway, Provider, Then, answer, delta, error, role, stop, stream, until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// A key that looks like one, so that it has a fingerprint.
fn key(name: &str) -> String {
    format!("sk-{name:0>24}")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_fails_in_any_way_is_not_seen_by_callers() {
    type Fails = fn() -> Do;
    let ways: [(&str, Fails); 9] = [
        ("401", || error(401, "", "invalid_api_key")),
        ("429", || {
            error(429, "retry-after: 30\r\n", "rate_limit_exceeded")
        }),
        ("quota", || error(429, "", "insufficient_quota")),
        ("500", || error(500, "", "server_error")),
        ("503", || error(503, "", "overloaded")),
        ("close", || Do::Close),
        ("hang", || Do::Hang),
        ("short", || {
            Do::Short("{\"choices\":[{\"index\":0,".to_owned())
        }),
        ("html", || Do::Answer(200, "", "<html>no</html>".to_owned())),
    ];
    for (name, fails) in ways {
        let bad = key("bad");
        let provider = Provider::start(move |asked| match asked.key == key("bad") {
            true => fails(),
            false => answer("hello"),
        })
        .await;
        let gateway = Gateway::start(&json!({
            "providers": [{"name": "p", "type": "openai", "base_url": provider.base(),
                "api_tokens": [bad, key("good")], "choose": "round_robin", "timeouts": {"first_content": "300ms"}}],
        }))
        .await;
        for _ in 0..10 {
            let reply = gateway.chat(json!({})).await;
            assert_eq!(
                (reply.status, &*reply.said()),
                (200, "hello"),
                "{name}: {reply:?}"
            );
        }
        assert!(provider.asked()[&key("bad")] > 0, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_provider_that_is_not_there_is_mended_by_the_next_in_line() {
    let dead = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a port");
    let nobody = format!("http://{}/v1", dead.local_addr().expect("bound"));
    drop(dead);
    let there =
        Provider::start(|asked| answer(asked.body["model"].as_str().unwrap_or_default())).await;
    let gateway = Gateway::start(&json!({
        "routes": [{"name": "r", "to": [{"provider": "p"}], "fallback": [{"provider": "q", "model": "other"}]}],
        "providers": [
            {"name": "p", "type": "openai", "base_url": nobody, "api_tokens": [key("a"), key("b")]},
            {"name": "q", "type": "openai", "base_url": there.base(), "api_tokens": [key("c")],
                "model_mapping": {"other": "mapped"}},
        ],
    }))
    .await;
    for _ in 0..5 {
        let reply = gateway.chat(json!({})).await;
        assert_eq!((reply.status, &*reply.said()), (200, "mapped"), "{reply:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_keys_of_which_one_works_serve_whatever_the_retries_and_no_dead_one_is_tried_twice() {
    let provider = Provider::start(|asked| match asked.key == key("49") {
        true => answer("hello"),
        false => error(401, "", "invalid_api_key"),
    })
    .await;
    let keys: Vec<String> = (0..50).map(|i| key(&i.to_string())).collect();
    let gateway = Gateway::start(&json!({
        "routes": [{"name": "r", "to": [{"provider": "p"}], "retry": {"attempts": 2}}],
        "providers": [{"name": "p", "type": "openai", "base_url": provider.base(), "api_tokens": keys,
            "choose": "round_robin"}],
    }))
    .await;
    for _ in 0..5 {
        let reply = gateway.chat(json!({})).await;
        assert_eq!((reply.status, &*reply.said()), (200, "hello"), "{reply:?}");
    }
    let asked = provider.asked();
    let dead: Vec<_> = asked.iter().filter(|(k, _)| **k != key("49")).collect();
    assert!(
        dead.len() > 10 && dead.iter().all(|(_, n)| **n == 1),
        "{dead:?}"
    );
    assert_eq!(asked[&key("49")], 5);
}

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
async fn when_every_key_is_out_the_caller_is_told_when_the_first_returns() {
    let provider = Provider::start(|asked| {
        let after = match asked.key == key("one") {
            true => "retry-after: 70\r\n",
            false => "retry-after: 40\r\n",
        };
        error(429, after, "rate_limit_exceeded")
    })
    .await;
    let gateway = Gateway::start(&json!({
        "routes": [{"name": "r", "to": [{"provider": "p"}], "fallback": [{"provider": "q"}]}],
        "providers": [
            {"name": "p", "type": "openai", "base_url": provider.base(), "api_tokens": [key("one"), key("two")]},
            {"name": "q", "type": "openai", "base_url": provider.base(), "api_tokens": [key("three")]},
        ],
    }))
    .await;
    for path in ["/v1/chat/completions", "/v1/messages"] {
        let body =
            json!({"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": "hi"}]});
        let reply = gateway.post(path, &[], &body.to_string()).await;
        assert_eq!(reply.status, 429, "{reply:?}");
        let after: u64 = reply
            .header("retry-after")
            .expect("a time")
            .parse()
            .expect("seconds");
        assert!((35..=40).contains(&after), "{after}");
        assert!(reply.json()["error"]["message"].is_string(), "{reply:?}");
    }
    assert_eq!(
        provider.asked().values().max(),
        Some(&1),
        "each was asked once"
    );
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_route_may_go_by_the_model_and_lists_are_made_from_the_configuration() {
    let provider =
        Provider::start(|asked| answer(asked.body["model"].as_str().unwrap_or_default())).await;
    let gateway = Gateway::start(&json!({
        "routes": [
            {"name": "a", "match": {"model": "gpt-*"}, "to": [{"provider": "p"}]},
            {"name": "b", "match": {"model": "other"}, "to": [{"provider": "q"}]},
        ],
        "providers": [
            {"name": "p", "type": "openai", "base_url": provider.base(), "api_tokens": [key("a")],
                "model_mapping": {"gpt-4": "four", "gpt-5": ""}},
            {"name": "q", "type": "openai", "base_url": provider.base(), "api_tokens": [key("a")],
                "model_mapping": {"*": "any"}, "models": ["other"]},
        ],
    }))
    .await;
    for (model, told) in [("gpt-4", "four"), ("gpt-5", "gpt-5"), ("other", "any")] {
        assert_eq!(gateway.chat(json!({"model": model})).await.said(), told);
    }
    let reply = gateway.chat(json!({"model": "nobody's"})).await;
    assert_eq!(reply.status, 404, "{reply:?}");
    assert_eq!(
        reply.header("x-tidegate-error").as_deref(),
        Some("unknown_model")
    );
    let reply = gateway.post("/v1/chat/completions", &[], "no json").await;
    assert_eq!(reply.status, 400, "{reply:?}");
    let reply = gateway.send("GET", "/v1/models", &[], "").await;
    let listed = reply.json()["data"].clone();
    let names: Vec<_> = listed
        .as_array()
        .expect("a list")
        .iter()
        .map(|m| m["id"].clone())
        .collect();
    assert_eq!(json!(names), json!(["gpt-4", "gpt-5", "other"]));
    assert_eq!(
        gateway
            .send("GET", "/v1/models/other", &[], "")
            .await
            .status,
        200
    );
    assert_eq!(
        gateway.send("GET", "/v1/models/none", &[], "").await.status,
        404
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_is_spared_is_probed_and_comes_back_without_a_callers_help() {
    type Fails = fn() -> Do;
    let ways: [(&str, Fails); 4] = [
        ("dead", || error(401, "", "invalid_api_key")),
        ("down", || error(500, "", "server_error")),
        ("hang", || Do::Hang),
        ("close", || Do::Close),
    ];
    for (name, fails) in ways {
        let well = Arc::new(AtomicBool::new(false));
        let healed = well.clone();
        let provider = Provider::start(move |_| match healed.load(Ordering::Relaxed) {
            true => answer("hello"),
            false => fails(),
        })
        .await;
        let gateway = Gateway::start(&json!({
            "providers": [{"name": "p", "type": "openai", "base_url": provider.base(), "api_tokens": [key("a")],
                "timeouts": {"first_content": "300ms"},
                "failover": {"failure_threshold": 1, "health_check_interval": "50ms"}}],
        }))
        .await;
        assert_ne!(gateway.chat(json!({})).await.status, 200, "{name}");
        let worst = || gateway.worst("p");
        until("it is out", || worst() == ["ejected"]).await;
        well.store(true, Ordering::Relaxed);
        let asked = provider.asked().values().sum::<usize>();
        until("it is back", || worst() == ["healthy"]).await;
        assert!(provider.asked().values().sum::<usize>() > asked, "{name}");
        let (_, body) = provider
            .seen
            .lock()
            .expect("seen")
            .last()
            .cloned()
            .expect("a probe");
        assert!(body.contains("gpt-4"), "{name}: {body}");
        assert_eq!(gateway.chat(json!({})).await.status, 200, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_route_does_to_requests_and_answers_it_does_here_too() {
    let provider = Provider::start(|_| answer("hello")).await;
    let gateway = Gateway::start(&json!({
        "routes": [
            {"name": "full", "match": {"headers": {"x-limit": "0"}}, "to": [{"provider": "p"}],
                "rate_limit": {"requests": 1, "per": "hour"}},
            {"name": "fault", "match": {"headers": {"x-fault": "1"}}, "to": [{"provider": "p"}],
                "fault": {"abort": {"status": 503}}},
            {"name": "r", "to": [{"provider": "p"}],
                "request_headers": {"set": {"x-team": "a"}, "remove": ["x-secret"]},
                "response_headers": {"set": {"x-served-by": "tidegate"}}},
        ],
        "providers": [{"name": "p", "type": "openai", "base_url": provider.base(), "api_tokens": [key("a")],
            "headers": {"x-project": "seven"}}],
    }))
    .await;
    let body =
        json!({"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": "hi"}]});
    let post = |path: &'static str, headers: &'static [(&str, &str)]| {
        let (gateway, body) = (&gateway, body.to_string());
        async move { gateway.post(path, headers, &body).await }
    };
    let reply = post(
        "/v1/chat/completions",
        &[
            ("x-secret", "s"),
            (
                "traceparent",
                "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            ),
        ],
    )
    .await;
    assert_eq!(
        reply.header("x-served-by").as_deref(),
        Some("tidegate"),
        "{reply:?}"
    );
    let (head, _) = provider.seen.lock().expect("seen")[0].clone();
    let head = head.to_lowercase();
    assert!(
        head.contains("x-team: a") && head.contains("x-project: seven"),
        "{head}"
    );
    assert!(
        head.contains("x-request-id: ") && !head.contains("x-secret"),
        "{head}"
    );
    assert!(
        head.contains("traceparent: 00-0af7651916cd43dd8448eb211c80319c-"),
        "{head}"
    );
    assert_eq!(post("/v1/messages", &[("x-limit", "0")]).await.status, 200);
    let reply = post("/v1/messages", &[("x-limit", "0")]).await;
    assert_eq!(
        (reply.status, &reply.json()["type"]),
        (429, &json!("error")),
        "{reply:?}"
    );
    assert_eq!(
        reply.header("x-tidegate-error").as_deref(),
        Some("rate-limited")
    );
    assert!(
        reply.header("retry-after").is_some() && reply.header("x-ratelimit-limit").is_some(),
        "{reply:?}"
    );
    let reply = post("/v1/chat/completions", &[("x-fault", "1")]).await;
    assert_eq!(reply.status, 503, "{reply:?}");
    assert!(reply.json()["error"]["message"].is_string());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_a_virtual_key_is_needed_nobody_comes_in_without_and_models_and_rates_are_kept_to() {
    let provider = Provider::start(|_| answer("hello")).await;
    let gateway = Gateway::start(&json!({
        "routes": [{"name": "r", "to": [{"provider": "p"}], "virtual_keys": "required"}],
        "providers": [{"name": "p", "type": "openai", "base_url": provider.base(), "api_tokens": [key("a")],
            "models": ["gpt-4", "o1"]}],
    }))
    .await;
    let request = |limits: serde_json::Value| {
        serde_json::from_value(json!({"name": "team", "limits": limits})).expect("a request")
    };
    let handle = &gateway.handle;
    let (_, open) = handle
        .create_virtual_key(&request(
            json!({"models": ["gpt-*"], "requests_per_minute": 3}),
        ))
        .await
        .expect("made");
    let bearer = format!("Bearer {}", open.expose());
    let ask = |token: String, model: &'static str| {
        let gateway = &gateway;
        async move {
            let body = json!({"model": model, "messages": []}).to_string();
            let headers = [("authorization", &*token)];
            gateway.post("/v1/chat/completions", &headers, &body).await
        }
    };
    assert_eq!(gateway.chat(json!({})).await.status, 401);
    let wrong = ask("Bearer tg-0123456789".to_owned(), "gpt-4").await;
    assert_eq!(wrong.status, 401, "{wrong:?}");
    let known = async {
        while ask(bearer.clone(), "o1").await.status == 401 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), known)
        .await
        .expect("known");
    assert_eq!(ask(bearer.clone(), "o1").await.status, 403);
    let listed = gateway
        .send("GET", "/v1/models", &[("authorization", &bearer)], "")
        .await;
    let listed = listed.json()["data"].clone();
    assert_eq!(listed.as_array().expect("a list").len(), 1, "{listed}");
    let mut statuses = Vec::new();
    for _ in 0..6 {
        statuses.push(ask(bearer.clone(), "gpt-4").await.status);
    }
    // A minute may end in between.
    let served = statuses.iter().filter(|status| **status == 200).count();
    assert!((3..=6).contains(&served), "{statuses:?}");
    assert!(
        statuses.iter().all(|status| [200, 429].contains(status)),
        "{statuses:?}"
    );
    let used = handle.virtual_keys().expect("read")[0].used.clone();
    assert!(
        used.iter().any(|u| u.unit == "requests" && u.used > 0),
        "{used:?}"
    );
}
