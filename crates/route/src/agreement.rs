//! Tests that the index answers as a linear scan does, and that its work does not grow with the number of routes.

use std::net::IpAddr;

use http::header::HeaderName;
use http::{HeaderMap, HeaderValue, Method};
use proptest::prelude::*;

use crate::conditions::{
    Conditions, GrpcRule, HostRule, ModelRule, PathRule, Rule, SourceRule, TextRule,
};
use crate::index::{Effort, HostBuffer, Index, lower_host};
use crate::request::{Model, RequestView};

fn rule(host: HostRule, path: PathRule) -> Rule {
    Rule {
        route: 0,
        hosts: [host].into(),
        path,
        conditions: Conditions::default(),
    }
}

fn full(pattern: &str) -> regex::bytes::Regex {
    regex::bytes::Regex::new(&format!("\\A(?:{pattern})\\z")).unwrap()
}

/// A request that a test holds on to.
#[derive(Clone, Debug)]
struct Asked {
    host: String,
    path: String,
    query: Option<String>,
    method: Method,
    headers: HeaderMap,
    source: Option<IpAddr>,
    zone: &'static str,
    model: Model<'static>,
}

impl Asked {
    fn of(host: &str, path: &str) -> Asked {
        Asked {
            host: host.into(),
            path: path.into(),
            query: None,
            method: Method::GET,
            headers: HeaderMap::new(),
            source: None,
            zone: "",
            model: Model::Unread,
        }
    }

    fn view(&self) -> RequestView<'_> {
        RequestView {
            host: &self.host,
            path: &self.path,
            query: self.query.as_deref(),
            method: &self.method,
            headers: &self.headers,
            source: self.source,
            caller_region: "",
            caller_zone: self.zone,
            model: self.model,
        }
    }
}

fn by_index(index: &Index, rules: &[Rule], asked: &Asked) -> (Option<u32>, Effort) {
    let view = asked.view();
    index.find(
        rules,
        lower_host(&asked.host, &mut HostBuffer::new()),
        &view,
    )
}

fn by_scan(rules: &[Rule], asked: &Asked) -> Option<u32> {
    let view = asked.view();
    let mut buffer = HostBuffer::new();
    let host = lower_host(&asked.host, &mut buffer);
    rules
        .iter()
        .position(|rule| rule.holds(host, &view))
        .map(|at| at as u32)
}

// --- random tables and requests, from few words so that they meet ----------------------------------

fn hosts() -> impl Strategy<Value = Box<[HostRule]>> {
    let one = prop_oneof![
        Just(HostRule::Any),
        prop::sample::select(vec!["a.x", "b.x", "c.b.x", "x"])
            .prop_map(|name| HostRule::Exact(name.into())),
        prop::sample::select(vec!["x", "b.x"]).prop_map(|suffix| HostRule::Below(suffix.into())),
    ];
    prop::collection::vec(one, 1..3).prop_map(Into::into)
}

fn literal() -> impl Strategy<Value = String> {
    "/[ab]{0,2}(/[ab]{0,2}){0,2}"
}

fn path_rule() -> impl Strategy<Value = PathRule> {
    let patterns = vec![
        "/a.*",
        "/[ab]",
        "/a|/b/b",
        ".*b",
        "/(a|ab)/?",
        "/a+/b*",
        "(?i)/A/B",
        "/ab?/.*",
    ];
    prop_oneof![
        Just(PathRule::Any),
        literal().prop_map(|path| PathRule::Exact(path.into())),
        literal().prop_map(|path| PathRule::Prefix(path.into())),
        Just(PathRule::Prefix("".into())),
        prop::sample::select(patterns).prop_map(|pattern| PathRule::Regex(full(pattern))),
    ]
}

fn text_rule() -> impl Strategy<Value = TextRule> {
    prop_oneof![
        6 => prop::sample::select(vec!["1", "2", "1,2", ""]).prop_map(|value| TextRule::Exact(value.as_bytes().into())),
        1 => Just(TextRule::Prefix(b"1"[..].into())),
        1 => Just(TextRule::Regex(full("[12]"))),
        1 => Just(TextRule::Present),
        1 => Just(TextRule::Absent),
    ]
}

fn header_name() -> impl Strategy<Value = HeaderName> {
    prop::sample::select(vec![
        HeaderName::from_static("x-p"),
        HeaderName::from_static("x-q"),
    ])
}

