//! Routes: actions that exclude each other, and names inside them.

use crate::decode::{Cx, Fields};
use crate::model::{HeaderEdits, Match, PathMatch, Route, Target};
use crate::node::{Kind, Node};
use crate::problem::Problem;
use crate::values::is_host_name;
use serde_json::{Map, Value as Json};
use std::net::IpAddr;

/// Keys that mean something only when the request goes to an upstream.
const FORWARD_ONLY: [&str; 14] = [
    "split",
    "fallback",
    "mirror",
    "rewrite",
    "request_headers",
    "timeout",
    "idle_timeout",
    "retry",
    "hedge",
    "concurrency",
    "body_bytes",
    "heartbeat",
    "virtual_keys",
    "continue",
];

/// Reports each pair of keys that exclude each other.
fn exclusive(fields: &Fields<'_>, keys: &[&str], cx: &mut Cx<'_>) {
    let mut present: Vec<_> = keys
        .iter()
        .filter_map(|key| fields.span_of(key).map(|span| (span, key)))
        .collect();
    present.sort_unstable();
    let Some((&(first_span, first), others)) = present.split_first() else {
        return;
    };
    for &(span, key) in others {
        let message = format!("`{key}` and `{first}` exclude each other");
        cx.report(
            Problem::error(span, message, "keep one of them")
                .related("the other is here", first_span),
        );
    }
}

pub(crate) fn route_keys(fields: &Fields<'_>, cx: &mut Cx<'_>) {
    const ACTIONS: [&str; 3] = ["to", "redirect", "respond"];
    exclusive(fields, &ACTIONS, cx);
    if ACTIONS.iter().all(|key| fields.span_of(key).is_none()) {
        if fields.misspelt {
            return;
        }
        cx.error(
            fields.span(),
            "a route without an action",
            "add `to: [ { upstream: NAME } ]` (or a provider, a service), `redirect` or `respond`",
        );
        return;
    }
    if fields.span_of("to").is_none() {
        for key in FORWARD_ONLY {
            if let Some(span) = fields.span_of(key) {
                cx.error(
                    span,
                    format!("`{key}` on a route that sends nothing to an upstream"),
                    "remove it, or add `to`",
                );
            }
        }
    }
}

/// Defaults of keys that say nothing on such a route.
pub(crate) fn route_tidy(route: &Route, map: &mut Map<String, Json>) {
    if route.to.is_empty() {
        FORWARD_ONLY.iter().for_each(|key| {
            map.remove(*key);
        });
    }
}

/// At least one destination, and one that gets something.
pub(crate) fn split(targets: &Vec<Target>, node: &Node, cx: &mut Cx<'_>) {
    if targets.is_empty() {
        cx.error(
            node.span,
            "a split without destinations",
            "add `- { upstream: NAME }`",
        );
    } else if targets.iter().all(|target| target.weight == 0) {
        let span = node
            .items()
            .iter()
            .find_map(|item| item.get("weight"))
            .unwrap_or(node)
            .span;
        cx.error(
            span,
            "all weights are 0: no destination gets a request",
            "give at least one a weight above 0",
        );
    }
}

pub(crate) fn route(route: &mut Route, fields: &Fields<'_>, cx: &mut Cx<'_>) {
    super::providers::route_to_providers(route, fields, cx);
    let prefix_needs = |section: &str, cx: &mut Cx<'_>| {
        let by_prefix = |m: &Match| matches!(m.path, Some(PathMatch::Prefix(_)));
        if (route.matches.is_empty() || !route.matches.iter().all(by_prefix))
            && let Some(node) = fields.node(section).and_then(|node| node.get("prefix"))
        {
            let help = "match `path: { prefix: … }`, or use `path` or `regex` here";
            cx.error(
                node.span,
                "`prefix` replaces the matched prefix, and a match of this route has none",
                help,
            );
        }
    };
    if route.rewrite.as_ref().is_some_and(|r| r.prefix.is_some()) {
        prefix_needs("rewrite", cx);
    }
    if route.redirect.as_ref().is_some_and(|r| r.prefix.is_some()) {
        prefix_needs("redirect", cx);
    }
    if let (Some(total), Some(one)) = (route.timeout, route.retry.per_try_timeout)
        && one >= total
        && let Some(node) = fields
            .node("retry")
            .and_then(|node| node.get("per_try_timeout"))
    {
        cx.warn(
            node.span,
            "`per_try_timeout` never runs out before `timeout`",
            "make it shorter than the route's `timeout`",
        );
    }
    if let Some(hedge) = &route.hedge
        && hedge.max > route.retry.attempts
        && let Some(span) = fields.span_of("hedge")
    {
        let help = format!("set `retry.attempts` to at least {}", hedge.max);
        cx.error(
            span,
            "more attempts in flight than `retry.attempts` allows in total",
            help,
        );
    }
}

