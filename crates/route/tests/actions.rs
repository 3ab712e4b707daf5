//! From YAML to decisions: what a route does with a request that it matches.

mod common;

use std::time::Duration;

use common::*;
use http::{HeaderMap, StatusCode};
use tidegate_route::{
    Abort, Action, AttemptOutcome, HashKey, LimitAlgorithm, PerMillion, Resolution, Router,
    UpstreamIndex,
};

#[test]
fn a_split_with_fallback_and_mirror_points_into_the_list_of_upstreams() {
    let router = routes(
        "
  - name: split
    to: [ { upstream: c, weight: 90 }, { upstream: a, weight: 10 } ]
    split: { hash: { cookie: sid } }
    fallback: [ { upstream: b } ]
    mirror: { upstream: a, percent: 5% }",
    );
    let route = &router.routes()[0];
    let forward = route.forward().unwrap();
    let headers = HeaderMap::new();
    let upstreams: Vec<_> = forward
        .split
        .targets()
        .iter()
        .map(|target| target.resolve(&headers))
        .collect();
    assert_eq!(
        upstreams,
        [
            Resolution::Upstream(UpstreamIndex(2)),
            Resolution::Upstream(UpstreamIndex(0))
        ]
    );
    assert_eq!(forward.split.sticky(), Some(&HashKey::Cookie("sid".into())));
    assert_eq!(
        forward.fallback[0].resolve(&headers),
        Resolution::Upstream(UpstreamIndex(1))
    );
    let mirror = forward.mirror.as_ref().unwrap();
    assert_eq!(mirror.share, PerMillion::from_percent(5.0));
    assert_eq!(
        route.describe().to,
        "c 90%, a 10%, sticky by cookie sid, then b, mirror 5% to a"
    );
    assert_eq!(route.describe().matches, "everything");
}

#[test]
fn a_header_names_the_upstream_from_the_allow_list() {
    let router = routes(
        "  - { name: named, to: [ { upstream_from: { header: x-upstream, allow: [a, b] } } ] }",
    );
    let target = &router.routes()[0].forward().unwrap().split.targets()[0];
    let with = |value| target.resolve(&ask("x", "/").header("x-upstream", value).headers);
    assert_eq!(with("b"), Resolution::Upstream(UpstreamIndex(1)));
    assert_eq!(with("c"), Resolution::NotAllowed);
}

#[test]
fn an_upstream_that_does_not_exist_costs_its_own_share_only() {
    let mut loaded = tidegate_config::load_str(
        "test.yaml",
        &format!(
            "listeners: [{{ name: main, address: 127.0.0.1:0 }}]
routes: [ {{ name: x, to: [ {{ upstream: a }}, {{ upstream: b }} ] }} ]
{UPSTREAMS}"
        ),
    )
    .unwrap();
    loaded
        .config
        .upstreams
        .retain(|upstream| upstream.name != "b");
    let router = Router::compile(&loaded.config).unwrap();
    let split = &router.routes()[0].forward().unwrap().split;
    let resolved: Vec<_> = split
        .targets()
        .iter()
        .map(|target| target.resolve(&HeaderMap::new()))
        .collect();
    assert_eq!(
        resolved,
        [Resolution::Upstream(UpstreamIndex(0)), Resolution::Missing]
    );
}

#[test]
fn hash_balancers_tell_what_they_hash() {
    let router = routes("  - { name: x, to: [ { upstream: a } ] }");
    assert_eq!(router.hash_key(UpstreamIndex(0)), None);
    assert_eq!(
        router.hash_key(UpstreamIndex(1)),
        Some(&HashKey::Header("x-user".parse().unwrap()))
    );
    assert_eq!(router.hash_key(UpstreamIndex(2)), Some(&HashKey::SourceIp));
    assert_eq!(router.hash_key(UpstreamIndex(3)), None);
}

#[test]
fn redirects_and_responses_are_made_from_the_request() {
    let router = routes(
        "
  - { name: https, match: { path: { prefix: /old/ } }, redirect: { scheme: https, prefix: /new/, status: 308 } }
  - { name: hello, match: { path: { exact: /hello } }, respond: { status: 201, body: hi, headers: { x-a: b } } }",
    );
    let ask = Ask {
        query: Some("q=1"),
        ..ask("a.local", "/old/x")
    };
    let found = router.find(&ask.view()).unwrap();
    let Action::Redirect(redirect) = &found.route.action else {
        panic!("a redirect")
    };
    assert_eq!(redirect.status, StatusCode::PERMANENT_REDIRECT);
    let location = redirect
        .location(&ask.view(), found.matched, "http", Some(8080))
        .unwrap();
    assert_eq!(location, "https://a.local/new/x?q=1");
    let Action::Respond(respond) = &router.routes()[1].action else {
        panic!("a response")
    };
    assert_eq!(
        (respond.status.as_u16(), &respond.body[..]),
        (201, &b"hi"[..])
    );
    assert_eq!(respond.headers[0].1, "b");
    assert_eq!(
        router.routes()[0].describe().to,
        "redirect 308 to https at another path"
    );
    assert_eq!(router.routes()[1].describe().matches, "path /hello");
}

