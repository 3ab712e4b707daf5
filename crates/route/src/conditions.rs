//! The conditions of one match, checked against one request.

use http::Method;
use http::header::HeaderName;
use regex::bytes::Regex;
use tidegate_config::values::Cidr;

use crate::request::{Model, RequestView};

/// A condition on a text; case-sensitive.
#[derive(Clone, Debug)]
pub(crate) enum TextRule {
    Exact(Box<[u8]>),
    Prefix(Box<[u8]>),
    /// Anchored at both ends.
    Regex(Regex),
    /// There, whatever its value.
    Present,
    /// Not there.
    Absent,
}

impl TextRule {
    fn holds(&self, value: Option<&[u8]>) -> bool {
        match (self, value) {
            (TextRule::Absent, value) => value.is_none(),
            (_, None) => false,
            (TextRule::Present, Some(_)) => true,
            (TextRule::Exact(wanted), Some(value)) => **wanted == *value,
            (TextRule::Prefix(wanted), Some(value)) => value.starts_with(wanted),
            (TextRule::Regex(wanted), Some(value)) => wanted.is_match(value),
        }
    }
}

/// A condition on the path; case-sensitive.
#[derive(Clone, Debug, Default)]
pub(crate) enum PathRule {
    #[default]
    Any,
    Exact(Box<str>),
    Prefix(Box<str>),
    /// Anchored at both ends.
    Regex(Regex),
}

/// A gRPC call by what it names: `/service/method`.
#[derive(Clone, Debug)]
pub(crate) struct GrpcRule {
    pub(crate) service: Option<Box<str>>,
    pub(crate) method: Option<Box<str>>,
}

impl GrpcRule {
    fn holds(&self, request: &RequestView<'_>) -> bool {
        let Some((service, method)) = request
            .path
            .strip_prefix('/')
            .and_then(|path| path.split_once('/'))
        else {
            return false;
        };
        self.service
            .as_deref()
            .is_none_or(|wanted| wanted == service)
            && self.method.as_deref().is_none_or(|wanted| wanted == method)
            && !method.contains('/')
            && request.is_grpc()
    }
}

/// A host as a match names it, in lower case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum HostRule {
    Any,
    Exact(Box<str>),
    /// `*.x`, as `x`: one or more labels in front of it.
    Below(Box<str>),
}

impl HostRule {
    /// Whether it holds for a host in lower case without a final dot.
    fn holds(&self, host: &[u8]) -> bool {
        match self {
            HostRule::Any => true,
            HostRule::Exact(wanted) => wanted.as_bytes() == host,
            HostRule::Below(suffix) => host
                .strip_suffix(suffix.as_bytes())
                .and_then(|front| front.strip_suffix(b"."))
                .is_some_and(|front| !front.is_empty()),
        }
    }
}

#[derive(Clone, Debug, Default)]
pub(crate) struct SourceRule {
    /// Any of them; empty: every address.
    pub(crate) networks: Box<[Cidr]>,
    pub(crate) region: Option<Box<str>>,
    pub(crate) zone: Option<Box<str>>,
}

impl SourceRule {
    fn holds(&self, request: &RequestView<'_>) -> bool {
        (self.networks.is_empty()
            || request.source.is_some_and(|address| {
                self.networks
                    .iter()
                    .any(|network| network.contains(address))
            }))
            && self
                .region
                .as_deref()
                .is_none_or(|wanted| wanted == request.caller_region)
            && self
                .zone
                .as_deref()
                .is_none_or(|wanted| wanted == request.caller_zone)
    }
}

/// What a match asks for besides host and path: all of it must hold.
#[derive(Clone, Debug, Default)]
pub(crate) struct Conditions {
    pub(crate) grpc: Option<GrpcRule>,
    /// Any of them; empty: every method.
    pub(crate) methods: Box<[Method]>,
    pub(crate) headers: Box<[(HeaderName, TextRule)]>,
    pub(crate) query: Box<[(Box<str>, TextRule)]>,
    pub(crate) source: Option<SourceRule>,
    /// Any of them; empty: every model, and requests that name none.
    pub(crate) models: Box<[ModelRule]>,
}

