//! Secrets are used and never shown.

mod support;

use support::{env, load_files};
use tidegate_config::load_str_with;

#[test]
fn a_loaded_configuration_shows_fingerprints_only() {
    let loaded = load_files(&["tests/good/everything.yaml"]).unwrap_or_else(|d| panic!("{d}"));
    let token = loaded
        .config
        .admin
        .as_ref()
        .and_then(|a| a.token.clone())
        .expect("a token");
    assert_eq!(token.expose(), "hunter2-from-env");
    let shown = format!(
        "{:?} {:#?} {} {} {:?}",
        loaded,
        loaded.config,
        serde_json::to_string(&loaded.config).expect("plain data"),
        token,
        token
    );
    assert!(!shown.contains("hunter2"), "{shown}");
    assert!(shown.matches(&token.fingerprint()).count() >= 5);
}

#[test]
fn a_credential_in_a_header_edit_is_a_secret() {
    let text = "routes: [ { name: a, respond: { headers: { Authorization: Basic aHVudGVyMg==, x-plain: seen } } } ]\n";
    let loaded = load_str_with("t", text, &env).unwrap_or_else(|d| panic!("{d}"));
    let json = serde_json::to_string(&loaded.config).expect("plain data");
    assert!(
        json.contains("seen") && !json.contains("aHVudGVyMg"),
        "{json}"
    );
    assert!(!format!("{loaded:?}").contains("aHVudGVyMg"));
    let headers = &loaded.config.routes[0]
        .respond
        .as_ref()
        .expect("a response")
        .headers;
    assert_eq!(
        headers.get("authorization").expect("the header").expose(),
        "Basic aHVudGVyMg=="
    );
}

#[test]
fn what_a_provider_s_headers_hold_and_what_came_from_the_environment_is_a_secret() {
    let text = "providers: [ { name: p, type: openai, api_tokens: [ a ], headers: { x-subscription: hunter2 } } ]\n\
        routes: [ { name: a, respond: { headers: { x-a: \"${TOKEN}\", x-b: sk-live-hunter2-hunter2, x-plain: seen } } } ]\n";
    let loaded = load_str_with("t", text, &env).unwrap_or_else(|d| panic!("{d}"));
    let json = serde_json::to_string(&loaded.config).expect("plain data");
    assert!(json.contains("seen") && !json.contains("hunter2"), "{json}");
    assert!(!format!("{loaded:?}").contains("hunter2"));
    let headers = &loaded.config.providers[0].headers;
    assert_eq!(
        headers.get("x-subscription").expect("it").expose(),
        "hunter2"
    );
}

/// Each text has a mistake on the line of a secret, so that its excerpt is shown.
#[test]
fn no_excerpt_shows_a_secret_that_stands_in_the_text() {
    for text in [
        "admin: { token: hunter2, wrong: 1 }",
        "admin: { tokne: hunter2, wrong: 1 }",
        "admin: { wrong: 1, token: [ hunter2 ] }",
        "admin: { wrong: 1, token: { a: hunter2 } }",
        "admin: { token: \"hunter2\\x07\", address: 1 }",
        "admin: { wrong: 1, token: \"${UNSET_DEFAULT:-hunter2}\" }",
        "admin: { wrong: 1, token: \"prefix-hunter2-${TOKEN}\" }",
        "admin: { wrong: 1, token: hunter2 }, node: {",
        "admin: { wrong: 1, token: hunter2",
        "admin:\n  token: hunter2: x\n",
        "admin:\n  token: |\n    hunter2\n   wrong\n",
        "admin:\n  token: \"hunter2\n  wrong: 1\n",
        "providers: [ { api_tokens: [ hunter2 ], password: hunter2 ] } ]",
        "providers: { wrong: redis://user:hunter2@cache }\nstate: { url: \"redis://:hunter2@cache\" }",
        "state: { url: \"postgres://u:hunter2@db/x\", wrong: 1 }",
        "upstreams: [ { name: a, discover: { consul: { address: \"http://u:hunter2@consul\", service: a } } } ]",
        "routes: [ { name: a, respond: { headers: { cookie: hunter2, \"b b\": 1 } } } ]",
        "routes: [ { name: a, respond: { headers: { x-api-key: \"hunter2\\n\" } } } ]",
        "routes: [ { name: a, request_headers: { set: { x-auth: hunter2 }, wrong: 1 } } ]",
        "node: { region: sk-live-hunter2-hunter2, wrong: 1 }",
        "providers:\n  - name: p\n    wrong_place: sk-live-hunter2-hunter2\n",
        "providers: [ { name: p, type: openai, [sk-live-hunter2-hunter2 ]\n",
        "providers: [ { name: p, type: openai, api_tokens: [ a ], headers: { x-subscription: hunter2 }, wrong: 1 } ]",
        "providers: [ { name: p, type: openai, api_tokens: [ a ], headers: { \"x y\": hunter2 } } ]",
        "providers:\n  - name: p\n    headers:\n      x-subscription: hunter2\n      wrong: [\n",
        "state: { url: \"rediss:/u:hunter2@127.0.0.1/0\" }",
    ] {
        let found = load_str_with("t.yaml", text, &env).expect_err(text);
        for shown in [
            found.to_string(),
            format!("{found:?}"),
            serde_json::to_string(&found).expect("plain data"),
        ] {
            assert!(!shown.contains("hunter2"), "{text}\n{shown}");
        }
    }
}

#[test]
fn a_reference_to_a_secret_stays_readable() {
    let found = load_str_with("t.yaml", "admin: { token: \"${TOKEN}\", wrong: 1 }", &env)
        .expect_err("a wrong key");
    assert!(found.to_string().contains("${TOKEN}"), "{found}");
}
