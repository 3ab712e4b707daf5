//! Good configurations: what they mean, and that they can be written and read again.

mod support;

use std::time::Duration;
use support::{assert_golden, env, load_files, yaml_files};
use tidegate_config::model::*;
use tidegate_config::values::*;
use tidegate_config::{Config, Loaded, load_str_with, load_with};

fn load(text: &str) -> Loaded {
    match load_str_with("t.yaml", text, &env) {
        Ok(loaded) => loaded,
        Err(diagnostics) => panic!("{diagnostics}"),
    }
}

/// An upstream with these further keys.
fn upstream(keys: &str) -> Upstream {
    let text = format!(
        "upstreams:\n  - name: u\n    endpoints: [ {{ address: \"127.0.0.1:1\" }} ]\n    {keys}\n"
    );
    load(&text).config.upstreams.remove(0)
}

/// A route with these further keys.
fn route(keys: &str) -> Route {
    let text = format!(
        "routes:\n  - name: r\n    to: [ {{ upstream: u }} ]\n    {keys}\nupstreams:\n  - {{ name: u, endpoints: [ {{ address: \"127.0.0.1:1\" }} ] }}\n"
    );
    load(&text).config.routes.remove(0)
}

#[test]
fn good_files_load_without_a_warning() {
    for file in yaml_files("tests/good") {
        match load_with(std::slice::from_ref(&file), &env) {
            Ok(loaded) => assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings),
            Err(diagnostics) => panic!("{diagnostics}"),
        }
    }
}

#[test]
fn a_configuration_that_is_written_reads_to_the_same() {
    let pattern = regex::Regex::new(r#""<secret [0-9a-f]{12}>""#).expect("a pattern");
    for file in yaml_files("tests/good")
        .into_iter()
        .chain(["tests/design/this_build.yaml".into()])
    {
        let loaded = load_with(std::slice::from_ref(&file), &env).unwrap_or_else(|d| panic!("{d}"));
        let written = serde_json::to_string(&loaded.config).expect("plain data");
        // Secrets are written as fingerprints: put the references back.
        let token = Secret::clone(
            loaded
                .config
                .admin
                .as_ref()
                .and_then(|a| a.token.as_ref())
                .unwrap_or(&secret()),
        );
        let written = pattern.replace_all(&written, |found: &regex::Captures<'_>| {
            if found[0].contains(&token.fingerprint()) {
                "\"${TOKEN}\""
            } else {
                "\"Bearer ${TOKEN}\""
            }
        });
        let again = load_str_with("written", &written, &env)
            .unwrap_or_else(|d| panic!("{}: {d}", file.display()));
        assert_eq!(loaded.config, again.config, "{}", file.display());
        assert_eq!(loaded.hash, again.hash, "{}", file.display());
    }
}

fn secret() -> Secret {
    let loaded = load("admin: { token: \"${TOKEN}\" }");
    loaded
        .config
        .admin
        .and_then(|admin| admin.token)
        .expect("a token")
}

#[test]
fn the_design_pages_example_means_what_the_page_says() {
    let config = load_files(&["tests/design/this_build.yaml"])
        .unwrap_or_else(|d| panic!("{d}"))
        .config;
    assert_eq!(
        (config.node.region.as_str(), config.node.zone.as_str()),
        ("eu", "a")
    );
    assert_eq!(config.shutdown.grace, Duration::from_secs(30));
    let route = &config.routes[0];
    assert_eq!(
        route.matches[0].path,
        Some(PathMatch::Prefix("/v1/models".into()))
    );
    assert_eq!(
        route.matches[0].headers.get("x-tenant"),
        Some(&TextMatch::Exact("a".into()))
    );
    let shares: Vec<(u32, &Destination)> = route
        .to
        .iter()
        .map(|t| (t.weight, &t.destination))
        .collect();
    let upstream = |name: &str| Destination::Upstream(name.into());
    assert_eq!(
        shares,
        [(90, &upstream("ranker-v1")), (10, &upstream("ranker-v2"))]
    );
    assert_eq!(route.retry.attempts, 3);
    assert_eq!(route.retry.buffer, ByteSize::kib(64));
    let limit = route.rate_limit.as_ref().expect("a limit");
    assert_eq!(limit.per, Period(Duration::from_secs(60)));
    assert_eq!(
        limit.key,
        [LimitKey::Header("x-user".parse().expect("a name"))]
    );
    let upstream = &config.upstreams[0];
    assert_eq!(
        upstream.slow_start,
        Some(SlowStart {
            window: Duration::from_secs(30),
            aggression: 1.0
        })
    );
    let outlier = upstream.outlier_detection.as_ref().expect("on");
    assert_eq!(
        outlier.errors,
        Some(ErrorWindow {
            count: 5,
            within: Duration::from_secs(300)
        })
    );
}