/// What a model's name is compared with.
#[derive(Clone, Debug)]
pub(crate) enum ModelRule {
    Any,
    Exact(Box<str>),
    Prefix(Box<str>),
    /// Finds something anywhere in the name.
    Regex(Regex),
}

impl ModelRule {
    fn holds(&self, name: &str) -> bool {
        match self {
            ModelRule::Any => true,
            ModelRule::Exact(wanted) => **wanted == *name,
            ModelRule::Prefix(wanted) => name.starts_with(&**wanted),
            ModelRule::Regex(wanted) => wanted.is_match(name.as_bytes()),
        }
    }
}

impl Conditions {
    pub(crate) fn is_empty(&self) -> bool {
        self.grpc.is_none()
            && self.methods.is_empty()
            && self.headers.is_empty()
            && self.query.is_empty()
            && self.source.is_none()
            && self.models.is_empty()
    }

    /// Cheapest first.
    fn hold(&self, request: &RequestView<'_>) -> bool {
        (self.methods.is_empty() || self.methods.contains(request.method))
            && self.grpc.as_ref().is_none_or(|rule| rule.holds(request))
            && self.headers.iter().all(|(name, rule)| {
                rule.holds(request.header(name).as_ref().map(|value| value.as_bytes()))
            })
            && self.source.as_ref().is_none_or(|rule| rule.holds(request))
            && self.query.iter().all(|(name, rule)| {
                rule.holds(
                    request
                        .query_parameter(name.as_bytes())
                        .as_ref()
                        .map(|value| value.as_bytes()),
                )
            })
            && match request.model {
                _ if self.models.is_empty() => true,
                Model::Unread => true,
                Model::Absent => false,
                Model::Named(name) => self.models.iter().any(|rule| rule.holds(name)),
            }
    }
}

/// One match of one route.
#[derive(Clone, Debug)]
pub(crate) struct Rule {
    /// Position of its route.
    pub(crate) route: u32,
    /// Any of them; never empty.
    pub(crate) hosts: Box<[HostRule]>,
    pub(crate) path: PathRule,
    pub(crate) conditions: Conditions,
}

impl Rule {
    /// Whether host and path literal alone decide, so that nothing behind it in the same place can ever match.
    pub(crate) fn is_unconditional(&self) -> bool {
        self.conditions.is_empty() && !matches!(self.path, PathRule::Regex(_))
    }

    /// What the index has not decided by finding the rule: host, exact path and prefix hold already.
    pub(crate) fn rest_holds(&self, request: &RequestView<'_>) -> bool {
        let path = match &self.path {
            PathRule::Regex(wanted) => wanted.is_match(request.path.as_bytes()),
            PathRule::Any | PathRule::Exact(_) | PathRule::Prefix(_) => true,
        };
        path && self.conditions.hold(request)
    }

    /// Everything, without any help of an index. `host` is in lower case without a final dot.
    pub(crate) fn holds(&self, host: &[u8], request: &RequestView<'_>) -> bool {
        let path = match &self.path {
            PathRule::Exact(wanted) => **wanted == *request.path,
            PathRule::Prefix(wanted) => request.path.starts_with(&**wanted),
            PathRule::Any | PathRule::Regex(_) => true,
        };
        path && self.hosts.iter().any(|rule| rule.holds(host)) && self.rest_holds(request)
    }

    /// Leading bytes of the path that its exact path or prefix stands for.
    pub(crate) fn matched(&self, path: &str) -> usize {
        match &self.path {
            PathRule::Exact(_) => path.len(),
            PathRule::Prefix(prefix) => prefix.len(),
            PathRule::Any | PathRule::Regex(_) => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wildcard_host_stands_for_one_or_more_labels_but_not_for_none() {
        let rule = HostRule::Below("x.local".into());
        assert!(rule.holds(b"a.x.local"));
        assert!(rule.holds(b"a.b.x.local"));
        assert!(!rule.holds(b"x.local"));
        assert!(!rule.holds(b".x.local"));
        assert!(!rule.holds(b"ax.local"));
    }
}
