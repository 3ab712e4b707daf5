//! From YAML to decisions: what the config says is what a request gets.

use std::time::Duration;

use http::{HeaderMap, HeaderValue, Method, StatusCode};
use tidegate_route::{
    Abort, Action, AttemptOutcome, HashKey, LimitAlgorithm, Model, PerMillion, ProviderIndex,
    RequestView, Resolution, Router, UpstreamIndex,
};

fn router(yaml: &str) -> Router {
    let text = format!("listeners: [{{ name: main, address: 127.0.0.1:0 }}]\n{yaml}");
    let loaded = tidegate_config::load_str("test.yaml", &text)
        .unwrap_or_else(|problems| panic!("{problems}"));
    Router::compile(&loaded.config).unwrap()
}

const UPSTREAMS: &str = "
upstreams:
  - { name: a, endpoints: [ { address: 127.0.0.1:1 } ] }
  - { name: b, endpoints: [ { address: 127.0.0.1:2 } ], balance: { ring_hash: { header: x-user } } }
  - { name: c, endpoints: [ { address: 127.0.0.1:3 } ], balance: source_ip_hash }
";

fn routes(yaml: &str) -> Router {
    router(&format!("routes:\n{yaml}\n{UPSTREAMS}"))
}

struct Ask {
    host: &'static str,
    path: &'static str,
    query: Option<&'static str>,
    method: Method,
    headers: HeaderMap,
    source: Option<std::net::IpAddr>,
    zone: &'static str,
}

fn ask(host: &'static str, path: &'static str) -> Ask {
    Ask {
        host,
        path,
        query: None,
        method: Method::GET,
        headers: HeaderMap::new(),
        source: None,
        zone: "",
    }
}

impl Ask {
    fn header(mut self, name: &'static str, value: &'static str) -> Ask {
        self.headers.append(name, HeaderValue::from_static(value));
        self
    }

    fn view(&self) -> RequestView<'_> {
        RequestView {
            host: self.host,
            path: self.path,
            query: self.query,
            method: &self.method,
            headers: &self.headers,
            source: self.source,
            caller_region: "",
            caller_zone: self.zone,
            model: Model::Unread,
        }
    }

    fn by<'r>(&self, router: &'r Router) -> Option<&'r str> {
        let found = router.find(&self.view());
        let linear = router.find_linearly(&self.view());
        assert_eq!(
            found.map(|f| (f.route.index, f.matched)),
            linear.map(|f| (f.route.index, f.matched))
        );
        found.map(|found| &*found.route.name)
    }
}

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
