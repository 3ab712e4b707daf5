//! The admin API over real connections: every endpoint, every error, and the OpenAPI document held against both.

use std::collections::BTreeSet;

use serde_json::Value;
use tidegate_admin::{AdminOptions, ListenSocket, ServeError, Token, serve};

mod support;
use support::document::{assert_problem, document, validate};
use support::http::{get, send, send_json};
use support::{Served, World};

/// Path of an operation with its parameters filled in.
fn filled(path: &str) -> String {
    let name = match path.contains("providers") {
        true => "qwen",
        false => "sentiment",
    };
    path.replace("{name}", name)
        .replace("{file}", "main.js")
        .replace("{key}", "sk-%E2%80%A69f3c")
        .replace("{id}", "vk-0123456789ab")
}

/// A world in which every optional field has a value somewhere and is null elsewhere.
fn lively(world: &World) {
    let mut state = world.state();
    (0..20).for_each(|i| state.pass(f64::from(i), 0.5));
    state.set(
        "ranker-v1",
        "10.0.1.3:8500",
        "ejected",
        "5 consecutive 5xx",
        Some(30_000),
    );
    state.upstreams[2].source_error = Some("connection refused".into());
    state.config.refused = Some("tidegate.yaml:3:5: unknown key".into());
    let qwen = &mut state.providers[0];
    qwen.failovers.push(support::cause_count("limited", 3));
    qwen.keys[0].health = support::health("ejected", "limited", Some(29_000));
    qwen.keys[0].health.evidence =
        Some(support::evidence("limited", 429, "rate_limit", "slow down"));
    qwen.keys[1].models.push(support::key_model(
        "qwen-max",
        support::health("ejected", "quota exhausted", None),
    ));
}

#[tokio::test]
async fn every_answer_fits_the_openapi_document() {
    let served = Served::new();
    lively(&served.world);
    let document = document();
    for (path, item) in document["paths"].as_object().unwrap() {
        // What is deleted can't be asked for any more.
        for (method, operation) in item.as_object().unwrap().iter().rev() {
            let method = method.to_uppercase();
            let answer = match operation.get("requestBody") {
                Some(_) => send_json(served.address, &method, &filled(path), "{}").await,
                None => send(served.address, &method, &filled(path), &[]).await,
            };
            let status = answer.status.to_string();
            assert!(status.starts_with('2'), "{method} {path}: {}", answer.body);
            let content = operation["responses"][&status]["content"]
                .as_object()
                .unwrap_or_else(|| {
                    panic!("{method} {path} answers {status}, which is not documented")
                });
            let kind = answer
                .header("content-type")
                .split(';')
                .next()
                .unwrap()
                .trim()
                .to_owned();
            let media = content.get(&kind).or(content.get("*/*"));
            let media =
                media.unwrap_or_else(|| panic!("{path} answers {kind}, documented {content:?}"));
            if kind == "application/json" {
                let wrong = validate(&document, &media["schema"], &answer.json(), path);
                assert!(wrong.is_empty(), "{wrong:#?}");
            }
        }
    }
}

#[tokio::test]
async fn every_reference_of_the_document_leads_somewhere() {
    fn walk<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
        match value {
            Value::Object(fields) => {
                found.extend(fields.get("$ref").and_then(Value::as_str));
                fields.values().for_each(|field| walk(field, found));
            }
            Value::Array(items) => items.iter().for_each(|item| walk(item, found)),
            _ => {}
        }
    }
    let document = document();
    let mut references = Vec::new();
    walk(&document, &mut references);
    assert!(references.len() > 20);
    for reference in references {
        assert!(
            document
                .pointer(reference.trim_start_matches('#'))
                .is_some(),
            "{reference}"
        );
    }
}

