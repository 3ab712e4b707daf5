//! Upstreams: their members, and policies that contradict themselves.

use crate::decode::{Cx, Fields};
use crate::model::{
    Balance, DnsDiscovery, DnsRecord, Endpoint, HealthCheck, OutlierDetection, Prefer, Probe,
    Upstream, UpstreamTls,
};
use crate::node::Node;
use crate::problem::Problem;
use crate::values::{Address, Percent, format_duration, is_host_name};
use serde_json::{Map, Value as Json};
use std::collections::HashMap;

pub(crate) fn upstream_keys(fields: &Fields<'_>, cx: &mut Cx<'_>) {
    match (fields.span_of("endpoints"), fields.span_of("discover")) {
        (Some(endpoints), Some(discover)) => {
            let problem = Problem::error(
                discover,
                "`discover` and `endpoints` exclude each other",
                "keep one of them",
            );
            cx.report(problem.related("the other is here", endpoints));
        }
        (None, None) if !fields.misspelt => {
            cx.error(
                fields.span(),
                "an upstream without members",
                "add `endpoints: [ { address: HOST:PORT } ]` or `discover`",
            );
        }
        _ => {}
    }
}

/// At least one member that gets something, each named once.
pub(crate) fn endpoints(endpoints: &Vec<Endpoint>, node: &Node, cx: &mut Cx<'_>) {
    let mut seen: HashMap<&Address, &Node> = HashMap::new();
    for (index, (endpoint, node)) in endpoints.iter().zip(node.items()).enumerate() {
        let Some(address) = node.get("address") else {
            continue;
        };
        if let Some(first) = seen.get(&endpoint.address) {
            let message = format!("the endpoint {} is given twice", endpoint.address);
            let problem = Problem::error(
                address.span,
                message,
                "raise its `weight` to give it a larger share",
            );
            cx.below(format!("[{index}]"), |cx| {
                cx.report(problem.related("the first is here", first.span))
            });
        } else {
            seen.insert(&endpoint.address, address);
        }
    }
    if endpoints.is_empty() {
        cx.error(
            node.span,
            "an upstream without members",
            "add `- { address: HOST:PORT }`",
        );
    } else if endpoints.iter().all(|endpoint| endpoint.weight == 0) {
        let span = node
            .items()
            .iter()
            .find_map(|item| item.get("weight"))
            .unwrap_or(node)
            .span;
        cx.error(
            span,
            "all weights are 0: no endpoint gets a request",
            "give at least one a weight above 0",
        );
    }
}

/// A file without the list is a mistake, an empty list is an upstream without members for now.
pub(crate) fn endpoints_file(fields: &Fields<'_>, cx: &mut Cx<'_>) {
    if fields.span_of("endpoints").is_none() && !fields.misspelt {
        cx.error(
            fields.span(),
            "`endpoints` is missing",
            "the file holds `endpoints: [ { address: HOST:PORT } ]`",
        );
    }
}

pub(crate) fn upstream(upstream: &mut Upstream, fields: &Fields<'_>, cx: &mut Cx<'_>) {
    let hashes = matches!(
        upstream.balance,
        Balance::RingHash(_) | Balance::Maglev(_) | Balance::SourceIpHash
    );
    if upstream.bounded_load.is_some()
        && !hashes
        && let Some(span) = fields.span_of("bounded_load")
    {
        cx.error(
            span,
            "`bounded_load` without a hash balancer",
            "use it with ring_hash, maglev or source_ip_hash, or remove it",
        );
    }
    if matches!(upstream.balance, Balance::RoundRobin | Balance::Random)
        && let Some(item) = fields
            .node("endpoints")
            .and_then(|n| n.items().iter().find_map(|item| item.get("weight")))
        && upstream
            .endpoints
            .iter()
            .any(|e| e.weight != upstream.endpoints[0].weight)
    {
        let name = upstream.balance.name();
        cx.warn(
            item.span,
            format!("`{name}` does not look at weights"),
            format!("use weighted_{name}, or remove the weights"),
        );
    }
    if upstream.protocol == crate::model::Protocol::Http1
        && let Some(span) = fields.span_of("http2")
    {
        cx.warn(
            span,
            "`http2` has no effect: `protocol` is http1",
            "remove one of the two",
        );
    }
    if upstream.locality.prefer == Prefer::None
        && let Some(node) = fields.node("locality").and_then(|n| n.get("overprovision"))
    {
        cx.warn(
            node.span,
            "`overprovision` has no effect: `prefer` is none",
            "remove one of the two",
        );
    }
}