pub(crate) fn redirect_keys(fields: &Fields<'_>, cx: &mut Cx<'_>) {
    exclusive(fields, &["path", "prefix"], cx);
    if ["scheme", "host", "port", "path", "prefix"]
        .iter()
        .all(|key| fields.span_of(key).is_none())
    {
        cx.error(
            fields.span(),
            "a redirect to the same place",
            "set at least one of scheme, host, port, path, prefix",
        );
    }
}

pub(crate) fn rewrite_keys(fields: &Fields<'_>, cx: &mut Cx<'_>) {
    exclusive(fields, &["path", "prefix", "regex"], cx);
}

/// Headers that frame the message: the proxy writes them, an edit would break what follows.
const FRAMING: [&str; 8] = [
    "connection",
    "content-length",
    "transfer-encoding",
    "te",
    "trailer",
    "upgrade",
    "keep-alive",
    "proxy-connection",
];

pub(crate) fn header_edits(edits: &mut HeaderEdits, fields: &Fields<'_>, cx: &mut Cx<'_>) {
    for (section, names) in [("set", edits.set.keys()), ("add", edits.add.keys())] {
        for name in names {
            let Some(Kind::Map(entries)) = fields.node(section).map(|node| &node.kind) else {
                continue;
            };
            let key = entries
                .iter()
                .find(|(key, _)| key.text.eq_ignore_ascii_case(name.as_str()))
                .map(|(key, _)| key.span);
            let Some(span) = key else { continue };
            if FRAMING.contains(&name.as_str()) {
                cx.error(
                    span,
                    format!("`{name}` belongs to the connection and cannot be set"),
                    "remove it",
                );
            } else if name.as_str() == "host" {
                cx.error(
                    span,
                    "`host` is not an ordinary header",
                    "use `rewrite: { host: … }`",
                );
            }
        }
    }
}

pub(crate) fn route_match(value: &mut Match, fields: &Fields<'_>, cx: &mut Cx<'_>) {
    if let (Some(_), Some(_), Some(span)) = (&value.path, &value.grpc, fields.span_of("grpc")) {
        cx.error(
            span,
            "`grpc` and `path` exclude each other",
            "a gRPC request's path is its service and method: keep `grpc`",
        );
    }
    if value.grpc.is_some()
        && !value.methods.is_empty()
        && !value.methods.iter().any(|m| m.as_str() == "POST")
        && let Some(span) = fields.span_of("methods")
    {
        cx.error(
            span,
            "gRPC requests are always POST: this match never holds",
            "remove `methods`",
        );
    }
}

pub(crate) fn grpc_service(value: &Option<String>, node: &Node, cx: &mut Cx<'_>) {
    let good = |text: &str| text.split('.').all(is_identifier);
    if value.as_deref().is_some_and(|value| !good(value)) {
        cx.error(
            node.span,
            "not a gRPC service",
            "write the full name with its package, e.g. tensorflow.serving.PredictionService",
        );
    }
}

pub(crate) fn grpc_method(value: &Option<String>, node: &Node, cx: &mut Cx<'_>) {
    if value.as_deref().is_some_and(|value| !is_identifier(value)) {
        cx.error(
            node.span,
            "not a gRPC method",
            "write the method alone, e.g. Predict",
        );
    }
}

fn is_identifier(text: &str) -> bool {
    !text.is_empty()
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
        && !text.starts_with(|c: char| c.is_ascii_digit())
}

pub(crate) fn scheme(value: &Option<String>, node: &Node, cx: &mut Cx<'_>) {
    if !matches!(value.as_deref(), None | Some("http" | "https")) {
        cx.error(node.span, "not a scheme", "write http or https");
    }
}

/// A host without a port.
pub(crate) fn host(value: &Option<String>, node: &Node, cx: &mut Cx<'_>) {
    if value.as_deref().is_some_and(|value| !is_host(value)) {
        cx.error(
            node.span,
            "not a host name or IP",
            "write a name such as ranker.local, without scheme and port",
        );
    }
}

/// A host, perhaps with a port: what `Host` holds.
pub(crate) fn authority(value: &Option<String>, node: &Node, cx: &mut Cx<'_>) {
    let good = |value: &str| {
        is_host(value)
            || value
                .rsplit_once(':')
                .is_some_and(|(host, port)| is_host(host) && port.parse::<u16>().is_ok())
    };
    if value.as_deref().is_some_and(|value| !good(value)) {
        cx.error(
            node.span,
            "not a host",
            "write a name such as ranker.local, with a port if needed",
        );
    }
}

fn is_host(text: &str) -> bool {
    let bracketed = text.strip_prefix('[').and_then(|t| t.strip_suffix(']'));
    is_host_name(text)
        || bracketed
            .unwrap_or(text)
            .parse::<IpAddr>()
            .is_ok_and(|ip| ip.is_ipv4() || bracketed.is_some())
}
