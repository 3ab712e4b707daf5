//! From YAML to decisions: which requests a route matches.

mod common;

use common::*;
use http::{HeaderMap, Method};
use tidegate_route::{Model, ProviderIndex, RequestView, Resolution};

#[test]
fn the_first_route_in_the_configs_order_wins_even_over_a_more_specific_one() {
    let router = routes(
        "
  - { name: wide, match: { path: { prefix: /v1 } }, to: [ { upstream: a } ] }
  - { name: narrow, match: { hosts: [a.local], path: { exact: /v1/x } }, to: [ { upstream: b } ] }
  - { name: rest, match: { hosts: [a.local] }, to: [ { upstream: b } ] }",
    );
    assert_eq!(ask("a.local", "/v1/x").by(&router), Some("wide"));
    assert_eq!(ask("a.local", "/v2").by(&router), Some("rest"));
    assert_eq!(ask("b.local", "/v2").by(&router), None);
}

#[test]
fn all_conditions_of_a_match_must_hold_and_any_match_of_the_list_will_do() {
    let router = routes(
        "
  - name: one
    match:
      - { hosts: [ranker.local], path: { prefix: /v1/models }, methods: [POST], headers: { x-tenant: a } }
      - { query: { debug: { present: true } } }
    to: [ { upstream: a } ]",
    );
    let full = || {
        let mut ask = ask("Ranker.Local", "/v1/models/m:predict").header("x-tenant", "a");
        ask.method = Method::POST;
        ask
    };
    assert_eq!(full().by(&router), Some("one"));
    assert_eq!(
        Ask {
            method: Method::GET,
            ..full()
        }
        .by(&router),
        None
    );
    assert_eq!(
        Ask {
            headers: HeaderMap::new(),
            ..full()
        }
        .by(&router),
        None
    );
    assert_eq!(
        Ask {
            path: "/V1/models",
            ..full()
        }
        .by(&router),
        None
    );
    assert_eq!(
        Ask {
            host: "other",
            ..full()
        }
        .by(&router),
        None
    );
    assert_eq!(
        Ask {
            query: Some("debug"),
            ..ask("x", "/")
        }
        .by(&router),
        Some("one")
    );
}

#[test]
fn prefixes_are_plain_and_expressions_match_the_whole_path() {
    let router = routes(
        "
  - { name: prefix, match: { path: { prefix: /a } }, to: [ { upstream: a } ] }
  - { name: regex, match: { path: { regex: '/b|/c/[0-9]+' } }, to: [ { upstream: a } ] }
  - { name: accent, match: { path: { exact: '/caf\u{e9}' } }, to: [ { upstream: a } ] }",
    );
    assert_eq!(ask("x", "/ab").by(&router), Some("prefix"));
    assert_eq!(ask("x", "/c/12").by(&router), Some("regex"));
    assert_eq!(ask("x", "/b").by(&router), Some("regex"));
    assert_eq!(ask("x", "/bb").by(&router), None);
    assert_eq!(ask("x", "/x/b").by(&router), None);
    assert_eq!(ask("x", "/c/12/").by(&router), None);
    assert_eq!(ask("x", "/caf%C3%A9").by(&router), Some("accent"));
}

#[test]
fn an_expression_cannot_break_out_of_its_anchors() {
    let router = routes(
        "  - { name: x, match: { path: { regex: '(?x) /a # comment' } }, to: [ { upstream: a } ] }",
    );
    assert_eq!(ask("x", "/a").by(&router), Some("x"));
    assert_eq!(ask("x", "/a/b").by(&router), None);
    let router =
        routes("  - { name: x, match: { path: { regex: '/a#b' } }, to: [ { upstream: a } ] }");
    assert_eq!(ask("x", "/a").by(&router), None);
}

#[test]
fn grpc_matches_only_grpc_requests_by_service_and_method() {
    let router = routes(
        "
  - { name: predict, match: { grpc: { service: tf.Prediction, method: Predict } }, to: [ { upstream: a } ] }
  - { name: service, match: { grpc: { service: tf.Prediction } }, to: [ { upstream: a } ] }
  - { name: method, match: { grpc: { method: Check } }, to: [ { upstream: a } ] }
  - { name: any, match: { grpc: {} }, to: [ { upstream: a } ] }",
    );
    let grpc = |path| ask("x", path).header("content-type", "application/grpc+proto");
    assert_eq!(grpc("/tf.Prediction/Predict").by(&router), Some("predict"));
    assert_eq!(grpc("/tf.Prediction/Classify").by(&router), Some("service"));
    assert_eq!(grpc("/tf.PredictionX/Predict").by(&router), Some("any"));
    assert_eq!(
        grpc("/grpc.health.v1.Health/Check").by(&router),
        Some("method")
    );
    assert_eq!(grpc("/a/b/c").by(&router), None);
    assert_eq!(ask("x", "/tf.Prediction/Predict").by(&router), None);
}

