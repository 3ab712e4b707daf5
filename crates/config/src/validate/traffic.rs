//! Retries, faults and limits.

use crate::decode::{Cx, Fields};
use crate::model::{Backoff, LimitAlgorithm, RateLimit, Retry};
use crate::node::Node;
use crate::values::format_duration;

/// Istio and Envoy count the attempts after the first, so that 0 means something there and every number is one less.
pub(crate) fn attempts(value: &u32, node: &Node, cx: &mut Cx<'_>) {
    match value {
        0 => cx.error(
            node.span,
            "`attempts` is the total, the first attempt included: 0 would send nothing",
            "write 1 for no retry (Istio's and Envoy's 0), or their number + 1",
        ),
        1..=10 => {}
        _ => cx.error(
            node.span,
            "a number out of range",
            "write 1 to 10, the first attempt included",
        ),
    }
}

pub(crate) fn retry(retry: &mut Retry, fields: &Fields<'_>, cx: &mut Cx<'_>) {
    if retry.attempts == 1
        && let Some(span) = fields.span_of("on")
    {
        cx.warn(
            span,
            "`on` has no effect: `attempts: 1` means no retry",
            "`attempts` counts the first one too: write 2 or more",
        );
    }
    if retry.attempts > 1
        && retry.on.is_empty()
        && let Some(span) = fields.span_of("on")
    {
        cx.warn(
            span,
            "no outcome is retried but those that are always safe",
            "write `attempts: 1` to retry nothing at all",
        );
    }
}

pub(crate) fn backoff(backoff: &mut Backoff, fields: &Fields<'_>, cx: &mut Cx<'_>) {
    if backoff.initial > backoff.max
        && let Some(node) = fields.node("initial").or_else(|| fields.node("max"))
    {
        let (initial, max) = (
            format_duration(backoff.initial),
            format_duration(backoff.max),
        );
        cx.error(
            node.span,
            format!("the first pause ({initial}) is longer than the longest ({max})"),
            "raise `max` or lower `initial`",
        );
    }
}

pub(crate) fn fault_keys(fields: &Fields<'_>, cx: &mut Cx<'_>) {
    if fields.span_of("delay").is_none() && fields.span_of("abort").is_none() {
        cx.error(
            fields.span(),
            "a fault that does nothing",
            "add `delay` or `abort`",
        );
    }
}

pub(crate) fn rate_limit(limit: &mut RateLimit, fields: &Fields<'_>, cx: &mut Cx<'_>) {
    if limit.algorithm == LimitAlgorithm::FixedWindow
        && let Some(span) = fields.span_of("burst")
    {
        cx.error(
            span,
            "`burst` has no meaning in a fixed window",
            "remove it, or use `algorithm: gcra`",
        );
    }
}