#[test]
fn defaults_are_those_of_the_contract() {
    let loaded = load_files(&["tests/good/minimal.yaml"]).unwrap_or_else(|d| panic!("{d}"));
    let json = serde_json::to_value(&loaded.config).expect("plain data");
    assert_golden("tests/good/minimal.json".as_ref(), &format!("{json:#}\n"));
}

#[test]
fn every_default_struct_can_be_made() {
    // Each field of these has a default or a natural absence; a new one without would panic here.
    let config = Config::default();
    assert!(config.admin.is_some());
    let _ = (
        ListenerLimits::default(),
        Retry::default(),
        HeaderEdits::default(),
        Respond::default(),
        Redirect::default(),
    );
    let _ = (
        Rewrite::default(),
        Fault::default(),
        Match::default(),
        GrpcMatch::default(),
        SourceMatch::default(),
    );
    let _ = (
        ConnectionPool::default(),
        Http2::default(),
        OutlierDetection::default(),
        LocalityPolicy::default(),
    );
    let _ = (
        UpstreamTls::default(),
        BackendLoad::default(),
        FailurePercentage::default(),
        AccessLog::default(),
    );
}

#[test]
fn outlier_detection_is_on_unless_it_is_turned_off() {
    assert_eq!(
        upstream("").outlier_detection,
        Some(OutlierDetection::default())
    );
    assert_eq!(upstream("outlier_detection: off").outlier_detection, None);
    assert_eq!(upstream("outlier_detection: false").outlier_detection, None);
}

#[test]
fn a_count_of_gateway_failures_is_enforced_when_it_is_given() {
    // Envoy's default of 0% for this rule makes a count that does nothing.
    let percent = |keys: &str| {
        upstream(keys)
            .outlier_detection
            .expect("on")
            .enforcing_consecutive_gateway_failure
    };
    assert_eq!(percent(""), Percent::ZERO);
    assert_eq!(
        percent("outlier_detection: { consecutive_gateway_failure: 3 }"),
        Percent::HUNDRED
    );
    let keys = "outlier_detection: { consecutive_gateway_failure: 3, enforcing_consecutive_gateway_failure: 0 }";
    assert_eq!(percent(keys), Percent::ZERO);
}

#[test]
fn a_base_ejection_beyond_the_longest_raises_the_longest() {
    let outlier = upstream("outlier_detection: { base_ejection_time: 20m }")
        .outlier_detection
        .expect("on");
    assert_eq!(outlier.max_ejection_time, Duration::from_secs(1200));
}

#[test]
fn a_fault_without_a_percentage_hits_every_request() {
    // Istio's 0% makes a fault that never happens.
    let fault = route("fault: { delay: { duration: 1s }, abort: { status: 503 } }")
        .fault
        .expect("a fault");
    assert_eq!(fault.delay.expect("a delay").percent, Percent::HUNDRED);
    assert_eq!(fault.abort.expect("an abort").percent, Percent::HUNDRED);
}

#[test]
fn a_mirror_without_a_percentage_copies_every_request() {
    assert_eq!(
        route("mirror: { upstream: u }")
            .mirror
            .expect("a mirror")
            .percent,
        Percent::HUNDRED
    );
}