#[tokio::test]
async fn what_does_not_exist_is_a_404_problem() {
    let served = Served::new();
    for path in [
        "/nothing",
        "/api/v1",
        "/api/v1/upstreams/",
        "/api/v2/upstreams",
        "//",
        "/assets/nothing.js",
        "/assets/../api.rs",
    ] {
        assert_problem(&get(served.address, path).await, 404, "not_found");
    }
    assert_problem(
        &get(served.address, "/api/v1/upstreams/nobody").await,
        404,
        "no_such_upstream",
    );
    assert_problem(
        &get(served.address, "/api/v1/upstreams/%ff").await,
        400,
        "bad_path",
    );
}

#[tokio::test]
async fn a_wrong_method_is_a_405_problem_that_names_the_right_ones() {
    let served = Served::new();
    for (path, item) in document()["paths"].as_object().unwrap() {
        let right: BTreeSet<String> = item
            .as_object()
            .unwrap()
            .keys()
            .map(|method| method.to_uppercase())
            .collect();
        for method in ["GET", "POST", "PUT", "DELETE", "PATCH"] {
            if right.contains(method) {
                continue;
            }
            let answer = send(
                served.address,
                method,
                &filled(path),
                &[("content-length", "0")],
            )
            .await;
            assert_problem(&answer, 405, "method_not_allowed");
            let allowed: BTreeSet<String> = answer
                .header("allow")
                .split(',')
                .map(|m| m.trim().to_owned())
                .collect();
            assert!(right.is_subset(&allowed), "{path}: {allowed:?}");
        }
    }
}

#[tokio::test]
async fn a_query_that_does_not_fit_is_a_400_problem() {
    let served = Served::new();
    for query in [
        "after=x",
        "after=-1",
        "limit=0",
        "limit=1001",
        "wait=61",
        "wait=-1",
        "wait=NaN",
        "wait=inf",
        "unknown=1",
    ] {
        assert_problem(
            &get(served.address, &format!("/api/v1/events?{query}")).await,
            400,
            "bad_query",
        );
    }
    assert_problem(
        &get(served.address, "/api/v1/overview?after=x").await,
        400,
        "bad_query",
    );
}

#[tokio::test]
async fn a_reload_answers_the_new_generation_or_the_diagnostics() {
    let served = Served::new();
    let accepted = send(served.address, "POST", "/api/v1/config/reload", &[]).await;
    assert_eq!(
        (accepted.status, accepted.json()["generation"].as_u64()),
        (200, Some(2))
    );
    served.world.state().reload =
        Err("tidegate.yaml:3:5: unknown key `rotues`\n  did you mean `routes`?".into());
    let refused = send(
        served.address,
        "POST",
        "/api/v1/config/reload",
        &[("content-type", "application/json")],
    )
    .await;
    assert_problem(&refused, 422, "config_refused");
    assert!(
        refused.json()["diagnostics"]
            .as_str()
            .unwrap()
            .contains("did you mean")
    );
    let overview = get(served.address, "/api/v1/overview").await.json();
    assert_eq!(overview["config"]["generation"], 2);
    assert!(
        overview["config"]["refused"]
            .as_str()
            .unwrap()
            .contains("rotues")
    );
}

#[tokio::test]
async fn a_write_from_elsewhere_of_another_kind_or_too_large_is_refused() {
    let served = Served::new();
    let own = format!("http://{}", served.address);
    let reload = async |headers: &[(&str, &str)]| {
        send(served.address, "POST", "/api/v1/config/reload", headers).await
    };
    assert_problem(
        &reload(&[("content-type", "text/plain")]).await,
        415,
        "unsupported_media_type",
    );
    assert_problem(
        &reload(&[("content-length", "70000")]).await,
        413,
        "body_too_large",
    );
    assert_problem(
        &reload(&[("origin", "http://evil.example")]).await,
        403,
        "cross_site",
    );
    assert_problem(&reload(&[("origin", "null")]).await, 403, "cross_site");
    assert_problem(
        &reload(&[("sec-fetch-site", "cross-site")]).await,
        403,
        "cross_site",
    );
    assert_eq!(
        served.world.state().config.generation,
        1,
        "none of them reloaded"
    );
    assert_eq!(
        reload(&[("origin", &own), ("sec-fetch-site", "same-origin")])
            .await
            .status,
        200
    );
    assert_eq!(reload(&[("origin", &own)]).await.status, 200);
}