fn conditions() -> impl Strategy<Value = Conditions> {
    let grpc = (
        prop::option::of(prop::sample::select(vec!["a", "ab"])),
        prop::option::of(Just("b")),
    )
        .prop_map(|(service, method)| GrpcRule {
            service: service.map(Into::into),
            method: method.map(Into::into),
        });
    let methods =
        prop::collection::vec(prop::sample::select(vec![Method::GET, Method::POST]), 0..2);
    let query = prop::sample::select(vec!["p", "q"]).prop_map(Box::<str>::from);
    let source =
        prop::sample::select(vec!["10.0.0.0/8", "10.1.0.0/16", "::/0"]).prop_map(|network| {
            SourceRule {
                networks: [network.parse().unwrap()].into(),
                region: None,
                zone: (network != "10.0.0.0/8").then(|| "z".into()),
            }
        });
    let rare = |strategy: BoxedStrategy<Conditions>| prop_oneof![2 => Just(Conditions::default()), 3 => strategy];
    rare(
        (
            prop::option::weighted(0.2, grpc),
            methods,
            prop::collection::btree_map(
                header_name().prop_map(|name| name.to_string()),
                text_rule(),
                0..2,
            ),
            prop::collection::vec((query, text_rule()), 0..2),
            prop::option::weighted(0.1, source),
            prop::collection::vec(model_rule(), 0..2),
        )
            .prop_map(
                |(grpc, methods, headers, query, source, models)| Conditions {
                    grpc,
                    methods: methods.into(),
                    headers: headers
                        .into_iter()
                        .map(|(name, text)| (name.parse().unwrap(), text))
                        .collect(),
                    query: query.into(),
                    source,
                    models: models.into(),
                },
            )
            .boxed(),
    )
}

fn model_rule() -> impl Strategy<Value = ModelRule> {
    prop_oneof![
        Just(ModelRule::Exact("gpt-4".into())),
        Just(ModelRule::Prefix("gpt-".into())),
        Just(ModelRule::Any),
    ]
}

fn model() -> impl Strategy<Value = Model<'static>> {
    prop::sample::select(vec![
        Model::Unread,
        Model::Absent,
        Model::Named("gpt-4"),
        Model::Named("gpt-3"),
        Model::Named("claude"),
    ])
}

fn rules() -> impl Strategy<Value = Vec<Rule>> {
    let one = (hosts(), path_rule(), conditions()).prop_map(|(hosts, path, conditions)| Rule {
        route: 0,
        hosts,
        path,
        conditions,
    });
    prop::collection::vec(one, 0..60)
}

/// Many matches in one place, as only they are filed by value.
fn crowded_rules() -> impl Strategy<Value = Vec<Rule>> {
    let one = (
        prop_oneof![Just(PathRule::Any), Just(PathRule::Prefix("/a".into()))],
        conditions(),
    )
        .prop_map(|(path, conditions)| Rule {
            route: 0,
            hosts: [HostRule::Any].into(),
            path,
            conditions,
        });
    prop::collection::vec(one, 20..120)
}

fn asked() -> impl Strategy<Value = Asked> {
    let host = prop::sample::select(vec![
        "a.x", "A.X.", "b.x", "c.b.x", "d.c.b.x", "x", "y", "", ".x", "b..x",
    ]);
    let values = prop::collection::vec(prop::sample::select(vec!["1", "2", "12", ""]), 0..3);
    let query = prop::option::of(prop::sample::select(vec![
        "p=1",
        "p=%31&q=2",
        "q",
        "p=2&p=1",
        "",
    ]));
    let source = prop::option::of(prop::sample::select(vec![
        "10.1.2.3",
        "10.2.0.1",
        "::1",
        "::ffff:10.1.0.1",
    ]));
    (
        host,
        literal(),
        query,
        any::<bool>(),
        values,
        header_name(),
        source,
        any::<(bool, bool)>(),
        model(),
    )
        .prop_map(
            |(host, path, query, post, values, name, source, (grpc, zone), model)| {
                let mut asked = Asked::of(host, &path);
                asked.model = model;
                asked.query = query.map(Into::into);
                asked.source = source.map(|address| address.parse().unwrap());
                asked.zone = if zone { "z" } else { "" };
                if post {
                    asked.method = Method::POST;
                }
                for value in values {
                    asked.headers.append(&name, HeaderValue::from_static(value));
                }
                if grpc {
                    asked
                        .headers
                        .insert("content-type", HeaderValue::from_static("application/grpc"));
                }
                asked
            },
        )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases * 2, ..ProptestConfig::default() })]

    #[test]
    fn the_index_answers_as_a_linear_scan(
        rules in prop_oneof![rules(), crowded_rules()], requests in prop::collection::vec(asked(), 1..20),
    ) {
        let index = Index::new(&rules);
        for asked in &requests {
            prop_assert_eq!(by_index(&index, &rules, asked).0, by_scan(&rules, asked), "{:?}", asked);
        }
    }
}

// --- effort ----------------------------------------------------------------------------------------

/// A table of `count` matches of one kind with requests that hit its beginning, middle and end, and one that hits none.
fn table(
    count: usize,
    kind: impl Fn(usize) -> (Rule, Asked),
    miss: Asked,
) -> (Vec<Rule>, Vec<Asked>) {
    let (rules, hits): (Vec<_>, Vec<_>) = (0..count).map(kind).unzip();
    let requests = [&hits[0], &hits[count / 2], &hits[count - 1], &miss]
        .into_iter()
        .cloned()
        .collect();
    (rules, requests)
}

