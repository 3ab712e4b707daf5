//! What must hold for any routes and any request that reach the router. Shared by the fuzz target and by the test that
//! runs the committed corpus.
//!
//! The input is text: a line for each match (`HOST PATH-KIND:PATH HEADER=VALUE METHOD`, `-` for a part that is not
//! asked for), an empty line, a line for each request (`HOST PATH HEADER=VALUE METHOD`).

use std::sync::LazyLock;

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use tidegate_config::model::{Config, GrpcMatch, Match, PathMatch, TextMatch};
use tidegate_config::values::OneOrMany;
use tidegate_route::{
    EscapedSlashes, Model, PathPolicy, PathRewrite, RequestView, Rewrite, Router, path,
};

/// A configuration with one route, whose matches are replaced.
static TEMPLATE: LazyLock<Config> = LazyLock::new(|| {
    let yaml = "
listeners: [ { name: main, address: 127.0.0.1:0 } ]
routes: [ { name: r, to: [ { upstream: a } ] } ]
upstreams: [ { name: a, endpoints: [ { address: 127.0.0.1:1 } ] } ]";
    tidegate_config::load_str("template", yaml)
        .expect("a good configuration")
        .config
});

/// Paths have one spelling, and the index answers as a linear scan does.
pub(crate) fn router(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let mut lines = text.lines();
    let mut config = TEMPLATE.clone();
    let template = config.routes.remove(0);
    for line in lines.by_ref().take_while(|line| !line.is_empty()).take(64) {
        let Some(one) = read_match(line) else {
            continue;
        };
        let mut route = template.clone();
        route.matches = OneOrMany(vec![one]);
        config.routes.push(route);
    }
    let Ok(router) = Router::compile(&config) else {
        return;
    };
    for line in lines.take(16) {
        request(&router, line);
    }
}

fn parts(line: &str) -> [Option<&str>; 4] {
    let mut words = line.split(' ').map(|word| (word != "-").then_some(word));
    std::array::from_fn(|_| words.next().flatten())
}

fn read_match(line: &str) -> Option<Match> {
    let [host, path, header, method] = parts(line);
    let mut one = Match::default();
    if let Some(host) = host {
        one.hosts = vec![host.parse().ok()?];
    }
    match path.map(|path| path.split_once(':').unwrap_or(("exact", path))) {
        Some(("prefix", path)) => one.path = Some(PathMatch::Prefix(path.to_owned())),
        Some(("regex", path)) => one.path = Some(PathMatch::Regex(path.parse().ok()?)),
        Some(("grpc", path)) => {
            let (service, method) = path.split_once('/').unwrap_or((path, ""));
            let named = |name: &str| (!name.is_empty()).then(|| name.to_owned());
            one.grpc = Some(GrpcMatch {
                service: named(service),
                method: named(method),
            });
        }
        Some((_, path)) => one.path = Some(PathMatch::Exact(path.to_owned())),
        None => {}
    }
    if let Some((name, value)) = header.and_then(|header| header.split_once('=')) {
        one.headers
            .insert(name.parse().ok()?, TextMatch::Exact(value.to_owned()));
    }
    if let Some(method) = method {
        one.methods = vec![method.parse().ok()?];
    }
    Some(one)
}

fn request(router: &Router, line: &str) {
    let [host, target, header, method] = parts(line);
    let mut headers = HeaderMap::new();
    if let Some((name, value)) = header.and_then(|header| header.split_once('='))
        && let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value))
    {
        headers.append(name, value);
    }
    headers.append("content-type", HeaderValue::from_static("application/grpc"));
    let method = method
        .and_then(|method| method.parse().ok())
        .unwrap_or(Method::GET);
    let (raw, query) = match target.unwrap_or("/").split_once('?') {
        Some((raw, query)) => (raw, Some(query)),
        None => (target.unwrap_or("/"), None),
    };
    for merge_slashes in [true, false] {
        for escaped_slashes in [EscapedSlashes::Refuse, EscapedSlashes::Keep] {
            let policy = PathPolicy {
                merge_slashes,
                escaped_slashes,
            };
            let Ok(path) = path::normalize(raw, policy) else {
                continue;
            };
            has_one_spelling(&path, policy);
            let view = RequestView {
                host: host.unwrap_or_default(),
                path: &path,
                query,
                method: &method,
                headers: &headers,
                source: None,
                caller_region: "",
                caller_zone: "",
                model: Model::Unread,
            };
            let found = router
                .find(&view)
                .map(|found| (found.route.index, found.matched));
            let linear = router
                .find_linearly(&view)
                .map(|found| (found.route.index, found.matched));
            assert_eq!(found, linear, "{view:?}");
            let (_, matched) = found.unwrap_or_default();
            for with in ["/", "/data/", "/x", ""] {
                let rewrite = Rewrite {
                    path: Some(PathRewrite::Prefix(with.into())),
                    host: None,
                };
                if let Ok(rewritten) = rewrite.path(&path, matched) {
                    has_no_dots(&rewritten);
                }
            }
        }
    }
}

fn has_one_spelling(path: &str, policy: PathPolicy) {
    assert_eq!(
        path::normalize(path, policy).as_deref(),
        Ok(path),
        "normal paths are normal"
    );
    has_no_dots(path);
    assert!(path.bytes().all(|byte| byte.is_ascii_graphic()), "{path}");
    assert!(!policy.merge_slashes || !path.contains("//"), "{path}");
    // Decoded once more, as an upstream does, no dot segment may appear either.
    let decoded = path.replace("%2F", "/").replace("%5C", "/");
    has_no_dots(&decoded);
}

fn has_no_dots(path: &str) {
    assert!(path == "*" || path.starts_with('/'), "{path}");
    assert!(
        !path
            .split('/')
            .any(|segment| segment == "." || segment == ".."),
        "{path}"
    );
}