pub(crate) fn upstream_tls(tls: &mut UpstreamTls, fields: &Fields<'_>, cx: &mut Cx<'_>) {
    match (fields.span_of("certificate"), fields.span_of("key")) {
        (Some(span), None) => cx.error(
            span,
            "`certificate` without `key`",
            "add `key` with the certificate's private key",
        ),
        (None, Some(span)) => cx.error(
            span,
            "`key` without `certificate`",
            "add `certificate` with the chain of this key",
        ),
        _ => {}
    }
    if !tls.verify
        && let Some(span) = fields.span_of("verify")
    {
        cx.warn(
            span,
            "endpoints' certificates are not verified",
            "give their authority in `ca` and remove `verify: false`",
        );
    }
    if !tls.verify
        && let Some(span) = fields.span_of("ca")
    {
        cx.error(
            span,
            "`ca` without verification",
            "remove `ca` or `verify: false`",
        );
    }
}

pub(crate) fn dns_name(value: &String, node: &Node, cx: &mut Cx<'_>) {
    if !is_host_name(value) {
        cx.error(
            node.span,
            "not a DNS name",
            "write the name alone, e.g. ranker.local or _http._tcp.ranker.local",
        );
    }
}

pub(crate) fn dns(dns: &mut DnsDiscovery, fields: &Fields<'_>, cx: &mut Cx<'_>) {
    match (dns.record, dns.port) {
        (Some(DnsRecord::Srv), Some(_)) => {
            if let Some(span) = fields.span_of("port") {
                cx.error(
                    span,
                    "`port` with SRV records, which name the ports",
                    "remove `port` or `record: srv`",
                );
            }
        }
        (Some(DnsRecord::A), None) => {
            if let Some(span) = fields.span_of("record") {
                cx.error(span, "addresses without a port", "add `port`");
            }
        }
        _ => {}
    }
    if dns.min_interval > dns.max_interval
        && let Some(node) = fields
            .node("min_interval")
            .or_else(|| fields.node("max_interval"))
    {
        let (min, max) = (
            format_duration(dns.min_interval),
            format_duration(dns.max_interval),
        );
        cx.error(
            node.span,
            format!("`min_interval` ({min}) is longer than `max_interval` ({max})"),
            "swap them",
        );
    }
}

/// Maglev's permutation reaches every slot only if the size is a prime.
pub(crate) fn table_size(value: &u32, node: &Node, cx: &mut Cx<'_>) {
    const LARGEST: u32 = 5_000_011;
    if !(2..=LARGEST).contains(value) {
        cx.error(
            node.span,
            "a number out of range",
            format!("write a prime from 2 to {LARGEST}, e.g. 65537"),
        );
    } else if (2..)
        .take_while(|d| d * d <= *value)
        .any(|d| value.is_multiple_of(d))
    {
        let next = (*value..=LARGEST)
            .find(|n| {
                (2..)
                    .take_while(|d| d * d <= *n)
                    .all(|d| !n.is_multiple_of(d))
            })
            .unwrap_or(LARGEST);
        cx.error(
            node.span,
            "not a prime: some members would never be reached",
            format!("write {next}"),
        );
    }
}

pub(crate) fn outlier_detection(
    outlier: &mut OutlierDetection,
    fields: &Fields<'_>,
    cx: &mut Cx<'_>,
) {
    // Envoy counts gateway failures and then does nothing with them. Who gives a count wants it enforced.
    if fields.span_of("consecutive_gateway_failure").is_some()
        && fields
            .span_of("enforcing_consecutive_gateway_failure")
            .is_none()
    {
        outlier.enforcing_consecutive_gateway_failure = Percent::HUNDRED;
    }
    if outlier.base_ejection_time > outlier.max_ejection_time {
        match fields.node("max_ejection_time") {
            Some(node) => cx.error(
                node.span,
                "`max_ejection_time` is shorter than `base_ejection_time`",
                "raise it, or remove it",
            ),
            // Envoy: the larger of the two when only the base is given.
            None => outlier.max_ejection_time = outlier.base_ejection_time,
        }
    }
}

pub(crate) fn probe_path(value: &String, node: &Node, cx: &mut Cx<'_>) {
    if !value.starts_with('/') || value.chars().any(|c| c.is_control() || c == ' ') {
        cx.error(
            node.span,
            "not a path to probe",
            "write a path such as /healthz",
        );
    }
}

pub(crate) fn health_check(check: &mut HealthCheck, fields: &Fields<'_>, cx: &mut Cx<'_>) {
    if check.timeout > check.interval
        && let Some(span) = fields
            .span_of("timeout")
            .or_else(|| fields.span_of("interval"))
    {
        let (timeout, interval) = (
            format_duration(check.timeout),
            format_duration(check.interval),
        );
        cx.error(
            span,
            format!("a check may take longer ({timeout}) than the time between two ({interval})"),
            "lower `timeout` or raise `interval`",
        );
    }
    if !matches!(check.probe, Probe::Http(_))
        && let Some(span) = fields.span_of("expected_statuses")
    {
        cx.error(
            span,
            "`expected_statuses` without `http`",
            "remove it, or probe by `http`",
        );
    }
}

/// The default of `expected_statuses` says nothing where no HTTP is spoken.
pub(crate) fn health_check_tidy(check: &HealthCheck, map: &mut Map<String, Json>) {
    if !matches!(check.probe, Probe::Http(_)) {
        map.remove("expected_statuses");
    }
}
