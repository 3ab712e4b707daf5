//! Nanoseconds to find a route among 10, 1,000 and 10,000, by kind of match: `cargo bench -p tidegate-route`.

use std::hint::black_box;
use std::time::Instant;

use http::{HeaderMap, HeaderValue, Method};
use tidegate_route::{Model, RequestView, Router};

/// The best of so many measurements is printed, as noise only ever adds.
const ROUNDS: u32 = 5;

struct Kind {
    name: &'static str,
    rule: fn(usize) -> String,
    ask: fn(usize) -> Asked,
}

#[derive(Default)]
struct Asked {
    host: String,
    path: String,
    headers: HeaderMap,
}

const KINDS: [Kind; 5] = [
    Kind {
        name: "host",
        rule: |at| format!("hosts: [h{at}.example.com]"),
        ask: |at| Asked {
            host: format!("h{at}.example.com"),
            path: "/v1/models/m:predict".into(),
            ..Asked::default()
        },
    },
    Kind {
        name: "wildcard host",
        rule: |at| format!("hosts: ['*.h{at}.example.com']"),
        ask: |at| Asked {
            host: format!("a.h{at}.example.com"),
            path: "/v1".into(),
            ..Asked::default()
        },
    },
    Kind {
        name: "host + prefix",
        rule: |at| {
            format!(
                "hosts: [h{}.example.com], path: {{ prefix: /v1/models/m{at}/ }}",
                at / 10
            )
        },
        ask: |at| Asked {
            host: format!("h{}.example.com", at / 10),
            path: format!("/v1/models/m{at}/predict"),
            ..Asked::default()
        },
    },
    Kind {
        name: "expression",
        rule: |at| format!("path: {{ regex: '/v1/models/m{at}/[a-z]+' }}"),
        ask: |at| Asked {
            host: "x".into(),
            path: format!("/v1/models/m{at}/predict"),
            ..Asked::default()
        },
    },
    Kind {
        name: "prefix + header",
        rule: |at| format!("path: {{ prefix: /v1/ }}, headers: {{ x-tenant: t{at} }}"),
        ask: |at| {
            let mut headers = HeaderMap::new();
            if let Ok(value) = HeaderValue::try_from(format!("t{at}")) {
                headers.insert("x-tenant", value);
            }
            Asked {
                host: "x".into(),
                path: "/v1/models".into(),
                headers,
            }
        },
    },
];

fn router(kind: &Kind, count: usize) -> Router {
    let mut yaml = String::from("listeners: [{ name: main, address: 127.0.0.1:0 }]\nroutes:\n");
    for at in 0..count {
        yaml += &format!(
            "  - {{ name: r{at}, match: {{ {} }}, to: [ {{ upstream: a }} ] }}\n",
            (kind.rule)(at)
        );
    }
    yaml += "upstreams: [ { name: a, endpoints: [ { address: 127.0.0.1:1 } ] } ]\n";
    let loaded = tidegate_config::load_str("bench.yaml", &yaml)
        .unwrap_or_else(|problems| panic!("{problems}"));
    Router::compile(&loaded.config).unwrap_or_else(|problem| panic!("{problem}"))
}

fn nanoseconds(router: &Router, kind: &Kind, count: usize, finds: u32) -> f64 {
    // Spread over the table, so that the caches are as cold as a mixed load leaves them.
    let asked: Vec<Asked> = (0..256).map(|at| (kind.ask)(at * 7919 % count)).collect();
    let views: Vec<RequestView<'_>> = asked
        .iter()
        .map(|asked| RequestView {
            host: &asked.host,
            path: &asked.path,
            query: None,
            method: &Method::GET,
            headers: &asked.headers,
            source: None,
            caller_region: "",
            caller_zone: "",
            model: Model::Unread,
        })
        .collect();
    assert!(
        views.iter().all(|view| router.find(view).is_some()),
        "every request finds its route"
    );
    let round = || {
        let began = Instant::now();
        for at in 0..finds as usize {
            black_box(router.find(black_box(&views[at % views.len()])));
        }
        began.elapsed().as_nanos() as f64 / f64::from(finds)
    };
    (0..ROUNDS).map(|_| round()).fold(f64::INFINITY, f64::min)
}

fn main() {
    // `cargo test --benches` runs this too: then it only has to work.
    let finds = if std::env::args().any(|argument| argument == "--bench") {
        200_000
    } else {
        256
    };
    println!(
        "{:<18}{:>10}{:>10}{:>10}   ns per find",
        "match by", 10, 1_000, 10_000
    );
    for kind in &KINDS {
        print!("{:<18}", kind.name);
        for count in [10, 1_000, 10_000] {
            let router = router(kind, count);
            print!("{:>10.0}", nanoseconds(&router, kind, count, finds));
        }
        println!();
    }
}