#[test]
fn headers_match_exactly_by_prefix_by_expression_by_presence_and_by_absence() {
    let router = routes(
        "
  - { name: exact, match: { headers: { X-Exact: a } }, to: [ { upstream: a } ] }
  - { name: prefix, match: { headers: { x-prefix: { prefix: a } } }, to: [ { upstream: a } ] }
  - { name: regex, match: { headers: { x-regex: { regex: 'a+' } } }, to: [ { upstream: a } ] }
  - { name: present, match: { headers: { x-present: { present: true } } }, to: [ { upstream: a } ] }
  - { name: absent, match: { headers: { x-absent: { present: false } } }, to: [ { upstream: a } ] }",
    );
    let with = |name, value| {
        ask("x", "/")
            .header(name, value)
            .header("x-absent", "")
            .by(&router)
            .map(str::to_owned)
    };
    assert_eq!(with("x-exact", "a").as_deref(), Some("exact"));
    assert_eq!(with("x-exact", "A"), None);
    assert_eq!(with("x-prefix", "ab").as_deref(), Some("prefix"));
    assert_eq!(with("x-regex", "aaa").as_deref(), Some("regex"));
    assert_eq!(with("x-regex", "aab"), None);
    assert_eq!(with("x-present", "").as_deref(), Some("present"));
    assert_eq!(ask("x", "/").by(&router), Some("absent"));
    // A second field of the name makes another value: it can neither hide nor add a match.
    assert_eq!(
        ask("x", "/")
            .header("x-exact", "a")
            .header("x-exact", "b")
            .header("x-absent", "")
            .by(&router),
        None
    );
}

#[test]
fn sources_match_by_network_and_zone() {
    let router = routes(
        "
  - { name: inside, match: { source: { cidr: [10.0.0.0/8, 'fd00::/8'] } }, to: [ { upstream: a } ] }
  - { name: zone, match: { source: { zone: z1 } }, to: [ { upstream: a } ] }",
    );
    let from = |address: &str| Ask {
        source: Some(address.parse().unwrap()),
        ..ask("x", "/")
    };
    assert_eq!(from("10.9.9.9").by(&router), Some("inside"));
    assert_eq!(from("fd00::1").by(&router), Some("inside"));
    assert_eq!(from("11.0.0.1").by(&router), None);
    assert_eq!(
        Ask {
            zone: "z1",
            ..from("11.0.0.1")
        }
        .by(&router),
        Some("zone")
    );
}

#[test]
fn a_match_is_described_in_words_without_showing_credentials() {
    let router = routes(
        "
  - name: x
    match:
      - { hosts: [a.local, '*.b.local'], path: { prefix: /v1/ }, methods: [POST], headers: { x-tenant: a, authorization: top-secret } }
      - { grpc: { service: s.S }, query: { q: { regex: '[0-9]+' } }, source: { cidr: [10.0.0.0/8], zone: z } }
    to: [ { upstream: a } ]",
    );
    assert_eq!(
        router.routes()[0].describe().matches,
        "hosts a.local | *.b.local, path /v1/*, POST, header authorization, header x-tenant=a \
         or gRPC s.S/*, query q~[0-9]+, from 10.0.0.0/8, zone z"
    );
}

#[test]
fn a_match_on_models_asks_for_the_body_first_and_decides_by_the_name() {
    let router = router(
        "routes:
  - { name: gpt, match: { path: { prefix: /v1/ }, model: [ 'gpt-*', '~^o[13]$' ] }, to: [ { provider: p, model: m } ] }
  - { name: rest, match: { path: { prefix: /v1/ } }, to: [ { provider: p } ] }
  - { name: else, to: [ { upstream: a } ] }
providers: [ { name: p, type: ollama } ]
upstreams: [ { name: a, endpoints: [ { address: 127.0.0.1:1 } ] } ]",
    );
    let asked = ask("x", "/v1/chat");
    let with = |model| RequestView {
        model,
        ..asked.view()
    };
    let found = router.find(&with(Model::Unread)).unwrap();
    assert!(found.needs_model);
    for (model, route) in [
        (Model::Named("gpt-4"), "gpt"),
        (Model::Named("o3"), "gpt"),
        (Model::Named("o33"), "rest"),
        (Model::Absent, "rest"),
    ] {
        let found = router.find(&with(model)).unwrap();
        assert_eq!((&*found.route.name, found.needs_model), (route, false));
    }
    let other = ask("x", "/other");
    assert!(!router.find(&other.view()).unwrap().needs_model);
    let forward = router.routes()[0].forward().unwrap();
    assert_eq!(
        forward.split.targets()[0].resolve(&HeaderMap::new()),
        Resolution::Provider(ProviderIndex(0))
    );
    assert_eq!(router.routes()[0].describe().to, "p (m)");
    assert!(
        router.routes()[0]
            .describe()
            .matches
            .contains("model gpt-* | ~^o[13]$")
    );
}
