//! Virtual keys.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::key;
use crate::support::{Do, Gateway, Provider, answer, error, request, until};

/// Makes a key and gives what its callers show, once the gateway knows it.
async fn made(gateway: &Gateway, limits: Value) -> String {
    let asked = serde_json::from_value(json!({"name": "team", "limits": limits}));
    let asked = asked.expect("a request for a key");
    let made = gateway.handle.create_virtual_key(&asked).await;
    let (_, token) = made.expect("made");
    until("the key is known", || {
        gateway
            .handle
            .virtual_keys()
            .is_ok_and(|keys| !keys.is_empty())
    })
    .await;
    format!("Bearer {}", token.expose())
}

/// Tokens that the only key has used.
fn tokens(gateway: &Gateway) -> u64 {
    let keys = gateway.handle.virtual_keys().expect("read");
    let used = keys[0].used.iter().find(|used| used.unit == "tokens");
    used.expect("a limit of tokens").used
}

/// A request that may use many tokens, of about fifteen in its prompt.
const LONG: &str = r#"{"model": "gpt-4", "messages": [], "max_tokens": 50000}"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_that_leaves_before_the_answers_head_pays_for_the_prompt() {
    let provider = Provider::start(|_| Do::Hang).await;
    let gateway = Gateway::start(&json!({
        "routes": [{"name": "r", "to": [{"provider": "p"}], "virtual_keys": "required"}],
        "providers": [{"name": "p", "type": "openai", "base_url": provider.base(), "api_tokens": [key("a")]}],
    }))
    .await;
    let bearer = made(
        &gateway,
        json!({"budgets": [{"tokens": 100_000, "per": "day"}]}),
    )
    .await;
    for n in 1..=3 {
        let mut socket = TcpStream::connect(gateway.address)
            .await
            .expect("connected");
        let headers = [("authorization", &*bearer)];
        let request = request("POST", "/v1/chat/completions", &headers, LONG);
        socket.write_all(request.as_bytes()).await.expect("sent");
        until("it is with the provider", || {
            provider.asked().values().sum::<usize>() == n
        })
        .await;
        assert!(tokens(&gateway) >= 50_000, "reserved");
        drop(socket);
        let mut left = provider.left.clone();
        left.wait_for(|left| *left == n).await.expect("it has left");
        let least = 10 * n as u64;
        until("it is settled", || {
            (least..1_000).contains(&tokens(&gateway))
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_no_provider_answered_costs_no_tokens() {
    let provider = Provider::start(|_| error(500, "", "server_error")).await;
    let own = Provider::start(|_| answer("hello")).await;
    for fallback in [json!([]), json!([{"upstream": "own"}])] {
        let served = fallback != json!([]);
        let gateway = Gateway::start(&json!({
            "routes": [{"name": "r", "to": [{"provider": "p"}], "fallback": fallback, "virtual_keys": "required"}],
            "upstreams": [{"name": "own", "endpoints": [{"address": own.address.to_string()}]}],
            "providers": [{"name": "p", "type": "openai", "base_url": provider.base(), "api_tokens": [key("a")]}],
        }))
        .await;
        let bearer = made(
            &gateway,
            json!({"budgets": [{"tokens": 100_000, "per": "day"}]}),
        )
        .await;
        let headers = [("authorization", &*bearer)];
        let reply = gateway.post("/v1/chat/completions", &headers, LONG).await;
        assert_eq!(reply.status == 200, served, "{reply:?}");
        until("it is settled", || tokens(&gateway) == 0).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_is_bound_to_models_opens_no_path_that_names_none_of_them() {
    let provider = Provider::start(|_| answer("hello")).await;
    let gateway = Gateway::start(&json!({
        "routes": [{"name": "r", "to": [{"provider": "p"}], "virtual_keys": "required"}],
        "providers": [{"name": "p", "type": "openai", "dialect": "original", "base_url": provider.base(),
            "api_tokens": [key("a")]}],
    }))
    .await;
    let bearer = made(&gateway, json!({"models": ["gpt-*"]})).await;
    let headers = [("authorization", &*bearer)];
    let ask = async |path: &str, body: &str| gateway.post(path, &headers, body).await.status;
    assert_eq!(ask("/v1/somewhere", r#"{"model": "o1"}"#).await, 403);
    assert_eq!(ask("/v1/somewhere", "{}").await, 403);
    assert!(provider.asked().is_empty());
    assert_eq!(ask("/v1/somewhere", r#"{"model": "gpt-4"}"#).await, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_of_models_has_those_that_its_caller_could_ask_for() {
    let provider = Provider::start(|_| answer("hello")).await;
    let of = |name: &str, models: Value| json!({"name": name, "type": "openai", "base_url": provider.base(), "api_tokens": [key("a")], "models": models});
    let gateway = Gateway::start(&json!({
        "routes": [
            {"name": "open", "match": {"model": "open-*"}, "to": [{"provider": "p"}]},
            {"name": "closed", "match": {"model": "closed-*"}, "to": [{"provider": "q"}], "virtual_keys": "required"},
            {"name": "elsewhere", "match": {"model": "other-*", "hosts": ["other.local"]}, "to": [{"provider": "s"}]},
        ],
        "providers": [of("p", json!(["open-1", "nowhere"])), of("q", json!(["closed-1", "closed-2"])), of("s", json!(["other-1"]))],
    }))
    .await;
    let bearer = made(&gateway, json!({"models": ["closed-2"]})).await;
    let names = async |headers: &[(&str, &str)]| {
        let reply = gateway.send("GET", "/v1/models", headers, "").await;
        let listed = reply.json()["data"].clone();
        let names = listed
            .as_array()
            .expect("a list")
            .iter()
            .map(|m| m["id"].clone());
        Value::Array(names.collect())
    };
    assert_eq!(names(&[]).await, json!(["open-1"]));
    assert_eq!(
        names(&[("authorization", &bearer)]).await,
        json!(["open-1", "closed-2"])
    );
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