#[tokio::test]
async fn readiness_follows_the_gateway_and_liveness_does_not() {
    let served = Served::new();
    assert_eq!(get(served.address, "/readyz").await.body, "ready\n");
    {
        let mut state = served.world.state();
        (state.readiness.ready, state.readiness.reason) = (false, "draining".into());
    }
    let answer = get(served.address, "/readyz").await;
    assert_problem(&answer, 503, "not_ready");
    assert_eq!(answer.json()["detail"], "draining");
    assert_eq!(get(served.address, "/livez").await.status, 200);
}

#[tokio::test]
async fn an_upstream_is_found_by_its_encoded_name() {
    let served = Served::new();
    served.world.state().upstreams[0].name = "a/b c".into();
    let answer = get(served.address, "/api/v1/upstreams/a%2Fb%20c").await;
    assert_eq!(answer.json()["members"].as_array().map(Vec::len), Some(4));
}

#[tokio::test]
async fn the_token_opens_everything_and_without_it_only_probes_and_the_empty_page_answer() {
    let token = Token::new("s3cret-token");
    let served = Served::with(AdminOptions {
        token,
        ..AdminOptions::default()
    });
    let open = ["/", "/livez", "/readyz", "/assets/{file}"];
    for (path, item) in document()["paths"].as_object().unwrap() {
        // What is deleted can't be asked for any more.
        for (method, operation) in item.as_object().unwrap().iter().rev() {
            let method = method.to_uppercase();
            let ask = async |headers: &[(&str, &str)]| {
                send(served.address, &method, &filled(path), headers).await
            };
            if open.contains(&path.as_str()) {
                assert_eq!(ask(&[]).await.status, 200, "{path}");
                continue;
            }
            for headers in [
                &[][..],
                &[("authorization", "Bearer wrong")],
                &[("authorization", "Basic s3cret-token")],
                &[("authorization", "Bearer s3cret-toke")],
            ] {
                let answer = ask(headers).await;
                assert_problem(&answer, 401, "token_required");
                assert!(answer.header("www-authenticate").starts_with("Bearer"));
            }
            let answer = ask(&[
                ("authorization", "Bearer s3cret-token"),
                ("host", "gw.example"),
            ])
            .await;
            // What wants a body says that there is none.
            let meant = match operation.get("requestBody") {
                Some(_) => 400,
                None => 200,
            };
            assert_eq!(answer.status, meant, "{path}");
            assert!(
                !answer.body.contains("s3cret-token"),
                "{path} shows the token"
            );
        }
    }
    assert_problem(
        &get(served.address, "/nothing").await,
        401,
        "token_required",
    );
}

#[tokio::test]
async fn without_a_token_only_loopback_names_and_named_hosts_are_answered() {
    let served = Served::with(AdminOptions {
        hosts: vec!["gw.internal".into()],
        ..AdminOptions::default()
    });
    for path in ["/", "/metrics", "/api/v1/upstreams", "/readyz"] {
        let answer = send(
            served.address,
            "GET",
            path,
            &[("host", "evil.example:9900")],
        )
        .await;
        assert_problem(&answer, 403, "host_not_allowed");
    }
    for host in ["localhost:9900", "127.0.0.1", "[::1]:9900", "gw.internal"] {
        assert_eq!(
            send(served.address, "GET", "/readyz", &[("host", host)])
                .await
                .status,
            200,
            "{host}"
        );
    }
    let twice = send(
        served.address,
        "GET",
        "/readyz",
        &[("host", "localhost"), ("host", "evil.example")],
    )
    .await;
    assert_eq!(twice.status, 403);
    let absolute = send(
        served.address,
        "GET",
        "http://evil.example/readyz",
        &[("host", "localhost")],
    )
    .await;
    assert_eq!(absolute.status, 403);
}

