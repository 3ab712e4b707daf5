//! A route in words, for status tables and the dashboard.

use tidegate_config::model::{self, PathMatch, TextMatch};
use tidegate_config::values::format_duration;

use crate::route::{Action, Description, Forward, Route};

/// The words for a route; `config` is what `route` was compiled from.
pub(crate) fn describe(config: &model::Route, route: &Route) -> Description {
    let matches: Vec<String> = config.matches.iter().map(describe_match).collect();
    let everything = matches.is_empty() || matches.iter().any(String::is_empty);
    Description {
        matches: if everything {
            "everything".to_owned()
        } else {
            matches.join(" or ")
        },
        to: describe_action(route),
    }
}

fn describe_match(one: &model::Match) -> String {
    let mut words = Vec::new();
    if !one.hosts.is_empty() {
        let noun = if one.hosts.len() == 1 {
            "host"
        } else {
            "hosts"
        };
        words.push(format!("{noun} {}", listed(one.hosts.iter())));
    }
    match &one.path {
        Some(PathMatch::Exact(path)) => words.push(format!("path {path}")),
        Some(PathMatch::Prefix(path)) => words.push(format!("path {path}*")),
        Some(PathMatch::Regex(pattern)) => words.push(format!("path ~ {pattern}")),
        None => {}
    }
    if let Some(grpc) = &one.grpc {
        let or_any = |part: &Option<String>| part.clone().unwrap_or_else(|| "*".to_owned());
        words.push(format!(
            "gRPC {}/{}",
            or_any(&grpc.service),
            or_any(&grpc.method)
        ));
    }
    if !one.methods.is_empty() {
        words.push(listed(one.methods.iter()));
    }
    words.extend(one.headers.iter().map(|(name, text)| {
        // A credential that a route asks for is no business of a dashboard.
        if name.is_sensitive() {
            format!("header {name}")
        } else {
            format!("header {name}{}", describe_text(text))
        }
    }));
    words.extend(
        one.query
            .iter()
            .map(|(name, text)| format!("query {name}{}", describe_text(text))),
    );
    if let Some(source) = &one.source {
        if !source.cidr.is_empty() {
            words.push(format!("from {}", listed(source.cidr.iter())));
        }
        words.extend(
            source
                .region
                .iter()
                .map(|region| format!("region {region}")),
        );
        words.extend(source.zone.iter().map(|zone| format!("zone {zone}")));
    }
    if !one.model.is_empty() {
        words.push(format!("model {}", listed(one.model.iter())));
    }
    words.join(", ")
}

fn listed(items: impl Iterator<Item = impl ToString>) -> String {
    items
        .map(|item| item.to_string())
        .collect::<Vec<_>>()
        .join(" | ")
}

fn describe_text(text: &TextMatch) -> String {
    match text {
        TextMatch::Exact(value) => format!("={value}"),
        TextMatch::Prefix(value) => format!("={value}*"),
        TextMatch::Regex(pattern) => format!("~{pattern}"),
        TextMatch::Present(true) => String::new(),
        TextMatch::Present(false) => " absent".to_owned(),
    }
}

fn describe_action(route: &Route) -> String {
    match &route.action {
        Action::Forward(forward) => describe_forward(forward),
        Action::Redirect(redirect) => {
            let scheme = redirect
                .scheme
                .as_deref()
                .map(|scheme| format!(" to {scheme}"))
                .unwrap_or_default();
            let host = redirect
                .host
                .as_deref()
                .map(|host| format!(" on {host}"))
                .unwrap_or_default();
            let path = if redirect.path.is_some() {
                " at another path"
            } else {
                ""
            };
            format!("redirect {}{scheme}{host}{path}", redirect.status.as_u16())
        }
        Action::Respond(respond) => format!("respond {}", respond.status.as_u16()),
    }
    .to_owned()
        + &describe_fault(route)
}

fn describe_forward(forward: &Forward) -> String {
    let split = &forward.split;
    let mut words: Vec<String> = split
        .targets()
        .iter()
        .map(|target| {
            if split.targets().len() == 1 {
                return target.describe();
            }
            let share = 100.0 * f64::from(target.weight) / (split.total_weight().max(1) as f64);
            // One decimal, and none where it would be zero: 90%, 33.3%.
            format!("{} {}%", target.describe(), (share * 10.0).round() / 10.0)
        })
        .collect();
    if let Some(key) = split.sticky().filter(|_| split.targets().len() > 1) {
        words.push(format!("sticky by {}", key.describe()));
    }
    if !forward.fallback.is_empty() {
        let chain: Vec<String> = forward
            .fallback
            .iter()
            .map(|target| target.describe())
            .collect();
        words.push(format!("then {}", chain.join(", ")));
    }
    if let Some(mirror) = &forward.mirror {
        words.push(format!(
            "mirror {}% to {}",
            mirror.share.percent(),
            mirror.target.describe()
        ));
    }
    words.join(", ")
}

fn describe_fault(route: &Route) -> String {
    let Some(fault) = &route.fault else {
        return String::new();
    };
    let mut words = String::new();
    if let Some((delay, share)) = fault.delay {
        words += &format!(
            ", delay {} for {}%",
            format_duration(delay),
            share.percent()
        );
    }
    if let Some((_, share)) = fault.abort {
        words += &format!(", abort {}%", share.percent());
    }
    words
}
