//! Traces: what a collector is sent besides.

use crate::decode::{Cx, Fields};
use crate::model::Tracing;
use crate::node::Kind;

/// Headers that the export itself sets.
const OURS: [&str; 6] = [
    "content-type",
    "content-length",
    "transfer-encoding",
    "host",
    "connection",
    "te",
];

pub(crate) fn tracing(tracing: &mut Tracing, fields: &Fields<'_>, cx: &mut Cx<'_>) {
    if let Some(Kind::Map(entries)) = fields.node("headers").map(|node| &node.kind) {
        for (key, _) in entries.iter() {
            let name = key.text.to_ascii_lowercase();
            if OURS.contains(&&*name) {
                cx.error(
                    key.span,
                    format!("`{name}` is set by the export itself"),
                    "remove it",
                );
            }
        }
    }
    if let (false, Some(_), Some(span)) = (tracing.otlp.tls, &tracing.tls, fields.span_of("tls")) {
        cx.error(
            span,
            "`tls` with a collector that is asked without it",
            "write `otlp: https://…`, or remove `tls`",
        );
    }
    if let Some(span) = fields.span_of("otlp")
        && tracing.otlp.path.ends_with("/v1/traces")
    {
        cx.error(
            span,
            "the path of the signal is appended",
            "leave `/v1/traces` out",
        );
    }
    if let Some(span) = fields.span_of("resource")
        && tracing.resource.contains_key("service.name")
    {
        cx.error(
            span,
            "`service.name` stands in `service_name`",
            "remove it here",
        );
    }
}
