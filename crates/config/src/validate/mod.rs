//! What single values do not say: keys that exclude or need each other, values that contradict each other.
//!
//! `*_keys` look at which keys are there and run whatever the values; the others run on values that are whole.

// A check gets a reference to the field's own type.
#![allow(clippy::ptr_arg)]

mod listeners;
mod providers;
mod reachable;
mod routes;
mod services;
mod tracing;
mod traffic;
mod upstreams;

pub(crate) use listeners::{consul_http, listener_tls, listener_tls_tidy};
pub(crate) use providers::{fallback, provider, target};
pub(crate) use routes::{
    authority, grpc_method, grpc_service, header_edits, host, redirect_keys, rewrite_keys, route,
    route_keys, route_match, route_tidy, scheme, split,
};
pub(crate) use services::{
    ServiceName, command, environment, folder, model_versions, python, python_class, service,
    service_tidy, version_name, version_names,
};
pub(crate) use tracing::tracing;
pub(crate) use traffic::{attempts, backoff, fault_keys, rate_limit, retry};
pub(crate) use upstreams::{
    dns, dns_name, endpoints, endpoints_file, health_check, health_check_tidy, outlier_detection,
    probe_path, table_size, upstream, upstream_keys, upstream_tls,
};

use crate::decode::{Cx, Fields};
use crate::model::{Admin, Config};
use crate::node::Node;
use crate::problem::Problem;
use crate::source::Span;
use crate::values::{ListenAddress, StateUrl};
use std::collections::HashMap;

/// The admin API changes and shows everything: it is open to this machine only, or behind a token.
pub(crate) fn admin(admin: &mut Admin, fields: &Fields<'_>, cx: &mut Cx<'_>) {
    if !admin.address.is_local()
        && admin.token.is_none()
        && let Some(node) = fields.node("address")
    {
        let help = "add `token: \"${ADMIN_TOKEN}\"`, or listen on 127.0.0.1 or unix:PATH";
        cx.error(
            node.span,
            "the admin port is open to other machines without a token",
            help,
        );
    }
}

pub(crate) fn config(config: &mut Config, fields: &Fields<'_>, cx: &mut Cx<'_>) {
    if fields
        .node("state")
        .is_none_or(|state| state.get("url").is_none())
        && let (StateUrl::File(path), Some(source)) = (&config.state.url, cx.sources.first())
    {
        // The default stands where it would if it were written into the first file.
        let at = Span {
            source: 0,
            start: 0,
            end: 0,
        };
        config.state.url = StateUrl::File(match &cx.state_folder {
            Some(folder) => folder.clone(),
            None if source.base.as_os_str().is_empty() => path.clone(),
            None => cx.resolve(path, at),
        });
    }
    if config.state.folder.is_none() {
        config.state.folder = match &config.state.url {
            StateUrl::File(path) => Some(path.clone()),
            StateUrl::Redis(_) => {
                let start = Span {
                    source: 0,
                    start: 0,
                    end: 0,
                };
                Some(match &cx.state_folder {
                    Some(folder) => folder.clone(),
                    None => cx.resolve("./tidegate-data".as_ref(), start),
                })
            }
        };
    }
    addresses(config, fields, cx);
    services::names(config, fields, cx);
    if let Some(routes) = fields.node("routes") {
        reachable::check(&config.routes, routes.items(), cx);
    }
}

/// Two sockets on one address: the second would fail when it is bound.
fn addresses(config: &Config, fields: &Fields<'_>, cx: &mut Cx<'_>) {
    let admin = config.admin.as_ref().map(|admin| {
        let node = fields.node("admin").and_then(|node| node.get("address"));
        ("admin.address".to_owned(), &admin.address, node)
    });
    let nodes: &[Node] = fields.node("listeners").map_or(&[], Node::items);
    let listeners = config.listeners.iter().zip(nodes).enumerate();
    let listeners = listeners.map(|(i, (listener, node))| {
        (
            format!("listeners[{i}].address"),
            &listener.address,
            node.get("address"),
        )
    });
    let mut taken = Taken::default();
    for (path, address, node) in admin.into_iter().chain(listeners) {
        let Some((other_path, other)) = taken.claim(address, &path, node) else {
            continue;
        };
        let Some(node) = node else { continue };
        let message = format!("the address is taken by `{other_path}`");
        let problem = Problem::error(node.span, message, "give each its own port").at(path);
        cx.report(match other {
            Some(other) => problem.related("the other is here", other.span),
            None => problem,
        });
    }
}

/// Addresses in use, found without comparing all pairs.
#[derive(Default)]
struct Taken<'n> {
    exact: HashMap<ListenAddress, (String, Option<&'n Node>)>,
    /// By family and port: the first address, and the first that stands for all of the machine.
    by_port: HashMap<(bool, u16), (String, Option<&'n Node>)>,
    all_of_port: HashMap<(bool, u16), (String, Option<&'n Node>)>,
}

impl<'n> Taken<'n> {
    /// Who has the address already; else it is taken now.
    fn claim(
        &mut self,
        address: &ListenAddress,
        path: &str,
        node: Option<&'n Node>,
    ) -> Option<(String, Option<&'n Node>)> {
        let mut found = self.exact.get(address);
        if let ListenAddress::Ip(ip) = address {
            // The system chooses another one for each.
            if ip.port() == 0 {
                return None;
            }
            let port = (ip.is_ipv4(), ip.port());
            found = found.or_else(|| self.all_of_port.get(&port));
            if ip.ip().is_unspecified() {
                found = found.or_else(|| self.by_port.get(&port));
            }
        }
        if let Some(found) = found {
            return Some(found.clone());
        }
        let owner = (path.to_owned(), node);
        if let ListenAddress::Ip(ip) = address {
            let port = (ip.is_ipv4(), ip.port());
            if ip.ip().is_unspecified() {
                self.all_of_port.insert(port, owner.clone());
            }
            self.by_port.entry(port).or_insert_with(|| owner.clone());
        }
        self.exact.insert(address.clone(), owner);
        None
    }
}