#[tokio::test]
async fn off_loopback_a_token_is_demanded() {
    let open = || ListenSocket::Tcp(std::net::TcpListener::bind("0.0.0.0:0").unwrap());
    let source = || std::sync::Arc::new(World::new()) as std::sync::Arc<dyn tidegate_admin::Source>;
    let refused = serve(open(), source(), AdminOptions::default()).unwrap_err();
    assert!(matches!(refused, ServeError::TokenRequired(_)), "{refused}");
    let options = AdminOptions {
        token: Token::new("t"),
        ..AdminOptions::default()
    };
    assert!(serve(open(), source(), options).is_ok());
}

#[tokio::test]
async fn every_answer_carries_the_security_headers_and_none_allows_other_origins() {
    let served = Served::new();
    for path in [
        "/",
        "/assets/main.js",
        "/metrics",
        "/api/v1/overview",
        "/nothing",
        "/api/v1/events?limit=0",
    ] {
        let answer = send(
            served.address,
            "GET",
            path,
            &[("origin", "http://evil.example")],
        )
        .await;
        assert!(
            answer
                .header("content-security-policy")
                .starts_with("default-src 'none'"),
            "{path}"
        );
        assert_eq!(answer.header("x-content-type-options"), "nosniff");
        assert_eq!(answer.header("x-frame-options"), "DENY");
        assert_eq!(answer.header("referrer-policy"), "no-referrer");
        assert_eq!(answer.header("cross-origin-resource-policy"), "same-origin");
        assert!(!answer.header("cache-control").is_empty());
        assert!(
            !answer
                .headers
                .keys()
                .any(|name| name.starts_with("access-control")),
            "{path}"
        );
    }
}

#[tokio::test]
async fn a_file_of_the_dashboard_that_is_known_is_not_sent_again() {
    let served = Served::new();
    let first = get(served.address, "/assets/style.css").await;
    assert_eq!(first.header("content-type"), "text/css; charset=utf-8");
    let again = send(
        served.address,
        "GET",
        "/assets/style.css",
        &[("if-none-match", first.header("etag"))],
    )
    .await;
    assert_eq!((again.status, again.body.as_str()), (304, ""));
}

#[tokio::test]
async fn the_page_loads_only_files_that_are_embedded() {
    let served = Served::new();
    let mut waiting = vec!["/".to_owned()];
    let mut seen = BTreeSet::new();
    while let Some(path) = waiting.pop() {
        if !seen.insert(path.clone()) {
            continue;
        }
        let answer = get(served.address, &path).await;
        assert_eq!(answer.status, 200, "{path}");
        for (before, after) in [
            ("src=\"", '"'),
            ("<link rel=\"stylesheet\" href=\"", '"'),
            ("from './", '\''),
        ] {
            for part in answer.body.split(before).skip(1) {
                let name = part
                    .split(after)
                    .next()
                    .unwrap()
                    .trim_start_matches("assets/");
                waiting.push(format!("/assets/{name}"));
            }
        }
        assert!(
            !answer.body.contains("https://"),
            "{path} names another origin"
        );
    }
    assert!(seen.len() >= 12, "{seen:?}");
}

#[tokio::test]
async fn the_overview_joins_routes_with_targets_and_durations() {
    let served = Served::new();
    {
        let mut state = served.world.state();
        (0..9).for_each(|_| state.count("ranker", "ranker-v1", 200, 0.004));
        state.count("ranker", "ranker-v2", 503, 0.3);
    }
    let overview = get(served.address, "/api/v1/overview").await.json();
    let ranker = &overview["routes"][0];
    assert_eq!(
        ranker["targets"][0],
        serde_json::json!({ "target": "ranker-v1", "requests": 9, "errors": 0 })
    );
    assert_eq!(
        ranker["targets"][1],
        serde_json::json!({ "target": "ranker-v2", "requests": 1, "errors": 1 })
    );
    assert_eq!(ranker["latency"]["count"], 10);
    assert_eq!(overview["routes"][1]["latency"], Value::Null);
    assert_eq!(overview["config"]["zone"], "a");
}
