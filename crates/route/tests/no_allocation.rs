//! A request's way through the router allocates nothing.

use http::{HeaderMap, HeaderValue, Method};
use tidegate_route::{Model, PathPolicy, RequestView, Router, path};

fn router(count: usize) -> Router {
    let mut yaml = String::from("listeners: [{ name: main, address: 127.0.0.1:0 }]\nroutes:\n");
    for at in 0..count {
        yaml += &match at % 5 {
            0 => format!(
                "  - {{ name: r{at}, match: {{ hosts: [h{at}.local], path: {{ prefix: /p }} }}, to: [ {{ upstream: a }} ] }}\n"
            ),
            1 => format!(
                "  - {{ name: r{at}, match: {{ hosts: ['*.w{at}.local'] }}, to: [ {{ upstream: a }} ] }}\n"
            ),
            2 => format!(
                "  - {{ name: r{at}, match: {{ path: {{ exact: /e{at} }}, methods: [GET] }}, to: [ {{ upstream: a }} ] }}\n"
            ),
            3 => format!(
                "  - {{ name: r{at}, match: {{ headers: {{ x-tenant: t{at} }} }}, to: [ {{ upstream: a, weight: 9 }}, {{ upstream: b }} ], split: {{ hash: {{ header: x-tenant }} }}, rate_limit: {{ requests: 5, per: second, key: ['header:x-tenant', path] }}, rewrite: {{ path: /x }} }}\n"
            ),
            _ => format!(
                "  - {{ name: r{at}, match: {{ path: {{ regex: '/r{at}/[a-z]+' }}, query: {{ q: '1' }} }}, to: [ {{ upstream: a }} ] }}\n"
            ),
        };
    }
    yaml += "upstreams:\n  - { name: a, endpoints: [ { address: 127.0.0.1:1 } ] }\n  - { name: b, endpoints: [ { address: 127.0.0.1:2 } ] }\n";
    Router::compile(
        &tidegate_config::load_str("test.yaml", &yaml)
            .unwrap()
            .config,
    )
    .unwrap()
}

#[test]
fn finding_choosing_limiting_and_rewriting_allocate_nothing() {
    let router = router(500);
    let mut headers = HeaderMap::new();
    headers.insert("x-tenant", HeaderValue::from_static("t3"));
    headers.append("x-two", HeaderValue::from_static("1"));
    let asked = [
        ("H0.Local", "/p/x", None, Some("r0")),
        ("deep.down.w1.local", "/", None, Some("r1")),
        ("nobody", "/e2", None, Some("r2")),
        ("nobody", "/r4/abc", Some("a=%20&q=%31"), Some("r3")),
        ("nobody", "/nothing", None, Some("r3")),
    ];
    let mut found = 0;
    let mut go = || {
        for (host, raw, query, wanted) in asked {
            let path = path::normalize(raw, PathPolicy::default()).unwrap();
            let request = RequestView {
                host,
                path: &path,
                query,
                method: &Method::GET,
                headers: &headers,
                source: None,
                caller_region: "",
                caller_zone: "",
                model: Model::Unread,
            };
            let hit = router.find(&request);
            assert_eq!(hit.map(|hit| &*hit.route.name), wanted);
            let hit = hit.unwrap();
            let split = &hit.route.forward().unwrap().split;
            let hash = split.sticky().and_then(|key| key.extract(&request));
            let target = split.choose(hash, 7).unwrap();
            split.targets()[target].resolve(&headers);
            hit.route.rewrite.path(&path, hit.matched).unwrap();
            found += usize::from(
                hit.route
                    .rate_limit
                    .as_ref()
                    .and_then(|limit| limit.key.extract(&request))
                    .is_some(),
            );
        }
    };
    go(); // a regular expression fills its thread's cache on first use
    let counted = allocation_counter::measure(&mut go);
    assert_eq!(counted.count_total, 0, "{counted:?}");
    assert_eq!(found, 4);
    // The counter counts: a path that is not normal is built anew.
    let counted = allocation_counter::measure(|| {
        assert_eq!(
            path::normalize("/a//b", PathPolicy::default()).unwrap(),
            "/a/b"
        );
    });
    assert!(counted.count_total > 0);
}
