//! Listeners and their registration.

use crate::decode::{Cx, Fields};
use crate::model::ListenerTls;
use crate::node::Node;
use serde_json::{Map, Value as Json};

pub(crate) fn listener_tls(tls: &mut ListenerTls, fields: &Fields<'_>, cx: &mut Cx<'_>) {
    if tls.client_ca.is_none()
        && let Some(span) = fields.span_of("client_auth")
    {
        cx.error(
            span,
            "`client_auth` without `client_ca`",
            "add `client_ca` with the authorities of callers' certificates",
        );
    }
}

/// The default of `client_auth` says nothing without authorities.
pub(crate) fn listener_tls_tidy(tls: &ListenerTls, map: &mut Map<String, Json>) {
    if tls.client_ca.is_none() {
        map.remove("client_auth");
    }
}

/// The agent runs the check: a path is completed with the advertised address.
pub(crate) fn consul_http(value: &String, node: &Node, cx: &mut Cx<'_>) {
    if !value.starts_with('/') && !value.starts_with("http://") && !value.starts_with("https://") {
        cx.error(
            node.span,
            "neither a path nor a URL",
            "write a path such as /healthz or http://host:port/path",
        );
    }
}