fn with_header(name: &'static str, value: String) -> HeaderMap {
    HeaderMap::from_iter([(
        HeaderName::from_static(name),
        HeaderValue::try_from(value).unwrap(),
    )])
}

#[test]
fn ten_thousand_routes_take_no_more_work_than_ten() {
    type Kind = (&'static str, fn(usize) -> (Rule, Asked));
    let kinds: [Kind; 8] = [
        ("hosts", |at| {
            (
                rule(HostRule::Exact(format!("h{at}.x").into()), PathRule::Any),
                Asked::of(&format!("h{at}.x"), "/a"),
            )
        }),
        ("wildcards", |at| {
            (
                rule(HostRule::Below(format!("h{at}.x").into()), PathRule::Any),
                Asked::of(&format!("a.h{at}.x"), "/a"),
            )
        }),
        ("exact paths", |at| {
            (
                rule(HostRule::Any, PathRule::Exact(format!("/p{at}/x").into())),
                Asked::of("x", &format!("/p{at}/x")),
            )
        }),
        ("prefixes", |at| {
            (
                rule(
                    HostRule::Any,
                    PathRule::Prefix(format!("/p{at:05}/").into()),
                ),
                Asked::of("x", &format!("/p{at:05}/y")),
            )
        }),
        ("expressions", |at| {
            let path = PathRule::Regex(full(&format!("/p{at:05}/[a-z]+")));
            (
                rule(HostRule::Any, path),
                Asked::of("x", &format!("/p{at:05}/y")),
            )
        }),
        ("gRPC methods", |at| {
            let mut one = rule(HostRule::Any, PathRule::Any);
            one.conditions.grpc = Some(GrpcRule {
                service: Some(format!("s{at}").into()),
                method: Some("M".into()),
            });
            let mut asked = Asked::of("x", &format!("/s{at}/M"));
            asked.headers = with_header("content-type", "application/grpc".into());
            (one, asked)
        }),
        ("header values", |at| {
            let mut one = rule(HostRule::Any, PathRule::Prefix("/v1".into()));
            let text = TextRule::Exact(format!("t{at}").into_bytes().into());
            one.conditions.headers = [(HeaderName::from_static("x-tenant"), text)].into();
            let mut asked = Asked::of("x", "/v1/models");
            asked.headers = with_header("x-tenant", format!("t{at}"));
            (one, asked)
        }),
        ("query values", |at| {
            let mut one = rule(HostRule::Exact("x".into()), PathRule::Any);
            one.conditions.query = [(
                "id".into(),
                TextRule::Exact(at.to_string().into_bytes().into()),
            )]
            .into();
            let mut asked = Asked::of("x", "/v1/models");
            asked.query = Some(format!("id={at}"));
            (one, asked)
        }),
    ];
    for (name, kind) in kinds {
        let effort_of = |count| {
            let (rules, requests) = table(count, kind, Asked::of("nobody.y", "/q"));
            let index = Index::new(&rules);
            requests
                .iter()
                .map(|asked| {
                    let (found, effort) = by_index(&index, &rules, asked);
                    assert_eq!(found, by_scan(&rules, asked), "{name}");
                    effort
                })
                .collect::<Vec<_>>()
        };
        for (few, many) in effort_of(10).iter().zip(effort_of(10_000)) {
            assert!(many.checks <= few.checks.max(1), "{name}: {few:?} {many:?}");
            // A tree has as many more nodes on the way as its branching makes digits: 5 for 10,000.
            assert!(many.places <= few.places + 6, "{name}: {few:?} {many:?}");
        }
    }
}

#[test]
fn a_route_behind_ten_thousand_others_is_not_looked_at_when_an_early_one_holds() {
    let mut rules = vec![rule(HostRule::Any, PathRule::Any)];
    rules.extend((0..10_000).map(|at| {
        let mut one = rule(HostRule::Any, PathRule::Prefix("/a".into()));
        one.conditions.headers = [(
            HeaderName::from_static("x-a"),
            TextRule::Regex(full(&at.to_string())),
        )]
        .into();
        one
    }));
    let index = Index::new(&rules);
    let (found, effort) = by_index(&index, &rules, &Asked::of("x", "/a"));
    assert_eq!(found, Some(0));
    assert_eq!(effort.checks, 1);
}

#[test]
fn a_catch_all_at_the_end_does_not_hide_the_routes_before_it() {
    let rules = vec![
        rule(
            HostRule::Exact("a.x".into()),
            PathRule::Prefix("/v1/".into()),
        ),
        rule(HostRule::Below("x".into()), PathRule::Exact("/v1/".into())),
        rule(HostRule::Any, PathRule::Any),
    ];
    let index = Index::new(&rules);
    for (host, path, found) in [
        ("a.x", "/v1/m", 0),
        ("a.x", "/v1/", 0),
        ("b.x", "/v1/", 1),
        ("b.x", "/v1/m", 2),
    ] {
        assert_eq!(
            by_index(&index, &rules, &Asked::of(host, path)).0,
            Some(found),
            "{host} {path}"
        );
    }
}
