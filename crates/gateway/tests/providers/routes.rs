//! What a route says of requests to providers.

use serde_json::json;

use crate::key;
use crate::support::{Gateway, Provider, answer};

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
            ("x-request-id", "request-7"),
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
        head.contains("x-request-id: request-7") && !head.contains("x-secret"),
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
