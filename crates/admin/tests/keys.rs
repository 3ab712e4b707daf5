//! Keys over real connections: a provider's that are used again, and virtual ones from the first to the last day.

mod support;
use support::Served;
use support::document::assert_problem;
use support::http::{get, send, send_json};

#[tokio::test]
async fn a_spared_key_is_used_again_when_an_operator_says_so() {
    let served = Served::new();
    served
        .world
        .state()
        .set_key("qwen", "sk-…9f3c", "ejected", "key dead", None);
    let restore = async |key: &str| {
        let path = format!("/api/v1/providers/qwen/keys/{key}/restore");
        send(served.address, "POST", &path, &[]).await
    };
    let answer = restore("sk-%E2%80%A69f3c").await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(answer.json()["keys"][0]["state"], "healthy");
    assert_problem(&restore("sk-nobody").await, 404, "no_such_key");
    let path = "/api/v1/providers/nobody/keys/x/restore";
    assert_problem(
        &send(served.address, "POST", path, &[]).await,
        404,
        "no_such_provider",
    );
    assert_problem(
        &get(served.address, "/api/v1/providers/nobody").await,
        404,
        "no_such_provider",
    );
    for (key, name) in [(0, "sk-…9f3c/aaaaaa"), (1, "sk-…9f3c/bbbbbb")] {
        let mut state = served.world.state();
        let key = &mut state.providers[0].keys[key];
        (key.name, key.fingerprint) = (name.into(), "sk-…9f3c".into());
    }
    assert_problem(&restore("sk-%E2%80%A69f3c").await, 409, "ambiguous_key");
    assert_eq!(restore("sk-%E2%80%A69f3c%2Fbbbbbb").await.status, 200);
}

#[tokio::test]
async fn a_virtual_key_is_made_shown_once_listed_changed_and_revoked() {
    let served = Served::new();
    let body = r#"{"name": "team chat", "limits": {"models": ["gpt-*"], "budgets": [{"tokens": 1000, "per": "day"}]}}"#;
    let made = send_json(served.address, "POST", "/api/v1/keys", body).await;
    assert_eq!(made.status, 201, "{}", made.body);
    let (id, token) = (made.json()["id"].clone(), made.json()["token"].clone());
    let token = token.as_str().unwrap();
    assert!(token.starts_with("tg-"));
    let path = format!("/api/v1/keys/{}", id.as_str().unwrap());
    for path in ["/api/v1/keys", &path, "/api/v1/overview", "/metrics"] {
        let answer = get(served.address, path).await;
        assert_eq!(answer.status, 200);
        assert!(!answer.body.contains(token), "{path} shows the token again");
    }
    assert_eq!(
        get(served.address, &path).await.json()["limits"]["budgets"][0]["tokens"],
        1000
    );
    let again = send_json(served.address, "POST", "/api/v1/keys", body).await;
    assert_problem(&again, 409, "name_taken");
    let patch = r#"{"name": "chat", "limits": {"models": null, "requests_per_minute": 60}}"#;
    let changed = send_json(served.address, "PATCH", &path, patch).await;
    assert_eq!(changed.status, 200, "{}", changed.body);
    let limits = changed.json()["limits"].clone();
    assert_eq!(
        limits,
        serde_json::json!({"requests_per_minute": 60, "budgets": [{"tokens": 1000, "per": "day"}]})
    );
    let bad = send_json(served.address, "PATCH", &path, r#"{"limits": null}"#).await;
    assert_problem(&bad, 400, "bad_body");
    let gone = send(served.address, "DELETE", &path, &[]).await;
    assert_eq!(
        (gone.status, gone.json()["name"].as_str()),
        (200, Some("chat"))
    );
    let nobody = send_json(served.address, "PATCH", &path, patch).await;
    assert_problem(&nobody, 404, "no_such_key");
    assert_problem(&get(served.address, &path).await, 404, "no_such_key");
    assert_problem(
        &send(served.address, "DELETE", &path, &[]).await,
        404,
        "no_such_key",
    );
}

#[tokio::test]
async fn a_request_for_a_key_that_does_not_fit_is_told_what_is_wrong() {
    let served = Served::new();
    let make = async |body: &str| send_json(served.address, "POST", "/api/v1/keys", body).await;
    for body in [
        "",
        "3",
        "{\"nmae\": \"x\"}",
        "{\"limits\": {\"models\": \"gpt\"}}",
    ] {
        assert_problem(&make(body).await, 400, "bad_body");
    }
    assert_problem(
        &make(r#"{"limits": {"requests_per_minute": 0}}"#).await,
        400,
        "bad_key",
    );
    let page = [("origin", "http://elsewhere.example")];
    let path = "/api/v1/keys/vk-0123456789ab";
    assert_problem(
        &send(served.address, "DELETE", path, &page).await,
        403,
        "cross_site",
    );
    served.world.state().virtual_keys = Err(tidegate_gateway::StoreError::Unavailable {
        cause: "connection refused".into(),
    });
    assert_problem(&make("{}").await, 503, "store_unavailable");
    assert_problem(
        &get(served.address, "/api/v1/keys").await,
        503,
        "store_unavailable",
    );
}