#[test]
fn shorthands_mean_the_long_form() {
    assert_eq!(
        upstream("slow_start: 10s").slow_start,
        upstream("slow_start: { window: 10s }").slow_start
    );
    assert_eq!(
        route("retry: { budget: 30% }").retry,
        route("retry: { budget: { percent: 30 } }").retry
    );
    assert_eq!(
        route("match: { path: { exact: /a } }").matches,
        route("match: [ { path: { exact: /a } } ]").matches
    );
    assert_eq!(
        route("match: { query: { a: b } }").matches,
        route("match: { query: { a: { exact: b } } }").matches
    );
    assert_eq!(
        upstream("balance: peak_ewma").balance,
        upstream("balance: { peak_ewma: {} }").balance
    );
    assert_eq!(
        load("access_log: stderr").config.access_log,
        load("access_log: { to: stderr }").config.access_log
    );
    assert_eq!(load("access_log: off").config.access_log, None);
    assert_eq!(
        load("tracing: http://127.0.0.1:4318").config.tracing,
        load("tracing: { otlp: \"http://127.0.0.1:4318/\", sample: 100%, parent_based: true }")
            .config
            .tracing
    );
    assert_eq!(load("tracing: off").config.tracing, None);
}

#[test]
fn a_port_or_a_budget_can_be_turned_off_only_where_off_has_a_meaning() {
    assert_eq!(route("retry: { budget: off }").retry.budget, None);
    assert_eq!(route("idle_timeout: off").idle_timeout, None);
    assert!(load_str_with("t", "shutdown: { grace: off }", &env).is_err());
}

#[test]
fn variables_and_their_defaults_are_replaced_in_any_value() {
    let text = "listeners: [ { name: \"l-${UNSET:-x}\", address: \"0.0.0.0:${PORT}\", trusted_hops: \"${UNSET:-2}\" } ]\n\
                node: { region: \"a$b$${c}\", zone: \"${EMPTY:-z}\" }";
    let config = load(text).config;
    assert_eq!(config.listeners[0].name, "l-x");
    assert_eq!(
        config.listeners[0].address,
        "0.0.0.0:8080".parse().expect("an address")
    );
    assert_eq!(config.listeners[0].trusted_hops, 2);
    assert_eq!(
        (config.node.region.as_str(), config.node.zone.as_str()),
        ("a$b${c}", "z")
    );
}

#[test]
fn a_value_from_the_environment_cannot_bring_yaml_with_it() {
    let env = |name: &str| (name == "X").then(|| "a\", zone: \"b".to_owned());
    let loaded =
        load_str_with("t", "node: { region: \"${X}\" }", &env).unwrap_or_else(|d| panic!("{d}"));
    assert_eq!(loaded.config.node.region, "a\", zone: \"b");
    assert_eq!(loaded.config.node.zone, "");
}

#[test]
fn the_hash_follows_the_meaning_and_not_the_text() {
    let one = load("node: { region: eu, zone: a }").hash;
    assert_eq!(one, load("# said otherwise\nnode:\n  zone: a\n  region: \"eu\"\nroutes: []\nshutdown: { grace: 0.5m }\n").hash);
    assert_ne!(one, load("node: { region: eu, zone: b }").hash);
    let token = |token: &str| load(&format!("admin: {{ token: {token} }}")).hash;
    assert_ne!(token("one"), token("two"));
    assert_eq!(token("hunter2-from-env"), token("\"${TOKEN}\""));
}

#[test]
fn merge_keys_take_what_is_not_given_and_the_first_source_wins() {
    let config = load_files(&["tests/good/anchors.yaml"])
        .unwrap_or_else(|d| panic!("{d}"))
        .config;
    let pools: Vec<_> = config
        .upstreams
        .iter()
        .map(|u| {
            (
                u.name.as_str(),
                u.connection_pool.max_requests,
                u.connection_pool.connect_timeout,
            )
        })
        .collect();
    let two = Duration::from_secs(2);
    assert_eq!(pools, [("a", 5, two), ("b", 7, two), ("c", 3, two)]);
    assert_eq!(config.upstreams[1].endpoints, config.upstreams[0].endpoints);
}
