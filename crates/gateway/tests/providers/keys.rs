//! Keys that fail, are out, and come back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::json;

use crate::key;
use crate::support::{Do, Gateway, Provider, answer, error, until};

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