#[test]
fn the_prefix_that_matched_is_the_one_that_is_rewritten() {
    let router = routes(
        "
  - name: x
    match: [ { path: { prefix: /api/v1 } }, { path: { prefix: /api } } ]
    to: [ { upstream: a } ]
    rewrite: { prefix: /, host: inner.local }",
    );
    for (path, rewritten) in [("/api/v1/m", "/m"), ("/api/m", "/m"), ("/api", "/")] {
        let ask = ask("x", path);
        let found = router.find(&ask.view()).unwrap();
        assert_eq!(
            found.route.rewrite.path(path, found.matched).unwrap(),
            rewritten,
            "{path}"
        );
    }
    assert_eq!(
        router.routes()[0].rewrite.host.as_ref().unwrap(),
        "inner.local"
    );
}

#[test]
fn a_regular_expression_rewrites_with_its_groups() {
    let router = routes(
        "
  - name: x
    to: [ { upstream: a } ]
    rewrite: { regex: { pattern: '^/m/([a-z]+)', with: '/models/$1' } }",
    );
    assert_eq!(
        router.routes()[0].rewrite.path("/m/bert/x", 0).unwrap(),
        "/models/bert/x"
    );
}

#[test]
fn faults_without_a_percentage_hit_every_request() {
    let router = routes(
        "
  - { name: x, to: [ { upstream: a } ], fault: { delay: { duration: 2s }, abort: { status: 418 } } }
  - { name: y, to: [ { upstream: a } ], fault: { abort: { grpc_status: unavailable, percent: 0% } } }",
    );
    let always = router.routes()[0].fault.as_ref().unwrap();
    for random in [0, u64::MAX, 1 << 40] {
        let decision = always.decide(random);
        assert_eq!(
            (decision.delay, decision.abort),
            (Some(Duration::from_secs(2)), Some(Abort::Http(418)))
        );
    }
    assert_eq!(
        router.routes()[1].fault.as_ref().unwrap().decide(0).abort,
        None
    );
}

#[test]
fn retries_have_the_documented_defaults_and_take_what_is_written() {
    let router = routes(
        "
  - { name: defaults, to: [ { upstream: a } ] }
  - name: written
    to: [ { upstream: a } ]
    retry: { attempts: 4, on: [5xx, 429], per_try_timeout: 5s, budget: off, replay: true, buffer: 1KiB }",
    );
    let defaults = &router.routes()[0].retry;
    assert_eq!(
        (defaults.attempts, defaults.buffer, defaults.replay),
        (2, 65536, false)
    );
    let budget = defaults.budget.unwrap();
    assert_eq!((budget.percent, budget.min), (20.0, 3));
    assert!(defaults.should_retry(&AttemptOutcome::ConnectFailure));
    assert!(!defaults.should_retry(&AttemptOutcome::Status(503)));
    let written = &router.routes()[1].retry;
    assert_eq!(
        (
            written.attempts,
            written.buffer,
            written.replay,
            written.budget
        ),
        (4, 1024, true, None)
    );
    assert!(written.should_retry(&AttemptOutcome::Status(429)));
    assert!(written.should_retry(&AttemptOutcome::Status(500)));
    assert_eq!(written.per_try_timeout, Some(Duration::from_secs(5)));
}

#[test]
fn limits_and_times_are_taken_over() {
    let router = routes(
        "
  - name: x
    to: [ { upstream: a } ]
    timeout: 30s
    idle_timeout: off
    body_bytes: 1MiB
    rate_limit: { requests: 100, per: minute, key: ['header:x-user', path] }
    concurrency: { requests: 7 }
    hedge: { delay: 50ms }
  - { name: y, to: [ { upstream: a } ] }",
    );
    let route = &router.routes()[0];
    assert_eq!(
        (route.timeout, route.idle_timeout),
        (Some(Duration::from_secs(30)), None)
    );
    assert_eq!(route.body_bytes, Some(1 << 20));
    let limit = route.rate_limit.as_ref().unwrap();
    assert_eq!(
        (limit.requests, limit.burst, limit.per),
        (100, 100, Duration::from_secs(60))
    );
    assert_eq!(limit.algorithm, LimitAlgorithm::Gcra);
    let ann = ask("x", "/").header("x-user", "ann");
    assert!(limit.key.extract(&ann.view()).is_some());
    assert_eq!(limit.key.extract(&ask("x", "/").view()), None);
    let concurrency = route.concurrency.as_ref().unwrap();
    assert!(concurrency.requests == 7 && concurrency.key.is_shared());
    let hedge = route.hedge.unwrap();
    assert_eq!(
        (hedge.delay, hedge.attempts),
        (Duration::from_millis(50), 2)
    );
    assert_eq!(
        router.routes()[1].idle_timeout,
        Some(Duration::from_secs(900))
    );
}

#[test]
fn header_edits_come_from_the_config() {
    let router = routes(
        "
  - name: x
    to: [ { upstream: a } ]
    request_headers: { set: { x-set: s }, add: { x-add: d }, remove: [x-gone] }
    response_headers: { remove: [server] }",
    );
    let mut headers = ask("x", "/")
        .header("x-gone", "1")
        .header("x-set", "0")
        .header("x-add", "0")
        .headers;
    router.routes()[0].request_headers.apply(&mut headers);
    assert!(!headers.contains_key("x-gone"));
    assert_eq!(headers["x-set"], "s");
    assert_eq!(
        headers.get_all("x-add").iter().collect::<Vec<_>>(),
        ["0", "d"]
    );
    assert!(!router.routes()[0].response_headers.is_empty());
}
